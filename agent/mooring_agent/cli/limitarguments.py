# SPDX-License-Identifier: Apache-2.0
"""The options of the command line that limit disks, swapping and real-time tasks."""

from __future__ import annotations

import argparse

NUMBERS = {"memory_swappiness": "0…100", "cpu_rt_period": "µs", "cpu_rt_runtime": "µs", "blkio_weight": "N"}
DISKS = {
    "blkio_weight_device": "WEIGHT",
    "device_read_bps": "RATE",
    "device_write_bps": "RATE",
    "device_read_iops": "RATE",
    "device_write_iops": "RATE",
}


def limited(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    for name, metavar in NUMBERS.items():
        command.add_argument(f"--{name.replace('_', '-')}", type=int, metavar=metavar)
    for name, limit in DISKS.items():
        option = f"--{name.replace('_', '-')}"
        command.add_argument(option, action="append", default=[], metavar=f"DISK:{limit}")
