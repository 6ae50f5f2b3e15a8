# SPDX-License-Identifier: Apache-2.0
"""LXC images: what their metadata says, and Incus's archives that hold it and the root file system in one.

Metadata is Incus's `metadata.yaml` (Incus documentation, "Image format"), by itself or in an archive, or the
`config` and `create-message` of the archives that LXC's template `download` takes. The files below
`templates`, by which Incus writes a host name and such into a container when it makes one, have no
counterpart in OCI images and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mooring_agent.errors import InvalidSpec
from mooring_agent.images import tar_reader as tar
from mooring_agent.images.member_names import shown, split_path
from mooring_agent.images.platform import OS, Platform
from mooring_agent.images.stream import HashingReader, decompress, detect, peek, read_chunks
from mooring_agent.images.tar_writer import END, member_header, padding

DESCRIPTION = "org.opencontainers.image.description"
PROPERTY = "image."
"""What stands ahead of a property's name in a label, as in the configuration of Incus's containers."""

_METADATA = b"metadata.yaml"
_ROOTFS = b"rootfs"
_CONFIG, _MESSAGE = b"config", b"create-message"
_UNIFIED = (_METADATA, _ROOTFS, b"templates")  # what may come first in an Incus image in one archive
_MAX_FILE = 1 << 20  # bytes of one file of metadata
_MAX_ARCHIVE = 64 << 20  # bytes of an archive of metadata; only its beginning is read
_MAX_STREAM = 1 << 46  # bytes of an archive with a root file system; who unpacks it has a limit of its own
_MAX_TIME = 1 << 40  # seconds
_PIECE = 1 << 20  # bytes
_ARCHITECTURE = re.compile(r"^\s*lxc\.arch\s*=\s*(\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class LxcMetadata:
    """What an LXC image says of itself: GOARCH (empty: nothing), seconds since the epoch, labels."""

    architecture: str = ""
    created: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def check_architecture(self, found: str | None) -> str:
        """The architecture, this one's or `found` in the programs; raises InvalidSpec if they contradict."""
        if self.architecture and found and self.architecture != found:
            raise InvalidSpec(
                f"its metadata says {self.architecture} and its programs are for {found}: give the metadata "
                "that belongs to this root file system"
            )
        return self.architecture or found or ""


