# SPDX-License-Identifier: Apache-2.0
"""Ways from a container to the programs of the host: a launcher is, for a moment, inside of it."""

from __future__ import annotations

import os
import sysconfig
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import PATIENCE, eventually, has_died

from .attackers import Attacker, Declare, Workshop, fifo, file, link, refused, run, view

pytestmark = pytest.mark.root

# Looks at every process that comes into the container, as fast as it can, through all that /proc offers.
WATCH_EXECS = """
import json, os
tried, got = set(), []
known = set(os.listdir('/proc'))
while not os.path.exists('/stop'):
    for pid in os.listdir('/proc'):
        if not pid.isdigit() or pid in known:
            continue
        for _ in range(50):
            try:
                name = open(f'/proc/{pid}/comm').read().strip()
            except OSError:
                break
            if not name.startswith('mooring'):
                continue
            if pid not in tried:
                open('/tried', 'w').close()
            tried.add(pid)
            for what in ('exe', 'cwd', 'root', 'fd/0', 'fd/3', 'fd/4', 'fd/5', 'fd/6', 'fd/7', 'fd/8', 'mem'):
                try:
                    handle = os.open(f'/proc/{pid}/{what}', os.O_RDONLY)
                except OSError:
                    continue
                try:
                    still = open(f'/proc/{pid}/comm').read().startswith('mooring')
                except OSError:
                    still = False
                if still:
                    got.append((what, os.readlink(f'/proc/self/fd/{handle}')))
                os.close(handle)
        known.add(pid)
print(json.dumps({'tried': len(tried), 'got': got}))
"""

# Asks of a program that was started as the container's whether the host's file could be written through it.
SHEBANG = b"#!/proc/self/exe\nprint('the interpreter of the host runs in the container')\n"


def until_tried(attacker: Attacker, attempts: int) -> Iterator[int]:
    """As many attempts, and more until WATCH_EXECS has come upon one of ours in time."""
    mark = Path(f"/proc/{view(attacker.agent, attacker.name)['pid']}/root/tried")
    mark.unlink(missing_ok=True)
    deadline = time.monotonic() + 30.0 * PATIENCE
    for attempt in count(1):
        yield attempt
        if attempt >= attempts and mark.exists():
            return
        assert time.monotonic() < deadline, "none of ours was caught in the act: nothing has been tried"


def test_cve_2019_5736_the_runtime_s_binary_is_out_of_reach_during_exec(attacker: Attacker) -> None:
    """A root process in the container kept /proc/PID/exe of a joining runc and overwrote the host's runc.

    A joiner is non-dumpable before it enters, so none of its /proc/PID can be opened from inside, and its
    program is on a read-only mount of its own.
    """
    with attacker.meanwhile(WATCH_EXECS) as results:
        for _ in until_tried(attacker, 40):
            attacker.sh("true")
    found = results[0]
    assert found["tried"] > 0, "no joiner was caught in the act: the attack has not tried anything"
    assert found["got"] == []


@pytest.mark.parametrize("entry", ["/proc/self/exe", "/lure", "/script"])
def test_cve_2019_5736_the_runtime_does_not_run_itself_in_the_container(
    agent: AgentUnderTest, workshop: Workshop, declare: Declare, entry: str
) -> None:
    """An image's entry point was a link to /proc/self/exe: runc ran once more, with the image's libraries.

    What the launcher runs from is on a mount of no namespace, on which the container can start nothing, by
    its name, a link or a script's first line.
    """
    image = workshop.image("lures", link("lure", "/proc/self/exe"), file("script", SHEBANG, 0o755))
    refused(agent, "lured", image=image, command=[entry, "-c", "print('inside')"])
    declare("host", image=image)
    answer = agent.request("POST", "/mooring/v1/containers/host/exec", {"argv": [entry, "-c", "print(1)"]})
    if answer.status < 400:
        assert answer.json()["exit_code"] != 0
        assert "inside" not in answer.json()["stdout"]


def test_cve_2019_5736_a_launcher_that_joins_a_pid_namespace_is_out_of_reach(
    attacker: Attacker, declare: Declare
) -> None:
    """The same on a start: with the processes of another container, a launcher is seen by them for a moment.

    It is non-dumpable from its first step on.
    """
    with attacker.meanwhile(WATCH_EXECS) as results:
        for number in until_tried(attacker, 15):
            declare(f"guest-{number}", pid=f"container:{attacker.name}", networks=["none"])
    found = results[0]
    assert found["tried"] > 0, "no launcher was caught in the act: the attack has not tried anything"
    assert found["got"] == []


