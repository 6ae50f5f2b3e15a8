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
  - Has the agent make a network on the host, change it, or remove it.
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
      - The kind of network. V(overlay) is one network across hosts, see O(hosts).
    type: str
    choices: [bridge, overlay]
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
  hosts:
    description:
      - Of an V(overlay), its hosts, each by its name with the address that the others reach it by, or with a
        dictionary of C(address) and C(slice). The same on all of them. Changed live, so that a play that is
        run again with other hosts adds and removes them.
      - Each host has a slice of O(subnet) for its containers, by the last bits of its address unless C(slice)
        says its number.
    type: dict
  host:
    description:
      - Which of O(hosts) this one is. Without it, the one that has the address.
    type: str
  vni:
    description:
      - The number of an V(overlay) underway, from 1 to 16777215. Without it one is made of the name.
    type: int
  slice_prefix:
    description:
      - The length of the prefix of the slices. Without it eight bits more than that of O(subnet), at most 28.
    type: int
  reachable_from:
    description:
      - Networks of the host whose containers may connect to those of this one. Others may not. Changed live.
    type: list
    elements: str
  rules:
    description:
      - What the containers may be asked and may ask. The rules are gone through in order, the first that fits
        decides, and what fits none is allowed as far as the network allows it. Changed live.
      - Each is a dictionary with C(action) (V(allow) or V(deny)) and C(direction) (V(in) or V(out)), and what
        it is about, if not everything, C(protocol) (V(tcp), V(udp), V(sctp) or V(icmp)), C(ports) (numbers
        and ranges such as V(8000-8010)), C(peer) (an address, a subnet, V(container:NAME), V(network:NAME) or
        V(host)) and C(containers), names of those of this network.
      - Or words such as V(deny out tcp 25 to 0.0.0.0/0 for mail+web).
    type: list
    elements: raw
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

- name: A database that the web servers alone may ask
  mooring.fleet.network:
    name: shop
    rules:
      - {action: allow, direction: in, protocol: tcp, ports: [5432], peer: "container:web", containers: [db]}
      - {action: deny, direction: in, containers: [db]}
      - deny out to 0.0.0.0/0 for db

- name: One network across the hosts of the play
  mooring.fleet.network:
    name: mesh
    driver: overlay
    subnet: 10.220.0.0/16
    hosts: "{{ dict(ansible_play_hosts | zip(ansible_play_hosts | map('extract', hostvars, 'underlay'))) }}"
    host: "{{ inventory_hostname }}"

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
