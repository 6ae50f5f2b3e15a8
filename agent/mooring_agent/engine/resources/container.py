# SPDX-License-Identifier: Apache-2.0
"""A container as it is declared: every option of it in one table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mooring_agent.engine.resources import limits, names, resolving
from mooring_agent.engine.resources.attachments import Attachments, NetworkAttachment, attached_to, is_fixed
from mooring_agent.engine.resources.declared import Declared, Part, option, suggestion
from mooring_agent.engine.resources.devices import DeviceMapping, Devices, device_rule
from mooring_agent.engine.resources.health import Healthcheck
from mooring_agent.engine.resources.logdrivers import LogOptions
from mooring_agent.engine.resources.mounts import Mounts, VolumeMount
from mooring_agent.engine.resources.namespaces import (
    ClockOffsets,
    NamespaceMode,
    UserMapping,
    UserNamespace,
    other_container,
)
from mooring_agent.engine.resources.options import (
    MIB,
    Bool,
    Choice,
    Integer,
    Items,
    Pairs,
    Size,
    Text,
    Type,
    WordSet,
    refusal,
)
from mooring_agent.engine.resources.ports import PortMapping, Ports
from mooring_agent.engine.resources.security import DEFAULT, Seccomp, apparmor_profile, selinux_option
from mooring_agent.engine.resources.sysctls import Sysctls, namespace_of
from mooring_agent.engine.resources.traffic import (
    NetworkLimit,
    NetworkLimits,
    check_traffic,
    traffic_class,
)
from mooring_agent.engine.resources.ulimits import Ulimit, Ulimits
from mooring_agent.errors import InvalidSpec

_POLICIES = ("no", "always", "unless-stopped", "on-failure")
_RETRIES = Integer(0, 2**31 - 1, what="a number of attempts")


@dataclass(frozen=True)
class RestartPolicy:
    """When the agent starts a container again; on-failure may have a `max_retries`, 0 is no bound."""

    name: str = "no"
    max_retries: int = 0

    def __str__(self) -> str:
        """Return the spelling "on-failure:3"."""
        return f"{self.name}:{self.max_retries}" if self.max_retries else self.name


class Restart(Type[RestartPolicy]):
    """A restart policy: "no", "always", "unless-stopped", "on-failure[:N]" or {name, max_retries}."""

    def parse(self, value: object, where: str) -> RestartPolicy | None:
        """See `Type.parse`. YAML reads an unquoted `no` as false, so false is "no"."""
        if value is False or (isinstance(value, str) and value.lower() == "false"):
            return RestartPolicy()
        if isinstance(value, Mapping):
            for key in value:
                if key not in ("name", "max_retries"):
                    raise InvalidSpec(
                        f'{where} has no option "{key}"; {suggestion(str(key), ("name", "max_retries"))}'
                    )
            name, retries = value.get("name"), value.get("max_retries") or 0
        else:
            name, _, retries = value.partition(":") if isinstance(value, str) else (value, "", 0)
        if name not in _POLICIES or (retries and name != "on-failure"):
            raise refusal(
                where, value, 'one of "no", "always", "unless-stopped", "on-failure" or "on-failure:N"'
            )
        return RestartPolicy(name, _RETRIES.parse(retries or 0, f"{where}: the number of attempts") or 0)

    def dump(self, value: RestartPolicy) -> str:
        """See `Type.dump`."""
        return str(value)


class Argv(Type[tuple[str, ...]]):
    """A command: a list of arguments, maybe empty, or text that is split as a POSIX shell splits it."""

    _ITEMS = Items(Text("an argument"))

    def parse(self, value: object, where: str) -> tuple[str, ...] | None:
        """See `Type.parse`."""
        if isinstance(value, str):
            try:
                value = shlex.split(value)
            except ValueError as error:
                raise InvalidSpec(
                    f"{where} cannot be split into arguments ({str(error).lower()}); "
                    "balance the quotes or give a list"
                ) from None
        return self._ITEMS.parse(value, where)

    def dump(self, value: tuple[str, ...]) -> list[str]:
        """See `Type.dump`."""
        return list(value)

    def show(self, value: tuple[str, ...]) -> str:
        """See `Type.show`."""
        return shlex.join(value) or "[]"


def _variable(text: str, where: str) -> str:
    if not text or "=" in text:
        raise refusal(where, text, "the name of a variable, without a value")
    return text


def _cgroup(text: str, where: str) -> str:
    return names.resource_name("cgroup", text, where)


_NO_RESTART = RestartPolicy()
_LOG = LogOptions()
_HEALTHCHECK = Part(Healthcheck)
_HOSTS_USERS = UserNamespace()
_SHM_SIZE = 64 * MIB  # Docker's, and that of the launchers that wait
_OWN_ANNOTATIONS = "org.mooring."
_PATH = Text("an absolute path inside the container", names.absolute_path)


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerSpec(Declared):
    """What a container should be. None means that the image, or the kernel, decides.

    `env_unset` are variables of the image that it has not.

    Sizes are bytes, `cpus` is a number of CPUs, `stop_timeout` seconds. `memory_swap` is memory and swap
    together, -1 without limit, as Docker counts it. With `oom_kill_disable` its processes wait for memory at
    the limit instead of being killed. `cpu_rt_runtime` of each `cpu_rt_period` microseconds are for real-time
    tasks. `blkio_…` weigh its share of disks, `device_…` are bytes or operations a second of single disks.
    `storage_size` bounds what it may write beside its volumes. `pull` is when the image is pulled.
    `ready_timeout` is how long a successor that starts first may take to answer, `drain` how long connections
    of before may last, both in seconds.
    """

    KIND: ClassVar[str] = "container"

    image: str = option(Text("the name of an image", names.image), required=True)
    pull: str = option(Choice("missing", "always", "newer", "never"), default="missing", live=True)
    command: tuple[str, ...] | None = option(Argv())
    entrypoint: tuple[str, ...] | None = option(Argv())
    env: Mapping[str, str] = option(Pairs("environment variables"), default={})
    env_unset: tuple[str, ...] = option(WordSet(Text("the name of a variable", _variable)), default=())
    workdir: str | None = option(Text("an absolute path inside the container", names.absolute_path))
    user: str | None = option(Text("a user", names.user))
    hostname: str | None = option(Text("a host name", names.hostname))
    labels: Mapping[str, str] = option(Pairs("labels"), default={}, live=True)
    annotations: Mapping[str, str] = option(Pairs("annotations"), default={})
    tty: bool = option(Bool(), default=False)
    interactive: bool = option(Bool(), default=False)
    volumes: tuple[VolumeMount, ...] = option(Mounts(), default=())
    networks: tuple[NetworkAttachment, ...] = option(
        Attachments(), default=(attached_to("bridge"),), live=True
    )
    dns: tuple[str, ...] = option(Items(Text("an address", resolving.resolver)), default=(), live=True)
    dns_search: tuple[str, ...] = option(
        Items(Text("a domain", resolving.search_domain)), default=(), live=True
    )
    dns_options: tuple[str, ...] = option(
        Items(Text("an option", resolving.resolver_option)), default=(), live=True
    )
    extra_hosts: Mapping[str, str] = option(resolving.ExtraHosts(), default={}, live=True)
    network_limits: tuple[NetworkLimit, ...] = option(NetworkLimits(), default=(), live=True)
    network_class: str | None = option(Text("a class of traffic", traffic_class), live=True)
    ports: tuple[PortMapping, ...] = option(Ports(), default=(), live=True)
    memory: int | None = option(limits.MEMORY, live=True)
    memory_reservation: int | None = option(limits.MEMORY, live=True)
    memory_swap: int | None = option(limits.MEMORY_SWAP, live=True)
    cpus: float | None = option(limits.CPUS, live=True)
    cpu_shares: int | None = option(limits.CPU_SHARES, live=True)
    cpuset_cpus: str | None = option(limits.CPU_LIST, live=True)
    cpuset_mems: str | None = option(limits.CPU_LIST, live=True)
    pids_limit: int | None = option(limits.PIDS, live=True)
    memory_swappiness: int | None = option(limits.SWAPPINESS, live=True)
    cpu_rt_period: int | None = option(limits.REAL_TIME, live=True)
    cpu_rt_runtime: int | None = option(limits.REAL_TIME, live=True)
    blkio_weight: int | None = option(limits.WEIGHT, live=True)
    blkio_weight_device: Mapping[str, int] = option(limits.DEVICE_WEIGHTS, default={}, live=True)
    device_read_bps: Mapping[str, int] = option(limits.DEVICE_BYTES, default={}, live=True)
    device_write_bps: Mapping[str, int] = option(limits.DEVICE_BYTES, default={}, live=True)
    device_read_iops: Mapping[str, int] = option(limits.DEVICE_OPERATIONS, default={}, live=True)
    device_write_iops: Mapping[str, int] = option(limits.DEVICE_OPERATIONS, default={}, live=True)
    oom_kill_disable: bool = option(Bool(), default=False, live=True)
    restart: RestartPolicy = option(Restart(), default=_NO_RESTART, live=True)  # noqa: RUF009 (frozen)
    healthcheck: Healthcheck | None = option(_HEALTHCHECK, live=True)  # noqa: RUF009 (frozen)
    stop_signal: str | None = option(Text("a signal", names.signal_name), live=True)
    stop_timeout: int = option(Integer(0, 86_400, what="a number of seconds"), default=10, live=True)
    log: LogOptions = option(Part(LogOptions), default=_LOG, live=True)  # noqa: RUF009 (frozen)
    cap_add: tuple[str, ...] = option(WordSet(Text("a capability", names.capability)), default=())
    cap_drop: tuple[str, ...] = option(WordSet(Text("a capability", names.capability)), default=())
    read_only: bool = option(Bool(), default=False)
    no_new_privileges: bool = option(Bool(), default=False)
    init: bool = option(Bool(), default=False)
    privileged: bool = option(Bool(), default=False)
    seccomp: str | Mapping[str, Any] = option(Seccomp(), default=DEFAULT)
    apparmor: str | None = option(Text("the name of an AppArmor profile", apparmor_profile))
    selinux: tuple[str, ...] = option(WordSet(Text("a part of an SELinux label", selinux_option)), default=())
    masked_paths: tuple[str, ...] | None = option(WordSet(_PATH))
    readonly_paths: tuple[str, ...] | None = option(WordSet(_PATH))
    devices: tuple[DeviceMapping, ...] = option(Devices(), default=())
    device_cgroup_rules: tuple[str, ...] = option(WordSet(Text("a rule", device_rule)), default=())
    ulimits: Mapping[str, Ulimit] = option(Ulimits(), default={})
    sysctls: Mapping[str, str] = option(Sysctls(), default={})
    shm_size: int = option(Size(), default=_SHM_SIZE)
    storage_size: int | None = option(Size())
    group_add: tuple[str, ...] = option(WordSet(Text("a group", names.group)), default=())
    oom_score_adj: int = option(Integer(-1000, 1000, what="a number"), default=0)
    domainname: str | None = option(Text("a domain name", names.hostname))
    pid: str = option(NamespaceMode("private", "host"), default="private")
    ipc: str = option(NamespaceMode("private", "shareable", "none", "host"), default="private")
    uts: str = option(NamespaceMode("private", "host"), default="private")
    cgroupns: str = option(NamespaceMode("private", "host"), default="private")
    userns: UserNamespace = option(UserMapping(), default=_HOSTS_USERS)  # noqa: RUF009 (frozen)
    time_offsets: Mapping[str, int] = option(ClockOffsets(), default={})
    cgroup: str | None = option(Text("the name of a declared cgroup", _cgroup))
    update_order: str = option(Choice("stop_first", "start_first"), default="stop_first", live=True)
    ready_timeout: int = option(Integer(1, 86_400, what="a number of seconds"), default=30, live=True)
    drain: int = option(Integer(0, 86_400, what="a number of seconds"), default=10, live=True)
    state: str = option(Choice("running", "stopped"), default="running", live=True)

    def check(self, prefix: str) -> None:
        """Hold what no single option can say."""
        for name in self.env_unset:
            if name in self.env:
                raise InvalidSpec(
                    f"{prefix}env_unset names {name}, which env sets; remove it from one of them"
                )
        for name in self.annotations:
            if name.startswith(_OWN_ANNOTATIONS):
                raise InvalidSpec(
                    f"{prefix}annotations has {name}, and those of {_OWN_ANNOTATIONS}… are this agent's own; "
                    "choose another name"
                )
        limits.check_memory(self.memory, self.memory_reservation, self.memory_swap, prefix)
        limits.check_real_time(self.cpu_rt_period, self.cpu_rt_runtime, prefix)
        if self.oom_kill_disable and self.memory is None:
            raise InvalidSpec(
                f"{prefix}oom_kill_disable is set without memory, so that the host itself would run out; "
                "give it a limit, or remove it"
            )
        self._check_health(prefix)
        self._check_network(prefix)
        self._check_resolving(prefix)
        self._check_namespaces(prefix)
        self._check_users(prefix)

    def _check_health(self, prefix: str) -> None:
        restarted = self.healthcheck is not None and self.healthcheck.on_unhealthy == "restart"
        if restarted and self.restart.name == "no":
            raise InvalidSpec(
                f'{prefix}healthcheck.on_unhealthy is "restart" with the restart policy "no", by which '
                "nothing is started again; choose another policy, or remove it"
            )

    def _check_network(self, prefix: str) -> None:
        network = self.networks[0].name
        if self.ports and is_fixed(network):
            raise InvalidSpec(
                f'{prefix}ports cannot be published with the network "{network}", which gives the container '
                "no address to lead to; remove ports or attach a bridge network"
            )
        attached = [network.name for network in self.networks]
        check_traffic(self.network_limits, self.network_class, attached, prefix)
        if network == "host" and other_container(self.uts) is not None:
            raise InvalidSpec(
                f'{prefix}uts is "{self.uts}" with the network "host", whose name comes with it; remove one'
            )
        named = next((name for name in ("hostname", "domainname") if getattr(self, name) is not None), None)
        if named is None:
            return
        if network == "host" or self.uts != "private":
            taken = 'the network "host"' if network == "host" else f'uts "{self.uts}"'
            raise InvalidSpec(f"{prefix}{named} cannot be set with {taken}; remove one of them")
        if other_container(network) is not None:
            raise InvalidSpec(
                f'{prefix}{named} cannot be set with the network "{network}", with which it has that '
                "container's names; remove one of them"
            )

    def _check_resolving(self, prefix: str) -> None:
        if len(self.dns) > resolving.MOST_RESOLVERS:
            raise InvalidSpec(
                f"{prefix}dns names {len(self.dns)} resolvers, expected at most {resolving.MOST_RESOLVERS}: "
                "programs ask no others; remove some"
            )
        network = self.networks[0].name
        if other_container(network) is None:
            return
        for name in ("dns", "dns_search", "dns_options", "extra_hosts"):
            if getattr(self, name):
                raise InvalidSpec(
                    f'{prefix}{name} cannot be set with the network "{network}", with which it has that '
                    "container's names; remove one of them"
                )

    def _check_namespaces(self, prefix: str) -> None:
        network = self.networks[0].name
        if self.init and self.pid != "private":
            raise InvalidSpec(
                f'{prefix}init is true with pid "{self.pid}", where another process is the first one; '
                "remove one of them"
            )
        if self.shm_size != _SHM_SIZE and self.ipc not in ("private", "shareable"):
            raise InvalidSpec(
                f'{prefix}shm_size is {Size().show(self.shm_size)} with ipc "{self.ipc}", with which '
                "/dev/shm is not the container's own; remove one of them"
            )
        for name in self.sysctls:
            mode = network if namespace_of(name) == "net" else self.ipc
            if mode == "host":
                option = "the network" if namespace_of(name) == "net" else "ipc"
                raise InvalidSpec(
                    f'{prefix}sysctls sets {name} with {option} "host", where it is the whole host\'s; '
                    "remove one of them"
                )

    def _check_users(self, prefix: str) -> None:
        if self.userns.mode == "host":
            return
        if self.privileged:
            raise InvalidSpec(
                f'{prefix}privileged is true with userns "{self.userns}", whose root has no privileges '
                "outside; remove one of them"
            )
        alike = other_container(self.userns.mode) is not None  # whose other namespaces may be joined too
        for name, mode in (("networks", self.networks[0].name), ("pid", self.pid), ("ipc", self.ipc)):
            if mode == "host" or (other_container(mode) is not None and not alike):
                raise InvalidSpec(
                    f'{prefix}{name} is "{mode}" with userns "{self.userns}", expected a namespace of its '
                    "own: another one is not in the hand of the container's root; remove one of them"
                )
