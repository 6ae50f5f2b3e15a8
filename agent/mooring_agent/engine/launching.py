# SPDX-License-Identifier: Apache-2.0
"""What a start needs besides the keeper: the shape of the launcher, the files below /etc, the plan."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..cgroups.devices import DEFAULT_RULES
from ..cgroups.hierarchy import Hierarchy
from ..cgroups.resources import Resources, Setting
from ..config import AgentConfig
from ..errors import Conflict, Ended, NotFound
from ..linux.syscalls import MS_REC, MS_SLAVE
from ..network.names import host_addresses, hosts_file
from ..runtime.borrow import Borrow
from ..runtime.compile import (
    compile_launch,
    is_standard,
    joined_namespaces,
    new_namespaces,
    time_offsets,
)
from ..runtime.mounts import Bind, BindRoot, MountOperation, Overlay
from ..runtime.plan import LaunchPlan, Shape
from ..runtime.seccomp_profile import SeccompCache, default_profile
from ..storage.snapshotter import Rootfs
from .confinement import (
    PLAIN,
    Surroundings,
    capabilities_of,
    check_limits,
    check_modules,
    check_users,
    device_rules,
    devices_of,
    is_plain,
    seccomp_profile,
)
from .container import Container
from .disks import disks
from .homes import LOG, Homes
from .initprogram import init_program
from .oci import runtime_config
from .resources import CgroupSpec, ContainerSpec
from .resources.namespaces import IdRange
from .resources.resolving import HOST_GATEWAY
from .resources.security import UNCONFINED
from .volumemounts import Source

_STANDARD_NAMESPACES = ("mnt", "pid", "net", "uts", "ipc", "cgroup")


class Launching:
    """Prepares launches. Knows the host's control groups and where the agent's files are; `resolv_conf` knows
    whom a container asks for names.
    """

    def __init__(
        self, config: AgentConfig, hierarchy: Hierarchy, resolv_conf: Callable[[Container], str]
    ) -> None:
        self._config = config
        self._resolv_conf = resolv_conf
        self.hierarchy = hierarchy
        self._mounts = tuple(dict.fromkeys(str(mount) for mount in hierarchy.controllers.values()))
        # Of launchers below each parent group, which is there, by the namespaces that they make.
        self._shapes: dict[str, dict[tuple[str, ...], Shape]] = {}
        self._seccomp = SeccompCache(config.data_root / "seccomp")
        self._seccomp_paths: dict[frozenset[str], str] = {}
        self._mounts_follow = True
        self.homes = Homes(config.data_root / "containers", config.data_root / "spare")

    def refresh(self) -> None:
        """Look again at how mounts of the host go into containers."""
        self._mounts_follow = root_is_shared(Path("/proc/self/mountinfo").read_text(errors="replace"))

    def directory(self, container: Container) -> Path:
        """Where the agent keeps what of a container outlives the host."""
        return self.homes.of(container.id)

    def etc_directory(self, id: str) -> Path:
        """Where the container `id` has its hosts, hostname and resolv.conf, which each start writes anew."""
        return self._config.run_root / "etc" / id

    def log_directory(self, container: Container) -> str:
        """Where its log is."""
        return str(self.directory(container) / LOG)

    def group_path(self, container: Container) -> str:
        """The control group that the container shall have where groups can be renamed."""
        return f"{self.parent_group(container.spec)}/{container.id}"

    def parent_group(self, spec: ContainerSpec) -> str:
        """The group that the container's own is in."""
        return f"{self._config.cgroup_parent}/{spec.cgroup}" if spec.cgroup else self._config.cgroup_parent

    def shape(self, parent: str, namespaces: tuple[str, ...] = _STANDARD_NAMESPACES) -> Shape:
        """The shape of launchers for containers below the group `parent`, which is made where it is
        missing.
        """
        shapes = self._shapes.get(parent)
        if shapes is None:
            self.hierarchy.group(parent).create(delegate=True)
            shapes = self._shapes[parent] = {}
        if namespaces not in shapes:
            shapes[namespaces] = Shape(
                namespaces=namespaces,
                groups=tuple(f"{mount}/{parent}" for mount in self._mounts),
                group_settings=self._indexed(self.hierarchy.device_settings()),
                unified=not self.hierarchy.can_rename,
            )
        return shapes[namespaces]

    def forget_group(self, parent: str) -> None:
        """The group `parent` is gone."""
        self._shapes.pop(parent, None)

    def launcher_shape(self, container: Container, around: Surroundings = PLAIN) -> Shape:
        """The shape of the launcher that this container needs; that of the pool for most."""
        shape = self.shape(self.parent_group(container.spec), self.namespaces(container))
        if not self._mounts_follow and any(volume.type == "bind" for volume in container.spec.volumes):
            # What the host has mounted since does not reach a launcher that waits. Only a shape that no pool
            # has gets a fresh one: here by saying what holds anyway.
            shape = replace(shape, propagation=MS_REC | MS_SLAVE)
        if is_plain(container.spec):
            return shape
        config = runtime_config(container, "", _no_paths(container), around)
        users, groups = around.id_maps or ((), ())
        return replace(
            shape,
            namespaces=new_namespaces(config),
            join=joined_namespaces(config),
            standard=is_standard(config),
            uids=_id_map(users),
            gids=_id_map(groups),
            time_offsets=time_offsets(config),
        )

    def restrict_devices(self, group: str, spec: ContainerSpec, around: Surroundings = PLAIN) -> None:
        """Attach the white list of devices to a launcher's group where that takes a program (cgroup v2); else
        the shape has it. Raises Ended where the launcher has gone.
        """
        if self.hierarchy.can_rename or spec.privileged:
            return
        try:
            self.hierarchy.group(group).set_devices((*DEFAULT_RULES, *device_rules(spec, around.devices)))
        except NotFound:
            raise Ended(f"the launcher of {group} has ended, and its group is gone") from None

    def group_directories(self, container: Container) -> tuple[str, ...]:
        """The directories of the container's own group, one a hierarchy; one that runs since before the agent
        has used a hierarchy has none there.
        """
        directories = [f"{mount}/{container.group}" for mount in self._mounts]
        return tuple(filter(os.path.isdir, directories)) or tuple(directories)

    def write_etc(self, container: Container) -> None:
        """Write the container's hosts, hostname and resolv.conf."""
        directory = self.etc_directory(container.id)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        hostname = container.hostname
        files = {
            "hosts": hosts_file(hostname, container.endpoints, _extra_hosts(container)),
            "hostname": f"{hostname}\n",
            "resolv.conf": self._resolv_conf(container),
        }
        for name, text in files.items():
            content = text.encode()
            descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                # In place, since it is mounted there, and so that nobody finds it empty meanwhile.
                os.write(descriptor, content)
                os.ftruncate(descriptor, len(content))
            finally:
                os.close(descriptor)

    def seccomp_path(self, spec: ContainerSpec) -> str | None:
        """The compiled profile for the container's capabilities; None where it has none."""
        capabilities = frozenset(capabilities_of(spec))
        profile = seccomp_profile(spec)
        if profile == UNCONFINED:
            return None
        if not isinstance(profile, str):
            return str(self._seccomp.path_for(profile, capabilities))
        path = self._seccomp_paths.get(capabilities)
        if path is None:
            path = str(self._seccomp.path_for(default_profile(), capabilities))
            self._seccomp_paths[capabilities] = path
        return path

    def check_host(self, name: str, spec: ContainerSpec) -> None:
        """Raise what keeps a container from what it asks of this host."""
        check_modules(name, spec)
        check_limits(name, spec)
        check_users(name, spec)
        devices_of(name, spec)
        if spec.init:
            init_program()
        self.seccomp_path(spec)

    def plan(
        self,
        container: Container,
        rootfs: Rootfs,
        volumes: Mapping[str, Source],
        around: Surroundings = PLAIN,
        mounts: Iterable[Mapping[str, Any]] = (),
    ) -> LaunchPlan:
        """The launch plan of a container. `volumes` are its volumes by their targets; `mounts` are further
        mounts, as the runtime-spec has them.
        """
        files = around.files_of or container.id
        paths = {target: source.path for target, source in volumes.items()}
        config = runtime_config(container, str(self.etc_directory(files)), paths, around)
        config["mounts"] += mounts
        settings = self.hierarchy.settings(resources_of(container.spec))
        if around is not PLAIN and self.hierarchy.device_settings():
            rules = device_rules(container.spec, around.devices)
            settings += tuple(Setting("devices", "devices.allow", str(rule)) for rule in rules)
        plan = compile_launch(
            config,
            id=container.id,
            group=container.id,
            root=_root(rootfs, around),
            group_settings=self._indexed(settings),
            seccomp=self.seccomp_path(container.spec),
        )
        changes = _beyond_the_spec(container.spec, volumes)
        if changes:
            plan = replace(plan, mounts=tuple(_changed(mount, changes) for mount in plan.mounts))
        if around is PLAIN:
            return plan
        shared = (Borrow(around.memory_of, "/dev/shm", "/dev/shm"),) if around.memory_of else ()
        # What is to be joined is so by the launcher's shape, before it knows its plan.
        return replace(plan, join=(), mounts=(*plan.mounts, *shared))

    def namespaces(self, container: Container) -> tuple[str, ...]:
        """The namespaces that the container's launcher shall have new."""
        if container.spec.networks[0].name != "host":
            return _STANDARD_NAMESPACES
        return new_namespaces(runtime_config(container, "", _no_paths(container)))

    def _indexed(self, settings: tuple[Setting, ...]) -> tuple[tuple[int, str, str], ...]:
        return tuple(
            (
                self._mounts.index(str(self.hierarchy.controllers[setting.controller])),
                setting.file,
                setting.value,
            )
            for setting in settings
        )


