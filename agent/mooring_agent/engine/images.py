# SPDX-License-Identifier: Apache-2.0
"""The image store for asyncio, and images as declared resources."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import json
import queue
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import InvalidSpec, MooringError, NotFound
from ..images.config import ImageConfig
from ..images.image import Image, Progress, no_progress
from ..images.specs import TemplateSpec, made_from, normalise_image_spec
from ..images.store import ImageStore
from ..state.database import Database
from .events import EventBus
from .outcome import Action, outcome

_CHUNKS_AHEAD = 16


class Images:
    """Declares images, and lets slow work happen in threads."""

    def __init__(
        self, store: ImageStore, database: Database, events: EventBus, vacate: Callable[[], Awaitable[None]]
    ) -> None:
        self._store = store
        self._vacate = vacate
        self._connection = database.connection
        self._events = events
        self._making: dict[str, asyncio.Lock] = {}

    async def list(self) -> tuple[Image, ...]:
        """All images, newest first."""
        return self._store.list()

    async def get(self, reference: str) -> Image:
        """The image of a name, an id or the beginning of an id. Raises NotFound."""
        return self._store.get(reference)

    async def put(
        self, reference: str, spec: dict[str, Any], *, dry_run: bool = False, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Make `reference` name an image that is made as `spec` says, unless it is there from the
        same spec.
        """
        wanted = normalise_image_spec(spec)
        fingerprint = _hash(wanted)
        async with self._making.setdefault(reference, asyncio.Lock()):
            before, reason = self._compare(reference, wanted, fingerprint)
            if not reason:
                image = self._store.get(reference)
                return outcome([], before, wanted, None if dry_run else image.view())
            action = Action("create" if before is None else "replace", "image", reference, reason)
            if dry_run:
                return outcome([action], before, wanted, None)
            await self._vacate()
            source = _source_state(wanted)
            image = await asyncio.to_thread(self._make, reference, wanted, progress or no_progress)
            self._connection.execute(
                "INSERT OR REPLACE INTO declared VALUES ('image', ?, ?, ?, ?)",
                (reference, json.dumps(wanted), fingerprint, json.dumps({"id": image.id, "source": source})),
            )
        self._events.publish("image", "import", image.id, {"name": reference})
        return outcome([action], before, wanted, image.view())

    async def delete(self, reference: str, *, dry_run: bool = False) -> dict[str, Any]:
        """See to it that nothing is called `reference`. Raises Conflict while a container uses the image."""
        try:
            image = self._store.get(reference)
        except NotFound:
            return outcome([], None, None, None)
        row = self._declared(reference)
        before = json.loads(row["spec"]) if row else {"id": image.id}
        if not dry_run:
            await self.remove(reference)
        return outcome([Action("remove", "image", reference, "it is not wanted")], before, None, None)

    async def remove(self, reference: str, *, force: bool = False) -> Any:
        """Take the name away, and the image with its last one (images `Removed`)."""
        image = self._store.get(reference)
        await self._vacate()
        removed = await asyncio.to_thread(self._store.remove, reference, force=force)
        self._connection.execute("DELETE FROM declared WHERE kind = 'image' AND name = ?", (reference,))
        self._events.publish("image", "delete" if removed.deleted else "untag", image.id, {"name": reference})
        return removed

    async def tag(self, image: str, reference: str) -> Image:
        """Give an image one more name."""
        tagged = await asyncio.to_thread(self._store.tag, image, reference)
        self._events.publish("image", "tag", tagged.id, {"name": reference})
        return tagged

    async def import_stream(
        self,
        chunks: AsyncIterable[bytes],
        reference: str | None,
        config: ImageConfig | None = None,
        progress: Progress | None = None,
        comment: str = "",
        architecture: str | None = None,
    ) -> Image:
        """Make an image from a tar archive that arrives in pieces, read no faster than it is unpacked.

        `architecture`, of the image's programs, is found out from them unless given.
        """
        source = _ChunkFile()
        work = asyncio.create_task(
            asyncio.to_thread(
                self._store.import_rootfs,
                cast(BinaryIO, source),
                reference,
                config,
                progress or no_progress,
                comment=comment,
                architecture=architecture,
            )
        )
        try:
            async for chunk in chunks:
                while not work.done() and not source.offer(chunk):
                    await asyncio.wait([work], timeout=0.005)
                if work.done():
                    break
        except BaseException as error:
            source.fail(error)
            await asyncio.wait([work])
            raise
        source.end()
        image = await work
        self._events.publish("image", "import", image.id, {"name": reference or image.id})
        return image

    def declared(self) -> builtins.list[str]:
        """The references that were declared."""
        rows = self._connection.execute("SELECT name FROM declared WHERE kind = 'image' ORDER BY name")
        return [row["name"] for row in rows]

    def _compare(
        self, reference: str, wanted: dict[str, Any], fingerprint: str
    ) -> tuple[dict[str, Any] | None, str]:
        """What is declared, and why it is not what is wanted; an empty reason means that it is."""
        row = self._declared(reference)
        try:
            image = self._store.get(reference)
        except NotFound:
            return None, "it does not exist"
        if row is None:
            return {"id": image.id}, "an image of this name was made in another way"
        before = json.loads(row["spec"])
        if row["spec_hash"] != fingerprint:
            return before, "it was made from another spec"
        if json.loads(row["result"])["id"] != image.id:
            return before, "the name has been given to another image since"
        source = _source_state(before)
        if source and source != json.loads(row["result"])["source"]:
            return before, "what it was imported from has changed"
        max_age = TemplateSpec.from_spec(wanted["template"]).max_age if "template" in wanted else None
        if max_age is not None and time.time() - self._store.built_at(image) > max_age:
            return before, f"its template was built more than {wanted['template']['max_age']} ago"
        return before, ""

    def _make(self, reference: str, wanted: dict[str, Any], progress: Progress) -> Image:
        config = ImageConfig.from_spec(wanted.get("config", {}))
        if "template" in wanted:
            return self._store.from_template(
                TemplateSpec.from_spec(wanted["template"]), reference, config, progress
            )
        path = Path(wanted["import"]["path"])
        if not path.exists():
            raise InvalidSpec(
                f"image {reference} is to be imported from {path}, which does not exist on this host"
            )
        metadata = wanted["import"].get("metadata")
        return self._store.import_rootfs(
            path, reference, config, progress, metadata=Path(metadata) if metadata else None
        )

    def _declared(self, reference: str) -> Any:
        return self._connection.execute(
            "SELECT * FROM declared WHERE kind = 'image' AND name = ?", (reference,)
        ).fetchone()


