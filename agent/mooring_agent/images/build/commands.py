# SPDX-License-Identifier: Apache-2.0
"""RUN: what exactly is executed, what that depends on, and the layer that it leaves."""

from __future__ import annotations

import codecs
import secrets
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mooring_agent.errors import InvalidSpec
from mooring_agent.failpoints import reached
from mooring_agent.images.build import stubs as places
from mooring_agent.images.build.config import DEFAULT_PATH, DEFAULT_SHELL, command_words
from mooring_agent.images.build.errors import BuildFailed
from mooring_agent.images.build.layering import Layer, chain_of
from mooring_agent.images.build.mounting import Mounting
from mooring_agent.images.build.reporting import Tail
from mooring_agent.images.build.running import RunBind, RunFile, RunMount, RunRequest
from mooring_agent.images.build.tree import Tree
from mooring_agent.images.build.work import Work
from mooring_agent.images.dockerfile.errors import Location
from mooring_agent.images.dockerfile.heredocs import parse_heredoc
from mooring_agent.images.dockerfile.instructions import CommandLine, Run
from mooring_agent.images.dockerfile.mounts import Mount
from mooring_agent.images.dockerfile.plan import PlannedStage
from mooring_agent.images.ingest import temporary_snapshot
from mooring_agent.images.platform import Platform, check_platform
from mooring_agent.storage.snapshotter import WhiteoutStyle

PROXIES = frozenset(
    name
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (upper, upper.lower())
)
"""Build arguments that RUN has without an ARG, and that neither the cache nor the history know of."""

_SCRIPTS = "/dev/pipes"
_SCRIPT_MODE = 0o755


@dataclass(frozen=True, slots=True)
class Command:
    """A command that may be run; `facts` are what its result depends on besides the layers below."""

    location: Location
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    user: str
    workdir: str
    network: str
    mounting: Mounting
    files: tuple[RunFile, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON values, in which there is no secret."""
        return {
            "argv": self.argv,
            "env": dict(self.env),
            "user": self.user,
            "workdir": self.workdir,
            "network": self.network,
            "mounts": self.mounting.facts(),
            "files": [[file.target, file.content.decode("utf-8", "replace")] for file in self.files],
        }


class Commands:
    """Runs the commands of one build."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def prepare(
        self,
        run: Run,
        *,
        mounts: tuple[Mount, ...],
        stage: PlannedStage,
        config: Mapping[str, Any],
        platform: Platform,
        variables: Mapping[str, str],
    ) -> Command:
        """Work out what a RUN executes. Raises InvalidSpec, NotFound or NotSupported for what cannot be."""
        check_platform(stage.base.image, platform.architecture, platform.os)
        workdir = config.get("WorkingDir") or "/"
        mounting = Mounting(
            mounts,
            workdir,
            lambda name: self._work.origin(stage, name),
            self._work.options.secrets,
            self._work.cache_mounts,
            self._work.scratch,
        )
        mounting.check()
        argv, files = _command(run.command, config)
        if not argv:
            raise InvalidSpec("RUN has no command: expected one")
        network = run.network if run.network != "default" else self._work.options.network
        return Command(
            run.location,
            argv,
            {"PATH": DEFAULT_PATH, **variables},
            config.get("User") or "0",
            workdir,
            network,
            mounting,
            files,
        )

    def run(self, command: Command, below: tuple[Layer, ...]) -> Layer | None:
        """Run it; returns the layer of what it wrote. Raises BuildFailed, and what kept it from running."""
        work, chain, tail = self._work, chain_of(below), Tail()
        snapshots = work.state.snapshots
        # The runner gives its container the same id, so that whoever sweeps knows what belongs together.
        key = secrets.token_hex(32)
        decoder = codecs.getincrementaldecoder("utf-8")
        texts = {stream: decoder("replace") for stream in (1, 2)}  # a piece may end within a character

        def output(stream: int, data: bytes) -> None:
            tail.add(data)
            work.reporting.output(texts[stream].decode(data), errors=stream == 2)

        with ExitStack() as held:
            target = held.enter_context(temporary_snapshot(snapshots, key, chain or None))
            mounts: tuple[RunMount, ...] = (*command.mounting.ready(held, work.stop), *command.files)
            tree = work.roots.tree(chain)
            missing = places.missing(tree, (*places.STANDARD, *map(_target, _outside(mounts))))
            layer, in_place = None, None
            if target.whiteouts is WhiteoutStyle.OVERLAY and chain:
                layer = _stub_layer(tree, missing, work.scratch)
            else:
                in_place = places.InPlace(target.directory, missing)
            proxies = {name: value for name, value in work.args.items() if name in PROXIES}
            env = {**proxies, **command.env, **command.mounting.environment()}
            request = RunRequest(
                key=key,
                stubs=layer,
                argv=command.argv,
                env=tuple(f"{name}={value}" for name, value in env.items()),
                user=command.user,
                workdir=command.workdir,
                mounts=mounts,
                network=command.network,
                limits=work.options.limits,
            )
            reached("build-run")
            exit_code = work.runner.run(request, output, work.stop)
            reached("build-ran")
            if exit_code:
                raise BuildFailed(command.location, exit_code, tail.text(), command.argv)
            untouched: frozenset[bytes] = frozenset()
            if in_place is not None:
                in_place.clear()
                untouched = in_place.untouched(tree)
            return work.layering.from_snapshot(key, below, work.latest, untouched)


def _command(line: CommandLine, config: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[RunFile, ...]]:
    """What is executed, and a script that has to be there for it."""
    if not line.heredocs:
        return command_words(line, config) if line.words else (), ()
    shell = tuple(config.get("Shell") or DEFAULT_SHELL)
    text = line.words[0]
    first = line.heredocs[0]
    if parse_heredoc(text) is None:
        # The shell reads the heredocs itself.
        whole = "".join([text, *(f"\n{each.content}{each.name}" for each in line.heredocs)])
        return (*shell, whole), ()
    if first.content.startswith("#!"):
        path = f"{_SCRIPTS}/{first.name}"
        content = first.chomped.encode("utf-8", "surrogateescape")
        return (*shell, path), (RunFile(path, content, _SCRIPT_MODE),)
    return (*shell, first.chomped), ()


def _target(mount: RunMount) -> tuple[str, bool]:
    if isinstance(mount, RunFile):
        return mount.target, False
    if isinstance(mount, RunBind):
        return mount.target, mount.sources[0].is_dir()
    return mount.target, True


def _outside(mounts: tuple[RunMount, ...]) -> tuple[RunMount, ...]:
    """Those whose place is in the snapshot: not in what is mounted too, or in a file system of the kernel."""
    above = ["/dev/", "/proc/", "/sys/"]
    found = []
    for mount in mounts:
        if not mount.target.startswith(tuple(above)):
            found.append(mount)
        above.append(mount.target.rstrip("/") + "/")
    return tuple(found)


def _stub_layer(tree: Tree, missing: tuple[places.Stub, ...], scratch: Path) -> Path | None:
    if not missing:
        return None
    directory = Path(tempfile.mkdtemp(dir=scratch))
    places.make_layer(tree, missing, directory)
    return directory
