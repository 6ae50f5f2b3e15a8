#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module `image`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image
short_description: Have an image on a host
version_added: 0.1.0
author:
  - The Mooring maintainers (@mooring)
description:
  - Pulls, builds, loads, imports or makes an image, unless the image of that name came from there already;
    gives it further names; pushes it.
  - At most one of O(pull), O(build), O(load), O(template) and O(import) says where it comes from. Without
    any, the image has to be there, and the task fails if it is not.
  - The agent reports its progress while it works, so a long build does not run into O(timeout).
options:
  name:
    description:
      - The name of the image, maybe with a tag, such as V(busybox) or V(registry.example:5000/web:2).
    type: str
    required: true
  state:
    description:
      - Whether there is such an image on the host, or with O(at_registry) at its registry.
    type: str
    choices: [present, absent]
    default: present
  pull:
    description:
      - Pull the image from the registry of its name. V({}) is enough.
    type: dict
    suboptions:
      policy:
        description:
          - When to pull, V(missing) if the image is not there, V(newer) if its registry has another one
            under the name (if it does not answer, what is there will do), V(always) likewise (a registry
            that does not answer is an error), V(never) not at all. Without it, V(missing).
          - Digests are compared, so a task has changed something only if the image is another one now, in
            check mode, too, where nothing is pulled.
        type: str
        choices: [always, missing, newer, never]
      platform:
        description:
          - The platform to pull it for, such as V(linux/arm64). Without it, that of the host.
        type: str
      from:
        description:
          - The name under which it is pulled, if that is another one.
        type: str
  build:
    description:
      - Build the image from a directory of the host with a Dockerfile.
    type: dict
    suboptions:
      context:
        description:
          - The directory.
        type: str
        required: true
      dockerfile:
        description:
          - The Dockerfile, relative to the directory. Without it, C(Dockerfile).
        type: str
      args:
        description:
          - Values of C(ARG).
        type: dict
      target:
        description:
          - The stage to build. Without it, the last one.
        type: str
      labels:
        description:
          - Labels of the image.
        type: dict
      network:
        description:
          - The network of C(RUN).
        type: str
        choices: [default, none, host]
      no_cache:
        description:
          - Whether everything is built anew.
        type: bool
      pull:
        description:
          - Whether images to build on are pulled though they are there.
        type: bool
      secrets:
        description:
          - Files of the host that C(RUN --mount=type=secret) may read, by their id. They are not part of
            the image.
        type: dict
      source_date_epoch:
        description:
          - The time, in seconds since 1970, that nothing in the image is later than, for reproducible images.
        type: int
  load:
    description:
      - Load the image from an archive of C(docker save), C(podman save), C(skopeo copy) or C(mooring image
        save).
    type: dict
    suboptions:
      path:
        description:
          - The archive, a file of the host.
        type: str
        required: true
      from:
        description:
          - The image's name in the archive, if that is another one and the archive has several images.
        type: str
  template:
    description:
      - What to make the image from, V(busybox), V(debian) or V(ubuntu).
      - Or a dictionary with C(name), and for C(debian) and C(ubuntu) C(suite), C(variant), C(packages),
        C(mirror), C(components), and C(max_age) such as V(7d), after which it is built anew.
    type: raw
  import:
    description:
      - A root file system to make the image of.
    type: dict
    suboptions:
      path:
        description:
          - A directory of the host, or an archive there (C(.tar), C(.tar.gz), C(.tar.xz) or C(.tar.zst)),
            or an Incus image in one archive, or a squashfs where the host has C(unsquashfs).
        type: str
        required: true
      metadata:
        description:
          - The metadata of an LXC or Incus image, C(metadata.yaml) or an archive with it. Processor, date
            and labels of the image are taken from there.
        type: str
  config:
    description:
      - What the image says about its containers, with O(template) and O(import).
    type: dict
    suboptions:
      cmd:
        description:
          - The command, as a list or as a string that is split as a shell would.
        type: raw
      entrypoint:
        description:
          - The entry point, likewise.
        type: raw
      env:
        description:
          - Environment variables.
        type: dict
      workdir:
        description:
          - The working directory.
        type: str
      user:
        description:
          - The user, and after a colon the group.
        type: str
      labels:
        description:
          - Labels of the image.
        type: dict
      exposed_ports:
        description:
          - Ports that the image's program listens on, such as V(80/tcp).
        type: list
        elements: str
      stop_signal:
        description:
          - The signal that asks a container to end.
        type: str
  tags:
    description:
      - Further names of the image. Names that it has and that are not listed are left alone.
    type: list
    elements: str
  push:
    description:
      - V(true) sends the image to the registry of its name, unless that has it.
      - Or a dictionary with C(to), the name or the names as which it is pushed.
    type: raw
  force:
    description:
      - With O(state=absent), whether an image given by its ID goes with all of its names, and a name goes
        though containers use the image, which then stays without it.
      - With O(at_registry), whether other tags of the same manifest go, too, where the registry cannot remove
        a tag alone. Otherwise the task fails and names them.
    type: bool
    default: false
  at_registry:
    description:
      - With O(state=absent), whether the image is removed at the registry of its name, by its tag or by its
        digest, in place of that on the host, which stays.
      - The registry has to allow it; the task fails if it does not.
    type: bool
    default: false
