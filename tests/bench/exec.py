# SPDX-License-Identifier: Apache-2.0
"""How fast a command runs in a running container: `true`, with its output attached, from the request to the
exit code, beside dockerd by the same API, and beside the command lines of runc and crun.
"""

from __future__ import annotations

import argparse
import subprocess
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import peers
from bench.engine_api import EngineApi
from bench.report import Row, alternate, latency, print_table, say, timed
from harness.rootfs import write_busybox_rootfs

_SLEEP = ["sleep", "600"]
_PAUSE = 0.1
_AGAINST_DOCKER = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="script/bench exec", description=__doc__)
    parser.add_argument("--count", type=int, default=30, help="execs of each (30)")
    parser.add_argument("--without-docker", action="store_true", help="leave dockerd out")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="mrgb-") as directory, ExitStack() as stack:
        base = Path(directory)
        archive = write_busybox_rootfs(base / "busybox.tar")
        rootfs = base / "rootfs"
        with tarfile.open(archive) as content:
            content.extractall(rootfs, filter="fully_trusted")
        say("starting an agent")
        agent = stack.enter_context(peers.mooring())
        ours = _Target(agent.socket, archive)
        if not options.without_docker:
            with ExitStack() as inner:
                try:
                    docker = inner.enter_context(peers.dockerd(base / "docker"))
                    say("beside dockerd")
                    theirs = _Target(docker.socket, archive)
                    mine, other = alternate(options.count, ours.sample, theirs.sample, pause=_PAUSE)
                    rows.append(latency("exec of true", mine, "dockerd", other, _AGAINST_DOCKER))
                    theirs.end()
                except peers.PeerMissing as missing:
                    say(f"dockerd is not measured: {missing}")
        for program in ("runc", "crun"):
            try:
                rows.append(_beside_runtime(ours, program, base, rootfs, options.count))
            except (peers.PeerMissing, subprocess.CalledProcessError) as missing:
                say(f"{program} exec is not measured: {missing}")
        ours.end()
        peers.remove_groups(peers.GROUP)
    print_table("exec: medians; the ratio says how many times better Mooring is", rows)


class _Target:
    """A container of an engine that speaks the Engine API."""

    def __init__(self, socket: Path, archive: Path) -> None:
        self._api = EngineApi(socket)
        self._api.import_image(archive, "bench")
        self._id = self._api.create("target", "bench", _SLEEP, "none")
        self._api.start(self._id)
        self.sample()  # the first one makes what later ones find

    def sample(self) -> float:
        """The seconds of one exec."""
        return timed(lambda: self._api.execute(self._id, ["true"]))

    def end(self) -> None:
        """Remove the container."""
        self._api.remove(self._id)
        self._api.close()


def _beside_runtime(ours: _Target, program: str, base: Path, rootfs: Path, count: int) -> Row:
    runtime = peers.runtime(program, base, rootfs)
    say(f"beside {program} exec")
    id = f"{peers.GROUP}-exec"
    runtime.run(id)
    try:

        def theirs() -> float:
            return timed(lambda: runtime.execute(id, "true"))

        mine, other = alternate(count, ours.sample, theirs, pause=_PAUSE)
    finally:
        runtime.delete(id)
    return latency("exec of true", mine, f"{program} exec", other, 1)


if __name__ == "__main__":
    main()
