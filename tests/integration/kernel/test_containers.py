# SPDX-License-Identifier: Apache-2.0
"""Shells in real containers of a real agent, by its socket and through SSH."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from harness.agent import AgentUnderTest
from harness.registry import RegistryUnderTest
from harness.waiting import PATIENCE, eventually
from integration.kernel.sshd import Sshd
from mooring_kernel.core.cell import Timing
from mooring_kernel.core.client import Client
from mooring_kernel.core.errors import ApiError, ProgramStopped, ShellEnded, ShellUnusable, UsageError
from mooring_kernel.core.shell import ShellSession
from mooring_kernel.core.transport import LocalTransport
from mooring_kernel.core.workspace import Workspace
from mooring_kernel.magic_complete import check, complete
from mooring_kernel.magic_line import split_cell
from mooring_kernel.magics import run_magic
from unit.kernel.recorder import Recorder
from unit.kernel.shell_bench import Shell, answering

pytestmark = pytest.mark.root

TIMING = Timing(interrupt_patience=1.0 * PATIENCE, stop_patience=1.0 * PATIENCE)
# The host's programs beside those of the image, for shells that the image does not have.
HOST_PROGRAMS = ["/usr:/usr:ro", "/lib:/lib:ro", "/lib64:/lib64:ro"]
Open = Callable[..., Shell]


@pytest.fixture(scope="module")
def box(agent: AgentUnderTest) -> AgentUnderTest:
    """The module's agent with a container that runs."""
    spec = {
        "image": "busybox",
        "command": ["sh", "-c", "echo started; echo warned >&2; exec sleep 3600"],
        "volumes": HOST_PROGRAMS,
        "workdir": "/tmp",
    }
    agent.api("PUT", "/mooring/v1/containers/box", spec)
    return agent


@pytest.fixture
def client(box: AgentUnderTest) -> Client:
    return Client("here", LocalTransport(str(box.socket)))


@pytest.fixture
def open_shell(client: Client) -> Iterator[Open]:
    sessions = []

    def open_one(shell: str | None = "/bin/sh", container: str = "box", user: str | None = None) -> Shell:
        sessions.append(ShellSession.open(client, container, shell=shell, user=user, timing=TIMING))
        return Shell(sessions[-1])

    yield open_one
    for session in sessions:
        session.close()


@pytest.fixture(params=["/bin/sh", "/usr/bin/bash", "/usr/bin/dash"])
def shell(request: pytest.FixtureRequest, open_shell: Open) -> Shell:
    return open_shell(request.param)


def test_cells_run_in_the_container(shell: Shell) -> None:
    assert shell.output("pwd; x='a  b'; cd /etc; ls passwd") == "/tmp\npasswd\n"
    assert shell.output('echo "$x"; pwd') == "a  b\n/etc\n"
    assert shell.session.directory == "/etc"
    assert shell.run("(exit 42)").status == 42
    assert shell.run('echo "').status == 2
    assert shell.output("echo $?; tr '\\0' ' ' </proc/1/cmdline") == "2\nsleep 3600 "


