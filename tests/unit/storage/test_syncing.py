# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mooring_agent.storage import syncing
from mooring_agent.storage.syncing import Syncing


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mooring-sync"]


def test_one_thread_serves_all_who_want_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "_DELAY", 600.0)
    fd = os.open(tmp_path, os.O_RDONLY)
    sync = Syncing(fd, lambda: None, lambda begun: None)
    os.close(fd)
    asking = threading.Barrier(8)

    def ask() -> None:
        asking.wait(10)
        sync.want()

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(10)
    assert len(threads()) == 1
    sync.close()
    assert threads() == []


def test_who_wants_it_after_the_end_starts_nothing(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    sync = Syncing(fd, lambda: None, lambda begun: None)
    sync.close()
    sync.want()
    assert threads() == []
    os.close(fd)
