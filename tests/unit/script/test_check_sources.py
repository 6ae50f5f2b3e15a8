# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def check_sources(project_root: Path) -> ModuleType:
    path = project_root / "script" / "check_sources.py"
    spec = importlib.util.spec_from_file_location("check_sources", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def findings(check_sources: ModuleType, root: Path, relative: str, text: str) -> list[str]:
    path = root / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return list(check_sources.findings(path, Path(relative)))


@pytest.mark.parametrize(
    ("relative", "license_of_it"),
    [
        ("agent/mooring_agent/a.py", "Apache-2.0"),
        ("script/run", "Apache-2.0"),
        ("collection/plugins/modules/a.py", "GPL-3.0-or-later"),
        ("roles/agent/tasks/main.yml", "GPL-3.0-or-later"),
    ],
)
def test_each_part_carries_its_own_licence(
    check_sources: ModuleType, tmp_path: Path, relative: str, license_of_it: str
) -> None:
    header = "#!/bin/sh\n# SPDX-License-Identifier: "
    assert findings(check_sources, tmp_path, relative, header + license_of_it + "\n") == []
    assert findings(check_sources, tmp_path, relative, header + "MIT\n") == [
        f"{relative}:1: expected the line SPDX-License-Identifier: {license_of_it} among the first 5, has MIT"
    ]


def test_a_missing_licence_a_long_file_and_an_empty_name_are_found(
    check_sources: ModuleType, tmp_path: Path
) -> None:
    found = findings(check_sources, tmp_path, "agent/utils.py", "x = 1\n" * 500)
    assert [line.split(": ", 1)[1] for line in found] == [
        "expected the line SPDX-License-Identifier: Apache-2.0 among the first 5, has none",
        "500 lines long, expected fewer than 500: split it by what its parts do",
        "the name utils.py does not say what is inside: name it by what it does",
    ]


def test_data_and_what_programs_made_are_left_alone(check_sources: ModuleType, tmp_path: Path) -> None:
    assert findings(check_sources, tmp_path, "agent/profile.json", "{}\n") == []
    for directory in (".venv/lib", "agent/__pycache__", "mooring.egg-info"):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / "a.py").touch()
    assert [path.name for path in check_sources.project_files(tmp_path)] == ["profile.json"]


def test_shell_scripts_are_told_by_name_or_first_line(check_sources: ModuleType, tmp_path: Path) -> None:
    texts = {"a.sh": "", "b": "#!/usr/bin/env bash\n", "c": "#!/usr/bin/python3\n", "d.py": "#!/bin/sh\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert [name for name in texts if check_sources.is_shell(tmp_path / name)] == ["a.sh", "b"]
