# SPDX-License-Identifier: Apache-2.0
"""An evening at a terminal: one user types the real docker client's commands into one shell.

What single commands do is in test_session.py and test_terminal.py. Here each command goes on with what the
one before has left, and what is looked at is what the terminal shows, the keys, and `$?`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from harness.agent import AgentUnderTest
from harness.waiting import PATIENCE as FACTOR
from harness.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.usefixtures("tidy")]

PATIENCE = 20.0 * FACTOR
ROWS, COLUMNS = 33, 99
# Shows its terminal's size at once and at each SIGWINCH, and ends with 9 at Ctrl-C.
WATCHES_ITS_SIZE = "trap 'stty size' WINCH; trap 'exit 9' INT; stty size; while :; do sleep 0.1; done"
SERVES = "echo begun; echo served > /srv/index.html; exec httpd -f -v -p 80 -h /srv"


class Shell:
    """bash in a terminal, which tells each command's status in its prompt: `<<0>> `."""

    def __init__(self, agent: AgentUnderTest, directory: Path) -> None:
        self.child = pexpect.spawn(
            "bash",
            ["--norc", "--noprofile", "--noediting"],
            env=agent.docker_environment() | {"PS1": r"\n<<$?>> ", "TERM": "xterm"},
            cwd=str(directory),
            timeout=PATIENCE,
            dimensions=(ROWS, COLUMNS),
            encoding="utf-8",
            codec_errors="surrogateescape",
        )
        self.child.delaybeforesend = None
        self.child.expect_exact("<<0>> ")
        self.succeeds(f'docker() {{ {agent.docker_command()[0]} "$@"; }}')

    def types(self, command: str) -> None:
        """Type a command that goes on, and wait until the terminal has echoed it."""
        self.child.sendline(command)
        self.child.expect_exact("\r\n")

    def shows(self, pattern: str) -> re.Match[str]:
        """Wait until the terminal shows something, whether or not the command goes on."""
        self.child.expect(pattern)
        found = self.child.match
        assert isinstance(found, re.Match)
        return found

    def comes_back(self, command: str) -> None:
        """Type a command that attaches to a shell, and have that show its prompt again."""
        self.types(command)
        self.child.send("\r")
        self.shows("/ # ")

    def prompt(self) -> tuple[str, int]:
        """Wait for the end of the command; what it has shown since, and its status."""
        self.child.expect(r"\r\n<<(\d+)>> ")
        assert isinstance(self.child.match, re.Match)
        return self.child.before, int(self.child.match[1])

    def runs(self, command: str) -> tuple[str, int]:
        """Type a command and wait for its end."""
        self.types(command)
        return self.prompt()

    def succeeds(self, command: str) -> str:
        """Type a command that must end with 0; what it has shown, without the last end of a line."""
        shown, status = self.runs(command)
        assert status == 0, f"{command}: {status}\n{shown}"
        return shown.removesuffix("\r\n")


@pytest.fixture
def shell(agent: AgentUnderTest, tmp_path: Path) -> Iterator[Shell]:
    made = Shell(agent, tmp_path)
    yield made
    made.child.close(force=True)


@pytest.fixture
def images_of_the_session(agent: AgentUnderTest) -> Iterator[None]:
    yield
    left = agent.docker("images", "-q", "--filter", "reference=evening").stdout.split()
    if left:
        agent.docker("rmi", "-f", *dict.fromkeys(left))


def test_a_window_that_changes_is_told_to_the_process(shell: Shell) -> None:
    shell.types(f'docker run --rm -it busybox sh -c "{WATCHES_ITS_SIZE}"')
    # The client tells the size when the container runs: at once, or by a first SIGWINCH.
    shell.shows(f"{ROWS} {COLUMNS}\r\n")
    eventually(lambda: _is_told(shell, 41, 121), what="a client that listens for changes")
    for rows, columns in ((40, 120), (20, 70)):
        shell.child.setwinsize(rows, columns)
        shell.shows(f"{rows} {columns}\r\n")
    shell.child.sendcontrol("c")
    assert shell.prompt()[1] == 9
    assert shell.succeeds("stty size") == "20 70"


