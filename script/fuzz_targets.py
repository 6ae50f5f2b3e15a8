# SPDX-License-Identifier: Apache-2.0
"""Runs the targets of tests/fuzz, each in a process of its own; see script/fuzz.

With atheris the interpreter tells which branches an input has taken, and inputs that take new ones are kept
and changed further. Without it they are changed at random.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".fuzz"
_LONGEST = 4096  # bytes of an input
_EACH_SECONDS = 20  # after which one input counts as a hang


def main() -> int:
    """Read the command line, run what it says."""
    parser = argparse.ArgumentParser(prog="script/fuzz")
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--input", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return _work(options.targets[0], options.seconds)
    table, _ = _load()
    unknown = [name for name in options.targets if name not in table]
    if unknown:
        parser.error(f"no target {unknown[0]!r}: expected some of {', '.join(table)}")
    if options.list:
        print("\n".join(table))
        return 0
    if options.input:
        for name in options.targets:
            table[name](options.input.read_bytes())
        return 0
    broken = [name for name in options.targets or table if not _run(name, options.seconds)]
    print(f"==> broken: {', '.join(broken)}" if broken else "==> nothing broke")
    return 1 if broken else 0


def _load() -> tuple[dict[str, Callable[[bytes], None]], dict[str, tuple[bytes, ...]]]:
    targets = importlib.import_module("fuzz.targets")
    return targets.TARGETS, targets.SEEDS


def _run(name: str, seconds: int) -> bool:
    """Fuzz one target in a process of its own; whether nothing broke."""
    print(f"==> {name}", flush=True)
    directory = KEPT / name
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "log").open("wb") as log:
        done = subprocess.run(
            [sys.executable, __file__, "--worker", "--seconds", str(seconds), name],
            check=False,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )
    if done.returncode == 0:
        return True
    lines = (directory / "log").read_text(errors="replace").splitlines()
    print("\n".join(lines[-40:]), f"\n    the whole log: {directory}/log", flush=True)
    return False


def _work(name: str, seconds: int) -> int:
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    if importlib.util.find_spec("atheris") is None:
        return _at_random(name, seconds)
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["mooring_agent"]):
        table, seeds = _load()
    corpus = KEPT / name / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(seeds[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-max_len={_LONGEST}",
        f"-timeout={_EACH_SECONDS}",
        f"-artifact_prefix={KEPT / name}/",
        str(corpus),
    ]
    atheris.Setup(arguments, table[name])
    atheris.Fuzz()  # does not return
    return 0


def _at_random(name: str, seconds: int) -> int:
    table, seeds = _load()
    dice = random.Random()
    end = time.monotonic() + seconds
    runs = 0
    while time.monotonic() < end:
        data = bytearray(dice.choice(seeds[name]) if dice.random() < 0.5 else b"")
        for _ in range(dice.randrange(1, 6)):
            place = dice.randrange(len(data) + 1)
            data[place : place + dice.randrange(8)] = dice.randbytes(dice.randrange(12))
        try:
            table[name](bytes(data))
        except Exception:  # noqa: BLE001 (whatever it is, it is what is looked for)
            traceback.print_exc()
            crash = KEPT / name / f"crash-{dice.randbytes(8).hex()}"
            crash.write_bytes(data)
            print(f"input: {crash}")
            return 1
        runs += 1
    print(f"{runs} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
