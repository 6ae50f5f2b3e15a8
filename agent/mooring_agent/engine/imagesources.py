# SPDX-License-Identifier: Apache-2.0
"""Where declared images come from: one class for each source that an image spec may name."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..errors import InvalidSpec, NotFound, Unavailable
from ..images.build.context import DOCKERFILE, archive_context, digest_context
from ..images.build.options import BuildOptions
from ..images.config import ImageConfig
from ..images.image import Image, Progress
from ..images.platform import Platform
from ..images.reference import Reference
from ..images.registry.settings import Credentials
from ..images.specs import TemplateSpec
from ..images.store import ImageStore
from .builds import Builds
from .images import Images
from .imageworkers import streamed

_PIECE = 1 << 20  # bytes


class ImageSource(Protocol):
    """One way to make an image; `wanted` is a normalised image spec that has this source."""

    def adopts(self, wanted: Mapping[str, Any]) -> bool:
        """Whether an image that came by its name in another way will do."""
        ...

    async def state(self, wanted: Mapping[str, Any]) -> list[int | str]:
        """What tells whether that has changed which the image is made from; empty if nothing does."""
        ...

    async def outdated(self, reference: str, wanted: Mapping[str, Any]) -> str:
        """Why the image that is here is made anew though it is from this spec; empty if it is not."""
        ...

    def refuse(self, reference: str, wanted: Mapping[str, Any], reason: str) -> None:
        """Raise what is known ahead to stand against making it, for `reason`."""
        ...

    async def make(self, reference: str, wanted: Mapping[str, Any], progress: Progress) -> Image:
        """Make the image under its name."""
        ...


class _Local:
    """What sources on this host have in common."""

    def __init__(self, images: Images, store: ImageStore) -> None:
        self._images = images
        self._store = store

    def adopts(self, wanted: Mapping[str, Any]) -> bool:
        return False

    async def state(self, wanted: Mapping[str, Any]) -> list[int | str]:
        return []

    async def outdated(self, reference: str, wanted: Mapping[str, Any]) -> str:
        return ""

    def refuse(self, reference: str, wanted: Mapping[str, Any], reason: str) -> None:
        return


class _Template(_Local):
    async def outdated(self, reference: str, wanted: Mapping[str, Any]) -> str:
        max_age = TemplateSpec.from_spec(wanted["template"]).max_age
        if max_age is None:
            return ""
        built_at = await asyncio.to_thread(self._store.built_at, self._store.get(reference))
        if time.time() - built_at <= max_age:
            return ""
        return f"its template was built more than {wanted['template']['max_age']} ago"

    async def make(self, reference: str, wanted: Mapping[str, Any], progress: Progress) -> Image:
        config = ImageConfig.from_spec(wanted.get("config", {}))
        template = TemplateSpec.from_spec(wanted["template"])
        return await self._images.made(
            reference,
            lambda cancelled: self._store.from_template(template, reference, config, progress, cancelled),
        )


class _Import(_Local):
    async def state(self, wanted: Mapping[str, Any]) -> list[int | str]:
        files = (wanted["import"]["path"], wanted["import"].get("metadata"))
        return [number for path in files if path is not None for number in _file_state(path)]

    async def make(self, reference: str, wanted: Mapping[str, Any], progress: Progress) -> Image:
        config = ImageConfig.from_spec(wanted.get("config", {}))
        path = _existing(reference, "imported", wanted["import"]["path"])
        metadata = Path(wanted["import"]["metadata"]) if "metadata" in wanted["import"] else None
        return await self._images.made(
            reference,
            lambda cancelled: self._store.import_rootfs(
                path, reference, config, progress, metadata=metadata, cancelled=cancelled
            ),
        )


class _Load(_Local):
    async def state(self, wanted: Mapping[str, Any]) -> list[int | str]:
        return _file_state(wanted["load"]["path"])

    async def make(self, reference: str, wanted: Mapping[str, Any], progress: Progress) -> Image:
        path = _existing(reference, "loaded", wanted["load"]["path"])
        return await self._images.made(
            reference,
            lambda cancelled: self._load(path, reference, wanted["load"].get("from"), progress, cancelled),
            "load",
        )

    def _load(
        self,
        path: Path,
        reference: str,
        called: str | None,
        progress: Progress,
        cancelled: threading.Event,
    ) -> Image:
        try:
            loaded = self._store.load(_pieces(path), progress=progress, cancelled=cancelled)
        except OSError as error:
            raise Unavailable(
                f"image {reference}: {path} cannot be read ({error.strerror}): expected an archive of images"
            ) from error
        chosen = _chosen(loaded, called or reference)
        if chosen is None and called is None and len(loaded) == 1:
            chosen = loaded[0]
        if chosen is None:
            names = ", ".join(image.name for image in loaded)
            raise InvalidSpec(
                f"archive {path} has the images {names}, and {called or reference} is none of them: "
                "say with load.from which one is meant"
            )
        return self._store.tag(chosen.id, reference)


class _Build(_Local):
    """A directory of this host. Its content counts, and that of secrets does not."""

    def __init__(self, images: Images, store: ImageStore, builds: Builds) -> None:
        super().__init__(images, store)
        self._builds = builds

    async def state(self, wanted: Mapping[str, Any]) -> list[int | str]:
        build = wanted["build"]
        directory = Path(build["context"])
        if not directory.exists():
            return []  # built once, and the context tidied away: the image is what counts
        return [await asyncio.to_thread(digest_context, directory, build.get("dockerfile", DOCKERFILE))]

    async def make(self, reference: str, wanted: Mapping[str, Any], progress: Progress) -> Image:
        build = wanted["build"]
        directory = _existing(reference, "built", build["context"])
        dockerfile = build.get("dockerfile", DOCKERFILE)
        options = BuildOptions(
            dockerfile=dockerfile,
            tags=(str(Reference.parse(reference)),),
            args=build.get("args", {}),
            labels=build.get("labels", {}),
            target=build.get("target", ""),
            no_cache=build.get("no_cache", False),
            pull=build.get("pull", False),
            network=build.get("network", "default"),
            secrets={id: _secret(id, path) for id, path in build.get("secrets", {}).items()},
            epoch=build.get("source_date_epoch"),
        ).checked()
        return await self._builds.build(options, streamed(archive_context(directory, dockerfile)), progress)


class _Pull:
    """The registry of the name, or of another name, by a policy."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def adopts(self, wanted: Mapping[str, Any]) -> bool:
        return "from" not in wanted["pull"]

    async def state(self, wanted: Mapping[str, Any]) -> list[int | str]:
        return []

    async def outdated(self, reference: str, wanted: Mapping[str, Any]) -> str:
        pull = wanted["pull"]
        return await self._images.to_pull(
            reference,
            pull.get("policy", "missing"),
            by=pull.get("from"),
            platform=_platform(pull),
            credentials=credentials_of(pull.get("credentials")),
        )

    def refuse(self, reference: str, wanted: Mapping[str, Any], reason: str) -> None:
        if wanted["pull"].get("policy") == "never":
            raise NotFound(
                f"image {reference} would have to be pulled ({reason}), and its pull policy is never: "
                "bring it here in another way, or choose another policy"
            )

    async def make(self, reference: str, wanted: Mapping[str, Any], progress: Progress) -> Image:
        pull = wanted["pull"]
        by = pull.get("from", reference)
        pulled = await self._images.pull(
            by,
            platform=_platform(pull),
            credentials=credentials_of(pull.get("credentials")),
            progress=progress,
        )
        if Reference.parse(by) == Reference.parse(reference):
            return pulled.image
        return await self._images.tag(pulled.image.id, reference)


