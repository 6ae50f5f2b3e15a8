# SPDX-License-Identifier: Apache-2.0
"""What can be declared can be said on the command line: every field has an option, or a reason why not."""

from __future__ import annotations

import base64
import dataclasses

import pytest

from mooring_agent.api.docker.convert import convert
from mooring_agent.cli.arguments import parser
from mooring_agent.cli.containers import update
from mooring_agent.cli.declared import _cgroup_spec, _network_spec, _volume_spec
from mooring_agent.cli.networking import beyond_docker, place
from mooring_agent.cli.run import _body
from mooring_agent.engine.resources import ContainerSpec, NetworkAttachment, NetworkSpec, PortMapping
from mooring_agent.engine.resources.declared import Declared, options_of
from mooring_agent.engine.resources.logdrivers import LogOptions
from mooring_agent.engine.resources.traffic import NetworkLimit
from mooring_agent.errors import InvalidSpec
from mooring_agent.network.specs import normalise_spec

Words = tuple[str, ...]

_OVERLAY = ("--subnet", "10.9.0.0/16", "--overlay", "a=192.0.2.1,slice=7", "--overlay", "b=192.0.2.2")
_KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]
_ENCRYPTED = (
    *(*_OVERLAY, "--encryption", "wireguard"),
    *("--public-key", f"a={_KEYS[0]}", "--public-key", f"b={_KEYS[1]}"),
)
NETWORK: dict[str, Words] = {
    "driver": ("--driver", "overlay", *_OVERLAY),
    "ipv4": ("--no-ipv4", "--ipv6"),
    "ipv6": ("--ipv6",),
    "subnet": ("--subnet", "10.9.0.0/24"),
    "gateway": ("--subnet", "10.9.0.0/24", "--gateway", "10.9.0.7"),
    "ip_range": ("--subnet", "10.9.0.0/24", "--ip-range", "10.9.0.128/25"),
    "subnet6": ("--subnet6", "fd00:9::/64"),
    "gateway6": ("--subnet6", "fd00:9::/64", "--gateway6", "fd00:9::7"),
    "ip_range6": ("--subnet6", "fd00:9::/64", "--ip-range6", "fd00:9::/80"),
    "reserved": ("--subnet", "10.9.0.0/24", "--reserve", "10.9.0.9"),
    "nat": ("--no-nat",),
    "internal": ("--internal",),
    "mtu": ("--mtu", "1400"),
    "parent": ("--driver", "macvlan", "--subnet", "10.9.0.0/24", "--parent", "eth1"),
    "mode": ("--driver", "macvlan", "--subnet", "10.9.0.0/24", "--parent", "eth1", "--mode", "vepa"),
    "hosts": _OVERLAY,
    "host": (*_OVERLAY, "--host", "b"),
    "vni": (*_OVERLAY, "--vni", "9"),
    "slice_prefix": (*_OVERLAY, "--slice-prefix", "24"),
    "encryption": _ENCRYPTED,
    "port": (*_ENCRYPTED, "--port", "51821"),
    "reachable_from": ("--reachable-from", "other"),
    "rules": ("--rule", "deny out tcp 25 to 0.0.0.0/0"),
    "bridge_name": ("--bridge-name", "br-shop"),
    "port_isolation": ("--port-isolation",),
    "interface_prefix": ("--interface-prefix", "net"),
    "publish_address": ("--publish-address", "127.0.0.1"),
    "attachable": ("--attachable",),
    "labels": ("-l", "a=b"),
}

