# SPDX-License-Identifier: Apache-2.0
"""The image store for asyncio: what is slow happens in threads, what happened is told as an event."""

from __future__ import annotations

import asyncio
import builtins
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import MooringError, NotFound
from ..images.config import ImageConfig
from ..images.content import Descriptor
from ..images.image import Image, Progress, no_progress
from ..images.platform import Platform
from ..images.pruning import PruneFilter, Removed
from ..images.reference import Reference
from ..images.registry import removing
from ..images.registry.client import Registries, Repository
from ..images.registry.settings import Credentials
from ..images.store import ImageStore
from ..images.usage import DiskUsage, HistoryEntry
from ..images.verifying import Verdict
from ..state.database import Database
from .events import EventBus
from .imageworkers import ImageWorkers, SharedWork, streamed
from .outcome import Action, outcome
from .peers import Peers
from .uploads import as_file, taken_in

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pulled:
    """An image that was pulled; `digest` is what its name points to, `changed` whether it did not before."""

    image: Image
    digest: str
    changed: bool


class Images:
    """Images by name: found, moved, made and removed.

    Work whose caller is cancelled ends: a pull when the last of those who wait for it has left.
    """

    def __init__(
        self,
        store: ImageStore,
        registries: Registries,
        peers: Peers,
        database: Database,
        events: EventBus,
        vacate: Callable[[], Awaitable[None]],
        users: Callable[[], Iterable[str]],
    ) -> None:
        """`vacate` undoes what stands by on images, `users` gives the image of each container."""
        self._store = store
        self._registries = registries
        self._peers = peers
        self._connection = database.connection
        self._events = events
        self._vacate = vacate
        self._users = users
        self._workers = ImageWorkers()
        self._pulls: SharedWork[Image] = SharedWork()

    async def close(self) -> None:
        """End what is under way; a pull goes on from there when it is begun again."""
        self._registries.close()
        await self._workers.close()

    # Looking

    async def list(self) -> tuple[Image, ...]:
        """All images, newest first."""
        return self._store.list()

    async def get(self, reference: str) -> Image:
        """The image of a name, an id or the beginning of an id. Raises NotFound."""
        return self._store.get(reference)

    async def history(self, reference: str) -> tuple[HistoryEntry, ...]:
        """How an image came to be, newest first."""
        return await asyncio.to_thread(self._store.history, reference)

    async def usage(self) -> DiskUsage:
        """How much of the disk images take."""
        return await asyncio.to_thread(self._store.usage, Counter(self._users()))

    async def _pointed(self, reference: str) -> tuple[Descriptor, Descriptor]:
        """What a name points to, and the manifest of the image here. Raises NotFound.

        In a thread, since it waits for whoever changes images.
        """
        return await self._workers.run(lambda _: self._store.pointed(reference))

    # Registries

    async def pull(
        self,
        reference: str,
        *,
        platform: Platform | None = None,
        credentials: Credentials | None = None,
        progress: Progress | None = None,
    ) -> Pulled:
        """Get an image from the registry of its name; who pulls the same at the same time shares the work."""
        name = Reference.parse(reference)
        before = await self._digest(str(name))

        async def work(tell: Progress) -> Image:
            def pull(cancelled: threading.Event) -> Image:
                repository = self._registries.repository(name, credentials)
                with self._peers.source(repository, name) as source:
                    return self._store.pull(
                        source, str(name), platform=platform, progress=tell, cancelled=cancelled
                    )

            return await self._workers.run(pull)

        image = await self._pulls.run((name, platform, credentials), work, progress)
        digest = await self._digest(str(name)) or image.manifest_digest
        self._publish("pull", image.id, name.familiar)
        return Pulled(image, digest, digest != before)

    async def push(
        self,
        reference: str,
        *,
        credentials: Credentials | None = None,
        progress: Progress | None = None,
    ) -> Descriptor:
        """Send the image of a name to the registry of that name; returns what is there now."""
        await self._send(reference, None, credentials, progress)
        return (await self._pointed(reference))[1]

    async def _send(
        self, reference: str, to: str | None, credentials: Credentials | None, progress: Progress | None
    ) -> str:
        """Send an image under its name or the name `to`; returns the digest that it has there."""
        name = Reference.parse(to or reference)
        image = self._store.get(reference)
        digest = await self._workers.run(
            lambda cancelled: self._store.push(
                self._registries.repository(name, credentials),
                reference,
                to=to,
                progress=progress or no_progress,
                cancelled=cancelled,
            )
        )
        self._publish("push", image.id, name.familiar)
        return digest

    async def push_declared(
        self,
        reference: str,
        *,
        to: str | None = None,
        credentials: Credentials | None = None,
        progress: Progress | None = None,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """See to it that a registry has the image of a name, under that name or `to`: an Outcome.

        Nothing is sent, and nothing changed, when its digest is there already.
        """
        image = self._store.get(reference)
        target = Reference.parse(to or reference)
        digest = image.manifest_digest
        if to is None and Reference.parse(reference).digest is None:
            digest = (await self._pointed(reference))[1].digest
        reason = await self._to_push(target, digest, credentials)
        actions = [Action("push", "image", target.familiar, reason)] if reason else []
        if dry_run or not reason:
            result = None if dry_run else {"name": target.familiar, "digest": digest}
            return outcome(actions, None, None, result)
        there = await self._send(reference, to, credentials, progress)
        return outcome(actions, None, None, {"name": target.familiar, "digest": there})

    async def remote(self, reference: str, credentials: Credentials | None = None) -> Descriptor:
        """What the registry of a name has under it now, without pulling it."""
        name = Reference.parse(reference)
        asked = name.digest or name.tag or ""
        return await self.at_registry(reference, credentials, lambda repository: repository.resolve(asked))

    async def remove_at_registry(
        self,
        reference: str,
        *,
        credentials: Credentials | None = None,
        dry_run: bool = False,
        force: bool = False,
    ) -> dict[str, Any]:
        """See to it that the registry of a name has nothing under it: an Outcome; what is here stays.

        Raises Conflict where a tag would take others along, unless with `force`, and NotSupported where the
        registry lets nothing be removed; a dry run can tell neither.
        """
        name = Reference.parse(reference)

        def work(repository: Repository) -> Descriptor | None:
            found = removing.find(repository, name)
            if found is not None and not dry_run:
                removing.remove(repository, name, found, force=force)
            return found

        found = await self.at_registry(reference, credentials, work)
        if found is None:
            return outcome([], None, None, None)
        before = {"name": name.familiar, "digest": found.digest, "media_type": found.media_type}
        action = Action("remove", "image", name.familiar, f"{name.domain} has it")
        return outcome([action], before, None, None)

    async def at_registry(
        self, reference: str, credentials: Credentials | None, ask: Callable[[Repository], T]
    ) -> T:
        """What `ask(repository)` returns, in a thread."""
        name = Reference.parse(reference)
        return await self._workers.run(lambda _: ask(self._registries.repository(name, credentials)))

    async def check_login(self, host: str, credentials: Credentials | None) -> str:
        """Raise Unauthorized if a registry does not take the credentials; the identity token if any. None are
        enough for one that wants none.
        """
        login = await self._workers.run(lambda _: self._registries.check_login(host, credentials))
        return login.identity_token

    async def to_pull(
        self,
        reference: str,
        policy: str,
        *,
        by: str | None = None,
        platform: Platform | None = None,
        credentials: Credentials | None = None,
    ) -> str:
        """Why a policy wants an image pulled, `by` another name if given; empty if it does not.

        `always` and `newer` ask the registry for the digest that it has now; `newer` is content with what is
        here when it does not answer.
        """
        try:
            image = self._store.get(reference)
        except NotFound:
            return "it is not on this host"
        if str(_named(reference)) not in (*image.references, *image.digests):
            return ""  # an ID: it cannot become another image
        if platform is not None and not platform.takes(image.os, image.architecture):
            return f"it is for {image.os}/{image.architecture} and {platform} is wanted"
        if policy not in ("always", "newer"):
            return ""
        try:
            there = await self.remote(by or reference, credentials)
        except MooringError as error:
            if policy == "always":
                raise
            logger.warning("no newer image was looked for image=%s error=%r", reference, error.message)
            return ""
        here = {digest.rpartition("@")[2] for digest in image.digests} | {image.manifest_digest}
        return "" if there.digest in here else f"its registry has {there.digest[7:19]} now"

    async def _to_push(self, name: Reference, digest: str, credentials: Credentials | None) -> str:
        asked = name.digest or name.tag or ""
        try:
            there = await self.at_registry(
                str(name), credentials, lambda repository: repository.stored(asked)
            )
        except NotFound:
            return f"{name.domain} does not have it"
        return "" if there.digest == digest else f"{name.domain} has {there.digest[7:19]} under this name"

    async def _digest(self, name: str) -> str:
        """What a name points to; empty if it points to nothing."""
        try:
            return (await self._pointed(name))[0].digest
        except NotFound:
            return ""

    # Archives

    async def load(
        self,
        chunks: AsyncIterable[bytes],
        *,
        platform: Platform | None = None,
        progress: Progress | None = None,
    ) -> builtins.list[Image]:
        """Take in the images of an archive that arrives in pieces: all or none."""
        images = await taken_in(
            chunks,
            lambda upload: self._workers.run(
                lambda cancelled: self._store.load(
                    upload.pieces(),
                    platform=platform,
                    progress=progress or no_progress,
                    cancelled=cancelled,
                )
            ),
        )
        for image in images:
            self._publish("load", image.id, image.name)
        return images

    async def save(self, references: Sequence[str]) -> AsyncIterator[bytes]:
        """The archive of images as a stream. Raises NotFound at once."""
        chunks = await asyncio.to_thread(self._store.save, references)
        for reference in references:
            self._publish("save", self._store.get(reference).id, reference)
        return streamed(chunks)

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
        image = await taken_in(
            chunks,
            lambda upload: self._workers.run(
                lambda cancelled: self._store.import_rootfs(
                    as_file(upload),
                    reference,
                    config,
                    progress or no_progress,
                    comment=comment,
                    architecture=architecture,
                    cancelled=cancelled,
                )
            ),
        )
        self._publish("import", image.id, reference or image.id)
        return image

    async def made(
        self, reference: str, make: Callable[[threading.Event], Image], event: str = "import"
    ) -> Image:
        """An image that `make(cancelled)` makes under a name, in a thread."""
        await self._vacate()
        image = await self._workers.run(make)
        self._publish(event, image.id, reference)
        return image

    # Names, and the end

    async def tag(self, image: str, reference: str) -> Image:
        """Give an image one more name."""
        tagged = await asyncio.to_thread(self._store.tag, image, reference)
        self._publish("tag", tagged.id, reference)
        return tagged

    async def remove(self, reference: str, *, force: bool = False) -> Removed:
        """Take the name away, and the image with its last one."""
        image = self._store.get(reference)
        await self._vacate()
        removed = await asyncio.to_thread(self._store.remove, reference, force=force)
        for name in removed.untagged:
            self._connection.execute("DELETE FROM declared WHERE kind = 'image' AND name = ?", (name,))
            self._publish("untag", image.id, Reference.parse(name).familiar)
        self._tell_deleted(removed)
        return removed

    async def prune(self, wanted: PruneFilter, *, dry_run: bool = False) -> Removed:
        """Delete images that no container uses; see ImageStore.prune."""
        if dry_run:
            return await self._workers.run(lambda _: self._store.prune(wanted, dry_run=True))
        await self._vacate()
        removed = await self._workers.run(lambda _: self._store.prune(wanted))
        self._tell_deleted(removed)
        self._events.publish("image", "prune", "", {"reclaimed": str(removed.freed)})
        return removed

    async def verify(
        self, reference: str | None = None, *, repair: bool = False, progress: Progress | None = None
    ) -> builtins.list[Verdict]:
        """Read all of an image, or of all images; with `repair` what is damaged is fetched again."""

        def repository(name: str) -> Repository:
            return self._registries.repository(Reference.parse(name))

        return await self._workers.run(
            lambda cancelled: self._store.verify(
                reference,
                repositories=repository if repair else None,
                progress=progress or no_progress,
                cancelled=cancelled,
            )
        )

    def _tell_deleted(self, removed: Removed) -> None:
        for deleted in removed.deleted:
            self._publish("delete", deleted, deleted)

    def _publish(self, action: str, image_id: str, name: str) -> None:
        self._events.publish("image", action, image_id, {"name": name})


def _named(reference: str) -> Reference | None:
    try:
        return Reference.parse(reference)
    except MooringError:
        return None  # 64 digits: an ID
