# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring_kernel.core.errors import ApiError, ExitStatus, Interrupted, KernelError, UsageError
from mooring_kernel.core.workspace import Workspace
from mooring_kernel.magic_complete import check, complete, inspect
from mooring_kernel.magic_line import split_cell
from mooring_kernel.magics import MAGICS, run_magic
from unit.kernel.recorder import Recorder
from unit.kernel.stand_in import StandIn


class Bench:
    """A workspace, and what the last magics have shown."""

    def __init__(self, agent: StandIn) -> None:
        self.agent = agent
        self.workspace = Workspace()
        self.screen = Recorder()

    def do(self, code: str) -> Recorder:
        self.screen = Recorder()
        for call in split_cell(code).magics:
            run_magic(call, self.workspace, self.screen)
        return self.screen

    def problem(self, code: str) -> str:
        with pytest.raises(UsageError) as caught:
            self.do(code)
        return str(caught.value)


@pytest.fixture
def bench(agent: StandIn) -> Iterator[Bench]:
    bench = Bench(agent)
    yield bench
    bench.workspace.close()


@pytest.fixture
def fleet(bench: Bench, tmp_path: Path) -> Bench:
    """A bench with a fleet of two hosts that answer and one that does not."""
    lines = [
        "all:",
        "  hosts:",
        f"    a: {{ansible_connection: local, mooring_socket: '{bench.agent.path}'}}",
        f"    b: {{ansible_connection: local, mooring_socket: '{bench.agent.path}'}}",
        f"    gone: {{ansible_connection: local, mooring_socket: '{tmp_path}/none'}}",
    ]
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("\n".join(lines))
    bench.do(f"%fleet {inventory}")
    return bench


def test_a_fleet_is_taken_from_an_inventory_or_from_here(bench: Bench, tmp_path: Path) -> None:
    assert (
        bench.do(f"%fleet local {bench.agent.path}").plain() == f"fleet of {bench.agent.path}: 1 host (local)"
    )
    inventory = tmp_path / "hosts.ini"
    inventory.write_text("web1\nweb2 ansible_connection=winrm\n")
    screen = bench.do(f"%fleet {inventory}")
    assert screen.plain() == f"fleet of {inventory}: 2 hosts (web1, web2)"
    assert screen.stderr().startswith("host web2: ansible_connection is 'winrm'")


def test_a_fleet_that_cannot_be_had_leaves_the_old_one(bench: Bench, tmp_path: Path) -> None:
    bench.do(f"%fleet local {bench.agent.path}")
    for code, problem in (
        ("%fleet /nowhere.yml", "there is no inventory /nowhere.yml"),
        (f"%fleet local {tmp_path}/none", "there is no socket"),
        (f"%fleet {tmp_path} x", "takes no second argument"),
        ("%fleet", "the usage is `%fleet INVENTORY | %fleet local [SOCKET]`"),
    ):
        with pytest.raises(KernelError, match=problem.replace("[", r"\[").replace("|", r"\|")):
            bench.do(code)
    assert bench.workspace.fleet is not None
    assert bench.workspace.fleet.hosts == ("local",)


def test_hosts_shows_all_of_them(fleet: Bench) -> None:
    lines = fleet.do("%hosts").plain().splitlines()
    assert lines[0].split() == ["HOST", "AGENT", "KERNEL", "CPUS", "MEMORY", "RUNNING", "IMAGES", "PROBLEM"]
    assert lines[1].split() == ["a", "0.1.0", "6.1", "2", "4", "GiB", "2/2", "1"]
    assert lines[3].startswith("gone ")
    assert "there is no socket" in lines[3]


def test_ps_shows_the_containers_and_who_is_silent(fleet: Bench) -> None:
    fleet.agent.containers["db"] |= {"state": "exited", "exit_code": 3}
    screen = fleet.do("%ps")
    lines = screen.plain().splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["a", "web1"],
        ["a", "db"],
        ["b", "web1"],
        ["b", "db"],
    ]
    assert "8080→80" in lines[1]
    assert "10.210.0.2" in lines[1]
    assert "exited (3)" in lines[2]
    assert "text/html" in screen.results[-1]
    assert screen.stderr().startswith("gone: there is no socket")
    assert len(fleet.do("%ps b").plain().splitlines()) == 3
    assert "did you mean gone?" in fleet.problem("%ps gon")


def test_when_nobody_answers_it_is_an_error(fleet: Bench) -> None:
    fleet.agent.refuse["/containers"] = (503, "the keeper does not answer")
    with pytest.raises(
        KernelError, match="no host has answered: a: the keeper does not answer; b: the keeper"
    ):
        fleet.do("%ps")
    with pytest.raises(ApiError, match="a: the keeper does not answer"):
        fleet.do("%ps a")


