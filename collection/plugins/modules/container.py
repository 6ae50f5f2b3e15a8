#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module `container`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container
short_description: Say what a container should be
version_added: 0.1.0
author:
  - The Mooring maintainers (@mooring)
description:
  - Sends what a container should be to the agent of the host, which compares it with what it was last told,
    and changes what differs.
  - Options that are not given are not sent. Taking one away is a change back to the default.
  - Limits, published ports, labels, O(restart), O(healthcheck), O(stop_signal), O(stop_timeout), O(log),
    O(pull), O(update_order), O(ready_timeout), O(drain) and O(state) are changed on the running container.
    Any other change replaces the container; RV(actions) says why.
options:
  name:
    description:
      - The name of the container, 2 to 128 letters, digits, C(_), C(.) or C(-).
    type: str
    required: true
  state:
    description:
      - Whether the container runs, exists without running, or does not exist.
      - V(healthy) is V(running), and the task waits until the health check says so, O(ready_timeout) seconds
        at most. It fails at once if the container is unhealthy or ends, or if there is no health check. A
        replacement that does not become healthy is undone.
      - V(absent) stops a running container first, giving it O(stop_timeout) seconds.
    type: str
    choices: [running, healthy, stopped, absent]
    default: running
  image:
    description:
      - The image, by its name, or its id. Required unless O(state=absent).
      - A name that now leads to another image than it did replaces the container.
    type: str
  pull:
    description:
      - When the image is pulled from its registry; without it, when it is V(missing) on the host.
      - V(always) and V(newer) ask the registry each time for the digest that the name has now, and pull if
        it is another one, V(newer) being content with the image that is there if the registry does not
        answer. In check mode they ask, too, and pull nothing.
    type: str
    choices: [missing, always, newer, never]
  command:
    description:
      - What is executed instead of the image's command, as a list, or as a string that is split as a shell
        would.
    type: raw
  entrypoint:
    description:
      - What the command is passed to instead of the image's entry point, as in O(command). An empty list is
        none.
    type: raw
  env:
    description:
      - Environment variables on top of the image's. Put values that YAML would not read as strings in
        quotes.
      - They are part of the result and of the diff; set C(no_log) on a task with secrets.
    type: dict
  env_unset:
    description:
      - Names of variables of the image that the container has not.
    type: list
    elements: str
  workdir:
    description:
      - The working directory inside the container.
    type: str
  user:
    description:
      - The user, and after a colon the group, each by name or number.
    type: str
  hostname:
    description:
      - The host name inside the container.
    type: str
  labels:
    description:
      - Labels, for finding the container. Changed live.
    type: dict
  annotations:
    description:
      - Annotations in the OCI runtime's config, also to be seen in Docker's API.
    type: dict
  tty:
    description:
      - Give the container a terminal.
    type: bool
  interactive:
    description:
      - Keep the standard input of the container open.
    type: bool
  volumes:
    description:
      - What is mounted into the container, each as a string V(SOURCE:TARGET) or V(SOURCE:TARGET:ro), where
        the source is an absolute path of the host or the name of a volume.
      - Or each as a dictionary with C(type) (C(bind), C(volume), C(tmpfs) or C(image)), C(source), C(target),
        C(read_only); of a C(tmpfs) also C(size), in bytes or such as V(64m) or V(50%), and C(options), a list
        such as V([mode=755, exec]), without which it is V(nosuid), V(nodev), V(noexec) and open to all users;
        of a C(bind) C(idmap), see O(userns), C(propagation) (V(rprivate), V(rslave), V(rshared), or without
        the V(r)), C(recursive), and C(create_host_path), with which each start makes a directory where the
        source is missing.
      - A volume that is empty when the container is made gets what the image has at its target, unless it has
        C(nocopy). With C(subpath) what is there inside of the volume is mounted, and nothing copied to it.
      - An C(image) is shown as it is when the container is made, read-only, or with C(subpath) a part of it.
        It cannot be removed while the container is there.
      - C(relabel) (V(shared) or V(private)) changes nothing on a host without SELinux, and is an error on
        one with it.
    type: list
    elements: raw
  networks:
    description:
      - The networks, each by its name or as a dictionary with C(name), C(ipv4_address), C(ipv6_address),
        C(mac_address), C(aliases), C(links), C(default_route), C(spoofing), C(link_local)
        (further addresses, such as C(169.254.8.8)), C(driver_opts) (options for drivers of somebody else's,
        which are kept) and C(sysctls) (settings of the interface, such as
        C(net.ipv4.conf.IFNAME.rp_filter)). C(links) are further names of other containers
        on this network, such as C(db) for C(postgres1), as long as this one is there.
      - The default route leads through the first one with a way
        out, or the one whose C(default_route) is V(true). Changed live.
      - A container is heard on a network in its own name only, with its own MAC, IPv4 and IPv6 addresses. A
        router, which sends on what others say, needs C(spoofing=allowed).
      - V(host) is the host's own, V(none) is none, and V(container:NAME) that of another container, whose
        host name and files below C(/etc) come with it; each of them stands alone. Without this option it is
        V(bridge). A change from or to V(host) and V(container:NAME) needs a replacement.
    type: list
    elements: raw
  dns:
    description:
      - The addresses of resolvers in place of the host's, three at most. Changed live, as are the following
        three.
    type: list
    elements: str
  dns_search:
    description:
      - The domains in which short names are looked for, in place of the host's; V(.) is none.
    type: list
    elements: str
  dns_options:
    description:
      - Options of resolv.conf, such as V(ndots:2), in place of the host's.
    type: list
    elements: str
  extra_hosts:
    description:
      - Further names with the address that each stands for. V(host-gateway) is the address under which the
        container reaches its host.
    type: dict
  network_limits:
    description:
      - How fast the container receives and sends, as a dictionary with C(rate_in), C(rate_out) (bits a second
        such as V(10mbit)) and C(burst) (the bytes that may go at once after a pause), or a list of them, each
        with C(network), the network that it is about. One without C(network) is about the others.
      - Or words such as V(in=10mbit,out=5mbit). Changed live.
    type: raw
  network_class:
    description:
      - The class of what the container sends, for the queueing disciplines of the host's own interfaces, as
        tc(8) names it, such as V(1:10). The same with both versions of control groups. Changed live.
    type: str
  ports:
    description:
      - Published ports, each as a string V([[IP:]HOST:]CONTAINER[/PROTOCOL]), also with ranges such as
        V(8000-8002:80-82). Without a port of the host the agent chooses a free one and keeps it. Without an
        address it is every address of the host, IPv4 and IPv6; an IPv6 address stands in brackets.
      - Or each as a dictionary with C(container), C(host), C(host_ip), C(protocol) (V(tcp), V(udp) or
        V(sctp)), C(balance) and C(weight).
      - With C(balance) several containers may publish the same port of the host. New connections are spread
        over those that answer, in turn with V(round_robin), by the client's address with V(source), in
        proportion to their C(weight), a number from V(0) to V(100), by default V(1). One of weight V(0) gets
        none, and keeps those that it has. Changed live.
    type: list
    elements: raw
  restart:
    description:
      - When the agent starts the container again, V(no), V(always), V(unless-stopped), V(on-failure) or
        V(on-failure:N) with a number of attempts. Changed live.
    type: str
  stop_signal:
    description:
      - The signal that asks the container to end, such as V(SIGTERM). Changed live.
    type: str
  stop_timeout:
    description:
      - The seconds after which a container that was asked to end is killed. Changed live.
    type: int
  cap_add:
    description:
      - Capabilities beyond the default ones, such as V(NET_ADMIN), or V(ALL).
    type: list
    elements: str
  cap_drop:
    description:
      - Default capabilities to do without, or V(ALL).
    type: list
    elements: str
  read_only:
    description:
      - Let nothing be written to the root file system.
    type: bool
  no_new_privileges:
    description:
      - Let no program gain privileges by being executed.
    type: bool
  init:
    description:
      - Run an init of the host's as the first process, C(/sbin/docker-init), which reaps orphans and passes
        signals on to the command. The host needs the package C(tini), or another static one.
    type: bool
  privileged:
    description:
      - Give all capabilities and devices of the host, and hide nothing of it; C(/sys) and the control groups
        can be written to. No system call filter holds but one given in O(seccomp). The container is then no
        boundary any more for who is root in it.
    type: bool
  seccomp:
    description:
      - The system call filter, V(default), V(unconfined), or a profile in Docker's format, as a dictionary or
        as its JSON, such as C({{ lookup("file", "profile.json") }}).
    type: raw
  apparmor:
    description:
      - The name of an AppArmor profile that is loaded on the host, or V(unconfined).
    type: str
  selinux:
    description:
      - Parts of an SELinux label, such as V(type:container_t) or V(level:s0:c1,c2), or V(disable).
    type: list
    elements: str
  masked_paths:
    description:
      - What of C(/proc) and C(/sys) is hidden, in place of the usual list. An empty list hides nothing.
    type: list
    elements: str
  readonly_paths:
    description:
      - What of C(/proc) and C(/sys) can only be read, in place of the usual list.
    type: list
    elements: str
  devices:
    description:
      - Devices of the host, each as a string V(HOST), V(HOST:CONTAINER) or V(HOST:CONTAINER:rwm), or as a
        dictionary with C(host), C(container) and C(access) (some of C(r), C(w) and C(m)). A directory stands
        for the devices in it.
    type: list
    elements: raw
  device_cgroup_rules:
    description:
      - What else may be done with devices, in the kernel's words, such as V(c 10:200 rwm).
    type: list
    elements: str
  ulimits:
    description:
      - Limits of the container's processes by name, such as C(nofile), each a number or V(SOFT:HARD), where
        V(-1) is none.
    type: dict
  sysctls:
    description:
      - Kernel parameters of the container's own network and IPC, such as C(net.ipv4.ip_forward).
    type: dict
  shm_size:
    description:
      - The size of C(/dev/shm), as in O(memory). Without this option it is 64 MiB.
    type: str
  storage_size:
    description:
      - What the container may write beside its volumes, as in O(memory). It needs an agent whose data root is
        on a btrfs with quotas enabled.
    type: str
  group_add:
    description:
      - Further groups of the container's user, by name or number.
    type: list
    elements: str
  oom_kill_disable:
    description:
      - Whether its processes wait for memory at O(memory), which it needs, instead of being killed. Where the
        host has cgroups v1; otherwise it is an error. Changed live.
    type: bool
  oom_score_adj:
    description:
      - How readily the kernel ends the container's processes when memory runs out, from V(-1000) to V(1000).
    type: int
  domainname:
    description:
      - The NIS domain name inside the container.
    type: str
  pid:
    description:
      - Whose processes it sees, V(private) (its own), V(host), or V(container:NAME) for those of another
        container. That one has to run first, and with its end this one ends too.
    type: str
  ipc:
    description:
      - Whose shared memory and queues it has, V(private), V(shareable) (its own, that others may join),
        V(none) (its own, without C(/dev/shm)), V(host), or V(container:NAME).
    type: str
  uts:
    description:
      - Whose host name it has, V(private), V(host), or V(container:NAME).
    type: str
  cgroupns:
    description:
      - Which control group it sees as the root of all, its own (V(private)), the host's (V(host)), or that of
        another container (V(container:NAME)).
    type: str
  userns:
    description:
      - Whether users are those of the host (V(host), the default), or others. With V(auto) the agent gives
        the container a range of 65,536 ids that no other one has, and keeps it with it; V(FIRST:SIZE)
        names the host's ids; a dictionary has C(uid_map) and C(gid_map), lists of ranges with C(container),
        C(host) and C(size). V(container:NAME) is for the users of another container.
      - Files of the image and of volumes keep the ids that they have inside the container, so that nothing is
        copied or changed on disk. A directory of the host shows its files with the host's ids, of which the
        container has none, unless its C(idmap) is set in O(volumes).
    type: raw
  time_offsets:
    description:
      - The seconds by which its clocks go ahead of the host's, C(monotonic) and C(boottime).
    type: dict
  cgroup:
    description:
      - The name of a cgroup made by M(mooring.fleet.cgroup), whose limits the container shares.
    type: str
  update_order:
    description:
      - When a change needs a replacement, whether the old container is stopped first, and comes back if the
        new one fails, or the new one is started first and the old one goes only when it runs.
      - With V(start_first) the published ports go over once the new container answers on those on which the
        old one does, and is healthy if it has a health check, and no connection is lost.
    type: str
    choices: [stop_first, start_first]
  ready_timeout:
    description:
      - The seconds that a container which is started first may take to answer and to be healthy; else the
        old one stays. With O(state=healthy) those that any container may take to be healthy. Without this
        option V(30). Changed live.
    type: int
  drain:
    description:
      - The seconds that connections through published ports may last when they have been led elsewhere,
        because the container is replaced, or is asked to end and shares its ports. Without this option
        V(10). Changed live.
    type: int