CONTAINER: dict[str, Words] = {
    "image": (),
    "entrypoint": ("--entrypoint", "sh"),
    "env": ("-e", "A=1"),
    "env_unset": ("-e", "NOT_IN_THIS_ENVIRONMENT"),
    "workdir": ("-w", "/srv"),
    "user": ("-u", "7"),
    "hostname": ("--hostname", "web"),
    "domainname": ("--domainname", "example.org"),
    "labels": ("-l", "a=b"),
    "annotations": ("--annotation", "a=b"),
    "tty": ("-t",),
    "interactive": ("-i",),
    "volumes": ("-v", "data:/data"),
    "networks": ("--network", "blue"),
    "dns": ("--dns", "192.0.2.53"),
    "dns_search": ("--dns-search", "example.org"),
    "dns_options": ("--dns-option", "ndots:2"),
    "extra_hosts": ("--add-host", "db:192.0.2.7"),
    "network_limits": ("--network-limit", "in=10mbit"),
    "network_class": ("--network-class", "1:10"),
    "ports": ("-p", "8080:80"),
    "memory": ("-m", "64m"),
    "memory_reservation": ("-m", "64m", "--memory-reservation", "32m"),
    "memory_swap": ("-m", "64m", "--memory-swap", "-1"),
    "cpus": ("--cpus", "1.5"),
    "cpu_shares": ("--cpu-shares", "512"),
    "cpuset_cpus": ("--cpuset-cpus", "0"),
    "cpuset_mems": ("--cpuset-mems", "0"),
    "pids_limit": ("--pids-limit", "9"),
    "memory_swappiness": ("--memory-swappiness", "0"),
    "cpu_rt_period": ("--cpu-rt-period", "10000"),
    "cpu_rt_runtime": ("--cpu-rt-runtime", "500"),
    "blkio_weight": ("--blkio-weight", "300"),
    "blkio_weight_device": ("--blkio-weight-device", "/dev/sda:300"),
    "device_read_bps": ("--device-read-bps", "/dev/sda:1m"),
    "device_write_bps": ("--device-write-bps", "/dev/sda:1m"),
    "device_read_iops": ("--device-read-iops", "/dev/sda:100"),
    "device_write_iops": ("--device-write-iops", "/dev/sda:100"),
    "oom_kill_disable": ("--oom-kill-disable", "-m", "64m"),
    "restart": ("--restart", "always"),
    "stop_signal": ("--stop-signal", "INT"),
    "stop_timeout": ("--stop-timeout", "3"),
    "drain": ("--drain", "3"),
    "healthcheck": ("--health-cmd", "true"),
    "log": ("--log-opt", "max-size=1m"),
    "cap_add": ("--cap-add", "NET_ADMIN"),
    "cap_drop": ("--cap-drop", "MKNOD"),
    "read_only": ("--read-only",),
    "no_new_privileges": ("--no-new-privileges",),
    "init": ("--init",),
    "privileged": ("--privileged",),
    "seccomp": ("--security-opt", "seccomp=unconfined"),
    "apparmor": ("--security-opt", "apparmor=web"),
    "selinux": ("--security-opt", "label=type:web_t"),
    "masked_paths": ("--security-opt", "systempaths=unconfined"),
    "readonly_paths": ("--security-opt", "systempaths=unconfined"),
    "devices": ("--device", "/dev/fuse"),
    "device_cgroup_rules": ("--device-cgroup-rule", "c 1:1 r"),
    "ulimits": ("--ulimit", "nofile=5:6"),
    "sysctls": ("--sysctl", "net.core.somaxconn=9"),
    "shm_size": ("--shm-size", "1m"),
    "storage_size": ("--storage-opt", "size=1g"),
    "group_add": ("--group-add", "7"),
    "oom_score_adj": ("--oom-score-adj", "5"),
    "pid": ("--pid", "host"),
    "ipc": ("--ipc", "host"),
    "uts": ("--uts", "host"),
    "cgroupns": ("--cgroupns", "host"),
    "userns": ("--userns", "auto"),
    "cgroup": ("--cgroup", "batch"),
}
NOT_OF_RUN = {
    "command": "it is what follows the image",
    "pull": "it says when a declaration that is repeated looks for a newer image; `mooring pull` brings one",
    "state": "what is run is to run",
    "update_order": "it says how a declared container is replaced by its next declaration",
    "ready_timeout": "likewise",
    "time_offsets": "they are set before the first process, and Docker's words for a new container have none",
}

ATTACHMENT: dict[str, tuple[str, Words]] = {
    "ipv4_address": ("ip=10.0.0.7", ("--ip", "10.0.0.7")),
    "ipv6_address": ("ip6=fd00::7", ("--ip6", "fd00::7")),
    "mac_address": ("mac-address=02:00:00:00:00:07", ("--mac-address", "02:00:00:00:00:07")),
    "aliases": ("alias=web", ("--alias", "web")),
    "links": ("link=db1:db", ("--link", "db1:db")),
    "default_route": ("default-route", ("--default-route",)),
    "spoofing": ("spoofing", ("--spoofing",)),
    "link_local": ("link-local-ip=169.254.8.8", ("--link-local-ip", "169.254.8.8")),
    "driver_opts": ("driver-opt=a=b", ("--driver-opt", "a=b")),
    "sysctls": ("sysctl=net.ipv4.conf.IFNAME.x=1", ("--sysctl", "net.ipv4.conf.IFNAME.x=1")),
}
PORT = {
    "container": "80",
    "host": "8080:80",
    "host_ip": "192.0.2.1:8080:80",
    "protocol": "80/udp",
    "balance": "8080:80,balance=source",
    "weight": "8080:80,balance=round_robin,weight=3",
    "among": "8080-8089:80",
}
LIMIT = {
    "network": "in=10mbit,network=blue",
    "rate_in": "in=10mbit",
    "rate_out": "out=10mbit",
    "burst": "in=10mbit,burst=64k",
}
LOG: dict[str, Words] = {
    "driver": ("--log-driver", "none"),
    "max_size": ("--log-opt", "max-size=1m"),
    "max_files": ("--log-opt", "max-file=5"),
    "options": ("--log-opt", "tag={{.Name}}"),
}


def fields(kind: type[Declared]) -> set[str]:
    return set(options_of(kind))


def run(*words: str) -> ContainerSpec:
    """The container that `mooring run` makes."""
    arguments = parser().parse_args(["run", *words, "web:1"])
    return ContainerSpec.parse({**convert(_body(arguments)).spec, **beyond_docker(arguments)})


