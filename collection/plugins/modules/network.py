#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module `network`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: network
short_description: Say what a network of containers should be
version_added: 0.1.0
author:
  - The Mooring maintainers (@mooring)
description:
  - Has the agent make a bridge network on the host, change it, or remove it.
options:
  name:
    description:
      - The name of the network.
    type: str
    required: true
  state:
    description:
      - Whether there is such a network.
    type: str
    choices: [present, absent]
    default: present
  driver:
    description:
      - The kind of network.
    type: str
    choices: [bridge]
  subnet:
    description:
      - The addresses of the network, such as V(10.30.0.0/24). Without it the agent chooses free ones and
        keeps them.
    type: str
  gateway:
    description:
      - The address of the host in it. Without it the first one.
    type: str
  nat:
    description:
      - Whether containers reach the world behind the host's address. They do unless this is V(false).
    type: bool
  internal:
    description:
      - Whether containers reach each other only.
    type: bool
  labels:
    description:
      - Labels of the network. Changed live.
    type: dict
extends_documentation_fragment:
  - mooring.fleet.agent
seealso:
  - module: mooring.fleet.container
  - module: mooring.fleet.apply
"""

EXAMPLES = r"""
- name: A network of the services behind the web servers
  mooring.fleet.network:
    name: backend
    subnet: 10.30.0.0/24
    internal: true

- name: No such network
  mooring.fleet.network:
    name: backend
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - {action: create, kind: network, name: backend, reason: "is not there"}
network:
  description: The network as it is now.
  returned: success, V(none) in check mode and when it was removed
  type: dict
  sample: {name: backend, driver: bridge, subnet: 10.30.0.0/24, gateway: 10.30.0.1}
code:
  description: A stable word for what went wrong.
  returned: failure
  type: str
  sample: conflict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mooring.fleet.plugins.module_utils.declared import NETWORK
from ansible_collections.mooring.fleet.plugins.module_utils.operation import run_module


def main() -> None:
    module = AnsibleModule(
        argument_spec=NETWORK.argument_spec, supports_check_mode=True, **NETWORK.constraints
    )
    run_module(module, NETWORK)


if __name__ == "__main__":
    main()
