# SPDX-License-Identifier: Apache-2.0
"""The kernel's process, driven as frontends and nbclient drive it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from harness.waiting import PATIENCE, eventually
from unit.kernel.stand_in import StandIn

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning"
)  # jupyter_client leaves sockets to the collector

DEADLINE = 30.0 * PATIENCE


class Frontend:
    """A client that has all messages of a cell in the end."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def send(self, code: str, **options: Any) -> str:
        return str(self.client.execute(code, **options))

    def reply(self, cell: str) -> dict[str, Any]:
        end = time.monotonic() + DEADLINE
        while True:
            message = self.client.get_shell_msg(timeout=max(0.1, end - time.monotonic()))
            if message["parent_header"].get("msg_id") == cell:
                content = message["content"]
                assert isinstance(content, dict)
                return content

    def outputs(self, cell: str) -> list[dict[str, Any]]:
        found = []
        end = time.monotonic() + DEADLINE
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, end - time.monotonic()))
            if message["parent_header"].get("msg_id") != cell:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return found
            if message["msg_type"] not in ("status", "execute_input"):
                found.append({"type": message["msg_type"], **message["content"]})

    def said(self, words: str) -> None:
        """Wait until the cell that runs has written these words."""
        text = ""
        while words not in text:
            message = self.client.get_iopub_msg(timeout=DEADLINE)
            if message["msg_type"] == "stream":
                text += message["content"]["text"]

    def interrupt(self) -> None:
        """Interrupt what runs, and wait until the kernel has done so."""
        self.client.control_channel.send(self.client.session.msg("interrupt_request", {}))
        assert self.client.get_control_msg(timeout=DEADLINE)["msg_type"] == "interrupt_reply"

    def run(self, code: str, **options: Any) -> tuple[dict[str, Any], str]:
        """Run a cell; return its reply and what it wrote to stdout."""
        cell = self.send(code, **options)
        outputs = self.outputs(cell)
        text = "".join(
            each["text"] for each in outputs if each["type"] == "stream" and each["name"] == "stdout"
        )
        return self.reply(cell), text


@pytest.fixture
def frontend(stand_in: StandIn) -> Iterator[Frontend]:
    manager = KernelManager(kernel_name="mooring")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=DEADLINE)
    frontend = Frontend(manager, client)
    reply, _ = frontend.run(f"%fleet local {stand_in.path}\n%attach web1")
    assert reply["status"] == "ok", reply
    yield frontend
    client.stop_channels()
    manager.shutdown_kernel()


def test_cells_share_the_shell_and_statuses_are_errors(frontend: Frontend) -> None:
    frontend.run("x=1; cd /tmp")
    reply, text = frontend.run("echo $x $PWD; (exit 3)")
    assert text == "1 /tmp\n"
    assert (reply["status"], reply["ename"], reply["evalue"]) == ("error", "ExitStatus", "exit status 3")
    assert frontend.run("echo $?")[1] == "3\n"


def test_output_streams_while_the_cell_runs(frontend: Frontend, tmp_path: Path) -> None:
    cell = frontend.send(f"echo first; until test -e {tmp_path}/go; do sleep 0.05; done; echo second")
    frontend.said("first\n")
    (tmp_path / "go").touch()
    frontend.said("second\n")
    assert frontend.reply(cell)["status"] == "ok"


def test_an_interrupt_by_the_manager_keeps_the_shell(frontend: Frontend) -> None:
    frontend.run("x=kept")
    cell = frontend.send("echo begun; sleep 100")
    frontend.said("begun\n")
    frontend.manager.interrupt_kernel()
    began = time.monotonic()
    reply = frontend.reply(cell)
    assert time.monotonic() - began < 10 * PATIENCE
    assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
    assert frontend.run("echo $x")[1] == "kept\n"


def test_an_interrupt_reaches_a_magic_that_waits(frontend: Frontend, stand_in: StandIn) -> None:
    call = ("POST", "/mooring/v1/containers/web1/exec")
    before = stand_in.calls.count(call)
    cell = frontend.send("%run web1 -- sleep 30")
    eventually(lambda: stand_in.calls.count(call) > before, what="the agent is asked")
    frontend.manager.interrupt_kernel()
    began = time.monotonic()
    reply = frontend.reply(cell)
    assert time.monotonic() - began < 15 * PATIENCE
    assert reply["ename"] == "KeyboardInterrupt"
    assert frontend.run("echo fine")[1] == "fine\n"


@pytest.fixture
def held(stand_in: StandIn) -> Iterator[StandIn]:
    """An agent whose pulls do not end before they may."""
    stand_in.may_end.clear()
    stand_in.left.clear()
    yield stand_in
    stand_in.may_end.set()


