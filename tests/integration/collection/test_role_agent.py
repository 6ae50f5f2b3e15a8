# SPDX-License-Identifier: Apache-2.0
"""The role that installs the agent: on a host without systemd, which is this one with directories of its
own."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import unix_http
from harness.agent import _free_prefix
from harness.claims import free_port
from harness.registry import make_certificates
from harness.remains import Traces
from harness.waiting import eventually
from integration.collection.conftest import end_masters
from integration.collection.playbooks import Controller, Run, Sshd
from mooring_agent.config import AgentConfig

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture(scope="module")
def archive(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent as one file."""
    path = tmp_path_factory.mktemp("dist") / "mooring.pyz"
    subprocess.run([sys.executable, project_root / "script" / "zip_agent.py", path], check=True, timeout=100)
    return path


class Host:
    """A host whose agent is installed by the role."""

    def __init__(self, directory: Path, archive: Path, controller: Controller) -> None:
        self.directory = directory
        self.controller = controller
        self.config = AgentConfig.make(
            data_root=directory / "data",
            run_root=directory / "run",
            cgroup_parent=directory.name,
            network_prefix=str(_free_prefix()),
        )
        self.traces = Traces(
            directory / "run", self.config.cgroup_parent, self.config.nft_table, self.config.bridge_prefix
        )
        self.variables: dict[str, Any] = {
            "mooring_agent_source": str(archive),
            "mooring_agent_instance": directory.name,
            "mooring_agent_data_root": str(self.config.data_root),
            "mooring_agent_run_root": str(self.config.run_root),
            "mooring_agent_network_prefix": self.config.network_prefix,
            "mooring_agent_prefix": str(directory / "usr"),
            "mooring_agent_config_directory": str(directory / "etc"),
            "mooring_agent_log_file": str(directory / "agent.log"),
            "mooring_agent_service": "plain",
            "mooring_agent_install_packages": False,
        }

    def role(self, *flags: str, **variables: Any) -> Run:
        """Run the role with some variables of its own."""
        role = {"role": "mooring.fleet.agent", **self.variables, **variables}
        return self.controller.play([{"hosts": "node", "gather_facts": False, "roles": [role]}], *flags)

    def ask(self, path: str, method: str = "GET", body: object = None) -> Any:
        return unix_http.request(self.config.socket, method, f"/mooring/v1/{path}", body).json()

    def container(self) -> Any:
        return self.ask("containers/ticker")

    def versions(self) -> list[Path]:
        return sorted((self.directory / "usr" / "lib" / "mooring").glob("mooring-*.pyz"))


@pytest.fixture
def host(request: pytest.FixtureRequest, directory: Path, archive: Path) -> Iterator[Host]:
    directory.chmod(0o755)
    sshd = Sshd(directory) if getattr(request, "param", "local") == "ssh" else None
    variables = sshd.variables if sshd else {"ansible_connection": "local"}
    controller = Controller(directory, directory / "run" / "mooring.sock", variables)
    host = Host(directory, archive, controller)
    yield host
    supervisor = directory / "usr" / "lib" / "mooring" / "supervise.py"
    configuration = directory / "etc" / f"{directory.name}.json"
    if configuration.exists():
        subprocess.run([sys.executable, supervisor, "stop", configuration], check=False, timeout=70)
    host.traces.sweep()
    if sshd:
        end_masters(controller)
        sshd.close()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("host", ["ssh"], indirect=True)
def test_an_agent_is_installed_upgraded_and_removed(host: Host, archive: Path) -> None:
    checked = host.role("--check")
    assert checked.code == 0, checked.output
    assert not (host.directory / "usr").exists()

    installed = host.role()
    again = host.role()
    assert installed.code == 0, installed.output
    assert again.code == 0, again.output
    assert checked.stats["changed"] > 0
    assert installed.stats["changed"] > 0
    assert again.stats["changed"] == 0, again.output
    assert (host.directory / "usr" / "bin" / "mooring").resolve() == host.versions()[0]
    settings = host.directory / "etc" / f"{host.directory.name}.agent.yaml"
    assert settings.stat().st_mode & 0o777 == 0o600

    host.ask("images/busybox", "PUT", {"template": "busybox"})
    ticker = {
        "image": "busybox",
        "command": ["sh", "-c", "while :; do date; sleep 1; done"],
        "stop_timeout": 0,
    }
    host.ask("containers/ticker", "PUT", ticker)
    before, agent = host.container(), host.ask("host")["agent"]["pid"]
    newer = host.directory / "newer.pyz"
    shutil.copy(archive, newer)
    with zipfile.ZipFile(newer, "a") as file:
        file.writestr("mooring_agent/newer.txt", "what makes this a newer version")

    upgraded = host.role(mooring_agent_source=str(newer), mooring_agent_name="lighthouse")
    assert upgraded.code == 0, upgraded.output
    assert host.ask("host")["agent"]["pid"] != agent
    assert host.ask("host")["name"] == "lighthouse"
    assert (host.container()["pid"], host.container()["state"]) == (before["pid"], "running")

    removed = host.role(mooring_agent_state="absent")
    assert removed.code == 0, removed.output
    eventually(lambda: not host.traces.remains(), 10, str(host.traces.remains()))
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{host.config.cgroup_parent}"))
    assert host.config.data_root.exists()
    assert not (host.directory / "usr" / "lib" / "mooring").exists()


