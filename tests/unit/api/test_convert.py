# SPDX-License-Identifier: Apache-2.0
"""A create body becomes a spec, and nothing that it asks for is lost on the way."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.api.docker.convert import _HOST, _TOP, Conversion, convert, convert_update
from mooring_agent.engine.resources import ContainerSpec
from mooring_agent.errors import InvalidSpec, NotSupported

# What docker 28.2 sends for `docker run -d web:1`.
CLIENT_BODY: dict[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "web:1",
    "Volumes": {},
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": {},
    "HostConfig": {
        "Binds": None,
        "ContainerIDFile": "",
        "LogConfig": {"Type": "", "Config": {}},
        "NetworkMode": "default",
        "PortBindings": {},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": False,
        "VolumeDriver": "",
        "VolumesFrom": None,
        "ConsoleSize": [0, 0],
        "CapAdd": None,
        "CapDrop": None,
        "CgroupnsMode": "",
        "Dns": [],
        "DnsOptions": [],
        "DnsSearch": [],
        "ExtraHosts": None,
        "GroupAdd": None,
        "IpcMode": "",
        "Cgroup": "",
        "Links": None,
        "OomScoreAdj": 0,
        "PidMode": "",
        "Privileged": False,
        "PublishAllPorts": False,
        "ReadonlyRootfs": False,
        "SecurityOpt": None,
        "UTSMode": "",
        "UsernsMode": "",
        "ShmSize": 0,
        "Isolation": "",
        "CpuShares": 0,
        "Memory": 0,
        "NanoCpus": 0,
        "CgroupParent": "",
        "BlkioWeight": 0,
        "BlkioWeightDevice": [],
        "BlkioDeviceReadBps": [],
        "BlkioDeviceWriteBps": [],
        "BlkioDeviceReadIOps": [],
        "BlkioDeviceWriteIOps": [],
        "CpuPeriod": 0,
        "CpuQuota": 0,
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": "",
        "CpusetMems": "",
        "Devices": [],
        "DeviceCgroupRules": None,
        "DeviceRequests": None,
        "MemoryReservation": 0,
        "MemorySwap": 0,
        "MemorySwappiness": -1,
        "OomKillDisable": False,
        "PidsLimit": 0,
        "Ulimits": [],
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
        "MaskedPaths": None,
        "ReadonlyPaths": None,
    },
    "NetworkingConfig": {
        "EndpointsConfig": {"default": {"IPAMConfig": None, "Links": None, "MacAddress": ""}}
    },
}


def body(host: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    return {"Image": "web:1", **top, "HostConfig": host or {}}


def spec_of(host: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    spec = convert(body(host, **top)).spec
    assert spec.pop("image") == "web:1"
    return spec


def test_what_a_client_always_sends_asks_for_nothing() -> None:
    assert convert(CLIENT_BODY) == Conversion(
        {"image": "web:1", "networks": [{"name": "bridge"}]}, {}, False, ()
    )


@pytest.mark.parametrize(
    ("top", "host", "expected"),
    [
        ({"Cmd": ["a", "b"]}, {}, {"command": ["a", "b"]}),
        ({"Cmd": "a b"}, {}, {"command": ["a b"]}),
        ({"Entrypoint": ["e"]}, {}, {"entrypoint": ["e"]}),
        ({"Entrypoint": [""]}, {}, {"entrypoint": []}),
        ({"Env": ["A=1", "B=x=y", "A=2"]}, {}, {"env": {"A": "2", "B": "x=y"}}),
        (
            {"User": "me", "WorkingDir": "/w", "Hostname": "h"},
            {},
            {"user": "me", "workdir": "/w", "hostname": "h"},
        ),
        ({"Tty": True, "OpenStdin": True}, {}, {"tty": True, "interactive": True}),
        ({"StopSignal": "INT", "StopTimeout": 0}, {}, {"stop_signal": "INT", "stop_timeout": 0}),
        (
            {"Healthcheck": {"Test": ["CMD-SHELL", "a"], "Interval": 5_000_000, "Retries": 2, "Timeout": 0}},
            {},
            {"healthcheck": {"test": ["CMD-SHELL", "a"], "interval": "5000000ns", "retries": 2}},
        ),
        ({"Healthcheck": {"Test": ["NONE"], "Retries": 3}}, {}, {"healthcheck": {"test": ["NONE"]}}),
        ({"Healthcheck": {"Test": [], "Interval": 0}}, {}, {}),
        ({"Labels": {"a": "b"}}, {}, {"labels": {"a": "b"}}),
        ({"NetworkDisabled": True}, {}, {"networks": ["none"]}),
        ({}, {"Memory": 64 << 20, "MemorySwap": -1}, {"memory": 64 << 20, "memory_swap": -1}),
        ({}, {"NanoCpus": 1_500_000_000}, {"cpus": 1.5}),
        ({}, {"CpuQuota": 50_000}, {"cpus": 0.5}),
        ({}, {"CpuQuota": 50_000, "CpuPeriod": 200_000}, {"cpus": 0.25}),
        ({}, {"CpuPeriod": 200_000, "CpuQuota": 50_000}, {"cpus": 0.25}),
        ({}, {"PidsLimit": 10}, {"pids_limit": 10}),
        ({}, {"PidsLimit": -1}, {}),
        ({}, {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}, {"restart": "on-failure:3"}),
        ({}, {"RestartPolicy": {"Name": "always"}}, {"restart": "always"}),
        ({}, {"NetworkMode": "host"}, {"networks": [{"name": "host"}]}),
        ({}, {"CapAdd": ["NET_ADMIN"], "CapDrop": ["ALL"]}, {"cap_add": ["NET_ADMIN"], "cap_drop": ["ALL"]}),
        ({}, {"ReadonlyRootfs": True}, {"read_only": True}),
        ({}, {"SecurityOpt": ["no-new-privileges"]}, {"no_new_privileges": True}),
        ({}, {"SecurityOpt": ["no-new-privileges:false"]}, {"no_new_privileges": False}),
        ({}, {"CgroupParent": "batch"}, {"cgroup": "batch"}),
        (
            {},
            {"LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}}},
            {"log": {"max_size": 10 << 20, "max_files": "2"}},
        ),
        (
            {},
            {"Binds": ["/a:/b:ro", "vol:/c:rw,cached", "vol:/d:nocopy"]},
            {
                "volumes": [
                    {
                        "type": "bind",
                        "source": "/a",
                        "target": "/b",
                        "create_host_path": True,
                        "read_only": True,
                    },
                    {"type": "volume", "source": "vol", "target": "/c"},
                    {"type": "volume", "source": "vol", "target": "/d", "nocopy": True},
                ]
            },
        ),
        (
            {},
            {"Tmpfs": {"/run": "rw,size=1m"}},
            {"volumes": [{"type": "tmpfs", "target": "/run", "size": 1 << 20}]},
        ),
        (
            {},
            {"Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 5}}]},
            {"volumes": [{"type": "tmpfs", "target": "/t", "size": 5}]},
        ),
        (
            {},
            {
                "PortBindings": {
                    "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}],
                    "53/udp": [{"HostPort": ""}],
                    "90/tcp": [{"HostPort": "9000-9009"}],
                }
            },
            {
                "ports": [
                    {"container": 80, "protocol": "tcp", "host_ip": "127.0.0.1", "host": 8080},
                    {"container": 53, "protocol": "udp"},
                    {"container": 90, "protocol": "tcp", "host": "9000-9009"},
                ]
            },
        ),
        (
            {
                "NetworkingConfig": {
                    "EndpointsConfig": {"n1": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}, "Aliases": ["x"]}}
                }
            },
            {"NetworkMode": "n1"},
            {"networks": [{"name": "n1", "ipv4_address": "10.0.0.9", "aliases": ["x"]}]},
        ),
        (
            {
                "MacAddress": "02:00:00:00:00:09",
                "NetworkingConfig": {
                    "EndpointsConfig": {
                        "n2": {
                            "IPAMConfig": {"IPv6Address": "fd00::9"},
                            "MacAddress": "02:00:00:00:00:07",
                            "DriverOpts": {
                                "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.rp_filter=0"
                            },
                            "GwPriority": 1,
                        }
                    }
                },
            },
            {"NetworkMode": "n1"},
            {
                "networks": [
                    {"name": "n1", "mac_address": "02:00:00:00:00:09"},
                    {
                        "name": "n2",
                        "ipv6_address": "fd00::9",
                        "mac_address": "02:00:00:00:00:07",
                        "sysctls": ["net.ipv4.conf.IFNAME.rp_filter=0"],
                        "default_route": True,
                    },
                ]
            },
        ),
        (
            {"MacAddress": "02:00:00:00:00:09"},
            {},
            {"networks": [{"name": "bridge", "mac_address": "02:00:00:00:00:09"}]},
        ),
        (
            {},
            {
                "Dns": ["192.0.2.53"],
                "DnsSearch": ["example.org"],
                "DnsOptions": ["ndots:2"],
                "ExtraHosts": ["db:192.0.2.7", "me:host-gateway"],
            },
            {
                "dns": ["192.0.2.53"],
                "dns_search": ["example.org"],
                "dns_options": ["ndots:2"],
                "extra_hosts": ["db:192.0.2.7", "me:host-gateway"],
            },
        ),
    ],
)
def test_options_become_options(top: dict[str, Any], host: dict[str, Any], expected: dict[str, Any]) -> None:
    assert spec_of(host, **top) == expected
    ContainerSpec.parse(convert(body(host, **top)).spec)


def test_the_network_mode_is_the_first_network_whatever_the_order_of_keys() -> None:
    config = {"EndpointsConfig": {"other": {}, "first": {"Aliases": ["a"]}}}
    wanted = [{"name": "first", "aliases": ["a"]}, {"name": "other"}]
    for order in (("HostConfig", "NetworkingConfig"), ("NetworkingConfig", "HostConfig")):
        parts = {"HostConfig": {"NetworkMode": "first"}, "NetworkingConfig": config}
        assert convert({"Image": "i", **{key: parts[key] for key in order}}).spec["networks"] == wanted


def test_volumes_without_a_name_are_told_apart_from_binds_to_the_same_place() -> None:
    converted = convert(body({"Binds": ["/host:/data", "/more"]}, Volumes={"/data": {}, "/cache": {}}))
    assert sorted(converted.anonymous) == ["/cache", "/more"]
    assert [volume["target"] for volume in converted.spec["volumes"]] == ["/data"]


def test_keys_count_in_any_case_as_they_do_with_go() -> None:
    assert convert({"image": "web:1", "hostConfig": {"memory": 5}}).spec == {"image": "web:1", "memory": 5}


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ({"DeviceRequests": [{"Driver": "nvidia"}]}, "HostConfig.DeviceRequests"),
        ({"StorageOpt": {"dm.basesize": "1g"}}, "HostConfig.StorageOpt.dm.basesize"),
        ({"Devices": [{"PathOnHost": "/dev/x", "Wing": 1}]}, "HostConfig.Devices[0].Wing"),
        ({"LogConfig": {"Type": "fluentd"}}, "HostConfig.LogConfig.Type"),
        ({"LogConfig": {"Config": {"compress": "true"}}}, "HostConfig.LogConfig.Config.compress"),
        ({"Binds": ["/a:/b:U"]}, "HostConfig.Binds"),
        (
            {
                "Mounts": [
                    {
                        "Type": "bind",
                        "Source": "/a",
                        "Target": "/b",
                        "BindOptions": {"ReadOnlyForceRecursive": True},
                    }
                ]
            },
            "ReadOnlyForceRecursive",
        ),
        ({"Mounts": [{"Type": "volume", "Target": "/b", "VolumeOptions": {"Wing": "x"}}]}, "Wing"),
        ({"SecurityOpt": ["credentialspec=x"]}, "HostConfig.SecurityOpt"),
        ({"Wormhole": {"to": "x"}}, "HostConfig.Wormhole"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(host: dict[str, Any], named: str) -> None:
    with pytest.raises(NotSupported) as caught:
        convert(body(host))
    assert named in caught.value.message


@pytest.mark.parametrize(
    ("top", "host", "named"),
    [
        ({}, {"Memory": "64m"}, "HostConfig.Memory"),
        ({}, {"Memory": True}, "HostConfig.Memory"),
        ({"Env": "A=1"}, {}, "Env"),
        ({"Cmd": [1]}, {}, "Cmd"),
        ({"Labels": {"a": 1}}, {}, "Labels"),
        ({}, {"ConsoleSize": [1]}, "HostConfig.ConsoleSize"),
        ({}, {"PortBindings": {"http": []}}, "HostConfig.PortBindings"),
        ({}, {"PortBindings": {"80": [{"HostPort": "x"}]}}, "HostPort"),
        ({}, {"PortBindings": {"80": [{"HostPort": "80-"}]}}, "HostPort"),
        ({}, {"LogConfig": {"Config": {"max-size": "big"}}}, "max-size"),
        ({}, {"Binds": ["/a:/b:c:d"]}, "HostConfig.Binds"),
        ({}, {"AutoRemove": True, "RestartPolicy": {"Name": "always"}}, "AutoRemove"),
        ({}, {"NanoCpus": 1, "CpuQuota": 1}, "NanoCpus"),
        (
            {},
            {"Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"Options": True}}]},
            "TmpfsOptions.Options",
        ),
        ({}, "x", "HostConfig"),
    ],
)
def test_what_is_malformed_is_refused_by_name(top: dict[str, Any], host: Any, named: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        convert({"Image": "web:1", **top, "HostConfig": host})
    assert named in caught.value.message


def test_links_are_told_with_the_names_that_they_give() -> None:
    config = {"EndpointsConfig": {"n1": {"Links": ["cache"]}}}
    body = {"Image": "web:1", "HostConfig": {"Links": ["db:database", "/old:/web/older"]}}
    converted = convert({**body, "NetworkingConfig": config})
    assert converted.links == (("db", "database"), ("old", "older"))
    assert converted.spec["networks"] == [{"name": "n1", "links": {"cache": "cache"}}]


def test_an_image_is_needed() -> None:
    with pytest.raises(InvalidSpec, match="Image is missing"):
        convert({})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)

# For each key a value that asks for something and differs from every default.
ASKING: dict[str, Any] = {
    **dict.fromkeys((*_TOP, *_HOST), True),
    "Image": "other:2",
    "AttachStdin": True,
    "Binds": ["/some/where:/else"],
    "CapAdd": ["NET_ADMIN"],
    "CapDrop": ["MKNOD"],
    "CgroupParent": "batch",
    "Cmd": ["x"],
    "ConsoleSize": [3, 4],
    "ContainerIDFile": "/f",
    "CpuPeriod": 50_000,
    "CpuQuota": 7000,
    "CpuShares": 9,
    "CpusetCpus": "1",
    "CpusetMems": "1",
    "Entrypoint": ["x"],
    "Env": ["Q=1"],
    "ExposedPorts": {"81/tcp": {}},
    "Healthcheck": {"Test": ["CMD", "true"]},
    "Hostname": "q",
    "Dns": ["192.0.2.53"],
    "DnsOptions": ["q"],
    "DnsSearch": ["q"],
    "ExtraHosts": ["q:192.0.2.7"],
    "Labels": {"q": "1"},
    "Links": ["q:r"],
    "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
    "MacAddress": "02:00:00:00:00:09",
    "Memory": 9 << 20,
    "MemoryReservation": 8 << 20,
    "MemorySwap": 99 << 20,
    "Mounts": [{"Type": "tmpfs", "Target": "/q"}],
    "NanoCpus": 5,
    "NetworkMode": "q",
    "NetworkingConfig": {"EndpointsConfig": {"q": {}}},
    "PidsLimit": 9,
    "PortBindings": {"81/tcp": [{"HostPort": "82"}]},
    "RestartPolicy": {"Name": "always"},
    "SecurityOpt": ["no-new-privileges"],
    "StopSignal": "INT",
    "StopTimeout": 3,
    "Tmpfs": {"/q": ""},
    "User": "q",
    "Volumes": {"/q": {}},
    "WorkingDir": "/q",
    "HostConfig": {"Privileged": True},
}


def _outcome(document: dict[str, Any]) -> object:
    try:
        return convert(document)
    except (InvalidSpec, NotSupported) as error:
        return error.message


@pytest.mark.parametrize("key", sorted(_TOP))
def test_no_key_of_the_body_is_dropped(key: str) -> None:
    changed = {**copy.deepcopy(CLIENT_BODY), key: ASKING[key]}
    outcome = _outcome(changed)
    assert outcome != convert(CLIENT_BODY)
    assert isinstance(outcome, Conversion) or key in str(outcome)


@pytest.mark.parametrize("key", sorted(_HOST))
def test_no_key_of_the_host_config_is_dropped(key: str) -> None:
    changed = copy.deepcopy(CLIENT_BODY)
    changed["HostConfig"][key] = ASKING[key]
    outcome = _outcome(changed)
    assert outcome != convert(CLIENT_BODY)
    assert isinstance(outcome, Conversion) or key in str(outcome)


@given(key=st.text(min_size=1, max_size=20), value=json_values, inside=st.booleans())
def test_a_key_that_nobody_knows_is_never_dropped_in_silence(key: str, value: Any, inside: bool) -> None:
    known = {name.lower() for name in (*_TOP, *_HOST)}
    if key.lower() in known:
        return
    document = body({key: value}) if inside else {**body(), key: value}
    outcome = _outcome(document)
    asks_for_nothing = value is None or value is False or value in ("", [], {}) or value == 0
    if asks_for_nothing:
        assert outcome == convert(body())
    else:
        assert isinstance(outcome, str)
        assert key in outcome


@given(
    document=st.dictionaries(st.sampled_from(sorted(_TOP)), json_values, max_size=4),
    host=st.dictionaries(st.sampled_from(sorted(_HOST)), json_values, max_size=4),
)
def test_any_body_is_converted_or_refused_with_a_sentence(
    document: dict[str, Any], host: dict[str, Any]
) -> None:
    outcome = _outcome({"Image": "web:1", **document, "HostConfig": host})
    assert outcome.spec["image"] if isinstance(outcome, Conversion) else outcome


def test_updates() -> None:
    assert convert_update(
        {"Memory": 5, "PidsLimit": -1, "RestartPolicy": {"Name": "no"}, "CpuShares": 0}
    ) == {
        "memory": 5,
        "pids_limit": None,
        "restart": "no",
    }
    assert convert_update({"RestartPolicy": {"Name": ""}}) == {}
    with pytest.raises(NotSupported, match="Binds"):
        convert_update({"Binds": ["/a:/b"]})
