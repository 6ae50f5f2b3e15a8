# SPDX-License-Identifier: Apache-2.0
"""The options that open or close a container: one normal form each, and no combination that means nothing."""

from __future__ import annotations

from typing import Any

import pytest

from mooring_agent.engine.resources import ContainerSpec, compare
from mooring_agent.errors import InvalidSpec

PROFILE = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}


def parsed(**options: Any) -> ContainerSpec:
    return ContainerSpec.parse({"image": "busybox", **options}, name="web1")


@pytest.mark.parametrize(
    ("options", "normal"),
    [
        ({"devices": ["/dev/fuse"]}, {"devices": [{"host": "/dev/fuse", "container": "/dev/fuse"}]}),
        (
            {"devices": ["/dev/fuse:rm", "/dev/kvm:/dev/vm"]},
            {
                "devices": [
                    {"host": "/dev/fuse", "container": "/dev/fuse", "access": "rm"},
                    {"host": "/dev/kvm", "container": "/dev/vm"},
                ]
            },
        ),
        ({"device_cgroup_rules": ["c 010:200  mr"]}, {"device_cgroup_rules": ["c 10:200 rm"]}),
        ({"ulimits": ["nofile=1024:2048", "core=0"]}, {"ulimits": {"core": "0", "nofile": "1024:2048"}}),
        ({"ulimits": {"memlock": "unlimited"}}, {"ulimits": {"memlock": "-1"}}),
        ({"ulimits": [{"name": "nproc", "soft": 3, "hard": 4}]}, {"ulimits": {"nproc": "3:4"}}),
        ({"sysctls": {"net/ipv4/ip_forward": 1}}, {"sysctls": {"net.ipv4.ip_forward": "1"}}),
        ({"shm_size": "128m"}, {"shm_size": 128 << 20}),
        ({"group_add": ["007", 7, "audio"]}, {"group_add": ["7", "audio"]}),
        ({"pid": "container:web1"}, {"pid": "container:web1"}),
        ({"networks": "container:web1"}, {"networks": [{"name": "container:web1"}]}),
        ({"userns": "auto"}, {"userns": "auto"}),
        ({"userns": "container:web1"}, {"userns": "container:web1"}),
        ({"time_offsets": {"monotonic": "5"}}, {"time_offsets": {"monotonic": 5}}),
        (
            {"userns": "100000:65536"},
            {
                "userns": {
                    "uid_map": [{"container": 0, "host": 100000, "size": 65536}],
                    "gid_map": [{"container": 0, "host": 100000, "size": 65536}],
                }
            },
        ),
        (
            {"volumes": [{"type": "tmpfs", "target": "/run", "size": "050%"}]},
            {"volumes": [{"type": "tmpfs", "target": "/run", "size": "50%"}]},
        ),
        (
            {"volumes": [{"type": "tmpfs", "target": "/run", "options": ["mode=755", "exec"]}]},
            {"volumes": [{"type": "tmpfs", "target": "/run", "options": ["exec", "mode=755"]}]},
        ),
        ({"seccomp": PROFILE}, {"seccomp": PROFILE}),
        ({"masked_paths": []}, {"masked_paths": []}),
    ],
)
def test_the_normal_form(options: dict[str, Any], normal: dict[str, Any]) -> None:
    assert parsed(**options).given == {"image": "busybox", **normal}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"devices": ["/dev/a:/dev/b:rwx"]}, 'devices[0].access is "rwx"'),
        ({"devices": ["/dev/a:/dev/b", "/dev/c:/dev/b"]}, "names /dev/b twice"),
        ({"device_cgroup_rules": ["d 1:3 r"]}, "expected a rule such as"),
        ({"ulimits": {"nofiles": 3}}, 'did you mean "nofile"?'),
        ({"ulimits": {"nofile": "9:3"}}, "a soft limit that is not above the hard one"),
        ({"sysctls": {"vm.swappiness": "1"}}, "what holds for the whole host is set on the host"),
        ({"sysctls": {"net.core.somaxconn": "1"}, "networks": "host"}, 'with the network "host"'),
        ({"sysctls": {"kernel.shmmax": "1"}, "ipc": "host"}, 'with ipc "host"'),
        ({"seccomp": {"defaultAction": "SCMP_ACT_ALOW"}}, "SCMP_ACT_ALLOW"),
        ({"seccomp": "strict"}, "seccomp is"),
        ({"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}}, "has listenerPath"),
        ({"apparmor": "two words"}, "the name of an AppArmor profile"),
        ({"selinux": ["container_t"]}, '"type:"'),
        ({"pid": "hosts"}, "or container:NAME"),
        ({"pid": "host", "init": True}, 'init is true with pid "host"'),
        ({"ipc": "container:db", "shm_size": "1m"}, "/dev/shm is not the container's own"),
        ({"uts": "host", "hostname": "a"}, 'hostname cannot be set with uts "host"'),
        ({"networks": "host", "domainname": "a.b"}, 'domainname cannot be set with the network "host"'),
        ({"networks": ["container:db"], "hostname": "a"}, "with which it has that container's names"),
        ({"networks": ["container:db", "bridge"]}, "expected it alone"),
        ({"networks": ["container:db"], "ports": ["80"]}, "no address to lead to"),
        ({"networks": [{"name": "container:db", "aliases": ["x"]}]}, "no addresses and names to give"),
        ({"userns": "auto", "privileged": True}, "privileged is true with userns"),
        ({"userns": "auto", "pid": "host"}, 'pid is "host" with userns "auto"'),
        ({"userns": "auto", "networks": "container:db"}, 'networks is "container:db"'),
        ({"userns": "container:db", "pid": "host"}, 'pid is "host"'),
        ({"uts": "container:db", "networks": "host"}, "whose name comes with it"),
        ({"uts": "container:db", "hostname": "a"}, 'hostname cannot be set with uts "container:db"'),
        ({"time_offsets": {"realtime": 5}}, 'no clock "realtime"'),
        ({"userns": {"uid_map": [{"container": 1, "host": 5, "size": 2}]}}, "leaves id 0 out"),
        (
            {
                "userns": {
                    "uid_map": [
                        {"container": 0, "host": 5, "size": 9},
                        {"container": 20, "host": 8, "size": 2},
                    ]
                }
            },
            "overlap on the side of the host",
        ),
        ({"userns": {"uid_map": [{"container": 0, "host": 2**32 - 2, "size": 2}]}}, "ids up to 4294967294"),
        (
            {"volumes": [{"type": "tmpfs", "target": "/run", "options": ["exec", "noexec"]}]},
            "exec and noexec",
        ),
        ({"volumes": [{"type": "tmpfs", "target": "/run", "options": ["size=3"]}]}, "expected one of exec"),
        ({"volumes": [{"source": "/a", "target": "/b", "options": ["exec"]}]}, "none for a bind"),
        ({"volumes": [{"source": "a1", "target": "/b", "idmap": True}]}, "a volume needs none"),
        ({"volumes": [{"source": "a1", "target": "/b", "recursive": False}]}, "this is a volume"),
        ({"volumes": [{"source": "/a", "target": "/b", "propagation": "up"}]}, "one of rprivate"),
    ],
)
def test_what_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parsed(**options)
    assert "container web1: " in caught.value.message
    assert words in caught.value.message


@pytest.mark.parametrize(
    "options",
    [
        {"init": True},
        {"privileged": True},
        {"seccomp": "unconfined"},
        {"devices": ["/dev/fuse"]},
        {"ulimits": {"core": 0}},
        {"shm_size": "1m"},
        {"userns": "auto"},
        {"pid": "host"},
        {"masked_paths": []},
    ],
)
def test_a_change_is_a_replacement(options: dict[str, Any]) -> None:
    changes = compare(parsed(), parsed(**options))
    assert [(change.field, change.live) for change in changes] == [(next(iter(options)), False)]


def test_saying_the_default_changes_nothing() -> None:
    defaults = {"init": False, "pid": "private", "seccomp": "default", "shm_size": "64m", "userns": "host"}
    assert compare(parsed(), parsed(**defaults)) == ()


def test_a_plan_tells_profiles_apart_without_printing_them() -> None:
    (change,) = compare(parsed(), parsed(seccomp=PROFILE))
    assert change.text.startswith("seccomp default → profile ")
    assert len(change.text) < 50