def test_large_cells_and_floods(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert shell.output(f"x='{'y' * 1_000_000}'; echo ${{#x}}") == "1000000\n"
    assert shell.run(f"yes {'0123456789' * 7} | head -c 6000000; echo the end").status == 0
    assert shell.display.stdout().endswith("the end\n")
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == 6_000_000 + 8 - (1 << 20)
    assert shell.output("head -c 5000 /dev/urandom; echo; echo fine").endswith("\nfine\n")


def test_interrupts(shell: Shell) -> None:
    shell.output("x=kept")
    for code in ("sleep 30", "while :; do :; done", "y=$(sleep 30)", "sleep 30 | cat"):
        assert shell.interrupted_after(0.4, code).interrupted
    stubborn = "sh -c 'trap \"\" INT TERM; echo begun; while :; do sleep 0.1; done'"
    result = shell.interrupted_after(0.4, stubborn)
    assert (result.status, result.interrupted) == (137, True)
    assert shell.output("echo $x") == "kept\n"


def test_input(shell: Shell) -> None:
    ask, asked = answering("Jörg", "geheim", None)
    code = "head -n 1; stty -echo; head -n 1 | wc -c; stty echo; cat; echo done"
    assert shell.run(code, ask).status == 0
    assert (shell.display.stdout(), asked) == ("Jörg\n7\ndone\n", [False, True, False])
    with pytest.raises(ProgramStopped, match="`cat` waits for input"):
        shell.run("/usr/bin/cat")
    assert shell.output("echo fine") == "fine\n"


def test_a_full_screen_program_is_stopped(shell: Shell) -> None:
    with pytest.raises(ProgramStopped, match="`vi` uses the whole screen"):
        shell.run("vi /tmp/file")
    assert shell.output("echo fine") == "fine\n"


def test_jobs_in_the_background(shell: Shell) -> None:
    shell.run("(sleep 0.3; echo from behind) &")
    time.sleep(0.8)
    eventually(lambda: "from behind\n" in shell.output("echo front"))


def test_the_end_of_a_shell(shell: Shell) -> None:
    with pytest.raises(ShellEnded) as caught:
        shell.run("exit 4")
    assert str(caught.value) == (
        "the shell in here/box ended with exit status 4; `%attach here/box` opens a new one"
    )
    with pytest.raises(ShellEnded):
        shell.run("echo more")


def test_the_shell_of_another_user(open_shell: Open) -> None:
    assert open_shell(user="1000:1000").output("id -u; id -g") == "1000\n1000\n"


def test_without_a_wish_bash_is_taken_where_it_is(open_shell: Open, box: AgentUnderTest) -> None:
    assert open_shell(None).session.shell == "/usr/bin/bash"
    box.api("PUT", "/mooring/v1/containers/plain", {"image": "busybox", "command": ["sleep", "3600"]})
    assert open_shell(None, "plain").session.shell.endswith("sh")
    box.api("DELETE", "/mooring/v1/containers/plain?force=true&timeout=0")


def test_a_shell_that_is_not_there(client: Client) -> None:
    with pytest.raises((ShellUnusable, ApiError)) as caught:
        ShellSession.open(client, "box", shell="/nowhere/bash")
    assert "/nowhere/bash" in str(caught.value)
    with pytest.raises(ApiError) as caught:
        ShellSession.open(client, "nothing")
    assert "nothing" in str(caught.value)


def test_a_container_that_stops_takes_its_shells_along(box: AgentUnderTest, open_shell: Open) -> None:
    box.api("PUT", "/mooring/v1/containers/brief", {"image": "busybox", "command": ["sleep", "3600"]})
    shell = open_shell("/bin/sh", "brief")
    stop = threading.Timer(0.4, box.api, ("POST", "/mooring/v1/containers/brief/stop?timeout=0"))
    stop.start()
    with pytest.raises(ShellEnded, match="the container brief on here is exited and its shell with it"):
        shell.run("sleep 30")
    stop.join()
    with pytest.raises(ApiError, match="brief"):
        ShellSession.open(shell.session.client, "brief")
    box.api("DELETE", "/mooring/v1/containers/brief?force=true&timeout=0")


def test_a_closed_session_leaves_no_shell(open_shell: Open, client: Client) -> None:
    shell = open_shell()
    shell.output("echo there")
    shell.session.close()
    eventually(lambda: not client.exec_state(shell.session.exec_id).running, 5, "the end of the shell")


# --- magics and the editor's questions


def do(workspace: Workspace, code: str) -> Recorder:
    screen = Recorder()
    for call in split_cell(code).magics:
        run_magic(call, workspace, screen)
    return screen


@pytest.fixture
def workspace(box: AgentUnderTest) -> Iterator[Workspace]:
    workspace = Workspace()
    do(workspace, f"%fleet local {box.socket}")
    yield workspace
    workspace.close()


def test_magics_look_at_the_fleet(workspace: Workspace) -> None:
    host = do(workspace, "%hosts").plain().splitlines()[1]
    assert host.startswith("local")
    assert "GiB" in host
    row = do(workspace, "%ps").plain().splitlines()[1].split()
    assert row[:4] == ["local", "box", "busybox", "running"]
    assert "busybox" in do(workspace, "%images").plain()
    assert '"name": "box"' in do(workspace, "%inspect box").plain()
    assert do(workspace, "%logs box").shown == [("stdout", "started\n"), ("stderr", "warned\n")]
    assert do(workspace, "%run box -- ls /etc/passwd").stdout() == "/etc/passwd\n"
    with pytest.raises(UsageError, match="did you mean local/box"):
        do(workspace, "%attach bix")


def test_completion_is_that_of_the_container(workspace: Workspace) -> None:
    do(workspace, "%attach box --shell /bin/sh")
    for code, expected in (
        ("cat /etc/pass", "/etc/passwd"),
        ("busyb", "busybox"),
        ("%attach b", "local/box"),
    ):
        matches = complete(workspace, code, len(code)).matches
        assert expected in matches
    assert complete(workspace, "cat passw", 9).matches == ()
    assert workspace.attached is not None
    Shell(workspace.attached).output("cd /etc")
    assert "passwd" in complete(workspace, "cat passw", 9).matches
    assert [check(workspace, code) for code in ("echo a", "echo 'a", ")")] == [
        "complete",
        "incomplete",
        "invalid",
    ]


# --- the whole way: a notebook, an inventory, SSH, an agent, a container


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # nbclient leaves sockets to the collector
def test_a_notebook_over_ssh(box: AgentUnderTest, jupyter: Path, tmp_path: Path) -> None:
    sshd = Sshd(tmp_path)
    try:
        (tmp_path / "hosts.yml").write_text(
            "all:\n"
            "  vars:\n"
            "    ansible_host: 127.0.0.1\n"
            f"    ansible_port: {sshd.port}\n"
            "    ansible_user: root\n"
            '    ansible_ssh_private_key_file: "{{ inventory_dir }}/client"\n'
            f"    ansible_ssh_common_args: -o UserKnownHostsFile={sshd.known_hosts()}\n"
            f"    mooring_socket: {box.socket}\n"
            "  hosts:\n"
            "    web1: {}\n"
            "    web2: {ansible_port: 1}\n"
        )
        cells = (
            "%fleet hosts.yml",
            "%hosts",
            "%ps",
            "%attach web1/box --shell /bin/sh",
            "x=$(hostname); echo begun; sleep 0.3; echo ended",
            'test "$x" = "$(hostname)" && pwd',
        )
        made = nbformat.v4.new_notebook()
        made.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
        NotebookClient(
            made, timeout=60, kernel_name="mooring", resources={"metadata": {"path": str(tmp_path)}}
        ).execute()
    finally:
        sshd.close()
    hosts, containers = made.cells[1].outputs[0], made.cells[2].outputs
    assert "Connection refused" in hosts["data"]["text/plain"]
    assert [each["output_type"] for each in containers] == ["stream", "execute_result"]
    assert "box" in containers[1]["data"]["text/plain"]
    assert "".join(each["text"] for each in made.cells[4].outputs) == "begun\nended\n"
    assert made.cells[5].outputs[0]["text"] == "/tmp\n"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # nbclient leaves sockets to the collector
def test_an_image_is_pushed_and_pulled_from_a_notebook(agent: AgentUnderTest, jupyter: Path) -> None:
    with RegistryUnderTest() as registry:
        name = f"{registry.host}/team/box:1"
        cells = [f"%fleet local {agent.socket}", f"%push busybox --to {name}", *[f"%pull {name}"] * 2]
        made = nbformat.v4.new_notebook(
            metadata={"kernelspec": {"name": "mooring", "display_name": "Mooring"}}
        )
        made.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
        NotebookClient(made, timeout=60, kernel_name="mooring").execute()
        digest = json.loads(registry.skopeo("inspect", f"docker://{name}"))["Digest"]
    words = ["pushed", "pulled", "is up to date"]
    for cell, done in zip(made.cells[1:], words, strict=True):
        (picture,) = cell.outputs
        assert re.search(
            rf"^local +\[={{24}}\] +{done},? {digest[:19]}", picture.data["text/plain"], re.MULTILINE
        )
        assert done in picture.data["text/html"]
    agent.api("DELETE", f"/mooring/v1/images/{name}")
