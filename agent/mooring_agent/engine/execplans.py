# SPDX-License-Identifier: Apache-2.0
"""What is to be run in a container, and the plan for whoever starts it there."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..runtime.compile import USER_ANNOTATION, compile_process
from ..runtime.compile_process import compile_arguments
from ..runtime.plan import JoinPlan
from .confinement import adjust_process, all_capabilities, capabilities_of, is_plain, seccomp_profile
from .container import Container
from .joining import ALL_NAMESPACES, namespaces_of
from .launching import Launching
from .oci import environment, process_config
from .resources import ContainerSpec

_REMEMBERED = 256


@dataclass(frozen=True)
class ExecSpec:
    """What to run, and which of its streams somebody wants. `hangs_up` says that it gets HUP when its
    client has gone, `probe` that it is one of the agent's own questions for a container's health.
    """

    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None
    tty: bool = False
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    privileged: bool = False
    rows: int | None = None
    cols: int | None = None
    hangs_up: bool = False
    probe: bool = False


@dataclass(eq=False)
class KnownPlan:
    """A plan, what it was made of but for the command, and how many execs in a row have had it."""

    container_spec: ContainerSpec
    spec: ExecSpec
    plan: JoinPlan
    uses: int = 0

    def with_command(self, argv: tuple[str, ...]) -> JoinPlan:
        """The plan for this command, as `arguments` gives it."""
        return replace(self.plan, process=replace(self.plan.process, args=argv))


def arguments(argv: tuple[str, ...]) -> tuple[str, ...]:
    """A command as a plan has it. Raises InvalidSpec."""
    return compile_arguments({"args": argv})


class ExecPlans:
    """Makes plans. Health checks and notebooks run one command after the other in a container, so that its
    last plan is kept.
    """

    def __init__(self, launching: Launching) -> None:
        self._launching = launching
        self._last: dict[str, KnownPlan] = {}

    def plan(self, container: Container, spec: ExecSpec) -> KnownPlan:
        """The plan for a process in a running container; the same object as for the last one that was alike.
        Raises InvalidSpec.
        """
        plain = replace(spec, argv=("",))
        known = self._last.get(container.id)
        if (
            known is None
            or known.container_spec is not container.spec
            or known.plan.pid != container.pid
            or known.plan.start_time != container.start_time
            or known.spec != plain
        ):
            known = KnownPlan(container.spec, plain, self._make(container, spec))
            self._last.pop(container.id, None)
            while len(self._last) >= _REMEMBERED:
                del self._last[next(iter(self._last))]
            self._last[container.id] = known
        known.uses += 1
        return known

    def _make(self, container: Container, spec: ExecSpec) -> JoinPlan:
        capabilities = list(all_capabilities() if spec.privileged else capabilities_of(container.spec))
        env = environment(container.env)
        if spec.tty:
            env.setdefault("TERM", "xterm")
        env.update(environment(spec.env))
        process = process_config(
            argv=spec.argv,
            env=tuple(f"{key}={value}" for key, value in env.items()),
            workdir=spec.workdir or container.workdir,
            terminal=spec.tty,
            capabilities=capabilities,
            no_new_privileges=container.spec.no_new_privileges,
            rows=spec.rows,
            columns=spec.cols,
        )
        user = container.user if spec.user is None else spec.user
        annotations = {USER_ANNOTATION: user or "0"}
        namespaces = ALL_NAMESPACES
        if not is_plain(container.spec):
            adjust_process(process, annotations, container.spec, privileged=spec.privileged)
            namespaces = namespaces_of(container)
        seccomp = None if spec.privileged else self._launching.seccomp_path(container.spec)
        profile = seccomp_profile(container.spec)
        return JoinPlan(
            pid=container.pid or 0,
            start_time=container.start_time,
            groups=self._launching.group_directories(container),
            process=compile_process(
                process, annotations, seccomp, {"seccomp": profile} if not isinstance(profile, str) else None
            ),
            unified=not self._launching.hierarchy.can_rename,
            namespaces=namespaces,
            # A profile of one's own may forbid what it takes to start another process.
            spawn=self._launching.hierarchy.can_rename and not spec.tty and isinstance(profile, str),
        )