def parse_metadata(text: bytes) -> LxcMetadata:
    """Read a metadata.yaml; raises InvalidSpec naming the key that is wrong."""
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InvalidSpec(f"metadata.yaml is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise InvalidSpec("metadata.yaml has no keys: expected architecture, creation_date, properties")
    architecture = document.get("architecture")
    if not isinstance(architecture, str) or not architecture:
        raise InvalidSpec(f"metadata.yaml: architecture is {architecture!r}, expected a name like x86_64")
    created = document.get("creation_date")
    if created is not None and (
        isinstance(created, bool) or not isinstance(created, int | float) or not 0 <= created < _MAX_TIME
    ):
        raise InvalidSpec(f"metadata.yaml: creation_date is {created!r}, expected seconds since the epoch")
    properties = document.get("properties") or {}
    if not isinstance(properties, dict):
        raise InvalidSpec(f"metadata.yaml: properties is {properties!r:.100}, expected names and texts")
    labels = {
        f"{PROPERTY}{name}": str(value)
        for name, value in properties.items()
        if isinstance(name, str) and isinstance(value, str | int | float)
    }
    if f"{PROPERTY}description" in labels:
        labels[DESCRIPTION] = labels[f"{PROPERTY}description"]
    return LxcMetadata(
        _goarch(architecture), float(created) if created else None, dict(sorted(labels.items()))
    )


def parse_config(config: bytes, message: bytes = b"") -> LxcMetadata:
    """Read what LXC's older images have: a container's configuration, and what is said of one just made."""
    match = _ARCHITECTURE.search(config.decode(errors="replace"))
    description = " ".join(message.decode(errors="replace").split("\n\n")[0].split())
    return LxcMetadata(
        _goarch(match[1]) if match else "", None, {DESCRIPTION: description} if description else {}
    )


def read_metadata(path: Path) -> LxcMetadata:
    """Read a metadata.yaml, or an archive of it or of LXC's older files; raises InvalidSpec naming it."""
    try:
        if path.is_dir():
            raise InvalidSpec("it is a directory: expected a file metadata.yaml or an archive with one")
        with open(path, "rb") as file:
            head, chunks = peek(read_chunks(file), tar.BLOCK)
            if detect(head) is detect(b"") and head[257:262] != b"ustar":
                return parse_metadata(_at_most(chunks, _MAX_FILE))
            with closing(decompress(chunks, detect(head))) as plain:
                return _from_files(_read_files(plain))
    except OSError as error:
        raise InvalidSpec(f"metadata {path} cannot be opened: {error.strerror}") from error
    except InvalidSpec as error:
        raise InvalidSpec(f"metadata {path}: {error.message}", code=error.code) from error


def is_unified(chunks: Iterator[bytes]) -> bool:
    """Whether the plain archive in `chunks`, whose beginning is read, is an Incus image in one piece."""
    try:
        for entry in tar.read_entries(HashingReader(chunks, _MAX_STREAM)):
            first = _first(entry.path)
            if first:
                return first in _UNIFIED
    except InvalidSpec:
        return False  # whoever unpacks it says what is wrong
    return False


class UnifiedImage:
    """An Incus image in one plain archive, read once: `rootfs` is its root file system as an archive."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._reader = HashingReader(chunks, _MAX_STREAM)
        self._metadata: LxcMetadata | None = None

    def rootfs(self) -> Iterator[bytes]:
        """Yield the archive of what is below `rootfs`; raises InvalidSpec for an image without one."""
        found = False
        for entry in tar.read_entries(self._reader):
            directory, name = split_path(entry.path)
            whole = directory + b"/" + name if directory else name
            if whole == _METADATA and entry.kind == tar.REGULAR:
                self._metadata = parse_metadata(_content(self._reader, entry))
            top, _, below = whole.partition(b"/")
            if top != _ROOTFS:
                continue
            found = True
            if entry.kind == tar.HARD_LINK:
                entry.link = _below_rootfs(entry)
            entry.path = b"./" + below
            yield member_header(entry)
            left = entry.stored
            while left and (piece := self._reader.read(min(left, _PIECE))):
                left -= len(piece)
                yield piece
            if entry.stored % tar.BLOCK:  # an empty piece would be taken for the end
                yield padding(entry.stored)
        if not found:
            raise InvalidSpec(
                "it has no directory rootfs: if it is metadata alone, import the rootfs with it"
            )
        yield END

    def metadata(self) -> LxcMetadata:
        """What its metadata.yaml says, once all of `rootfs` was read."""
        if self._metadata is None:
            raise InvalidSpec("it has a directory rootfs and no metadata.yaml, which an Incus image has")
        return self._metadata


def _below_rootfs(entry: tar.TarEntry) -> bytes:
    directory, name = split_path(entry.link)
    top, _, below = (directory + b"/" + name if directory else name).partition(b"/")
    if top != _ROOTFS or not below:
        raise InvalidSpec(
            f"archive member {shown(entry.path)} is a link to {shown(entry.link)} out of its rootfs"
        )
    return below


def _first(path: bytes) -> bytes:
    directory, name = split_path(path)
    return (directory or name).split(b"/")[0]


def _read_files(plain: Iterator[bytes]) -> dict[bytes, bytes]:
    """The files of an archive that may tell something, by name."""
    reader = HashingReader(plain, _MAX_ARCHIVE)
    found: dict[bytes, bytes] = {}
    for entry in tar.read_entries(reader):
        directory, name = split_path(entry.path)
        if not directory and name in (_METADATA, _CONFIG, _MESSAGE) and entry.kind == tar.REGULAR:
            found[name] = _content(reader, entry)
            if name == _METADATA:
                break
    return found


def _from_files(files: Mapping[bytes, bytes]) -> LxcMetadata:
    if _METADATA in files:
        return parse_metadata(files[_METADATA])
    if _CONFIG in files:
        return parse_config(files[_CONFIG], files.get(_MESSAGE, b""))
    raise InvalidSpec("the archive has neither metadata.yaml nor config in it, as LXC's metadata have")


def _content(reader: HashingReader, entry: tar.TarEntry) -> bytes:
    if entry.size > _MAX_FILE or entry.parts is not None:
        raise InvalidSpec(
            f"archive member {shown(entry.path)} has {entry.size} bytes, more than metadata have"
        )
    return reader.read(entry.stored)


def _at_most(chunks: Iterator[bytes], size: int) -> bytes:
    found = bytearray()
    for chunk in chunks:
        found += chunk
        if len(found) > size:
            raise InvalidSpec(
                f"it has more than {size} bytes: expected a metadata.yaml or an archive with one"
            )
    return bytes(found)


def _goarch(name: str) -> str:
    return Platform.parse(f"{OS}/{name}").architecture
