# SPDX-License-Identifier: Apache-2.0
"""The engines that are measured, each on directories of its own, started for one run and ended with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import unix_http
from harness.agent import AgentUnderTest
from harness.waiting import eventually

_READY_WITHIN = 60.0


class PeerMissing(Exception):
    """A peer is not installed, or does not run here."""


@contextmanager
def mooring() -> Iterator[AgentUnderTest]:
    """An agent, with nothing left of it afterwards."""
    agent = AgentUnderTest(user="script/bench")
    try:
        agent.start()
        yield agent
    finally:
        agent.destroy()


@contextmanager
def dockerd(base: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A dockerd by hand: its socket and its process.

    It touches neither bridges nor the firewall of the host.
    """
    program = shutil.which("dockerd")
    if program is None:
        raise PeerMissing("dockerd is not installed")
    base.mkdir(parents=True)
    socket = base / "docker.sock"
    log = (base / "log").open("wb")
    process = subprocess.Popen(
        [
            program,
            f"--data-root={base}/data",
            f"--exec-root={base}/exec",
            f"--pidfile={base}/pid",
            f"--host=unix://{socket}",
            "--bridge=none",
            "--iptables=false",
            "--ip-masq=false",
            "--cgroup-parent=/mrgb-docker",
        ],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    log.close()
    try:
        deadline = time.monotonic() + _READY_WITHIN
        while not socket.exists() or not _answers(socket):
            if process.poll() is not None or time.monotonic() > deadline:
                raise PeerMissing(f"dockerd did not come up: {(base / 'log').read_text()[-1500:]}")
            time.sleep(0.1)
        yield socket, process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        eventually(lambda: not descendants_naming(base), 30, "the end of dockerd's helpers")
        for mount in _mounts_below(base):
            subprocess.run(["umount", "-l", mount], check=False)
        for parent in Path("/sys/fs/cgroup").glob("*/mrgb-docker"):
            parent.rmdir()
        shutil.rmtree(base, ignore_errors=True)


def runc_bundle(base: Path, rootfs: Path) -> Path:
    """A bundle for `runc run` whose process ends at once."""
    if shutil.which("runc") is None:
        raise PeerMissing("runc is not installed")
    bundle = base / "runc"
    bundle.mkdir(parents=True)
    subprocess.run(["runc", "spec", "--bundle", str(bundle)], check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["args"] = ["/bin/true"]
    config["process"]["terminal"] = False
    config["root"]["path"] = str(rootfs)
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def lxc_container(base: Path, rootfs: Path) -> Path:
    """The directory of an LXC container `bench` that sleeps; for `lxc-start -P`."""
    if shutil.which("lxc-start") is None:
        raise PeerMissing("lxc is not installed")
    place = base / "lxc"
    (place / "bench").mkdir(parents=True)
    (place / "bench/config").write_text(
        "lxc.uts.name = bench\n"
        f"lxc.rootfs.path = dir:{rootfs}\n"
        "lxc.net.0.type = empty\n"
        "lxc.init.cmd = /bin/sleep 600\n"
        "lxc.mount.auto = proc:mixed sys:ro\n"
    )
    return place


def proportional_memory(pids: list[int]) -> int:
    """What the processes occupy together in bytes, pages shared with others counted by their share (PSS)."""
    total = 0
    for pid in pids:
        try:
            content = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) for line in content.splitlines() if line.startswith("Pss:")) << 10
    return total


def resident_memory(pids: list[int]) -> int:
    """What the processes have in memory together in bytes, pages shared with others counted whole (RSS)."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) << 10


def descendants_naming(base: Path) -> list[int]:
    """The processes whose command line names `base`: an engine and its helpers, never its containers."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(base) in command:
                found.append(int(entry))
    return found


def _answers(socket: Path) -> bool:
    try:
        return unix_http.request(socket, "GET", "/_ping").status == 200
    except OSError:
        return False


def _mounts_below(base: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return sorted((line.split()[1] for line in lines if line.split()[1].startswith(f"{base}/")), reverse=True)
