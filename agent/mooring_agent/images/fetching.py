# SPDX-License-Identifier: Apache-2.0
"""Fetches what has an address on the web: files over HTTP, and commits of git repositories by the host's git.

For ADD, for build contexts, and for archives that are imported. Nothing is fetched without a bound: on the
bytes, on the time without one, and on the time for all.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mooring_agent.errors import InvalidSpec, MissingProgram, Unavailable
from mooring_agent.images.image import Progress, ProgressEvent, no_progress
from mooring_agent.images.programs import run_program
from mooring_agent.images.stream import CHUNK
from mooring_agent.images.turns import Stop

FETCH = "fetch"
"""The step of its `ProgressEvent`s."""
MOST_BYTES = 64 << 30
"""How large a file may be, or one of a repository."""

_TIMEOUT = 60.0  # seconds without a byte
_LONGEST = 6 * 3600.0  # seconds for a file
_GIT_TIMEOUT = 1800.0  # seconds for one command of git
_TELL = 2.0  # seconds between two events
_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_GIT = re.compile(r"(?:git@|git://|ssh://|github\.com/)|(?:https?://[^#?]*\.git(?:#|$))", re.IGNORECASE)
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")
_URL_MODE = 0o600  # as Docker has it


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file or directory that was fetched, below a directory that is private to the work."""

    directory: Path
    name: str


def is_git(source: str) -> bool:
    """Whether a source is a git repository, as Docker's clients tell them from files."""
    return _GIT.match(source) is not None


def is_url(source: str) -> bool:
    """Whether a source is fetched over HTTP."""
    return _SCHEME.match(source) is not None


