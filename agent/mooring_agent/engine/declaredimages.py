# SPDX-License-Identifier: Apache-2.0
"""Images as declared resources: a name, and where its image comes from."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import json
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from ..errors import InvalidSpec, NotFound
from ..images.image import Image, Progress, no_progress
from ..images.reference import Reference
from ..images.specs import made_from, normalise_image_spec, source_of, without_credentials
from ..images.store import ImageStore
from ..state.database import Database
from .builds import Builds
from .images import Images
from .imagesources import ImageSource, sources
from .outcome import Action, outcome


class DeclaredImages:
    """Declares images, each kept under its full name, however it is written.

    What is stored and shown of a spec has no credentials in it.
    """

    def __init__(self, images: Images, store: ImageStore, builds: Builds, database: Database) -> None:
        self._images = images
        self._store = store
        self._connection = database.connection
        self._sources = sources(images, store, builds)
        self._making: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def put(
        self, reference: str, spec: dict[str, Any], *, dry_run: bool = False, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Make `reference` name an image that is made as `spec` says, unless it does: an Outcome.

        Raises InvalidSpec for what is no name, such as an ID, unless the spec is about further names only.
        """
        wanted = normalise_image_spec(spec)
        shown = without_credentials(wanted)
        kind = source_of(wanted)
        key = _key(reference) if kind is None else str(Reference.parse(reference))
        lock = self._making.setdefault(key, asyncio.Lock())
        async with lock:
            if kind is None:
                return await self._put_tags(reference, wanted["tags"], dry_run=dry_run)
            source = self._sources[kind]
            before, reason = await self._compare(reference, wanted, source)
            if reason:
                source.refuse(reference, wanted, reason)
            action = Action("create" if before is None else "replace", "image", reference, reason)
            actions = [action] if reason else []
            tags = wanted.get("tags", [])
            if dry_run:
                made = None if reason else self._store.get(reference).id
                return outcome([*actions, *self._to_tag(tags, made)], before, shown, None)
            if reason:
                state = await source.state(wanted)
                image = await source.make(reference, wanted, progress or no_progress)
                self._remember(reference, wanted, image, state)
            else:
                image = self._store.get(reference)
                if before != shown:  # adopted, or with another policy
                    self._remember(reference, wanted, image, await source.state(wanted))
            actions += await self._tag(tags, image)
            image = self._store.get(reference)
        return outcome(actions, before, shown, image.view())

    async def _put_tags(self, reference: str, tags: list[str], *, dry_run: bool) -> dict[str, Any]:
        """Give an image that is there further names. Raises NotFound."""
        image = self._store.get(reference)
        actions = self._to_tag(tags, image.id)
        missing = {action.name for action in actions}
        before = {"tags": [tag for tag in tags if tag not in missing]}
        if not dry_run:
            await self._tag(tags, image)
        result = None if dry_run else self._store.get(reference).view()
        return outcome(actions, before, {"tags": tags}, result)

    async def _tag(self, tags: Sequence[str], image: Image) -> builtins.list[Action]:
        actions = self._to_tag(tags, image.id)
        for action in actions:
            await self._images.tag(image.id, action.name)
        return actions

    def _to_tag(self, tags: Sequence[str], image_id: str | None) -> builtins.list[Action]:
        """What it takes that all tags are names of an image; of one that is yet to be made without its ID."""
        actions = []
        for tag in tags:
            try:
                named = self._store.get(tag).id
            except NotFound:
                actions.append(Action("tag", "image", tag, "nothing has this name"))
                continue
            if named != image_id:
                actions.append(Action("tag", "image", tag, f"it names {named[7:19]}"))
        return actions

    async def delete(self, reference: str, *, dry_run: bool = False, force: bool = False) -> dict[str, Any]:
        """See to it that nothing is called `reference`.

        Raises Conflict while a container uses the image; with `force` it loses its name all the same.
        """
        try:
            image = self._store.get(reference)
        except NotFound:
            return outcome([], None, None, None)
        row = self._declared(reference)
        before = json.loads(row["spec"]) if row else {"id": image.id}
        if not dry_run:
            await self._images.remove(reference, force=force)
        return outcome([Action("remove", "image", reference, "it is not wanted")], before, None, None)

    def declared(self) -> builtins.list[str]:
        """The short names of those that were declared."""
        rows = self._connection.execute("SELECT name FROM declared WHERE kind = 'image' ORDER BY name")
        return [Reference.parse(row["name"]).familiar for row in rows]

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
        state = await source.state(wanted)
        if state and state != result["source"]:
            return before, f"what it was {_PAST[str(source_of(wanted))]} from has changed"
        return before, await source.outdated(reference, wanted)

    def _remember(self, reference: str, wanted: dict[str, Any], image: Image, state: list[int | str]) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO declared VALUES ('image', ?, ?, ?, ?)",
            (
                _key(reference),
                json.dumps(without_credentials(wanted)),
                _hash(wanted),
                json.dumps({"id": image.id, "source": state}),
            ),
        )

    def _declared(self, reference: str) -> Any:
        return self._connection.execute(
            "SELECT * FROM declared WHERE kind = 'image' AND name = ?", (_key(reference),)
        ).fetchone()


_PAST = {"import": "imported", "load": "loaded", "build": "built"}


def _key(reference: str) -> str:
    """The full name; an ID, under which nothing is declared, as it is."""
    try:
        return str(Reference.parse(reference))
    except InvalidSpec:
        return reference


def _hash(wanted: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_from(wanted), sort_keys=True).encode()).hexdigest()
