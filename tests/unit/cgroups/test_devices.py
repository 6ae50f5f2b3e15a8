# SPDX-License-Identifier: Apache-2.0
"""The white list of devices: rules, their writes in version 1, their program in version 2."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.cgroups.devices import DEFAULT_RULES, DeviceRule, parse_rule
from mooring_agent.cgroups.v1 import devices as v1
from mooring_agent.cgroups.v2 import devices as v2
from mooring_agent.errors import InvalidSpec, NotSupported

_KIND_BITS = {"b": 1, "c": 2}
_ACCESS_BITS = {"m": 1, "r": 2, "w": 4}


def run(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """Interpret the program as the kernel would, for the operations that it uses."""
    instructions = list(struct.iter_unpack("=BBhI", program))
    wanted = sum(_ACCESS_BITS[letter] for letter in access)
    context = {0: _KIND_BITS[kind] | wanted << 16, 4: major, 8: minor}
    registers: dict[int, int] = {}
    at = 0
    while True:
        operation, pair, offset, immediate = instructions[at]
        target, source = pair & 15, pair >> 4
        at += 1
        if operation == 0x61:
            assert source == 1
            registers[target] = context[offset]
        elif operation == 0xBC:
            registers[target] = registers[source]
        elif operation == 0xB4:
            registers[target] = immediate
        elif operation == 0x54:
            registers[target] &= immediate
        elif operation == 0x74:
            registers[target] >>= immediate
        elif operation == 0x05:
            at += offset
        elif operation == 0x56:
            at += offset if registers[target] != immediate else 0
        elif operation == 0x46:
            at += offset if registers[target] & immediate else 0
        elif operation == 0x95:
            return registers[0] == 1
        else:
            raise AssertionError(f"operation {operation:#x} is not expected")


def judge(rules: list[DeviceRule], kind: str, major: int, minor: int, access: str) -> bool:
    """What the rules mean: each kind of access is decided by the last rule that matches it."""
    for letter in access:
        allowed = True
        for rule in rules:
            if (
                rule.kind in ("a", kind)
                and rule.major in (None, major)
                and rule.minor in (None, minor)
                and letter in rule.access
            ):
                allowed = rule.allow
        if not allowed:
            return False
    return True


_access = st.sets(st.sampled_from("rwm"), min_size=1).map(lambda letters: "".join(sorted(letters)))
_numbers = st.one_of(st.none(), st.integers(0, 3), st.just((1 << 32) - 1))
_rules = st.builds(DeviceRule, st.sampled_from("abc"), _numbers, _numbers, _access, st.booleans())


@given(
    st.lists(_rules, max_size=8),
    st.sampled_from("bc"),
    st.one_of(st.integers(0, 3), st.just((1 << 32) - 1)),
    st.integers(0, 3),
    _access,
)
def test_the_program_decides_as_the_rules_say(
    rules: list[DeviceRule], kind: str, major: int, minor: int, access: str
) -> None:
    assert run(v2.program(rules), kind, major, minor, access) == judge(rules, kind, major, minor, access)


@pytest.mark.parametrize(
    ("kind", "major", "minor", "access", "allowed"),
    [
        ("c", 1, 3, "rw", True),
        ("c", 5, 1, "rw", True),
        ("c", 136, 77, "rw", True),
        ("b", 8, 0, "m", True),
        ("b", 8, 0, "r", False),
        ("c", 1, 1, "r", False),  # mem
        ("c", 10, 229, "rw", False),  # fuse
        ("c", 1, 3, "rwm", True),
        ("c", 10, 229, "rm", False),
    ],
)
def test_the_default_list(kind: str, major: int, minor: int, access: str, allowed: bool) -> None:
    assert run(v2.program(DEFAULT_RULES), kind, major, minor, access) is allowed


def test_the_default_list_in_version_1() -> None:
    writes = [(setting.file, setting.value) for setting in v1.settings(DEFAULT_RULES)]

    assert writes[:4] == [
        ("devices.deny", "a"),
        ("devices.allow", "c *:* m"),
        ("devices.allow", "b *:* m"),
        ("devices.allow", "c 1:3 rwm"),
    ]
    assert ("devices.allow", "c 136:* rwm") in writes


def test_version_1_says_what_it_cannot_express() -> None:
    rules = [
        DeviceRule("a", None, None, allow=False),
        DeviceRule("c", 1, None),
        DeviceRule("c", 1, 3, allow=False),
    ]

    with pytest.raises(NotSupported, match='"c 1:3 rwm" takes a part out of "c 1:\\* rwm"'):
        v1.settings(rules)


def test_a_rule_for_both_kinds_with_numbers_is_two_in_version_1() -> None:
    settings = v1.settings([DeviceRule("a", None, None, allow=False), DeviceRule("a", 7, None, "r")])

    assert [setting.value for setting in settings] == ["a", "c 7:* r", "b 7:* r"]


@given(_rules)
def test_a_rule_is_read_back(rule: DeviceRule) -> None:
    again = parse_rule(str(rule), allow=rule.allow)
    assert (again.kind, again.major, again.minor, set(again.access)) == (
        rule.kind,
        rule.major,
        rule.minor,
        set(rule.access),
    )


@pytest.mark.parametrize(
    "text", ["", "c 1:3", "d 1:3 r", "c 1 r", "c 1:3 x", "c 1:99999999999 r", "c -1:3 r"]
)
def test_a_malformed_rule_is_named(text: str) -> None:
    with pytest.raises(InvalidSpec, match="device rule"):
        parse_rule(text)
