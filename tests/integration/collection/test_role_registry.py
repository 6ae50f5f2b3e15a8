# SPDX-License-Identifier: Apache-2.0
"""The role that runs a registry, on a real agent: converged, used by skopeo and the agent, removed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.claims import free_port
from harness.host import need_programs
from integration.collection.playbooks import Controller, Run

pytestmark = [pytest.mark.root, pytest.mark.slow]

PASSWORD = "anchors-a-weigh"
OTHER = "hoist-the-flag"


class Registry:
    """A registry made by the role."""

    def __init__(self, directory: Path, agent: AgentUnderTest) -> None:
        self.directory = directory
        self.agent = agent
        self.controller = Controller(directory, agent.socket, {"ansible_connection": "local"})
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.variables: dict[str, Any] = {
            "mooring_registry_socket": str(agent.socket),
            "mooring_registry_address": "127.0.0.1",
            "mooring_registry_port": self.port,
            "mooring_registry_hosts": ["127.0.0.1", "registry.example"],
            "mooring_registry_config_directory": str(directory / "etc"),
            "mooring_registry_certs_directory": str(directory / "certs.d"),
            "mooring_registry_users": [{"name": "sailor", "password": PASSWORD}],
            "mooring_registry_install_packages": False,
        }

    def role(self, *flags: str, tasks_from: str = "main", **variables: Any) -> Run:
        include = {
            "name": "registry",
            "ansible.builtin.include_role": {"name": "mooring.fleet.registry", "tasks_from": tasks_from},
            "vars": {**self.variables, **variables},
        }
        return self.controller.run([include], *flags)

    @property
    def ca(self) -> Path:
        return self.directory / "certs.d" / self.host

    def skopeo(self, command: str, *arguments: str, user: str = f"sailor:{PASSWORD}") -> Any:
        side = {"copy": "src-"}.get(command, "")
        options = [f"--{side}cert-dir={self.ca}", f"--{side}creds={user}"]
        return subprocess.run(
            ["skopeo", "--insecure-policy", command, *options, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def registry(directory: Path, start_agent: Callable[..., AgentUnderTest]) -> Registry:
    need_programs("mmdebstrap", "skopeo", "htpasswd", "openssl")
    return Registry(directory, start_agent())


@pytest.mark.timeout(300)
def test_a_registry_is_run_used_changed_and_removed(registry: Registry) -> None:
    checked = registry.role("--check")
    assert checked.code == 0, checked.output
    assert not (registry.directory / "etc").exists()
    assert registry.agent.api("GET", "/mooring/v1/containers") == []

    run = registry.role("-vv")
    assert run.code == 0, run.output
    again = registry.role()
    assert again.code == 0, again.output
    assert again.stats["changed"] == 0, again.output
    assert PASSWORD not in run.output
    assert not any(PASSWORD in json.dumps(line) for line in run.lines)
    hashes = (registry.directory / "etc/htpasswd").read_text()
    assert hashes.startswith("sailor:$2y$10$")
    (view,) = registry.agent.api("GET", "/mooring/v1/containers")

    push = {
        "name": "push",
        "mooring.fleet.image": {
            "name": "busybox",
            "push": {"to": f"{registry.host}/team/box:1"},
            "credentials": {"username": "sailor", "password": PASSWORD},
        },
    }
    pushed = registry.controller.run(
        [{**push, "name": "check", "check_mode": True}, push, {**push, "name": "push again"}]
    )
    assert pushed.code == 0, pushed.output
    assert pushed.changes == {"check": True, "push": True, "push again": False}
    found = registry.skopeo("inspect", f"docker://{registry.host}/team/box:1")
    assert json.loads(found.stdout)["Digest"] == pushed.result("push")["pushed"][0]["digest"], found.stderr
    copied = registry.skopeo("copy", f"docker://{registry.host}/team/box:1", f"dir:{registry.directory}/box")
    assert copied.returncode == 0, copied.stderr
    refused = registry.skopeo("inspect", f"docker://{registry.host}/team/box:1", user="sailor:wrong")
    assert refused.returncode != 0
    assert "authentication required" in refused.stderr.lower() or "unauthorized" in refused.stderr.lower()

    users = [{"name": "captain", "password": OTHER}]
    changed = registry.role(mooring_registry_users=users)
    assert changed.code == 0, changed.output
    assert changed.stats["changed"] == 2
    assert registry.agent.api("GET", "/mooring/v1/containers")[0]["pid"] == view["pid"]
    registry.variables["mooring_registry_users"] = users
    for user, works in (("sailor:" + PASSWORD, False), ("captain:" + OTHER, True)):
        told = registry.skopeo("list-tags", f"docker://{registry.host}/team/box", user=user)
        assert (told.returncode == 0) is works, told.stderr

    gone = registry.skopeo("delete", f"docker://{registry.host}/team/box:1", user=f"captain:{OTHER}")
    assert gone.returncode == 0, gone.stderr
    collected = registry.role(tasks_from="garbage_collect")
    assert collected.code == 0, collected.output
    told = collected.result("Delete blobs that no manifest needs")
    assert "blob eligible for deletion: sha256:" in told["stdout"]
    clean = registry.role()
    assert clean.stats["changed"] == 0, clean.output

    removed = registry.role(mooring_registry_state="absent", mooring_registry_remove_data=True)
    assert removed.code == 0, removed.output
    assert not (registry.directory / "etc").exists()
    assert registry.agent.api("GET", "/mooring/v1/volumes") == []
    assert registry.role(mooring_registry_state="absent").stats["changed"] == 0


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"mooring_registry_tls": "files"}, "expected mooring_registry_certificate and mooring_registry_key"),
        ({"mooring_registry_tls": "none"}, "no mooring_registry_users without TLS"),
        ({"mooring_registry_tls": "some"}, "value of mooring_registry_tls must be one of: none, files, ca"),
    ],
)
def test_what_does_not_go_together_is_refused(
    directory: Path, variables: dict[str, Any], sentence: str
) -> None:
    controller = Controller(directory, directory / "none.sock", {"ansible_connection": "local"})
    options = {"mooring_registry_users": [{"name": "a", "password": "b"}], **variables}
    run = controller.run(
        [{"ansible.builtin.include_role": {"name": "mooring.fleet.registry"}, "vars": options}]
    )

    assert run.code == 2
    assert sentence in " ".join(run.output.split())