extends_documentation_fragment:
  - mooring.fleet.agent
  - mooring.fleet.health
  - mooring.fleet.limits
  - mooring.fleet.log
seealso:
  - module: mooring.fleet.apply
  - module: mooring.fleet.container_info
  - module: mooring.fleet.container_exec
"""

EXAMPLES = r"""
- name: A web server behind port 8080
  mooring.fleet.container:
    name: web1
    image: busybox
    command: httpd -f -p 80 -h /srv/www
    volumes:
      - /srv/www:/srv/www:ro
    ports:
      - "8080:80"
    memory: 64m
    restart: unless-stopped

- name: A web server that has to be healthy, and is started again when it is not any more
  mooring.fleet.container:
    name: web2
    state: healthy
    image: web
    restart: always
    healthcheck:
      test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1:80/"]
      interval: 10
      timeout: 2
      start_period: 1m
      start_interval: 500ms
      on_unhealthy: restart
    ready_timeout: 60

- name: A worker with a volume, in a cgroup that it shares with others
  mooring.fleet.container:
    name: worker1
    image: worker
    env:
      QUEUE: jobs
      WORKERS: "4"
    volumes:
      - worker-data:/var/lib/worker
      - type: tmpfs
        target: /tmp
        size: 32m
    networks:
      - name: backend
        aliases: [worker]
    cgroup: batch
    update_order: start_first

