# SPDX-License-Identifier: Apache-2.0
"""What the kernel tells of a unix socket's peer."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from mooring_agent.api.access.peers import Peer, identified

_CONNECT = """
import os, socket, sys
uid, gid, groups, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
os.setgroups([int(group) for group in groups.split(",")])
os.setgid(gid)
os.setuid(uid)
client = socket.socket(socket.AF_UNIX)
client.connect(path)
client.recv(1)
"""


def test_ourselves() -> None:
    async def scene() -> Peer:
        ours, theirs = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, ours)
        try:
            return identified(transport)
        finally:
            transport.close()
            theirs.close()

    peer = asyncio.run(scene())
    assert (peer.uid, peer.common_name) == (os.geteuid(), None)
    assert peer.gids == {os.getegid(), *os.getgroups()}


@pytest.mark.root
@pytest.mark.parametrize("count", [1, 5, 3000])
def test_another_user_with_all_their_groups(count: int) -> None:
    groups = range(5000, 5000 + count)

    async def scene(directory: Path) -> Peer:
        found: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()

        class Look(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                found.set_result(identified(transport))
                transport.close()

        server = await asyncio.get_running_loop().create_unix_server(Look, directory / "s")
        (directory / "s").chmod(0o666)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CONNECT, "4242", "4343", ",".join(map(str, groups)), str(directory / "s")
        )
        try:
            return await asyncio.wait_for(found, 30)
        finally:
            await child.wait()
            server.close()

    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        peer = asyncio.run(scene(Path(directory)))
    assert peer == Peer(4242, frozenset({4343, *groups}))
