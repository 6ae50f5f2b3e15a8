#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module `network_key`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: network_key
short_description: Ask for the public key of a host, or have it renewed
version_added: 0.1.0
author:
  - The Mooring maintainers (@mooring)
description:
  - Returns the public key by which other hosts know this one in networks that are encrypted.
  - The agent makes the pair of keys when it is first asked for, also in check mode, and keeps the private one
    to itself. It is the same for all networks.
options:
  renew:
    description:
      - Whether to make another pair first. A network uses it once it is declared with the new public key, so
        M(mooring.fleet.network) is to follow on all hosts of the network. In check mode nothing is made, and
        the key of before returned.
    type: bool
    default: false
extends_documentation_fragment:
  - mooring.fleet.agent
seealso:
  - module: mooring.fleet.network
"""

EXAMPLES = r"""
- name: Ask each host for its key
  mooring.fleet.network_key:
  register: asked

- name: Keep it beside the address by which the others reach the host
  ansible.builtin.set_fact:
    wire: {address: "{{ underlay }}", public_key: "{{ asked.public_key }}"}

- name: One encrypted network across them
  mooring.fleet.network:
    name: mesh
    driver: overlay
    subnet: 10.220.0.0/16
    encryption: wireguard
    hosts: "{{ dict(groups['fleet'] | zip(groups['fleet'] | map('extract', hostvars, 'wire'))) }}"
    host: "{{ inventory_hostname }}"
"""

RETURN = r"""
public_key:
  description: The public key of the host, in base64.
  returned: success
  type: str
  sample: qAbZMQHcnwcMXzGMrMZbPBNFPhKqnEmRo0EVXwnWKhg=
code:
  description: A stable word for what went wrong.
  returned: failure
  type: str
  sample: not_supported
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mooring.fleet.plugins.module_utils.declared import NETWORK_KEY
from ansible_collections.mooring.fleet.plugins.module_utils.operation import run_module


def main() -> None:
    module = AnsibleModule(argument_spec=NETWORK_KEY.argument_spec, supports_check_mode=True)
    run_module(module, NETWORK_KEY)


if __name__ == "__main__":
    main()
