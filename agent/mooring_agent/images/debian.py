# SPDX-License-Identifier: Apache-2.0
"""The templates `debian` and `ubuntu`: root file systems by mmdebstrap(1), from the host's mirrors."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import select
import shlex
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mooring_agent.errors import MissingProgram, Unavailable
from mooring_agent.images.apt_sources import distribution_sources, fetch_settings, host_sources
from mooring_agent.images.config import ImageConfig
from mooring_agent.images.image import Progress, ProgressEvent
from mooring_agent.images.specs import TemplateSpec
from mooring_agent.images.stream import CHUNK
from mooring_agent.images.turns import Stop

DEFAULTS = ImageConfig(
    cmd=("bash",), env=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",), workdir="/"
)
DEADLINE = 1800.0  # seconds for a build

_log = logging.getLogger(__name__)

_REVISION = 1  # of how it is built; part of the cache key
_LOOK = 0.5  # seconds between two looks at whether it is wanted any more
_GRACE = 15.0  # seconds that mmdebstrap gets to clean up when it is told to end
_TAIL = 8  # lines of its output in an error
_HOST_FILE = "00mooring-host"
_SOURCES = "host.sources"
_ETC = Path("/etc/apt")
_UBUNTU_KEYRING = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"
_TRUSTED_UBUNTU_KEYS = "/etc/apt/trusted.gpg.d/ubuntu-*.gpg"  # apt takes them without being told


@dataclass(frozen=True, slots=True)
class DebianBuild:
    """What a build needs.

    `sources` are those of the host's apt. Where they are empty the spec's mirror is used, and without one
    that which mmdebstrap knows for the suite. `keyring` is a file with the keys of another distribution's
    archive, "" where the host's apt has them. mmdebstrap would find that itself only on a host that knows
    which suite is whose (distro-info-data) and that has gpg.
    """

    program: str
    spec: TemplateSpec
    sources: str
    keyring: str = ""

    @property
    def version(self) -> str:
        """What the template is made from, for the cache: changes with the host's mirrors."""
        return f"{_REVISION}-{hashlib.sha256(self.sources.encode()).hexdigest()}"

    @property
    def origin(self) -> str:
        """Where the packages come from, for a message."""
        if self.sources:
            return "the mirrors of the host's apt"
        if self.spec.mirror:
            return self.spec.mirror
        return (
            f"the public mirror, since the host's apt has none of {self.spec.name}: if this host does not "
            "reach it, give one that it does with the option mirror"
        )

    def command(self, scratch: Path) -> list[str]:
        """The command line; it reads what `prepare` has written to `scratch`."""
        staged = shlex.quote(str(scratch / "etc"))
        command = [
            self.program,
            "--format=tar",
            f"--variant={self.spec.variant}",
            f'--setup-hook=cp -R {staged}/. "$1"/etc/apt/',
            f'--customize-hook=cd "$1"/etc/apt; rm -f apt.conf.d/{_HOST_FILE} auth.conf.d/{_HOST_FILE}.conf',
        ]
        if self.keyring:
            command.append(f"--keyring={self.keyring}")
        if self.spec.packages:
            command.append(f"--include={','.join(self.spec.packages)}")
        if self.spec.components and not self.sources:
            command.append(f"--components={','.join(self.spec.components)}")
        command += [self.spec.suite, "-"]
        if self.sources:
            command.append(str(scratch / _SOURCES))
        elif self.spec.mirror:
            command.append(self.spec.mirror)
        return command

    def prepare(self, scratch: Path) -> None:
        """Write the sources, and the host's settings, which do not stay in the image."""
        (scratch / _SOURCES).write_text(self.sources)
        for name in ("apt.conf.d", "auth.conf.d"):
            (scratch / "etc" / name).mkdir(parents=True)
        (scratch / "etc/apt.conf.d" / _HOST_FILE).write_text(_fetch_settings())
        credentials = [_ETC / "auth.conf", *sorted((_ETC / "auth.conf.d").glob("*.conf"))]
        text = "\n".join(path.read_text() for path in credentials if path.is_file())
        secret = scratch / "etc/auth.conf.d" / f"{_HOST_FILE}.conf"
        secret.touch(mode=0o600)
        secret.write_text(text)