class Download:
    """A file that is on its way over HTTP; `modified` is the time that the server says of it, or 0.

    Raises Unavailable where the server cannot be reached, refuses, or breaks off, InvalidSpec for more than
    MOST_BYTES.
    """

    def __init__(self, source: str, stop: Stop, progress: Progress = no_progress) -> None:
        stop.check()
        self._source = source
        self._stop = stop
        self._progress = progress
        self._deadline = time.monotonic() + _LONGEST
        try:
            self._answer = urllib.request.urlopen(source, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            raise Unavailable(
                f"{source} cannot be fetched: the server answered {error.code} {error.reason}"
            ) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._failure(error) from None
        self.modified = _moment(self._answer.headers.get("Last-Modified"))

    def close(self) -> None:
        """Let go of the connection."""
        self._answer.close()

    def pieces(self) -> Iterator[bytes]:
        """All bytes, as they come."""
        done, total = 0, self._answer.length
        if total is not None and total > MOST_BYTES:
            raise self._too_large(f"has {total} bytes")
        told = time.monotonic() + _TELL
        while True:
            self._stop.check()
            try:
                chunk = self._answer.read1(CHUNK)  # what has come: who waits for more looks at no bound
                if not chunk and self._answer.length:  # a read does not tell that there were less
                    raise OSError(f"it ended {self._answer.length} bytes early")
            except (OSError, ValueError, http.client.HTTPException) as error:
                raise self._failure(error) from None
            if not chunk:
                return
            done += len(chunk)
            if done > MOST_BYTES:
                raise self._too_large("goes on")
            now = time.monotonic()
            if now > self._deadline:
                raise Unavailable(
                    f"{self._source} cannot be fetched: {done} bytes have come in {_LONGEST:g} s, and it is "
                    "not whole; fetch it in another way"
                )
            if now > told:
                told = now + _TELL
                self._progress(ProgressEvent(FETCH, done, total, f"Fetching {self._source}"))
            yield chunk

    def _failure(self, error: Exception) -> Unavailable:
        reason = getattr(error, "reason", None) or error
        return Unavailable(
            f"{self._source} cannot be fetched ({reason}): is it reachable from this host? What is sent "
            "along is always there"
        )

    def _too_large(self, what: str) -> InvalidSpec:
        return InvalidSpec(
            f"{self._source} {what}, expected at most {MOST_BYTES} bytes; fetch it in another way"
        )


def fetch(source: str, stop: Stop, progress: Progress = no_progress) -> Iterator[bytes]:
    """The pieces of a file, which is asked for with the first of them. Raises InvalidSpec for what is no
    address of one, and as `Download`.
    """
    if not is_url(source):
        raise InvalidSpec(f"{source!r} is no address of a file: expected one with http:// or https://")
    with closing(Download(source, stop, progress)) as download:
        yield from download.pieces()


def fetch_url(source: str, checksum: str, directory: Path, name: str, stop: Stop) -> Fetched:
    """Fetch a file into an empty directory, under `name` or the last part of the URL.

    Its mode is 0600 and its time what the server says of it, or 1970. Raises InvalidSpec for a checksum that
    is not that of the file, and as `Download`.
    """
    if checksum and not _CHECKSUM.fullmatch(checksum):
        raise InvalidSpec(f"--checksum={checksum} is not valid: expected sha256: and 64 hexadecimal digits")
    name = name or unquote(urlsplit(source).path.rpartition("/")[2])
    if not name or name in (".", ".."):
        raise InvalidSpec(f"{source} has no file name in it: name the file in the destination")
    path = directory / name.replace("/", "_")
    digest = hashlib.sha256()
    with closing(Download(source, stop)) as download:
        try:
            with open(path, "xb") as file:
                for piece in download.pieces():
                    digest.update(piece)
                    file.write(piece)
        except OSError as error:
            raise Unavailable(f"{source} cannot be kept ({error.strerror}): make room on the disk") from error
        modified = download.modified
    found = f"sha256:{digest.hexdigest()}"
    if checksum and found != checksum:
        raise InvalidSpec(f"{source} has the checksum {found}, and {checksum} was expected")
    os.chmod(path, _URL_MODE)
    os.utime(path, (modified, modified))
    return Fetched(directory, path.name)


def fetch_git(source: str, directory: Path, *, keep_git_dir: bool, stop: Stop) -> Fetched:
    """Fetch one commit of a repository with its submodules, `URL#REF:SUBDIRECTORY`, into an empty directory;
    all files have the commit's time. What is below may be anything, so that who reads it follows no link.

    Raises MissingProgram without git, InvalidSpec, Unavailable where the repository cannot be reached.
    """
    address, _, fragment = source.partition("#")
    reference, _, below = fragment.partition(":")
    if reference.startswith("-") or address.startswith("-"):
        raise InvalidSpec(f"{source} is no git repository: neither part may begin with -")
    if address.lower().startswith("github.com/"):
        address = f"https://{address}"
    program = shutil.which("git")
    if program is None:
        raise MissingProgram(
            f"{address} is a git repository, and this host has no git: install the package git, or send the "
            "files along"
        )
    checkout = directory / "checkout"
    checkout.mkdir()
    git = _git(program, address, directory, checkout, stop)
    git("init", "--quiet")
    git("fetch", "--quiet", "--depth", "1", "--", address, reference or "HEAD")
    git("checkout", "--quiet", "FETCH_HEAD")
    if os.path.lexists(checkout / ".gitmodules"):
        git("submodule", "--quiet", "update", "--init", "--recursive", "--depth", "1")
    moment = int(git("show", "--no-patch", "--format=%ct", "HEAD"))
    if not keep_git_dir:
        _forget_history(checkout)
    for top, directories, files in os.walk(checkout):
        for name in (*directories, *files, "."):
            os.utime(os.path.join(top, name), (moment, moment), follow_symlinks=False)
    if below:
        return Fetched(checkout, below.strip("/"))
    return Fetched(directory, "checkout")


def _git(program: str, address: str, home: Path, checkout: Path, stop: Stop) -> Callable[..., str]:
    """What runs a command of git in the checkout, and returns what it says."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": "git:http:https:ssh",
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
    }
    # ulimit is in blocks of 512 bytes (POSIX, ulimit).
    bounded = ("/bin/sh", "-c", f'ulimit -f {MOST_BYTES >> 9}; exec "$@"', "git", program)

    def git(*words: str) -> str:
        stop.check()
        command = (*bounded, "-c", "advice.detachedHead=false", *words)
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

    return git


def _forget_history(checkout: Path) -> None:
    """Remove what git keeps for itself, its own and that of submodules, whose .git is a file."""
    shutil.rmtree(checkout / ".git")
    if os.path.lexists(checkout / ".gitmodules"):
        for top, _, files in os.walk(checkout):
            if ".git" in files:
                os.unlink(os.path.join(top, ".git"))


def _moment(text: str | None) -> float:
    """The time of a header, 0 for one that is absent or not well formed."""
    try:
        moment: Any = parsedate_to_datetime(text) if text else None
        return max(0.0, moment.timestamp()) if moment is not None else 0.0
    except (ValueError, TypeError):
        return 0.0