def test_images(fleet: Bench) -> None:
    lines = fleet.do("%images a").plain().splitlines()
    assert lines[1].split()[:7] == ["a", "busybox:latest", "bbbbbbbbbbbb", "1", "MiB", "1", "linux/amd64"]


def test_inspect_shows_everything(fleet: Bench) -> None:
    screen = fleet.do("%inspect a/web1")
    assert (
        json.loads(screen.plain()) == screen.results[-1]["application/json"] == fleet.agent.containers["web1"]
    )
    with pytest.raises(ApiError, match="a: no such container: nothing"):
        fleet.do("%inspect a/nothing")


def test_logs_keep_the_streams_apart(fleet: Bench) -> None:
    assert fleet.do("%logs a/web1").shown == [("stdout", "hello\n"), ("stderr", "warned\n")]
    assert fleet.do("%logs a/web1 -n 1 -t").shown == [("stderr", "2026-01-01T00:00:03Z warned\n")]
    assert fleet.problem("%logs a/web1 -n x") == "-n is 'x', expected a whole number above 0"


def test_run_runs_one_command(fleet: Bench) -> None:
    screen = fleet.do("%run a/web1 -- sh -c 'echo out; echo err >&2'")
    assert screen.shown == [("stdout", "out\n"), ("stderr", "err\n")]
    with pytest.raises(ExitStatus, match="exit status 3"):
        fleet.do("%run a/web1 -- sh -c 'exit 3'")
    with pytest.raises(KernelError, match="`sleep` in a/web1 was stopped after 1 s: `-t` gives it longer"):
        fleet.do("%run -t 1 a/web1 -- sleep 20")
    assert fleet.problem("%run a/web1").startswith("the command is missing")


def test_attach_opens_shells_and_comes_back_to_them(fleet: Bench) -> None:
    assert "no shell is open" in fleet.do("%attach").plain()
    assert fleet.do("%attach a/web1").plain().startswith("attached to a/web1: a new /")
    first = fleet.workspace.attached
    fleet.do("%attach b/db --shell /bin/dash")
    assert fleet.do("%attach a/web1").plain().startswith("attached to a/web1: the open /")
    assert fleet.workspace.attached is first
    assert [line.split()[0] for line in fleet.do("%attach").plain().splitlines()[1:]] == ["a/web1", "b/db"]
    fleet.do("%attach a/web1 --new")
    assert fleet.workspace.attached is not first
    assert fleet.do("%detach").plain() == "detached from a/web1: its shell was ended"
    assert fleet.problem("%detach") == "no container is attached, so there is nothing to detach"
    assert list(fleet.workspace.shells) == ["b/db"]


def test_what_cannot_be_attached_is_named(fleet: Bench) -> None:
    assert fleet.problem("%attach a/wbe1") == "there is no container 'wbe1' on a: did you mean a/web1?"
    assert fleet.problem("%attach a/zzz") == "there is no container 'zzz' on a: `%ps a` lists them"
    assert fleet.problem("%attach web1") == "'web1' names no host: write host/container, as `%ps` lists them"
    assert fleet.problem("%attach a/b/c") == "'a/b/c' is not host/container, as `%ps` lists them"
    assert fleet.problem("%attach a/web1 --usr x").startswith(
        "--usr is no option here: the usage is `%attach"
    )
    assert fleet.workspace.attached is None


def test_a_fleet_of_one_needs_no_host(bench: Bench) -> None:
    bench.do(f"%fleet local {bench.agent.path}\n%attach web1")
    assert bench.workspace.attached is not None
    assert bench.workspace.attached.where == "local/web1"


def test_without_a_fleet_it_is_said_how_to_get_one(bench: Bench) -> None:
    for code in ("%hosts", "%ps", "%images", "%attach a/b", "%inspect a/b", "%logs a/b"):
        assert bench.problem(code).startswith("there is no fleet yet: `%fleet INVENTORY` reads one")


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("%attch", "there is no magic %attch: did you mean %attach?"),
        ("%Hosts", "there is no magic %Hosts: did you mean %hosts?"),
        ("%%bash", "there is no magic %%bash: `%lsmagic` lists all"),
        ("%xyzzy", "there is no magic %xyzzy: `%lsmagic` lists all"),
        ("%hosts all", "the usage is `%hosts`"),
        ("%inspect", "the usage is `%inspect HOST/CONTAINER`"),
        ("%help atach", "there is no magic %atach: did you mean %attach?"),
    ],
)
def test_what_is_wrong_is_named(bench: Bench, code: str, problem: str) -> None:
    assert bench.problem(code) == problem


