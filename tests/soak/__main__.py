# SPDX-License-Identifier: Apache-2.0
"""Work at random, kill at random, and tell what was not as it should be: see `script/soak --help`."""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import threading
import time
import traceback
from typing import Protocol

from harness.agent import AgentFailed
from soak.boxes import Box
from soak.declared import Declared
from soak.images import Images
from soak.site import CutOff, Site

_BOXES = 3
_ENDS_WITHIN = 120.0
_TELL_EVERY = 10.0


class _Work(Protocol):
    def step(self) -> None: ...

    def catch_up(self) -> None: ...


def main() -> int:
    """Return 1 if there was a fault."""
    options = _options()
    print(f"seed {options.seed}, {options.seconds:g} s", flush=True)
    site = Site(options.seed, options.seconds)
    threads = [
        threading.Thread(target=_work, args=(site, number, works), daemon=True)
        for number, works in enumerate(_workers(site, options.workers))
    ]
    if options.pause:
        threads.append(threading.Thread(target=_guarded_kills, args=(site, options.pause), daemon=True))
    for thread in threads:
        thread.start()
    while not site.over:
        time.sleep(min(_TELL_EVERY, options.seconds))
        kills = sum(count for what, count in site.counts.items() if what != "calls")
        print(f"{site.counts['calls']} calls, {kills} kills, {len(site.faults)} faults", flush=True)
    deadline = time.monotonic() + _ENDS_WITHIN
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        site.fault(f"a call has not come back for {_ENDS_WITHIN:g} s")
    try:
        site.agent.destroy()
    except AgentFailed as error:
        site.fault(error)
    print(", ".join(f"{count} {what}" for what, count in sorted(site.counts.items())))
    print(f"{len(site.faults)} faults" + (f"; again with --seed {options.seed}" if site.faults else ""))
    return 1 if site.faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/soak",
        description="Several clients work at random on one agent, while its processes are killed; whatever "
        "is not as it should be is told, and what is left behind at the end.",
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="how long (120)")
    parser.add_argument("--workers", type=int, default=3, help="how many clients of each kind (3)")
    parser.add_argument(
        "--pause", type=float, default=1.0, help="about how many seconds between kills, 0 for none (1)"
    )
    parser.add_argument("--seed", default=secrets.token_hex(4), help="the work of a former run once more")
    return parser.parse_args()


def _workers(site: Site, count: int) -> list[list[_Work]]:
    workers: list[list[_Work]] = []
    for worker in range(count):
        workers.append([Box(site, worker, number) for number in range(_BOXES)])
        workers.append([Declared(site, worker)])
        workers.append([Images(site, worker)])
    return workers


def _work(site: Site, number: int, works: list[_Work]) -> None:
    chance = random.Random(f"{site.seed}-{number}")
    while not site.over:
        work = chance.choice(works)
        try:
            try:
                work.step()
            except CutOff:
                work.catch_up()
        except CutOff:
            continue
        except Exception:  # noqa: BLE001 (whatever it is, it is told)
            site.fault(traceback.format_exc())


def _guarded_kills(site: Site, pause: float) -> None:
    try:
        site.kill_now_and_then(pause)
    except Exception:  # noqa: BLE001 (whatever it is, it is told)
        site.fault(traceback.format_exc())


if __name__ == "__main__":
    sys.exit(main())
