# SPDX-License-Identifier: Apache-2.0
"""Blobs and the index that names them, in the OCI image layout (image-spec, image-layout.md).

Any tool that reads `oci:DIRECTORY` reads this one. Whatever is written appears whole or not at all: blobs
and the index come by rename out of `ingest/`, which is emptied at every open.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mooring_agent.errors import InvalidSpec, NotFound, Unavailable
from mooring_agent.images.stream import CHUNK
from mooring_agent.storage.tree import delete_tree

MEDIA_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_CONFIG = "application/vnd.oci.image.config.v1+json"
MEDIA_LAYER = "application/vnd.oci.image.layer.v1.tar"

_log = logging.getLogger(__name__)

_MAX_DOCUMENT = 4 << 20  # bytes of a manifest or configuration; distribution-spec asks for at least this much
_PREFIX = "sha256:"
_LAYOUT = {"imageLayoutVersion": "1.0.0"}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A typed pointer to a blob (image-spec, descriptor.md); `size` in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Descriptor:
        """Read the JSON form."""
        return cls(value["mediaType"], value["digest"], value["size"], dict(value.get("annotations") or {}))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        found: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.annotations:
            found["annotations"] = dict(sorted(self.annotations.items()))
        return found


class BlobWriter:
    """A blob on its way in: written, hashed, then published under its digest, or dropped."""

    def __init__(self, path: Path, expected: Descriptor | None) -> None:
        self._path: Path | None = path
        self._file = open(path, "wb", buffering=CHUNK)  # noqa: SIM115 - closed by finish or by __exit__
        self._hash = hashlib.sha256()
        self._expected = expected
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._path is not None:
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
        leftovers = os.listdir(self._ingest)
        self._numbers = itertools.count(
            max((int(name.partition("-")[0]) for name in leftovers), default=0) + 1
        )
        for leftover in leftovers:
            self._drop(leftover)
        if not (root / "oci-layout").exists():
            self._replace(root / "oci-layout", _LAYOUT)
        if not (root / "index.json").exists():
            self.write_index([])

    def ingest(self, expected: Descriptor | None = None) -> BlobWriter:
        """Begin a blob; with `expected` its size and digest are checked while it comes in."""
        return BlobWriter(self._ingest / str(next(self._numbers)), expected)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty directory to build something in; it is deleted at the end, or at the next open."""
        directory = self._ingest / str(next(self._numbers))
        directory.mkdir(mode=0o755)
        try:
            yield directory
        finally:
            self._drop(directory.name)

    def publish(self, blob: BlobWriter) -> None:
        """Give a finished blob its name; one that is there already is left as it is."""
        path = self.path(blob.digest)
        if not path.exists():
            blob.move(path)

    def add(self, media_type: str, document: dict[str, Any]) -> Descriptor:
        """Store a JSON document."""
        with self.ingest() as blob:
            blob.write(json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode())
            blob.finish()
            self.publish(blob)
            return Descriptor(media_type, blob.digest, blob.size)

    def path(self, digest: str) -> Path:
        """Where the blob of a digest belongs; raises InvalidSpec for what is no SHA-256 digest."""
        algorithm, _, value = digest.partition(":")
        if algorithm != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            raise InvalidSpec(
                f"digest {digest!r} is not supported: expected sha256: and 64 hexadecimal digits"
            )
        return self._blobs / value

    def document(self, descriptor: Descriptor) -> dict[str, Any]:
        """Read a JSON document, verified; Unavailable when it is damaged, NotFound when it is absent."""
        if descriptor.size > _MAX_DOCUMENT:
            raise InvalidSpec(
                f"blob {descriptor.digest} has {descriptor.size} bytes, a document at most {_MAX_DOCUMENT}"
            )
        value = json.loads(b"".join(self.chunks(descriptor)))
        if not isinstance(value, dict):
            raise InvalidSpec(f"blob {descriptor.digest} is no JSON object")
        return value

    def chunks(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield a blob's bytes, verifying them; raises Unavailable at the end if they are damaged."""
        digest, size = hashlib.sha256(), 0
        try:
            file = open(self.path(descriptor.digest), "rb")  # noqa: SIM115 - the next statement
        except FileNotFoundError:
            raise NotFound(
                f"blob {descriptor.digest} is not in {self.root}: import or pull its image again"
            ) from None
        with file:
            while chunk := file.read(CHUNK):
                size += len(chunk)
                digest.update(chunk)
                yield chunk
        if (size, _PREFIX + digest.hexdigest()) != (descriptor.size, descriptor.digest):
            raise Unavailable(
                f"blob {descriptor.digest} in {self.root} is damaged ({size} bytes of {descriptor.size}): "
                "remove its image and import or pull it again"
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
        except (ValueError, KeyError, TypeError, AttributeError) as error:
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
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
