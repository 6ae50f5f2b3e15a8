# SPDX-License-Identifier: Apache-2.0
"""`--chmod` does what chmod(1) does."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring_agent.images.build.modes import Modes
from mooring_agent.images.dockerfile.errors import DockerfileError

_WHO = st.sampled_from(("", "a", "u", "g", "o", "ug", "go", "uo"))
_WHAT = st.one_of(
    st.lists(st.sampled_from("rwxXst"), max_size=4).map("".join), st.sampled_from(("u", "g", "o"))
)
_CLAUSES = st.lists(st.tuples(_WHO, st.sampled_from("+-="), _WHAT).map("".join), min_size=1, max_size=3)


@settings(max_examples=60)
@given(clauses=_CLAUSES, mode=st.integers(0, 0o7777), directory=st.booleans())
def test_symbolic_modes_are_those_of_chmod(
    tmp_path_factory: pytest.TempPathFactory, clauses: list[str], mode: int, directory: bool
) -> None:
    path = tmp_path_factory.mktemp("modes") / "it"
    path.mkdir() if directory else path.touch()
    os.chmod(path, mode)
    before = stat.S_IMODE(path.stat().st_mode)
    text = ",".join(clauses)
    subprocess.run(["chmod", "--", text, path], check=True, umask=0, timeout=10)
    after = stat.S_IMODE(path.stat().st_mode)
    os.chmod(path, 0o700)
    assert Modes(text).apply(before, directory=directory) == after


@given(mode=st.integers(0, 0o7777), before=st.integers(0, 0o7777))
def test_octal_modes_are_taken_as_they_are(mode: int, before: int) -> None:
    assert Modes(f"{mode:o}").apply(before, directory=False) == mode
    assert Modes(f"0{mode:o}").apply(before, directory=True) == mode


@pytest.mark.parametrize("text", ["", "8", "77777", "u", "u=z", ",", "u=r,", "rwx", "u+rg"])
def test_what_is_no_mode_is_refused(text: str) -> None:
    with pytest.raises(DockerfileError, match="--chmod="):
        Modes(text)


def test_a_capital_x_is_for_what_can_be_executed() -> None:
    assert Modes("u=rwX,go=rX").apply(0o640, directory=False) == 0o644
    assert Modes("u=rwX,go=rX").apply(0o700, directory=True) == 0o755
