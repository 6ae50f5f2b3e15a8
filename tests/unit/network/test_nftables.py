# SPDX-License-Identifier: Apache-2.0
"""The library of nftables: its state for each thread, and a host without it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

import pytest

from mooring_agent.errors import MissingProgram
from mooring_agent.linux import nftables


def test_missing_library_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "LIBRARY", "libnothing.so.7")
    firewall = nftables.Nftables()  # is no error yet
    with pytest.raises(MissingProgram, match="install the package libnftables1"):
        firewall.run("list tables")


class Counting:
    """A library that counts its contexts."""

    def __init__(self) -> None:
        self.made = 0
        self.freed: list[int] = []

    def nft_ctx_new(self, _flags: int) -> int:
        self.made += 1
        return self.made

    def nft_ctx_free(self, handle: int) -> None:
        self.freed.append(handle)

    def nft_ctx_get_output_buffer(self, _handle: int) -> bytes:
        return b""

    nft_ctx_get_error_buffer = nft_ctx_get_output_buffer

    def __getattr__(self, _name: str) -> Callable[..., int]:
        return lambda *_: 0


def test_each_thread_has_a_context_that_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Counting()
    monkeypatch.setattr(nftables, "_load", lambda: library)
    firewall = nftables.Nftables()
    firewall.run("list tables")
    firewall.run("list tables")
    thread = threading.Thread(target=firewall.run, args=("list tables",))
    thread.start()
    thread.join(10)
    gc.collect()
    assert (library.made, library.freed) == (2, [2])

    del firewall
    gc.collect()
    assert (library.made, sorted(library.freed)) == (2, [1, 2])
