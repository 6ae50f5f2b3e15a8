# SPDX-License-Identifier: Apache-2.0
"""The layers of an image become snapshots: unpacked side by side as their blobs come, committed bottom first.

Where the snapshotter is stacked, a layer is unpacked as soon as its blob is here, whatever lies below it, and
is told its parent when that is committed. Else each begins as a copy of its parent and waits for it. As many
are unpacked at a time as there are processes for it (unpacking.py); those that wait for their parent are
temporary snapshots on the disk, gone after a kill.

A work takes the turns at all its layers before it begins, from the bottom up. So two works never wait for
each other: who waits for one layer has none below it that is not committed.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from mooring_agent.errors import InvalidSpec
from mooring_agent.failpoints import reached
from mooring_agent.images.content import Descriptor
from mooring_agent.images.image import Progress, ProgressEvent, chain_id
from mooring_agent.images.implied import adopt_attributes, read_note
from mooring_agent.images.ingest import commit_or_share, is_there
from mooring_agent.images.layers import Limits
from mooring_agent.images.leases import Lease
from mooring_agent.images.state import StoreState
from mooring_agent.images.stream import detect, peek
from mooring_agent.images.turns import Stop
from mooring_agent.images.unpacking import unpack_layer

_INTERVAL = 0.1  # seconds between two events of progress for one layer


@dataclass(frozen=True, slots=True)
class WantedLayer:
    """A layer that an image needs: its blob, its chain ID and that of the one below, what it unpacks to."""

    blob: Descriptor
    chain: str
    below: str | None
    diff_id: str


def wanted_layers(blobs: Sequence[Descriptor], diff_ids: Sequence[str]) -> list[WantedLayer]:
    """The layers of an image, bottom first; of each blob what it unpacks to is known."""
    found: list[WantedLayer] = []
    below: str | None = None
    for index, (blob, diff_id) in enumerate(zip(blobs, diff_ids, strict=True)):
        chain = chain_id(diff_ids[: index + 1])
        assert chain is not None
        found.append(WantedLayer(blob, chain, below, diff_id))
        below = chain
    return found


class LayerStack:
    """The layers of one image on their way to be snapshots. Used once, by one thread, within a lease."""

    def __init__(
        self,
        state: StoreState,
        lease: Lease,
        stop: Stop,
        progress: Progress,
        wanted: Sequence[WantedLayer],
        *,
        arrivals: Mapping[str, Future[None]] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Prepare to build; `arrivals` are the blobs, by digest, that are still on their way."""
        self._state = state
        self._lease = lease
        self._stop = stop
        self._progress = progress
        self._wanted = wanted
        self._arrivals = arrivals or {}
        self._limits = limits
        self._turns: dict[str, ExitStack] = {}  # by chain ID, of the layers that are not committed
        self._unpacking: dict[str, Future[_Draft]] = {}  # by chain ID

    def build(self) -> None:
        """Have all layers committed and leased, and all blobs arrived.

        Raises what an arrival failed with, InvalidSpec for a layer that is damaged, hostile or beyond the
        limits, Unavailable when a blob here is damaged or the disk is full, Cancelled. Then nothing is left
        of what is not committed.
        """
        with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="mooring-unpack") as pool:
            try:
                self._take_turns()
                self._work(pool)
            except BaseException:
                self._stop.set()
                raise
            finally:
                pool.shutdown(cancel_futures=True)
                with ExitStack() as leftovers:  # all of them go, whatever happens to one
                    for turn in self._turns.values():
                        leftovers.callback(turn.close)
                    for future in self._unpacking.values():
                        if not future.cancelled() and future.exception() is None:
                            leftovers.callback(future.result().close)

    def _take_turns(self) -> None:
        """Find the layers that are there, and keep others from unpacking those that are not."""
        for each in self._wanted:
            turn = ExitStack()
            turn.enter_context(self._state.turns.turn(each.chain, self._stop, self._look_at_arrivals))
            self._turns[each.chain] = turn
            with self._state.lock:
                self._lease.add(each.chain)
                there = self._state.has_layer(each.chain)
            if there:
                self._tell("exists", each, each.blob.size)
                self._turns.pop(each.chain).close()

    def _look_at_arrivals(self) -> None:
        for arrival in self._arrivals.values():
            if arrival.done():
                arrival.result()

    def _work(self, pool: ThreadPoolExecutor) -> None:
        pending: set[Future[Any]] = set(self._arrivals.values())
        left = [each for each in self._wanted if each.chain in self._turns]
        while left or pending:
            for each in left:
                if each.chain not in self._unpacking and self._can_begin(each, pending):
                    self._unpacking[each.chain] = pool.submit(self._unpack, each)
                    pending.add(self._unpacking[each.chain])
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            while left and left[0].chain in self._unpacking and self._unpacking[left[0].chain].done():
                self._commit(left.pop(0))

    def _can_begin(self, layer: WantedLayer, pending: AbstractSet[Future[Any]]) -> bool:
        if self._arrivals.get(layer.blob.digest) in pending:
            return False
        return self._state.snapshots.stacked or layer.below not in self._turns

    def _unpack(self, layer: WantedLayer) -> _Draft:
        draft = _Draft(self._state, layer, late=layer.below in self._turns)
        try:
            with self._state.taking("layer"):
                draft.prepare()
                draft.unpack(self._watched(layer), self._limits)
        except BaseException:
            draft.close()
            raise
        reached("images-pull-drafted")
        return draft

    def _watched(self, layer: WantedLayer) -> Callable[[Iterator[bytes]], Iterator[bytes]]:
        def watch(chunks: Iterator[bytes]) -> Iterator[bytes]:
            current, told = 0, 0.0
            for chunk in chunks:
                self._stop.check()
                current += len(chunk)
                now = time.monotonic()
                if now - told >= _INTERVAL:
                    told = now
                    self._tell("unpack", layer, current)
                reached("images-pull-unpack")
                yield chunk

        return watch

    def _commit(self, layer: WantedLayer) -> None:
        draft = self._unpacking.pop(layer.chain).result()
        try:
            with self._state.taking("layer"):
                draft.commit(self._stop)
        finally:
            draft.close()
        self._turns.pop(layer.chain).close()
        self._tell("unpack", layer, layer.blob.size)
        reached("images-pull-unpacked")

    def _tell(self, step: str, layer: WantedLayer, current: int) -> None:
        self._progress(ProgressEvent(step, current, layer.blob.size, layer.blob.short))