def test_cve_2019_5736_what_launchers_run_from_is_read_only(
    agent: AgentUnderTest, attacker: Attacker
) -> None:
    """The same attack on a launcher of the pool, the keeper and the guardian, should one ever be reachable.

    All of them run from the sealed mount, so that no descriptor of /proc/PID/exe can be opened to write.
    """
    keeper, guardian = agent.keeper_pids()

    def ours() -> list[int]:
        children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
        return [pid for pid in map(int, children) if _comm(pid).startswith("mooring")]

    for pid in (keeper, guardian, *eventually(ours, what="a launcher that waits")):
        mount = Path(f"/proc/{pid}/exe")
        try:
            with mount.open("rb") as program, pytest.raises(OSError, match=r"Read-only|busy"):
                os.close(os.open(f"/proc/self/fd/{program.fileno()}", os.O_RDWR))
            assert os.statvfs(mount).f_flag & os.ST_RDONLY, _comm(pid)
        except FileNotFoundError:
            assert has_died(pid), _comm(pid)  # since it was listed


def test_cve_2019_14271_nothing_is_loaded_after_entering_the_root(
    agent: AgentUnderTest, workshop: Workshop, declare: Declare
) -> None:
    """docker cp looked up users inside the container and loaded the image's libnss_*.so as the host's root.

    Here whatever a C library or an interpreter might want is a trap: a pipe that never answers, or a module
    that leaves a mark. Starts and execs, good ones and bad ones, touch none of it (also CVE-2026-41567).
    """
    declare("trapped", image=_trapped(workshop))
    declare("trapped-terminal", image="trapped", tty=True, user="www")
    for options in ({}, {"user": "www"}, {"user": "www:audio"}, {"workdir": "/tmp/new/one"}):
        assert run(agent, "trapped", "true", **options)["exit_code"] == 0
    for argv, options in (
        (["no-such-program"], {}),
        (["true"], {"user": "nobody-knows"}),
        (["true"], {"workdir": "/etc/passwd"}),
        (["/etc/passwd"], {}),
    ):
        body: dict[str, Any] = {"argv": argv, **options}
        answer = agent.request("POST", "/mooring/v1/containers/trapped/exec", body)
        assert answer.status >= 400 or answer.json()["exit_code"] in (126, 127)
    agent.api("POST", "/mooring/v1/containers/trapped/restart?timeout=0")
    for name in ("trapped", "trapped-terminal"):
        assert not Path(f"/proc/{view(agent, name)['pid']}/root/caught").exists()
    refused(agent, "trapped-too", image="trapped", command=["no-such-program"])


def _trapped(workshop: Workshop) -> str:
    """Make an image that has a trap wherever a library or a module could be looked for."""
    pipes = (
        *("etc/nsswitch.conf", "etc/ld.so.cache", "etc/ld.so.preload", "etc/localtime", "etc/hosts.conf"),
        *("usr/lib/locale/locale-archive", "usr/lib/locale/C.UTF-8/LC_CTYPE", "etc/host.conf"),
        *(f"lib/x86_64-linux-gnu/libnss_{name}.so.2" for name in ("files", "compat", "systemd", "sss")),
    )
    library = sysconfig.get_paths()["stdlib"].lstrip("/")
    package = str(Path(__file__).parents[3] / "agent").lstrip("/")
    mark = b"import os\nos.close(os.open('/caught', os.O_CREAT))\n"
    modules = (
        *("traceback", "linecache", "pwd", "grp", "codecs", "encodings/idna", "encodings/latin_1"),
        *("encodings/unicode_escape", "logging/__init__", "locale", "gettext", "warnings", "tokenize"),
        *("inspect", "ast", "contextlib", "sitecustomize", "usercustomize", "stringprep", "random"),
    )
    ours = ("runtime/users", "runtime/process", "linux/seccomp", "errors", "__init__")
    return workshop.image(
        "trapped",
        *(fifo(path) for path in pipes),
        *(file(f"{library}/{name}.py", mark) for name in modules),
        *(file(f"{package}/mooring_agent/{name}.py", mark) for name in ours),
    )


def test_the_loader_s_variables_are_the_container_s_alone(agent: AgentUnderTest, declare: Declare) -> None:
    """With LD_PRELOAD and PYTHON* in an image's environment a runtime that re-executes itself is taken over.

    The environment of a container is given to its own execve and to nothing before it.
    """
    env = {
        "LD_PRELOAD": "/evil.so",
        "PYTHONPATH": "/evil",
        "PYTHONHOME": "/evil",
        "PYTHONSTARTUP": "/evil.py",
    }
    declare("preloaded", env=env)
    told = run(agent, "preloaded", "env", env=env)["stdout"]
    assert all(f"{name}={value}" in told for name, value in env.items())
    keeper, guardian = agent.keeper_pids()
    for pid in (keeper, guardian):
        assert b"/evil" not in Path(f"/proc/{pid}/environ").read_bytes()


def _comm(pid: int) -> str:
    """The name of a process, empty when it has gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
