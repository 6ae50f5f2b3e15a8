# SPDX-License-Identifier: Apache-2.0
"""System call filters: the default profile, profiles of others, what is refused, and the cache."""

from __future__ import annotations

import errno
import platform
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec, MissingProgram, NotSupported
from mooring_agent.linux import seccomp
from mooring_agent.runtime import seccomp_profile
from mooring_agent.runtime.capabilities import CAPABILITIES, DEFAULT
from mooring_agent.runtime.seccomp_profile import SeccompCache, compile_profile, default_profile
from mooring_agent.runtime.seccomp_syntax import parse, seccomp_flags

from .filters import AUDIT_I386, AUDIT_X86_64, interpret, judge

EPERM = seccomp.ERRNO | errno.EPERM
ENOSYS = seccomp.ERRNO | errno.ENOSYS
on_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")


def action_for(program: bytes, name: str, *arguments: int) -> int:
    return interpret(
        program, AUDIT_X86_64, seccomp.syscall_on(seccomp.architecture("x86_64"), name), arguments
    )


@pytest.fixture(scope="module")
def program() -> bytes:
    return compile_profile(default_profile(), DEFAULT)


@on_x86_64
@pytest.mark.parametrize(
    ("name", "arguments", "action"),
    [
        ("read", (), seccomp.ALLOW),
        ("execve", (), seccomp.ALLOW),
        ("ptrace", (), seccomp.ALLOW),
        ("chroot", (), seccomp.ALLOW),  # CAP_SYS_CHROOT is one of the 14
        ("socket", (2, 1, 0), seccomp.ALLOW),
        ("socket", (39, 1, 0), seccomp.ALLOW),
        ("socket", (41, 1, 0), seccomp.ALLOW),
        ("socket", (38, 5, 0), EPERM),  # AF_ALG
        ("socket", (40, 1, 0), EPERM),  # AF_VSOCK
        ("clone", (0x11,), seccomp.ALLOW),
        ("clone", (0x10000000 | 0x11,), EPERM),  # CLONE_NEWUSER
        ("clone", (0x02000000,), EPERM),  # CLONE_NEWCGROUP
        ("clone3", (), ENOSYS),
        ("personality", (0,), seccomp.ALLOW),
        ("personality", (0xFFFFFFFF,), seccomp.ALLOW),
        ("personality", (0x0040000,), EPERM),  # ADDR_NO_RANDOMIZE
        ("mount", (), EPERM),
        ("unshare", (0x10000000,), EPERM),
        ("setns", (), EPERM),
        ("keyctl", (), EPERM),
        ("add_key", (), EPERM),
        ("request_key", (), EPERM),
        ("io_uring_setup", (), EPERM),
        ("io_uring_enter", (), EPERM),
        ("userfaultfd", (), EPERM),
        ("bpf", (), EPERM),
        ("perf_event_open", (), EPERM),
        ("open_by_handle_at", (), EPERM),
        ("init_module", (), EPERM),
        ("kexec_load", (), EPERM),
        ("swapon", (), EPERM),
    ],
)
def test_what_a_container_may_do(program: bytes, name: str, arguments: tuple[int, ...], action: int) -> None:
    assert action_for(program, name, *arguments) == action


@on_x86_64
def test_a_call_that_no_profile_can_know_does_not_exist(program: bytes) -> None:
    """A C library tries a new call first: only ENOSYS makes it fall back."""
    assert interpret(program, AUDIT_X86_64, 1000) == ENOSYS
    assert interpret(program, AUDIT_I386, 1000) == ENOSYS
    assert interpret(program, AUDIT_X86_64, 0x40000000 | 1000) == ENOSYS
    assert interpret(program, 0xC00000B7, 0) == seccomp.KILL_THREAD  # another architecture


@on_x86_64
def test_capabilities_open_what_belongs_to_them() -> None:
    program = compile_profile(default_profile(), CAPABILITIES)

    for name in ("mount", "unshare", "clone3", "bpf", "init_module", "reboot", "open_by_handle_at"):
        assert action_for(program, name) == seccomp.ALLOW
    assert action_for(program, "clone", 0x10000000) == seccomp.ALLOW
    assert action_for(program, "keyctl") == EPERM


def _interesting(maximum: int) -> st.SearchStrategy[int]:
    edges = (0, 1, 8, 37, 38, 39, 40, 41, 0x20000, 0x10000011, 0x7E020000, 0xFFFFFFFF, 1 << 32, (1 << 64) - 1)
    return st.one_of(st.sampled_from(edges), st.integers(0, maximum))


