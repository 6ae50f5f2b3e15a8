#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module `image_prune`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_prune
short_description: Delete the images that nothing uses
version_added: 0.1.0
author:
  - The Mooring maintainers (@mooring)
description:
  - Deletes images that no container uses, of these without O(all) those that have lost their name. Layers
    that no other image has go with them, and so does what pulls that broke off have left.
options:
  all:
    description:
      - Whether images with a name go, too. Without it, they stay.
    type: bool
  until:
    description:
      - Only images that were created before this time, such as V(2026-01-31T12:00:00Z), or longer ago than
        a span such as V(24h).
    type: str
  labels:
    description:
      - Only images with all of these labels, C(NAME) or C(NAME=VALUE).
    type: list
    elements: str
  without:
    description:
      - Only images with none of these labels, likewise.
    type: list
    elements: str
extends_documentation_fragment:
  - mooring.fleet.agent
seealso:
  - module: mooring.fleet.image
  - module: mooring.fleet.image_info
"""

EXAMPLES = r"""
- name: Delete images that have lost their name
  mooring.fleet.image_prune:

- name: Delete images that no container uses and that are older than a week
  mooring.fleet.image_prune:
    all: true
    until: 168h
    without: [keep]
"""

RETURN = r"""
deleted:
  description: The IDs of the images that were deleted, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: ["sha256:9c6f0724472873bb50a2ae67a9e7adcb57673a183cea8b06eb778dca859181b5"]
untagged:
  description: The names that they had.
  returned: success
  type: list
  elements: str
  sample: ["docker.io/library/web:1"]
freed:
  description: The bytes of disk that were freed; V(0) in check mode.
  returned: success
  type: int
  sample: 1966080
code:
  description: A stable word for what went wrong.
  returned: failure
  type: str
  sample: invalid
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mooring.fleet.plugins.module_utils.images import IMAGE_PRUNE
from ansible_collections.mooring.fleet.plugins.module_utils.operation import run_module


def main() -> None:
    module = AnsibleModule(argument_spec=IMAGE_PRUNE.argument_spec, supports_check_mode=True)
    run_module(module, IMAGE_PRUNE)


if __name__ == "__main__":
    main()
