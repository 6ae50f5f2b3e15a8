# SPDX-License-Identifier: Apache-2.0
"""Blobs and the index that names them, in the OCI image layout (image-spec, image-layout.md).

Any tool that reads `oci:DIRECTORY` reads this one. Whatever is written appears whole or not at all: blobs
and the index come by rename out of `ingest/`. That is emptied at every open, but for downloads that broke
off: one is kept for a day since it last grew, and goes on where it ended.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import tempfile
import time
from collections.abc import Generator, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from mooring_agent.errors import InvalidSpec, NotFound, Unavailable
from mooring_agent.images.platform import Platform
from mooring_agent.images.stream import CHUNK
from mooring_agent.storage.tree import delete_tree

MEDIA_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_CONFIG = "application/vnd.oci.image.config.v1+json"
MEDIA_LAYER = "application/vnd.oci.image.layer.v1.tar"

KEPT_PARTIAL = 24 * 3600.0
"""Seconds for which a download that broke off is kept since it last grew, so that it can go on."""

_log = logging.getLogger(__name__)

MAX_DOCUMENT = 4 << 20
"""Bytes of a manifest or configuration; distribution-spec asks for at least this much."""

_MAX_SIZE = (1 << 63) - 1
_PARTIAL = "partial-"  # with the digits of a digest: a download that broke off
_PREFIX = "sha256:"
_DIGITS = frozenset("0123456789abcdef")
_LAYOUT = {"imageLayoutVersion": "1.0.0"}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A typed pointer to a blob (image-spec, descriptor.md); `size` in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    artifact_type: str = ""
    urls: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: object) -> Descriptor:
        """Read the JSON form, whoever wrote it; raises InvalidSpec naming what is wrong with it."""
        if not isinstance(value, dict):
            raise InvalidSpec(f"descriptor {_shown(value)} is no JSON object")
        media_type, size = value.get("mediaType"), value.get("size")
        if not isinstance(media_type, str) or not media_type:
            raise InvalidSpec(f"descriptor {_shown(value)} has no mediaType")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE:
            raise InvalidSpec(f"descriptor {_shown(value)} has no size in bytes")
        urls = value.get("urls") or []
        if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
            raise InvalidSpec(f"descriptor {_shown(value)} has urls that are no list of texts")
        artifact_type = value.get("artifactType") or ""
        if not isinstance(artifact_type, str):
            raise InvalidSpec(f"descriptor {_shown(value)} has an artifactType that is no text")
        platform = value.get("platform")
        return cls(
            media_type,
            check_digest(value.get("digest")),
            size,
            check_annotations(value.get("annotations")),
            Platform.from_json(platform) if platform is not None else None,
            artifact_type,
            tuple(urls),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        found: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.urls:
            found["urls"] = list(self.urls)
        if self.annotations:
            found["annotations"] = dict(sorted(self.annotations.items()))
        if self.platform is not None:
            found["platform"] = self.platform.to_json()
        if self.artifact_type:
            found["artifactType"] = self.artifact_type
        return found

    @property
    def short(self) -> str:
        """The first twelve digits of the digest, to show."""
        return self.digest[len(_PREFIX) :][:12]


def check_digest(value: object) -> str:
    """Return a SHA-256 digest, or raise InvalidSpec."""
    if isinstance(value, str):
        algorithm, _, digits = value.partition(":")
        if algorithm == "sha256" and len(digits) == 64 and set(digits) <= _DIGITS:
            return value
    raise InvalidSpec(
        f"digest {_shown(value)} is not supported: expected sha256: and 64 hexadecimal digits in lower case"
    )


def check_annotations(value: object) -> dict[str, str]:
    """Return annotations, or raise InvalidSpec; null and absent are none."""
    if value is None:
        return {}
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return dict(value)
    raise InvalidSpec(f"annotations {_shown(value)} are no JSON object of texts")


def digest_of(data: bytes) -> str:
    """The digest of bytes."""
    return _PREFIX + hashlib.sha256(data).hexdigest()


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "…"


class BlobWriter:
    """A blob on its way in: written, hashed, then published under its digest, or dropped.

    One that may be continued begins with what is there of it, and stays at the end if `keep` is set.
    """

    def __init__(self, path: Path, expected: Descriptor | None, *, resume: bool = False) -> None:
        self._path: Path | None = path
        self._hash = hashlib.sha256()
        self._expected = expected
        self._file = open(path, "a+b" if resume else "wb", buffering=CHUNK)  # noqa: SIM115 - __exit__ closes
        self.size = 0
        self.keep = False
        if resume:
            self._file.seek(0)
            while chunk := self._file.read(CHUNK):
                self.size += len(chunk)
                self._hash.update(chunk)

    def restart(self) -> None:
        """Forget what is written."""
        self._file.seek(0)
        self._file.truncate(0)
        self._hash, self.size = hashlib.sha256(), 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # Unless it is finished, it is dropped, or gone on with later: what a full disk does not take now
            # is of no use, and the error of who found the disk full must not be lost.
            with suppress(OSError):
                self._file.close()
        finally:
            if self._path is not None and not self.keep:
                self._path.unlink(missing_ok=True)
            self._path = None

    @property
    def digest(self) -> str:
        """`sha256:…` of what is written so far."""
        return _PREFIX + self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Append; raises InvalidSpec as soon as it is more than was expected."""
        self.size += len(data)
        if self._expected is not None and self.size > self._expected.size:
            raise InvalidSpec(
                f"blob {self._expected.digest} is longer than the {self._expected.size} bytes it should have"
            )
        self._hash.update(data)
        self._file.write(data)

    def finish(self) -> None:
        """Put it on the disk; raises InvalidSpec when size or digest are not what was expected."""
        if self._expected is not None and (self.size, self.digest) != (
            self._expected.size,
            self._expected.digest,
        ):
            raise InvalidSpec(
                f"blob {self._expected.digest} of {self._expected.size} bytes came as {self.digest} "
                f"of {self.size} bytes: it was damaged on its way, or is not what it says"
            )
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def move(self, destination: Path) -> None:
        """Give it its final name."""
        assert self._path is not None
        self._path.rename(destination)
        self._path = None


