# SPDX-License-Identifier: Apache-2.0
"""The volumes of a container: "SRC:DST[:ro]" or mappings, each a bind mount, a named volume, a
tmpfs or an image.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from mooring_agent.engine.resources import names
from mooring_agent.engine.resources.declared import Declared, Part, option
from mooring_agent.engine.resources.options import Bool, Choice, Items, Size, Text, Type, WordSet, refusal
from mooring_agent.errors import InvalidSpec

PROPAGATIONS = ("rprivate", "private", "rslave", "slave", "rshared", "shared")
# tmpfs(5), and mount(8) "FILESYSTEM-INDEPENDENT MOUNT OPTIONS".
_CONTRARY = (("exec", "noexec"), ("suid", "nosuid"), ("dev", "nodev"))
_FLAGS = (
    "exec", "noexec", "suid", "nosuid", "dev", "nodev", "atime", "noatime", "diratime", "nodiratime",
    "relatime", "norelatime", "strictatime", "nostrictatime", "sync", "async",
)  # fmt: skip
_TMPFS_VALUES = {
    "mode": re.compile(r"[0-7]{1,5}"),
    "uid": re.compile(r"[0-9]{1,10}"),
    "gid": re.compile(r"[0-9]{1,10}"),
    "nr_inodes": re.compile(r"[0-9]+[kmg]?", re.IGNORECASE),
    "nr_blocks": re.compile(r"[0-9]+[kmg]?", re.IGNORECASE),
    "mpol": re.compile(r"[a-z]+(=[a-z]+)?(:[0-9,-]+)?"),
}


_SOURCES = {
    "bind": "the absolute path of the host",
    "volume": "the name of the volume",
    "image": "the image",
}


def tmpfs_option(text: str, where: str) -> str:
    """Check one option of a tmpfs; its size and whether it is read-only are options of the volume."""
    name, mark, value = text.partition("=")
    if text in _FLAGS or (mark and name in _TMPFS_VALUES and _TMPFS_VALUES[name].fullmatch(value)):
        return text
    raise refusal(
        where,
        text,
        f"one of {', '.join(_FLAGS)}, or {', '.join(f'{name}=…' for name in _TMPFS_VALUES)}",
    )


class TmpfsSize(Type[int | str]):
    """What bounds a tmpfs: a size as `Size` has it, or a part of the host's memory such as "50%", tmpfs(5).

    0 and 0% mean that nothing is set.
    """

    _size = Size()
    _percent = re.compile(r"([0-9]{1,4})%")

    def parse(self, value: object, where: str) -> int | str | None:
        """See `Type.parse`."""
        if not isinstance(value, str) or not value.endswith("%"):
            return self._size.parse(value, where)
        match = self._percent.fullmatch(value)
        if match is None:
            raise refusal(where, value, 'a part of the memory such as "50%"')
        return f"{int(match[1])}%" if int(match[1]) else None

    def show(self, value: int | str) -> str:
        """See `Type.show`."""
        return value if isinstance(value, str) else self._size.show(value)


def _subpath(text: str, where: str) -> str:
    """A relative path without "//", "/./" and trailing slash, which does not begin outside."""
    path = posixpath.normpath(text)
    if not text or text.startswith("/") or path == "." or path.split("/")[0] == "..":
        raise refusal(where, text, "a relative path inside of the volume")
    return path


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeMount(Declared):
    """Something that is mounted at `target` inside a container.

    `source` is an absolute path of the host (bind), the name of a volume (volume), an image (image), of which
    the container has what it is when it is made, read-only, or None (tmpfs). `size` (bytes, or a part of the
    memory) bounds a tmpfs, `options` are further ones of it. `idmap` shows the files of a bind to a container
    with mapped users as if their owners were mapped too, as those of a volume always are. `propagation` says
    whether mounts below a bind that are made later come through to the other side, mount_namespaces(7), and
    `recursive` whether those that are there already come along. With `create_host_path` each start makes a
    directory where the source of a bind is missing. A volume that is empty when the container is made gets
    what the image has at `target`, unless `nocopy` is set. `subpath` mounts what is there inside of the
    volume or image, whose links are followed within it, and nothing is copied. `relabel` asks for SELinux
    labels, shared or private: on a host without SELinux, where files have none, it changes nothing.
    """

    KIND: ClassVar[str] = "volume"

    type: str = option(Choice("bind", "volume", "tmpfs", "image"), required=True)
    source: str | None = option(Text("an absolute path of the host, the name of a volume or an image"))
    target: str = option(Text("an absolute path inside the container", names.absolute_path), required=True)
    read_only: bool = option(Bool(), default=False)
    size: int | str | None = option(TmpfsSize())
    options: tuple[str, ...] = option(WordSet(Text("an option of tmpfs", tmpfs_option)), default=())
    idmap: bool = option(Bool(), default=False)
    propagation: str = option(Choice(*PROPAGATIONS), default=PROPAGATIONS[0])
    recursive: bool = option(Bool(), default=True)
    create_host_path: bool = option(Bool(), default=False)
    nocopy: bool = option(Bool(), default=False)
    subpath: str | None = option(Text("a path inside of the volume or image", _subpath))
    relabel: str | None = option(Choice("shared", "private"))

    def check(self, prefix: str) -> None:
        """Hold what belongs to which type."""
        if self.target == "/" or self.target == "/proc" or self.target.startswith("/proc/"):
            raise refusal(
                f"{prefix}target",
                self.target,
                "a directory other than / and /proc, which are the container's own",
            )
        if self.type == "tmpfs" and self.source is not None:
            raise refusal(f"{prefix}source", self.source, "no source for a tmpfs")
        if self.type != "tmpfs" and self.source is None:
            what = _SOURCES[self.type]
            raise InvalidSpec(f"{prefix}source is missing; give {what} to mount at {self.target}")
        if self.size is not None and self.type != "tmpfs":
            raise refusal(
                f"{prefix}size", self.size, f"no size for a {self.type}: only a tmpfs is bounded by one"
            )
        if self.options and self.type != "tmpfs":
            raise refusal(f"{prefix}options", list(self.options), f"none for a {self.type}: a tmpfs has some")
        for one, other in _CONTRARY:
            if one in self.options and other in self.options:
                raise InvalidSpec(f"{prefix}options has {one} and {other}; remove one of them")
        if self.idmap and self.type != "bind":
            raise refusal(f"{prefix}idmap", True, f"it with a bind: a {self.type} needs none")
        if self.type != "bind" and (self.propagation != PROPAGATIONS[0] or not self.recursive):
            raise InvalidSpec(
                f"{prefix}propagation and recursive say something about a bind, and this is a {self.type}; "
                "remove them"
            )

        if self.create_host_path and self.type != "bind":
            raise refusal(f"{prefix}create_host_path", True, f"it with a bind: a {self.type} has no path")
        if self.subpath is not None and self.type not in ("volume", "image"):
            raise refusal(f"{prefix}subpath", self.subpath, "it with a volume or an image alone")
        if self.relabel is not None and self.type not in ("bind", "volume"):
            raise refusal(f"{prefix}relabel", self.relabel, "it with a bind or a volume")
        if self.nocopy and self.type != "volume":
            raise refusal(f"{prefix}nocopy", True, f"it with a volume: a {self.type} gets nothing copied")

    def __str__(self) -> str:
        """Return the short spelling."""
        return f"{self.source or self.type}:{self.target}{':ro' if self.read_only else ''}"


def _shorthand(text: str, where: str) -> dict[str, Any]:
    source, colon, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not colon or not source or mode not in ("", "ro", "rw"):
        raise refusal(where, text, '"SOURCE:TARGET" or "SOURCE:TARGET:ro"')
    return {
        "type": "bind" if source.startswith((".", "/", "~")) else "volume",
        "source": source,
        "target": target,
        "read_only": mode == "ro",
    }


class Mount(Part[VolumeMount]):
    """One volume of a container; without `type` a path is a bind mount and a name a volume."""

    def __init__(self) -> None:
        super().__init__(VolumeMount, _shorthand)

    def parse(self, value: object, where: str) -> VolumeMount | None:
        """See `Type.parse`."""
        if isinstance(value, dict) and value.get("type") is None and isinstance(value.get("source"), str):
            value = {**value, "type": "bind" if value["source"].startswith("/") else "volume"}
        mount = super().parse(value, where)
        if mount is None or mount.source is None:
            return mount
        if mount.type == "bind":
            source = names.absolute_path(mount.source, f"{where}.source")
        elif mount.type == "image":
            source = names.image(mount.source, f"{where}.source")
        else:
            source = names.resource_name("volume", mount.source, f"{where}.source")
        return VolumeMount.parse_part({**mount.given, "source": source}, where)


class Mounts(Items[VolumeMount]):
    """The volumes of a container, sorted by target so that a parent is mounted before its children."""

    def __init__(self) -> None:
        super().__init__(Mount(), unique=lambda mount: mount.target, order=lambda mount: mount.target)
