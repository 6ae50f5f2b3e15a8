# SPDX-License-Identifier: Apache-2.0
"""Several hosts on this machine, made of namespaces by demo/hosts.sh, that Ansible reaches over SSH."""

from __future__ import annotations

import ipaddress
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.claims import claim
from harness.waiting import PATIENCE
from mooring_agent.config import AgentConfig

UP_WITHIN = 60  # seconds
_NUMBERS = 8  # hosts have .11 and the following of their /24


class FleetHosts:
    """Hosts with network, processes, mounts and sshd of their own, and names that no others here have.

    They are machines without an agent: the role installs it, with the variables of `inventory`. Everything of
    them is below `base`. `up` comes first; `down` ends all, whatever state it is in.
    """

    def __init__(self, project_root: Path, count: int) -> None:
        token = secrets.token_hex(2)
        self.base = Path(tempfile.mkdtemp(prefix="mrgf-", dir="/tmp"))  # short: sockets are below it
        # Users of containers have to pass through it.
        self.base.chmod(0o755)
        self.names = [f"mrgf-{token}-{number}" for number in range(1, count + 1)]
        self.network = _free_network()
        self._root = project_root
        self._switch, self._link = f"mrgf-{token}-net", f"mrgf-{token}"
        assert count <= _NUMBERS

    def up(self) -> None:
        """Make all of them. Raises AssertionError with what the script said."""
        (self.base / "python").symlink_to(getattr(sys, "_base_executable", sys.executable))
        self._script("hosts_up")

    def down(self) -> None:
        """Remove all that there is of them. Raises AssertionError if something stays."""
        self._script("hosts_down")
        remains = self._script("hosts_remains")
        shutil.rmtree(self.base, ignore_errors=True)
        assert not remains, remains

    def address(self, name: str) -> str:
        """The address of a host on the wire between them."""
        return str(self.network[10 + int(name.rpartition("-")[2])])

    def socket(self, name: str) -> Path:
        """Where its agent answers; the machine sees it as well."""
        return self.base / "hosts" / name / "run" / "mooring.sock"

    def config(self, name: str) -> AgentConfig:
        """What is derived from the places of its agent."""
        place = self.base / "hosts" / name
        return AgentConfig.make(data_root=place / "data", run_root=place / "run", cgroup_parent=name)

    def process(self, name: str) -> int:
        """The process of this machine that is in the mounts of a host, and so sees its /proc at its root."""
        return int((self.base / "hosts" / name / "init").read_text().split()[0])

    def network_of(self, name: str, pid: int) -> Path:
        """The network namespace of the process that a host knows as `pid`, as this machine reaches it."""
        return Path(f"/proc/{self.process(name)}/root/proc/{pid}/ns/net")

    def run(self, name: str, *argv: str) -> str:
        """Run a program on the network of a host, and return what it prints. Raises AssertionError."""
        return _run(["ip", "netns", "exec", name, *argv], timeout=20)

    def inventory(self, **groups: Iterable[str]) -> dict[str, Any]:
        """An inventory of these groups of them, as YAML has it, with what the role needs to know of each."""
        state, place = self.base, f"{self.base}/hosts/{{{{ inventory_hostname }}}}"
        variables = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": f"{state}/ssh/client",
            "ansible_ssh_common_args": (
                f"-F none -o UserKnownHostsFile={state}/ssh/known_hosts -o GlobalKnownHostsFile=/dev/null "
                "-o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
            ),
            "ansible_python_interpreter": f"{state}/python",
            "mooring_socket": f"{place}/run/mooring.sock",
            "mooring_agent_instance": "{{ inventory_hostname }}",
            "mooring_agent_prefix": f"{place}/usr",
            "mooring_agent_data_root": f"{place}/data",
            "mooring_agent_run_root": f"{place}/run",
            "mooring_agent_config_directory": f"{place}/etc",
            "mooring_agent_log_file": f"{place}/agent.log",
            "mooring_agent_service": "plain",
            "mooring_agent_install_packages": False,
        }
        children = {
            group: {"hosts": {name: {"ansible_host": self.address(name)} for name in names}}
            for group, names in groups.items()
        }
        return {"all": {"vars": variables, "children": children}}

    def _script(self, function: str) -> str:
        """Call a function of demo/hosts.sh, which asks these variables who the hosts are."""
        settings = {
            "project_root": self._root,
            "demo": self._root / "demo",
            "state": self.base,
            "switch": self._switch,
            "link": self._link,
            "network": str(self.network.network_address).removesuffix(".0"),
            "patience": round(15 * PATIENCE),
        }
        lines = [
            "set -euo pipefail",
            """say() { printf '%s\\n' "$*"; }""",
            f". {self._root}/demo/hosts.sh",
            f"demo_hosts=({' '.join(self.names)})",
            *(f"{name}={value}" for name, value in settings.items()),
            function,
        ]
        return _run(["bash", "-c", "\n".join(lines)], timeout=UP_WITHIN)


def _run(argv: list[str], timeout: float) -> str:
    done = subprocess.run(
        argv,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout * PATIENCE,
    )
    assert done.returncode == 0, f"{argv} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def _free_network() -> ipaddress.IPv4Network:
    """A /24 of 10.208.0.0/16 to which this machine has no route, and no other test either."""
    for third in random.SystemRandom().sample(range(256), 256):
        candidate = ipaddress.IPv4Network(f"10.208.{third}.0/24")
        routes = _run(["ip", "-4", "route", "show", "root", str(candidate)], timeout=10)
        if not routes and claim(f"network/{candidate}"):
            return candidate
    raise AssertionError("no /24 of 10.208.0.0/16 is free of routes of this host")
