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
"""