class ContentStore:
    """The layout's directory. Callers serialise what removes against what adds; reading needs no lock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._ingest = root / "ingest"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._ingest.mkdir(mode=0o700, exist_ok=True)
        leftovers = [name for name in os.listdir(self._ingest) if not name.startswith(_PARTIAL)]
        self._numbers = itertools.count(
            max((int(name.partition("-")[0]) for name in leftovers), default=0) + 1
        )
        for leftover in leftovers:
            self._drop(leftover)
        self.drop_partials(KEPT_PARTIAL)
        if not (root / "oci-layout").exists():
            self._replace(root / "oci-layout", _LAYOUT)
        if not (root / "index.json").exists():
            self.write_index([])

    def ingest(self, expected: Descriptor | None = None) -> BlobWriter:
        """Begin a blob; with `expected` its size and digest are checked while it comes in."""
        return BlobWriter(self._ingest / str(next(self._numbers)), expected)

    def resume(self, expected: Descriptor) -> BlobWriter:
        """Go on with a blob of which some may be here already; one at a time for a digest."""
        path = self._ingest / f"{_PARTIAL}{self.path(expected.digest).name}"
        blob = BlobWriter(path, expected, resume=True)
        if blob.size > expected.size:
            blob.restart()
        return blob

    def partial_size(self, digest: str) -> int:
        """Bytes that are here of a blob on its way."""
        try:
            return (self._ingest / f"{_PARTIAL}{self.path(digest).name}").stat().st_size
        except FileNotFoundError:
            return 0

    def drop_partials(self, age: float, except_for: AbstractSet[str] = frozenset()) -> int:
        """Delete the downloads that broke off more than `age` seconds ago; returns the bytes freed.

        `except_for` are digests that are being downloaded.
        """
        freed = 0
        for name in os.listdir(self._ingest):
            if not name.startswith(_PARTIAL) or _PREFIX + name[len(_PARTIAL) :] in except_for:
                continue
            path = self._ingest / name
            try:
                status = path.stat()
                if time.time() - status.st_mtime >= age:
                    path.unlink()
                    freed += status.st_size
            except FileNotFoundError:
                continue
        return freed

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty directory to build something in; it is deleted at the end, or at the next open."""
        directory = self._ingest / str(next(self._numbers))
        directory.mkdir(mode=0o755)
        try:
            yield directory
        finally:
            self._drop(directory.name)

    def unnamed(self) -> BinaryIO:
        """A file without a name for notes that may get long; it is gone when it is closed."""
        return tempfile.TemporaryFile(dir=self._ingest)

    def publish(self, blob: BlobWriter) -> None:
        """Give a finished blob its name; one that is there already is left as it is."""
        path = self.path(blob.digest)
        if not path.exists():
            blob.move(path)

    def add(self, media_type: str, document: dict[str, Any]) -> Descriptor:
        """Store a JSON document."""
        return self.add_bytes(
            media_type, json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        )

    def add_bytes(self, media_type: str, body: bytes) -> Descriptor:
        """Store a document as it is, byte for byte."""
        with self.ingest() as blob:
            blob.write(body)
            blob.finish()
            self.publish(blob)
            return Descriptor(media_type, blob.digest, blob.size)

    def replace(self, blob: BlobWriter) -> None:
        """Put a finished blob in the place of a damaged one."""
        blob.move(self.path(blob.digest))

    def adopt(self, path: Path, digest: str) -> None:
        """Take a file of the same file system as the blob of a digest, which the caller has verified."""
        if not self.has(digest):
            path.rename(self.path(digest))

    def has(self, digest: str) -> bool:
        """Whether a blob is there."""
        return self.path(digest).exists()

    def size(self, digest: str) -> int:
        """Bytes of a blob; 0 when it is absent."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return 0

    def path(self, digest: str) -> Path:
        """Where the blob of a digest belongs; raises InvalidSpec for what is no SHA-256 digest."""
        return self._blobs / check_digest(digest)[len(_PREFIX) :]

    def read(self, descriptor: Descriptor) -> bytes:
        """Read a document, verified; Unavailable when it is damaged, NotFound when it is absent."""
        if descriptor.size > MAX_DOCUMENT:
            raise InvalidSpec(
                f"blob {descriptor.digest} has {descriptor.size} bytes, a document at most {MAX_DOCUMENT}"
            )
        return b"".join(self.chunks(descriptor))

    def chunks(
        self, descriptor: Descriptor, offset: int = 0, *, verify: bool = True
    ) -> Generator[bytes, None, None]:
        """Yield a blob's bytes from `offset` on, verifying them if they are all of it.

        Raises NotFound for a blob that is absent, Unavailable at the end if it is damaged.
        """
        digest, size = hashlib.sha256(), 0
        try:
            file = open(self.path(descriptor.digest), "rb")  # noqa: SIM115 - the next statement
        except FileNotFoundError:
            raise NotFound(
                f"blob {descriptor.digest} is not in {self.root}: import or pull its image again"
            ) from None
        verify = verify and not offset
        with file:
            file.seek(offset)
            while chunk := file.read(CHUNK):
                size += len(chunk)
                if verify:
                    digest.update(chunk)
                yield chunk
        if verify and (size, _PREFIX + digest.hexdigest()) != (descriptor.size, descriptor.digest):
            raise Unavailable(
                f"blob {descriptor.digest} in {self.root} is damaged ({size} bytes of {descriptor.size}): "
                "repair it with 'mooring image verify', or remove its image and import or pull it again"
            )

    def digests(self) -> set[str]:
        """All blobs that are there."""
        return {_PREFIX + name for name in os.listdir(self._blobs)}

    def remove(self, digest: str) -> None:
        """Delete a blob; absent is fine."""
        self.path(digest).unlink(missing_ok=True)

    def read_index(self) -> list[Descriptor]:
        """The manifests of index.json, in its order."""
        path = self.root / "index.json"
        try:
            index = json.loads(path.read_bytes())
            return [Descriptor.from_json(value) for value in index["manifests"]]
        except (ValueError, KeyError, TypeError, AttributeError, InvalidSpec) as error:
            raise Unavailable(
                f"{path} is no index of images ({error}): restore it, or remove it to begin without images"
            ) from error

    def write_index(self, manifests: list[Descriptor]) -> None:
        """Replace index.json."""
        self._replace(
            self.root / "index.json",
            {
                "schemaVersion": 2,
                "mediaType": MEDIA_INDEX,
                "manifests": [descriptor.to_json() for descriptor in manifests],
            },
        )

    def write_sidecar(self, name: str, document: dict[str, Any]) -> None:
        """Replace a file of ours beside index.json, which other tools leave alone."""
        self._replace(self.root / name, document)

    def _drop(self, name: str) -> None:
        """Delete something in `ingest/`, nothing mounted there; what resists goes at the next open."""
        fd = os.open(self._ingest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

        def park(dir_fd: int, deep: str) -> None:
            number = str(next(self._numbers))
            os.rename(deep, number, src_dir_fd=dir_fd, dst_dir_fd=fd)
            parked.append(number)

        parked = [name]
        try:
            while parked:
                delete_tree(fd, parked.pop(), park)
        except OSError as error:
            _log.warning("%s/%s cannot be deleted and stays: %s", self._ingest, name, error)
        finally:
            os.close(fd)

    def _replace(self, path: Path, document: dict[str, Any]) -> None:
        temporary = self._ingest / f"{next(self._numbers)}-{path.name}"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
