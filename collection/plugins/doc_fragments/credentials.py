# SPDX-License-Identifier: GPL-3.0-or-later
"""Who one is at registries, for the modules that ask them."""

from __future__ import annotations


class ModuleDocFragment:
    """The option `credentials`."""

    DOCUMENTATION = r"""
options:
  credentials:
    description:
      - Who one is at the registries that the task asks. Without it, what the agent's configuration or
        docker's C(config.json) on the host say.
    type: dict
    suboptions:
      username:
        description:
          - The user.
        type: str
        required: true
      password:
        description:
          - The password.
        type: str
        required: true
"""
