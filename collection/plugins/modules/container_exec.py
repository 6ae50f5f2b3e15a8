#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module `container_exec`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_exec
short_description: Execute a command in a container
version_added: 0.1.0
author:
  - The Mooring maintainers (@mooring)
description:
  - Executes a command in a running container and returns its exit code and output.
  - The task fails if the command ends with another exit code than 0.
  - In check mode the command is not executed, and the task counts as changed.
options:
  name:
    description:
      - The name or id of the container.
    type: str
    required: true
  argv:
    description:
      - The program and its arguments. Either this or O(command) is required.
    type: list
    elements: str
  command:
    description:
      - The same as a string, which is split as a shell would; no shell is executed.
    type: str
  env:
    description:
      - Environment variables on top of the container's.
    type: dict
  workdir:
    description:
      - The working directory inside the container instead of the container's.
    type: str
  user:
    description:
      - The user, and after a colon the group, instead of the container's.
    type: str
  stdin:
    description:
      - Text that the command reads from its standard input.
    type: str
  command_timeout:
    description:
      - The seconds after which the command is killed and the task fails.
    type: float
  max_output:
    description:
      - How many bytes of output are returned; what is beyond is thrown away. The agent's own limit is 1
        MiB.
    type: int
extends_documentation_fragment:
  - mooring.fleet.agent
seealso:
  - module: mooring.fleet.container
  - module: mooring.fleet.container_info
"""

EXAMPLES = r"""
- name: Ask the web server for its page
  mooring.fleet.container_exec:
    name: web1
    argv: [wget, -q, -O, "-", http://127.0.0.1/]
    command_timeout: 5
  changed_when: false
  register: page

- name: Load a schema
  mooring.fleet.container_exec:
    name: db1
    command: sqlite3 /var/lib/app/app.db
    stdin: "{{ lookup('ansible.builtin.file', 'schema.sql') }}"
    user: app
"""

RETURN = r"""
cmd:
  description: The program and its arguments.
  returned: always
  type: list
  elements: str
rc:
  description: The exit code.
  returned: when the command was executed
  type: int
stdout:
  description: What the command wrote to its standard output.
  returned: when the command was executed
  type: str
stderr:
  description: What the command wrote to its standard error.
  returned: when the command was executed
  type: str
stdout_lines:
  description: The same in lines.
  returned: when the command was executed
  type: list
  elements: str
stderr_lines:
  description: The same in lines.
  returned: when the command was executed
  type: list
  elements: str
truncated:
  description: Whether there was more output than O(max_output).
  returned: when the command was executed
  type: bool
timed_out:
  description: Whether the command was killed after O(command_timeout).
  returned: when the command was executed
  type: bool
code:
  description: A stable word for what went wrong.
  returned: failure
  type: str
  sample: exit_code
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mooring.fleet.plugins.module_utils.asking import CONTAINER_EXEC
from ansible_collections.mooring.fleet.plugins.module_utils.operation import run_module


def main() -> None:
    module = AnsibleModule(
        argument_spec=CONTAINER_EXEC.argument_spec, supports_check_mode=True, **CONTAINER_EXEC.constraints
    )
    run_module(module, CONTAINER_EXEC)


if __name__ == "__main__":
    main()
