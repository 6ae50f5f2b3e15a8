# SPDX-License-Identifier: Apache-2.0
"""The engines that are measured, each on directories of its own, started for one run and ended with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench import processes
from harness import unix_http
from harness.agent import AgentUnderTest
from harness.waiting import eventually

_ROOT = Path(__file__).parents[2]
_READY_WITHIN = 60.0
# The control group below which the peers' containers of this run are.
GROUP = f"mrgb-{os.getpid()}"
# Where podman has its conmon whatever it is told.
PODMAN_GROUP = "libpod_parent"
# Ahead of a command line: it runs in a network namespace of its own.
OWN_NETWORK = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


def has(program: str) -> bool:
    """Whether a program is installed."""
    return shutil.which(program) is not None


class PeerMissing(Exception):
    """A peer is not installed, or does not run here."""


@contextmanager
def mooring(directory: Path | None = None, inside: Path | None = None) -> Iterator[AgentUnderTest]:
    """An agent as a host gets it, the one file on the distribution's Python, its data below `directory` if
    given, in the network namespace `inside` if given, with nothing left of it afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="mrgb-", dir=_volatile()) as run:
        archive = f"{run}/mooring.pyz"
        subprocess.run([sys.executable, _ROOT / "script/zip_agent.py", archive], check=True)
        agent = AgentUnderTest(
            user="script/bench",
            run_root=Path(run) / "run",
            pool=None,
            program=(
                *(() if inside is None else ("nsenter", f"--net={inside}")),
                _distribution_python(),
                archive,
            ),
            directory=directory,
        )
        try:
            agent.start()
            yield agent
        finally:
            agent.destroy()


def _distribution_python() -> str:
    """The Python that the peers' packages come with, if it is new enough: built as users have it. A Python
    that somebody has compiled may lack what makes it a quarter faster.
    """
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    found = Path("/usr/bin/python3")
    good = found.exists() and subprocess.run([found, "-c", check], check=False).returncode == 0
    return str(found) if good else sys.executable


def _volatile() -> str:
    """A file system in memory, as /run is on a host with an init: for the run roots of both engines."""
    with open("/proc/self/mounts") as mounts:
        kinds = {target: kind for _, target, kind, *_ in map(str.split, mounts)}
    return "/run" if kinds.get("/run") == "tmpfs" else "/dev/shm"


class Docker:
    """A dockerd: its socket, its process, its directory and the control group of its containers. It runs in
    the network namespace `inside`, or in one of its own.
    """

    def __init__(self, program: str, base: Path, inside: Path | None, arguments: Sequence[str] = ()) -> None:
        self.socket = base / "docker.sock"
        self.base = base
        self.group = f"{GROUP}/docker"
        self.run = Path(f"{_volatile()}{base}/exec")  # with `base` in it, by which its processes are found
        self._argv = (
            *(OWN_NETWORK if inside is None else ("nsenter", f"--net={inside}")),
            program,
            f"--data-root={base}/data",
            f"--exec-root={self.run}",
            f"--pidfile={base}/pid",
            f"--host=unix://{self.socket}",
            f"--cgroup-parent=/{self.group}",
            *arguments,
        )
        self.process = self._started()

    def wait(self) -> None:
        """Return when it answers. Raises PeerMissing."""
        deadline = time.monotonic() + _READY_WITHIN
        while not self.socket.exists() or not _answers(self.socket):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise PeerMissing(f"dockerd did not come up: {(self.base / 'log').read_text()[-1500:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End it, and its containers with it."""
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        """End it and start it anew. Raises PeerMissing."""
        self.stop()
        self.process = self._started()
        self.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        with (self.base / "log").open("ab") as log:
            return subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )


@contextmanager
def dockerd(base: Path, inside: Path | None = None, arguments: Sequence[str] = ()) -> Iterator[Docker]:
    """A dockerd by hand, on directories of its own, with further `arguments`.

    It has a network namespace of its own too, unless it is to run in that of somebody else, with its bridge
    and its firewall in it as it makes them by default, so that the host's stay as they are.
    """
    program = shutil.which("dockerd")
    if program is None:
        raise PeerMissing("dockerd is not installed")
    base.mkdir(parents=True)
    docker = Docker(program, base, inside, arguments)
    try:
        docker.wait()
        yield docker
    finally:
        docker.stop()
        run = docker.run
        eventually(lambda: not processes.naming(str(base)), 30, "the end of dockerd's helpers")
        shutil.rmtree(run, ignore_errors=True)
        with suppress(OSError):
            os.removedirs(run.parent)
        for mount in _mounts_below(base):
            subprocess.run(["umount", "-l", mount], check=False)
        remove_groups(GROUP)
        shutil.rmtree(base, ignore_errors=True)


@dataclass(frozen=True)
class Runtime:
    """An OCI runtime by its command line, with one bundle whose process sleeps."""

    program: str
    state: Path
    bundle: Path

    def run(self, id: str) -> None:
        """Start a container; returns when its process runs. Raises CalledProcessError."""
        self._call("run", "--detach", "--bundle", str(self.bundle), id)

    def execute(self, id: str, *command: str) -> None:
        """Run a command in it to its end. Raises CalledProcessError."""
        self._call("exec", id, *command)

    def delete(self, id: str) -> None:
        """Kill and remove it. Raises CalledProcessError."""
        self._call("delete", "--force", id)

    def _call(self, *arguments: str) -> None:
        # A container keeps its standard streams open, so nothing waits for their end.
        with (self.state.parent / f"{self.program}.log").open("w+b") as log:
            done = subprocess.run(
                [self.program, "--root", str(self.state), *arguments],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=60,
            )
            if done.returncode != 0:
                log.seek(0)
                said = log.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise subprocess.CalledProcessError(done.returncode, [self.program, *arguments], said, said)


