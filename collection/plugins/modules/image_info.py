#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module `image_info`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_info
short_description: Ask about the images of a host, and about tags at registries
version_added: 0.1.0
author:
  - The Mooring maintainers (@mooring)
description:
  - Returns what the agent knows of its images, the newest first. Those are returned that fit all of what is
    asked.
options:
  names:
    description:
      - The names or IDs of images. Those that are not there are left out, and the order is theirs.
    type: list
    elements: str
  labels:
    description:
      - Only images with all of these labels, C(NAME) or C(NAME=VALUE).
    type: list
    elements: str
  dangling:
    description:
      - Only images that have lost their name (V(true)), or have one (V(false)).
    type: bool
  tags_of:
    description:
      - The names of images whose tags at their registries are wanted, such as V(registry.example:5000/web).
    type: list
    elements: str
extends_documentation_fragment:
  - mooring.fleet.agent
  - mooring.fleet.credentials
seealso:
  - module: mooring.fleet.image
  - module: mooring.fleet.image_prune
"""

EXAMPLES = r"""
- name: Ask about an image
  mooring.fleet.image_info:
    names: [web:2]
  register: web

- name: Fail unless it is there
  ansible.builtin.assert:
    that: web.images | length == 1

- name: Ask about all images that say they serve the web
  mooring.fleet.image_info:
    labels: [tier=web]

- name: Ask a registry for the tags of an image
  mooring.fleet.image_info:
    names: []
    tags_of: [registry.example:5000/web]
"""

RETURN = r"""
images:
  description: The images.
  returned: success
  type: list
  elements: dict
  sample:
    - id: sha256:9c6f0724472873bb50a2ae67a9e7adcb57673a183cea8b06eb778dca859181b5
      references: ["web:2"]
      digests: []
      size: 1966080
      created_at: "2026-01-31T12:00:00Z"
      architecture: amd64
      os: linux
      config:
        Cmd: [sh]
      layers: ["sha256:61f42b6d1b5b5a4b0d0e7b1f6d3c2b1a0f9e8d7c6b5a49382716054f3e2d1c0b"]
tags:
  description: The tags at the registry, by the names of O(tags_of); none for what the registry does not have.
  returned: with O(tags_of)
  type: dict
  sample:
    registry.example:5000/web: ["1", "2", latest]
code:
  description: A stable word for what went wrong.
  returned: failure
  type: str
  sample: unavailable
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mooring.fleet.plugins.module_utils.images import IMAGE_INFO
from ansible_collections.mooring.fleet.plugins.module_utils.operation import run_module


def main() -> None:
    module = AnsibleModule(argument_spec=IMAGE_INFO.argument_spec, supports_check_mode=True)
    run_module(module, IMAGE_INFO)


if __name__ == "__main__":
    main()