def _is_told(shell: Shell, rows: int, columns: int) -> bool:
    """Change the size, and say whether that was shown. A client has told the first size before it listens for
    changes, and the kernel tells it of a size once.
    """
    shell.child.setwinsize(rows + 1, columns)
    shell.child.setwinsize(rows, columns)
    return bool(shell.child.expect([f"{rows} {columns}\r\n", pexpect.TIMEOUT], timeout=2.0) == 0)


def test_a_terminal_that_is_left_and_come_back_to(shell: Shell) -> None:
    shell.types("docker run -it --name desk --hostname desk busybox sh")
    shell.shows("/ # ")
    shell.child.send("thing=lamp\r")
    shell.shows("/ # ")
    shell.child.send("\x10\x11")  # Ctrl-P Ctrl-Q
    assert shell.prompt()[1] == 0
    # The terminal is as it was: it echoes, and Enter ends a line.
    assert shell.succeeds("docker ps --format '{{.Names}}: {{.State}}'") == "desk: running"

    shell.comes_back("docker attach --detach-keys ctrl-x,x desk")
    shell.child.send("echo a $thing\r")
    shell.shows("\na lamp\r\n")
    shell.child.send("\x10\x10")  # is input now: ash goes back in its history, twice
    shell.child.send("\x15\x18x")  # Ctrl-U; and the keys that were given
    assert "read escape sequence" in shell.prompt()[0]  # the client's status of that is 1 with attach

    shell.types("docker exec -it -e A=b desk sh")
    shell.shows("/ # ")

    def resized() -> bool:
        # A client that has only just started may miss the first change.
        shell.child.setwinsize(26, 81)
        shell.child.setwinsize(25, 81)
        return _answer(shell, "stty size") == "25 81"

    eventually(resized, what="the new size is the exec's")
    assert _answer(shell, "echo $A; hostname") == "b desk"
    shell.child.send("exit 7\r")
    assert shell.prompt()[1] == 7

    shell.comes_back("docker attach desk")
    shell.child.send("exit 5\r")
    assert shell.prompt()[1] == 5
    assert shell.succeeds("docker wait desk") == "5"
    shell.comes_back("docker start -ai desk")
    shell.child.sendcontrol("d")
    assert shell.prompt()[1] == 0


def _answer(shell: Shell, command: str) -> str:
    """What a command in the container's shell shows, whatever its line editor draws around it."""
    shell.child.send(f"echo '<'$({command})'>'\r")
    return str(shell.shows("<([^'>]*)>")[1])


def test_keys_end_what_they_should(agent: AgentUnderTest, shell: Shell) -> None:
    # Without a terminal of its own the container gets no key: the client passes the signal on.
    shell.types("docker run --rm busybox sh -c 'trap \"echo bye; exit 3\" INT; echo up; sleep 60 & wait'")
    shell.shows("up\r\n")
    shell.child.sendcontrol("c")
    shown, status = shell.prompt()
    assert (status, "bye" in shown) == (3, True)

    shell.types("docker run -it --name sleeper busybox sh -c 'echo up; exec cat'")
    shell.shows("up\r\n")
    shell.child.send("typed\r")
    shell.shows("typed\r\ntyped\r\n")  # the echo of the container's terminal, then cat
    shell.child.sendcontrol("d")
    assert shell.prompt()[1] == 0
    shell.succeeds("docker rm sleeper")

    shell.types("docker run --rm -it --init --name napper busybox sleep 600")
    # Before that Ctrl-C reaches the init alone, which may not listen yet.
    eventually(lambda: "sleep" in agent.docker("top", "napper", "-o", "pid,comm").stdout, what="it runs")
    shell.child.sendcontrol("c")
    assert shell.prompt()[1] == 130


