# SPDX-License-Identifier: Apache-2.0
"""What a config says of file systems, seen from inside: runtime-spec 1.2, Mounts and the Linux part."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from mooring_agent.linux import syscalls

from .containing import CONFIG, Contain

pytestmark = pytest.mark.root

IDS = [{"containerID": 0, "hostID": 100_000, "size": 5000}]
IN_USER_NAMESPACE: dict[str, Any] = {
    "namespaces": [*CONFIG["linux"]["namespaces"], {"type": "user"}],
    "uidMappings": IDS,
    "gidMappings": IDS,
}


def mounted(mountinfo: str, target: str) -> list[str]:
    """The options of the last mount on `target`: of the mount, then of its file system; its tags between."""
    found: list[str] = []
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) > 6 and fields[4] == target:
            found = [*fields[5].split(","), *fields[6:]]
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory of the host with a file, another below and a link."""
    place = tmp_path / "source"
    (place / "below").mkdir(parents=True)
    (place / "file").write_text("content\n")
    (place / "link").symlink_to("file")
    return place


@pytest.mark.parametrize("user_namespace", [False, True])
@pytest.mark.parametrize(
    ("options", "there", "absent"),
    [
        (["ro", "nosuid", "nodev", "noexec"], ["ro", "nosuid", "nodev", "noexec"], []),
        (["noatime", "nodiratime"], ["noatime", "nodiratime"], ["relatime"]),
        (["strictatime", "nosymfollow"], ["nosymfollow"], ["relatime", "noatime"]),
        (["ro", "rw", "noexec", "exec"], ["rw"], ["noexec"]),
    ],
)
def test_options_hold(
    contain: Contain,
    source: Path,
    options: list[str],
    there: list[str],
    absent: list[str],
    user_namespace: bool,
) -> None:
    ended = contain(
        "cat /proc/self/mountinfo",
        linux=IN_USER_NAMESPACE if user_namespace else {},
        more_mounts=[
            {"destination": "/bound", "source": str(source), "options": ["bind", *options]},
            {"destination": "/new", "type": "tmpfs", "source": "tmpfs", "options": options},
        ],
    )
    for target in ("/bound", "/new"):
        found = mounted(ended.output, target)
        assert set(there) <= set(found), ended
        assert not set(absent) & set(found)


def test_recursive_options_reach_what_is_mounted_below(contain: Contain, source: Path) -> None:
    syscalls.mount("tmpfs", str(source / "below"), "tmpfs", 0)
    try:
        ended = contain(
            "cat /proc/self/mountinfo",
            more_mounts=[
                {"destination": "/one", "source": str(source), "options": ["rbind", "ro", "rnoexec"]},
                {"destination": "/all", "source": str(source), "options": ["rbind", "rro"]},
                {"destination": "/alone", "source": str(source), "options": ["bind"]},
            ],
        )
    finally:
        syscalls.umount(str(source / "below"))
    assert "ro" in mounted(ended.output, "/one")
    assert {"rw", "noexec"} <= set(mounted(ended.output, "/one/below"))
    assert "ro" in mounted(ended.output, "/all/below")
    assert mounted(ended.output, "/alone/below") == []


def test_files_sockets_and_links_are_bound(contain: Contain, source: Path) -> None:
    os.mkfifo(source / "fifo")
    ended = contain(
        "cat /a/file; readlink /b; test -p /c && echo fifo; cat /etc/motd2; readlink /covered",
        more_mounts=[
            {"destination": "/a/file", "source": "source/file", "options": ["bind"]},
            {"destination": "/b", "source": str(source / "link"), "options": ["bind", "copy-symlink"]},
            {"destination": "/c", "source": str(source / "fifo"), "options": ["bind", "ro"]},
            {
                "destination": "/covered",
                "source": str(source / "link"),
                "options": ["bind", "copy-symlink", "dest-nofollow"],
            },
            {"destination": "/etc/motd2", "source": str(source / "link"), "options": ["bind"]},
        ],
    )
    assert ended.output.splitlines() == ["content", "file", "fifo", "content", "file"]


def test_ids_of_a_bind_are_mapped(contain: Contain, source: Path) -> None:
    os.chown(source / "file", 5, 6)
    other = [{"containerID": 0, "hostID": 7000, "size": 100}]
    ended = contain(
        "stat -c '%u:%g' /a/file /b/file",
        more_mounts=[
            {
                "destination": "/a",
                "source": str(source),
                "options": ["bind", "idmap"],
                "uidMappings": other,
                "gidMappings": other,
            },
            {"destination": "/b", "source": str(source), "options": ["bind", "idmap=uids=5-9-1;gids=6-8-1"]},
        ],
    )
    assert ended.output.split() == ["7005:7006", "9:8"]


