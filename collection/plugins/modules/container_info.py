#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module `container_info`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_info
short_description: Ask about the containers of a host
version_added: 0.1.0
author:
  - The Mooring maintainers (@mooring)
description:
  - Returns what the agent knows of its containers.
options:
  name:
    description:
      - The name or id of one container. If there is none, RV(containers) is empty.
    type: str
  label:
    description:
      - Only containers with this label, V(NAME=VALUE).
    type: str
extends_documentation_fragment:
  - mooring.fleet.agent
seealso:
  - module: mooring.fleet.container
  - module: mooring.fleet.host_info
"""

EXAMPLES = r"""
- name: Ask about one container
  mooring.fleet.container_info:
    name: web1
  register: web

- name: Fail unless it runs
  ansible.builtin.assert:
    that: web.containers | map(attribute='state') | list == ['running']

- name: Fail unless it is healthy
  ansible.builtin.assert:
    that: web.containers[0].health.status == 'healthy'

- name: Ask about all that serve the web
  mooring.fleet.container_info:
    label: tier=web
"""

RETURN = r"""
containers:
  description:
    - The containers. C(health) is V(null) for one without a health check; its C(log) has the last five
      answers, where O(name) was given.
  returned: success
  type: list
  elements: dict
  sample:
    - name: web1
      id: 4f2c0ed6a9f3ab0b1cfd7d7b8d2f3f1d2a0b7f6b8f1d8d0f4f2c0ed6a9f3ab0b
      image: busybox
      state: running
      pid: 4711
      exit_code: null
      restart_count: 0
      health:
        status: unhealthy
        failing_streak: 3
        log: [{start: "2026-01-31T12:00:00Z", end: "2026-01-31T12:00:01Z", exit_code: 1, output: "refused"}]
      ports: [{container: 80, host: 8080, host_ip: "", protocol: tcp}]
code:
  description: A stable word for what went wrong.
  returned: failure
  type: str
  sample: unavailable
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mooring.fleet.plugins.module_utils.asking import CONTAINER_INFO
from ansible_collections.mooring.fleet.plugins.module_utils.operation import run_module


def main() -> None:
    module = AnsibleModule(
        argument_spec=CONTAINER_INFO.argument_spec, supports_check_mode=True, **CONTAINER_INFO.constraints
    )
    run_module(module, CONTAINER_INFO)


if __name__ == "__main__":
    main()
