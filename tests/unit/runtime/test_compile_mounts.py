# SPDX-License-Identifier: Apache-2.0
"""Mounts of a config as operations: every option, every contradiction."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec, MooringError, NotSupported
from mooring_agent.linux import syscalls
from mooring_agent.linux.syscalls import MS_NODEV, MS_NOSUID, MS_RDONLY
from mooring_agent.runtime.compile_mounts import compile_mount, compile_mounts
from mooring_agent.runtime.compile_namespaces import Namespaces
from mooring_agent.runtime.mount_attributes import Attributes, known_options, parse_options
from mooring_agent.runtime.mounts import Bind, Change, ControlGroups, Filesystem, MountOperation, Seal

IDS = ((0, 100_000, 10),)
IN_USER_NAMESPACE = Namespaces(new=("mnt", "user"), uids=IDS, gids=IDS)
# runtime-spec 1.2, config.md, Linux mount options.
OF_THE_SPECIFICATION = """
    async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime
    noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev
    rdiratime relatime remount rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime rnosuid
    rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw
    shared silent slave strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap
"""


def one(namespaces: Namespaces | None = None, **mount: Any) -> MountOperation:
    made = compile_mount({"destination": "/d", **mount}, namespaces, bundle="/bundle")
    assert len(made) == 1
    return made[0]


def test_every_option_of_the_specification_is_known() -> None:
    assert set(OF_THE_SPECIFICATION.split()) <= set(known_options())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["bind"], Bind("/s", "/d", recursive=False)),
        (["rbind"], Bind("/s", "/d")),
        (["rbind", "bind"], Bind("/s", "/d")),
        (["bind", "ro"], Bind("/s", "/d", set=0x1, recursive=False)),
        (["bind", "rw"], Bind("/s", "/d", clear=0x1, recursive=False)),
        (["bind", "ro", "rw"], Bind("/s", "/d", clear=0x1, recursive=False)),
        (["bind", "rw", "ro"], Bind("/s", "/d", set=0x1, recursive=False)),
        (["rbind", "rro", "nosuid", "nodev", "noexec"], Bind("/s", "/d", set=0xE, tree_set=0x1)),
        (["rbind", "rsuid", "rexec"], Bind("/s", "/d", tree_clear=0xA)),
        (["bind", "noatime"], Bind("/s", "/d", set=0x10, clear=0x70, recursive=False)),
        (["bind", "strictatime", "relatime"], Bind("/s", "/d", clear=0x70, recursive=False)),
        (["bind", "relatime", "noatime"], Bind("/s", "/d", set=0x10, clear=0x70, recursive=False)),
        (["bind", "nodiratime", "nosymfollow"], Bind("/s", "/d", set=0x200080, recursive=False)),
        (["bind", "shared"], Bind("/s", "/d", propagation=syscalls.MS_SHARED, recursive=False)),
        (["rbind", "rslave"], Bind("/s", "/d", propagation=syscalls.MS_SLAVE | syscalls.MS_REC)),
        (["bind", "copy-symlink"], Bind("/s", "/d", copy_symlink=True, recursive=False)),
        (["bind", "src-nofollow"], Bind("/s", "/d", follow_source=False, recursive=False)),
        (["bind", "dest-nofollow"], Bind("/s", "/d", follow_target=False, recursive=False)),
    ],
)
def test_binds(options: list[str], expected: Bind) -> None:
    assert one(type="none", source="/s", options=options) == expected


@pytest.mark.parametrize(
    ("options", "flags", "data"),
    [
        ([], 0, ""),
        (["defaults", "rw", "suid", "async", "loud"], 0, ""),
        (["ro", "nosuid", "nodev", "noexec"], 0xF, ""),
        (["sync", "dirsync", "mand", "silent", "iversion", "lazytime"], 0x28080D0, ""),
        (["sync", "async", "mand", "nomand", "lazytime", "nolazytime"], 0, ""),
        (["noatime", "nodiratime", "nosymfollow"], 0xD00, ""),
        (["strictatime"], 0x1000000, ""),
        (["rro", "rnosuid"], 0x3, ""),
        (["size=1m", "ro", "huge=never"], 0x1, "size=1m,huge=never"),
    ],
)
def test_new_file_systems(options: list[str], flags: int, data: str) -> None:
    assert one(type="ext4", source="/dev/x", options=options) == Filesystem(
        "ext4", "/dev/x", "/d", flags, data
    )


@pytest.mark.parametrize(
    ("destination", "target"), [("d", "/d"), ("/", "/"), ("//a//b/", "/a/b"), ("a/../b", "/a/../b")]
)
def test_destinations_are_below_the_root(destination: str, target: str) -> None:
    assert one(type="ext4", destination=destination) == Filesystem("ext4", "ext4", target)


def test_a_relative_source_begins_at_the_bundle() -> None:
    assert one(source="data/x", options=["bind"]) == Bind("/bundle/data/x", "/d", recursive=False)


def test_a_tmpfs_takes_the_mode_of_what_it_covers_unless_it_says_its_own() -> None:
    assert one(type="tmpfs") == Filesystem("tmpfs", "tmpfs", "/d", keep_mode=True)
    assert one(type="tmpfs", options=["mode=700"]) == Filesystem("tmpfs", "tmpfs", "/d", 0, "mode=700")
    assert one(type="tmpfs", options=["tmpcopyup", "mode=700"]) == Filesystem(
        "tmpfs", "tmpfs", "/d", 0, "mode=700", copy_up=True
    )


def test_propagation_of_a_new_file_system_is_set_afterwards() -> None:
    made = compile_mount({"destination": "/d", "type": "ext4", "options": ["rshared"]})
    assert made[1] == Change("/d", propagation=syscalls.MS_SHARED | syscalls.MS_REC)


def test_remounts() -> None:
    assert one(type="tmpfs", options=["remount", "ro", "size=1m"]) == Filesystem(
        "tmpfs", "tmpfs", "/d", MS_RDONLY | syscalls.MS_REMOUNT, "size=1m"
    )
    assert one(options=["remount", "bind", "ro"]) == Change("/d", set=0x1)


def test_control_groups() -> None:
    options = ["nosuid", "ro", "nsdelegate"]
    assert one(type="cgroup", options=options) == ControlGroups(
        "/d", MS_NOSUID | MS_RDONLY, own_namespace=False
    )
    own = one(Namespaces(new=("cgroup",)), type="cgroup2")
    assert own == ControlGroups("/d", own_namespace=True)


def test_a_user_namespace_may_get_the_hosts_file_systems_and_no_group_that_it_lacks() -> None:
    for fstype, place in (("proc", "/proc"), ("sysfs", "/sys"), ("mqueue", "/dev/mqueue")):
        assert one(IN_USER_NAMESPACE, type=fstype) == Filesystem(fstype, fstype, "/d", fallback=place)
    assert one(
        Namespaces(new=("user",), uids=IDS, gids=((0, 1, 4),)),
        destination="/dev/pts",
        type="devpts",
        options=["gid=5", "mode=620"],
    ) == (Filesystem("devpts", "devpts", "/dev/pts", 0, "mode=620"))
    assert one(IN_USER_NAMESPACE, type="devpts", options=["gid=5"]) == Filesystem(
        "devpts", "devpts", "/d", 0, "gid=100005"
    )
    with pytest.raises(InvalidSpec, match="uid=77"):
        one(IN_USER_NAMESPACE, type="tmpfs", options=["uid=77"])


MAPPINGS = [{"containerID": 0, "hostID": 7, "size": 3}]


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        ({"options": ["bind", "idmap"]}, (IDS, IDS, False)),
        ({"options": ["bind", "ridmap"]}, (IDS, IDS, True)),
        (
            {"options": ["bind"], "uidMappings": MAPPINGS, "gidMappings": MAPPINGS},
            (((0, 7, 3),), ((0, 7, 3),), False),
        ),
        (
            {"options": ["bind", "idmap=uids=0-1-2#5-6-7;gids=0-9-1"]},
            (((0, 1, 2), (5, 6, 7)), ((0, 9, 1),), False),
        ),
    ],
)
def test_mapped_binds(mount: dict[str, Any], expected: tuple[Any, ...]) -> None:
    made = one(IN_USER_NAMESPACE, source="/s", **mount)
    assert isinstance(made, Bind)
    assert (made.uid_map, made.gid_map, made.map_tree) == expected


def test_a_read_only_tmpfs_is_sealed_when_all_below_it_is_there() -> None:
    outer = {"destination": "/a", "type": "tmpfs", "options": ["ro", "mode=755"]}
    inner = {"destination": "/a/b", "type": "tmpfs", "options": ["ro", "mode=755"]}
    made = compile_mounts([outer, inner], Namespaces(), "", "")
    assert made == (
        Filesystem("tmpfs", "tmpfs", "/a", 0, "mode=755"),
        Filesystem("tmpfs", "tmpfs", "/a/b", MS_RDONLY, "mode=755"),
        Seal("/a"),
    )


def test_new_file_systems_get_the_label() -> None:
    made = compile_mounts(
        [{"destination": "/a", "type": "tmpfs", "options": ["mode=1"]}], Namespaces(), "", "a:b"
    )
    assert made[-1] == Filesystem("tmpfs", "tmpfs", "/a", 0, 'mode=1,context="a:b"')


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ({"destination": ""}, ["destination"]),
        ({"destination": 5}, ["destination"]),
        ({}, ["/d", "type", "bind"]),
        ({"type": 5}, ["/d", "type"]),
        ({"type": "tmpfs", "options": "ro"}, ["options"]),
        ({"type": "tmpfs", "source": 5}, ["/d", "source"]),
        ({"options": ["bind"]}, ["/d", "source"]),
        ({"source": "/s", "options": ["bind", "idmap"]}, ["/d", "idmap", "uidMappings"]),
        ({"source": "/s", "options": ["bind"], "uidMappings": MAPPINGS}, ["/d", "gidMappings"]),
        ({"source": "/s", "options": ["bind", "idmap=uids=0"]}, ["/d", "uids=0"]),
        ({"source": "/s", "options": ["bind", "idmap=uids=0-1-2"]}, ["/d", "gids"]),
        (
            {"source": "/s", "options": ["bind"], "uidMappings": [{"hostID": -1}], "gidMappings": MAPPINGS},
            ["uidMappings"],
        ),
        ({"type": "tmpfs", "destination": "/", "options": ["tmpcopyup"]}, ["tmpcopyup"]),
        ({"type": "ext4", "options": ["tmpcopyup"]}, ["/d", "tmpcopyup"]),
    ],
)
def test_what_is_wrong_is_named(mount: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidSpec) as refused:
        compile_mount({"destination": "/d", **mount}, where="config.mounts[3]")
    for word in ("config.mounts[3]", *words):
        assert word in refused.value.message


@pytest.mark.parametrize(
    ("mount", "word"),
    [
        ({"type": "tmpfs", "options": ["idmap"]}, "bind"),
        ({"type": "cgroup", "options": ["memory"]}, "memory"),
    ],
)
def test_what_cannot_be_done_is_named(mount: dict[str, Any], word: str) -> None:
    with pytest.raises(NotSupported, match=word):
        compile_mount({"destination": "/d", **mount})


@given(st.lists(st.sampled_from(known_options())))
def test_of_two_options_that_contradict_the_later_holds(options: list[str]) -> None:
    parsed = parse_options(tuple(options))
    assert not parsed.attributes.set & parsed.attributes.clear & ~syscalls.MOUNT_ATTR_ATIME
    for name, bit in (("nosuid", 0x2), ("nodev", 0x4), ("noexec", 0x8)):
        opposite = name[2:]
        said = [option for option in options if option in (name, opposite)]
        if said:
            assert bool(parsed.attributes.set & bit) == (said[-1] == name)
            assert bool(parsed.attributes.clear & bit) == (said[-1] == opposite)
    atime = parsed.attributes.clear & syscalls.MOUNT_ATTR_ATIME
    assert atime in (0, syscalls.MOUNT_ATTR_ATIME), "the kernel wants the access times cleared as a whole"


@given(st.lists(st.text(max_size=8)))
def test_what_is_no_option_of_ours_is_the_file_systems(options: list[str]) -> None:
    rest = [option for option in options if option not in known_options() and "idmap" not in option]
    assert [option for option in parse_options(tuple(options)).rest if "idmap" not in option] == rest


def test_attributes_are_flags_of_a_new_mount() -> None:
    assert Attributes(set=0x3, tree_set=0x4).as_flags() == MS_RDONLY | MS_NOSUID | MS_NODEV


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=6), st.lists(st.text(max_size=4))
)


@given(
    st.dictionaries(
        st.sampled_from(["type", "source", "options", "uidMappings", "gidMappings", "destination"]), _VALUES
    )
)
def test_any_mount_makes_operations_or_an_error_for_people(mount: dict[str, Any]) -> None:
    words = "config.mounts"
    try:
        compile_mount(mount)
    except MooringError as error:
        words = error.message
    assert "config.mounts" in words
