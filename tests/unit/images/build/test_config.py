# SPDX-License-Identifier: Apache-2.0
"""What instructions do to a configuration, and how the history tells them."""

from __future__ import annotations

from typing import Any

import pytest

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.build.config import configure, finished, joined, told
from mooring_agent.images.dockerfile.stages import parse_dockerfile


def after(config: dict[str, Any], *lines: str) -> tuple[dict[str, Any], list[str | None]]:
    """A configuration after instructions, and the history's texts."""
    (stage,) = parse_dockerfile("\n".join(("FROM scratch", *lines)).encode()).stages
    texts = []
    has_command = False
    for instruction in stage.instructions:
        expanded = instruction.expand(lambda name: None)
        has_command = has_command or type(expanded).__name__ == "Cmd"
        config = configure(config, expanded, has_command=has_command)
        texts.append(told(expanded, config, ()))
    return config, texts


def test_an_entrypoint_drops_the_command_of_the_base_alone() -> None:
    base = {"Cmd": ["old"]}
    assert "Cmd" not in after(base, 'ENTRYPOINT ["/e"]')[0]
    assert after(base, "CMD new", 'ENTRYPOINT ["/e"]')[0]["Cmd"] == ["/bin/sh", "-c", "new"]
    assert after(base, 'ENTRYPOINT ["/e"]', 'CMD ["new"]')[0]["Cmd"] == ["new"]
    assert after({"Entrypoint": ["/e"]}, "ENTRYPOINT []")[0]["Entrypoint"] == []


def test_a_shell_runs_what_follows() -> None:
    config, texts = after({}, "CMD one", 'SHELL ["/bin/bash", "-c"]', "ENTRYPOINT two")
    assert config == {
        "Cmd": ["/bin/sh", "-c", "one"],
        "Shell": ["/bin/bash", "-c"],
        "Entrypoint": ["/bin/bash", "-c", "two"],
    }
    assert texts == [
        'CMD ["/bin/sh" "-c" "one"]',
        "SHELL [/bin/bash -c]",
        'ENTRYPOINT ["/bin/bash" "-c" "two"]',
    ]


def test_maps_grow_and_values_are_replaced() -> None:
    base = {
        "Env": ["A=1", "B=2"],
        "Labels": {"x": "1"},
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/v": {}},
    }
    config, texts = after(base, "ENV B=3 C=4", "LABEL x=2 y=3", "EXPOSE 53/udp", 'VOLUME ["/w"]', "USER a:b")
    assert config["Env"] == ["A=1", "B=3", "C=4"]
    assert config["Labels"] == {"x": "2", "y": "3"}
    assert set(config["ExposedPorts"]) == {"80/tcp", "53/udp"}
    assert set(config["Volumes"]) == {"/v", "/w"}
    assert base["Labels"] == {"x": "1"}
    assert texts == ["ENV B=3 C=4", "LABEL x=2 y=3", "EXPOSE map[53/udp:{}]", "VOLUME [/w]", "USER a:b"]


def test_a_healthcheck_has_what_was_given() -> None:
    config, _ = after({}, "HEALTHCHECK --interval=2s --retries=3 CMD true")
    expected = {"Test": ["CMD-SHELL", "true"], "Interval": 2_000_000_000, "Retries": 3}
    assert config["Healthcheck"] == expected
    assert after(config, "HEALTHCHECK NONE")[0]["Healthcheck"] == {"Test": ["NONE"]}


@pytest.mark.parametrize(
    ("workdir", "path", "expected"),
    [
        ("", "", "/"),
        ("/w", "", "/w/"),
        ("/w", ".", "/w/"),
        ("/w", "a", "/w/a"),
        ("/w", "a/", "/w/a/"),
        ("/w", "/a/../b", "/b"),
        ("/w", "../..", "/"),
        ("/w", "//a", "/a"),
    ],
)
def test_paths_are_relative_to_the_working_directory(workdir: str, path: str, expected: str) -> None:
    assert joined({"WorkingDir": workdir}, path) == expected


def test_a_finished_configuration_has_no_empty_parts_and_one_order() -> None:
    config = finished({"User": "", "Labels": {"b": "1"}, "Cmd": [], "Env": ["A=1"]}, {"a": "2"})
    assert list(config.items()) == [("Env", ["A=1"]), ("Labels", {"a": "2", "b": "1"})]


def test_values_that_no_image_can_have_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="stop signal"):
        after({}, "STOPSIGNAL no-signal!")
