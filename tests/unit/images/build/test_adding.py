# SPDX-License-Identifier: Apache-2.0
"""What ADD fetches: whole or not at all, and no longer than the build goes on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness.waiting import PATIENCE, eventually
from harness.web import Silent, served
from mooring_agent.errors import Unavailable
from mooring_agent.images.fetching import fetch_git, fetch_url
from mooring_agent.images.turns import Cancelled, Stop

STOP = Stop("the build")


class Site(Silent):
    """Has /whole, sends /drops for as long as somebody takes them, and breaks off what else is asked for."""

    def do_GET(self) -> None:
        if self.path == "/garbled":
            self.wfile.write(b"no HTTP\r\n\r\n")
            return
        self.send_response(200)
        if self.path == "/drops":
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(b".")
                    time.sleep(0.02)
            return
        self.send_header("Content-Length", "4" if self.path == "/whole" else "9")
        self.end_headers()
        self.wfile.write(b"file")


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with served(Site) as url:
        yield url


def test_a_file_is_there_whole_or_not_at_all(site: str, tmp_path: Path) -> None:
    fetched = fetch_url(f"{site}/whole", "", tmp_path, "", STOP)
    assert (fetched.directory / fetched.name).read_bytes() == b"file"
    with pytest.raises(Unavailable, match="ended 5 bytes early"):
        fetch_url(f"{site}/cut", "", tmp_path, "", STOP)
    with pytest.raises(Unavailable, match="/garbled cannot be fetched"):
        fetch_url(f"{site}/garbled", "", tmp_path, "", STOP)


def test_a_file_that_comes_in_drops_ends_with_the_build(site: str, tmp_path: Path) -> None:
    cancelled = threading.Event()
    raised: list[Exception] = []

    def fetch() -> None:
        try:
            fetch_url(f"{site}/drops", "", tmp_path, "", Stop("it", cancelled))
        except Cancelled as error:
            raised.append(error)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    eventually((tmp_path / "drops").exists, 10, "the first of it")
    cancelled.set()
    thread.join(10 * PATIENCE)
    assert len(raised) == 1


def test_git_ends_with_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\nsleep 60 &\necho $! > {tmp_path}/pid.new\nmv {tmp_path}/pid.new {tmp_path}/pid\nwait\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    cancelled = threading.Event()
    raised: list[Exception] = []

    def fetch() -> None:
        try:
            (tmp_path / "repository").mkdir()
            fetch_git(
                "https://host/x.git", tmp_path / "repository", keep_git_dir=False, stop=Stop("it", cancelled)
            )
        except Cancelled as error:
            raised.append(error)

    began = time.monotonic()
    thread = threading.Thread(target=fetch)
    thread.start()
    eventually((tmp_path / "pid").exists, 10, "the program")
    cancelled.set()
    thread.join(30 * PATIENCE)
    assert len(raised) == 1
    assert time.monotonic() - began < 30 * PATIENCE
    pid = int((tmp_path / "pid").read_text())
    eventually(lambda: not _runs(pid), 10, "the end of what it has started")


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
