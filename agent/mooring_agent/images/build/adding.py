# SPDX-License-Identifier: Apache-2.0
"""What ADD can besides COPY: fetch files and git repositories, and unpack archives."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mooring_agent.errors import InvalidSpec, MissingProgram, MooringError, Unavailable
from mooring_agent.images import tar_reader
from mooring_agent.images.layers import apply_layer
from mooring_agent.images.programs import run_program
from mooring_agent.images.stream import (
    CHUNK,
    Compression,
    HashingReader,
    decompress,
    detect,
    peek,
    read_chunks,
)
from mooring_agent.images.turns import Stop
from mooring_agent.storage.snapshotter import UnpackTarget, WhiteoutStyle

_TIMEOUT = 60.0  # seconds without a byte
_GIT_TIMEOUT = 1800.0  # seconds for one command of git
_GIT = re.compile(r"(?:git@|git://|ssh://)|(?:https?://[^#?]*\.git(?:#|$))")
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")
_URL_MODE = 0o600  # as Docker has it


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file or directory that was fetched, below a directory that is private to the build."""

    directory: Path
    name: str


def is_git(source: str) -> bool:
    """Whether a source is a git repository."""
    return _GIT.match(source) is not None


def is_url(source: str) -> bool:
    """Whether a source is fetched over HTTP."""
    return source.startswith(("http://", "https://"))


def fetch_url(source: str, checksum: str, directory: Path, name: str, stop: Stop) -> Fetched:
    """Fetch a file into an empty directory, under `name` or the last part of the URL.

    Its mode is 0600 and its time what the server says of it, or 1970. Raises InvalidSpec for a checksum that
    is not that of the file, Unavailable where the server cannot be reached or refuses.
    """
    if checksum and not _CHECKSUM.fullmatch(checksum):
        raise InvalidSpec(f"--checksum={checksum} is not valid: expected sha256: and 64 hexadecimal digits")
    name = name or unquote(urlsplit(source).path.rpartition("/")[2])
    if not name or name in (".", ".."):
        raise InvalidSpec(f"{source} has no file name in it: name the file in the destination")
    path = directory / name.replace("/", "_")
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(source, timeout=_TIMEOUT) as answer, open(path, "xb") as file:
            while chunk := answer.read(CHUNK):
                stop.check()
                digest.update(chunk)
                file.write(chunk)
            if answer.length:  # a read of so many bytes does not tell that there were less
                raise OSError(f"it ended {answer.length} bytes early")
            modified = _modified(answer.headers.get("Last-Modified"))
    except urllib.error.HTTPError as error:
        raise Unavailable(
            f"{source} cannot be fetched: the server answered {error.code} {error.reason}"
        ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise Unavailable(
            f"{source} cannot be fetched ({reason}): is it reachable from this host? A file of the build "
            "context is always there"
        ) from None
    found = f"sha256:{digest.hexdigest()}"
    if checksum and found != checksum:
        raise InvalidSpec(f"{source} has the checksum {found}, and {checksum} was expected")
    os.chmod(path, _URL_MODE)
    os.utime(path, (modified, modified))
    return Fetched(directory, path.name)


def fetch_git(source: str, directory: Path, *, keep_git_dir: bool, stop: Stop) -> Fetched:
    """Fetch one commit of a repository, `URL#REF:SUBDIRECTORY`; all files have the commit's time.

    Raises MissingProgram without git, Unavailable where the repository cannot be reached.
    """
    address, _, fragment = source.partition("#")
    reference, _, below = fragment.partition(":")
    program = shutil.which("git")
    if program is None:
        raise MissingProgram(
            f"{address} is a git repository, and this host has no git: install the package git, or copy the "
            "files from the build context"
        )
    checkout = directory / "checkout"
    checkout.mkdir()

    def git(*words: str) -> str:
        stop.check()
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(directory),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ALLOW_PROTOCOL": "git:http:https:ssh",
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
        }
        command = (program, "-c", "advice.detachedHead=false", *words)
        try:
            done = run_program(command, stop, _GIT_TIMEOUT, directory=checkout, environment=environment)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{address} did not answer within {_GIT_TIMEOUT:g} s") from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise Unavailable(
                f"{address} cannot be fetched with git ({said[-1] if said else 'no message'}): is it "
                "reachable from this host, and is the reference there?"
            )
        return done.stdout.decode("utf-8", "replace").strip()

    git("init", "--quiet")
    if reference.startswith("-") or address.startswith("-"):
        raise InvalidSpec(f"{source} is no git repository: neither part may begin with -")
    git("fetch", "--quiet", "--depth", "1", "--", address, reference or "HEAD")
    git("checkout", "--quiet", "FETCH_HEAD")
    moment = int(git("show", "--no-patch", "--format=%ct", "HEAD"))
    if not keep_git_dir:
        shutil.rmtree(checkout / ".git")
    for top, directories, files in os.walk(checkout):
        for name in (*directories, *files, "."):
            os.utime(os.path.join(top, name), (moment, moment), follow_symlinks=False)
    if below:
        return Fetched(checkout, below.strip("/"))
    return Fetched(directory, "checkout")


def is_archive(descriptor: int) -> bool:
    """Whether an open file is a tar archive, plain or packed, as ADD unpacks it."""
    with open(os.dup(descriptor), "rb") as file:
        file.seek(0)
        try:
            head, chunks = peek(read_chunks(file))
            kind = detect(head)
            if kind is Compression.NONE and not _looks_like_tar(descriptor):
                return False
            plain: Iterator[bytes] = decompress(chunks, kind)
            for _ in tar_reader.read_entries(HashingReader(plain, 1 << 40)):
                return True
        except MissingProgram:
            raise
        except (MooringError, OSError):
            return False
        return False


def unpack_archive(descriptor: int, directory: Path) -> None:
    """Unpack it into an empty directory. Raises InvalidSpec, Unavailable."""
    with open(os.dup(descriptor), "rb") as file:
        file.seek(0)
        head, chunks = peek(read_chunks(file))
        apply_layer(decompress(chunks, detect(head)), UnpackTarget(directory, WhiteoutStyle.DELETE, ()))


def _looks_like_tar(descriptor: int) -> bool:
    return os.pread(descriptor, 5, 257) == b"ustar"


def _modified(text: str | None) -> float:
    """The time of a header, 0 for one that is absent or not well formed."""
    try:
        moment: Any = parsedate_to_datetime(text) if text else None
        return max(0.0, moment.timestamp()) if moment is not None else 0.0
    except (ValueError, TypeError):
        return 0.0
