# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module says about itself and the agent that it talks to."""

from __future__ import annotations


class ModuleDocFragment:
    """Options and attributes of all modules."""

    DOCUMENTATION = r"""
options:
  socket:
    description:
      - The unix socket on which the agent of the host answers.
    type: str
    default: /run/mooring/mooring.sock
  timeout:
    description:
      - The seconds that the agent may be silent before the task fails.
      - It does not bound how long something takes that reports its progress, such as making an image.
    type: int
    default: 600
requirements:
  - A mooring agent that runs on the host; the role P(mooring.fleet.agent#role) installs it.
notes:
  - Where the controller can reach the agent's socket, the task is run on the controller and starts no
    process on the host. It can with the connection plugins P(ansible.builtin.local#connection), and
    P(ansible.builtin.ssh#connection) with C(ControlPersist), if the user who logs in may open the socket.
    Otherwise the module is run on the host.
attributes:
  check_mode:
    description: In check mode it says what it would do, and touches nothing.
    support: full
  diff_mode:
    description: In diff mode it shows what was and what is.
    support: full
  async:
    description: It can be run with C(async).
    support: full
  action:
    description: It has an action plugin, which runs on the controller.
    support: full
  action_group:
    description: Use C(group/mooring.fleet.all) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - mooring.fleet.all
  platform:
    description: The systems of the hosts.
    support: full
    platforms: linux
"""