def shown_until(frontend: Frontend, words: str) -> list[dict[str, Any]]:
    """What a picture is made of until it has the words."""
    shown: list[dict[str, Any]] = []
    while not shown or words not in shown[-1]["content"]["data"]["text/plain"]:
        message = frontend.client.get_iopub_msg(timeout=DEADLINE)
        if message["msg_type"].endswith("display_data"):
            shown.append(message)
    return shown


def test_a_pull_is_one_picture_that_is_drawn_anew(frontend: Frontend, held: StandIn) -> None:
    cell = frontend.send("%pull r.example/web:1")
    shown = shown_until(frontend, "2 MiB of 5 MiB")
    held.may_end.set()
    last = frontend.outputs(cell)[-1]
    assert shown[0]["msg_type"] == "display_data"
    assert last["type"] == "update_display_data"
    ids = {each["content"]["transient"]["display_id"] for each in shown} | {last["transient"]["display_id"]}
    assert len(ids) == 1
    assert "pulled, sha256:dddddddddddd" in last["data"]["text/plain"]
    assert "pulled, sha256:dddddddddddd" in last["data"]["text/html"]
    assert frontend.reply(cell)["status"] == "ok"


def test_an_interrupt_gives_a_pull_up(frontend: Frontend, held: StandIn) -> None:
    cell = frontend.send("%pull r.example/web:1")
    shown_until(frontend, "MiB")
    frontend.manager.interrupt_kernel()
    assert frontend.reply(cell)["ename"] == "KeyboardInterrupt"
    assert held.left.wait(DEADLINE)
    assert frontend.run("echo fine")[1] == "fine\n"


def test_an_interrupt_while_idle_harms_nobody(frontend: Frontend) -> None:
    frontend.interrupt()
    assert frontend.run("echo fine")[1] == "fine\n"


def test_cells_behind_a_failed_one_are_aborted_and_later_ones_are_not(
    frontend: Frontend, tmp_path: Path
) -> None:
    failing = f"until test -e {tmp_path}/go; do sleep 0.05; done; sleep 0.5; false"
    cells = [frontend.send(code) for code in (failing, "echo a", "echo b", "echo c")]
    (tmp_path / "go").touch()
    assert [frontend.reply(cell)["status"] for cell in cells] == ["error", "aborted", "aborted", "aborted"]
    assert frontend.run("echo fine")[1] == "fine\n"
    cells = [frontend.send(code, stop_on_error=False) for code in ("false", "echo a")]
    assert [frontend.reply(cell)["status"] for cell in cells] == ["error", "ok"]


@pytest.mark.parametrize(
    ("code", "password"), [('read x; echo "<$x>"', False), ('stty -echo; read x; echo "<$x>"', True)]
)
def test_input_is_asked_of_the_user(frontend: Frontend, code: str, password: bool) -> None:
    cell = frontend.send(code, allow_stdin=True)
    request = frontend.client.get_stdin_msg(timeout=DEADLINE)
    assert request["content"] == {"prompt": "", "password": password}
    frontend.client.input("what I say")
    text = "".join(each["text"] for each in frontend.outputs(cell) if each["type"] == "stream")
    assert text.strip() == "<what I say>"
    assert frontend.reply(cell)["status"] == "ok"


def test_an_interrupt_ends_a_question(frontend: Frontend) -> None:
    cell = frontend.send("cat", allow_stdin=True)
    frontend.client.get_stdin_msg(timeout=DEADLINE)
    frontend.manager.interrupt_kernel()
    assert frontend.reply(cell)["ename"] == "KeyboardInterrupt"
    assert frontend.run("echo fine")[1] == "fine\n"


def test_without_stdin_a_reader_is_an_error(frontend: Frontend) -> None:
    reply, _ = frontend.run("cat", allow_stdin=False)
    assert reply["ename"] == "ProgramStopped"
    assert "`cat` waits for input" in reply["evalue"]


def test_silent_cells_say_nothing(frontend: Frontend) -> None:
    cell = frontend.send("echo hidden", silent=True)
    assert frontend.outputs(cell) == []
    assert frontend.reply(cell)["status"] == "ok"


def test_a_shell_that_ended_is_opened_again_by_name(frontend: Frontend) -> None:
    reply, _ = frontend.run("exit 4")
    assert (reply["ename"], "exit status 4" in reply["evalue"]) == ("ShellEnded", True)
    assert "`%attach local/web1` opens a new one" in frontend.run("echo more")[0]["evalue"]
    assert frontend.run("%attach web1\necho again")[1] == "again\n"


