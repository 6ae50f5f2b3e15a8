# SPDX-License-Identifier: Apache-2.0
"""What mounts can have set on them, as flags of mount_setattr(2) and mount(2), and the options that say so.

The options are those of the runtime-spec 1.2 (config.md, Linux mount options) and of mount(8).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..linux import syscalls
from ..linux.syscalls import (
    MOUNT_ATTR_ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
)

# Option → (attributes to set, attributes to clear). Each has a recursive form with "r" before it. The access
# times are one field of the kernel's: whoever changes one clears them all.
_PER_MOUNT = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME),
    "atime": (0, MOUNT_ATTR_ATIME),
    "relatime": (0, MOUNT_ATTR_ATIME),
    "norelatime": (0, MOUNT_ATTR_ATIME),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME),
    "nostrictatime": (0, MOUNT_ATTR_ATIME),
}
_RECURSIVE = {f"r{name}": change for name, change in _PER_MOUNT.items()}
# Option → (flags of mount(2) to set, to clear) that belong to the file system and not to one mount of it.
_PER_FILESYSTEM = {
    "sync": (syscalls.MS_SYNCHRONOUS, 0),
    "async": (0, syscalls.MS_SYNCHRONOUS),
    "dirsync": (syscalls.MS_DIRSYNC, 0),
    "mand": (syscalls.MS_MANDLOCK, 0),
    "nomand": (0, syscalls.MS_MANDLOCK),
    "silent": (syscalls.MS_SILENT, 0),
    "loud": (0, syscalls.MS_SILENT),
    "iversion": (syscalls.MS_I_VERSION, 0),
    "noiversion": (0, syscalls.MS_I_VERSION),
    "lazytime": (syscalls.MS_LAZYTIME, 0),
    "nolazytime": (0, syscalls.MS_LAZYTIME),
    "remount": (syscalls.MS_REMOUNT, 0),
    "defaults": (0, 0),
}
PROPAGATION = {
    "private": MS_PRIVATE,
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "unbindable": MS_UNBINDABLE,
    "rprivate": MS_PRIVATE | MS_REC,
    "rshared": MS_SHARED | MS_REC,
    "rslave": MS_SLAVE | MS_REC,
    "runbindable": MS_UNBINDABLE | MS_REC,
}
"""Propagation by name, as flags of mount(2)."""

_AS_FLAGS = {
    MOUNT_ATTR_RDONLY: syscalls.MS_RDONLY,
    MOUNT_ATTR_NOSUID: syscalls.MS_NOSUID,
    MOUNT_ATTR_NODEV: syscalls.MS_NODEV,
    MOUNT_ATTR_NOEXEC: syscalls.MS_NOEXEC,
    MOUNT_ATTR_NOATIME: syscalls.MS_NOATIME,
    MOUNT_ATTR_STRICTATIME: syscalls.MS_STRICTATIME,
    MOUNT_ATTR_NODIRATIME: syscalls.MS_NODIRATIME,
    MOUNT_ATTR_NOSYMFOLLOW: syscalls.MS_NOSYMFOLLOW,
}
_NAMES = {attribute: name for name, (attribute, _) in _PER_MOUNT.items() if attribute}


@dataclass(frozen=True)
class Attributes:
    """Attributes to set and to clear, on one mount and (`tree_…`) on all mounts below it as well."""

    set: int = 0
    clear: int = 0
    tree_set: int = 0
    tree_clear: int = 0

    def with_option(self, name: str) -> Attributes | None:
        """These with one more option, which wins over those before it; None if it is no such option."""
        if name in _PER_MOUNT:
            one = _changed(self.set, self.clear, *_PER_MOUNT[name])
            return Attributes(*one, self.tree_set, self.tree_clear)
        if name in _RECURSIVE:
            tree = _changed(self.tree_set, self.tree_clear, *_RECURSIVE[name])
            return Attributes(self.set, self.clear, *tree)
        return None

    def as_flags(self) -> int:
        """The flags that mount(2) takes for a new mount that shall be so."""
        flags = 0
        for attribute, flag in _AS_FLAGS.items():
            if (self.set | self.tree_set) & attribute:
                flags |= flag
        return flags

    def apply(self, mount: int) -> None:
        """Set them on the mount whose root is open as `mount`, recursively where that is asked for."""
        if self.tree_set or self.tree_clear:
            syscalls.mount_setattr(
                mount,
                "",
                syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE,
                set_=self.tree_set,
                clear=self.tree_clear,
            )
        if self.set or self.clear:
            syscalls.mount_setattr(mount, "", syscalls.AT_EMPTY_PATH, set_=self.set, clear=self.clear)


@dataclass(frozen=True)
class MountOptions:
    """The options of one mount of a config, sorted by what they are about; `rest` is for the file system."""

    attributes: Attributes = Attributes()
    flags: int = 0
    propagation: int = 0
    bind: bool = False
    recursive: bool = False
    idmap: str = ""
    copy_up: bool = False
    copy_symlink: bool = False
    follow_source: bool = True
    follow_target: bool = True
    rest: tuple[str, ...] = ()

    @property
    def remount(self) -> bool:
        """Whether the mount is there already and shall be changed."""
        return bool(self.flags & syscalls.MS_REMOUNT)


@lru_cache(maxsize=256)
def parse_options(options: tuple[str, ...]) -> MountOptions:
    """Sort `options`; of two that contradict each other the later one holds. Pure; there is no wrong option,
    since whatever is not known here is the file system's, as the runtime-spec has it.
    """
    attributes = Attributes()
    flags = propagation = 0
    said: dict[str, bool] = {}
    idmap = ""
    rest = []
    for option in options:
        changed = attributes.with_option(option)
        if changed is not None:
            attributes = changed
        elif option in _PER_FILESYSTEM:
            set_, clear = _PER_FILESYSTEM[option]
            flags = flags & ~clear | set_
        elif option in PROPAGATION:
            propagation = PROPAGATION[option]
        elif option in _SAID:
            said[option] = True
        elif option.partition("=")[0] in ("idmap", "ridmap"):
            idmap = option
        else:
            rest.append(option)
    return MountOptions(
        attributes=attributes,
        flags=flags,
        propagation=propagation,
        bind="bind" in said or "rbind" in said,
        recursive="rbind" in said,
        idmap=idmap,
        copy_up="tmpcopyup" in said,
        copy_symlink="copy-symlink" in said,
        follow_source="src-nofollow" not in said,
        follow_target="dest-nofollow" not in said,
        rest=tuple(rest),
    )


_SAID = ("bind", "rbind", "tmpcopyup", "copy-symlink", "src-nofollow", "dest-nofollow")


def known_options() -> tuple[str, ...]:
    """Every option that is understood here, for `mooring oci features`."""
    return tuple(
        sorted((*_PER_MOUNT, *_RECURSIVE, *_PER_FILESYSTEM, *PROPAGATION, *_SAID, "idmap", "ridmap"))
    )


def attribute_names(attributes: int) -> tuple[str, ...]:
    """The options that set these attributes, for people."""
    return tuple(name for attribute, name in _NAMES.items() if attributes & attribute)


def _changed(before_set: int, before_clear: int, set_: int, clear: int) -> tuple[int, int]:
    """The masks with one more change. The kernel clears first and sets then, and wants the access times
    cleared as a whole.
    """
    undone = set_ if not clear else 0
    return before_set & ~clear | set_, before_clear & ~undone | clear
