# SPDX-License-Identifier: Apache-2.0
"""Valid documents from which hostile ones are made."""

from __future__ import annotations

from typing import Any

from mooring_agent.runtime.compile import STANDARD_MOUNTS
from mooring_agent.runtime.standard import MASKED_PATHS, READ_ONLY_PATHS

_MAPPING = [{"containerID": 0, "hostID": 100000, "size": 65536}]
_HOOK = {"path": "/bin/true", "args": ["true", "x"], "env": ["A=b"], "timeout": 5}

SECCOMP: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
    "flags": ["SECCOMP_FILTER_FLAG_LOG"],
    "syscalls": [
        {
            "names": ["clone", "socket"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 1,
            "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
        },
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
    ],
}
DOCKER_SECCOMP: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    "syscalls": [
        {
            "names": ["bpf", "mount"],
            "action": "SCMP_ACT_ALLOW",
            "args": [],
            "comment": "x",
            "includes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["amd64"], "minKernel": "4.8"},
            "excludes": {"caps": ["CAP_BPF"], "arches": ["s390"]},
        },
        {"name": "read", "action": "SCMP_ACT_ALLOW", "args": [{"index": 1, "value": 1, "op": "SCMP_CMP_EQ"}]},
    ],
}

CONFIG: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "hostname": "box",
    "domainname": "example",
    "root": {"path": "rootfs", "readonly": True},
    "process": {
        "args": ["sh", "-c", "true"],
        "env": ["PATH=/bin", "A=b"],
        "cwd": "/",
        "terminal": True,
        "consoleSize": {"height": 24, "width": 80},
        "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [3, 4]},
        "capabilities": {
            name: ["CAP_CHOWN", "CAP_KILL"]
            for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 2048}],
        "noNewPrivileges": True,
        "oomScoreAdj": 100,
        "scheduler": {"policy": "SCHED_BATCH", "nice": 1, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
    },
    "mounts": [
        *(dict(mount) for mount in STANDARD_MOUNTS),
        {"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "ro", "rprivate"]},
        {
            "destination": "/tmp",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "size=1m", "tmpcopyup"],
        },
        {
            "destination": "/mapped",
            "type": "bind",
            "source": "/srv",
            "options": ["bind", "idmap"],
            "uidMappings": _MAPPING,
            "gidMappings": _MAPPING,
        },
    ],
    "hooks": {
        name: [_HOOK]
        for name in (
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        )
    },
    "annotations": {"org.mooring.user": "www", "org.mooring.groups": "audio,29", "other": "x"},
    "linux": {
        "namespaces": [
            {"type": kind} for kind in ("mount", "pid", "network", "uts", "ipc", "cgroup", "user", "time")
        ],
        "uidMappings": _MAPPING,
        "gidMappings": _MAPPING,
        "timeOffsets": {"monotonic": {"secs": 1, "nanosecs": 2}, "boottime": {"secs": 3, "nanosecs": 4}},
        "maskedPaths": list(MASKED_PATHS),
        "readonlyPaths": list(READ_ONLY_PATHS),
        "cgroupsPath": "/x/y",
        "devices": [
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0}
        ],
        "resources": {
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 1, "minor": 3},
            ],
            "memory": {"limit": 1 << 26, "swap": 1 << 27, "reservation": 1 << 25},
            "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "0"},
            "pids": {"limit": 100},
            "blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 21}],
            "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 1}]},
            "unified": {"memory.high": "max"},
        },
        "rootfsPropagation": "rprivate",
        "sysctl": {"net.ipv4.ip_forward": "1", "kernel.shmmax": "1000"},
        "seccomp": SECCOMP,
        "personality": {"domain": "LINUX32", "flags": []},
    },
}

