# SPDX-License-Identifier: Apache-2.0
"""A bundle: its config, checked as far as the command line needs it, and what the launcher makes of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InvalidSpec, NotFound
from ..runtime.compile import compile_launch, id_maps, joined_namespaces, new_namespaces, time_offsets
from ..runtime.mounts import BindRoot
from ..runtime.plan import Hook, LaunchPlan, Shape
from . import config_types
from .filters import compile_filter

# crun's annotation: a system call of the seccomp profile that libseccomp does not know is an error.
_FAIL_UNKNOWN = "run.oci.seccomp_fail_unknown_syscall"
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


@dataclass(frozen=True)
class Bundle:
    """A loaded config: `text` as it stands on disk, `rootfs` the absolute path of its root."""

    path: str
    text: str
    config: Mapping[str, Any]
    rootfs: str

    @property
    def linux(self) -> Mapping[str, Any]:
        """The part for Linux."""
        part: Mapping[str, Any] = self.config["linux"]
        return part

    @property
    def terminal(self) -> bool:
        """Whether the process has one."""
        return bool(self.config.get("process", {}).get("terminal"))

    @property
    def root_uid(self) -> int:
        """What 0 inside is outside."""
        return next((host for inside, host, _ in id_maps(self.config)[0] if inside == 0), 0)

    @property
    def owns_cgroup(self) -> bool:
        """Whether a user namespace's root shall have the group: it has a cgroup namespace to see it in."""
        return {"user", "cgroup"} <= set(new_namespaces(self.config))

    def cgroup_path(self, id: str) -> str:
        """Relative to the tops of the mounts."""
        return str(self.linux.get("cgroupsPath") or f"/mooring-oci-{id}")

    def check_terminal(self, console_socket: str, *, foreground: bool) -> None:
        """Raise InvalidSpec where a terminal and a place for its master do not go together."""
        if console_socket and not self.terminal:
            raise InvalidSpec("--console-socket was given, but process.terminal of the config is not true")
        if self.terminal and not console_socket and not foreground:
            raise InvalidSpec("process.terminal is true: expected --console-socket, which gets its master")

    def hooks(self, kind: str) -> tuple[Hook, ...]:
        """The hooks of one kind."""
        return hooks_of(self.config, kind)

    def compile(
        self,
        *,
        id: str,
        preserve_fds: int,
        pivot: bool,
        new_keyring: bool,
        listener: int,
        state: str,
        enter: tuple[str, ...],
    ) -> tuple[LaunchPlan, Shape]:
        """What the launcher executes, and how it is to be forked."""
        plan = compile_launch(
            self.config,
            id=id,
            group="",
            root=BindRoot(self.rootfs),
            seccomp=compile_filter(
                self.linux.get("seccomp"),
                fail_unknown=(self.config.get("annotations") or {}).get(_FAIL_UNKNOWN) == "1",
            ),
            bundle=self.path,
            prepared=False,
        )
        environment = listen_environment(preserve_fds)
        process = replace(plan.process, env=(*plan.process.env, *environment), preserve_fds=preserve_fds)
        plan = replace(
            plan,
            process=process,
            join=(),
            pivot=pivot,
            bundle=self.path,
            state=state,
            report_mounted=bool(self.hooks("prestart") or self.hooks("createRuntime")),
            create_container=self.hooks("createContainer"),
            start_container=self.hooks("startContainer"),
            listener=listener,
            keyring=keyring_of(id) if new_keyring else "",
        )
        uids, gids = id_maps(self.config)
        shape = Shape(
            namespaces=new_namespaces(self.config),
            standard=False,
            enter=enter,
            join=joined_namespaces(self.config),
            uids=uids,
            gids=gids,
            time_offsets=time_offsets(self.config),
            propagation=plan.propagation,
            place=self.rootfs,
        )
        return plan, shape


def load(bundle: str, name: str) -> Bundle:
    """Read and check a bundle's config. Raises NotFound or InvalidSpec."""
    path = os.path.join(bundle, name)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        config = json.loads(text)
    except FileNotFoundError:
        raise NotFound(f"config {path} does not exist; make one with spec") from None
    except ValueError as error:
        raise InvalidSpec(f"config {path} is no JSON: {error}") from None
    check(config)
    rootfs = os.path.join(bundle, config["root"]["path"])
    if not os.path.isdir(rootfs):
        raise NotFound(f"root.path {rootfs} does not exist or is no directory")
    return Bundle(bundle, text, config, os.path.realpath(rootfs))


def check(config: Any) -> None:
    """Raise InvalidSpec for what is missing or of the wrong type at the top."""
    if not isinstance(config, dict):
        raise InvalidSpec("the config is not a JSON object")
    config_types.check_config(config)
    config.setdefault("linux", {})
    config["linux"].setdefault("namespaces", [])
    config.setdefault("mounts", [])
    for key, kind in (("ociVersion", str), ("root", dict)):
        if not isinstance(config.get(key), kind):
            raise InvalidSpec(f"config.{key} is {config.get(key)!r}, expected an {kind.__name__} value")
    if not config["ociVersion"].startswith("1."):
        raise InvalidSpec(f"config.ociVersion is {config['ociVersion']}, expected 1.x")
    if not isinstance(config["root"].get("path"), str) or not config["root"]["path"]:
        raise InvalidSpec("config.root.path is missing: expected the directory of the container's root")
    if config.get("process") is not None:
        check_process(config["process"])
    if "mnt" not in (*new_namespaces(config), *(name for name, _ in joined_namespaces(config))):
        raise InvalidSpec(
            "linux.namespaces has no mount namespace: without one the container's mounts would be the host's"
        )


def check_process(process: Mapping[str, Any]) -> None:
    """Raise InvalidSpec for a process that could not be one; fill in what has a default."""
    if not process.get("args"):
        raise InvalidSpec("process.args is empty, expected the command and its arguments")
    if not str(process.get("cwd", "")).startswith("/"):
        raise InvalidSpec(f"process.cwd is {process.get('cwd')!r}, expected an absolute path")
    if isinstance(process, dict):
        user = process.setdefault("user", {})
        user.setdefault("uid", 0)
        user.setdefault("gid", 0)


def hooks_of(config: Mapping[str, Any], kind: str) -> tuple[Hook, ...]:
    """The hooks of one kind. Raises InvalidSpec."""
    found = []
    for one in (config.get("hooks") or {}).get(kind) or ():
        path = one.get("path")
        if not isinstance(path, str) or not path.startswith("/"):
            raise InvalidSpec(f"hooks.{kind} has the path {path!r}, expected an absolute one")
        env = one.get("env")
        timeout = one.get("timeout") or 0
        if timeout < 0:
            raise InvalidSpec(f"hooks.{kind} has the timeout {timeout}, expected seconds above 0")
        found.append(Hook(path, tuple(one.get("args") or ()), None if env is None else tuple(env), timeout))
    return tuple(found)


def keyring_of(id: str) -> str:
    """The name of a container's session keyring, which other runtimes would give it too."""
    return f"_ses.{id}"


def listen_environment(preserve_fds: int) -> tuple[str, ...]:
    """The variables of sd_listen_fds(3), where the caller has given sockets."""
    count = os.environ.get("LISTEN_FDS")
    if not count or not preserve_fds:
        return ()
    names = os.environ.get("LISTEN_FDNAMES")
    return (f"LISTEN_FDS={count}", "LISTEN_PID=1", *((f"LISTEN_FDNAMES={names}",) if names else ()))
