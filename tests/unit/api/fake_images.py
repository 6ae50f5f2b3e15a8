# SPDX-License-Identifier: Apache-2.0
"""Images in memory: one that is there, and a record of what was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from mooring_agent.engine.images import Pulled
from mooring_agent.engine.outcome import Action, outcome
from mooring_agent.errors import Conflict, InvalidSpec, NotFound, Unauthorized
from mooring_agent.images.content import Descriptor
from mooring_agent.images.image import Image, Progress, ProgressEvent
from mooring_agent.images.pruning import PruneFilter, Removed
from mooring_agent.images.registry.settings import Credentials
from mooring_agent.images.usage import DiskUsage, HistoryEntry, ImageUsage
from mooring_agent.images.verifying import Damage, Verdict
from mooring_agent.storage.snapshotter import Change, ChangeKind

IMAGE = Image(
    id="sha256:" + "ab" * 32,
    manifest_digest="sha256:" + "cd" * 32,
    references=("docker.io/library/web:1",),
    created_at=1_700_000_000.0,
    architecture="amd64",
    os="linux",
    config={"Cmd": ["serve"], "ExposedPorts": {"80/tcp": {}}, "Labels": {"made": "here"}},
    history=({"created_by": "import"},),
    diff_ids=("sha256:" + "ef" * 32,),
    chain_id="sha256:" + "ef" * 32,
    size=2_000_000,
)


class FakeImages:
    """One image, and room for what is imported."""

    def __init__(self) -> None:
        self.imported: list[tuple[bytes, str | None, Any, str]] = []
        self.tagged: list[str] = []
        self.pulled: list[tuple[str, Any, Credentials | None]] = []
        self.pruned: list[PruneFilter] = []

    async def list(self) -> tuple[Image, ...]:
        return (IMAGE,)

    async def get(self, reference: str) -> Image:
        if reference in ("web:1", "web", IMAGE.id, IMAGE.id[7:19], *IMAGE.references):
            return IMAGE
        raise NotFound(f"no such image: {reference}")

    async def put(
        self, reference: str, spec: dict[str, Any], *, dry_run: bool, progress: Progress | None
    ) -> dict[str, Any]:
        if progress is not None:
            work = progress
            await asyncio.to_thread(lambda: work(ProgressEvent("unpack", 1, 2, "layer")))
        if reference == "bad/one:1":
            raise Conflict("image bad/one:1 is in use")
        if reference == "crash":
            raise ZeroDivisionError("secret")
        return outcome([Action("create", "image", reference, "")], None, spec, IMAGE.view())

    async def delete(self, reference: str, *, dry_run: bool = False) -> dict[str, Any]:
        return outcome([], None, None, None)

    async def import_stream(
        self,
        chunks: AsyncIterable[bytes],
        reference: str | None,
        config: Any,
        progress: Any,
        comment: str,
        architecture: str | None = None,
    ) -> Image:
        content = b"".join([piece async for piece in chunks])
        if content == b"bad":
            raise Conflict("this is no tar")
        self.imported.append((content, reference, config, comment))
        return IMAGE

    async def tag(self, image: str, reference: str) -> Image:
        self.tagged.append(reference)
        return IMAGE

    async def history(self, reference: str) -> tuple[HistoryEntry, ...]:
        return (HistoryEntry(1.0, "import", "", "", 5, False),)

    async def usage(self) -> DiskUsage:
        return DiskUsage((ImageUsage(IMAGE, 5, 2, 3, 1),), 5, 4, 0)

    async def pull(
        self, reference: str, *, platform: Any, credentials: Credentials | None, progress: Progress | None
    ) -> Pulled:
        self.pulled.append((reference, platform, credentials))
        if "absent" in reference:
            raise NotFound(f"pull of {reference}: no such image")
        if "secret" in reference:
            raise Unauthorized(f"pull of {reference}: log in")
        if progress is not None:
            for step, current in (("download", 1), ("verify", 2), ("unpack", 1), ("unpack", 2)):
                progress(ProgressEvent(step, current, 2, "aa"))
            progress(ProgressEvent("exists", 2, 2, "bb"))
        if "breaks" in reference:
            raise NotFound(f"pull of {reference}: no such layer")
        return Pulled(IMAGE, f"sha256:{'d' * 64}", "new" in reference)

    async def push(
        self, reference: str, *, credentials: Credentials | None, progress: Progress | None
    ) -> Descriptor:
        if progress is not None:
            progress(ProgressEvent("upload", 1, 2, "aa"))
            progress(ProgressEvent("upload", 2, 2, "aa"))
            progress(ProgressEvent("mount", 2, 2, "bb from other/app"))
            progress(ProgressEvent("exists", 2, 2, IMAGE.id[7:19]))
        return Descriptor("m", f"sha256:{'d' * 64}", 7)

    async def at_registry(self, reference: str, credentials: Any, ask: Callable[[Any], Any]) -> Any:
        return ask(SimpleNamespace(tags_to_pull=lambda: ["1", "2"]))

    async def push_declared(
        self, reference: str, *, to: str | None, credentials: Any, progress: Any, dry_run: bool
    ) -> dict[str, Any]:
        return outcome([Action("push", "image", to or reference, "")], None, None, {"digest": "sha256:d"})

    async def load(self, chunks: AsyncIterable[bytes], *, platform: Any, progress: Any) -> list[Image]:
        if b"".join([piece async for piece in chunks]) == b"bad":
            raise InvalidSpec("this is no archive")
        progress(ProgressEvent("unpack", 1, 2, "aa"))
        return [IMAGE, replace(IMAGE, references=())]

    async def save(self, references: Sequence[str]) -> AsyncIterator[bytes]:
        for reference in references:
            await self.get(reference)

        async def chunks() -> AsyncIterator[bytes]:
            yield " ".join(references).encode()

        return chunks()

    async def check_login(self, host: str, credentials: Credentials | None) -> str:
        if credentials is None:
            if host == "reg.example":
                raise Unauthorized(f"login to {host}: it wants credentials")
        elif credentials.password != "right":
            raise Unauthorized(f"login to {host}: denied")
        return ""

    async def prune(self, wanted: PruneFilter) -> Removed:
        self.pruned.append(wanted)
        return Removed(IMAGE.references, (IMAGE.id,), 42)

    async def verify(self, reference: str | None, *, repair: bool, progress: Any) -> list[Verdict]:
        damage = Damage("sha256:e", "it is damaged", "here/app" if repair else None)
        return [Verdict("web:1", IMAGE.id, 3, (damage,), ())]

    async def remove(self, reference: str, *, force: bool = False) -> Removed:
        image = await self.get(reference)
        return Removed(image.references, (image.id,))


class FakeCommits:
    """One container's changes."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    async def commit(self, reference: str, name: str | None, **options: Any) -> Image:
        self.asked.append((reference, name, options))
        return IMAGE

    async def changes(self, reference: str) -> list[Change]:
        return [Change(b"made", ChangeKind.ADDED), Change(b"gone", ChangeKind.DELETED)]

    async def export(self, reference: str) -> AsyncIterator[bytes]:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"tar"

        return chunks()