def test_a_user_namespace_sees_its_own_ids_and_makes_its_own_files(contain: Contain, source: Path) -> None:
    os.chown(source / "file", 5, 6)
    source.chmod(0o711)
    ended = contain(
        "id -u; stat -c '%u:%g' /a/file / /dev /dev/null /made; echo x > /dev/null && touch /dev/x /new"
        " && stat -c '%u:%g' /new; cat /proc/self/uid_map; ls /sys/class >/dev/null && echo sys",
        linux=IN_USER_NAMESPACE,
        more_mounts=[
            {"destination": "/a", "source": str(source), "options": ["bind", "idmap"]},
            {"destination": "/made", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
        ],
    )
    assert ended.output.split() == [
        "0",
        "5:6",
        "0:0",
        "0:0",
        "0:0",
        "0:0",
        "0:0",
        "0",
        "100000",
        "5000",
        "sys",
    ]


def test_without_own_namespaces_it_is_given_the_hosts_views(contain: Contain) -> None:
    namespaces = [{"type": kind} for kind in ("mount", "user")]
    ended = contain(
        "ls -d /proc/1 /sys/class /dev/mqueue",
        linux={**IN_USER_NAMESPACE, "namespaces": namespaces},
        more_mounts=[
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
        ]
        if os.path.ismount("/dev/mqueue")
        else [{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}],
    )
    assert {"/proc/1", "/sys/class"} <= set(ended.output.split()), ended


def test_a_tmpfs_keeps_the_mode_and_with_copy_up_the_content_of_what_it_covers(contain: Contain) -> None:
    ended = contain(
        "stat -c %a /root /etc /tmp; cat /etc/passwd | head -1; stat -c '%a %U' /etc/group; readlink /bin/sh",
        more_mounts=[
            {"destination": "/root", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "ro"]},
            {"destination": "/bin", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777", "size=64k"]},
        ],
    )
    assert ended.output.splitlines() == [
        "700",
        "755",
        "1777",
        "root:x:0:0:root:/root:/bin/sh",
        "644 root",
        "/bin/busybox",
    ]


@pytest.mark.parametrize("own_namespace", [True, False])
def test_control_groups_are_the_containers_own(contain: Contain, own_namespace: bool) -> None:
    """These tests' containers are in no group of their own, so nothing of the host's may show."""
    namespaces = [one for one in CONFIG["linux"]["namespaces"] if own_namespace or one["type"] != "cgroup"]
    ended = contain(
        "cat /proc/self/mountinfo",
        linux={"namespaces": namespaces},
        more_mounts=[
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
        ],
    )
    assert ended.status == 0, ended
    for line in ended.output.splitlines():
        if " /sys/fs/cgroup" in line:
            assert "ro" in line.split()[5].split(","), line


def test_devices_are_made_as_asked(contain: Contain) -> None:
    devices = [
        {"path": "/dev/one", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"path": "/deep/er/two", "type": "b", "major": 7, "minor": 99},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
    ]
    for linux in ({}, IN_USER_NAMESPACE):
        ended = contain(
            "stat -c '%F %a %u:%g %t:%T' /dev/one /deep/er/two /dev/pipe; ls /dev; cat /dev/one; rm -r /deep",
            linux={**linux, "devices": devices},
        )
        lines = ended.output.splitlines()
        assert lines[:3] == [
            "character special file 640 3:4 1:3",
            "block special file 666 0:0 7:63",
            "fifo 600 0:0 0:0",
        ], ended
        assert {"full", "null", "ptmx", "pts", "random", "stdin", "tty", "urandom", "zero"} <= set(lines)


def test_another_file_in_a_devices_place_is_an_error(contain: Contain) -> None:
    ended = contain("true", linux={"devices": [{"path": "/etc/motd", "type": "c", "major": 1, "minor": 3}]})
    assert "/etc/motd" in ended.error


@pytest.mark.parametrize("target", ["/proc", "/dev/null"])
def test_an_image_whose_directories_are_links_has_nothing_built_elsewhere(
    contain: Contain, tmp_path: Path, target: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / target.split("/")[1]).symlink_to(tmp_path / "elsewhere")
    bind = {"destination": "/", "source": "root", "options": ["bind"]}
    proc = {"destination": "/proc", "type": "proc", "source": "proc"}
    ended = contain("true", mounts=[bind, proc])
    assert ended.error
    assert os.listdir(tmp_path / "elsewhere") == []


def test_paths_are_masked_and_read_only(contain: Contain, source: Path) -> None:
    ended = contain(
        "cat /etc/motd; ls /var; touch /etc/new || touch /proc/sys/x || echo 1 > /root/file; ls /proc/acpi",
        linux={
            "maskedPaths": ["/etc/motd", "/var", "/no/such", "/proc/acpi"],
            "readonlyPaths": ["/etc", "/proc/sys", "/root"],
        },
    )
    assert ended.output.count("Read-only file system") >= 2, ended
    assert "tests" not in ended.output


def test_the_root_is_read_only_and_its_working_directory_there(contain: Contain) -> None:
    ended = contain(
        "pwd; touch /x; touch /dev/x && echo dev", root={"readonly": True}, process={"cwd": "/made/for/it"}
    )
    assert ended.output.splitlines()[0] == "/made/for/it"
    assert "Read-only" in ended.output
    assert ended.output.endswith("dev\n")


@pytest.mark.parametrize(
    ("name", "tag"), [("rprivate", ""), ("rshared", "shared:"), ("rslave", ""), ("unbindable", "unbindable")]
)
def test_the_root_is_propagated_as_asked(contain: Contain, name: str, tag: str) -> None:
    ended = contain("cat /proc/self/mountinfo", linux={"rootfsPropagation": name})
    assert ended.status == 0, ended
    tags = [field for field in mounted(ended.output, "/") if field.startswith(("shared", "unbindable"))]
    assert [one.startswith(tag) for one in tags] == ([True] if tag else [])


def test_a_bind_is_a_peer_of_the_hosts_mount(contain: Contain, source: Path) -> None:
    """What the container mounts on a shared bind shows on the host."""
    place = str(source)
    syscalls.mount(place, place, None, syscalls.MS_BIND)
    syscalls.mount(None, place, None, syscalls.MS_SHARED)
    try:
        ended = contain(
            "cat /proc/self/mountinfo",
            more_mounts=[
                {"destination": "/shared", "source": place, "options": ["rbind", "rshared"]},
                {"destination": "/slave", "source": place, "options": ["rbind", "rslave"]},
                {"destination": "/private", "source": place, "options": ["rbind", "rprivate"]},
            ],
        )
        own = next(
            one for one in mounted(Path("/proc/self/mountinfo").read_text(), place) if "shared:" in one
        )
    finally:
        syscalls.umount(place)
    assert own in mounted(ended.output, "/shared")
    assert own.replace("shared", "master") in mounted(ended.output, "/slave")
    assert not any(":" in one for one in mounted(ended.output, "/private")[:3])


def test_names_and_kernel_parameters_are_the_containers(contain: Contain) -> None:
    ended = contain(
        "hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni",
        hostname="inside",
        domainname="example",
        linux={"sysctl": {"net.ipv4.ip_forward": "1", "kernel.shmmni": "77"}},
    )
    assert ended.output.split() == ["inside", "example", "1", "77"]


@pytest.mark.kernel("time_namespaces")
def test_time_has_its_offsets(contain: Contain) -> None:
    namespaces = [*CONFIG["linux"]["namespaces"], {"type": "time"}]
    offsets = {"boottime": {"secs": 5_000_000}, "monotonic": {"secs": 7, "nanosecs": 8}}
    ended = contain(
        "cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime",
        linux={"namespaces": namespaces, "timeOffsets": offsets},
    )
    words = ended.output.split()
    assert words[:6] == ["monotonic", "7", "8", "boottime", "5000000", "0"]
    assert int(words[6]) >= 5_000_000


def test_what_a_tmpfs_of_devices_is_on_the_disk(contain: Contain, tmp_path: Path) -> None:
    """Without a file system on /dev the devices are made in the root itself."""
    ended = contain("test -c /dev/null && echo there", mounts=[])
    assert ended.output == "there\n"
    made = tmp_path / "store/upper/dev/null"
    assert stat.S_ISCHR(made.lstat().st_mode)


def test_a_label_without_selinux_is_a_clear_error(contain: Contain) -> None:
    if os.path.exists("/sys/fs/selinux/enforce"):
        # There the label is one for the kernel to judge, which the policy of the machine decides.
        pytest.skip("needs a kernel without SELinux")
    assert "config.linux.mountLabel" in contain("true", linux={"mountLabel": "a:b:c:s0"}).error