- name: A service whose root is nobody on the host, that can write only where it must
  mooring.fleet.container:
    name: api1
    image: api
    init: true
    userns: auto
    read_only: true
    no_new_privileges: true
    cap_drop: [ALL]
    cap_add: [NET_BIND_SERVICE]
    seccomp: "{{ lookup('file', 'api-seccomp.json') }}"
    volumes:
      - api-data:/var/lib/api
      - type: tmpfs
        target: /tmp
        size: 16m
        options: [mode=1777]
    ulimits:
      nofile: "4096:8192"
      core: 0

- name: A look at the network and the processes of another container
  mooring.fleet.container:
    name: probe
    image: tools
    command: tcpdump -i eth0
    networks:
      - container:api1
    pid: container:api1
    cap_add: [NET_ADMIN, NET_RAW]

- name: No such container
  mooring.fleet.container:
    name: web0
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be, in order.
  returned: success
  type: list
  elements: dict
  sample:
    - {action: update, kind: container, name: web1, reason: "memory 64m → 128m, live"}
container:
  description: The container as it is now.
  returned: success, V(none) in check mode and when it was removed
  type: dict
  sample:
    name: web1
    image: busybox
    state: running
    pid: 4711
    ports: [{container: 80, host: 8080, host_ip: "", protocol: tcp}]
    networks: {bridge: {ipv4_address: 10.210.0.2, mac_address: "02:00:0a:d2:00:02", gateway: 10.210.0.1}}
code:
  description: A stable word for what went wrong.
  returned: failure
  type: str
  sample: invalid
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mooring.fleet.plugins.module_utils.declared import CONTAINER
from ansible_collections.mooring.fleet.plugins.module_utils.operation import run_module


def main() -> None:
    module = AnsibleModule(
        argument_spec=CONTAINER.argument_spec, supports_check_mode=True, **CONTAINER.constraints
    )
    run_module(module, CONTAINER)


if __name__ == "__main__":
    main()