def test_help(bench: Bench) -> None:
    text = bench.do("%help").plain()
    assert all(magic.usage in text for magic in MAGICS.values())
    assert bench.do("%help attach").plain().startswith("%attach HOST/CONTAINER [--user USER]")
    screen = bench.do("%help --page")
    assert screen.results == []
    assert screen.pages[0]["text/plain"] == text
    assert bench.do("%lsmagic").plain().split() == [f"%{name}" for name in MAGICS]


# --- the editor's questions


def matches(bench: Bench, code: str) -> list[str]:
    found = complete(bench.workspace, code, len(code))
    return [code[: found.start] + match for match in found.matches]


def test_magics_and_their_arguments_are_completed(fleet: Bench, tmp_path: Path) -> None:
    assert matches(fleet, "%at") == ["%attach"]
    assert matches(fleet, "# first\n%ps\n%h") == ["# first\n%ps\n%help", "# first\n%ps\n%hosts"]
    assert matches(fleet, "%help im") == ["%help images"]
    assert matches(fleet, "%ps g") == ["%ps gone"]
    assert matches(fleet, "%attach a/") == ["%attach a/db", "%attach a/web1"]
    assert matches(fleet, "%attach we") == ["%attach a/web1", "%attach b/web1"]
    assert matches(fleet, "%attach a/web1 --n") == ["%attach a/web1 --new"]
    assert matches(fleet, f"%fleet {tmp_path}/ho") == [f"%fleet {tmp_path}/hosts.yml"]
    assert matches(fleet, "%fleet loc") == ["%fleet local"]
    assert matches(fleet, "%nosuch a") == []


def test_commands_files_and_variables_come_from_the_container(fleet: Bench) -> None:
    work = Path(fleet.agent.cwd)
    (work / "some dir").mkdir()
    (work / "some'file").touch()
    (work / ".hidden").touch()
    fleet.do("%attach a/web1")
    fleet.workspace.assistant.learn("MY_VAR=1; my_function() { :; }")
    assert "base64" in matches(fleet, "base6")
    assert "while" in matches(fleet, "whi")
    assert matches(fleet, "my_f") == ["my_function"]
    assert matches(fleet, "cat some") == ["cat some\\ dir/", "cat some\\'file"]
    assert matches(fleet, "cat 'some d") == ["cat 'some dir/"]
    assert matches(fleet, "cat .h") == ["cat .hidden"]
    assert matches(fleet, "echo $MY") == ["echo $MY_VAR"]
    assert "echo ${HOME" in matches(fleet, "echo ${HO")
    assert matches(fleet, "ls ~/some\\ ") == ["ls ~/some\\ dir/"]
    assert matches(fleet, "") == []


def test_completion_follows_the_shell_and_never_uses_it(fleet: Bench, tmp_path: Path) -> None:
    (tmp_path / "only here").touch()
    fleet.do("%attach a/web1")
    session = fleet.workspace.attached
    assert session is not None
    from mooring_kernel.core.output import CellOutput

    session.run(f"cd {tmp_path}", CellOutput(Recorder()), None)
    calls = len(fleet.agent.calls)
    assert matches(fleet, "cat on") == ["cat only\\ here"]
    assert fleet.agent.calls[calls:] == [("POST", "/mooring/v1/containers/web1/exec")]


def test_without_a_shell_or_an_answer_there_are_no_completions(fleet: Bench) -> None:
    assert matches(fleet, "ec") == []
    fleet.do("%attach a/web1")
    fleet.agent.refuse["/exec"] = (503, "not now")
    assert matches(fleet, "cat /e") == []
    assert inspect(fleet.workspace, "ls", 2) is None
    assert check(fleet.workspace, "ls") == "unknown"
    fleet.agent.refuse.clear()


