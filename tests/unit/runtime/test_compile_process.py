# SPDX-License-Identifier: Apache-2.0
"""The process of a config: what comes of it, and the field that each error names."""

from __future__ import annotations

import logging
import resource
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec, MooringError
from mooring_agent.runtime import compile
from mooring_agent.runtime.compile_process import compile_process
from mooring_agent.runtime.compile_scheduling import number_list
from mooring_agent.runtime.plan import Process

PROCESS: dict[str, Any] = {"args": ["sh"], "cwd": "/", "user": {"uid": 5, "gid": 6}}


def compiled(linux: dict[str, Any] | None = None, /, **changes: Any) -> Process:
    return compile_process({**PROCESS, **changes}, {}, None, linux)


def test_a_user_by_name_comes_as_an_annotation_and_is_what_setuid_makes_of_root() -> None:
    process = compile_process(PROCESS, {compile.USER_ANNOTATION: "web:staff"}, None)
    assert (process.user, process.exact_capabilities) == ("web:staff", False)
    assert (compiled().user, compiled().exact_capabilities) == ("5:6", True)
    assert compiled(user={"username": "web"}).user == "web"


def test_groups_come_by_name_or_are_kept() -> None:
    annotations = {compile.GROUPS_ANNOTATION: "audio,100", "run.oci.keep_original_groups": "1"}
    process = compile_process(PROCESS, annotations, None)
    assert (process.additional_groups, process.keep_groups) == (("audio", "100"), True)


def test_capabilities_that_are_none_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        process = compiled(capabilities={"effective": ["CAP_FLY", "CAP_CHOWN"]})
    assert process.capabilities.effective == 1
    assert "CAP_FLY" in caplog.text
    assert "config.process.capabilities.effective" in caplog.text


def test_limits_and_no_limits() -> None:
    limits = [
        {"type": "RLIMIT_CORE", "soft": 0, "hard": (1 << 64) - 1},
        {"type": "RLIMIT_RTTIME", "soft": -1, "hard": -1},
        {"type": "RLIMIT_LOCKS", "soft": 1, "hard": 2},
    ]
    assert compiled(rlimits=limits).rlimits == (
        (resource.RLIMIT_CORE, 0, resource.RLIM_INFINITY),
        (resource.RLIMIT_RTTIME, -1, -1),
        (10, 1, 2),
    )


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ({"policy": "SCHED_OTHER", "nice": -20}, (0, 0, -20, 0, 0, 0, 0)),
        (
            {"policy": "SCHED_FIFO", "priority": 99, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
            (1, 1, 0, 99, 0, 0, 0),
        ),
        (
            {"policy": "SCHED_DEADLINE", "runtime": 1024, "deadline": 2048, "period": 4096},
            (6, 0, 0, 0, 1024, 2048, 4096),
        ),
    ],
)
def test_scheduling(scheduler: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert compiled(scheduler=scheduler).scheduler == expected


def test_priorities_policies_and_places() -> None:
    process = compiled(
        {
            "personality": {"domain": "LINUX32"},
            "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-2,9", "flags": ["MPOL_F_STATIC_NODES"]},
        },
        ioPriority={"class": "IOPRIO_CLASS_IDLE"},
        execCPUAffinity={"initial": "0-1", "final": "3"},
    )
    assert (process.io_priority, process.personality) == (3 << 13, 8)
    assert process.memory_policy == (2 | 1 << 15, "207")
    assert (process.initial_cpus, process.final_cpus) == ((0, 1), (3,))


