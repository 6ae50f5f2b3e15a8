# SPDX-License-Identifier: Apache-2.0
"""An agent of a test's own, with directories, cgroups and networks that no other agent here has."""

from __future__ import annotations

import ipaddress
import os
import random
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness import unix_http
from harness.claims import claim
from harness.host import docker_client
from harness.remains import Host, Traces
from harness.unix_http import ApiError, Response
from harness.waiting import PATIENCE
from mooring_agent.config import AgentConfig

READY_WITHIN = 20.0 * PATIENCE  # seconds; a noisy machine may need a few
STOPPED_WITHIN = 20.0 * PATIENCE
KEEPER_GONE_WITHIN = 10.0 * PATIENCE
GONE_WITHIN = 10.0
_POLL_INTERVAL = 0.01
_TRACEBACK = "Traceback (most recent call last)"
_TRACEBACKS_SHOWN = 3
# Networks that every agent has, whether it lets them be removed or not.
_PREDEFINED_NETWORKS = {"bridge", "host", "none"}


class AgentFailed(AssertionError):
    """The agent has not come up, has ended by itself, or has left something behind."""


class AgentUnderTest:
    """`mooring agent` as a child process in the foreground, with its log in a file.

    Everything is below `base`, a short directory, since the path of a unix socket may have 107 bytes at most.
    `user` says in messages whose agent it is. `expect_traceback=True` is for a test that provokes one in the
    agent's log; else `end` fails on it. `run_root` is another place for it than below `base`;
    `pool` None leaves the number of launchers that wait to the agent. `program` is what `mooring` is run by,
    `directory` is where `base` is made.
    """

    def __init__(
        self,
        *,
        arguments: Sequence[str] = (),
        expect_traceback: bool = False,
        user: str = "a test",
        run_root: Path | None = None,
        pool: int | None = 10,
        program: Sequence[str] = (sys.executable, "-m", "mooring_agent"),
        directory: Path | None = None,
    ) -> None:
        while True:
            self.base = Path(tempfile.mkdtemp(prefix="mrgt-", dir=directory or directory_for_roots()))
            self.config = AgentConfig.make(
                data_root=self.base / "data",
                run_root=run_root or self.base / "run",
                cgroup_parent=f"mrgt-{secrets.token_hex(4)}",
                network_prefix=str(_free_prefix()),
            )
            # Four digits tell its interfaces from those of others: of some hundred agents two have the same.
            if run_root is not None or claim(f"interfaces/{self.config.bridge_prefix}"):
                break
            self.base.rmdir()
        # A process of another user inside a container has to pass through it.
        self.base.chmod(0o755)
        self.arguments = tuple(arguments)
        self.pool = pool
        self.program = tuple(program)
        self.user = user
        self.expect_traceback = expect_traceback
        self.log_path = self.base / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.traces = Traces(
            self.base, self.config.cgroup_parent, self.config.nft_table, self.config.bridge_prefix
        )
        self._ended = False
        self._last_words = ""
        self._keepers: dict[int, int] = {}  # pid → pidfd, so that a pid used again is never killed

    @property
    def socket(self) -> Path:
        """The unix socket on which both APIs answer."""
        return self.config.socket

    # --- life and death

    def command(self) -> list[str]:
        """Return the command line of the agent; its socket is where it is by default."""
        config = self.config
        return [
            *(*self.program, "agent"),
            *("--data-root", str(config.data_root)),
            *("--run-root", str(config.run_root)),
            *("--cgroup-parent", config.cgroup_parent),
            *("--network-prefix", config.network_prefix),
            *(() if self.pool is None else ("--pool", str(self.pool))),
            *self.arguments,
        ]

    def start(self, *, wait: bool = True) -> AgentUnderTest:
        """Start the agent and wait until it is ready. Raises AgentFailed with the end of its log."""
        if self.process is not None:
            raise AgentFailed(f"the agent of {self.base} runs already as process {self.process.pid}")
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
        if wait:
            self.wait_until_ready()
        return self

    def wait_until_ready(self, timeout: float = READY_WITHIN) -> None:
        """Wait until `GET /_ping` is answered. Raises AgentFailed, at once if the agent ends."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                if self.request("GET", "/_ping", timeout=timeout).status == 200:
                    break
                reason = "GET /_ping was not answered with 200"
            except OSError as error:
                reason = f"{self.socket}: {error}"
            if self.process is None:
                raise AgentFailed(f"the agent of {self.base} was not started")
            status = self.process.poll()
            if status is not None:
                self.process = None
                raise AgentFailed(f"the agent ended with {status} before it was ready\n{self.log_tail()}")
            if time.monotonic() >= deadline:
                raise AgentFailed(
                    f"the agent was not ready within {timeout:g} s: {reason}\n{self.log_tail()}"
                )
            time.sleep(_POLL_INTERVAL)
        self.keeper_pids()

    def kill9(self) -> None:
        """Kill the agent, and the agent only, with SIGKILL."""
        process = self._running()
        process.kill()
        process.wait(STOPPED_WITHIN)
        self.process = None

    def terminate(self, timeout: float = STOPPED_WITHIN) -> int:
        """Stop the agent with SIGTERM, return its exit status. Raises AgentFailed after `timeout` s."""
        process = self._running()
        process.terminate()
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AgentFailed(
                f"the agent did not stop within {timeout:g} s of SIGTERM\n{self.log_tail()}"
            ) from None
        self.process = None
        return status

    def restart(self) -> None:
        """Stop the agent cleanly and start it again on the same directories."""
        status = self.terminate()
        if status != 0:
            raise AgentFailed(f"the agent stopped with status {status}, expected 0\n{self.log_tail()}")
        self.start()

    def keeper_pids(self) -> tuple[int, ...]:
        """Return the pids of the keeper and of its guardian, as the agent tells them."""
        keeper = self.api("GET", "/mooring/v1/host")["keeper"]
        pids = tuple(keeper[name] for name in ("pid", "guardian_pid") if keeper.get(name))
        for pid in pids:
            self._remember_keeper(pid)
        return pids

    def log_tail(self, lines: int = 60) -> str:
        """Return the end of the agent's log."""
        return "\n".join(self._log().splitlines()[-lines:]) or "(nothing)"

    def _log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # --- talking to it

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = unix_http.DEFAULT_TIMEOUT,
    ) -> Response:
        """Send one request and return the answer, whatever its status; dict and list go as JSON."""
        return unix_http.request(self.socket, method, path, body, headers=headers, timeout=timeout)

    def api(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        check: bool = True,
        timeout: float = unix_http.DEFAULT_TIMEOUT,
    ) -> Any:
        """Send one request, return the JSON data of its answer. With `check`, raises ApiError from 400 on."""
        response = self.request(method, path, body, timeout=timeout)
        if check and response.status >= 400:
            raise ApiError(method, path, response)
        return response.json()

    def stream(
        self, method: str, path: str, body: object = None, *, timeout: float = unix_http.DEFAULT_TIMEOUT
    ) -> Iterator[Any]:
        """Yield the values of an answer of one JSON value a line, as they come. Raises ApiError."""
        headers = {"Accept": "application/x-ndjson"}
        return unix_http.stream(self.socket, method, path, body, headers=headers, timeout=timeout)

    def docker_environment(self) -> dict[str, str]:
        """Return the environment in which a docker client speaks to this agent, and knows of no other."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("DOCKER_") or name == "DOCKER_API_VERSION"
        }
        return environment | {
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(self.base / "docker"),
        }

    def docker_command(self, *arguments: str) -> list[str]:
        """Return the command line of the real docker client, for a test that runs it itself (in a pty)."""
        client = docker_client()
        if client is None:
            raise FileNotFoundError("no docker client on this host: mark the test with `docker`")
        return [client, *arguments]

    def docker(
        self, *arguments: str, stdin: str | bytes = b"", check: bool = True, timeout: float = 60.0 * PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        """Run the real docker client on this agent. With `check`, raises AssertionError where it fails."""
        done = subprocess.run(
            self.docker_command(*arguments),
            check=False,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            env=self.docker_environment(),
            timeout=timeout,
        )
        text = subprocess.CompletedProcess(
            done.args,
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )
        if check and text.returncode != 0:
            raise AssertionError(
                f"docker {' '.join(arguments)} ended with {text.returncode}\n"
                f"stdout: {text.stdout}\nstderr: {text.stderr}\nagent's log:\n{self.log_tail(20)}"
            )
        return text

    def add_busybox_image(self, reference: str = "busybox") -> None:
        """Make the image from the template `busybox`."""
        self.api("PUT", f"/mooring/v1/images/{reference}", {"template": "busybox"}, timeout=60.0 * PATIENCE)

    # --- the end

    def remove_everything(self) -> None:
        """Remove all containers, networks and declared groups through the API. Raises ApiError."""
        for container in self.api("GET", "/mooring/v1/containers"):
            self.api("DELETE", f"/mooring/v1/containers/{quote(container['name'])}?force=true&timeout=0")
        for network in self.api("GET", "/mooring/v1/networks"):
            predefined = network["name"] in _PREDEFINED_NETWORKS
            self.api("DELETE", f"/mooring/v1/networks/{quote(network['name'])}", check=not predefined)
        for group in self.api("GET", "/mooring/v1/cgroups"):
            self.api("DELETE", f"/mooring/v1/cgroups/{quote(group['name'], safe='')}")

    def end(self) -> None:
        """Remove everything through the API and stop the agent. Raises AgentFailed where that fails.

        A dead agent is started once more, since only an agent can remove its containers in good order.
        """
        self._raise(self._end())

    @staticmethod
    def verify_gone(agents: Sequence[AgentUnderTest]) -> None:
        """Wait until nothing is left of agents, remove the directories. Raises a group of AgentFailed else.

        Whatever is found, the host is clean afterwards: it is recorded, then removed by force. This takes
        some seconds at once after `end`, the time for which a keeper without work stays, and none later.
        """
        stayed = [each._wait_for_keepers() for each in agents]
        host = Host()
        failures = []
        for each, problems in zip(agents, stayed, strict=True):
            try:
                each._raise([*problems, *each._sweep(host)])
            except AgentFailed as failure:
                failures.append(failure)
        if failures:
            raise ExceptionGroup("agents have left something behind", failures)

    def destroy(self) -> None:
        """`end` and `verify_gone` in one. A second call does nothing."""
        self._raise([*self._end(), *self._wait_for_keepers(), *self._sweep(Host())])

    def _end(self) -> list[str]:
        """Return what went wrong."""
        if self._ended:
            return []
        self._ended = True
        problems = []
        try:
            if self.process is not None and self.process.poll() is not None:
                problems.append(f"it ended by itself with {self.process.returncode}")
                self.process = None
            if self.process is None:
                self.start()
            self.keeper_pids()
            self.remove_everything()
            status = self.terminate()
            if status != 0:
                problems.append(f"it stopped with status {status}, expected 0")
        except (AgentFailed, ApiError, OSError, HTTPException, ValueError, LookupError) as error:
            problems.append(f"it did not end in good order: {type(error).__name__} {error}")
        finally:
            if self.process is not None:
                self.kill9()
        if not self.expect_traceback:
            found = [line for line in self._log().splitlines() if _TRACEBACK in line]
            problems += [f"its log has a traceback: {line}" for line in found[:_TRACEBACKS_SHOWN]]
        self._last_words = self.log_tail()
        return problems

    def _sweep(self, host: Host) -> list[str]:
        """Return what was left, and not only when `host` was looked at."""
        if not self.base.exists():
            return []
        try:
            left = self.traces.remains(host)
            if left:
                left, host = self.traces.wait_until_gone(GONE_WITHIN), Host()
        finally:
            self.traces.sweep(host)
            shutil.rmtree(self.base, ignore_errors=True)
        return [f"left behind: {each}" for each in left]

    def _raise(self, problems: list[str]) -> None:
        if problems:
            listed = "\n  ".join(problems)
            raise AgentFailed(
                f"the agent of {self.user}:\n  {listed}\nthe end of its log:\n{self._last_words}"
            )

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise AgentFailed(f"the agent of {self.base} does not run")
        return self.process

    def _remember_keeper(self, pid: int) -> None:
        if pid in self._keepers and not _has_ended(self._keepers[pid], 0):
            return
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        if pid in self._keepers:
            os.close(self._keepers[pid])
        self._keepers[pid] = descriptor

    def _wait_for_keepers(self) -> list[str]:
        """Wait until every keeper has left, kill those that stay, and tell which those were."""
        problems = []
        deadline = time.monotonic() + KEEPER_GONE_WITHIN
        for pid, descriptor in self._keepers.items():
            if not _has_ended(descriptor, max(0.0, deadline - time.monotonic())):
                problems.append(f"the keeper, process {pid}, was still there {KEEPER_GONE_WITHIN:g} s after")
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                _has_ended(descriptor, 5.0)
            os.close(descriptor)
        self._keepers.clear()
        return problems


def _has_ended(pidfd: int, timeout: float) -> bool:
    """Return whether the process ends within `timeout` seconds: then its pidfd is readable, pidfd_open(2)."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(timeout * 1000))


