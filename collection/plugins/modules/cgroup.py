#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module `cgroup`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cgroup
short_description: Say what a cgroup of its own should be
version_added: 0.1.0
author:
  - The Mooring maintainers (@mooring)
description:
  - Has the agent make a cgroup, whose limits the containers in it share, change its limits live, or remove
    it.
  - A container is put into one with the option O(mooring.fleet.container#module:cgroup).
options:
  name:
    description:
      - The name of the cgroup.
    type: str
    required: true
  state:
    description:
      - Whether there is such a cgroup.
    type: str
    choices: [present, absent]
    default: present
  labels:
    description:
      - Labels of the cgroup. Changed live.
    type: dict
extends_documentation_fragment:
  - mooring.fleet.agent
  - mooring.fleet.limits
seealso:
  - module: mooring.fleet.container
  - module: mooring.fleet.apply
"""

EXAMPLES = r"""
- name: All batch jobs together have one CPU and a gigabyte
  mooring.fleet.cgroup:
    name: batch
    cpus: 1
    memory: 1g
    pids_limit: 500

- name: No such cgroup
  mooring.fleet.cgroup:
    name: batch
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - {action: update, kind: cgroup, name: batch, reason: "memory 1g → 2g, live"}
cgroup:
  description: The cgroup as it is now.
  returned: success, V(none) in check mode and when it was removed
  type: dict
  sample: {name: batch}
code:
  description: A stable word for what went wrong.
  returned: failure
  type: str
  sample: conflict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mooring.fleet.plugins.module_utils.declared import CGROUP
from ansible_collections.mooring.fleet.plugins.module_utils.operation import run_module


def main() -> None:
    module = AnsibleModule(argument_spec=CGROUP.argument_spec, supports_check_mode=True, **CGROUP.constraints)
    run_module(module, CGROUP)


if __name__ == "__main__":
    main()
