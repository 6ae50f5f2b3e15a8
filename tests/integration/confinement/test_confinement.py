# SPDX-License-Identifier: Apache-2.0
"""What opens and what closes a container, asked for with the real docker client and seen from inside."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.docker]

# The container's own control group as it sees it; version 2 has one hierarchy.
OWN_GROUP = "d=/sys/fs/cgroup/pids; [ -d $d ] || d=/sys/fs/cgroup"
# A shell that leaves children behind, which nobody waits for but the first process.
ORPHANS = "for i in 1 2 3; do sh -c 'sleep 0 & exec true'; done; exec sleep 600"


def run(agent: AgentUnderTest, *arguments: str) -> str:
    """Return what a container of its own says: options, the word "--", and a shell's line."""
    mark = arguments.index("--")
    return agent.docker(
        "run", "--rm", *arguments[:mark], "busybox", "sh", "-c", arguments[mark + 1]
    ).stdout.strip()


def test_an_init_reaps_orphans_and_passes_signals_on(agent: AgentUnderTest) -> None:
    agent.docker("run", "-d", "--init", "--name", "reaped", "busybox", "sh", "-c", ORPHANS)

    def processes() -> list[str]:
        lines = agent.docker("exec", "reaped", "ps", "-o", "pid,stat,args").stdout.splitlines()
        return [line for line in lines[1:] if "ps -o" not in line]

    first, *others = eventually(lambda: len(found := processes()) == 2 and found, what="orphans reaped")
    assert first.split()[0] == "1"
    assert "/sbin/docker-init -- sh -c" in first
    assert "sleep 600" in others[0]
    assert agent.docker("inspect", "-f", "{{.Path}} {{.HostConfig.Init}}", "reaped").stdout == "sh true\n"
    agent.docker("stop", "-t", "30", "reaped")
    assert agent.docker("inspect", "-f", "{{.State.ExitCode}}", "reaped").stdout == "143\n"


def block_devices() -> set[str]:
    return {entry for entry in os.listdir("/dev") if Path("/dev", entry).is_block_device()}


def test_a_privileged_container_can_mount_and_sees_the_devices(agent: AgentUnderTest) -> None:
    before = block_devices()  # others come and go, with the loop devices of other tests
    said = run(
        agent,
        "--privileged",
        "--",
        "mount -t tmpfs none /mnt && echo mounted; ls /dev | sort | tr '\\n' ' '; echo;"
        "grep -E 'CapEff|Seccomp:' /proc/self/status; mount | grep ' /sys ' | grep -c '(rw';"
        f"{OWN_GROUP}; mkdir $d/inner && echo made; rmdir $d/inner; wc -c </proc/keys",
    ).splitlines()
    mounted, devices, capabilities, seccomp, writable, made, keys = said
    own = next(line for line in Path("/proc/self/status").read_text().splitlines() if "CapEff" in line)
    assert (mounted, writable, made) == ("mounted", "1", "made")
    assert before & block_devices() <= set(devices.split())
    assert capabilities.split() == own.split()
    assert seccomp.split() == ["Seccomp:", "0"]
    assert int(keys) >= 0


def test_a_container_that_is_not_privileged_can_do_nothing_of_it(agent: AgentUnderTest) -> None:
    said = run(
        agent,
        "--",
        f"mount -t tmpfs none /mnt 2>&1; {OWN_GROUP}; mkdir $d/inner 2>&1; ls /dev/mem 2>&1; true",
    )
    assert "permission denied" in said
    assert "Read-only file system" in said
    assert "No such file" in said


@pytest.mark.parametrize(
    ("options", "granted", "taken"),
    [
        (["--cap-drop", "ALL"], [], ["CHOWN", "KILL"]),
        (["--cap-drop", "ALL", "--cap-add", "CHOWN"], ["CHOWN"], ["KILL", "SYS_ADMIN"]),
        (["--cap-add", "ALL", "--cap-drop", "SYS_ADMIN"], ["CHOWN", "SYS_PTRACE"], ["SYS_ADMIN"]),
        # As dockerd has it: what is added wins over a drop of all.
        (["--cap-add", "ALL", "--cap-drop", "ALL"], ["CHOWN", "SYS_ADMIN"], []),
        (["--cap-add", "sys_ptrace"], ["CHOWN", "SYS_PTRACE"], ["SYS_ADMIN"]),
    ],
)
def test_capabilities(
    agent: AgentUnderTest, options: list[str], granted: list[str], taken: list[str]
) -> None:
    numbers = {"CHOWN": 0, "KILL": 5, "SYS_PTRACE": 19, "SYS_ADMIN": 21}
    status = run(agent, *options, "--", "grep Cap /proc/self/status")
    sets = {line.split(":")[0]: int(line.split()[1], 16) for line in status.splitlines()}
    assert sets["CapEff"] == sets["CapPrm"] == sets["CapBnd"]
    assert sets["CapInh"] == sets["CapAmb"] == 0
    assert all(sets["CapEff"] >> numbers[name] & 1 for name in granted)
    assert not any(sets["CapEff"] >> numbers[name] & 1 for name in taken)


