# SPDX-License-Identifier: Apache-2.0
"""The template `debian` around a stand-in for mmdebstrap; the real one is in tests/integration/images."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness.waiting import PATIENCE, eventually, has_died
from mooring_agent.errors import MissingProgram, Unavailable
from mooring_agent.images import debian
from mooring_agent.images.debian import DebianBuild, debian_layer, find_debian
from mooring_agent.images.image import ProgressEvent
from mooring_agent.images.specs import TemplateSpec
from mooring_agent.images.turns import Cancelled, Stop

STOP = Stop("the template")
SPEC = TemplateSpec("debian", "trixie", "minbase", ("curl", "vim"))


class StandIn:
    """A program mmdebstrap that does what the test says."""

    def __init__(self, base: Path) -> None:
        self.program = base / "bin" / "mmdebstrap"
        self.program.parent.mkdir()
        self.scratch = base / "scratch"
        self.scratch.mkdir()
        self.says("exit 0")

    def says(self, script: str) -> None:
        self.program.write_text(f"#!/bin/sh\n{script}\n")
        self.program.chmod(0o755)

    def run(
        self, events: list[ProgressEvent] | None = None, deadline: float = 60.0, sources: str = ""
    ) -> bytes:
        build = DebianBuild(str(self.program), SPEC, sources)
        return b"".join(
            debian_layer(build, self.scratch, (events if events is not None else []).append, STOP, deadline)
        )


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    etc = tmp_path / "etc"
    (etc / "sources.list.d").mkdir(parents=True)
    (etc / "auth.conf.d").mkdir()
    (etc / "sources.list").write_text("deb http://mirror.example/debian bookworm main\n")
    (etc / "auth.conf.d" / "mirror.conf").write_text("machine mirror.example login me password secret\n")
    monkeypatch.setattr(debian, "_ETC", etc)
    monkeypatch.setattr(debian, "_os_release", lambda: {"ID": "debian", "VERSION_CODENAME": "bookworm"})
    stand_in = StandIn(tmp_path)
    monkeypatch.setenv("PATH", f"{stand_in.program.parent}:{os.environ['PATH']}")
    return stand_in


def test_the_archive_comes_through_and_steps_are_told(stand_in: StandIn) -> None:
    steps = "echo 'I: running apt-get update...'; echo 'I: running --setup-hook x'; echo 'done'"
    stand_in.says(f"{{ {steps}; }} >&2; printf archive")
    events: list[ProgressEvent] = []
    assert stand_in.run(events) == b"archive"
    assert [(event.step, event.detail) for event in events] == [("build", "running apt-get update...")]


def test_the_host_s_mirrors_are_used_and_its_secrets_taken_away_again(stand_in: StandIn) -> None:
    build = find_debian(SPEC)
    assert build.program == str(stand_in.program)
    assert "URIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n" in build.sources
    stand_in.says('printf "%s\\n" "$@"; cat "$0" >/dev/null; cat ' + str(stand_in.scratch / "host.sources"))
    output = b"".join(debian_layer(build, stand_in.scratch, lambda event: None, STOP)).decode()
    assert "--variant=minbase" in output
    assert "--include=curl,vim" in output
    assert "\ntrixie\n-\n" in output
    assert "mirror.example/debian" in output
    secret = stand_in.scratch / "etc/auth.conf.d/00mooring-host.conf"
    assert "password secret" in secret.read_text()
    assert secret.stat().st_mode & 0o077 == 0
    (setup,) = (line for line in output.splitlines() if line.startswith("--setup-hook="))
    (cleanup,) = (line for line in output.splitlines() if line.startswith("--customize-hook="))
    assert str(stand_in.scratch / "etc") in setup
    for name in ("apt.conf.d/00mooring-host", "auth.conf.d/00mooring-host.conf"):
        assert (stand_in.scratch / "etc" / name).exists()
        assert name in cleanup


def test_another_distribution_s_mirrors_are_not_used(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "_os_release", lambda: {"ID": "ubuntu", "VERSION_CODENAME": "noble"})
    build = find_debian(SPEC)
    assert build.sources == ""
    assert build.command(stand_in.scratch)[-2:] == ["trixie", "-"]


def test_a_mirror_of_one_s_own_is_handed_on(stand_in: StandIn) -> None:
    build = find_debian(replace(SPEC, mirror="http://mine.example/debian", components=("main", "contrib")))
    assert build.sources == ""
    assert build.command(stand_in.scratch)[-4:] == [
        "--components=main,contrib",
        "trixie",
        "-",
        "http://mine.example/debian",
    ]


def test_components_replace_those_of_the_host_s_mirrors(stand_in: StandIn) -> None:
    build = find_debian(replace(SPEC, components=("main", "contrib")))
    assert "URIs: http://mirror.example/debian\nSuites: trixie\nComponents: main contrib\n" in build.sources
    assert not [word for word in build.command(stand_in.scratch) if word.startswith("--components")]


UBUNTU = TemplateSpec("ubuntu", "noble", "minbase", ("curl",))


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ubuntu-archive-keyring.gpg"
    path.touch()
    monkeypatch.setattr(debian, "_UBUNTU_KEYRING", str(path))
    monkeypatch.setattr(debian, "_TRUSTED_UBUNTU_KEYS", str(tmp_path / "trusted-*.gpg"))
    return path


def test_ubuntu_is_built_from_a_given_mirror(stand_in: StandIn, keys: Path) -> None:
    build = find_debian(replace(UBUNTU, mirror="http://mine.example/ubuntu", components=("main", "universe")))
    assert build.command(stand_in.scratch)[:3] == [str(stand_in.program), "--format=tar", "--variant=minbase"]
    assert build.command(stand_in.scratch)[-6:] == [
        f"--keyring={keys}",
        "--include=curl",
        "--components=main,universe",
        "noble",
        "-",
        "http://mine.example/ubuntu",
    ]


def test_ubuntu_is_built_from_an_ubuntu_host_s_mirrors(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "_os_release", lambda: {"ID": "ubuntu", "VERSION_CODENAME": "jammy"})
    (debian._ETC / "sources.list").write_text(
        "deb http://mirror.example/ubuntu jammy main universe\n"
        "deb http://mirror.example/ubuntu jammy-security main universe\n"
        "deb http://ppa.example/x jammy main\n"
    )
    build = find_debian(UBUNTU)
    assert "Suites: noble\nComponents: main universe\n" in build.sources
    assert "Suites: noble-security\n" in build.sources
    assert not build.keyring


def test_ubuntu_without_keys_or_mirror_says_what_to_do(
    stand_in: StandIn, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.says("echo 'E: cannot connect' >&2; exit 25")
    with pytest.raises(
        Unavailable,
        match=r"ubuntu noble was not built from the public mirror.*give one .* option mirror.*E: cannot",
    ):
        list(debian_layer(find_debian(UBUNTU), stand_in.scratch, lambda event: None, STOP))
    keys.rename(keys.with_name("trusted-x.gpg"))
    assert not find_debian(UBUNTU).keyring
    keys.with_name("trusted-x.gpg").unlink()
    with pytest.raises(MissingProgram, match=r"keys of Ubuntu's archive.*ubuntu-keyring"):
        find_debian(UBUNTU)


def test_the_key_follows_the_mirrors(stand_in: StandIn) -> None:
    first = DebianBuild("x", SPEC, "Types: deb\n").version
    assert first == DebianBuild("y", SPEC, "Types: deb\n").version
    assert first != DebianBuild("x", SPEC, "").version


def test_a_failure_is_told_with_the_end_of_the_output(stand_in: StandIn) -> None:
    stand_in.says(
        "printf half; for n in $(seq 30); do echo \"line $n\" >&2; done; echo 'E: no such suite' >&2; exit 25"
    )
    with pytest.raises(
        Unavailable, match=r"debian trixie was not built.*status 25.*line 30 \| E: no such suite"
    ) as caught:
        stand_in.run()
    assert "line 5 " not in caught.value.message


def test_a_build_has_a_deadline_and_leaves_no_process(stand_in: StandIn) -> None:
    pid_file = stand_in.scratch / "pid"
    stand_in.says(f"sleep 300 & echo $! > {pid_file}; wait")
    limit = 0.5 * PATIENCE  # by then it runs
    started = time.monotonic()
    with pytest.raises(Unavailable, match=f"took longer than {limit:g} s"):
        stand_in.run(deadline=limit)
    assert time.monotonic() - started < 10 * PATIENCE
    _gone(int(pid_file.read_text()))


def test_a_reader_that_stops_ends_the_build(stand_in: StandIn) -> None:
    pid_file = stand_in.scratch / "pid"
    stand_in.says(f"echo $$ > {pid_file}; head -c 5000000 /dev/zero; sleep 300")
    stream = debian_layer(
        DebianBuild(str(stand_in.program), SPEC, ""), stand_in.scratch, lambda event: None, STOP
    )
    next(stream)
    stream.close()
    _gone(int(pid_file.read_text()))


def test_a_build_that_nobody_wants_any_more_ends(stand_in: StandIn) -> None:
    pid_file = stand_in.scratch / "pid"
    stand_in.says(f"echo $$ > {pid_file}; echo 'I: here' >&2; sleep 300")
    cancelled = threading.Event()
    build = DebianBuild(str(stand_in.program), SPEC, "")
    stream = debian_layer(
        build, stand_in.scratch, lambda event: cancelled.set(), Stop("the template", cancelled)
    )
    with pytest.raises(Cancelled, match="the template was cancelled"):
        next(stream)
    _gone(int(pid_file.read_text()))


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgram, match="install package mmdebstrap"):
        find_debian(SPEC)


def _gone(pid: int) -> None:
    eventually(lambda: has_died(pid), 5, f"the end of process {pid}")
