# SPDX-License-Identifier: Apache-2.0
"""Images as declared resources: a name, and where its image comes from."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import json
from typing import Any
from weakref import WeakValueDictionary

from ..errors import NotFound
from ..images.image import Image, Progress, no_progress
from ..images.specs import made_from, normalise_image_spec, source_of, without_credentials
from ..images.store import ImageStore
from ..state.database import Database
from .images import Images
from .imagesources import ImageSource, sources
from .outcome import Action, outcome


class DeclaredImages:
    """Declares images. What is stored and shown of a spec has no credentials in it."""

    def __init__(self, images: Images, store: ImageStore, database: Database) -> None:
        self._images = images
        self._store = store
        self._connection = database.connection
        self._sources = sources(images, store)
        self._making: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def put(
        self, reference: str, spec: dict[str, Any], *, dry_run: bool = False, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Make `reference` name an image that is made as `spec` says, unless it does: an Outcome."""
        wanted = normalise_image_spec(spec)
        shown = without_credentials(wanted)
        source = self._sources[source_of(wanted)]
        lock = self._making.setdefault(reference, asyncio.Lock())
        async with lock:
            before, reason = await self._compare(reference, wanted, source)
            if reason:
                source.refuse(reference, wanted, reason)
            action = Action("create" if before is None else "replace", "image", reference, reason)
            actions = [action] if reason else []
            if dry_run:
                return outcome(actions, before, shown, None)
            if reason:
                state = source.state(wanted)
                image = await source.make(reference, wanted, progress or no_progress)
                self._remember(reference, wanted, image, state)
            else:
                image = self._store.get(reference)
                if before != shown:  # adopted, or with another policy
                    self._remember(reference, wanted, image, source.state(wanted))
        return outcome(actions, before, shown, image.view())

    async def delete(self, reference: str, *, dry_run: bool = False) -> dict[str, Any]:
        """See to it that nothing is called `reference`. Raises Conflict while a container uses the image."""
        try:
            image = self._store.get(reference)
        except NotFound:
            return outcome([], None, None, None)
        row = self._declared(reference)
        before = json.loads(row["spec"]) if row else {"id": image.id}
        if not dry_run:
            await self._images.remove(reference)
        return outcome([Action("remove", "image", reference, "it is not wanted")], before, None, None)

    def declared(self) -> builtins.list[str]:
        """The references that were declared."""
        rows = self._connection.execute("SELECT name FROM declared WHERE kind = 'image' ORDER BY name")
        return [row["name"] for row in rows]

    async def _compare(
        self, reference: str, wanted: dict[str, Any], source: ImageSource
    ) -> tuple[dict[str, Any] | None, str]:
        """What is declared, and why it is not what is wanted; an empty reason means that it is."""
        row = self._declared(reference)
        try:
            image = self._store.get(reference)
        except NotFound:
            return None, "it does not exist"
        adopts = source.adopts(wanted)
        if row is None:
            reason = "" if adopts else "an image of this name was made in another way"
            return {"id": image.id}, reason or await source.outdated(reference, wanted)
        before = json.loads(row["spec"])
        result = json.loads(row["result"])
        if row["spec_hash"] != _hash(wanted):
            return before, "it was made from another spec"
        if result["id"] != image.id and not adopts:
            return before, "the name has been given to another image since"
        state = source.state(wanted)
        if state and state != result["source"]:
            return before, f"what it was {_PAST[source_of(wanted)]} from has changed"
        return before, await source.outdated(reference, wanted)

    def _remember(self, reference: str, wanted: dict[str, Any], image: Image, state: list[int]) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO declared VALUES ('image', ?, ?, ?, ?)",
            (
                reference,
                json.dumps(without_credentials(wanted)),
                _hash(wanted),
                json.dumps({"id": image.id, "source": state}),
            ),
        )

    def _declared(self, reference: str) -> Any:
        return self._connection.execute(
            "SELECT * FROM declared WHERE kind = 'image' AND name = ?", (reference,)
        ).fetchone()


_PAST = {"import": "imported", "load": "loaded"}


def _hash(wanted: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_from(wanted), sort_keys=True).encode()).hexdigest()