class _ChunkFile(RawIOBase):
    """Bytes handed over from the event loop to a thread that reads a file."""

    def __init__(self) -> None:
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue()
        self._rest = b""
        self._ended = False

    def offer(self, chunk: bytes) -> bool:
        """Add a piece unless enough are waiting."""
        if self._queue.qsize() >= _CHUNKS_AHEAD:
            return False
        if chunk:
            self._queue.put(chunk)
        return True

    def end(self) -> None:
        """There is no more."""
        self._queue.put(b"")

    def fail(self, error: BaseException) -> None:
        """The rest will never come."""
        self._queue.put(MooringError(f"the upload ended early: {str(error) or type(error).__name__}"))

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill as much of the buffer as one piece does."""
        if not self._rest and not self._ended:
            piece = self._queue.get()
            if isinstance(piece, BaseException):
                raise piece
            self._ended = not piece
            self._rest = piece
        length = min(len(buffer), len(self._rest))
        buffer[:length] = self._rest[:length]
        self._rest = self._rest[length:]
        return length


def _hash(wanted: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_from(wanted), sort_keys=True).encode()).hexdigest()


def _source_state(wanted: dict[str, Any]) -> builtins.list[int]:
    """What tells a changed archive from the one that was imported: size and time. A directory is taken as it
    was.
    """
    if "import" not in wanted:
        return []
    try:
        found = Path(wanted["import"]["path"]).stat()
    except FileNotFoundError:
        return []  # imported once, and the archive tidied away: the image is what counts
    return [found.st_size, found.st_mtime_ns]
