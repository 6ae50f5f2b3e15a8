# SPDX-License-Identifier: Apache-2.0
"""A small root file system as a tar archive: the host's static busybox and what it needs around it."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

_DIRECTORIES = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "sbin": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "usr": 0o755,
    "usr/bin": 0o755,
    "usr/sbin": 0o755,
    "var": 0o755,
    "var/log": 0o755,
}
_FILES = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        "daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
        "www:x:1000:1000:www:/var:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
    ),
    "etc/group": "root:x:0:\ndaemon:x:1:\naudio:x:29:www\nwww:x:1000:\nnogroup:x:65534:\n",
    "etc/motd": "a root file system of Mooring's tests\n",
}


def busybox() -> str | None:
    """Return the path of the host's busybox if it is a static program, else None."""
    path = shutil.which("busybox")
    if path is None:
        return None
    linked = subprocess.run(["ldd", path], check=False, capture_output=True, timeout=10)
    return path if linked.returncode != 0 else None


def write_busybox_rootfs(target: Path, extra: dict[str, bytes] | None = None) -> Path:
    """Write the archive to `target` and return it; the same input gives the same bytes.

    `extra` are further files by their path inside. Raises FileNotFoundError without a static busybox.
    """
    program = busybox()
    if program is None:
        raise FileNotFoundError("no static busybox on this host: install the package busybox-static")
    applets = subprocess.run(
        [program, "--list-full"], check=True, capture_output=True, text=True, timeout=10
    ).stdout.split()
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, mode in _DIRECTORIES.items():
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, mode
            archive.addfile(member)
        _add_file(archive, "bin/busybox", Path(program).read_bytes(), 0o755)
        # The only directories are those above: an applet elsewhere ("linuxrc" in the root) is left out.
        for applet in sorted(set(applets) - {"bin/busybox"}):
            if str(Path(applet).parent) not in _DIRECTORIES:
                continue
            member = tarfile.TarInfo(applet)
            member.type, member.linkname, member.mode = tarfile.SYMTYPE, "/bin/busybox", 0o777
            archive.addfile(member)
        for name, text in _FILES.items():
            _add_file(archive, name, text.encode(), 0o644)
        for name, content in sorted((extra or {}).items()):
            _add_file(archive, name, content, 0o644)
    return target


def _add_file(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    archive.addfile(member, io.BytesIO(content))
