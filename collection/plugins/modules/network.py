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
  - O(nat), O(labels), O(hosts), O(encryption), O(port), O(reachable_from) and O(rules) change live. For any
    other change the network is made anew, which needs it to be without containers.
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
      - The kind of network. A V(bridge) is one of the host alone. With V(macvlan) each container is on the
        network of O(parent) with an interface of its own; the host and the containers do not reach each other
        there. An V(overlay) is one network across O(hosts).
    type: str
    choices: [bridge, macvlan, overlay]
  ipv4:
    description:
      - Whether containers have IPv4 addresses. They do unless this is V(false).
    type: bool
  ipv6:
    description:
      - Whether containers have IPv6 addresses. They do if this is V(true) or O(subnet6) is given.
    type: bool
  subnet:
    description:
      - The IPv4 addresses of the network, such as V(10.30.0.0/24). Without it the agent chooses free ones and
        keeps them; a O(driver=macvlan) network needs it.
    type: str
  gateway:
    description:
      - The address of the host in O(subnet), or of the router there with O(driver=macvlan). Without it the
        first one.
    type: str
  ip_range:
    description:
      - The part of O(subnet) from which containers get their addresses that ask for none, such as
        V(10.30.0.128/25).
    type: str
  subnet6:
    description:
      - The IPv6 addresses of the network, such as V(fd12:3456:789a::/64). Without it the agent chooses unique
        local ones where O(ipv6) is V(true), and keeps them; of an O(driver=overlay) they are told by its
        name, the same on all hosts.
    type: str
  gateway6:
    description:
      - As O(gateway), of O(subnet6).
    type: str
  ip_range6:
    description:
      - As O(ip_range), of O(subnet6).
    type: str
  reserved:
    description:
      - Addresses of O(subnet) and O(subnet6) that no container gets, each as V(ADDRESS) or V(NAME=ADDRESS).
    type: list
    elements: str
  nat:
    description:
      - Whether containers reach the world behind the host's address. They do unless this is V(false),
        with which they are routed, and others need a route to them. Changed live.
    type: bool
  internal:
    description:
      - Whether containers reach each other only.
    type: bool
  mtu:
    description:
      - The largest packet in bytes. Without it the kernel's default, 1500.
    type: int
  parent:
    description:
      - The interface of the host that leads to the network, with O(driver=macvlan).
    type: str
  mode:
    description:
      - What containers with O(driver=macvlan) have to do with each other. V(bridge), the default, is that
        they reach each other at once, V(vepa) through the switch that O(parent) leads to, V(private) not at
        all;
        V(passthru) hands O(parent) through to a single container.
    type: str
    choices: [bridge, private, vepa, passthru]
  hosts:
    description:
      - Of an V(overlay), its hosts, each by its name with the address that the others reach it by, or with a
        dictionary of C(address), C(slice) and, with O(encryption), C(public_key). The same on all of them.
        Changed live, so that a play that is run again with other hosts adds and removes them.
      - Each host has a slice of O(subnet) and of O(subnet6) for its containers, by the last bits of its
        address unless C(slice) says its number.
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
      - The length of the prefix of the slices of O(subnet). Without it eight bits more than that of
        O(subnet), at most 28. There are as many slices of O(subnet6).
    type: int
  encryption:
    description:
      - How an V(overlay) is encrypted between its hosts. Without it, it is not. Each of O(hosts) needs its
        C(public_key), which M(mooring.fleet.network_key) asks for. Changed live.
    type: str
    choices: [wireguard]
  port:
    description:
      - The UDP port of O(encryption), the same on all O(hosts), and another one for each network. Without it
        51820. Changed live.
    type: int
  bridge_name:
    description:
      - What the bridge is called on the host. Without it the agent gives it a name of its own. A device of
        that name which is none of this network is an error, and is left alone.
    type: str
  port_isolation:
    description:
      - Whether containers of the network do not reach each other, but the host and the world only, and each
        other's published ports.
    type: bool
  interface_prefix:
    description:
      - What the containers' interfaces on the network are called, before a number. Without it C(eth).
    type: str
  publish_address:
    description:
      - The IPv4 address of the host at which ports are published that name none.
    type: str
  attachable:
    description:
      - Kept and shown to clients of Docker's API, which look for it. Every network can be attached to.
        Changed live.
    type: bool
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
  - module: mooring.fleet.network_info
  - module: mooring.fleet.network_key
  - module: mooring.fleet.container
  - module: mooring.fleet.apply
"""

EXAMPLES = r"""
- name: A network of the services behind the web servers
  mooring.fleet.network:
    name: backend
    subnet: 10.30.0.0/24
    internal: true

- name: A network with both IP versions, of which the agent gives the upper half away
  mooring.fleet.network:
    name: front
    subnet: 10.31.0.0/24
    ip_range: 10.31.0.128/25
    ipv6: true

- name: Containers on the network of the host's second interface
  mooring.fleet.network:
    name: lan
    driver: macvlan
    parent: eth1
    subnet: 192.0.2.0/24
    gateway: 192.0.2.1
    ip_range: 192.0.2.192/26
    reserved: [192.0.2.200]

- name: A database that the web servers alone may ask
  mooring.fleet.network:
    name: shop
    rules:
      - {action: allow, direction: in, protocol: tcp, ports: [5432], peer: "container:web", containers: [db]}
      - {action: deny, direction: in, containers: [db]}
      - deny out to 0.0.0.0/0 for db

- name: One network across the hosts of a group, whose addresses there are in a variable of each
  mooring.fleet.network:
    name: mesh
    driver: overlay
    subnet: 10.220.0.0/16
    ipv6: true
    hosts: "{{ dict(groups['mesh'] | zip(groups['mesh'] | map('extract', hostvars, 'underlay'))) }}"
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