def directory_for_roots() -> str:
    """Return a short directory that can hold overlay's upper layers: overlayfs itself cannot."""
    kinds = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _source, target, kind, *_rest = line.split()
        kinds[target] = kind
    if kinds.get("/tmp", kinds.get("/")) != "overlay":
        return "/tmp"
    given = os.environ.get("TMPDIR", "")
    return given if kinds.get(given, "overlay") != "overlay" else "/dev/shm"


def _free_prefix() -> ipaddress.IPv4Network:
    """Return a free /20 of 10.211.0.0/16 to 10.239.0.0/16: no route of the host, no agent of tests has it."""
    routes = _host_routes()
    candidates = [
        ipaddress.IPv4Network((f"10.{second}.{third}.0", 20))
        for second in range(211, 240)
        for third in range(0, 256, 16)
    ]
    random.SystemRandom().shuffle(candidates)
    for candidate in candidates:
        if not any(candidate.overlaps(route) for route in routes) and claim(f"network/{candidate}"):
            return candidate
    raise AgentFailed("no /20 between 10.211.0.0 and 10.239.255.255 is free of routes of this host")


def _host_routes() -> list[ipaddress.IPv4Network]:
    """Return the routes of the main table apart from the default one, proc_pid_net(5)."""
    routes = []
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        address, mask = (int.from_bytes(bytes.fromhex(fields[i]), sys.byteorder) for i in (1, 7))
        if mask:
            routes.append(ipaddress.IPv4Network((address, mask.bit_count())))
    return routes
