# SPDX-License-Identifier: Apache-2.0
"""What hosts tell each other of names: it arrives as it was told, and nothing else is believed."""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.network.naming import transfer, zone
from mooring_agent.network.naming.realms import Home
from mooring_agent.network.naming.transfer import BUCKETS, LONGEST_LINE, Heard, NotUnderstood, Record
from unit.network.naming.test_zone import ANY_NAME, INJECTIONS

SLICES = [ipaddress.ip_network("10.220.7.0/24"), ipaddress.ip_network("fd00:7::/64")]
ID = st.text("0123456789abcdef", min_size=1, max_size=3) | st.just("a" * 64)
ADDRESSES = st.builds(lambda last: (f"10.220.7.{last}", f"fd00:7::{last:x}"), st.integers(2, 254))
CALLED = st.sampled_from(["web", "db", "db.example.com", "_my-service.example", "w" * 63, "1.2.3"])
RECORD = st.builds(Record, ADDRESSES, st.lists(CALLED, min_size=1, max_size=4, unique=True).map(tuple))
CHANGES = st.lists(st.dictionaries(ID, RECORD | st.none(), max_size=3), max_size=4)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | ANY_NAME,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | ID, inner, max_size=4),
    max_leaves=12,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "set": ANYTHING
        | st.dictionaries(
            ID,
            ANYTHING
            | st.fixed_dictionaries(
                {
                    "addresses": ANYTHING
                    | st.lists(ANY_NAME | st.sampled_from(["10.220.7.9", "10.220.8.9"])),
                    "names": ANYTHING | st.lists(ANY_NAME, max_size=4),
                }
            ),
            max_size=4,
        ),
        "gone": ANYTHING | st.lists(ID),
        "complete": ANYTHING | st.just(value=True),
        "another": ANYTHING,
    },
)
HOSTS = re.compile(r"((10\.220\.7\.\d+|fd00:7::[0-9a-f:]*)\t[a-z0-9_.-]+( [a-z0-9_.-]+)*\n)*")


def heard(*lines: bytes) -> Heard:
    told = Heard(SLICES)
    told.take(transfer.greeting())
    for line in lines:
        told.take(line)
    return told


def said(**members: Any) -> bytes:
    return json.dumps(members).encode() + b"\n"


def container(*names: Any, addresses: Any = ("10.220.7.5",)) -> dict[str, Any]:
    return {"c1": {"addresses": addresses, "names": names}}


def taken(told: Heard, line: bytes) -> str:
    try:
        told.take(line)
    except NotUnderstood as error:
        return error.message
    return ""


def texts(told: Heard) -> str:
    return "".join(sorted("".join(told.text(bucket) for bucket in range(BUCKETS)).splitlines(keepends=True)))


def expected(records: dict[str, Record]) -> str:
    homes = (Home("", record.addresses, "", record.names) for record in records.values())
    return "".join(sorted("".join(map(zone.hosts_text, homes)).splitlines(keepends=True)))


@given(st.dictionaries(ID, RECORD, max_size=6), CHANGES)
def test_what_is_told_arrives(first: dict[str, Record], later: list[dict[str, Record | None]]) -> None:
    told = heard(*transfer.changes(first))
    assert not told.complete
    assert set(told.take(transfer.complete())) == set(range(BUCKETS))
    now = dict(first)
    for changed in later:
        before = [told.text(bucket) for bucket in range(BUCKETS)]
        touched = {bucket for line in transfer.changes(changed) for bucket in told.take(line)}
        for bucket in set(range(BUCKETS)) - touched:
            assert told.text(bucket) == before[bucket]
        now |= changed  # type: ignore[arg-type]
        now = {id: record for id, record in now.items() if record is not None}
        told.take(transfer.NOTHING)
    assert texts(told) == expected(now)
    assert told.doubt == ""
    dotted = {name for record in now.values() for name in record.names if "." in name}
    assert {name for bucket in range(BUCKETS) for name in told.dotted(bucket)} == dotted


def test_many_names_go_in_several_lines() -> None:
    names = tuple(f"{number:0>60}.{'x' * 60}.{'y' * 60}.{'z' * 60}" for number in range(transfer.MOST_NAMES))
    records = {f"c{number}": Record((f"10.220.7.{number + 2}",), names) for number in range(8)}
    lines = list(transfer.changes(records))
    assert len(lines) > 1
    assert max(map(len, lines)) <= LONGEST_LINE
    assert texts(heard(*lines, transfer.complete())) == expected(records)
    gone: dict[str, Record | None] = dict.fromkeys((f"{number:064}" for number in range(1000)), None)
    assert max(map(len, transfer.changes(gone))) <= LONGEST_LINE


@given(st.lists(st.binary() | NEARLY.map(lambda given: json.dumps(given).encode()), max_size=6))
def test_whatever_is_said_only_names_of_the_slice_are_known(lines: list[bytes]) -> None:
    told = heard()
    for line in lines:
        problem = taken(told, line)
        assert len(problem) < 300
    assert HOSTS.fullmatch(texts(told))
    assert "\n" not in told.doubt


