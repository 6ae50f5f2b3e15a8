# SPDX-License-Identifier: Apache-2.0
"""The template `busybox`: a root file system of about 2 MB around the host's statically linked busybox."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from mooring_agent.errors import InvalidSpec, MissingProgram
from mooring_agent.images import tar_reader as tar
from mooring_agent.images.config import ImageConfig
from mooring_agent.images.platform import elf_architecture
from mooring_agent.images.tar_writer import END, member_header, padding

DEFAULTS = ImageConfig(
    cmd=("sh",), env=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",), workdir="/"
)

_REVISION = 1  # of what is put around the program; part of the cache key
_LIST_DEADLINE = 10.0  # seconds
_PT_INTERP = 3  # System V ABI, program header: the dynamic loader's name
_DIRECTORIES = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "mnt": 0o755,
    "opt": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "sbin": 0o755,
    "srv": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "usr": 0o755,
    "usr/bin": 0o755,
    "usr/local": 0o755,
    "usr/local/bin": 0o755,
    "usr/local/sbin": 0o755,
    "usr/sbin": 0o755,
    "var": 0o755,
    "var/cache": 0o755,
    "var/lib": 0o755,
    "var/log": 0o755,
    "var/spool": 0o755,
    "var/tmp": 0o1777,
    "var/www": 0o755,
}
_LINKS = {"var/run": "../run", "var/lock": "../run/lock"}
_FILES = {
    "etc/passwd": """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
""",
    "etc/group": """\
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
wheel:x:10:root
www-data:x:33:
utmp:x:43:
users:x:100:
nogroup:x:65534:
""",
    "etc/shadow": "root:*:::::::\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    "etc/shells": "/bin/sh\n/bin/ash\n",
    "etc/profile": "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
}
_MODES = {"etc/shadow": 0o600}


@dataclass(frozen=True, slots=True)
class Busybox:
    """The host's program, and what its applets are called (paths without a leading slash)."""

    path: Path
    content: bytes
    architecture: str
    applets: tuple[str, ...]

    @property
    def version(self) -> str:
        """What the template is made from, for the cache: the program and what is put around it."""
        return f"{_REVISION}-{hashlib.sha256(self.content).hexdigest()}"


def find_busybox() -> Busybox:
    """Find a statically linked busybox on this host; raises MissingProgram naming the package that has it."""
    dynamic = []
    for candidate in _candidates():
        if not os.access(candidate, os.X_OK):
            continue
        content = Path(candidate).read_bytes()
        machine, interpreted = _read_elf(candidate, content)
        if interpreted:
            dynamic.append(candidate)
            continue
        return Busybox(Path(candidate), content, elf_architecture(machine), _applets(candidate))
    found = f"{dynamic[0]} is linked dynamically" if dynamic else "there is no busybox on this host"
    raise MissingProgram(
        f"the template busybox needs a statically linked busybox and {found}: install package busybox-static"
    )


def _candidates() -> list[str]:
    found = shutil.which("busybox")
    return [*([found] if found is not None else []), "/bin/busybox", "/usr/bin/busybox.static"]


def busybox_layer(busybox: Busybox) -> Generator[bytes, None, None]:
    """Yield the root file system as a tar archive; the same program gives the same bytes."""
    yield member_header(tar.TarEntry(b"./", tar.DIRECTORY, mode=0o755))
    members: dict[str, bytes] = {}
    for name, mode in _DIRECTORIES.items():
        members[name] = member_header(tar.TarEntry(name.encode(), tar.DIRECTORY, mode=mode))
    for name, text in _FILES.items():
        members[name] = _file(name, _MODES.get(name, 0o644), text.encode())
    members["bin/busybox"] = _file("bin/busybox", 0o755, busybox.content)
    for applet in busybox.applets:
        if applet not in members:
            up = "../" * applet.count("/")
            members[applet] = _link(applet, "busybox" if applet.startswith("bin/") else f"{up}bin/busybox")
    for name, target in _LINKS.items():
        members[name] = _link(name, target)
    for name in sorted(members):
        yield members[name]
    yield END


def _file(name: str, mode: int, content: bytes) -> bytes:
    size = len(content)
    header = member_header(tar.TarEntry(name.encode(), tar.REGULAR, mode=mode, size=size, stored=size))
    return header + content + padding(size)


def _link(name: str, target: str) -> bytes:
    return member_header(tar.TarEntry(name.encode(), tar.SYMLINK, mode=0o777, link=target.encode()))


def _applets(program: str) -> tuple[str, ...]:
    """Ask the program; what lies in a directory that the template lacks goes to bin."""
    try:
        result = subprocess.run(
            [program, "--list-full"], capture_output=True, text=True, timeout=_LIST_DEADLINE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InvalidSpec(
            f"{program} cannot be run and is no use for the template busybox: {error}"
        ) from error
    paths = []
    for line in result.stdout.split():
        directory, _, name = line.rpartition("/")
        if not name or name in (".", "..", "busybox"):
            continue
        paths.append(f"{directory if directory in _DIRECTORIES else 'bin'}/{name}")
    if result.returncode != 0 or "bin/sh" not in paths:
        raise InvalidSpec(
            f"{program} --list-full does not name the applet sh: the template busybox needs a shell in it"
        )
    return tuple(sorted(set(paths)))


def _read_elf(name: str, content: bytes) -> tuple[int, bool]:
    """Return e_machine and whether the program asks for a dynamic loader."""
    problem = InvalidSpec(f"{name} is no ELF program: the template busybox needs a statically linked busybox")
    if content[:4] != b"\x7fELF" or len(content) < 64:
        raise problem
    order = "<" if content[5] == 1 else ">"
    machine: int = struct.unpack_from(f"{order}H", content, 18)[0]
    if content[4] == 2:  # 64 bits
        offset = struct.unpack_from(f"{order}Q", content, 32)[0]
        size, count = struct.unpack_from(f"{order}HH", content, 54)
    else:
        offset = struct.unpack_from(f"{order}I", content, 28)[0]
        size, count = struct.unpack_from(f"{order}HH", content, 42)
    try:
        kinds = [struct.unpack_from(f"{order}I", content, offset + index * size)[0] for index in range(count)]
    except struct.error:
        raise problem from None
    return machine, _PT_INTERP in kinds
