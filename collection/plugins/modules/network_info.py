#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module `network_info`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: network_info
short_description: Ask about the networks of a host
version_added: 0.1.0
author:
  - The Mooring maintainers (@mooring)
description:
  - Returns what the agent knows of its networks, the oldest first, and which containers are on them.
options:
  names:
    description:
      - The names of networks. Those that are not there are left out, and the order is theirs.
    type: list
    elements: str
extends_documentation_fragment:
  - mooring.fleet.agent
seealso:
  - module: mooring.fleet.network
  - module: mooring.fleet.container_info
"""

EXAMPLES = r"""
- name: Ask about a network
  mooring.fleet.network_info:
    names: [backend]
  register: asked

- name: Fail unless it has IPv6
  ansible.builtin.assert:
    that: asked.networks[0].subnet6 is not none
"""

RETURN = r"""
networks:
  description: The networks. An option that a network does not have is none.
  returned: success
  type: list
  elements: dict
  sample:
    - name: backend
      driver: bridge
      subnet: 10.30.0.0/24
      gateway: 10.30.0.1
      ip_range: null
      subnet6: fd12:3456:789a::/64
      gateway6: fd12:3456:789a::1
      ip_range6: null
      reserved: []
      nat: true
      internal: false
      mtu: null
      parent: null
      mode: null
      labels: {}
      bridge: mr0
      created_at: 1767225600.0
      managed: true
      spec: {subnet: 10.30.0.0/24, ipv6: true}
      containers:
        web1:
          ipv4_address: 10.30.0.2
          ipv6_address: fd12:3456:789a::2
          mac_address: "02:6d:0a:1e:00:02"
code:
  description: A stable word for what went wrong.
  returned: failure
  type: str
  sample: unavailable
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mooring.fleet.plugins.module_utils.asking import NETWORK_INFO
from ansible_collections.mooring.fleet.plugins.module_utils.operation import run_module


def main() -> None:
    module = AnsibleModule(argument_spec=NETWORK_INFO.argument_spec, supports_check_mode=True)
    run_module(module, NETWORK_INFO)


if __name__ == "__main__":
    main()