def test_a_listener_is_there_only_for_a_filter_that_notifies() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": "/run/x",
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
    }
    quiet = compiled({"seccomp": profile})
    assert (quiet.listener, quiet.seccomp_flags) == ("", 2)
    rule = {"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}
    asking = compiled({"seccomp": {**profile, "listenerMetadata": "m", "syscalls": [rule]}})
    assert (asking.listener, asking.listener_metadata) == ("/run/x", "m")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"args": []}, ["config.process.args"]),
        ({"args": "sh"}, ["config.process.args"]),
        ({"args": ["a\0b"]}, ["config.process.args", "NUL"]),
        ({"env": [1]}, ["config.process.env"]),
        ({"cwd": "srv"}, ["config.process.cwd", "absolute"]),
        ({"cwd": None}, ["config.process.cwd"]),
        ({"user": {"uid": -1, "gid": 0}}, ["user.uid", "-1"]),
        ({"user": {"uid": 0, "gid": 1 << 32}}, ["user.gid"]),
        ({"user": {"uid": 0, "gid": 0, "additionalGids": ["x"]}}, ["additionalGids", "'x'"]),
        ({"user": {"uid": 0, "gid": 0, "umask": 512}}, ["umask", "512"]),
        ({"consoleSize": {"height": 5}}, ["consoleSize"]),
        ({"rlimits": [{"type": "RLIMIT_FLY", "soft": 1, "hard": 1}]}, ["RLIMIT_FLY", "RLIMIT_NOFILE"]),
        ({"rlimits": [{"type": "RLIM_INFINITY", "soft": 1, "hard": 1}]}, ["RLIM_INFINITY"]),
        ({"rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]}, ["RLIMIT_CPU", "hard"]),
        ({"rlimits": [{"type": "RLIMIT_CPU", "hard": 1}]}, ["RLIMIT_CPU", "soft"]),
        ({"rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2}, ["RLIMIT_CPU", "twice"]),
        ({"oomScoreAdj": 1001}, ["oomScoreAdj", "1001"]),
        ({"apparmorProfile": 5}, ["apparmorProfile"]),
        ({"selinuxLabel": []}, []),
        ({"scheduler": {"policy": "SCHED_MOON"}}, ["scheduler.policy", "SCHED_MOON"]),
        ({"scheduler": {"policy": "SCHED_OTHER", "nice": 20}}, ["scheduler.nice"]),
        ({"scheduler": {"policy": "SCHED_RR", "flags": ["X"]}}, ["scheduler.flags", "'X'"]),
        ({"scheduler": {"policy": "SCHED_DEADLINE", "deadline": 5}}, ["SCHED_DEADLINE", "runtime"]),
        ({"scheduler": {"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 5}}, ["between"]),
        ({"scheduler": {"policy": "SCHED_DEADLINE", "runtime": 9999, "deadline": 5}}, ["<=", "deadline"]),
        ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}, ["ioPriority.priority"]),
        ({"ioPriority": {"class": "X"}}, ["ioPriority.class"]),
        ({"execCPUAffinity": {"initial": "3-1"}}, ["execCPUAffinity.initial"]),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], words: list[str]) -> None:
    if not words:
        compiled(**change)
        return
    with pytest.raises(InvalidSpec) as refused:
        compiled(**change)
    for word in words:
        assert word in refused.value.message


@pytest.mark.parametrize(
    ("linux", "word"),
    [
        ({"personality": {"domain": "BSD"}}, "personality"),
        ({"personality": {"domain": "LINUX", "flags": ["X"]}}, "flags"),
        ({"memoryPolicy": {}}, "memoryPolicy"),
        ({"memoryPolicy": {"mode": "MPOL_BIND"}}, "nodes"),
        ({"memoryPolicy": {"mode": "MPOL_LOCAL", "nodes": "0"}}, "nodes"),
        ({"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "x"}}, "nodes"),
        (
            {
                "memoryPolicy": {
                    "mode": "MPOL_BIND",
                    "nodes": "0",
                    "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"],
                }
            },
            "flags",
        ),
    ],
)
def test_what_is_wrong_with_the_linux_part_is_named(linux: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidSpec, match=word):
        compiled(linux)


@given(st.sets(st.integers(0, 200), min_size=1))
def test_lists_of_numbers(numbers: set[int]) -> None:
    ordered = sorted(numbers)
    assert number_list(",".join(map(str, ordered)), "here", 201) == tuple(ordered)
    assert number_list(f"{ordered[0]}-{ordered[-1]}", "here", 201) == tuple(
        range(ordered[0], ordered[-1] + 1)
    )


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
_FIELDS = (
    *(
        "args",
        "env",
        "cwd",
        "user",
        "consoleSize",
        "rlimits",
        "oomScoreAdj",
        "apparmorProfile",
        "selinuxLabel",
    ),
    *("scheduler", "ioPriority", "execCPUAffinity", "capabilities", "terminal"),
)


@given(st.dictionaries(st.sampled_from(_FIELDS), _ANY))
def test_anything_makes_a_process_or_an_error_for_people(process: dict[str, Any]) -> None:
    words = "config.process"
    try:
        compile_process({**PROCESS, **process}, {}, None)
    except MooringError as error:
        words = error.message
    assert "config.process" in words