def sources(images: Images, store: ImageStore, builds: Builds) -> dict[str, ImageSource]:
    """The sources by the key of an image spec."""
    return {
        "template": _Template(images, store),
        "import": _Import(images, store),
        "load": _Load(images, store),
        "pull": _Pull(images),
        "build": _Build(images, store, builds),
    }


def credentials_of(given: Mapping[str, str] | None) -> Credentials | None:
    """Credentials that a request brings."""
    return Credentials("the request", given["username"], given["password"]) if given else None


def _platform(pull: Mapping[str, Any]) -> Platform | None:
    return Platform.parse(pull["platform"]) if "platform" in pull else None


def _existing(reference: str, what: str, path: str) -> Path:
    if not Path(path).exists():
        raise InvalidSpec(f"image {reference} is to be {what} from {path}, which does not exist on this host")
    return Path(path)


def _file_state(path: str) -> list[int | str]:
    """What tells a changed archive from the one that was taken. A directory is taken as it was."""
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return []  # taken once, and the archive tidied away: the image is what counts
    return [found.st_size, found.st_mtime_ns]


def _secret(id: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidSpec(
            f"the secret {id} cannot be read from {path} ({error.strerror}): expected a file of this host"
        ) from error


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _chosen(images: list[Image], name: str) -> Image | None:
    wanted = str(Reference.parse(name))
    return next((image for image in images if wanted in image.references), None)
