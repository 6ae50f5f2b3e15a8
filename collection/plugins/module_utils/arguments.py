# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of all modules, in one table.

A resource's options have the names that they have in the agent's specs, and none has a default here: what a
user does not say is not sent, so that the agent can tell it from what is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Arguments = dict[str, dict[str, Any]]

AGENT: Arguments = {
    "socket": {"type": "str", "default": "/run/mooring/mooring.sock"},
    "timeout": {"type": "int", "default": 600},
}

NAME: Arguments = {"name": {"type": "str", "required": True}}
PRESENCE: Arguments = {"state": {"type": "str", "choices": ["present", "absent"], "default": "present"}}
LABELS: Arguments = {"labels": {"type": "dict"}}

LIMITS: Arguments = {
    "memory": {"type": "str"},
    "memory_reservation": {"type": "str"},
    "memory_swap": {"type": "str"},
    "cpus": {"type": "float"},
    "cpu_shares": {"type": "int"},
    "cpuset_cpus": {"type": "str"},
    "cpuset_mems": {"type": "str"},
    "pids_limit": {"type": "int"},
    "memory_swappiness": {"type": "int"},
    "cpu_rt_period": {"type": "int"},
    "cpu_rt_runtime": {"type": "int"},
    "blkio_weight": {"type": "int"},
    "blkio_weight_device": {"type": "dict"},
    "device_read_bps": {"type": "dict"},
    "device_write_bps": {"type": "dict"},
    "device_read_iops": {"type": "dict"},
    "device_write_iops": {"type": "dict"},
}

CONTAINER: Arguments = {
    "image": {"type": "str"},
    "pull": {"type": "str", "choices": ["missing", "always", "newer", "never"]},
    "command": {"type": "raw"},
    "entrypoint": {"type": "raw"},
    "env": {"type": "dict"},
    "env_unset": {"type": "list", "elements": "str"},
    "workdir": {"type": "str"},
    "user": {"type": "str"},
    "hostname": {"type": "str"},
    **LABELS,
    "annotations": {"type": "dict"},
    "tty": {"type": "bool"},
    "interactive": {"type": "bool"},
    "volumes": {"type": "list", "elements": "raw"},
    "networks": {"type": "list", "elements": "raw"},
    "dns": {"type": "list", "elements": "str"},
    "dns_search": {"type": "list", "elements": "str"},
    "dns_options": {"type": "list", "elements": "str"},
    "extra_hosts": {"type": "dict"},
    "network_limits": {"type": "raw"},
    "network_class": {"type": "str"},
    "ports": {"type": "list", "elements": "raw"},
    **LIMITS,
    "oom_kill_disable": {"type": "bool"},
    "restart": {"type": "str"},
    "healthcheck": {
        "type": "dict",
        "options": {
            "test": {"type": "raw"},
            "interval": {"type": "raw"},
            "timeout": {"type": "raw"},
            "start_period": {"type": "raw"},
            "start_interval": {"type": "raw"},
            "retries": {"type": "int"},
            "on_unhealthy": {"type": "str", "choices": ["none", "restart"]},
        },
    },
    "stop_signal": {"type": "str"},
    "stop_timeout": {"type": "int"},
    "log": {
        "type": "dict",
        "options": {
            "driver": {"type": "str", "choices": ["json-file", "local", "none", "journald", "syslog"]},
            "max_size": {"type": "str"},
            "max_files": {"type": "int"},
            "options": {"type": "dict"},
        },
    },
    "cap_add": {"type": "list", "elements": "str"},
    "cap_drop": {"type": "list", "elements": "str"},
    "read_only": {"type": "bool"},
    "no_new_privileges": {"type": "bool"},
    "init": {"type": "bool"},
    "privileged": {"type": "bool"},
    "seccomp": {"type": "raw"},
    "apparmor": {"type": "str"},
    "selinux": {"type": "list", "elements": "str"},
    "masked_paths": {"type": "list", "elements": "str"},
    "readonly_paths": {"type": "list", "elements": "str"},
    "devices": {"type": "list", "elements": "raw"},
    "device_cgroup_rules": {"type": "list", "elements": "str"},
    "ulimits": {"type": "dict"},
    "sysctls": {"type": "dict"},
    "shm_size": {"type": "str"},
    "storage_size": {"type": "str"},
    "group_add": {"type": "list", "elements": "str"},
    "oom_score_adj": {"type": "int"},
    "domainname": {"type": "str"},
    "pid": {"type": "str"},
    "ipc": {"type": "str"},
    "uts": {"type": "str"},
    "cgroupns": {"type": "str"},
    "userns": {"type": "raw"},
    "time_offsets": {"type": "dict"},
    "cgroup": {"type": "str"},
    "update_order": {"type": "str", "choices": ["stop_first", "start_first"]},
    "ready_timeout": {"type": "int"},
    "drain": {"type": "int"},
    "state": {"type": "str", "choices": ["running", "healthy", "stopped", "absent"], "default": "running"},
}

