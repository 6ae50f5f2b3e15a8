# SPDX-License-Identifier: Apache-2.0
"""Options of a volume's driver as what is asked of the kernel."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.engine.resources import VolumeSpec
from mooring_agent.engine.volumeoptions import compile_mount, meaning
from mooring_agent.errors import Conflict, InvalidSpec, MooringError, NotSupported, Unavailable
from mooring_agent.linux import syscalls
from mooring_agent.runtime.mounts import Bind, Filesystem


def resolve(host: str) -> str:
    if host != "files.example.org":
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return "192.0.2.7"


def compiled(kind: str, device: str, o: str = "") -> Filesystem | Bind:
    options = {"type": kind, "device": device, "o": o}
    VolumeSpec.parse({"driver_opts": options})
    return compile_mount("data", options, resolve)


@pytest.mark.parametrize(
    ("given", "mount"),
    [
        (
            ("nfs", ":/export", "addr=files.example.org,rw,nfsvers=4,soft"),
            Filesystem("nfs", ":/export", "/", 0, "addr=192.0.2.7,nfsvers=4,soft"),
        ),
        (
            ("nfs4", ":/export", "ro,noatime,addr=192.0.2.9"),
            Filesystem("nfs4", ":/export", "/", syscalls.MS_RDONLY | syscalls.MS_NOATIME, "addr=192.0.2.9"),
        ),
        (("nfs", ":/export", "addr=2001:db8::1"), Filesystem("nfs", ":/export", "/", 0, "addr=2001:db8::1")),
        (
            ("cifs", "//files.example.org/a%20b/c", "username=me,password=secret"),
            Filesystem("cifs", "//192.0.2.7/a b/c", "/", 0, "username=me,password=secret"),
        ),
        (
            ("cifs", "//server/share", "addr=files.example.org,username=me"),
            Filesystem("cifs", "//server/share", "/", 0, "addr=192.0.2.7,username=me"),
        ),
        (
            ("tmpfs", "tmpfs", "size=100m,uid=1000"),
            Filesystem("tmpfs", "tmpfs", "/", 0, "size=100m,uid=1000"),
        ),
        (("tmpfs", "tmpfs"), Filesystem("tmpfs", "tmpfs", "/", 0, "")),
        (
            ("ext4", "/dev/sdb1", "noexec,nodev,data=ordered"),
            Filesystem("ext4", "/dev/sdb1", "/", syscalls.MS_NOEXEC | syscalls.MS_NODEV, "data=ordered"),
        ),
        (("none", "/srv/data", "bind"), Bind("/srv/data", "/", recursive=False)),
        (
            ("none", "/srv/data", "rbind,ro"),
            Bind("/srv/data", "/", set=syscalls.MOUNT_ATTR_RDONLY, recursive=True),
        ),
        (("bind", "/srv/data", ""), Bind("/srv/data", "/", recursive=False)),
    ],
)
def test_what_the_kernel_is_asked(given: tuple[str, ...], mount: Filesystem | Bind) -> None:
    assert compiled(*given) == mount


def test_a_server_without_an_address_is_said_by_name() -> None:
    with pytest.raises(Unavailable, match=r"volume data is mounted from gone\.example\.org, whose address"):
        compiled("nfs", ":/export", "addr=gone.example.org")


def test_an_option_of_a_file_system_is_none_of_a_directory() -> None:
    with pytest.raises(InvalidSpec, match="binds /srv with the option size=5"):
        compiled("none", "/srv", "bind,size=5")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENODEV, NotSupported),
        (errno.ECONNREFUSED, Unavailable),
        (errno.ETIMEDOUT, Unavailable),
        (errno.EINVAL, Conflict),
        (errno.ENOENT, Conflict),
        (errno.EXDEV, Conflict),
    ],
)
def test_a_refusal_names_the_volume_type_device_and_errno_and_no_secret(
    number: int, kind: type[MooringError]
) -> None:
    options = {"type": "cifs", "device": "//server/share", "o": "password=secret"}
    error = meaning("data", options, OSError(number, os.strerror(number)))
    assert type(error) is kind
    for word in ("volume data", "type cifs", "device //server/share", errno.errorcode[number]):
        assert word in error.message
    assert "secret" not in error.message


_WORDS = ["", "none", "bind", "nfs", "cifs", "tmpfs", "/srv", "addr=h", "ro,,bind", "remount"]


@given(
    options=st.dictionaries(
        st.sampled_from(["type", "device", "o", "size", "Type", "x"]), st.sampled_from(_WORDS), max_size=4
    )
)
def test_options_are_a_mount_or_an_error(options: dict[str, str]) -> None:
    with suppress(InvalidSpec, NotSupported):
        spec = VolumeSpec.parse({"driver_opts": options})
        assert VolumeSpec.parse(spec.given) == spec
        if spec.driver_opts:
            mount: Any = compile_mount("data", spec.driver_opts, lambda host: "192.0.2.1")
            assert mount.target == "/"
            assert mount.source