def test_nothing_of_python_is_promised(frontend: Frontend) -> None:
    cell = frontend.client.kernel_info()
    info = frontend.reply(cell)
    assert info["supported_features"] == []
    assert info["language_info"]["name"] == "bash"
    message = frontend.client.session.msg("create_subshell_request", {})
    frontend.client.control_channel.send(message)
    assert frontend.run("echo fine")[1] == "fine\n"


def test_a_restart_begins_anew(frontend: Frontend, stand_in: StandIn) -> None:
    process = list(stand_in.execs.values())[-1].process
    frontend.manager.restart_kernel()
    frontend.client.wait_for_ready(timeout=DEADLINE)
    assert process.wait(DEADLINE) != 0
    assert "no container is attached" in frontend.run("echo")[0]["evalue"]


def test_a_terminated_kernel_takes_its_shells_along(frontend: Frontend, stand_in: StandIn) -> None:
    process = list(stand_in.execs.values())[-1].process
    provisioner = frontend.manager.provisioner
    assert provisioner is not None
    os.kill(provisioner.pid, signal.SIGTERM)
    assert process.wait(DEADLINE) == -signal.SIGKILL


@pytest.mark.alone
def test_the_kernel_answers_within_a_second(jupyter: Path) -> None:
    """From the start of the process to its first answer; the best of five on a shared machine."""
    times = []
    for _ in range(5):
        manager = KernelManager(kernel_name="mooring")
        began = time.monotonic()
        manager.start_kernel()
        client = manager.blocking_client()
        client.start_channels(iopub=False, stdin=False, hb=False)
        client.kernel_info()
        client.get_shell_msg(timeout=DEADLINE)
        times.append(time.monotonic() - began)
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert min(times) < 1.0, times


# --- notebooks


def notebook(*cells: str) -> nbformat.NotebookNode:
    made = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "mooring", "display_name": "Mooring"}})
    made.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    return made


def test_a_notebook_is_executed_by_nbclient(stand_in: StandIn, tmp_path: Path) -> None:
    made = notebook(
        f"%fleet local {stand_in.path}", "%ps", "%attach web1", "x=7; echo $x >seven", "cat seven; echo $x"
    )
    NotebookClient(made, timeout=60, kernel_name="mooring").execute()
    nbformat.validate(made)
    assert made.cells[0].outputs[0].output_type == "execute_result"
    assert "web1" in made.cells[1].outputs[0].data["text/html"]
    assert made.cells[4].outputs == [{"output_type": "stream", "name": "stdout", "text": "7\n7\n"}]
    nbformat.write(made, tmp_path / "done.ipynb")


def test_the_last_picture_of_a_pull_stays_in_a_notebook(stand_in: StandIn) -> None:
    made = notebook(f"%fleet local {stand_in.path}", "%pull r.example/web:1")
    NotebookClient(made, timeout=60, kernel_name="mooring").execute()
    nbformat.validate(made)
    (picture,) = made.cells[1].outputs
    assert picture.output_type == "display_data"
    assert "pulled, sha256:dddddddddddd" in picture.data["text/plain"]


def test_a_failing_cell_stops_a_notebook(stand_in: StandIn) -> None:
    made = notebook(f"%fleet local {stand_in.path}\n%attach web1", "(exit 3)", "echo never")
    with pytest.raises(CellExecutionError, match="exit status 3"):
        NotebookClient(made, timeout=60, kernel_name="mooring").execute()
    assert made.cells[2].outputs == []


def test_parameters_as_papermill_writes_them(stand_in: StandIn) -> None:
    made = notebook(
        f"%fleet local {stand_in.path}\n%attach web1",
        '# Parameters\nname="a b"\ncount=3\n',
        'echo "$name $count"',
    )
    NotebookClient(made, timeout=60, kernel_name="mooring").execute()
    assert made.cells[2].outputs[0].text == "a b 3\n"


# --- the kernelspec


def test_the_kernelspec_is_installed_by_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mooring_kernel", "install", "--prefix", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    directory = tmp_path / "share/jupyter/kernels/mooring"
    assert str(directory) in done.stdout
    spec = json.loads((directory / "kernel.json").read_text())
    assert spec["argv"] == [sys.executable, "-m", "mooring_kernel", "-f", "{connection_file}"]
    assert (spec["language"], spec["interrupt_mode"]) == ("bash", "message")
    assert (directory / "logo-svg.svg").is_file()


def test_a_kernelspec_that_cannot_be_installed_says_why(tmp_path: Path) -> None:
    (tmp_path / "share").touch()
    command = [sys.executable, "-m", "mooring_kernel", "install", "--prefix", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("the kernelspec could not be installed: ")