@on_x86_64
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_the_program_does_what_the_profile_says(data: st.DataObject) -> None:
    capabilities = frozenset(data.draw(st.sampled_from((DEFAULT, (), tuple(CAPABILITIES)))))
    machine = data.draw(st.sampled_from((("x86_64", AUDIT_X86_64), ("x86", AUDIT_I386))))
    profile = parse(default_profile()).select(capabilities, "x86_64", (6, 1))
    names = sorted(
        {rule.name for rule in parse(default_profile()).rules} | {"keyctl", "swapon", "kexec_load"}
    )
    name = data.draw(st.sampled_from(names))
    arguments = data.draw(st.lists(_interesting((1 << 64) - 1), min_size=6, max_size=6))
    if machine[0] == "x86":
        # A 32-bit program has 32-bit arguments.
        arguments = [argument & 0xFFFFFFFF for argument in arguments]
    number = seccomp.syscall_on(seccomp.architecture(machine[0]), name)
    if number < 0:
        return

    action = interpret(_compiled(capabilities), machine[1], number, arguments)

    expected = judge(profile, name, arguments)
    assert action == expected or (action == ENOSYS and expected == EPERM), name


_programs: dict[frozenset[str], bytes] = {}


def _compiled(capabilities: frozenset[str]) -> bytes:
    if capabilities not in _programs:
        _programs[capabilities] = compile_profile(default_profile(), capabilities)
    return _programs[capabilities]


def test_the_default_profile_is_sorted_and_complete() -> None:
    profile = default_profile()

    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert profile["defaultErrnoRet"] == errno.EPERM
    assert all(entry["names"] == sorted(set(entry["names"])) for entry in profile["syscalls"])
    always = set(profile["syscalls"][0]["names"])
    assert len(always) > 330
    for entry in profile["syscalls"][1:]:
        assert not always & set(entry["names"])


def simple(**more: Any) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", **more}],
    }


@on_x86_64
def test_a_permissive_profile_lets_unknown_calls_through() -> None:
    program = compile_profile(simple(errnoRet=30), ())

    assert action_for(program, "mkdir") == seccomp.ERRNO | 30
    assert action_for(program, "read") == seccomp.ALLOW
    assert interpret(program, AUDIT_X86_64, 1000) == seccomp.ALLOW


@on_x86_64
def test_conditions_on_one_argument_are_alternatives_and_others_hold_together() -> None:
    one = {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}
    two = {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}
    other = {"index": 1, "value": 7, "op": "SCMP_CMP_EQ"}

    alternatives = compile_profile(simple(args=[one, two]), ())
    together = compile_profile(simple(args=[one, other]), ())

    assert [action_for(alternatives, "mkdir", value) for value in (0, 1, 2)] == [seccomp.ALLOW, EPERM, EPERM]
    assert action_for(together, "mkdir", 1, 6) == seccomp.ALLOW
    assert action_for(together, "mkdir", 1, 7) == EPERM


@on_x86_64
def test_docker_s_older_form_with_one_name_an_entry() -> None:
    document = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"name": "read", "action": "SCMP_ACT_ALLOW", "args": None}],
    }

    program = compile_profile(document, ())

    assert action_for(program, "read") == seccomp.ALLOW
    assert action_for(program, "io_setup") == ENOSYS  # above all that it names
    assert interpret(program, AUDIT_I386, 3) == seccomp.ALLOW


def test_a_call_that_is_unknown_here_is_left_out() -> None:
    document = simple()
    document["syscalls"][0]["names"] = ["mkdir", "no_such_call", "riscv_flush_icache"]

    assert compile_profile(document, ())


@pytest.mark.parametrize(
    ("document", "named"),
    [
        (
            {"defaultAction": "SCMP_ACT_ALOW"},
            "defaultAction 'SCMP_ACT_ALOW', did you mean \"SCMP_ACT_ALLOW\"",
        ),
        ({}, "defaultAction None"),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "sycalls": []},
            "unknown key 'sycalls', did you mean \"syscalls\"",
        ),
        (simple(action="SCMP_ACT_DENY"), "syscalls[0] has action 'SCMP_ACT_DENY'"),
        (simple(names=[]), "syscalls[0] has the names []"),
        (simple(name="mkdir"), 'both "name" and "names"'),
        (simple(args=[{"index": 0, "value": 1, "op": "SCMP_CMP_EQUAL"}]), "op 'SCMP_CMP_EQUAL'"),
        (simple(args=[{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]), "expected a number from 0 to 5"),
        (simple(args=[{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}]), '-1 as "value"'),
        (simple(args=[{"index": 0, "value": 1, "operator": "SCMP_CMP_EQ"}]), "'operator'"),
        (simple(args="x"), 'as "args", expected a list'),
        (simple(errnoRet=99999), 'as "errnoRet", expected a number from 0 to 4095'),
        (simple(action="SCMP_ACT_KILL", errnoRet=1), '"errnoRet" beside SCMP_ACT_KILL'),
        (simple(includes={"caps": ["CAP_SYS_ADMN"]}), 'did you mean "CAP_SYS_ADMIN"'),
        (simple(includes={"minKernel": "new"}), "minKernel 'new'"),
        (simple(includes=["x"]), "expected an object"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X64"]}, "'SCMP_ARCH_X64'"),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{}]},
            'both "architectures" and "archMap"',
        ),
    ],
)
def test_a_malformed_profile_is_refused_with_the_place(document: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        compile_profile(document, ())
    assert named in caught.value.message
    assert caught.value.message.startswith("seccomp profile")


@pytest.mark.parametrize(
    "document",
    [
        {"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/run/x"},
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": "/run/x",
            "syscalls": [{"names": ["sendmsg"], "action": "SCMP_ACT_NOTIFY"}],
        },
    ],
)
def test_what_would_keep_the_launcher_waiting_is_not_supported(document: dict[str, Any]) -> None:
    with pytest.raises(NotSupported, match="SCMP_ACT_NOTIFY"):
        compile_profile(document, ())


