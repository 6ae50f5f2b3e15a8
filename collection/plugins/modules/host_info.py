#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module `host_info`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_info
short_description: Ask what a host is
version_added: 0.1.0
author:
  - The Mooring maintainers (@mooring)
description:
  - Returns what the agent says about its host and itself.
extends_documentation_fragment:
  - mooring.fleet.agent
seealso:
  - module: mooring.fleet.container_info
"""

EXAMPLES = r"""
- name: Ask the host
  mooring.fleet.host_info:
  register: answer

- name: Show how many containers run
  ansible.builtin.debug:
    var: answer.host.containers.running
"""

RETURN = r"""
host:
  description: The host and its agent.
  returned: success
  type: dict
  sample:
    name: node1
    version: 0.1.0
    kernel: 6.1.0-18-amd64
    arch: x86_64
    cpus: 4
    memory: 8589934592
    cgroup: {mode: v2, controllers: [cpu, cpuset, memory, pids]}
    containers: {total: 3, running: 2}
    images: 1
    networks: 1
    data_root: /var/lib/mooring
    run_root: /run/mooring
code:
  description: A stable word for what went wrong.
  returned: failure
  type: str
  sample: unavailable
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mooring.fleet.plugins.module_utils.asking import HOST_INFO
from ansible_collections.mooring.fleet.plugins.module_utils.operation import run_module


def main() -> None:
    module = AnsibleModule(
        argument_spec=HOST_INFO.argument_spec, supports_check_mode=True, **HOST_INFO.constraints
    )
    run_module(module, HOST_INFO)


if __name__ == "__main__":
    main()
