# SPDX-License-Identifier: Apache-2.0
"""script/dockerfile-conformance tells files that pass from files that don't."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "script/dockerfile-conformance"
LINES = "\n" * 4 + "FROM a\n" + "\n" * 5 + "RUN a \\\n b\n" + "\n" * 4 + "RUN c" + " \\\n" * 14 + " d\n"
RESULT = """\
(from "a\\tb")
(onbuild (copy ["--from=x"] "c" "d"))
(env "e" "f g" "")
(cmd)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a case of each kind."""
    frontend = tmp_path / "frontend/dockerfile"
    for name, text in {
        "parser/testfiles/one/Dockerfile": 'VOLUME ["a\\tb"]\nONBUILD COPY --from=x c d\nENV e f g\nCMD []\n',
        "parser/testfiles/one/result": RESULT.replace("from ", "volume ", 1),
        "parser/testfiles-negative/empty/Dockerfile": "",
        "parser/testfile-line/Dockerfile": LINES,
        "shell/envVarTest": "# a comment\n\nA|$PWD|/home\nU|'|error\nW|$PWD|other\n",
        "shell/wordsTest": "ENV a=b c\nx$a | xb,c\n' | error\n",
    }.items():
        file = frontend / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def run(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(checkout)], capture_output=True, text=True, check=False, timeout=60
    )


def test_what_passes_is_counted(checkout: Path) -> None:
    done = run(checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {line.split()[0]: line.split()[2] for line in done.stdout.splitlines()}
    assert counts == {
        "testfiles": "1",
        "testfiles-negative": "1",
        "testfile-line": "1",
        "envVarTest": "2",
        "wordsTest": "2",
    }


@pytest.mark.parametrize(
    ("file", "text", "part"),
    [
        ("parser/testfiles/one/result", "(from)\n", "testfiles/one: expected"),
        ("parser/testfiles-negative/empty/Dockerfile", "FROM a", "testfiles-negative/empty: it was taken"),
        ("parser/testfile-line/Dockerfile", "FROM a", "testfile-line/Dockerfile: expected"),
        ("shell/envVarTest", "A|$PWD|other", "envVarTest/1: expected 'other', got '/home'"),
        ("shell/wordsTest", "a b | a", "wordsTest/1: expected"),
        ("shell/wordsTest", "", "wordsTest              ok   0"),
    ],
)
def test_what_fails_is_named(checkout: Path, file: str, text: str, part: str) -> None:
    (checkout / "frontend/dockerfile" / file).write_text(text)
    done = run(checkout)
    assert done.returncode == 1
    assert part in done.stdout
