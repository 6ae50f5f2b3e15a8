#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module `image`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image
short_description: Have an image on a host
version_added: 0.1.0
author:
  - The Mooring maintainers (@mooring)
description:
  - Makes an image from a template, or of a root file system that is on the host, unless the image of that
    name was made so already.
  - The agent reports its progress while it works, so a long build does not run into O(timeout).
options:
  name:
    description:
      - The name of the image, maybe with a tag, such as V(busybox) or V(web:2).
    type: str
    required: true
  state:
    description:
      - Whether there is such a image.
    type: str
    choices: [present, absent]
    default: present
  template:
    description:
      - What to make the image from, V(busybox) or V(debian).
      - Or a dictionary with C(name), and for C(debian) C(suite), C(variant) and C(packages).
      - Either this or O(import) is required unless O(state=absent).
    type: raw
  import:
    description:
      - A root file system to make the image of.
    type: dict
    suboptions:
      path:
        description:
          - A directory of the host, or an archive there (C(.tar), C(.tar.gz) or C(.tar.zst)).
        type: str
        required: true
  config:
    description:
      - What the image says about its containers.
    type: dict
    suboptions:
      cmd:
        description:
          - The command, as a list or as a string that is split as a shell would.
        type: raw
      entrypoint:
        description:
          - The entry point, likewise.
        type: raw
      env:
        description:
          - Environment variables.
        type: dict
      workdir:
        description:
          - The working directory.
        type: str
      user:
        description:
          - The user, and after a colon the group.
        type: str
      labels:
        description:
          - Labels of the image.
        type: dict
      exposed_ports:
        description:
          - Ports that the image's program listens on, such as V(80/tcp).
        type: list
        elements: str
      stop_signal:
        description:
          - The signal that asks a container to end.
        type: str
extends_documentation_fragment:
  - mooring.fleet.agent
seealso:
  - module: mooring.fleet.container
  - module: mooring.fleet.apply
"""

EXAMPLES = r"""
- name: A small image from the host's busybox
  mooring.fleet.image:
    name: busybox
    template: busybox

- name: A Debian with a web server in it
  mooring.fleet.image:
    name: web:1
    template:
      name: debian
      suite: bookworm
      packages: [nginx-light]
    config:
      cmd: [nginx, -g, "daemon off;"]
      exposed_ports: [80/tcp]

- name: An image of an archive that was copied to the host
  mooring.fleet.image:
    name: app
    import:
      path: /srv/images/app.tar.zst

- name: No such image
  mooring.fleet.image:
    name: app:old
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - {action: create, kind: image, name: busybox, reason: "is not there"}
image:
  description: The image as it is now.
  returned: success, V(none) in check mode and when it was removed
  type: dict
  sample:
    id: sha256:9c6f0724472873bb50a2ae67a9e7adcb57673a183cea8b06eb778dca859181b5
    references: ["busybox:latest"]
    size: 1966080
    architecture: amd64
    os: linux
code:
  description: A stable word for what went wrong.
  returned: failure
  type: str
  sample: invalid
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mooring.fleet.plugins.module_utils.declared import IMAGE
from ansible_collections.mooring.fleet.plugins.module_utils.operation import run_module


def main() -> None:
    module = AnsibleModule(argument_spec=IMAGE.argument_spec, supports_check_mode=True, **IMAGE.constraints)
    run_module(module, IMAGE)


if __name__ == "__main__":
    main()
