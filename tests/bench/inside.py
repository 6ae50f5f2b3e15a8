# SPDX-License-Identifier: Apache-2.0
"""What a container costs the program in it: CPU, memory bandwidth and file I/O inside beside outside.

The same static program does the same work on both sides, in turn, and measures itself, so what a start or an
exec takes is not in it. Files are written and read through the page cache: in the container's own layer, and
in a volume.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import peers
from bench.engine_api import EngineApi
from bench.report import Row, alternate, milliseconds, print_table, say, spread
from harness.agent import AgentUnderTest
from harness.rootfs import write_busybox_rootfs

_SOURCE = Path(__file__).with_name("inside.c")
# Inside may take 3 % longer.
_TARGET = 1 / 1.03


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="script/bench inside", description=__doc__)
    parser.add_argument("--count", type=int, default=15, help="rounds of each (15)")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="mrgb-") as directory:
        base = Path(directory)
        program = base / "inside"
        subprocess.run(["gcc", "-O2", "-static", "-o", str(program), str(_SOURCE)], check=True)
        archive = write_busybox_rootfs(base / "busybox.tar")
        with peers.mooring() as agent:
            EngineApi(agent.socket).import_image(archive, "bench")
            # Files beside the container's: on the same file system.
            place = agent.base / "outside"
            place.mkdir()
            spec = {
                "image": "bench",
                "command": ["sleep", "86400"],
                "volumes": [f"{place}:/volume", f"{program}:/bin/inside:ro"],
                "stop_timeout": 0,
            }
            agent.api("PUT", "/mooring/v1/containers/inside", spec)
            for name, inside, outside in (
                ("CPU", ("cpu",), ("cpu",)),
                ("memory bandwidth", ("memory",), ("memory",)),
                ("file I/O, the container's layer", ("file", "/root/file"), ("file", f"{place}/file")),
                ("file I/O, a volume", ("file", "/volume/file"), ("file", f"{place}/file")),
            ):
                say(name)
                ours, theirs = alternate(options.count, _inside(agent, inside), _outside(program, outside))
                rows.append(_row(name, "outside", ours, theirs))
            # What overlayfs itself takes for each call is not the container's.
            say("file I/O, the container's layer, beside overlayfs alone")
            layer, alone = _inside(agent, ("file", "/root/file")), _overlay(program, place)
            ours, theirs = alternate(options.count, layer, alone)
            rows.append(_row("file I/O, the container's layer", "overlayfs", ours, theirs))
    print_table("inside a container beside outside", rows)


def _inside(agent: AgentUnderTest, words: tuple[str, ...]) -> Callable[[], float]:
    body = {"argv": ["/bin/inside", *words]}

    def run() -> float:
        done = agent.api("POST", "/mooring/v1/containers/inside/exec", body, timeout=120)
        if done["exit_code"] != 0:
            raise SystemExit(f"inside {words} failed in the container: {done['stderr']}")
        return float(done["stdout"])

    return run


def _outside(program: Path, words: tuple[str, ...]) -> Callable[[], float]:
    def run() -> float:
        done = subprocess.run([str(program), *words], check=True, capture_output=True, timeout=120)
        return float(done.stdout)

    return run


def _overlay(program: Path, place: Path) -> Callable[[], float]:
    """The same on an overlay of the host's own, in a mount namespace that ends with it."""
    for name in ("lower", "upper", "work", "merged"):
        (place / name).mkdir()
    mount = "mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged"
    command = ["unshare", "--mount", "sh", "-c", f"cd {place} && {mount} && exec {program} file merged/file"]

    def run() -> float:
        return float(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)

    return run


def _row(name: str, peer: str, ours: list[float], theirs: list[float]) -> Row:
    return Row(
        name,
        milliseconds(ours),
        peer,
        milliseconds(theirs),
        "ms",
        target=round(_TARGET, 3),
        our_spread=spread(ours, 1e3),
        their_spread=spread(theirs, 1e3),
    )


if __name__ == "__main__":
    main()