def test_inspection(fleet: Bench) -> None:
    assert str(inspect(fleet.workspace, "%ps a", 2)).startswith("%ps [HOST]\n")
    assert inspect(fleet.workspace, "ls", 1) is None
    fleet.do("%attach a/web1")
    assert "ls is " in str(inspect(fleet.workspace, "ls -l /", 1))
    assert "cd: cd [-L" in str(inspect(fleet.workspace, "cd /", 1))
    assert "passwd" in str(inspect(fleet.workspace, "cat /etc/passwd", 8))
    assert inspect(fleet.workspace, "nosuchthing", 3) is None


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/dash", "ash"])
def test_whether_a_text_is_whole(fleet: Bench, shells: Path, shell: str) -> None:
    path = str(shells / shell) if shell == "ash" else shell
    assert check(fleet.workspace, "echo") == "unknown"
    fleet.do(f"%attach a/web1 --shell {path}")
    for code in ("echo a", "if true; then\nls\nfi", "%ps", "", "# comment", "%ps\nls"):
        assert check(fleet.workspace, code) == "complete"
    for code in (
        "if true; then",
        "echo 'a",
        'echo "a',
        "ls |",
        "ls &&",
        "cat <<E\na",
        "ls \\",
        "f() {",
        "%ps\nls |",
    ):
        assert check(fleet.workspace, code) == "incomplete", code
    for code in (")", "if ; then", "done", "echo a; ;"):
        assert check(fleet.workspace, code) == "invalid", code


# --- images on their way


def test_an_image_is_pulled_on_all_hosts_with_a_bar_for_each(fleet: Bench) -> None:
    with pytest.raises(KernelError, match=r"r\.example/web:1 could not be pulled on 1 of 3 hosts \(gone\)"):
        fleet.do("%pull r.example/web:1")
    first, last = fleet.screen.live_shown[0], fleet.screen.live_shown[-1]
    assert [line.split()[0] for line in first["text/plain"].splitlines()] == ["HOST", "a", "b", "gone"]
    lines = last["text/plain"].splitlines()
    for line in lines[1:3]:
        assert re.search(r"^[ab] .*\[={24}\].* pulled, sha256:dddddddddddd", line)
    assert "there is no socket" in lines[3]
    assert last["text/html"].count("<tr>") == 3
    assert fleet.agent.asked == [("/mooring/v1/images/r.example/web:1/pull", {})] * 2


def test_an_image_is_pulled_on_some_hosts_for_another_platform(fleet: Bench) -> None:
    screen = fleet.do("%pull web b b --platform linux/arm64")
    assert len(screen.live_shown[-1]["text/plain"].splitlines()) == 2
    assert fleet.agent.asked == [("/mooring/v1/images/web/pull", {"platform": "linux/arm64"})]
    assert "has no host 'c'" in fleet.problem("%pull web a c")
    assert "the usage is `%pull IMAGE [HOST…]" in fleet.problem("%pull")


def test_an_image_is_pushed_from_one_host(fleet: Bench) -> None:
    fleet.agent.journey = [
        {"progress": {"step": "upload", "current": 5, "total": 9, "detail": "aa"}},
        {"outcome": {"changed": False, "actions": [], "result": {"name": "x", "digest": "sha256:1"}}},
    ]
    assert "the fleet has 3 hosts: name the one to push web from" in fleet.problem("%push web")
    screen = fleet.do("%push web a --to r.example/web:2")
    assert "is up to date, sha256:1" in screen.live_shown[-1]["text/plain"]
    assert fleet.agent.asked == [("/mooring/v1/images/web/push", {"to": "r.example/web:2"})]


@pytest.mark.parametrize(
    ("journey", "words"),
    [
        (
            [{"error": {"message": "pull of web: denied", "code": "denied", "status": 403}}],
            "pull of web: denied",
        ),
        ([{"progress": {"step": "download", "current": 1, "total": 2, "detail": "a"}}], "without an outcome"),
    ],
)
def test_a_pull_that_fails_says_why(bench: Bench, journey: list[dict[str, object]], words: str) -> None:
    bench.do(f"%fleet local {bench.agent.path}")
    bench.agent.journey = journey
    with pytest.raises(KernelError, match=r"on 1 of 1 host \(local\)"):
        bench.do("%pull web")
    assert words in bench.screen.live_shown[-1]["text/plain"]
    bench.agent.refuse["/pull"] = (400, "image name is not valid")
    with pytest.raises(KernelError):
        bench.do("%pull web")
    assert "image name is not valid" in bench.screen.live_shown[-1]["text/plain"]


def test_an_abandoned_pull_leaves_the_agent(bench: Bench) -> None:
    bench.do(f"%fleet local {bench.agent.path}")
    bench.agent.may_end.clear()
    bench.screen = Recorder()

    def give_up(bundle: dict[str, object]) -> None:
        bench.screen.live_shown.append(bundle)
        if "MiB" in str(bundle["text/plain"]):
            bench.screen.abandoned.set()

    bench.screen.live = lambda: give_up  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match="the pull was interrupted"):
        run_magic(split_cell("%pull web").magics[0], bench.workspace, bench.screen)
    assert bench.agent.left.wait(10)