def test_another_user_has_no_capabilities_but_the_bound_of_them(agent: AgentUnderTest) -> None:
    agent.docker("run", "-d", "--name", "capable", "--cap-add", "SYS_PTRACE", "busybox", "sleep", "600")
    for user, effective in (("0", True), ("1000", False), ("nobody", False)):
        status = agent.docker("exec", "-u", user, "capable", "grep", "Cap", "/proc/self/status").stdout
        sets = {line.split(":")[0]: int(line.split()[1], 16) for line in status.splitlines()}
        assert bool(sets["CapEff"]) == bool(sets["CapPrm"]) == effective
        assert sets["CapBnd"] >> 19 & 1
        assert sets["CapInh"] == sets["CapAmb"] == 0


def test_a_privileged_exec_can_do_what_the_container_cannot(agent: AgentUnderTest) -> None:
    agent.docker("run", "-d", "--name", "plain", "busybox", "sleep", "600")
    command = ("plain", "mount", "-t", "tmpfs", "none", "/mnt")
    assert agent.docker("exec", *command, check=False).returncode != 0
    agent.docker("exec", "--privileged", *command)
    assert "Seccomp:\t0" in agent.docker("exec", "--privileged", "plain", "cat", "/proc/self/status").stdout
    assert "Seccomp:\t2" in agent.docker("exec", "plain", "cat", "/proc/self/status").stdout


def test_a_profile_of_ones_own_denies_one_call(agent: AgentUnderTest, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(
        json.dumps(
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
            }
        )
    )
    line = "mkdir /x 2>&1; unshare -m true && echo unshared; grep Seccomp: /proc/self/status"
    said = run(agent, "--security-opt", f"seccomp={profile}", "--cap-add", "SYS_ADMIN", "--", line)
    assert "No space left on device" in said
    assert "unshared" in said
    assert said.endswith("2")
    assert run(agent, "--security-opt", "seccomp=unconfined", "--", line).endswith("0")
    profile.write_text('{"defaultAction": "SCMP_ACT_NONE"}')
    failed = agent.docker("run", "--security-opt", f"seccomp={profile}", "busybox", "true", check=False)
    assert "SCMP_ACT_NONE" in failed.stderr


def test_nothing_is_hidden_when_that_is_asked_for(agent: AgentUnderTest) -> None:
    line = "mount | grep -c -E ' /(proc|sys)/(keys|sys|firmware) '"
    assert int(run(agent, "--", line)) >= 2
    assert run(agent, "--security-opt", "systempaths=unconfined", "--", f"{line}; true") == "0"


def test_a_device_is_there_with_the_access_that_was_given(agent: AgentUnderTest) -> None:
    line = "ls -l /dev/other; head -c1 /dev/other | wc -c; echo x >/dev/other && echo written"
    said = run(agent, "--device", "/dev/zero:/dev/other:r", "--", line)
    assert "1,   5" in said
    assert "1" in said.splitlines()
    # What the white list allows for all containers stays allowed: /dev/zero is among that.
    assert "written" in said
    made = "mknod /dev/loop99 b 7 99; cat /dev/loop99 2>&1 | head -c 100"
    assert "Operation not permitted" in run(agent, "--", made)
    assert "not permitted" not in run(agent, "--device-cgroup-rule", "b 7:99 rwm", "--", made)
    failed = agent.docker("run", "--device", "/dev/nosuch", "busybox", "true", check=False)
    assert "which is no device of this host" in failed.stderr


@pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="needs the device /dev/net/tun")
def test_the_white_list_has_what_a_device_was_given(agent: AgentUnderTest) -> None:
    line = "exec 3<>/dev/t && echo opened"
    assert run(agent, "--device", "/dev/net/tun:/dev/t", "--", line) == "opened"
    assert run(agent, "--privileged", "--", "exec 3<>/dev/net/tun && echo opened") == "opened"
    done = agent.docker(
        "run", "--rm", "--device", "/dev/net/tun:/dev/t:r", "busybox", "sh", "-c", line, check=False
    )
    assert "Operation not permitted" in done.stderr


def test_limits_parameters_and_sizes(agent: AgentUnderTest) -> None:
    said = run(
        agent,
        *("--ulimit", "nofile=100:200", "--ulimit", "core=0", "--shm-size", "1m", "--oom-score-adj", "300"),
        *("--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.shmmax=12345"),
        *("--domainname", "example.org", "--group-add", "777", "--group-add", "daemon"),
        *("--tmpfs", "/x:mode=700,exec,size=64k", "--tmpfs", "/y"),
        "--",
        "ulimit -Sn; ulimit -Hn; ulimit -c; df -k /dev/shm | tail -1 | awk '{print $2}';"
        "cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax;"
        "cat /proc/sys/kernel/domainname; id -G; mount | grep -E ' /(x|y) '",
    ).splitlines()
    assert said[:8] == ["100", "200", "0", "1024", "300", "1", "12345", "example.org"]
    assert {"777", "1"} <= set(said[8].split())
    assert "rw,nosuid,nodev,relatime,size=64k,mode=700" in said[9]
    assert "rw,nosuid,nodev,noexec" in said[10]


def test_limits_hold_for_execs_too(agent: AgentUnderTest) -> None:
    agent.docker("run", "-d", "--name", "limited", "--ulimit", "nofile=100:200", "busybox", "sleep", "600")
    assert agent.docker("exec", "limited", "sh", "-c", "ulimit -n").stdout == "100\n"


def test_a_read_only_root_with_a_tmpfs(agent: AgentUnderTest) -> None:
    line = "touch /x 2>&1; touch /run/x && echo there; touch /dev/shm/x && echo shared"
    said = run(agent, "--read-only", "--tmpfs", "/run", "--", line)
    assert said.splitlines() == ["touch: /x: Read-only file system", "there", "shared"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sysctl", "net.core.somaxconn=9", "--network", "host"], 'with the network "host"'),
        (["--cap-add", "FLY"], "which is no capability"),
        (["--security-opt", "frobnicate=x"], "expected one of apparmor"),
        (["--pid", "container:nosuch"], "container nosuch, which does not exist"),
        (["--init", "--pid", "host"], "another process is the first one"),
        (["--storage-opt", "size=1g"], "storage_size"),
        (["--gpus", "all"], "HostConfig.DeviceRequests"),
        (["--group-add", "nosuchgroup"], "unable to find group nosuchgroup"),
    ],
)
def test_what_cannot_be_is_said(agent: AgentUnderTest, options: list[str], words: str) -> None:
    failed = agent.docker("run", "--rm", *options, "busybox", "true", check=False)
    assert failed.returncode == 125
    assert words in failed.stderr


@pytest.mark.skipif(os.path.exists("/sys/module/apparmor"), reason="needs a host without AppArmor")
def test_a_label_without_its_module_is_refused(agent: AgentUnderTest) -> None:
    failed = agent.docker("run", "--security-opt", "apparmor=web", "busybox", "true", check=False)
    assert "this host runs without AppArmor" in failed.stderr
    assert run(agent, "--security-opt", "apparmor=unconfined", "--", "echo runs") == "runs"


def test_a_change_of_any_of_it_is_a_replacement(agent: AgentUnderTest) -> None:
    path = "/mooring/v1/containers/changing"
    spec = {"image": "busybox", "command": ["sleep", "600"], "stop_timeout": 0}
    before = agent.api("PUT", path, spec)["result"]
    changed = agent.api("PUT", path, {**spec, "init": True, "shm_size": "1m"})
    assert [action["action"] for action in changed["actions"]] == ["replace"]
    assert "init false → true, needs a replacement" in changed["actions"][0]["reason"]
    assert changed["result"]["id"] != before["id"]
    again = agent.api("PUT", path, {**spec, "init": "true", "shm_size": 1 << 20})
    assert not again["changed"]
