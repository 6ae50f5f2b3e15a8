# SPDX-License-Identifier: Apache-2.0
"""A user's session with the real docker client."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.usefixtures("tidy")]

TICKS = 'i=0; while true; do echo "tick $i"; echo "tock $i" >&2; i=$((i+1)); sleep 0.1; done'


def shown(agent: AgentUnderTest, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(agent.docker("inspect", name).stdout)[0]
    return document


def test_version_and_info(agent: AgentUnderTest) -> None:
    assert "API version:      1.47" in agent.docker("version").stdout
    info = json.loads(agent.docker("info", "--format", "{{json .}}").stdout)
    assert info["ServerVersion"]
    assert info["MemTotal"] > 0


def test_an_image_is_imported_listed_tagged_removed(agent: AgentUnderTest, busybox_rootfs: Path) -> None:
    change = 'CMD ["echo", "from the image"]'
    identity = agent.docker("import", "-c", change, str(busybox_rootfs), "mine:1").stdout.strip()
    assert identity.startswith("sha256:")
    assert "mine" in agent.docker("images", "mine").stdout
    assert agent.docker("run", "--rm", "mine:1").stdout == "from the image\n"
    assert json.loads(agent.docker("image", "inspect", "mine:1").stdout)[0]["Id"] == identity
    agent.docker("tag", "mine:1", "mine:2")
    assert "Untagged: mine:2" in agent.docker("rmi", "mine:2").stdout
    assert "Deleted: " in agent.docker("rmi", "mine:1").stdout
    assert agent.docker("images", "-q", "mine").stdout == ""


def test_an_import_that_is_no_archive_fails(agent: AgentUnderTest) -> None:
    done = agent.docker("import", "-", "broken:1", stdin=b"no tar at all" * 1000, check=False)
    assert done.returncode != 0
    assert agent.docker("images", "-q", "broken").stdout == ""


def test_run_gives_output_streams_and_status(agent: AgentUnderTest) -> None:
    done = agent.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert agent.docker("ps", "-aq").stdout == ""


def test_what_is_piped_in_comes_out(agent: AgentUnderTest) -> None:
    assert agent.docker("run", "--rm", "-i", "busybox", "cat", stdin="x\n").stdout == "x\n"
    much = b"0123456789abcdef" * 65536
    counted = agent.docker("run", "--rm", "-i", "busybox", "md5sum", stdin=much).stdout
    assert (
        counted.split()[0]
        == subprocess.run(["md5sum"], input=much, capture_output=True, check=True, timeout=30)
        .stdout.split()[0]
        .decode()
    )


def test_options_take_effect_inside(agent: AgentUnderTest) -> None:
    script = "hostname; pwd; id -u; echo $A; grep CapEff /proc/self/status; touch /x"
    options = [
        "--hostname",
        "inside",
        "-w",
        "/tmp",
        "-u",
        "1000",
        "-e",
        "A=b",
        "--cap-drop",
        "ALL",
        "--read-only",
    ]
    done = agent.docker("run", "--rm", *options, "busybox", "sh", "-c", script, check=False)
    assert done.stdout.split() == ["inside", "/tmp", "1000", "b", "CapEff:", "0000000000000000"]
    assert "Read-only file system" in done.stderr
    entry = agent.docker("run", "--rm", "--entrypoint", "echo", "busybox", "a", "b")
    assert entry.stdout == "a b\n"


def test_volumes(agent: AgentUnderTest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    agent.docker("volume", "create", "keep")
    mounts = ["-v", f"{tmp_path}:/host:ro", "-v", "keep:/keep", "--tmpfs", "/scratch:size=1m", "-v", "/gone"]
    script = "cat /host/file; echo kept > /keep/file; touch /scratch/a /gone/a; touch /host/b"
    done = agent.docker("run", "--rm", *mounts, "busybox", "sh", "-c", script, check=False)
    assert done.stdout == "from the host\n"
    assert "Read-only" in done.stderr
    assert agent.docker("run", "--rm", "-v", "keep:/k", "busybox", "cat", "/k/file").stdout == "kept\n"
    assert agent.docker("volume", "ls", "-q").stdout.split() == ["keep"]
    agent.docker("volume", "rm", "keep")


def test_limits_are_set_and_changed(agent: AgentUnderTest) -> None:
    limits = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "20", "--restart", "on-failure:2"]
    agent.docker("run", "-d", "--name", "limited", *limits, "busybox", "sleep", "600")
    kept = shown(agent, "limited")["HostConfig"]
    assert (kept["Memory"], kept["NanoCpus"], kept["PidsLimit"]) == (64 << 20, 500_000_000, 20)
    agent.docker("update", "-m", "128m", "--restart", "no", "limited")
    kept = shown(agent, "limited")["HostConfig"]
    assert (kept["Memory"], kept["RestartPolicy"]["Name"]) == (128 << 20, "no")


def test_a_published_port_answers(agent: AgentUnderTest) -> None:
    serve = "echo served > /tmp/index.html; httpd -f -p 80 -h /tmp"
    agent.docker("run", "-d", "--name", "web", "-p", "80", "busybox", "sh", "-c", serve)
    port = agent.docker("port", "web", "80").stdout.split(":")[-1].strip()
    assert f"->{80}/tcp" in agent.docker("ps").stdout
    fetch = ["wget", "-q", "-t", "1", "-T", "2", "-O", "-", f"http://127.0.0.1:{port}/"]
    answer = eventually(
        lambda: subprocess.run(fetch, capture_output=True, timeout=10, check=False).stdout, what="web answers"
    )
    assert answer == b"served\n"


def test_the_life_of_a_container(agent: AgentUnderTest) -> None:
    agent.docker("create", "--name", "one", "--stop-timeout", "0", "busybox", "sleep", "600")
    assert shown(agent, "one")["State"]["Status"] == "created"
    agent.docker("start", "one")
    agent.docker("pause", "one")
    assert "(Paused)" in agent.docker("ps").stdout
    agent.docker("unpause", "one")
    agent.docker("rename", "one", "two")
    assert "sleep 600" in agent.docker("top", "two").stdout
    agent.docker("restart", "two")
    agent.docker("stop", "two")
    assert "Exited (137)" in agent.docker("ps", "-a", "--filter", "name=two").stdout
    assert agent.docker("wait", "two").stdout == "137\n"
    agent.docker("start", "two")
    agent.docker("kill", "-s", "KILL", "two")
    agent.docker("rm", "two")
    assert agent.docker("inspect", "two", check=False).returncode != 0


def test_ps_filters(agent: AgentUnderTest) -> None:
    agent.docker("run", "-d", "--name", "aa", "--label", "tier=front", "busybox", "sleep", "600")
    agent.docker("create", "--name", "bb", "--network", "none", "busybox", "true")

    def names(*filters: str) -> list[str]:
        arguments = [word for each in filters for word in ("--filter", each)]
        listed = agent.docker("ps", "-a", "--format", "{{.Names}}", *arguments).stdout
        return sorted(listed.split())

    assert names() == ["aa", "bb"]
    assert names("label=tier=front") == ["aa"]
    assert names("status=created") == ["bb"]
    assert names("network=none") == ["bb"]
    assert names("ancestor=busybox") == ["aa", "bb"]
    assert names("name=^b") == ["bb"]
    assert json.loads(agent.docker("ps", "--format", "{{json .}}").stdout)["Names"] == "aa"


def test_logs(agent: AgentUnderTest) -> None:
    agent.docker("run", "--name", "wrote", "busybox", "sh", "-c", "seq 1 5; echo six >&2")
    assert (
        agent.docker("logs", "--tail", "2", "wrote").stdout + agent.docker("logs", "wrote").stderr
        == "5\nsix\n"
    )
    stamped = agent.docker("logs", "-t", "--tail", "3", "wrote").stdout.splitlines()
    assert stamped[0].split()[0].endswith("Z")
    assert stamped[0].split()[1] == "4"
    assert agent.docker("logs", "--since", "1h", "--until", "1m", "wrote").stdout == ""


def test_logs_are_followed_until_the_end(agent: AgentUnderTest) -> None:
    agent.docker("run", "-d", "--name", "ticks", "busybox", "sh", "-c", TICKS)
    follower = subprocess.Popen(
        agent.docker_command("logs", "-f", "ticks"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=agent.docker_environment(),
    )
    assert follower.stdout is not None
    first = [follower.stdout.readline() for _ in range(3)]
    agent.docker("rm", "-f", "ticks")
    rest = follower.stdout.read().splitlines()
    assert follower.wait(10) == 0
    follower.stdout.close()
    assert [line.strip() for line in first] == [b"tick 0", b"tick 1", b"tick 2"]
    assert rest == [b"tick %d" % number for number in range(3, 3 + len(rest))]


def test_exec(agent: AgentUnderTest) -> None:
    agent.docker("run", "-d", "--name", "host", "-e", "A=1", "busybox", "sleep", "600")
    done = agent.docker("exec", "host", "sh", "-c", "echo out; echo err >&2; exit 9", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (9, "out\n", "err\n")
    assert agent.docker("exec", "-i", "host", "cat", stdin="in\n").stdout == "in\n"
    options = ["-e", "B=2", "-w", "/tmp", "-u", "1000"]
    script = "echo $A$B; pwd; id -u"
    assert agent.docker("exec", *options, "host", "sh", "-c", script).stdout == "12\n/tmp\n1000\n"
    agent.docker("exec", "-d", "host", "sh", "-c", "echo done > /tmp/flag")
    eventually(
        lambda: agent.docker("exec", "host", "cat", "/tmp/flag", check=False).stdout == "done\n",
        what="the detached exec has written",
    )
    missing = agent.docker("exec", "host", "/no/such", check=False)
    assert missing.returncode == 127
    assert "/no/such" in missing.stderr
    stranger = agent.docker("exec", "-u", "stranger", "host", "id", check=False)
    assert stranger.returncode in (125, 126)
    assert "stranger" in stranger.stderr


def test_attach_sees_what_comes(agent: AgentUnderTest) -> None:
    agent.docker("run", "-d", "--name", "ticks", "busybox", "sh", "-c", TICKS)
    attached = subprocess.Popen(
        agent.docker_command("attach", "--no-stdin", "ticks"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=agent.docker_environment(),
    )
    assert attached.stdout is not None
    assert attached.stdout.readline().startswith(b"tick ")
    agent.docker("stop", "-t", "0", "ticks")
    assert attached.wait(10) == 137
    attached.stdout.close()


def test_an_ended_container_is_started_and_attached_to(agent: AgentUnderTest) -> None:
    agent.docker("run", "--name", "again", "busybox", "sh", "-c", "echo hi; exit 3", check=False)
    done = agent.docker("start", "-a", "again", check=False)
    assert (done.returncode, done.stdout) == (3, "hi\n")
    agent.docker("run", "-i", "--name", "echo", "busybox", "cat", stdin="one\n")
    assert agent.docker("start", "-ai", "echo", stdin="two\n").stdout == "two\n"


def test_stats(agent: AgentUnderTest) -> None:
    agent.docker("run", "-d", "--name", "used", "-m", "64m", "busybox", "sleep", "600")
    stats = json.loads(agent.docker("stats", "--no-stream", "--format", "{{json .}}", "used").stdout)
    assert stats["Name"] == "used"
    assert stats["MemUsage"].endswith("/ 64MiB")
    assert stats["PIDs"] == "1"


def test_networks(agent: AgentUnderTest) -> None:
    agent.docker("network", "create", "--label", "a=b", "front")
    agent.docker("run", "-d", "--name", "on", "--network", "front", "busybox", "sleep", "600")
    address = shown(agent, "on")["NetworkSettings"]["Networks"]["front"]["IPAddress"]
    network = json.loads(agent.docker("network", "inspect", "front").stdout)[0]
    assert [each["IPv4Address"].split("/")[0] for each in network["Containers"].values()] == [address]
    assert "front" in agent.docker("network", "ls").stdout
    assert agent.docker("network", "rm", "front", check=False).returncode != 0
    agent.docker("rm", "-f", "on")
    agent.docker("network", "rm", "front")


def test_events(agent: AgentUnderTest) -> None:
    begun = time.time()
    agent.docker("run", "--rm", "--name", "seen", "busybox", "true")
    arguments = ["--since", f"{begun:.6f}", "--until", f"{time.time():.6f}", "--filter", "container=seen"]
    listed = agent.docker("events", *arguments, "--format", "{{.Action}}").stdout.split()
    assert listed[:3] == ["create", "start", "die"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["run", "--gpus", "all", "busybox", "true"], "HostConfig.DeviceRequests"),
        (["run", "--storage-opt", "size=1g", "busybox", "true"], "storage_size"),
        (["run", "--dns", "nowhere", "busybox", "true"], "nowhere"),
        (["run", "--log-driver", "fluentd", "busybox", "true"], "HostConfig.LogConfig.Type"),
        (["run", "no-such-image", "true"], "no-such-image"),
        (["run", "--name", "a/b", "busybox", "true"], "a/b"),
        (["run", "-p", "99999:80", "busybox", "true"], "99999"),
        (["run", "--network", "nowhere", "busybox", "true"], "nowhere"),
        (["run", "busybox", "/no/such/program"], "/no/such/program"),
        (["start", "nobody"], "nobody"),
        (["logs", "nobody"], "nobody"),
        (["cp", "nobody:/a", "/tmp/b"], "no such container: nobody"),
        (["rm", "nobody"], "nobody"),
    ],
)
def test_what_cannot_be_done_is_named(agent: AgentUnderTest, arguments: list[str], part: str) -> None:
    done = agent.docker(*arguments, check=False)
    assert done.returncode != 0
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_that_is_taken(agent: AgentUnderTest) -> None:
    agent.docker("create", "--name", "once", "busybox", "true")
    done = agent.docker("create", "--name", "once", "busybox", "true", check=False)
    assert done.returncode != 0
    assert "once" in done.stderr