def test_every_byte_passes(shell: Shell, tmp_path: Path) -> None:
    assert shell.succeeds("echo x | docker run -i --rm busybox cat") == "x"
    coloured = r"printf '\033[1;31mred\033[0m\t\303\251\377\a|'"
    for terminal in ("", "-t", "-it"):
        shown = shell.succeeds(f'docker run --rm {terminal} busybox sh -c "{coloured}"')
        seen = shown.encode("utf-8", "surrogateescape")
        assert seen == b"\x1b[1;31mred\x1b[0m\t\xc3\xa9\xff\x07|", terminal
    shell.succeeds("head -c 3000000 /dev/urandom > in")
    shell.succeeds("docker run -i --rm busybox cat < in > out")
    data = (tmp_path / "in").read_bytes()
    assert hashlib.sha256((tmp_path / "out").read_bytes()).digest() == hashlib.sha256(data).digest()
    summed = shell.succeeds("docker run --rm -i busybox md5sum < in | cut -c 1-32")
    assert summed == hashlib.md5(data).hexdigest()
    # Who reads no more ends the pipe, and nothing hangs.
    assert shell.succeeds("docker run --rm busybox yes 2>/dev/null | head -n 2") == "y\r\ny"
    shown, status = shell.runs("docker run --rm busybox sh -c 'echo out; echo err >&2; exit 4' 2>/dev/null")
    assert (shown, status) == ("out\r\n", 4)


def test_a_service_from_its_start_to_its_end(shell: Shell, tmp_path: Path) -> None:
    shell.succeeds("docker network create backstage")
    shell.succeeds("docker volume create pages")
    shell.succeeds(
        "docker run -d --name web --network backstage -p 127.0.0.1::80 -v pages:/srv --restart on-failure:3 "
        "--memory 64m --cpus 0.5 --health-cmd 'wget -q -O /dev/null http://127.0.0.1/' --health-interval 1s "
        f"busybox sh -c '{SERVES}'"
    )
    kept = shell.succeeds(
        "docker inspect -f '{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} "
        "{{.HostConfig.RestartPolicy.Name}} {{(index .Mounts 0).Name}}' web"
    )
    assert kept == f"{64 << 20} 500000000 on-failure pages"
    eventually(
        lambda: shell.succeeds("docker inspect -f '{{.State.Health.Status}}' web") == "healthy",
        what="the service is healthy",
    )
    assert "(healthy)" in shell.succeeds("docker ps --filter name=web --format '{{.Status}}'")
    address = shell.succeeds("docker port web 80")
    assert shell.succeeds(f"wget -q -T 5 -O - http://{address}/") == "served"

    shell.types("docker logs -f web")
    shell.shows("begun\r\n")
    shell.shows("response:200\r\n")
    shell.child.sendcontrol("c")
    assert shell.prompt()[1] == 130
    assert "httpd" in shell.succeeds("docker top web")
    shell.types("docker stats")  # with a name, version 28 of the client wants Ctrl-C three times
    shell.shows(r"NAME.*MEM USAGE")
    shell.shows(r"web .* / 64MiB")
    shell.shows(r"web .* / 64MiB")  # and again
    shell.child.sendcontrol("c")
    assert shell.prompt()[1] == 130

    shell.succeeds("docker update --memory 96m --memory-swap 96m --cpus 1 --restart no web")
    assert shell.succeeds("docker stats --no-stream --format '{{.MemUsage}}' web").endswith("/ 96MiB")
    shell.succeeds("docker rename web site")

    (tmp_path / "page").write_text("from the host\n")
    shell.succeeds("docker cp page site:/srv/index.html")
    assert shell.succeeds(f"wget -q -T 5 -O - http://{address}/") == "from the host"
    shell.succeeds("docker cp site:/srv/index.html back && docker cp site:/etc/passwd - | tar -x")
    assert (tmp_path / "back").read_text() == "from the host\n"
    assert (tmp_path / "passwd").read_text().startswith("root:")
    shell.succeeds("docker exec site touch /made")
    assert "A /made" in shell.succeeds("docker diff site").split("\r\n")
    assert shell.succeeds("docker run --rm --network backstage busybox wget -q -O - http://site/") == (
        "from the host"
    )
    shown, status = shell.runs("docker network rm backstage")
    assert (status, "site" in shown) == (1, True)

    shell.types("docker wait site & docker stop -t 1 site; wait")
    shown, status = shell.prompt()
    assert status == 0
    assert sorted(re.findall(r"^(?:\d+|site)(?=\r$)", shown, re.MULTILINE)) == ["137", "site"]
    assert "Exited (137)" in shell.succeeds("docker ps -a --filter name=site --format '{{.Status}}'")
    shell.types("docker container prune")
    shell.shows(r"\[y/N\] ")
    shell.child.sendline("y")
    shown, status = shell.prompt()
    assert (status, "Total reclaimed space" in shown) == (0, True)
    assert shell.succeeds("docker network rm backstage && docker volume rm pages") == "backstage\r\npages"


