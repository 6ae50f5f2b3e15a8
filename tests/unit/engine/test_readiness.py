# SPDX-License-Identifier: Apache-2.0
"""Which ports of a container are listened on, from files as the kernel writes them and from its own."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from mooring_agent.engine.readiness import answering

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue\n"


def test_listening_on_all_addresses_counts_and_on_loopback_does_not(tmp_path: Path) -> None:
    net = tmp_path / "7/net"
    net.mkdir(parents=True)
    (net / "tcp").write_text(
        f"{HEADER}   0: 00000000:0050 00000000:0000 0A\n"
        "   1: 0100007F:0051 00000000:0000 0A\n"
        "   2: 0200D20A:0052 0300D20A:9C40 01\n"
        "   3: 0200D20A:0053 00000000:0000 0A\n"
    )
    (net / "tcp6").write_text(
        f"{HEADER}   0: {'0' * 32}:0054 {'0' * 32}:0000 0A\n"
        f"   1: {'0' * 24}01000000:0055 {'0' * 32}:0000 0A\n"
    )
    (net / "udp").write_text(f"{HEADER}   0: 00000000:0035 00000000:0000 07\n")
    (net / "sctp").mkdir()
    (net / "sctp/eps").write_text(
        " ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS\n f0 f1 2 10 29 5000 0 1234 0.0.0.0\n"
    )
    ports = {("tcp", port) for port in range(80, 86)} | {
        ("udp", 53),
        ("udp", 80),
        ("sctp", 5000),
        ("sctp", 1),
    }
    assert answering(7, ports, tmp_path) == {
        *(("tcp", port) for port in (80, 83, 84)),
        ("udp", 53),
        ("sctp", 5000),
    }


def test_a_process_that_has_ended_answers_nothing(tmp_path: Path) -> None:
    assert answering(7, {("tcp", 80)}, tmp_path) == frozenset()


def test_a_socket_counts_from_listen_on() -> None:
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        port = ("tcp", int(server.getsockname()[1]))
        assert answering(os.getpid(), {port}) == frozenset()
        server.listen()
        assert answering(os.getpid(), {port}) == {port}
