# SPDX-License-Identifier: Apache-2.0
"""Pushing to a registry that breaks off, refuses and forgets."""

from __future__ import annotations

import os

import pytest

from harness import hostile_registry as faults
from harness.hostile_registry import HostileRegistry
from harness.images import describe, opener
from integration.registry.conftest import DATA, Connect, named
from mooring_agent.errors import InvalidSpec
from mooring_agent.images.registry.client import Repository


@pytest.mark.parametrize(
    "fault",
    [
        faults.break_upload(1 << 20),
        faults.break_upload(6 << 20),
        faults.hang_up,
        faults.status(502),
        faults.stall(),
    ],
    ids=["cut", "cut at the end", "hang up", "502", "stall"],
)
def test_an_upload_goes_on_at_the_offset_that_the_registry_reports(
    repository: Repository, hostile: HostileRegistry, fault: faults.Action
) -> None:
    data = os.urandom(6 << 20)
    hostile.fault("PATCH", fault, times=2)
    offsets: list[int] = []

    def open_chunks(offset: int):  # type: ignore[no-untyped-def]
        offsets.append(offset)
        return opener(data)(offset)

    repository.push_blob(describe(data), open_chunks)
    assert hostile.blobs[describe(data).digest] == data
    assert hostile.received == len(data)  # nothing that had arrived was sent again
    assert offsets[0] == 0
    assert hostile.count("POST") == 1


def test_an_upload_that_the_registry_forgot_begins_anew(
    repository: Repository, hostile: HostileRegistry
) -> None:
    data = os.urandom(5 << 20)

    def forget(handler: faults.Handler) -> bool:
        handler.registry.uploads.clear()
        return faults.hang_up(handler)

    hostile.fault("PATCH", forget)
    repository.push_blob(describe(data), opener(data))
    assert hostile.blobs[describe(data).digest] == data
    assert hostile.count("POST") == 2


def test_an_upload_goes_on_although_its_new_place_is_unusable(
    repository: Repository, hostile: HostileRegistry
) -> None:
    data = os.urandom(6 << 20)

    def misplace(handler: faults.Handler) -> bool:
        (held,) = handler.registry.uploads.values()
        handler.answer(204, b"", Range=f"0-{len(held) - 1}", Location="http://[")
        return True

    hostile.fault("PATCH", faults.break_upload(1 << 20))
    hostile.fault("GET .*/uploads/", misplace)
    repository.push_blob(describe(data), opener(data))
    assert hostile.blobs[describe(data).digest] == data
    assert hostile.received == len(data)


def test_chunks_are_no_smaller_than_the_registry_wants(hostile: HostileRegistry, connect: Connect) -> None:
    data = os.urandom(5 << 20)
    hostile.chunk_minimum = 2 << 20
    settings = {hostile.host: {"tls": "off", "upload_chunk": 1 << 20}}
    connect(settings).repository(named(hostile)).push_blob(describe(data), opener(data))
    sizes = [int(asked.headers["Content-Length"]) for asked in hostile.asked if asked.method == "PATCH"]
    assert sizes == [2 << 20, 2 << 20, 1 << 20]


def test_a_proxy_that_limits_bodies_is_told_how_to_live_with(
    repository: Repository, hostile: HostileRegistry
) -> None:
    data = os.urandom(5 << 20)
    hostile.fault("PATCH", faults.status(413))
    with pytest.raises(InvalidSpec, match=f"set registries.{hostile.host}.upload_chunk"):
        repository.push_blob(describe(data), opener(data))
    assert hostile.uploads == {}  # it was given up, not left lying


def test_a_source_that_ends_early_is_no_fault_of_the_registry(
    repository: Repository, hostile: HostileRegistry
) -> None:
    with pytest.raises(InvalidSpec, match="it ends 1 bytes ahead of its size"):
        repository.push_blob(describe(DATA + b"x"), opener(DATA))
    assert hostile.uploads == {}
