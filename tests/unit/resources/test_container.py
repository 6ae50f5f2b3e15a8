# SPDX-License-Identifier: Apache-2.0
"""Containers as users declare them: spellings, refusals, what is live."""

from __future__ import annotations

from typing import Any

import pytest

from mooring_agent.engine.resources import (
    ContainerSpec,
    LogOptions,
    PortMapping,
    RestartPolicy,
    compare,
    merge,
    options_of,
)
from mooring_agent.errors import InvalidSpec


def parse(**options: Any) -> ContainerSpec:
    return ContainerSpec.parse({"image": "busybox", **options}, name="web1")


@pytest.mark.parametrize(
    ("option", "spellings"),
    [
        ("memory", ["64m", "64M", "64mb", "64MiB", "64 MiB", 67108864, "67108864", "65536k", "0.0625g"]),
        ("memory_swap", [-1, "-1"]),
        ("command", ["sh -c 'echo hi'", ["sh", "-c", "echo hi"]]),
        ("command", [["sleep", 60], "sleep 60"]),
        ("env", [{"A": "1", "B": "x=y"}, ["B=x=y", "A=1"], {"B": "x=y", "A": 1}]),
        ("user", [1000, "1000", "01000"]),
        ("restart", ["no", False, "False", {"name": "no"}]),
        ("restart", ["on-failure:3", {"name": "on-failure", "max_retries": 3}]),
        ("restart", ["on-failure", "on-failure:0"]),
        ("stop_signal", ["INT", "SIGINT", "sigint", 2, "2"]),
        ("stop_signal", ["SIGRTMIN+3", "RTMIN+3", 37]),
        (
            "volumes",
            [["/srv:/data"], ["/srv/:/data/"], [{"type": "bind", "source": "/srv", "target": "//data"}]],
        ),
        ("volumes", [["data:/data:ro"], [{"source": "data", "target": "/data", "read_only": "yes"}]]),
        ("volumes", [["aa:/a", "bb:/b"], ["bb:/b:rw", "aa:/a"]]),
        ("networks", ["web", ["web"], [{"name": "web"}], [{"name": "web", "aliases": []}]]),
        ("networks", ["none", [], ["none"]]),
        ("ports", [["8080:80"], ["8080:80/tcp"], [{"container": "80", "host": 8080, "host_ip": ""}]]),
        ("ports", [[80], ["80"], ["0:80"], ["80/TCP"], [":80"], [{"container": 80, "host": None}]]),
        ("ports", [["127.0.0.1::53/udp"], [{"host_ip": "127.0.0.1", "container": 53, "protocol": "udp"}]]),
        ("ports", [["8000-8001:80-81"], ["8001:81", "8000:80"]]),
        ("ports", [["8000-8009:80"], [{"container": 80, "host": "8000-8009"}]]),
        ("cpuset_cpus", ["0-3", "3,2,1,0", "0-1, 2-3"]),
        ("cap_add", [["NET_ADMIN", "SYS_TIME"], ["cap_sys_time", "CAP_NET_ADMIN", "net_admin"]]),
        ("tty", [True, "true", "Yes"]),
        ("pids_limit", [100, "100"]),
        ("cpus", [1.5, "1.5", "1.50"]),
        ("device_read_bps", [{"/dev/sda": "1m"}, ["/dev//sda:1m"], {"/dev/sda": 1048576, "/dev/sdb": 0}]),
        ("blkio_weight_device", [{"/dev/sda": 300}, ["/dev/sda:300"]]),
        ("memory_swappiness", [0, "0"]),
        ("log", [{"max_size": "1m"}, {"max_size": 1048576, "max_files": 3}]),
        ("workdir", ["/srv/app", "/srv//app/", "/srv/./x/../app"]),
    ],
)
def test_equivalent_spellings_have_one_normal_form(option: str, spellings: list[Any]) -> None:
    specs = [parse(**{option: spelling}) for spelling in spellings]

    assert {spec.hash for spec in specs} == {specs[0].hash}
    assert option in specs[0].given


@pytest.mark.parametrize("option", ["memory", "cpus", "cpu_shares", "pids_limit", "memory_swap"])
def test_zero_is_no_limit_which_is_the_same_as_not_given(option: str) -> None:
    assert parse(**{option: 0}).given == {"image": "busybox"}
    assert parse(**{option: None}).given == {"image": "busybox"}


