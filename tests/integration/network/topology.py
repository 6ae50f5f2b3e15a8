# SPDX-License-Identifier: Apache-2.0
"""Hosts, containers and an outside world, made of network namespaces.

Sockets of every namespace belong to the test's own process: a thread enters the namespace, makes a socket,
and ends; a socket stays where it was made. So tests talk to each other's ends in plain Python, always with a
timeout.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

from harness.waiting import PATIENCE
from mooring_agent.config import AgentConfig

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
PROGRAM_TIMEOUT = 10.0 * PATIENCE  # seconds
CALL_TIMEOUT = 20.0 * PATIENCE
TRAFFIC_TIMEOUT = 5.0 * PATIENCE
UNREACHABLE_WITHIN = 0.4  # how long to try what must not work
PREFIX = "10.211.0.0/16"
HOST_OUTER = "198.51.100.2"
OUTSIDE = "198.51.100.1"
HOST_OUTER6 = "2001:db8::2"
OUTSIDE6 = "2001:db8::1"

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """The service has raised a MooringError; `kind` is its class."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Namespace:
    """A network namespace, by the path of its file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def inside(self, function: Callable[[], T]) -> T:
        """Call a function in a thread inside the namespace."""
        results: list[T] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                descriptor = os.open(self.path, os.O_RDONLY)
                try:
                    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                finally:
                    os.close(descriptor)
                results.append(function())
            except Exception as error:  # noqa: BLE001 (raised again by the caller)
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(PROGRAM_TIMEOUT)
        assert not thread.is_alive(), "a function inside a namespace does not end"
        if errors:
            raise errors[0]
        return results[0]

    def open_socket(
        self, kind: socket.SocketKind = socket.SOCK_STREAM, address: str = "0.0.0.0"
    ) -> socket.socket:
        """A socket of the namespace, of the IP version of `address`."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = self.inside(lambda: socket.socket(family, kind))
        made.settimeout(TRAFFIC_TIMEOUT)
        return made

    def connect(self, address: str, port: int, timeout: float = TRAFFIC_TIMEOUT) -> socket.socket:
        """A connection from here."""
        made = self.open_socket(address=address)
        made.settimeout(timeout)
        try:
            made.connect((address, port))
        except OSError:
            made.close()
            raise
        made.settimeout(TRAFFIC_TIMEOUT)
        return made

    def ask(self, address: str, port: int, timeout: float = TRAFFIC_TIMEOUT) -> list[str]:
        """What a `Service` there says: its name, and whose connection it sees."""
        with self.connect(address, port, timeout) as connection:
            return str(connection.makefile().readline()).split()

    def ask_udp(self, address: str, port: int) -> list[str]:
        """The same over UDP."""
        with self.open_socket(socket.SOCK_DGRAM, address) as made:
            made.connect((address, port))
            made.send(b"?")
            return made.recv(1000).decode().split()

    def cannot_reach(self, address: str, port: int) -> bool:
        """Whether a connection is refused, or nobody answers for a while."""
        try:
            self.connect(address, port, UNREACHABLE_WITHIN).close()
        except OSError:
            return True
        return False

    def run(self, *argv: str) -> str:
        """Run a program inside, and return what it prints; it must succeed."""
        done = subprocess.run(
            ["nsenter", f"--net={self.path}", *argv],
            capture_output=True,
            text=True,
            timeout=PROGRAM_TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, f"{argv} ended with {done.returncode}: {done.stderr}"
        return done.stdout


class NamedNamespace(Namespace):
    """A namespace made by `ip netns`, with its loopback up."""

    def __init__(self) -> None:
        self.name = f"mrgt-{secrets.token_hex(4)}"
        _ip("netns", "add", self.name)
        super().__init__(Path("/run/netns", self.name))
        self.run("ip", "link", "set", "lo", "up")

    def remove(self) -> None:
        """Remove it with all that is in it."""
        _ip("netns", "delete", self.name)


class Wire(NamedNamespace):
    """A bridge between hosts, in a namespace of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.run("ip", "link", "add", "wire", "type", "bridge")
        self.run("ip", "link", "set", "wire", "up")

    def plug(self, host: NamedNamespace, port: str, *addresses: str) -> None:
        """Lead a cable from `port` here to a host's eth0, which has these addresses."""
        self.run("ip", "link", "add", port, "type", "veth", "peer", "eth0", "netns", host.name)
        self.run("ip", "link", "set", port, "master", "wire", "up")
        _bring_up(host, "eth0", *addresses)


class Service:
    """Answers on a port of a namespace with its name and the client's address, then echoes line by line."""

    def __init__(
        self,
        where: Namespace,
        port: int,
        name: str = "service",
        address: str = "0.0.0.0",
        kind: socket.SocketKind = socket.SOCK_STREAM,
    ) -> None:
        self._name = name
        self._socket = where.open_socket(kind, address)
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((address, port))
        if kind == socket.SOCK_STREAM:
            self._socket.listen(64)
        serve = self._accept if kind == socket.SOCK_STREAM else self._reply
        threading.Thread(target=serve, daemon=True).start()

    def close(self) -> None:
        """Stop answering new clients."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, client = self._socket.accept()
                threading.Thread(target=self._talk, args=(connection, client[0]), daemon=True).start()

    def _talk(self, connection: socket.socket, client: str) -> None:
        with suppress(OSError), connection:
            connection.sendall(f"{self._name} {client}\n".encode())
            while data := connection.recv(65536):
                connection.sendall(data)

    def _reply(self) -> None:
        with suppress(OSError):
            while True:
                _, client = self._socket.recvfrom(1000)
                if client is None:  # shut down
                    return
                self._socket.sendto(f"{self._name} {client[0]}".encode(), client)


class Container(Namespace):
    """A process with a network namespace of its own, which is what a network service sees of a container."""

    def __init__(self, host: Host, container_id: str) -> None:
        self.host = host
        self.id = container_id
        self._process = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        self.pid = self._process.pid
        super().__init__(Path(f"/proc/{self.pid}/ns/net"))
        own = os.readlink("/proc/self/ns/net")
        while os.readlink(self.path) == own:
            assert self._process.poll() is None, "unshare failed"

    def attach(self, network: str = "bridge", ipv4: str | None = None, ifname: str = "eth0") -> str:
        """Connect it to a network; returns its first address."""
        endpoint = self.host.call("allocate", network, self.id, ipv4)
        self.plug(network, ifname)
        return str(endpoint["ipv4"] or endpoint["ipv6"])

    def plug(self, network: str = "bridge", ifname: str = "eth0") -> None:
        """Make the cable of an endpoint that is there already."""
        routes = [4, 6] if ifname == "eth0" else []
        self.host.call("connect", self.id, network, self.pid, ifname=ifname, default_routes=routes)

    def publish(
        self, ip: str, *mappings: dict[str, Any], taking_over: str | None = None
    ) -> list[dict[str, Any]]:
        """Publish ports."""
        result = self.host.call("publish", self.id, list(mappings), ip, taking_over=taking_over)
        assert isinstance(result, list)
        return result

    def kill(self) -> None:
        """End its process, and so its namespace."""
        self._process.kill()
        self._process.wait(PROGRAM_TIMEOUT)


class Host(NamedNamespace):
    """A host with a network service, connected to an outside world."""

    def __init__(self, base: Path, outside: NamedNamespace | None = None) -> None:
        super().__init__()
        self.base = base
        self.config = AgentConfig.make(data_root=base / "data", run_root=base / "run", network_prefix=PREFIX)
        self.containers: list[Container] = []
        self._agent: subprocess.Popen[str] | None = None
        if outside is not None:
            connect(self, outside)

    def start_agent(self, *terms: list[Any]) -> list[str]:
        """Start the service, which is told of `terms` first; returns what it says that it had to repair."""
        assert self._agent is None
        program = Path(__file__).with_name("agent_process.py")
        self._agent = subprocess.Popen(
            ["nsenter", f"--net={self.path}", sys.executable, str(program), str(self.base), PREFIX],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for one in terms:
            self.call("terms", *one)
        repaired = self.call("start")
        assert isinstance(repaired, list)
        return repaired

    def kill_agent(self) -> None:
        """End the service as a crash would."""
        assert self._agent is not None
        agent, self._agent = self._agent, None
        agent.kill()
        agent.communicate(timeout=PROGRAM_TIMEOUT)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the service. Raises Refused for a MooringError."""
        assert self._agent is not None
        assert self._agent.stdin is not None
        assert self._agent.stdout is not None
        self._agent.stdin.write(json.dumps([method, args, kwargs]) + "\n")
        self._agent.stdin.flush()
        ready = wait([self._agent.stdout], CALL_TIMEOUT)
        assert ready, f"{method} gives no answer"
        answer = json.loads(self._agent.stdout.readline())
        if "error" in answer:
            raise Refused(*answer["error"])
        return answer["result"]

    def container(self, container_id: str | None = None) -> Container:
        """A container that is on no network yet."""
        made = Container(self, container_id or secrets.token_hex(8))
        self.containers.append(made)
        return made

    def links(self) -> list[str]:
        """The names of the host's interfaces that a network service has made."""
        names = [link["ifname"] for link in json.loads(self.run("ip", "-json", "link"))]
        return [name for name in names if name.startswith(("mr", "mv"))]

    def created(self) -> list[str]:
        """The names of the networks beside the one that is always there."""
        return [network["name"] for network in self.call("list") if network["name"] != "bridge"]

    def tables(self) -> list[str]:
        """The nftables tables of the host."""
        return self.run("nft", "list", "tables").splitlines()

    def remove(self) -> None:
        """End everything, and remove the namespace."""
        for container in self.containers:
            container.kill()
        if self._agent is not None:
            self.kill_agent()
        super().remove()


def connect(host: Namespace, outside: Namespace) -> None:
    """Lay a cable between a host and the outside world, which is its default route."""
    outer, inner = (f"gt{secrets.token_hex(4)}" for _ in range(2))
    ends = str(outside.path), str(host.path)
    _ip("link", "add", outer, "netns", ends[0], "type", "veth", "peer", inner, "netns", ends[1])
    for place, name, addresses in (
        (outside, outer, (f"{OUTSIDE}/24", f"{OUTSIDE6}/64")),
        (host, inner, (f"{HOST_OUTER}/24", f"{HOST_OUTER6}/64")),
    ):
        # Nor waits its link-local address, with which a router asks for those whom others look for.
        place.run("sysctl", "-qw", f"net.ipv6.conf.{name}.accept_dad=0")
        _bring_up(place, name, *addresses)
    host.run("ip", "route", "add", "default", "via", OUTSIDE)
    host.run("ip", "-6", "route", "add", "default", "via", OUTSIDE6)


@contextmanager
def connected() -> Iterator[tuple[NamedNamespace, NamedNamespace]]:
    """A host and the outside world, with a cable between them."""
    with ExitStack() as stack:
        host, outside = made = NamedNamespace(), NamedNamespace()
        for each in made:
            stack.callback(each.remove)
        connect(host, outside)
        yield made


def _bring_up(where: Namespace, ifname: str, *addresses: str) -> None:
    for address in addresses:
        where.run("ip", "address", "add", address, "dev", ifname, *(("nodad",) if ":" in address else ()))
    where.run("ip", "link", "set", ifname, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=PROGRAM_TIMEOUT)
