# SPDX-License-Identifier: GPL-3.0-or-later
"""The limits that containers and cgroups have in common."""

from __future__ import annotations


class ModuleDocFragment:
    """Options that limit resources."""

    DOCUMENTATION = r"""
options:
  memory:
    description:
      - The most memory, in bytes or with a unit (V(64m), V(1.5g), V(512MiB); units are powers of 1024), at
        least V(6m).
      - V(0) is the same as not given, no limit. Changed live.
    type: str
  memory_reservation:
    description:
      - The memory to which the kernel shrinks it when the host runs short, as in O(memory). Changed live.
    type: str
  memory_swap:
    description:
      - The most memory and swap together, as in O(memory), or V(-1) for no limit. It needs O(memory).
        Changed live.
    type: str
  cpus:
    description:
      - How many CPUs may be used, such as V(1.5); V(0) is no limit. Changed live.
    type: float
  cpu_shares:
    description:
      - The weight when CPUs are contended, from V(2) to V(262144); the kernel's own is 1024. Changed live.
    type: int
  cpuset_cpus:
    description:
      - The CPUs that may be used, such as V(0-3,8). Changed live.
    type: str
  cpuset_mems:
    description:
      - The memory nodes that may be used, such as V(0). Changed live.
    type: str
  pids_limit:
    description:
      - The most processes and threads; V(0) and V(-1) are no limit. Changed live.
    type: int
  memory_swappiness:
    description:
      - How readily the kernel swaps out instead of dropping cache, from V(0) to V(100), where the host has
        cgroups v1; otherwise it is an error. Changed live.
    type: int
  cpu_rt_period:
    description:
      - The microseconds in which real-time tasks may run for O(cpu_rt_runtime) of them; a second unless
        given. On cgroups v1 alone, as O(memory_swappiness). Changed live.
    type: int
  cpu_rt_runtime:
    description:
      - The microseconds that real-time tasks may run in each O(cpu_rt_period). The cgroup that it is in must
        have as much. On cgroups v1 alone. Changed live.
    type: int
  blkio_weight:
    description:
      - The weight when disks are contended, from V(10) to V(1000); the kernel's own is 100. It needs the
        scheduler BFQ on the disks. Changed live.
    type: int
  blkio_weight_device:
    description:
      - The same for single disks, by their paths on the host. Changed live.
    type: dict
  device_read_bps:
    description:
      - The most bytes a second that are read from single disks, by their paths on the host, as in O(memory).
        Changed live.
    type: dict
  device_write_bps:
    description:
      - The most bytes a second that are written to single disks. With cgroups v1 it holds for what is
        written directly, not for what the kernel writes back later. Changed live.
    type: dict
  device_read_iops:
    description:
      - The most operations a second that read from single disks. Changed live.
    type: dict
  device_write_iops:
    description:
      - The most operations a second that write to single disks. Changed live.
    type: dict
"""
