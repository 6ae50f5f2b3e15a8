# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a container's output goes."""

from __future__ import annotations


class ModuleDocFragment:
    """The option C(log)."""

    DOCUMENTATION = r"""
options:
  log:
    description:
      - Where the container's output goes, and how much of it is kept. Changed live.
    type: dict
    suboptions:
      driver:
        description:
          - What clients of Docker's API see. V(json-file) and V(local) are the same; with V(none) they are
            shown no output but by attaching. With V(journald) and V(syslog) it is sent on as well.
        type: str
        choices: [json-file, local, none, journald, syslog]
      max_size:
        description:
          - The size at which another file is begun, as in O(memory).
        type: str
      max_files:
        description:
          - The number of files that are kept.
        type: int
      options:
        description:
          - Options of the driver by the names that they have in Docker, such as C(tag), C(labels) and
            C(syslog-address).
        type: dict
"""
