# SPDX-License-Identifier: Apache-2.0
"""What an attacker has: a container with root and a Python in it, images of its own making, and patience."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.agent import AgentUnderTest
from harness.waiting import PATIENCE

SLEEPER: dict[str, Any] = {"image": "busybox", "command": ["sleep", "3600"], "stop_timeout": 0}
Declare = Callable[..., dict[str, Any]]
# The host's own Python in a container, so that an attack is more than a shell can do. All of it read-only.
PYTHON = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
PYTHON_VOLUMES = [
    f"{path}:{path}:ro"
    for path in ("/usr", "/lib", "/lib64", sys.base_prefix)
    if os.path.isdir(path) and not (path == sys.base_prefix and path.startswith("/usr"))
]


def run(agent: AgentUnderTest, name: str, *argv: str, **options: Any) -> dict[str, Any]:
    """Run a command in a container, return its exit code and output."""
    answer: dict[str, Any] = agent.api(
        "POST",
        f"/mooring/v1/containers/{name}/exec",
        {"argv": list(argv), **options},
        timeout=60.0 * PATIENCE,
    )
    return answer


def view(agent: AgentUnderTest, name: str) -> dict[str, Any]:
    """Return a container as the agent sees it."""
    found: dict[str, Any] = agent.api("GET", f"/mooring/v1/containers/{name}")
    return found


def status_of(pid: int) -> dict[str, str]:
    """Return proc_pid_status(5) of a process as the host sees it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def refused(agent: AgentUnderTest, name: str, **options: Any) -> str:
    """Declare a container that must not come to be; return what the agent said."""
    response = agent.request("PUT", f"/mooring/v1/containers/{name}", {**SLEEPER, **options})
    assert response.status >= 400, response.json()
    assert agent.request("GET", f"/mooring/v1/containers/{name}").status == 404
    message: str = response.json()["message"]
    return message


@dataclass(frozen=True)
class Attacker:
    """A running container whose processes are hostile."""

    agent: AgentUnderTest
    name: str

    def sh(self, script: str, **options: Any) -> dict[str, Any]:
        """Run a shell script inside."""
        return run(self.agent, self.name, "sh", "-c", script, **options)

    def python(self, source: str, *argv: str, **options: Any) -> Any:
        """Run Python inside as root, return the JSON data that it printed last."""
        found = run(self.agent, self.name, PYTHON, "-I", "-S", "-c", source, *argv, **options)
        assert found["exit_code"] == 0, found
        return json.loads(found["stdout"].splitlines()[-1])

    @contextmanager
    def meanwhile(self, source: str, *argv: str) -> Iterator[list[Any]]:
        """Run Python inside while the block runs; what it printed is in the list after the block.

        It ends when /stop is there.
        """
        results: list[Any] = []
        started = f"import os; os.path.exists('/stop') and os.unlink('/stop'); open('/going', 'w')\n{source}"
        thread = threading.Thread(target=lambda: results.append(self.python(started, *argv)))
        thread.start()
        try:
            self.sh("while [ ! -e /going ]; do :; done; rm /going")
            yield results
        finally:
            self.sh("touch /stop")
            thread.join(60.0 * PATIENCE)
        assert results, "the attack came to no end"


@dataclass(frozen=True)
class Workshop:
    """Makes images: the plain root file system with members of it replaced, or new ones added."""

    agent: AgentUnderTest
    plain: Path
    directory: Path

    def image(self, name: str, *members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> str:
        """Import an image; a member takes the place of what is there at its path, and of all below it."""
        path = self.directory / f"{name}.tar"
        infos = [member if isinstance(member, tuple) else (member, b"") for member in members]
        replaced = {info.name for info, _ in infos}
        with tarfile.open(self.plain) as source, tarfile.open(path, "w") as target:
            for info in source:
                if not _parents(info.name) & replaced:
                    content = source.extractfile(info) if info.isreg() else None
                    target.addfile(info, io.BytesIO(content.read()) if content else None)
            for info, data in infos:
                target.addfile(info, io.BytesIO(data) if data else None)
        self.agent.api("PUT", f"/mooring/v1/images/{name}", {"import": {"path": str(path)}}, timeout=60.0)
        path.unlink()
        return name

    def archive(self, name: str, *members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> Path:
        """Write an archive of these members alone."""
        path = self.directory / f"{name}.tar"
        with tarfile.open(path, "w") as target:
            for member in members:
                info, data = member if isinstance(member, tuple) else (member, b"")
                target.addfile(info, io.BytesIO(data) if data else None)
        return path


def _parents(path: str) -> set[str]:
    parts = path.split("/")
    return {"/".join(parts[:count]) for count in range(1, len(parts) + 1)}


def link(path: str, points_to: str) -> tarfile.TarInfo:
    """Make a symbolic link for an archive."""
    return _member(path, tarfile.SYMTYPE, points_to)


def hard_link(path: str, to: str) -> tarfile.TarInfo:
    """Make a hard link for an archive."""
    return _member(path, tarfile.LNKTYPE, to)


def directory(path: str) -> tarfile.TarInfo:
    """Make a directory for an archive."""
    info = _member(path, tarfile.DIRTYPE)
    info.mode = 0o755
    return info


def fifo(path: str) -> tarfile.TarInfo:
    """Make a named pipe for an archive: whoever opens it to read waits for ever."""
    return _member(path, tarfile.FIFOTYPE)


def file(path: str, content: bytes = b"", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    """Make a file for an archive."""
    info = tarfile.TarInfo(path)
    info.size, info.mode = len(content), mode
    return info, content


def _member(path: str, kind: bytes, points_to: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.linkname = kind, points_to
    return info
