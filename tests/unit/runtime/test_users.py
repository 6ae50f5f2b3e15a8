# SPDX-License-Identifier: Apache-2.0
"""Users and groups of a container's own files, looked up as docker does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.runtime.users import Identity, UnknownUser, read_accounts, resolve

PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
web:x:1000:1001:,,,:/home/web:/bin/sh
twin:x:1000:2000::/home/twin:/bin/sh
nohome:x:1003:1003:::/bin/sh
2000:x:7:7::/home/digits:/bin/sh
"""
GROUP = """root:x:0:
wheel:x:10:root,web
www:x:33:web,daemon
web:x:1001:web
staff:x:50:
1234:x:77:
"""
LARGEST_ID = (1 << 31) - 1  # what docker takes

id_texts = st.one_of(
    st.integers(-5, 1 << 70).map(str), st.sampled_from(["²", "١٢", "٣", "0x1", "1_0", "+1", " 1", "00", "-0"])
)
fields = st.one_of(st.text(max_size=6), id_texts, st.sampled_from(["root", "web", "x", "", ",", "web,web"]))
lines = st.lists(fields, max_size=9).map(":".join)
files = st.one_of(st.text(), st.lists(lines, max_size=6).map("\n".join))
names = st.one_of(st.text(max_size=8), fields, st.tuples(fields, fields).map(":".join))


@given(names, files, files)
def test_any_text_gives_an_identity_or_says_who_is_unknown(user: str, passwd: str, group: str) -> None:
    try:
        found = resolve(user, passwd, group)
    except UnknownUser:
        return
    for number in (found.uid, found.gid, *found.groups):
        assert 0 <= number <= LARGEST_ID


@given(st.integers(0, LARGEST_ID), st.integers(0, LARGEST_ID))
def test_numbers_need_no_entry(uid: int, gid: int) -> None:
    assert resolve(f"{uid}:{gid}", "", "") == Identity(uid, gid, (), "/")
    assert resolve(str(uid), "", "") == Identity(uid, 0, (), "/")


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", Identity(0, 0, (10,), "/root")),
        ("root", Identity(0, 0, (10,), "/root")),
        ("0", Identity(0, 0, (10,), "/root")),
        (":", Identity(0, 0, (10,), "/root")),
        ("web", Identity(1000, 1001, (10, 33), "/home/web")),
        ("web:", Identity(1000, 1001, (10, 33), "/home/web")),
        # The first entry of a number counts.
        ("1000", Identity(1000, 1001, (10, 33), "/home/web")),
        ("twin", Identity(1000, 2000, (), "/home/twin")),
        # With a group the others are not taken.
        ("web:staff", Identity(1000, 50, (), "/home/web")),
        ("web:33", Identity(1000, 33, (), "/home/web")),
        ("web:4000", Identity(1000, 4000, (), "/home/web")),
        (":staff", Identity(0, 50, (), "/root")),
        ("4000", Identity(4000, 0, (), "/")),
        ("4000:staff", Identity(4000, 50, (), "/")),
        ("nohome", Identity(1003, 1003, (), "/")),
        # A name may consist of digits; it is a name first where it comes first.
        ("2000", Identity(7, 7, (), "/home/digits")),
        ("root:1234", Identity(0, 77, (), "/root")),
    ],
)
def test_docker_s_rules(user: str, expected: Identity) -> None:
    assert resolve(user, PASSWD, GROUP) == expected


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("ghost", ["user ghost", "passwd"]),
        ("ghost:staff", ["user ghost"]),
        ("web:ghosts", ["group ghosts", "group file"]),
        ("-1", ["user -1"]),
        ("²", ["user ²"]),
        ("2147483648", ["2147483648", "2147483647"]),
        ("0:2147483648", ["2147483648", "2147483647"]),
        ("9" * 5000, ["2147483647"]),
        ("root:root:root", ["root:root"]),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_who_is_unknown_is_named(user: str, words: list[str]) -> None:
    with pytest.raises(UnknownUser) as unknown:
        resolve(user, PASSWD, GROUP)
    for word in words:
        assert word in str(unknown.value)


def test_broken_lines_are_no_entries() -> None:
    passwd = "web:x:\n\n:::\nweb:x:abc:0::/:\nweb:x:-1:-1::/:\nweb:x:4294967295:0::/:\nweb:x:5:6::/w:/s"
    assert resolve("web", passwd, "") == Identity(5, 6, (), "/w")


@pytest.mark.parametrize("line", ["web:x:5:6", "web:x:5:6:", "web:x:5:6::/w", " web:x:5:6::/w:/s "])
def test_short_lines_are_entries_where_the_numbers_are_there(line: str) -> None:
    found = resolve("web", line, "")
    assert (found.uid, found.gid) == (5, 6)


@pytest.mark.parametrize("line", ["wheel:x:10", "wheel:x:10:", "wheel::10:a,b"])
def test_a_group_may_come_without_members(line: str) -> None:
    assert resolve("0:wheel", "", line).gid == 10


def test_a_group_is_taken_once() -> None:
    group = "a:x:5:web\nb:x:5:web,web\nweb:x:1001:web"
    assert resolve("web", PASSWD, group).groups == (5,)


def test_accounts_are_read_from_a_file_alone_and_it_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "passwd"
    file.write_text(PASSWD)
    for path, text in ((file, PASSWD), (tmp_path, "")):
        descriptor = os.open(path, os.O_RDONLY)
        assert read_accounts(descriptor) == text
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