def test_every_field_has_an_option_or_a_reason() -> None:
    assert fields(NetworkSpec) == set(NETWORK)
    assert fields(ContainerSpec) == {*CONTAINER, *NOT_OF_RUN}
    assert fields(NetworkAttachment) == {"name", *ATTACHMENT}
    assert {field.name for field in dataclasses.fields(PortMapping)} == set(PORT)
    assert fields(NetworkLimit) == set(LIMIT)
    assert fields(LogOptions) == set(LOG)


@pytest.mark.parametrize("field", NETWORK)
def test_network_options_are_fields_of_a_network(field: str) -> None:
    spec = _network_spec(parser().parse_args(["network", "create", "mesh", *NETWORK[field]]))
    assert field in spec
    assert field in NetworkSpec.parse(normalise_spec(spec)).given


def test_a_nought_that_is_said_is_a_value() -> None:
    said = parser().parse_args(
        ["cgroup", "set", "batch", "--memory-swappiness", "0", "--blkio-weight", "300"]
    )
    assert _cgroup_spec(said) == {"memory_swappiness": 0, "blkio_weight": 300}
    assert _network_spec(parser().parse_args(["network", "create", "mesh", "--mtu", "0"])) == {"mtu": 0}


@pytest.mark.parametrize("field", CONTAINER)
def test_options_of_run_are_fields_of_a_container(field: str) -> None:
    assert field in run(*CONTAINER[field]).given


@pytest.mark.parametrize("field", ATTACHMENT)
def test_places_on_networks_are_said_to_run_and_to_connect(field: str) -> None:
    in_run, in_connect = ATTACHMENT[field]
    [network] = run("--network", f"name=blue,{in_run}").networks
    arguments = parser().parse_args(["network", "connect", *in_connect, "blue", "web1"])
    assert network == NetworkAttachment.parse({"name": "blue", **place(arguments)})
    assert network.differing().keys() == {"name", field}


@pytest.mark.parametrize("field", PORT)
def test_ports(field: str) -> None:
    [port] = run("-p", PORT[field]).ports
    assert getattr(port, field) != getattr(PortMapping(1), field)


@pytest.mark.parametrize("field", LIMIT)
def test_limits(field: str) -> None:
    [limit] = run("--network", "blue", "--network-limit", LIMIT[field]).network_limits
    assert field in limit.given


@pytest.mark.parametrize("field", LOG)
def test_logs(field: str) -> None:
    assert field in run(*LOG[field]).log.given


def test_what_docker_has_no_words_for_leaves_the_rest_as_it_was() -> None:
    words = ("--network", "name=blue,ip=10.0.0.7,alias=a", "--network", "red", "-p", "8000-8001:80-81")
    plain = run(*words)
    more = run(
        *("--network", "name=blue,ip=10.0.0.7,alias=a", "--network", "name=red,spoofing"),
        *("-p", "8000-8001:80-81,balance=source,weight=2"),
    )
    assert (plain.networks[0], plain.networks[1].name) == (more.networks[0], more.networks[1].name)
    assert [network.spoofing for network in more.networks] == ["refused", "allowed"]
    assert [(port.host, port.container) for port in plain.ports] == [(8000, 80), (8001, 81)]
    assert [dataclasses.replace(port, balance=None, weight=1) for port in more.ports] == list(plain.ports)
    assert {(port.balance, port.weight) for port in more.ports} == {("source", 2)}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("8080:80,balance", "'balance': expected"),
        ("8080:80,colour=red", "'colour=red': expected"),
        ("8080:80,balance=source,balance=source", "each once"),
        ("8080:80,weight=2", "weight but no balance"),
        ("80,balance=source", "balance source but no host"),
        ("8080:80,balance=best", "balance"),
    ],
)
def test_ports_that_are_not_understood(text: str, why: str) -> None:
    with pytest.raises(InvalidSpec, match=why):
        run("-p", text)


@pytest.mark.parametrize(
    "text", ["a=192.0.2.1,slice=x", "a=192.0.2.1,slot=1", "a", "a=192.0.2.1,slice=1,slice=2"]
)
def test_hosts_of_overlays_that_are_not_understood(text: str) -> None:
    with pytest.raises(InvalidSpec, match="--overlay a"):
        _network_spec(parser().parse_args(["network", "create", "mesh", "--overlay", text]))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "update needs"),
        (("--network-class", "1:10", "--no-network-class"), "--network-class and --no-network-class"),
        (("--network-limit", "in=1mbit", "--no-network-limit"), "--network-limit and --no-network-limit"),
    ],
)
def test_updates_that_say_nothing_or_two_things(words: Words, why: str) -> None:
    with pytest.raises(InvalidSpec, match=why):
        update(parser().parse_args(["update", "web1", *words]))


def test_a_volume_is_declared_with_the_options_of_its_driver() -> None:
    words = ("--opt", "type=nfs", "--opt", "o=addr=files,rw", "--opt", "device=:/srv", "--label", "a=b")
    arguments = parser().parse_args(["volume", "create", "data", *words])
    assert _volume_spec(arguments) == {
        "labels": {"a": "b"},
        "driver_opts": {"type": "nfs", "o": "addr=files,rw", "device": ":/srv"},
    }