def runtime(program: str, base: Path, rootfs: Path) -> Runtime:
    """An OCI runtime. Raises PeerMissing when it is not installed, or refuses to run a container here."""
    if shutil.which(program) is None:
        raise PeerMissing(f"{program} is not installed")
    bundle = base / program
    bundle.mkdir(parents=True)
    subprocess.run([program, "spec"], check=True, cwd=bundle)
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["args"] = ["/bin/sleep", "600"]
    config["process"]["terminal"] = False
    config["root"]["path"] = str(rootfs)
    config["linux"]["cgroupsPath"] = f"/{GROUP}/{program}"
    (bundle / "config.json").write_text(json.dumps(config))
    found = Runtime(program, base / f"{program}-state", bundle)
    try:
        found.run(f"{GROUP}-trial")
        found.delete(f"{GROUP}-trial")
    except subprocess.CalledProcessError as error:
        raise PeerMissing(f"{program} does not run here: {error.output}") from None
    return found


@dataclass(frozen=True)
class Lxc:
    """An LXC container `bench` that sleeps."""

    place: Path

    def start(self) -> None:
        """Start it; returns when its process runs."""
        self._call("lxc-start")

    def stop(self) -> None:
        """Kill it."""
        self._call("lxc-stop", "-k")

    def _call(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [program, "-P", str(self.place), "-n", "bench", *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )


@contextmanager
def lxc(base: Path, rootfs: Path, count: int = 1) -> Iterator[list[Lxc]]:
    """Some LXC containers, each in a directory of its own. Raises PeerMissing."""
    if shutil.which("lxc-start") is None:
        raise PeerMissing("lxc is not installed")
    found = []
    for number in range(count):
        place = base / f"lxc{number}"
        (place / "bench").mkdir(parents=True)
        (place / "bench/config").write_text(
            f"lxc.uts.name = bench{number}\n"
            f"lxc.rootfs.path = dir:{rootfs}\n"
            "lxc.net.0.type = empty\n"
            "lxc.init.cmd = /bin/sleep 600\n"
            "lxc.mount.auto = proc:mixed sys:ro\n"
            f"lxc.cgroup.dir = {GROUP}/lxc{number}\n"
        )
        found.append(Lxc(place))
    try:
        yield found
    finally:
        for left in Path("/sys/fs/cgroup").glob("*/lxc.pivot"):  # LXC makes it, and never removes it
            with suppress(OSError):
                left.rmdir()
        remove_groups(GROUP)


@dataclass(frozen=True)
class Podman:
    """podman on directories of its own."""

    base: Path

    def call(self, *arguments: str) -> str:
        """One command of it; what it prints. Raises CalledProcessError."""
        done = subprocess.run(
            [
                "podman",
                *("--root", str(self.base / "root"), "--runroot", str(self.base / "run")),
                *("--tmpdir", str(self.base / "tmp"), "--storage-driver", "overlay"),
                *("--cgroup-manager", "cgroupfs", "--runtime", "runc", "--events-backend", "file"),
                *arguments,
            ],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=120,
        )
        return done.stdout.strip()


@contextmanager
def podman(base: Path, archive: Path) -> Iterator[Podman]:
    """podman with runc, and the image `bench`. Raises PeerMissing."""
    with podman_store(base) as engine:
        engine.call("import", str(archive), "bench")
        yield engine


@contextmanager
def podman_store(base: Path) -> Iterator[Podman]:
    """podman with runc, without an image. Raises PeerMissing."""
    if shutil.which("podman") is None or shutil.which("runc") is None:
        raise PeerMissing("podman or runc is not installed")
    base.mkdir(parents=True)
    engine = Podman(base)
    found = groups(PODMAN_GROUP)
    try:
        yield engine
    except subprocess.CalledProcessError as error:
        raise PeerMissing(f"podman does not run here: {error}") from error
    finally:
        with suppress(subprocess.CalledProcessError):
            engine.call("rm", "--all", "--force", "--time", "0")
        for mount in _mounts_below(base):
            subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(base, ignore_errors=True)
        remove_groups(GROUP)
        if not found:
            remove_groups(PODMAN_GROUP)


def _answers(socket: Path) -> bool:
    try:
        return unix_http.request(socket, "GET", "/_ping").status == 200
    except OSError:
        return False


def _mounts_below(base: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return sorted((line.split()[1] for line in lines if line.split()[1].startswith(f"{base}/")), reverse=True)


def remove_groups(name: str) -> None:
    """Remove the control group `name` in every hierarchy, with the empty ones below it."""
    for group in groups(name):
        below = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
        for each in [*below, group]:
            with suppress(OSError):  # one that is still in use is left where it is
                each.rmdir()


def groups(name: str) -> list[Path]:
    """The directories of the control group `name`, one a hierarchy that has it."""
    return [*Path("/sys/fs/cgroup").glob(f"*/{name}"), *Path("/sys/fs/cgroup").glob(name)]