def test_attributes_carry_defaults_that_the_given_form_does_not() -> None:
    spec = parse()

    assert spec.given == {"image": "busybox"}
    assert spec.networks[0].name == "bridge"
    assert spec.restart == RestartPolicy("no", 0)
    assert spec.log == LogOptions(max_size=16 * 1024**2, max_files=3)
    assert spec.stop_timeout == 10
    assert (spec.state, spec.update_order) == ("running", "stop_first")
    assert spec.command is None


def test_an_empty_command_is_not_the_one_of_the_image() -> None:
    assert parse(command=[]).command == ()
    assert parse(command=[]).hash != parse().hash


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"memroy": 1}, 'container web1 has no option "memroy"; did you mean "memory"?'),
        ({"memory": -5}, "container web1: memory is -5, expected a size of at least 6m in bytes"),
        ({"memory": "lots"}, 'container web1: memory is "lots", expected a size'),
        ({"memory": "64x"}, "expected a size"),
        ({"memory": 1.5}, "expected a size"),
        ({"memory": True}, "expected a size"),
        ({"memory": "5m"}, "at least 6m"),
        ({"memory": "64m", "memory_reservation": "65m"}, "expected at most memory, 64m"),
        ({"memory_swap": "64m"}, "without memory, expected both"),
        ({"memory": "64m", "memory_swap": "32m"}, "memory_swap is 32m, expected at least memory, 64m"),
        ({"cpus": -1}, "expected a number of CPUs of at least 0.01"),
        ({"cpus": "nan"}, "expected a number of CPUs"),
        ({"cpus": "1e999"}, "expected a number of CPUs"),
        ({"cpu_shares": 1}, "expected a weight from 2 to 262144"),
        ({"cpuset_cpus": "3-1"}, 'such as "0-3,8"'),
        ({"cpuset_cpus": ""}, 'such as "0-3,8"'),
        ({"pids_limit": -2}, "expected a number of processes"),
        ({"memory_swappiness": 101}, "expected a percentage from 0 to 100"),
        ({"blkio_weight": 9}, "expected a weight from 10 to 1000"),
        ({"device_read_bps": {"sda": "1m"}}, "expected an absolute path"),
        ({"device_read_bps": ["/dev/sda"]}, 'expected "/dev/DISK:LIMIT"'),
        ({"device_read_bps": "/dev/sda:1m"}, "expected a mapping of disks to limits"),
        ({"device_write_iops": ["/dev/a:1", "/dev//a:2"]}, "names /dev/a twice"),
        ({"cpu_rt_runtime": 1_000_001}, "expected at most cpu_rt_period, 1000000 µs"),
        ({"cpu_rt_runtime": 11, "cpu_rt_period": 10}, "expected at most cpu_rt_period, 10 µs"),
        ({"oom_kill_disable": True}, "without memory"),
        ({"image": None}, "needs the option image"),
        ({"image": "a b"}, "expected the name of an image"),
        ({"image": ["busybox"]}, "expected the name of an image"),
        ({"command": "echo 'x"}, "balance the quotes or give a list"),
        ({"command": ["a\0b"]}, "contains a NUL byte"),
        ({"command": [True]}, "command[0] is true, expected an argument: put it in quotes"),
        ({"command": 5}, "expected a list"),
        ({"env": {"A": True}}, "env.A is true, expected a string: put it in quotes"),
        ({"env": {"A": 1.10}}, "put it in quotes"),
        ({"env": {"A": None}}, "env.A is null, expected a string"),
        ({"env": ["A"]}, 'an item of container web1: env is "A", expected "NAME=VALUE"'),
        ({"env": {"A=B": "x"}}, 'has no "="'),
        ({"env": ["A=1", "A=2"]}, "names A twice"),
        ({"user": "root:root:root"}, 'expected "USER" or "USER:GROUP"'),
        ({"user": "-1"}, 'expected "USER" or "USER:GROUP"'),
        ({"user": "4294967295"}, 'expected "USER" or "USER:GROUP"'),
        ({"user": "1000:"}, 'expected "USER" or "USER:GROUP"'),
        ({"hostname": "-x"}, "expected a host name"),
        ({"hostname": "x" * 65}, "at most 64"),
        ({"workdir": "srv"}, "expected an absolute path"),
        ({"tty": 1}, "expected true or false"),
        ({"volumes": ["/srv"]}, 'expected "SOURCE:TARGET"'),
        ({"volumes": ["./srv:/srv"]}, 'volumes[0].source is "./srv", expected an absolute path'),
        ({"volumes": ["aa:srv"]}, "expected an absolute path"),
        ({"volumes": ["aa:/srv:z"]}, 'expected "SOURCE:TARGET"'),
        ({"volumes": ["aa:/x", "bb:/x/"]}, "volumes names /x twice"),
        ({"volumes": ["/srv:/"]}, "other than / and /proc"),
        ({"volumes": ["/srv:/proc/sys"]}, "other than / and /proc"),
        ({"volumes": [{"type": "tmpfs", "source": "/x", "target": "/x"}]}, "expected no source for a tmpfs"),
        ({"volumes": [{"type": "bind", "target": "/x"}]}, "source is missing; give the absolute path"),
        ({"volumes": [{"type": "volume", "target": "/x"}]}, "source is missing; give the name"),
        ({"volumes": [{"source": "aa", "target": "/x", "size": 9}]}, "only a tmpfs is bounded"),
        ({"volumes": [{"source": "a/b", "target": "/x"}]}, "the name of a volume"),
        (
            {"volumes": [{"surce": "a", "target": "/x"}]},
            'volumes[0] has no option "surce"; did you mean "source"?',
        ),
        ({"volumes": "aa:/x"}, "expected a list"),
        ({"networks": ["host", "web"]}, 'names "host" beside other networks'),
        ({"networks": ["web", "web"]}, "names web twice"),
        ({"networks": [{"name": "none", "ipv4_address": "10.0.0.2"}]}, "has no addresses"),
        ({"networks": [{"name": "web", "ipv4_address": "10.0.0"}]}, "expected an IPv4 address"),
        ({"networks": ["a/b"]}, "the name of a network"),
        ({"networks": ["host"], "ports": [80]}, 'cannot be published with the network "host"'),
        ({"networks": ["host"], "hostname": "x"}, 'cannot be set with the network "host"'),
        ({"ports": ["80/dccp"]}, "one of tcp, udp, sctp"),
        ({"ports": ["x"]}, "expected"),
        ({"ports": [0]}, "from 1 to 65535"),
        ({"ports": ["70000:80"]}, "from 1 to 65535"),
        ({"ports": ["80-82:80-81"]}, "equally long"),
        ({"ports": ["82-80"]}, "upwards"),
        ({"ports": ["82-80:80"]}, "upwards"),
        ({"ports": [{"container": 80, "host": "0-80"}]}, "upwards"),
        ({"ports": [{"container": 80, "host": "80-70000"}]}, "upwards"),
        (
            {"ports": [{"container": 80, "host": "80-90", "balance": "source"}]},
            "name the port that is shared",
        ),
        ({"ports": ["1.2.3:80:80"]}, "an IPv4 or IPv6 address of the host"),
        ({"ports": ["[::ffff:1.2.3.4]:80:80"]}, "no IPv4 address written as IPv6"),
        ({"ports": [{"container": 80, "host": 80, "balance": "random"}]}, "one of round_robin, source"),
        ({"ports": [{"container": 80, "balance": "source"}]}, "name the port that is shared"),
        ({"ports": [{"container": 80, "host": 80, "weight": 2}]}, "say how its connections are spread"),
        ({"ports": [{"container": 80, "host": 80, "balance": "source", "weight": 101}]}, "weight"),
        ({"ports": ["80:80", "80:81"]}, "taken by another entry"),
        ({"ports": [80, 80]}, "taken by another entry"),
        ({"ports": [{"host": 80}]}, "needs the option container"),
        ({"ports": [{"contaner": 80}]}, 'did you mean "container"?'),
        ({"ports": [True]}, "expected"),
        ({"restart": "sometimes"}, 'expected one of "no"'),
        ({"restart": "always:3"}, 'expected one of "no"'),
        ({"restart": "on-failure:x"}, "expected a number of attempts"),
        ({"restart": {"policy": "no"}}, 'has no option "policy"'),
        ({"stop_signal": "FOO"}, "expected a signal"),
        ({"stop_signal": 0}, "expected a signal"),
        ({"stop_signal": "SIGRTMIN+99"}, "expected a signal"),
        ({"stop_timeout": -1}, "expected a number of seconds"),
        ({"log": {"max_size": "1k"}}, "at least 4k"),
        ({"log": "1m"}, "expected a mapping"),
        ({"cap_add": ["NET ADMIN"]}, "expected a capability"),
        ({"cgroup": "../x"}, "the name of a cgroup"),
        ({"update_order": "first"}, "one of stop_first, start_first"),
        ({"state": "absent"}, "one of running, stopped"),
    ],
)
def test_a_refusal_is_one_sentence_that_names_the_option(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse(**options)

    message = caught.value.message
    assert sentence in message
    assert "container web1" in message
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize("data", [None, [], "busybox", 5])
def test_a_spec_is_a_mapping(data: object) -> None:
    with pytest.raises(InvalidSpec, match=r"container web1 is .*, expected a mapping"):
        ContainerSpec.parse(data, name="web1")


def test_what_the_kernel_takes_live_is_not_a_replacement() -> None:
    live = {name for name, declared in options_of(ContainerSpec).items() if declared.live}

    assert live == {
        *("memory", "memory_reservation", "memory_swap", "cpus", "cpu_shares", "cpuset_cpus", "cpuset_mems"),
        *("memory_swappiness", "oom_kill_disable", "cpu_rt_period", "cpu_rt_runtime", "blkio_weight"),
        *("blkio_weight_device", "device_read_bps", "device_write_bps"),
        *("device_read_iops", "device_write_iops"),
        *("pids_limit", "restart", "labels", "stop_signal", "stop_timeout", "log", "ports", "state"),
        *(
            "update_order",
            "ready_timeout",
            "drain",
            "pull",
            "networks",
            "network_limits",
            "network_class",
            "dns",
            "dns_search",
            "dns_options",
            "extra_hosts",
            "healthcheck",
        ),
    }


@pytest.mark.parametrize(
    ("before", "after", "live"),
    [
        (["blue"], ["blue", "red"], True),
        (["blue"], [], True),
        ("none", ["blue"], True),
        (["blue"], "host", False),
        ("host", ["blue"], False),
        (["blue"], "container:web2", False),
    ],
)
def test_what_has_a_network_namespace_of_its_own_changes_networks_live(
    before: object, after: object, live: bool
) -> None:
    [change] = compare(parse(networks=before), parse(networks=after))
    assert (change.field, change.live) == ("networks", live)


def test_a_change_says_what_it_is_and_whether_it_is_live() -> None:
    stored = parse(memory="64m", ports=["8080:80"])
    wanted = parse(memory="128m", ports=[], user="app")

    assert [str(change) for change in compare(stored, wanted)] == [
        "user unset → app, needs a replacement",
        "ports [8080:80/tcp] → [], live",
        "memory 64m → 128m, live",
    ]


def test_the_values_of_variables_stay_out_of_the_reason() -> None:
    (change,) = compare(parse(env={"A": "old", "B": "1"}), parse(env={"A": "secret", "C": "1"}))

    assert str(change) == "env C added, B removed, A changed, needs a replacement"
    assert change.after == {"A": "secret", "C": "1"}


def test_giving_what_is_the_default_changes_nothing() -> None:
    assert compare(parse(), parse(restart="no", networks=["bridge"], ports=[], tty=False)) == ()
    assert parse().hash != parse(tty=False).hash


def test_merging_validates_the_whole_and_null_takes_back() -> None:
    spec = parse(memory="64m", memory_swap="128m", ports=["127.0.0.1:8080:80"])

    assert merge(spec, {"memory": "100m"}).memory == 100 * 1024**2
    assert (
        merge(spec, {"memory": None, "memory_swap": None}).given == parse(ports=["127.0.0.1:8080:80"]).given
    )
    with pytest.raises(InvalidSpec, match="memory_swap is 128m, expected at least memory, 256m"):
        merge(spec, {"memory": "256m"})


def test_ports_are_typed() -> None:
    assert parse(ports=["127.0.0.1:8080:80", "53/udp"]).ports == (
        PortMapping(53, None, "", "udp"),
        PortMapping(80, 8080, "127.0.0.1", "tcp"),
    )