@pytest.mark.parametrize(
    ("document", "named"),
    [
        (simple(action="SCMP_ACT_NOTIFY"), "listenerPath"),
        ({**simple(action="SCMP_ACT_NOTIFY"), "listenerPath": "run/x"}, "listenerPath"),
        ({**simple(action="SCMP_ACT_NOTIFY"), "listenerPath": 5}, "listenerPath"),
        ({**simple(action="SCMP_ACT_NOTIFY"), "listenerMetadata": "x"}, "listenerMetadata"),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_MOON"]},
            "SECCOMP_FILTER_FLAG_LOG",
        ),
        ({"defaultAction": "SCMP_ACT_ALLOW", "flags": "x"}, "flags"),
    ],
)
def test_a_listener_and_flags_are_checked(document: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidSpec, match=named):
        compile_profile(document, ())


def test_a_profile_with_a_listener_and_flags_is_compiled() -> None:
    document = {
        **simple(action="SCMP_ACT_NOTIFY"),
        "listenerPath": "/run/x",
        "listenerMetadata": "y",
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
    }
    assert compile_profile(document, ())
    assert seccomp_flags(document) == 0b110


def test_a_program_beyond_the_kernels_limit_is_refused() -> None:
    arguments = [
        [{"index": 0, "value": value << 32 | value, "op": "SCMP_CMP_EQ"}] for value in range(1, 2000)
    ]
    document = simple()
    document["syscalls"] = [
        {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": each} for each in arguments
    ]

    with pytest.raises(InvalidSpec, match="expected at most 4096"):
        compile_profile(document, ())


_documents = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.text(max_size=5),
        st.sampled_from(("SCMP_ACT_ALLOW", "read")),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ("defaultAction", "syscalls", "names", "action", "args", "includes", "caps", "archMap", "x")
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(("defaultAction", "syscalls", "archMap", "architectures")), _documents)
)
def test_no_document_breaks_the_parser(document: dict[str, Any]) -> None:
    with suppress(InvalidSpec, NotSupported):
        parse(document)


def test_the_cache_compiles_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SeccompCache(tmp_path / "a/seccomp")

    path = cache.path_for(None, DEFAULT)

    assert path.read_bytes() == compile_profile(default_profile(), DEFAULT)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert cache.path_for(default_profile(), reversed(DEFAULT)) == path
    assert cache.path_for(None, ("CAP_SYS_ADMIN",)) != path
    assert cache.path_for(simple(), DEFAULT) != path
    assert {each.name for each in path.parent.iterdir()} == {
        path.name,
        cache.path_for(None, ("CAP_SYS_ADMIN",)).name,
        cache.path_for(simple(), DEFAULT).name,
    }
    monkeypatch.setattr(seccomp_profile, "compile_profile", lambda *_: pytest.fail("compiled again"))
    assert SeccompCache(tmp_path / "a/seccomp").path_for(None, DEFAULT) == path


def test_the_cache_makes_again_what_was_removed(tmp_path: Path) -> None:
    cache = SeccompCache(tmp_path)
    path = cache.path_for(None, DEFAULT)

    path.unlink()

    assert cache.path_for(None, DEFAULT).exists()


def test_a_failure_leaves_nothing_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        SeccompCache(tmp_path).path_for(None, DEFAULT)
    assert list(tmp_path.iterdir()) == []


def test_without_the_library_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    seccomp._library.cache_clear()
    monkeypatch.setattr(seccomp, "LIBRARY", "libseccomp-that-is-not-there.so.2")
    try:
        with pytest.raises(MissingProgram, match="libseccomp2"):
            seccomp.version()
    finally:
        seccomp._library.cache_clear()
