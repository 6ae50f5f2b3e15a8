# SPDX-License-Identifier: Apache-2.0
"""A stand-in for an agent: the calls of its API that the kernel makes, answered with processes of this
machine.

Its "containers" share this machine's files; a shell is a real one on a real pty.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import socketserver
import struct
import subprocess
import termios
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

# Numbers of system calls on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl) → which argument is read from:
# read, readv, sendfile (busybox cat) and splice.
_READS = {0: 1, 19: 1, 40: 2, 275: 1}
_SETSID = shutil.which("setsid") or "setsid"
_POLLS = {7, 23, 270, 271, 232, 281}
_TIOCSIG = 0x40045436  # asm-generic/ioctls.h


@dataclass
class Exec:
    """A process on a pty whose master is ours."""

    id: str
    container: str
    process: subprocess.Popen[bytes]
    master: int
    terminal: str
    lock: threading.Lock = field(default_factory=threading.Lock)

    def foreground(self) -> dict[str, Any]:
        attributes = termios.tcgetattr(self.master)
        group = os.tcgetpgrp(self.master)
        canonical = bool(attributes[3] & termios.ICANON)
        members = list(_members(group))
        return {
            "pid": group,
            "pgid": group,
            "command": _command(group),
            "is_shell": group == self.process.pid,
            "waiting_for_input": any(self._waits(pid, canonical) for pid in members),
            "echo": bool(attributes[3] & termios.ECHO),
            "canonical": canonical,
        }

    def _waits(self, pid: int, canonical: bool) -> bool:
        try:
            fields = Path(f"/proc/{pid}/syscall").read_text().split()
            if not fields or not fields[0].isdigit():
                return False
            number = int(fields[0])
            if number in _READS:
                return os.readlink(f"/proc/{pid}/fd/{int(fields[_READS[number]], 16)}") == self.terminal
            if number == 7:  # poll: look at the first of the descriptors that are waited for
                with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                    memory.seek(int(fields[1], 16))
                    descriptor = struct.unpack("i", memory.read(4))[0]
                return os.readlink(f"/proc/{pid}/fd/{descriptor}") == self.terminal
            return number in _POLLS and not canonical
        except OSError:
            return False

    def signal(self, name: str, target: str) -> None:
        number = signal.Signals[f"SIG{name}"]
        if target == "leader":
            self.process.send_signal(number)
        elif name == "INT":
            fcntl.ioctl(self.master, _TIOCSIG, int(number))
        else:
            os.killpg(os.tcgetpgrp(self.master), number)

    def resize(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def _members(group: int) -> Any:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{entry}/stat").read_text()
                if int(stat.rpartition(")")[2].split()[2]) == group:
                    yield int(entry)


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


class StandIn:
    """The server. `containers` maps names to their views; change them as a test needs it."""

    def __init__(self, path: Path, *, shell_path: str = "", cwd: str = "/tmp") -> None:
        self.path = path
        self.cwd = cwd
        self.shell_path = shell_path
        self.containers: dict[str, dict[str, Any]] = {
            name: {
                "id": f"{index:064x}",
                "name": name,
                "image": "busybox",
                "image_id": "sha256:" + "b" * 64,
                "spec": {"image": "busybox"},
                "state": "running",
                "pid": 4711,
                "exit_code": None,
                "error": "",
                "created_at": "2026-01-01T00:00:00Z",
                "started_at": "2026-01-01T00:00:01Z",
                "finished_at": None,
                "restart_count": 0,
                "ports": [{"container": 80, "host": 8080, "host_ip": "0.0.0.0", "protocol": "tcp"}],
                "networks": {"bridge": {"ipv4_address": "10.210.0.2", "mac_address": "", "gateway": ""}},
                "cgroup": f"mooring/{name}",
                "managed": True,
            }
            for index, name in enumerate(("web1", "db"))
        }
        self.log = [
            {"time": "2026-01-01T00:00:02Z", "stream": "stdout", "data": "hello\n"},
            {"time": "2026-01-01T00:00:03Z", "stream": "stderr", "data": "warned\n"},
        ]
        # What a pull or a push tells, a line each; before the last one it waits until it may end.
        self.journey: list[dict[str, Any]] = [
            {"progress": {"step": "download", "current": 1 << 20, "total": 4 << 20, "detail": "aa"}},
            {"progress": {"step": "exists", "current": 1 << 20, "total": 1 << 20, "detail": "bb"}},
            {"outcome": {"changed": True, "digest": "sha256:" + "d" * 64}},
        ]
        self.may_end = threading.Event()
        self.may_end.set()
        self.left = threading.Event()  # a client has left in the middle of a journey
        self.asked: list[tuple[str, Any]] = []  # path and body of each
        self.execs: dict[str, Exec] = {}
        self.calls: list[tuple[str, str]] = []
        self.refuse: dict[str, tuple[int, str]] = {}  # a part of a path → the error that it is answered with
        self._server = _Server(str(path), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        for each in self.execs.values():
            if each.process.poll() is None:
                each.process.kill()
            each.process.wait(5)
        self.path.unlink(missing_ok=True)

    def environment(self, given: dict[str, str] | None) -> dict[str, str]:
        path = os.environ["PATH"]
        base = {"PATH": f"{self.shell_path}:{path}" if self.shell_path else path, "HOME": self.cwd}
        return {**base, **(given or {})}


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: str, agent: StandIn) -> None:
        self.agent = agent
        super().__init__(path, _Handler)


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def address_string(self) -> str:
        return "unix"

    def _answer(self, method: str) -> None:
        agent = self.server.agent
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.removeprefix("/mooring/v1/").split("/")]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = json.loads(body) if body else {}
        agent.calls.append((method, url.path))
        self.close_connection = True
        try:
            for part, (status, message) in agent.refuse.items():
                if part in url.path:
                    raise _Refused(status, message)
            self._dispatch(method, parts, data, parse_qs(url.query))
        except _Refused as refused:
            self._send(refused.status, {"message": str(refused), "code": "x"})
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _dispatch(self, method: str, parts: list[str], data: Any, query: dict[str, list[str]]) -> None:
        agent = self.server.agent
        match method, *parts:
            case "GET", "host":
                running = sum(each["state"] == "running" for each in agent.containers.values())
                self._send(
                    200,
                    {
                        "name": "stand-in",
                        "version": "0.1.0",
                        "kernel": "6.1",
                        "arch": "x86_64",
                        "cpus": 2,
                        "memory": 4 << 30,
                        "containers": {"total": len(agent.containers), "running": running},
                        "images": 1,
                    },
                )
            case "GET", "containers":
                self._send(200, list(agent.containers.values()))
            case "GET", "containers", name:
                self._send(200, self._container(name))
            case "GET", "images":
                self._send(
                    200,
                    [
                        {
                            "id": "sha256:" + "b" * 64,
                            "references": ["busybox:latest"],
                            "size": 1 << 20,
                            "created_at": "2026-01-01T00:00:00Z",
                            "architecture": "amd64",
                            "os": "linux",
                            "config": {},
                            "layers": ["sha256:" + "c" * 64],
                        }
                    ],
                )
            case "POST", "images", *_, "pull" | "push":
                agent.asked.append((unquote(urlsplit(self.path).path), data))
                self._journey()
            case "GET", "containers", name, "logs":
                self._container(name)
                lines = agent.log[-int(query["tail"][0]) :]
                text = "".join(json.dumps(line) + "\n" for line in lines).encode()
                self._send_bytes(200, text, "application/x-ndjson")
            case "POST", "containers", name, "exec":
                self._container(name)
                self._exec(data)
            case "POST", "containers", name, "shell":
                self._container(name)
                self._shell(name, data)
            case "GET", "execs", exec_id:
                process = self._exec_of(exec_id).process
                code = process.poll()
                exit_code = None if code is None else 128 - code if code < 0 else code
                self._send(
                    200, {"id": exec_id, "running": code is None, "exit_code": exit_code, "pid": process.pid}
                )
            case "GET", "execs", exec_id, "foreground":
                each = self._exec_of(exec_id)
                with each.lock:
                    self._alive(each)
                    self._send(200, each.foreground())
            case "POST", "execs", exec_id, "signal":
                each = self._exec_of(exec_id)
                with each.lock:
                    self._alive(each)
                    each.signal(data["signal"], data["target"])
                self._send(204, None)
            case "POST", "execs", exec_id, "resize":
                self._exec_of(exec_id).resize(data["rows"], data["cols"])
                self._send(204, None)
            case _:
                raise _Refused(404, f"no such call: {method} {'/'.join(parts)}")

    def _journey(self) -> None:
        agent = self.server.agent
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        *progress, last = agent.journey
        try:
            for line in progress:
                self.wfile.write(json.dumps(line).encode() + b"\n")
        except ConnectionError:  # what was told first has been enough
            agent.left.set()
            return
        while not agent.may_end.wait(0.05):
            ready = wait([self.connection], 0)
            if ready and not self.connection.recv(1, socket.MSG_PEEK):
                agent.left.set()
                return
        self.wfile.write(json.dumps(last).encode() + b"\n")

    def _container(self, name: str) -> dict[str, Any]:
        found = self.server.agent.containers.get(name)
        if found is None:
            raise _Refused(404, f"no such container: {name}")
        return found

    def _exec_of(self, exec_id: str) -> Exec:
        found = self.server.agent.execs.get(exec_id)
        if found is None:
            raise _Refused(404, f"no such exec: {exec_id}")
        return found

    def _alive(self, each: Exec) -> None:
        if each.master < 0:
            raise _Refused(409, f"the exec {each.id} has ended")

    def _exec(self, data: Any) -> None:
        agent = self.server.agent
        answer: dict[str, Any] = {"truncated": False, "timed_out": False}
        try:
            done = subprocess.run(
                data["argv"],
                input=(data.get("stdin") or "").encode(),
                capture_output=True,
                check=False,
                timeout=data.get("timeout"),
                cwd=data.get("workdir") or agent.cwd,
                env=agent.environment(data.get("env")),
            )
            limit = data.get("max_output", 1 << 20)
            answer |= {
                "exit_code": done.returncode,
                "stdout": done.stdout[:limit].decode(errors="replace"),
                "stderr": done.stderr[:limit].decode(errors="replace"),
                "truncated": len(done.stdout) > limit,
            }
        except subprocess.TimeoutExpired:
            answer |= {"exit_code": 137, "stdout": "", "stderr": "", "timed_out": True}
        except OSError as error:
            raise _Refused(500, f"{data['argv'][0]} cannot be executed: {error.strerror}") from None
        self._send(200, answer)

    def _shell(self, name: str, data: Any) -> None:
        agent = self.server.agent
        master, slave = os.openpty()
        fcntl.ioctl(
            master, termios.TIOCSWINSZ, struct.pack("HHHH", data.get("rows", 24), data.get("cols", 80), 0, 0)
        )
        if shutil.which(data["argv"][0]) is None:
            os.close(master)
            os.close(slave)
            raise _Refused(500, f"{data['argv'][0]} cannot be executed: No such file or directory")
        process = subprocess.Popen(
            [_SETSID, "--ctty", *data["argv"]],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=data.get("workdir") or agent.cwd,
            env=agent.environment(data.get("env")),
        )
        each = Exec(f"exec{len(agent.execs)}", name, process, master, os.ttyname(slave))
        agent.execs[each.id] = each
        os.close(slave)
        self.wfile.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: mooring-stream\r\n"
            + f"Mooring-Exec-Id: {each.id}\r\n\r\n".encode()
        )
        self._relay(each)

    def _relay(self, each: Exec) -> None:
        """Copy both ways until the shell has gone, and all that it has said is through, or until the client
        has gone.
        """
        incoming = threading.Thread(target=self._relay_input, args=(each,), daemon=True)
        incoming.start()
        readable = select.poll()
        readable.register(each.master, select.POLLIN)
        try:
            while True:
                ended = each.process.poll() is not None
                if readable.poll(0 if ended else 50):
                    self.connection.sendall(os.read(each.master, 65536))
                elif ended:
                    break
        except OSError:  # nobody holds the terminal any more, or the client has gone
            pass
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)
        incoming.join(5)
        with each.lock:
            os.close(each.master)
            each.master = -1

    def _relay_input(self, each: Exec) -> None:
        try:
            while data := self.rfile.read1(65536):
                view = memoryview(data)
                while view:
                    view = view[os.write(each.master, view) :]
        except (OSError, ValueError):
            pass
        if each.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.process.pid, signal.SIGHUP)

    def _send(self, status: int, answer: Any) -> None:
        self._send_bytes(status, b"" if answer is None else json.dumps(answer).encode(), "application/json")

    def _send_bytes(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
