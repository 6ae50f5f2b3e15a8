# SPDX-License-Identifier: Apache-2.0
"""What this host can do, by the names that the marker `kernel(feature, ...)` uses."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.waiting import PATIENCE
from mooring_agent.linux import bpf

_PROGRAM_TIMEOUT = 10.0 * PATIENCE  # seconds
# Below /usr, where the docker client looks for plugins of the host.
_LIBRARIES = ("local/lib", "local/libexec", "lib", "libexec")


class UnknownFeature(Exception):
    """A test is marked with a feature that this module does not know."""


def is_root() -> bool:
    """Return whether the tests run as root."""
    return os.geteuid() == 0


def docker_client() -> str | None:
    """Return the path of the docker client: the one on PATH, else the one that script/test fetched."""
    return shutil.which("docker") or shutil.which("docker", path=str(Path(sys.executable).parent))


def compose_plugin() -> str | None:
    """Return the path of Docker Compose 2: fetched by script/test, else a plugin of the host."""
    fetched = shutil.which("docker-compose", path=str(Path(sys.executable).parent))
    places = (f"/usr/{place}/docker/cli-plugins" for place in _LIBRARIES)
    return fetched or next(
        (found for place in places if (found := shutil.which("docker-compose", path=place))), None
    )


def need_programs(*programs: str) -> None:
    """End the test unless the programs, by name or path, are here; script/setup.sh has to install each.

    As root it does, so that a missing one is a fault. Without root, which installs none, the test is skipped.
    """
    missing = [program for program in programs if shutil.which(program) is None]
    if not missing:
        return
    message = f"needs {', '.join(missing)}: script/test --setup-only installs that as root"
    if is_root():
        pytest.fail(message)
    pytest.skip(message)


@functools.cache
def missing_feature(feature: str) -> str | None:
    """Return why the feature is missing here, or None if it is there. Raises UnknownFeature."""
    probe = _PROBES.get(feature)
    if probe is None:
        known = ", ".join(sorted(_PROBES))
        raise UnknownFeature(f"marker kernel({feature!r}): no such feature; expected one of {known}")
    available, reason = probe()
    return None if available else reason


def _filesystem(name: str) -> Callable[[], tuple[bool, str]]:
    def probe() -> tuple[bool, str]:
        names = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
        return name in names, f"/proc/filesystems does not list {name}"

    return probe


def _exists(path: str) -> Callable[[], tuple[bool, str]]:
    return lambda: (Path(path).exists(), f"{path} does not exist")


def _succeeds(*argv: str) -> Callable[[], tuple[bool, str]]:
    def probe() -> tuple[bool, str]:
        if shutil.which(argv[0]) is None:
            return False, f"the program {argv[0]} is not installed"
        done = subprocess.run(
            argv,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PROGRAM_TIMEOUT,
        )
        return done.returncode == 0, f"`{' '.join(argv)}` ends with {done.returncode}"

    return probe


def cgroup_mounts() -> dict[Path, tuple[str, frozenset[str]]]:
    """Return the mounted cgroup hierarchies: mount point → ("cgroup" | "cgroup2", mount options)."""
    mounts = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _source, target, kind, options, *_rest = line.split()
        if kind in {"cgroup", "cgroup2"}:
            mounts[Path(target)] = (kind, frozenset(options.split(",")))
    return mounts


def _cgroup_v1() -> tuple[bool, str]:
    options = [options for kind, options in cgroup_mounts().values() if kind == "cgroup"]
    return any("memory" in each for each in options), "no cgroup v1 hierarchy has the memory controller"


def _cgroup_v2() -> tuple[bool, str]:
    for mount, (kind, _options) in cgroup_mounts().items():
        if kind == "cgroup2" and "memory" in (mount / "cgroup.controllers").read_text().split():
            return True, ""
    return False, "no cgroup v2 hierarchy has the memory controller"


def _user_namespaces() -> tuple[bool, str]:
    limit = Path("/proc/sys/user/max_user_namespaces")
    allowed = limit.exists() and int(limit.read_text()) > 0
    return allowed, f"{limit} does not allow user namespaces"


def _tcx() -> tuple[bool, str]:
    try:
        bpf.ingress_programs(1)  # of the loopback
    except OSError as error:
        return False, f"this kernel keeps no lists of BPF programs at interfaces ({error.strerror})"
    return True, ""


_PROBES: dict[str, Callable[[], tuple[bool, str]]] = {
    "apparmor": _exists("/sys/kernel/security/apparmor/profiles"),
    "btrfs": _filesystem("btrfs"),
    "cgroup_v1": _cgroup_v1,
    "cgroup_v2": _cgroup_v2,
    "criu": _succeeds("criu", "check"),
    "kvm": _exists("/dev/kvm"),
    "nftables": _succeeds("nft", "list", "tables"),
    "overlay": _filesystem("overlay"),
    "pidfd": lambda: (hasattr(os, "pidfd_open"), "this Python or C library has no pidfd_open"),
    "psi": _exists("/proc/pressure/memory"),
    "seccomp": _exists("/proc/sys/kernel/seccomp/actions_avail"),
    "selinux": _exists("/sys/fs/selinux/enforce"),
    "tcx": _tcx,
    "time_namespaces": _exists("/proc/self/ns/time"),
    "user_namespaces": _user_namespaces,
    # In a network namespace of its own, so that nothing is left of it.
    "wireguard": _succeeds("unshare", "--net", "ip", "link", "add", "probe", "type", "wireguard"),
}
