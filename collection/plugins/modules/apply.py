#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module `apply`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: apply
short_description: Bring a whole host to its state
version_added: 0.1.0
author:
  - The Mooring maintainers (@mooring)
description:
  - Sends everything that a host should have in one document. The agent puts it in the order of its
    dependencies and works on it in parallel, which is many times faster than a task for each resource.
  - The options of each resource are those of its module, without C(name), C(state=absent), O(socket) and
    O(timeout).
  - If a resource cannot be brought to its state, the others are nevertheless, and the task fails.
options:
  images:
    description:
      - Images by their names, each with the options of M(mooring.fleet.image).
    type: dict
  networks:
    description:
      - Networks by their names, each with the options of M(mooring.fleet.network).
    type: dict
  volumes:
    description:
      - Named volumes by their names, each with C(labels), C(driver_opts) or nothing.
      - With C(driver_opts) a volume is mounted while a container uses it, from C(device), which has the file
        system C(type), with the mount options C(o); a directory of the host has the type V(none) and the
        option V(bind). They change only while no container has the volume.
    type: dict
  cgroups:
    description:
      - Cgroups by their names, each with the options of M(mooring.fleet.cgroup).
    type: dict
  containers:
    description:
      - Containers by their names, each with the options of M(mooring.fleet.container).
    type: dict
  prune:
    description:
      - Whether what the agent was once told to have, and is not named any more, is removed.
    type: bool
    default: false
extends_documentation_fragment:
  - mooring.fleet.agent
seealso:
  - module: mooring.fleet.container
  - module: mooring.fleet.image
  - module: mooring.fleet.network
  - module: mooring.fleet.cgroup
"""

EXAMPLES = r"""
- name: A web service of two containers
  mooring.fleet.apply:
    images:
      busybox:
        template: busybox
    networks:
      web:
        subnet: 10.30.1.0/24
    cgroups:
      web:
        memory: 256m
    volumes:
      site: {}
      archive:
        driver_opts:
          type: nfs
          o: addr=files.example.org,rw,nfsvers=4
          device: ":/srv/archive"
    containers:
      web1:
        image: busybox
        command: httpd -f -p 80 -h /srv/www
        networks: [web]
        cgroup: web
        volumes: ["site:/srv/www:ro"]
        ports: ["8081:80"]
      writer:
        image: busybox
        command: sh -c 'while date > /srv/www/index.html; do sleep 60; done'
        cgroup: web
        volumes: ["site:/srv/www"]

- name: What is kept in a variable, and nothing else
  mooring.fleet.apply:
    images: "{{ fleet.images }}"
    containers: "{{ fleet.containers }}"
    prune: true
"""

RETURN = r"""
resources:
  description: What became of each resource, in the order of dependencies, followed by those that were pruned.
  returned: success, and failure if the agent answered
  type: list
  elements: dict
  contains:
    kind:
      description: V(image), V(network), V(volume), V(cgroup) or V(container).
      type: str
    name:
      description: The name of the resource.
      type: str
    changed:
      description: Whether it was changed, or in check mode would be.
      type: bool
    actions:
      description: What was done, or in check mode would be, in order.
      type: list
      elements: dict
    before:
      description: What it was, V(none) if it was not there.
      type: dict
    after:
      description: What it is, V(none) if it is not there any more.
      type: dict
    error:
      description: What went wrong, a C(message) and a C(code); V(none) if nothing did.
      type: dict
code:
  description: A stable word for what went wrong.
  returned: failure
  type: str
  sample: invalid
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mooring.fleet.plugins.module_utils.document import APPLY
from ansible_collections.mooring.fleet.plugins.module_utils.operation import run_module


def main() -> None:
    module = AnsibleModule(argument_spec=APPLY.argument_spec, supports_check_mode=True, **APPLY.constraints)
    run_module(module, APPLY)


if __name__ == "__main__":
    main()