class _Draft:
    """A layer in a temporary snapshot, which is removed at the end unless it was committed."""

    def __init__(self, state: StoreState, layer: WantedLayer, *, late: bool) -> None:
        """One that is `late` learns of its parent when it is committed."""
        self._snapshots = state.snapshots
        self._content = state.content
        self._layer = layer
        self._key = f"extract-{uuid.uuid4().hex}"
        self._late = late
        self._resources = ExitStack()
        self._note: BinaryIO | None = None

    def prepare(self) -> None:
        """Make the snapshot."""
        below = None if self._late else self._layer.below
        self._snapshots.prepare(self._key, below, temporary=True)
        self._resources.callback(self._remove)
        if self._late:
            self._note = self._content.unnamed()
            self._resources.callback(_drop, self._note)

    def unpack(self, watch: Callable[[Iterator[bytes]], Iterator[bytes]], limits: Limits | None) -> None:
        """Fill it from its blob, whose bytes pass by `watch`; see LayerStack.build."""
        layer = self._layer
        target = self._snapshots.unpack_target(self._key)
        with closing(self._content.chunks(layer.blob)) as chunks:
            head, whole = peek(watch(chunks))
            applied = unpack_layer(whole, target, detect(head), limits, implied=self._note)
        if applied.diff_id != layer.diff_id:
            raise InvalidSpec(
                f"layer {layer.blob.digest} unpacks to {applied.diff_id} and its image's configuration says "
                f"{layer.diff_id}: the image is damaged, build or push it again"
            )

    def commit(self, stop: Stop) -> None:
        """Commit it; what is below it is committed."""
        below = self._layer.below if self._late else None
        if self._note is not None:
            target = self._snapshots.unpack_target(self._key, on=below)
            adopt_attributes(target, _checked(read_note(self._note), stop))
        commit_or_share(self._snapshots, self._key, self._layer.chain, parent=below)

    def close(self) -> None:
        """Remove it unless it is committed."""
        self._resources.close()

    def _remove(self) -> None:
        if is_there(self._snapshots, self._key):
            self._snapshots.remove(self._key)


def _drop(note: BinaryIO) -> None:
    """Close a note that nobody needs any more; what it still holds back finds no room on a full disk."""
    with suppress(OSError):
        note.close()


def _checked(paths: Iterator[bytes], stop: Stop) -> Iterator[bytes]:
    for path in paths:
        stop.check()
        yield path