@pytest.mark.usefixtures("images_of_the_session")
def test_images_are_made_and_carried(shell: Shell, tmp_path: Path) -> None:
    shell.succeeds("docker run --name draft busybox sh -c 'echo drafted > /note'")
    shell.succeeds('docker commit -c \'CMD ["cat", "/note"]\' draft evening:draft')
    assert shell.succeeds("docker run --rm evening:draft") == "drafted"

    (tmp_path / "Dockerfile").write_text("FROM evening:draft\nRUN echo built >> /note\n")
    shown = shell.succeeds("DOCKER_BUILDKIT=0 docker build -t evening:built .")
    assert "Step 2/2 : RUN echo built >> /note" in shown
    assert "Successfully tagged evening:built" in shown
    # Nothing set: a client without buildx warns, and builds all the same.
    shown = shell.succeeds("docker build -t evening:again .")
    assert "---> Using cache" in shown
    assert "Successfully tagged evening:again" in shown
    assert shell.succeeds("docker run --rm evening:again") == "drafted\r\nbuilt"
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN exit 3\n")
    shown, status = shell.runs("docker build .")
    assert (status, "returned a non-zero code: 3" in shown) == (3, True)

    built = shell.succeeds("docker inspect -f '{{.Id}}' evening:built")
    shell.succeeds(
        "docker rmi -f evening:again >/dev/null; docker save evening:built | gzip > evening.tar.gz"
    )
    shell.succeeds("docker rmi evening:built >/dev/null")
    assert shell.runs("docker inspect evening:built")[1] == 1
    assert shell.succeeds("docker load -i evening.tar.gz").endswith("Loaded image: evening:built")
    assert shell.succeeds("docker inspect -f '{{.Id}}' evening:built") == built
    assert "evening" in shell.succeeds("docker image ls evening")
    usage = shell.succeeds("docker system df")
    assert re.search(r"Images +\d+", usage)
    assert re.search(r"Build Cache +\d+", usage)
    shell.succeeds("docker rmi -f evening:built >/dev/null; docker image prune -f")
    assert shell.succeeds("docker images -q --filter dangling=true") == ""
    (tmp_path / "Dockerfile").unlink()


def test_events_are_watched_while_another_terminal_works(agent: AgentUnderTest, shell: Shell) -> None:
    # What happens before the client listens is told all the same, by --since; it may take long to begin.
    shell.types("docker events --since 1m --filter container=watched --format '{{.Action}}'")
    # A label that is called as what an event tells anyway does not hide that.
    labels = ("--label", "name=other", "--label", "image=other")
    agent.docker("run", "--name", "watched", *labels, "busybox", "sh", "-c", "exit 2", check=False)
    agent.docker("rm", "watched")
    shell.shows("(?s)create\r\n.*start\r\n.*die\r\n.*destroy\r\n")
    shell.child.sendcontrol("c")
    assert shell.prompt()[1] == 130