CREDENTIALS: Arguments = {
    "credentials": {
        "type": "dict",
        "options": {
            "username": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
        },
    },
}

IMAGE_SOURCES: Arguments = {
    "pull": {
        "type": "dict",
        "options": {
            "policy": {"type": "str", "choices": ["always", "missing", "newer", "never"]},
            "platform": {"type": "str"},
            "from": {"type": "str"},
        },
    },
    "build": {
        "type": "dict",
        "options": {
            "context": {"type": "str", "required": True},
            "dockerfile": {"type": "str"},
            "args": {"type": "dict"},
            "target": {"type": "str"},
            "labels": {"type": "dict"},
            "network": {"type": "str", "choices": ["default", "none", "host"]},
            "no_cache": {"type": "bool"},
            "pull": {"type": "bool"},
            "secrets": {"type": "dict", "no_log": False},
            "source_date_epoch": {"type": "int"},
        },
    },
    "load": {
        "type": "dict",
        "options": {"path": {"type": "str", "required": True}, "from": {"type": "str"}},
    },
    "template": {"type": "raw"},
    "import": {
        "type": "dict",
        "options": {"path": {"type": "str", "required": True}, "metadata": {"type": "str"}},
    },
}

IMAGE: Arguments = {
    **IMAGE_SOURCES,
    "config": {
        "type": "dict",
        "options": {
            "cmd": {"type": "raw"},
            "entrypoint": {"type": "raw"},
            "env": {"type": "dict"},
            "workdir": {"type": "str"},
            "user": {"type": "str"},
            "labels": {"type": "dict"},
            "exposed_ports": {"type": "list", "elements": "str"},
            "stop_signal": {"type": "str"},
        },
    },
    "tags": {"type": "list", "elements": "str"},
}

IMAGE_PRUNE: Arguments = {
    "all": {"type": "bool"},
    "until": {"type": "str"},
    "labels": {"type": "list", "elements": "str"},
    "without": {"type": "list", "elements": "str"},
}

NETWORK: Arguments = {
    "driver": {"type": "str", "choices": ["bridge", "macvlan", "overlay"]},
    "ipv4": {"type": "bool"},
    "ipv6": {"type": "bool"},
    "subnet": {"type": "str"},
    "gateway": {"type": "str"},
    "ip_range": {"type": "str"},
    "subnet6": {"type": "str"},
    "gateway6": {"type": "str"},
    "ip_range6": {"type": "str"},
    "reserved": {"type": "list", "elements": "str"},
    "nat": {"type": "bool"},
    "internal": {"type": "bool"},
    "mtu": {"type": "int"},
    "parent": {"type": "str"},
    "mode": {"type": "str", "choices": ["bridge", "private", "vepa", "passthru"]},
    "hosts": {"type": "dict"},
    "host": {"type": "str"},
    "vni": {"type": "int"},
    "slice_prefix": {"type": "int"},
    "encryption": {"type": "str", "choices": ["wireguard"]},
    "port": {"type": "int"},
    "reachable_from": {"type": "list", "elements": "str"},
    "rules": {"type": "list", "elements": "raw"},
    "bridge_name": {"type": "str"},
    "port_isolation": {"type": "bool"},
    "interface_prefix": {"type": "str"},
    "publish_address": {"type": "str"},
    "attachable": {"type": "bool"},
    **LABELS,
}

CGROUP: Arguments = {**LIMITS, **LABELS}

EXEC: Arguments = {
    "argv": {"type": "list", "elements": "str"},
    "command": {"type": "str"},
    "env": {"type": "dict"},
    "workdir": {"type": "str"},
    "user": {"type": "str"},
    "stdin": {"type": "str"},
    "command_timeout": {"type": "float"},
    "max_output": {"type": "int"},
}

SECTIONS: Arguments = {
    section: {"type": "dict"} for section in ("images", "networks", "volumes", "cgroups", "containers")
}


def given(params: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return those of the named options that the user gave, as the agent takes them."""
    return {name: _without_none(params[name]) for name in names if params.get(name) is not None}


def _without_none(value: Any) -> Any:
    # A dictionary with sub-options comes with all of them; values of free dictionaries are the agent's to
    # judge.
    if isinstance(value, dict) and any(item is not None for item in value.values()):
        return {key: item for key, item in value.items() if item is not None}
    return value