def find_debian(spec: TemplateSpec) -> DebianBuild:
    """Find mmdebstrap and the host's mirrors.

    Raises MissingProgram naming the package, for ubuntu on another distribution also when there are no keys
    to tell Ubuntu's packages by.
    """
    program = shutil.which("mmdebstrap")
    if program is None:
        raise MissingProgram(
            f"the template {spec.name} needs the program mmdebstrap, which is not here: "
            "install package mmdebstrap"
        )
    release = _os_release()
    sources, keyring = [], ""
    if release.get("ID") == spec.name:
        if not spec.mirror:
            codename = release.get("VERSION_CODENAME", "stable")
            sources = distribution_sources(host_sources(_ETC), codename, spec.suite)
    elif spec.name == "ubuntu":
        if Path(_UBUNTU_KEYRING).exists():
            keyring = _UBUNTU_KEYRING
        elif not glob.glob(_TRUSTED_UBUNTU_KEYS):
            raise MissingProgram(
                "the template ubuntu needs the keys of Ubuntu's archive, which are not here: install package "
                f"ubuntu-keyring, or bring its file {Path(_UBUNTU_KEYRING).name} to "
                f"{Path(_UBUNTU_KEYRING).parent}"
            )
    if spec.components:
        sources = [replace(source, components=spec.components) for source in sources]
    return DebianBuild(program, spec, "\n".join(source.stanza() for source in sources), keyring)


def debian_layer(
    build: DebianBuild, scratch: Path, progress: Progress, stop: Stop, deadline: float = DEADLINE
) -> Generator[bytes, None, None]:
    """Build in the empty directory `scratch` and yield the root file system as a tar archive.

    Raises Unavailable with the end of mmdebstrap's output when it fails, or when `deadline` seconds have
    passed, and Cancelled as `stop` says; then, and when the caller stops reading, it is ended.
    """
    build.prepare(scratch)
    (scratch / "tmp").mkdir(mode=0o755)
    process = subprocess.Popen(
        build.command(scratch),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(scratch / "tmp"), "LC_ALL": "C.UTF-8"},
    )
    tail: deque[str] = deque(maxlen=_TAIL)
    watcher = threading.Thread(
        target=_watch, args=(process, tail, progress), name="mooring-mmdebstrap", daemon=True
    )
    watcher.start()
    late = threading.Event()

    def give_up() -> None:
        late.set()
        _end(process)

    timer = threading.Timer(deadline, give_up)
    timer.daemon = True
    timer.start()
    try:
        assert process.stdout is not None
        yield from _read(process.stdout.fileno(), stop)
        status = process.wait()
        watcher.join()
        if status != 0:
            why = f"took longer than {deadline:g} s" if late.is_set() else f"ended with status {status}"
            raise Unavailable(
                f"the template {build.spec.name} {build.spec.suite} was not built from {build.origin}: "
                f"mmdebstrap {why}: {' | '.join(tail) or 'it said nothing'}"
            )
    finally:
        timer.cancel()
        _end(process)
        watcher.join()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _read(pipe: int, stop: Stop) -> Iterator[bytes]:
    """Yield what comes from a pipe; for the first minutes that is nothing."""
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    while True:
        stop.check()
        if poller.poll(_LOOK * 1000):
            chunk = os.read(pipe, CHUNK)
            if not chunk:
                return
            yield chunk


def _watch(process: subprocess.Popen[bytes], tail: deque[str], progress: Progress) -> None:
    assert process.stderr is not None
    for raw in process.stderr:
        for line in raw.decode(errors="replace").split("\r"):
            text = line.strip()
            if not text:
                continue
            _log.debug("mmdebstrap: %s", text)
            tail.append(text)
            if text.startswith("I: ") and not text.startswith("I: running --"):  # the hooks are our own
                progress(ProgressEvent("build", detail=text[3:]))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program and what it started: it is the leader of a session of its own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)


def _fetch_settings() -> str:
    program = shutil.which("apt-config")
    if program is None:
        return ""
    result = subprocess.run([program, "dump"], capture_output=True, text=True, timeout=_GRACE, check=False)
    return fetch_settings(result.stdout)


def _os_release() -> dict[str, str]:
    """os-release(5) of this host."""
    for path in (Path("/etc/os-release"), Path("/usr/lib/os-release")):
        if path.is_file():
            pairs = (line.partition("=") for line in path.read_text().splitlines() if "=" in line)
            return {name: "".join(shlex.split(value)) for name, _, value in pairs}
    return {}
