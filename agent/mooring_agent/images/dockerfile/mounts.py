# SPDX-License-Identifier: Apache-2.0
"""`RUN --mount=…`: what is mounted for one command."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from enum import Enum

from .errors import DockerfileError, nearest
from .expansion import Expansion

_KEYS = (
    "type", "from", "source", "src", "target", "dst", "destination", "readonly", "ro", "readwrite", "rw",
    "required", "size", "id", "sharing", "mode", "uid", "gid", "env",
)  # fmt: skip
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)i?b?", re.IGNORECASE)
_MAX_UINT32 = (1 << 32) - 1


class MountKind(Enum):
    """`type=`"""

    BIND = "bind"
    CACHE = "cache"
    TMPFS = "tmpfs"
    SECRET = "secret"
    SSH = "ssh"


class Sharing(Enum):
    """`sharing=`: what a cache does while another build uses it: both write, each has its own, one waits."""

    SHARED = "shared"
    PRIVATE = "private"
    LOCKED = "locked"


_HAVE_OWNERS = (MountKind.SECRET, MountKind.SSH, MountKind.CACHE)
_MAY_BE_REQUIRED = (MountKind.SECRET, MountKind.SSH)
_WRITABLE = (MountKind.CACHE, MountKind.TMPFS)


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount, expanded and checked.

    `origin` is the stage or image of `from=`, "" for the build context (bind) or an empty directory (cache).
    `target` is relative to the WORKDIR; "" is the WORKDIR itself, or what a secret's name leads to. `size` is
    in bytes, None without a limit. `env` is the variable that gets a secret, None if a file does. `mode`,
    `uid` and `gid` are None where the default of the kind holds.
    """

    kind: MountKind = MountKind.BIND
    origin: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = True
    size: int | None = None
    id: str = ""
    sharing: Sharing | None = None
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None

    @property
    def secret_id(self) -> str:
        """The name of the secret: `id`, `source`, or the last part of the target."""
        return self.source or self.id or self.target.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class MountFlag:
    """A `--mount` as it is written."""

    text: str

    @property
    def origin(self) -> str:
        """The stage or image of `from=`, which has no variables, "" if there is none."""
        found = ""
        for field in _fields(self.text):
            key, _, value = field.partition("=")
            if key.lower() == "from":
                found = value
        return found

    def check(self) -> None:
        """Raise DockerfileError for what is wrong whatever the variables are."""
        origin = self.origin
        if "$" in origin[:-1]:
            raise DockerfileError(
                f"--mount: from={origin} has a variable, which from= cannot: "
                "name a stage there, and use the variable in that stage's FROM"
            )
        if "$" not in self.text:
            self.expand(Expansion(lambda _: None))

    def expand(self, expansion: Expansion) -> Mount:
        """Read it with its variables replaced. Raises DockerfileError."""
        mount = Mount()
        read_only: bool | None = None
        for field in _fields(self.text):
            key, equals, value = field.partition("=")
            key = key.lower()
            if not equals:
                if key not in ("readonly", "ro", "readwrite", "rw", "required"):
                    raise DockerfileError(f"--mount: {field!r} has no value: expected key=value")
                value = "true"
            value = expansion.word(value)
            if key in ("readonly", "ro", "readwrite", "rw"):
                read_only = _boolean(key, value) == (key in ("readonly", "ro"))
            else:
                mount = _with(mount, key, value)
        if read_only is None:
            read_only = mount.kind not in _WRITABLE
        mount = replace(mount, read_only=read_only)
        _check(mount)
        return mount


def _fields(text: str) -> list[str]:
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise DockerfileError(f"--mount={text} is not well formed: {error}") from None
    if len(rows) != 1 or not rows[0]:
        raise DockerfileError(f"--mount={text} is empty: expected type=…,target=…")
    return rows[0]


def _with(mount: Mount, key: str, value: str) -> Mount:
    """The mount with one more option."""
    match key:
        case "type":
            return replace(mount, kind=_kind(value))
        case "from":
            return replace(mount, origin=value)
        case "source" | "src":
            return replace(mount, source=value)
        case "target" | "dst" | "destination":
            return replace(mount, target=value)
        case "required":
            _only(mount, key, _MAY_BE_REQUIRED)
            return replace(mount, required=_boolean(key, value))
        case "size":
            _only(mount, key, (MountKind.TMPFS,))
            return replace(mount, size=_size(value))
        case "id":
            return replace(mount, id=value)
        case "sharing":
            return replace(mount, sharing=_sharing(value))
        case "mode":
            return replace(mount, mode=_number(key, value, 8))
        case "uid":
            return replace(mount, uid=_number(key, value, 10))
        case "gid":
            return replace(mount, gid=_number(key, value, 10))
        case "env":
            return replace(mount, env=value)
    raise DockerfileError(f"--mount: the key {key!r} is not known: {nearest(key, _KEYS)}")


def _check(mount: Mount) -> None:
    """What does not fit together."""
    if mount.kind not in _HAVE_OWNERS:
        for key in ("mode", "uid", "gid"):
            if getattr(mount, key) is not None:
                _only(mount, key, _HAVE_OWNERS)
    if mount.sharing is not None:
        _only(mount, "sharing", (MountKind.CACHE,))
    if mount.kind is MountKind.SECRET:
        if mount.origin:
            raise DockerfileError("--mount: a secret comes from the client and cannot have from=")
        if mount.source and mount.id:
            raise DockerfileError("--mount: a secret has both id= and source=, which mean the same: keep one")
        if not mount.secret_id:
            raise DockerfileError("--mount: a secret has no name: expected id=…")


def _only(mount: Mount, key: str, kinds: tuple[MountKind, ...]) -> None:
    if mount.kind not in kinds:
        allowed = " or ".join(kind.value for kind in kinds)
        raise DockerfileError(
            f"--mount: {key}= does not go with type={mount.kind.value}: "
            f"expected it behind type={allowed} alone"
        )


def _kind(value: str) -> MountKind:
    known = {kind.value: kind for kind in MountKind}
    if value.lower() not in known:
        raise DockerfileError(f"--mount: the type {value!r} is not known: {nearest(value, known)}")
    return known[value.lower()]


def _sharing(value: str) -> Sharing:
    known = {sharing.value: sharing for sharing in Sharing}
    if value.lower() not in known:
        raise DockerfileError(f"--mount: sharing={value} is not known: {nearest(value, known)}")
    return known[value.lower()]


def _boolean(key: str, value: str) -> bool:
    if value not in (*_TRUE, *_FALSE):
        raise DockerfileError(f"--mount: {key}={value} is not valid: expected true or false")
    return value in _TRUE


def _number(key: str, value: str, base: int) -> int:
    digits = "01234567" if base == 8 else "0123456789"
    if not value or value.strip(digits) or len(value) > 20 or int(value, base) > _MAX_UINT32:
        kind = "an octal number" if base == 8 else "a number"
        raise DockerfileError(f"--mount: {key}={value} is not valid: expected {kind} below 2^32")
    return int(value, base)


def _size(value: str) -> int:
    found = _SIZE.fullmatch(value)
    if found is None or len(value) > 20:
        raise DockerfileError(
            f"--mount: size={value} is not valid: expected a number of bytes, or as 64m or 1.5g"
        )
    power = "kmgtp".find(found[2].lower()) + 1 if found[2] else 0
    return int(float(found[1]) * 1024**power)