extends_documentation_fragment:
  - mooring.fleet.agent
  - mooring.fleet.credentials
seealso:
  - module: mooring.fleet.container
  - module: mooring.fleet.image_info
  - module: mooring.fleet.image_prune
  - module: mooring.fleet.apply
"""

EXAMPLES = r"""
- name: A small image from the host's busybox
  mooring.fleet.image:
    name: busybox
    template: busybox

- name: A Debian with a web server in it
  mooring.fleet.image:
    name: web:1
    template:
      name: debian
      suite: bookworm
      packages: [nginx-light]
    config:
      cmd: [nginx, -g, "daemon off;"]
      exposed_ports: [80/tcp]

- name: An image of an archive that was copied to the host
  mooring.fleet.image:
    name: app
    import:
      path: /srv/images/app.tar.zst

- name: The image that the registry has now, with a second name here
  mooring.fleet.image:
    name: registry.example:5000/web:2
    pull:
      policy: newer
    credentials:
      username: fleet
      password: "{{ registry_password }}"
    tags: [web]

- name: An image of LXC
  mooring.fleet.image:
    name: bookworm
    import:
      path: /srv/images/rootfs.tar.xz
      metadata: /srv/images/meta.tar.xz

- name: An image that was built on the host, at the registry
  mooring.fleet.image:
    name: web:2
    build:
      context: /srv/web
      args:
        VERSION: "2"
    push:
      to: registry.example:5000/web:2

- name: Fail unless the image is there
  mooring.fleet.image:
    name: web:2

- name: No such image
  mooring.fleet.image:
    name: app:old
    state: absent

- name: No such image at the registry
  mooring.fleet.image:
    name: registry.example:5000/app:old
    state: absent
    at_registry: true
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - {action: create, kind: image, name: busybox, reason: "is not there"}
image:
  description: The image as it is now.
  returned: success, V(none) in check mode and when it was removed
  type: dict
  sample:
    id: sha256:9c6f0724472873bb50a2ae67a9e7adcb57673a183cea8b06eb778dca859181b5
    references: ["busybox:latest"]
    size: 1966080
    architecture: amd64
    os: linux
pushed:
  description: What the registries have now, for each name pushed. Empty in check mode.
  returned: success, with O(state=present)
  type: list
  elements: dict
  sample:
    - name: registry.example:5000/web:2
      digest: sha256:0b7c5a7c3f4e7b6d7a0d6ff57e2f6d5e0a1e1c4c8a3b1f9c5d2e4f6a8b0c1d3e
code:
  description: A stable word for what went wrong.
  returned: failure
  type: str
  sample: invalid
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mooring.fleet.plugins.module_utils.images import IMAGE
from ansible_collections.mooring.fleet.plugins.module_utils.operation import run_module


def main() -> None:
    module = AnsibleModule(argument_spec=IMAGE.argument_spec, supports_check_mode=True, **IMAGE.constraints)
    run_module(module, IMAGE)


if __name__ == "__main__":
    main()
