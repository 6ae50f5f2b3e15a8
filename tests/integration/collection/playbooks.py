# SPDX-License-Identifier: Apache-2.0
"""Running Ansible on a host that is this one, and looking at what each task answered."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.claims import free_port
from harness.waiting import PATIENCE

HERE = Path(__file__).parent
PLAYBOOK_TIMEOUT = 110 * PATIENCE  # seconds


@dataclass(frozen=True)
class Run:
    """What a playbook did."""

    code: int
    output: str
    lines: list[dict[str, Any]]

    def results(self, task: str) -> list[dict[str, Any]]:
        return [line["result"] for line in self.lines if line.get("task") == task]

    def result(self, task: str) -> dict[str, Any]:
        (result,) = self.results(task)
        return result

    def failed(self, task: str) -> bool:
        return "failed" in [line["status"] for line in self.lines if line.get("task") == task]

    @property
    def stats(self) -> dict[str, int]:
        (stats,) = [line["result"] for line in self.lines if line["status"] == "stats"]
        return dict(stats)

    @property
    def changes(self) -> dict[str, bool]:
        return {
            line["task"]: line["result"].get("changed", False)
            for line in self.lines
            if line["status"] != "stats"
        }


class Controller:
    """Ansible with a directory of its own, and a host `node` that it reaches by `variables`."""

    def __init__(self, directory: Path, socket: Path, variables: dict[str, Any]) -> None:
        self.directory = directory
        self.socket = socket
        self.timeout = PLAYBOOK_TIMEOUT
        inventory = {"all": {"hosts": {"node": {"ansible_python_interpreter": sys.executable, **variables}}}}
        self.inventory = directory / "inventory.yml"
        self.inventory.write_text(yaml.safe_dump(inventory))

    def run(self, tasks: list[dict[str, Any]], *flags: str, module_defaults: bool = True) -> Run:
        play: dict[str, Any] = {"hosts": "node", "gather_facts": False, "tasks": tasks}
        if module_defaults:
            play["module_defaults"] = {"group/mooring.fleet.all": {"socket": str(self.socket)}}
        return self.play([play], *flags)

    def play(self, plays: list[dict[str, Any]], *flags: str) -> Run:
        playbook = self.directory / "playbook.yml"
        playbook.write_text(yaml.safe_dump(plays, sort_keys=False))
        recorded = self.directory / "recorded.jsonl"
        recorded.unlink(missing_ok=True)
        recorded.touch()
        environment = {
            **os.environ,
            "ANSIBLE_HOME": str(self.directory / "ansible"),
            "ANSIBLE_LOCAL_TEMP": str(self.directory / "tmp"),
            "ANSIBLE_REMOTE_TMP": str(self.directory / "remote"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.control_directory),
            "ANSIBLE_HOST_KEY_CHECKING": "False",
            "ANSIBLE_CALLBACKS_ENABLED": "recorded",
            "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "plugins" / "callback"),
            "ANSIBLE_CONNECTION_PLUGINS": str(HERE / "plugins" / "connection"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "True",
            "RECORDED_RESULTS": str(recorded),
        }
        environment.pop("ANSIBLE_CONFIG", None)
        done = subprocess.run(
            ["ansible-playbook", "-i", str(self.inventory), str(playbook), *flags],
            env=environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=self.timeout,
        )
        lines = [json.loads(line) for line in recorded.read_text().splitlines()]
        return Run(done.returncode, done.stdout, lines)

    @property
    def control_directory(self) -> Path:
        return self.directory / "cp"


class Sshd:
    """An sshd on 127.0.0.1 with keys of its own, for the user that runs the tests."""

    def __init__(self, directory: Path, *further: str) -> None:
        """`further` are lines of its configuration."""
        self.directory = directory
        for name in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)],
                check=True,
                timeout=30,
            )
        shutil.copy(directory / "user.pub", directory / "authorized")
        self.port = free_port()
        (directory / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nPidFile "
            f"none\nAuthorizedKeysFile {directory}/authorized\nStrictModes no\nUsePAM no\nPermitRootLogin "
            "prohibit-password\nPasswordAuthentication no\nSubsystem sftp internal-sftp\nMaxStartups "
            "100\n" + "".join(f"{line}\n" for line in further)
        )
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (directory / "sshd.log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(shutil.which("sshd")), "-D", "-e", "-f", str(directory / "sshd_config")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait()

    @property
    def variables(self) -> dict[str, Any]:
        return {
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": self.port,
            "ansible_ssh_private_key_file": str(self.directory / "user"),
            "ansible_ssh_common_args": f"-F none -o UserKnownHostsFile={self.directory}/known -o "
            "LogLevel=ERROR",
        }

    def _wait(self) -> None:
        deadline = time.monotonic() + 10 * PATIENCE
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise TimeoutError(f"sshd did not listen: {(self.directory / 'sshd.log').read_text()}")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
