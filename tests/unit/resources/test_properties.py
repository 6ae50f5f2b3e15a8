# SPDX-License-Identifier: Apache-2.0
"""What holds for every spec: one normal form, idempotent parsing, comparison that finds what was changed."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.engine.resources import ContainerSpec, compare, merge, options_of
from mooring_agent.engine.resources.health import spelled
from mooring_agent.engine.resources.names import cpu_list
from mooring_agent.engine.resources.options import MIB, Size, show_size

NAMES = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,12}", fullmatch=True)
NETWORKS = NAMES.filter(lambda name: name not in ("host", "none"))
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
PAIRS = st.dictionaries(st.from_regex(r"[A-Za-z0-9_]{1,6}", fullmatch=True), TEXTS, max_size=3)
PATHS = st.from_regex(r"/[a-z]{1,5}(/[a-z]{1,5}){0,2}/?", fullmatch=True).filter(
    lambda path: "proc" not in path
)
SIZES = st.one_of(
    st.integers(6 * MIB, 2**40),
    st.integers(6, 4096).map(lambda number: f"{number}m"),
    st.integers(1, 64).map(lambda number: f"{number}.5GiB"),
)
ARGV = st.one_of(st.lists(TEXTS, max_size=3), st.just("sh -c 'echo hi'"))
NUMBER = st.integers(1, 65535)
PORTS = st.lists(
    st.one_of(
        NUMBER,
        st.builds(lambda host, inner: f"{host}:{inner}", NUMBER, NUMBER),
        st.builds(lambda host, inner: {"host": host, "container": inner, "protocol": "udp"}, NUMBER, NUMBER),
    ),
    max_size=3,
    unique_by=lambda port: str(port) if isinstance(port, int) else _host_of(port),
)
VOLUMES = st.lists(
    st.one_of(
        st.builds(lambda name, target: f"{name}:{target}:ro", NAMES, PATHS),
        st.builds(lambda path, target: {"source": path, "target": target}, PATHS, PATHS),
        st.builds(
            lambda path, target: {
                "source": path,
                "target": target,
                "propagation": "rslave",
                "recursive": False,
            },
            PATHS,
            PATHS,
        ),
        st.builds(
            lambda name, target, within: {
                "source": name,
                "target": target,
                "subpath": within.lstrip("/"),
                "relabel": "shared",
            },
            NAMES,
            PATHS,
            PATHS,
        ),
        st.builds(lambda target, size: {"type": "tmpfs", "target": target, "size": size}, PATHS, SIZES),
        st.builds(lambda target: {"type": "tmpfs", "target": target, "options": ["mode=700", "exec"]}, PATHS),
    ),
    max_size=3,
    unique_by=lambda volume: _target_of(volume),
)
ATTACHMENTS = st.lists(
    st.one_of(
        NETWORKS,
        st.builds(lambda name: {"name": name, "ipv4_address": "10.210.0.9", "aliases": ["db"]}, NETWORKS),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda network: network if isinstance(network, str) else network["name"],
)
CAPABILITIES = st.lists(st.sampled_from(["NET_ADMIN", "cap_net_raw", "CAP_SYS_TIME", "all"]), max_size=3)
PROFILE = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}
DEVICES = st.lists(
    st.one_of(
        PATHS,
        st.builds(lambda host, inner: f"{host}:{inner}:r", PATHS, PATHS),
        st.builds(lambda host: {"host": host, "access": "mr"}, PATHS),
    ),
    max_size=3,
    unique_by=lambda device: _inner_path(device),
)
IDS = st.integers(0, 2**31)
MAPPINGS = st.one_of(
    st.sampled_from(["host", "100000:65536"]),
    st.builds(
        lambda users, size: {"uid_map": [{"container": 0, "host": users, "size": size}]},
        IDS,
        st.integers(1, 65536),
    ),
)
LIMITS = st.one_of(
    st.integers(0, 2**40),
    st.builds(lambda soft, more: f"{soft}:{soft + more}", NUMBER, NUMBER),
    st.just({"soft": 5, "hard": -1}),
    st.just("unlimited"),
)
SPANS = st.one_of(
    st.integers(0, 10**6),
    st.integers(1, 10**9).map(lambda number: number / 1000),
    st.integers(10**6, 10**15).map(spelled),
    st.sampled_from(["0", "1m30s", "500ms", "1.5h"]),
)
HEALTHCHECKS = st.one_of(
    st.just({"test": ["NONE"]}),
    st.fixed_dictionaries(
        {},
        optional={
            "test": st.sampled_from(["true", ["CMD", "true", "x"], ["CMD-SHELL", "exit 1"]]),
            **dict.fromkeys(("interval", "timeout", "start_period", "start_interval"), SPANS),
            "retries": st.integers(0, 9),
            "on_unhealthy": st.just("none"),
        },
    ),
)
CONTAINERS = st.fixed_dictionaries(
    {"image": NAMES},
    optional={
        "command": ARGV,
        "entrypoint": ARGV,
        "env": st.one_of(PAIRS, PAIRS.map(lambda env: [f"{key}={value}" for key, value in env.items()])),
        "env_unset": st.lists(st.sampled_from(["LESS", "MORE"]), max_size=3),
        "workdir": PATHS,
        "user": st.sampled_from([1000, "root", "007:users", "www-data:33"]),
        "hostname": st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8})?", fullmatch=True),
        "labels": PAIRS,
        "annotations": PAIRS,
        "tty": st.booleans(),
        "interactive": st.booleans(),
        "volumes": VOLUMES,
        "networks": ATTACHMENTS,
        "dns": st.lists(st.sampled_from(["192.0.2.53", "2001:0db8::53"]), max_size=3),
        "dns_search": st.lists(st.sampled_from(["example.org", "lan.", "_tcp.example.org"]), max_size=3),
        "dns_options": st.lists(st.sampled_from(["ndots:2", "use-vc"]), max_size=2),
        "extra_hosts": st.one_of(
            st.just(["db:192.0.2.7", "v6:2001:0db8::7", "me=host-gateway"]),
            st.just({"db": "192.0.2.7", "v6": "[2001:0db8::7]"}),
        ),
        "network_limits": st.sampled_from(
            ["in=10mbit,out=1.5gbit", {"rate_out": 8000, "burst": "64k"}, [{"rate_in": "20 Mbit/s"}]]
        ),
        "network_class": st.sampled_from(["1:10", "A:0b", "ffff:1"]),
        "ports": PORTS,
        "memory": SIZES,
        "memory_reservation": st.just("6m"),
        "memory_swap": st.just(-1),
        "cpus": st.floats(0.01, 64),
        "cpu_shares": st.integers(2, 262_144),
        "cpuset_cpus": st.sampled_from(["0", "1,0", "0-3,2"]),
        "cpuset_mems": st.just("0"),
        "pids_limit": st.integers(1, 10_000),
        "memory_swappiness": st.integers(0, 100),
        "cpu_rt_period": st.integers(100, 10_000),
        "cpu_rt_runtime": st.integers(1, 100),
        "blkio_weight": st.integers(10, 1000),
        "blkio_weight_device": st.dictionaries(PATHS, st.integers(10, 1000), max_size=1),
        "device_read_bps": st.dictionaries(PATHS, SIZES, max_size=1),
        "device_write_bps": PATHS.map(lambda path: [f"{path}:1m"]),
        "device_read_iops": st.dictionaries(PATHS, st.integers(1, 1000), max_size=1),
        "device_write_iops": PATHS.map(lambda path: [f"{path}:7"]),
        "oom_kill_disable": st.just(False),
        "restart": st.sampled_from(["no", False, "always", "unless-stopped", "on-failure", "on-failure:4"]),
        "stop_signal": st.sampled_from(["INT", "sigterm", 9, "SIGRTMIN+3"]),
        "stop_timeout": st.integers(0, 100),
        "healthcheck": HEALTHCHECKS,
        "log": st.fixed_dictionaries({}, optional={"max_size": SIZES, "max_files": st.integers(1, 9)}),
        "cap_add": CAPABILITIES,
        "cap_drop": CAPABILITIES,
        "read_only": st.booleans(),
        "no_new_privileges": st.booleans(),
        "init": st.booleans(),
        "privileged": st.just(False),
        "seccomp": st.sampled_from(["default", "unconfined", PROFILE, json.dumps(PROFILE)]),
        "apparmor": st.sampled_from(["unconfined", "docker-default"]),
        "selinux": st.lists(st.sampled_from(["disable", "type:svirt_t", "level:s0:c1"]), max_size=2),
        "masked_paths": st.lists(PATHS, max_size=2),
        "readonly_paths": st.lists(PATHS, max_size=2),
        "devices": DEVICES,
        "device_cgroup_rules": st.lists(st.sampled_from(["c 10:200 rwm", "b 8:* mr", "a *:* r"]), max_size=2),
        "ulimits": st.dictionaries(st.sampled_from(["nofile", "NPROC", "RLIMIT_CORE"]), LIMITS, max_size=2),
        "sysctls": st.dictionaries(
            st.sampled_from(["net.ipv4.ip_forward", "kernel.shmmax", "net/core/somaxconn"]), TEXTS, max_size=2
        ),
        "shm_size": SIZES,
        "storage_size": SIZES,
        "group_add": st.lists(st.sampled_from([7, "audio", "007"]), max_size=3),
        "oom_score_adj": st.integers(-1000, 1000),
        "domainname": st.just("example.org"),
        "pid": st.just("private"),
        "ipc": st.sampled_from(["private", "shareable"]),
        "uts": st.just("private"),
        "cgroupns": st.sampled_from(["private", "host"]),
        "userns": MAPPINGS,
        "time_offsets": st.dictionaries(st.sampled_from(["monotonic", "boottime"]), st.integers(-9, 9)),
        "cgroup": NAMES,
        "pull": st.sampled_from(["missing", "always", "newer", "never"]),
        "update_order": st.sampled_from(["stop_first", "start_first"]),
        "ready_timeout": st.integers(1, 100),
        "drain": st.integers(0, 100),
        "state": st.sampled_from(["running", "stopped"]),
    },
)


def _target_of(volume: str | dict[str, Any]) -> str:
    return str(volume.split(":")[1] if isinstance(volume, str) else volume["target"]).rstrip("/")


def _inner_path(device: str | dict[str, Any]) -> str:
    path = device["host"] if isinstance(device, dict) else device.removesuffix(":r").split(":")[-1]
    return str(path).rstrip("/")


def _host_of(port: str | dict[str, Any]) -> str:
    return str(port["host"]) if isinstance(port, dict) else port.partition(":")[0]


def test_the_strategy_covers_every_option() -> None:
    every_option = set(options_of(ContainerSpec))
    # fixed_dictionaries keeps its two mappings; what it can draw must be the whole table.
    assert every_option == {"image"} | set(CONTAINERS.wrapped_strategy.optional)  # type: ignore[attr-defined]


@given(CONTAINERS)
def test_the_normal_form_parses_to_itself(data: dict[str, Any]) -> None:
    spec = ContainerSpec.parse(data)
    again = ContainerSpec.parse(json.loads(json.dumps(spec.given)))

    assert again == spec
    assert again.given == spec.given
    assert again.hash == spec.hash
    assert set(spec.given) <= set(data)


@given(CONTAINERS)
def test_the_full_form_means_the_same(data: dict[str, Any]) -> None:
    spec = ContainerSpec.parse(data)

    assert compare(spec, ContainerSpec.parse(spec.to_dict())) == ()


@given(CONTAINERS, CONTAINERS)
def test_comparison_finds_what_differs_and_merging_removes_it(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    stored, wanted = ContainerSpec.parse(one), ContainerSpec.parse(other)
    changes = compare(stored, wanted)

    assert compare(stored, stored) == ()
    assert {change.field for change in changes} <= set(one) | set(other)
    assert [change.field for change in compare(wanted, stored)] == [change.field for change in changes]
    assert compare(merge(stored, {change.field: change.after for change in changes}), wanted) == ()


@given(st.integers(1, 2**50))
def test_a_shown_size_means_its_bytes(size: int) -> None:
    assert Size().parse(show_size(size), "memory") == size
    assert Size().parse(str(size), "memory") == size


@given(st.sets(st.integers(0, 300), min_size=1))
def test_a_cpu_list_has_one_form(numbers: set[int]) -> None:
    form = cpu_list(",".join(map(str, numbers)), "cpuset_cpus")

    assert cpu_list(form, "cpuset_cpus") == form
    spelled: set[int] = set()
    for part in form.split(","):
        first, _, last = part.partition("-")
        spelled |= set(range(int(first), int(last or first) + 1))
    assert spelled == numbers