def root_is_shared(mountinfo: str) -> bool:
    """Whether mounts of the host reach other namespaces, proc_pid_mountinfo(5): with systemd they do."""
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) > 6 and fields[4] == "/":
            return any(field.startswith("shared:") for field in fields[6:])
    return False


def resources_of(
    spec: ContainerSpec | CgroupSpec, passed_over: Callable[[Conflict], None] | None = None
) -> Resources:
    """The limits that a spec asks for."""
    return Resources(
        memory=spec.memory,
        memory_reservation=spec.memory_reservation,
        memory_swap=spec.memory_swap,
        cpus=spec.cpus,
        cpu_shares=spec.cpu_shares,
        cpuset_cpus=spec.cpuset_cpus,
        cpuset_mems=spec.cpuset_mems,
        pids_limit=spec.pids_limit,
        memory_swappiness=spec.memory_swappiness,
        oom_kill_disable=isinstance(spec, ContainerSpec) and spec.oom_kill_disable,
        cpu_rt_period=spec.cpu_rt_period,
        cpu_rt_runtime=spec.cpu_rt_runtime,
        blkio_weight=spec.blkio_weight,
        blkio_weight_device=disks("blkio_weight_device", spec.blkio_weight_device, passed_over),
        device_read_bps=disks("device_read_bps", spec.device_read_bps, passed_over),
        device_write_bps=disks("device_write_bps", spec.device_write_bps, passed_over),
        device_read_iops=disks("device_read_iops", spec.device_read_iops, passed_over),
        device_write_iops=disks("device_write_iops", spec.device_write_iops, passed_over),
    )