@given(st.binary() | NEARLY.map(lambda given: json.dumps(given).encode()))
def test_nobody_is_listened_to_who_does_not_say_what_it_is(line: bytes) -> None:
    told = Heard(SLICES)
    with pytest.raises(NotUnderstood):
        told.take(line)


@pytest.mark.parametrize("depth", [100, 500, 900, 990, 20_000])
@pytest.mark.parametrize("member", ["set", "gone", "another", "complete"])
def test_depth_harms_nobody(depth: int, member: str) -> None:
    told = heard()
    line = b'{"%s": {"c1": {"names": %s%s}}}' % (member.encode(), b"[" * depth, b"]" * depth)
    for each in (line, b'{"%s": %s%s}' % (member.encode(), b"[" * depth, b"]" * depth)):
        assert len(taken(told, each)) < 300
    assert texts(told) == ""


@pytest.mark.parametrize("name", INJECTIONS)
def test_what_is_no_name_is_left_out_and_said(name: str) -> None:
    told = heard(said(set=container("web", name), complete=True))
    assert texts(told) == "10.220.7.5\tweb\n"
    assert told.doubt == "1 of its containers are not known as it says: a name is none"
    told.take(said(set=container("web", "db")))
    assert texts(told) == "10.220.7.5\tweb db\n"
    assert told.doubt == ""


@pytest.mark.parametrize(
    "address",
    [
        "10.220.8.5", "10.220.7.1", "10.220.7.0", "10.220.7.255", "127.0.0.1", "0.0.0.0", "10.220.7.5/32", "",
        "10.220.7.5\t10.220.7.6", "fd00:8::5", "fd00:7::1", "fd00:7::", "fd00:7::5%eth0", "::ffff:10.220.7.5",
        7, None, [], 1.5, True, 0xADC0705,
    ],
)  # fmt: skip
def test_addresses_of_others_are_not_believed(address: Any) -> None:
    told = heard(said(set=container("web", addresses=["10.220.7.9", address]), complete=True))
    assert texts(told) == "10.220.7.9\tweb\n"
    assert told.doubt == "1 of its containers are not known as it says: an address is none of its slice"
    told.take(said(gone=["c1"]))
    assert (texts(told), told.doubt) == ("", "")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "no object of JSON"),
        (b"[]", "no object of JSON"),
        (b"HTTP/1.1 400 Bad Request", "no object of JSON"),
        (b"\xff\xfe", "no object of JSON"),
        (b'{"set": 1}', "its set is 1, expected a dict"),
        (b'{"set": []}', "its set is a list, expected a dict"),
        (b'{"gone": "c1"}', "its gone is 'c1', expected a list"),
        (b'{"gone": [7]}', "id is 7"),
        (b'{"gone": ["../../etc/passwd"]}', "id is '../../etc/passwd'"),
        (b'{"set": {"": {}}}', "id is ''"),
        (b'{"set": {"%s": {}}}' % (b"c" * 65), "id is 'ccc"),
        (b'{"set": {"c1": 5}}', "it says 5 of a container"),
        (b'{"set": {"c1": {"names": "web"}}}', "its names is 'web', expected a list"),
        (said(set=container(*["web"] * 129)), "129 names"),
        (said(set=container("web", addresses=["10.220.7.5"] * 3)), "3 addresses"),
    ],
)
def test_what_cannot_be_read_ends_it(line: bytes, why: str) -> None:
    with pytest.raises(NotUnderstood, match=re.escape(why)):
        heard().take(line)


def test_another_version_is_told_apart() -> None:
    with pytest.raises(NotUnderstood, match="in version 2, expected 1; upgrade the older"):
        Heard(SLICES).take(said(mooring="names", version=2))
    with pytest.raises(NotUnderstood, match="another program has the port"):
        Heard(SLICES).take(said(mooring="gossip", version=1))


LONG_NAMES = [f"{number:0>60}.{'x' * 60}.{'y' * 60}.{'z' * 60}" for number in range(128)]


@pytest.mark.parametrize(
    ("addresses", "names", "why"),
    [
        (["10.220.7.5"], ["web"], "more than 1023 containers"),
        ([], ["web"], ""),
        (["10.220.9.5"], ["web"], "more than 1023 containers"),
        (["10.220.7.5"], LONG_NAMES, "more than 1048576 bytes"),
    ],
)
def test_there_is_an_end_to_containers_and_bytes(addresses: list[str], names: list[str], why: str) -> None:
    told = heard()
    entry = {"addresses": addresses, "names": names}
    problems = (taken(told, said(set={f"c{number}": entry})) for number in range(1100))
    assert why in next(filter(None, problems), "")


def test_what_is_told_of_a_home() -> None:
    home = Home("mr0-0", ("10.220.7.5",), "02:6d:0a:dc:07:05", ("Web", "a..b", "web", "db"))
    assert transfer.record_of(home) == Record(("10.220.7.5",), ("web", "db"))
    assert transfer.record_of(Home("mr0-0", ("10.220.7.5",), "", ("a..b",))) is None