CONTAINER: dict[str, Any] = {
    "image": "busybox",
    "command": ["sleep", "60"],
    "entrypoint": ["/bin/sh"],
    "env": {"A": "b"},
    "labels": {"x": "y"},
    "annotations": {"x": "y"},
    "user": "www:audio",
    "workdir": "/tmp",
    "hostname": "box",
    "tty": True,
    "interactive": False,
    "ports": ["8080:80/tcp", "127.0.0.1:53:53/udp"],
    "volumes": ["/srv:/data:ro", "named:/x", {"type": "tmpfs", "target": "/t", "size": "1m"}],
    "networks": ["bridge", {"name": "other", "ipv4_address": "10.0.0.5", "aliases": ["a"]}],
    "memory": "64m",
    "memory_swap": -1,
    "memory_reservation": "32m",
    "cpus": 0.5,
    "cpu_shares": 512,
    "cpuset_cpus": "0-1",
    "pids_limit": 50,
    "cap_add": ["NET_ADMIN"],
    "cap_drop": ["ALL"],
    "restart": "on-failure:3",
    "read_only": True,
    "no_new_privileges": True,
    "stop_signal": "SIGTERM",
    "stop_timeout": 3,
    "log": {"max_size": "1m", "max_files": 2},
    "cgroup": "team-a",
    "init": True,
    "seccomp": "default",
    "masked_paths": ["/proc/keys"],
    "readonly_paths": ["/proc/sys"],
    "devices": ["/dev/null:/dev/x:rw"],
    "device_cgroup_rules": ["c 1:3 rw"],
    "ulimits": {"nofile": "10:20"},
    "sysctls": {"net.ipv4.ip_forward": "1"},
    "shm_size": "1m",
    "group_add": ["audio"],
    "oom_score_adj": 5,
    "ipc": "shareable",
    "userns": "100000:65536",
    "time_offsets": {"boottime": 5},
    "state": "running",
}

NETWORK: dict[str, Any] = {
    "driver": "bridge",
    "subnet": "10.99.0.0/24",
    "gateway": "10.99.0.1",
    "internal": True,
    "labels": {"a": "b"},
}

IMAGE: dict[str, Any] = {
    "template": {"name": "debian", "suite": "bookworm", "variant": "minbase", "packages": ["curl"]},
    "config": {
        "cmd": ["sh"],
        "entrypoint": ["/x"],
        "env": {"A": "b"},
        "workdir": "/w",
        "user": "u",
        "labels": {"l": "m"},
        "exposed_ports": ["80/tcp"],
        "stop_signal": "SIGTERM",
    },
}

STATE: dict[str, Any] = {
    "networks": {"net": NETWORK},
    "containers": {"web": CONTAINER},
    "images": {"busybox": {"template": "busybox"}},
    "cgroups": {"team": {"memory": "1g"}},
    "volumes": {"data": {}},
}

DOCKER_CREATE: dict[str, Any] = {
    "Image": "busybox",
    "Cmd": ["sleep", "60"],
    "Entrypoint": ["/bin/sh"],
    "Env": ["A=b"],
    "Labels": {"x": "y"},
    "User": "1:2",
    "WorkingDir": "/tmp",
    "Hostname": "box",
    "Domainname": "",
    "Tty": True,
    "OpenStdin": False,
    "AttachStdout": True,
    "ExposedPorts": {"80/tcp": {}},
    "Volumes": {"/v": {}},
    "StopSignal": "SIGTERM",
    "StopTimeout": 5,
    "Healthcheck": {},
    "HostConfig": {
        "Binds": ["/srv:/data:ro"],
        "Mounts": [
            {"Type": "volume", "Source": "data", "Target": "/n", "ReadOnly": True, "TmpfsOptions": {}}
        ],
        "Tmpfs": {"/t": "size=1m"},
        "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]},
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2},
        "NetworkMode": "bridge",
        "Memory": 67108864,
        "MemorySwap": -1,
        "NanoCpus": 500000000,
        "CpuShares": 512,
        "CpusetCpus": "0",
        "PidsLimit": 20,
        "CapAdd": ["NET_ADMIN"],
        "CapDrop": ["ALL"],
        "ReadonlyRootfs": True,
        "Privileged": False,
        "SecurityOpt": ["no-new-privileges"],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
        "AutoRemove": False,
        "ShmSize": 67108864,
        "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}],
        "Sysctls": {"net.ipv4.ip_forward": "1"},
        "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "rwm"}],
    },
    "NetworkingConfig": {"EndpointsConfig": {"bridge": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}}}},
}