def test_an_agent_that_dies_is_started_again(host: Host) -> None:
    assert host.role().code == 0
    first = host.ask("host")["agent"]["pid"]

    os.kill(first, signal.SIGKILL)

    def another() -> bool:
        try:
            return bool(host.ask("host")["agent"]["pid"] != first)
        except OSError:
            return False

    eventually(another, 20)
    assert "ended with -9, starting it again in 1 s" in (host.directory / "agent.log").read_text()
    assert host.role(mooring_agent_state="absent", mooring_agent_remove_data=True).code == 0
    assert not host.config.data_root.exists()
    assert host.role(mooring_agent_state="absent").stats["changed"] == 0


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            {"mooring_agent_source": "/nonexistent/mooring.pyz"},
            "is not on the controller at /nonexistent/mooring.pyz",
        ),
        ({"mooring_agent_python": "/nonexistent/python"}, "is no usable Python, expected 3.11 or later"),
        ({"mooring_agent_state": "gone"}, "value of mooring_agent_state must be one of: present, absent"),
    ],
)
def test_a_host_or_an_option_that_does_not_fit(host: Host, variables: dict[str, Any], sentence: str) -> None:
    run = host.role(**variables)

    assert run.code == 2
    assert sentence in " ".join(run.output.split())
    assert not (host.directory / "usr").exists()


@pytest.mark.timeout(400)
def test_hosts_of_a_play_are_peers_of_each_other(host: Host) -> None:
    make_certificates(host.directory)
    port, other = free_port(), free_port()
    inventory = yaml.safe_load(host.controller.inventory.read_text())
    hosts = inventory["all"]["hosts"]
    local = hosts["node"]
    hosts["node"] = {**local, "ansible_host": "127.0.0.1", "mooring_agent_peers_port": port}
    # Another host of the fleet, which the play below leaves alone.
    hosts["far"] = {**local, "mooring_agent_peers_address": "127.0.0.2", "mooring_agent_peers_port": other}
    host.controller.inventory.write_text(yaml.safe_dump(inventory))
    peers = {
        "mooring_agent_peers": "{{ groups['all'] }}",
        "mooring_agent_peers_listen": "127.0.0.1",
        "mooring_agent_peers_ca_file": str(host.directory / "ca.crt"),
        "mooring_agent_peers_certificate": str(host.directory / "server.crt"),
        "mooring_agent_peers_key": str(host.directory / "server.key"),
    }

    run, again = host.role(**peers), host.role(**peers)
    assert run.code == 0, run.output
    assert (run.stats["changed"] > 0, again.stats["changed"]) == (True, 0), again.output
    view = host.ask("peers")
    address = f"127.0.0.1:{port}"
    assert (view["configured"], view["serving"], view["failure"]) == (True, address, None)
    assert view["declared"]["address"] == address
    assert view["declared"]["members"] == [address, f"127.0.0.2:{other}"]

    lacking = host.role(**{**peers, "mooring_agent_peers_key": "/nonexistent.key"})
    assert lacking.code == 2
    assert "node does not serve its peers" in " ".join(lacking.output.split())
    ended = host.role()
    assert ended.code == 0, ended.output
    assert host.ask("peers")["declared"] is None
    assert host.role(mooring_agent_state="absent", mooring_agent_remove_data=True).code == 0


def test_who_may_talk_to_an_agent(host: Host) -> None:
    make_certificates(host.directory)
    port = free_port()
    access = {
        "mooring_agent_socket_group": "4321",
        "mooring_agent_tls": {
            "listen": f"127.0.0.1:{port}",
            "ca_file": str(host.directory / "ca.crt"),
            "certificate": str(host.directory / "server.crt"),
            "key": str(host.directory / "server.key"),
        },
        "mooring_agent_access": [{"certificates": ["CN=client"], "allow": "read"}],
        "mooring_agent_docker_command": True,
    }

    # A host without a docker client, as far as the role can see.
    run, again = (
        host.controller.play(
            [
                {
                    "hosts": "node",
                    "gather_facts": False,
                    "environment": {"PATH": str(_without_docker(host.directory))},
                    "roles": [{"role": "mooring.fleet.agent", **host.variables, **access}],
                }
            ]
        )
        for _ in range(2)
    )
    assert run.code == 0, run.output
    assert (run.stats["changed"] > 0, again.stats["changed"]) == (True, 0), again.output
    assert host.config.socket.stat().st_gid == 4321
    context = ssl.create_default_context(cafile=str(host.directory / "ca.crt"))
    context.load_cert_chain(host.directory / "client.crt", host.directory / "client.key")
    client = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=20)
    client.request("GET", "/_ping")
    assert client.getresponse().read() == b"OK"
    client.request("DELETE", "/mooring/v1/volumes/x")
    assert client.getresponse().status == 403
    client.close()
    docker = host.directory / "usr" / "bin" / "docker"
    dialled = subprocess.run(
        [docker, "--host", f"unix://{host.config.socket}", "system", "dial-stdio"],
        input=b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert dialled.stdout.endswith(b"\r\n\r\nOK")

    ended = host.role()
    assert ended.code == 0, ended.output
    assert not docker.is_symlink()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert host.role(mooring_agent_state="absent", mooring_agent_remove_data=True).code == 0


def _without_docker(directory: Path) -> Path:
    """A directory of links to all programs but docker."""
    programs = directory / "programs"
    programs.mkdir(exist_ok=True)
    for place in ("/usr/sbin", "/usr/bin", "/sbin", "/bin", str(Path(sys.executable).parent)):
        for program in Path(place).iterdir():
            link = programs / program.name
            if program.name != "docker" and not link.is_symlink():
                link.symlink_to(program)
    return programs
