# SPDX-License-Identifier: GPL-3.0-or-later
"""How a container is asked whether it is healthy."""

from __future__ import annotations


class ModuleDocFragment:
    """The option of health checks."""

    DOCUMENTATION = r"""
options:
  healthcheck:
    description:
      - How the container is asked whether it is healthy. What is left out is as the image has it, else as
        Docker has it. Changed live; the container is then asked at once.
      - A container that shares a published port (C(balance) in O(ports)) gets no new connections while it is
        unhealthy and others are healthy. One that is started first (O(update_order)) takes over once it is
        healthy.
    type: dict
    suboptions:
      test:
        description:
          - The command that asks, executed in the container with its user, environment and working
            directory. It ends with 0 if all is well.
          - A string is for the container's shell. A list is V([CMD, ARGUMENT, ...]),
            V([CMD-SHELL, COMMAND]), or V([NONE]), with which the image's check is left out.
        type: raw
      interval:
        description:
          - The time between two checks, and before the first one, in seconds or as V(1m30s) or V(500ms), like
            the following three. By default V(30).
        type: raw
      timeout:
        description:
          - The time after which a check is killed, and has failed. By default V(30).
        type: raw
      start_period:
        description:
          - The time after the start in which failures do not count; the first success ends it. By default
            V(0).
        type: raw
      start_interval:
        description:
          - The time between two checks in that period. By default V(5).
        type: raw
      retries:
        description:
          - The number of failures in a row with which the container is unhealthy. By default V(3).
        type: int
      on_unhealthy:
        description:
          - What happens to a container that is unhealthy. With V(none), the default, nothing, as with Docker;
            with V(restart) it is stopped, and started again by its policy (O(restart)), for which this is a
            failure.
        type: str
        choices: [none, restart]
"""