def _extra_hosts(container: Container) -> Iterator[tuple[str, str]]:
    """The lines (address, name) that a spec adds to hosts(5)."""
    for name, address in container.spec.extra_hosts.items():
        if address != HOST_GATEWAY:
            yield address, name
            continue
        addresses = host_addresses(container.endpoints)
        if container.spec.networks[0].name == "host":
            addresses = ["127.0.0.1"]
        if not addresses:
            raise Conflict(
                f"container {container.name} cannot be told {name}: {HOST_GATEWAY} is the host's address on "
                "a bridge network, and it is on none; attach one, or name an address"
            )
        for found in addresses:
            yield found, name


def _no_paths(container: Container) -> dict[str, str]:
    """For a config of which only the namespaces and the standard file systems matter."""
    return {volume.target: "" for volume in container.spec.volumes}


def _id_map(ids: Iterable[IdRange]) -> tuple[tuple[int, int, int], ...]:
    """A map of ids as launch plans have it."""
    return tuple((one.container, one.host, one.size) for one in ids)


def _beyond_the_spec(spec: ContainerSpec, volumes: Mapping[str, Source]) -> dict[str, dict[str, str]]:
    """What of mounts the runtime-spec has no word for, by their targets: a part of a volume is mounted, or
    the volume is in another mount namespace.
    """
    changes: dict[str, dict[str, str]] = {}
    for volume in spec.volumes:
        source = volumes.get(volume.target)
        said = {"subpath": volume.subpath or "", "namespace": source.namespace if source else ""}
        if any(said.values()):
            changes[volume.target] = said
    return changes


def _changed(mount: MountOperation, changes: Mapping[str, dict[str, str]]) -> MountOperation:
    if isinstance(mount, Bind) and mount.target in changes:
        change = changes[mount.target]
        return replace(mount, subpath=change["subpath"], namespace=change["namespace"])
    return mount


def _root(rootfs: Rootfs, around: Surroundings) -> Overlay | BindRoot:
    users, groups = around.id_maps or ((), ())
    uids, gids = _id_map(users), _id_map(groups)
    if rootfs.bind_source is not None:
        return BindRoot(str(rootfs.bind_source), uid_map=uids, gid_map=gids)
    return Overlay(
        lower=tuple(str(path) for path in rootfs.lower),
        upper=str(rootfs.upper or ""),
        work=str(rootfs.work or ""),
        uid_map=uids,
        gid_map=gids,
    )
