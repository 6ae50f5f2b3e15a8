# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.changes import apply_changes
from mooring_agent.images.config import ImageConfig


def change(*lines: str, base: dict[str, Any] | None = None) -> dict[str, Any]:
    return apply_changes(base or {}, lines)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('CMD ["nginx", "-g", "daemon off;"]', ["nginx", "-g", "daemon off;"]),
        ("CMD nginx -g 'daemon off;'", ["/bin/sh", "-c", "nginx -g 'daemon off;'"]),
        ('cmd ["unclosed"', ["/bin/sh", "-c", '["unclosed"']),
    ],
)
def test_commands_have_two_forms(line: str, expected: list[str]) -> None:
    assert change(line) == {"Cmd": expected}
    assert change(line.replace("CMD", "ENTRYPOINT").replace("cmd", "entrypoint")) == {"Entrypoint": expected}


def test_commands_in_shell_form_are_for_the_image_s_shell() -> None:
    shell = ["/bin/bash", "-c"]
    assert change("CMD a b", base={"Shell": shell})["Cmd"] == [*shell, "a b"]


@pytest.mark.parametrize(
    ("lines", "env"),
    [
        (["ENV A=1"], ["A=1"]),
        (["ENV A=1 B='two words' C=\"x y\""], ["A=1", "B=two words", "C=x y"]),
        (["ENV A one two"], ["A=one two"]),
        (["ENV A=1", "ENV B=$A-${A}"], ["A=1", "B=1-1"]),
        (["ENV A=1", "ENV A=2 B=$A"], ["A=2", "B=1"]),
        (["ENV A=${B:-none} C=${A:+set}"], ["A=none", "C="]),
        (["ENV A=1 \\", "  B=2"], ["A=1", "B=2"]),
    ],
)
def test_environment(lines: list[str], env: list[str]) -> None:
    assert change(*lines) == {"Env": env}


def test_variables_are_those_of_the_image() -> None:
    assert change("LABEL at=$PLACE", base={"Env": ["PLACE=here"]})["Labels"] == {"at": "here"}


def test_health_checks() -> None:
    line = "HEALTHCHECK --interval=5s --timeout=2s --retries=2 CMD wget -q http://127.0.0.1/"
    checked = change(line)
    assert checked["Healthcheck"] == {
        "Test": ["CMD-SHELL", "wget -q http://127.0.0.1/"],
        "Interval": 5_000_000_000,
        "Timeout": 2_000_000_000,
        "Retries": 2,
    }
    assert ImageConfig.from_oci(checked).to_oci() == checked
    assert change("HEALTHCHECK NONE", base=checked)["Healthcheck"] == {"Test": ["NONE"]}


def test_everything_else() -> None:
    config = change(
        "WORKDIR /srv",
        "WORKDIR sub/../www",
        "USER www-data:www-data",
        "EXPOSE 80 53/udp 8000-8002",
        'LABEL a=1 "b c"=d',
        "STOPSIGNAL SIGQUIT",
        "# a comment",
        "",
        "LABEL e=f\nLABEL g=h",
        "ONBUILD RUN make",
        "VOLUME /data",
        base={"Domainname": "", "Volumes": {"/more": {}}, "Extra": "kept"},
    )
    assert config == {
        "WorkingDir": "/srv/www",
        "User": "www-data:www-data",
        "ExposedPorts": {port: {} for port in ("53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp")},
        "Labels": {"a": "1", "b c": "d", "e": "f", "g": "h"},
        "StopSignal": "SIGQUIT",
        "OnBuild": ["RUN make"],
        "Volumes": {"/data": {}, "/more": {}},
        "Extra": "kept",
    }


@pytest.mark.parametrize("lines", [(), ("",), (" ", "\n")])
def test_nothing_changes_nothing(lines: tuple[str, ...]) -> None:
    assert change(*lines, base={"Cmd": ["sh"]}) == {"Cmd": ["sh"]}


def test_a_new_entrypoint_drops_the_old_command() -> None:
    base = {"Cmd": ["old"], "Entrypoint": ["old"]}
    assert change('ENTRYPOINT ["new"]', base=base) == {"Entrypoint": ["new"]}
    for lines in (('ENTRYPOINT ["new"]', 'CMD ["arg"]'), ('CMD ["arg"]', 'ENTRYPOINT ["new"]')):
        assert change(*lines, base=base)["Cmd"] == ["arg"]


@pytest.mark.parametrize(
    "line",
    [
        "RUN rm -rf /",
        "RUN <<END\nrm -rf /\nEND",
        "COPY a /b",
        "ADD a /b",
        "FROM scratch",
        "ARG A=1",
        'SHELL ["/bin/bash", "-c"]',
        "MAINTAINER me",
        "CNM x",
    ],
)
def test_what_belongs_to_a_build_is_refused_by_name(line: str) -> None:
    name = line.split()[0]
    with pytest.raises(InvalidSpec, match=rf"--change:2: {name} is no instruction that changes.*HEALTHCHECK"):
        change("USER me", line)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("CMD [1]", "strings only"),
        ("ENV A", "expected ENV name=value"),
        ("ENV A=1 B", "name=value"),
        ("ENV A=${B", "A="),
        ("EXPOSE 0x", "0x"),
        ("EXPOSE 90-80", "90-80"),
        ("STOPSIGNAL !", "SIGTERM"),
        ("ONBUILD FROM x", "ONBUILD FROM is not allowed"),
        ("HEALTHCHECK --interval=5 CMD x", "interval"),
        ("HEALTHCHECK PING", "expected CMD or NONE"),
        ("VOLUME $NONE", "empty path"),
    ],
)
def test_errors_name_the_line(line: str, word: str) -> None:
    with pytest.raises(InvalidSpec, match=word) as caught:
        change("# first", line)
    assert caught.value.message.startswith("--change:2: ")
    assert line in caught.value.message


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8),
        min_size=1,
    )
)
def test_any_command_comes_through_as_json(command: list[str]) -> None:
    assert change("CMD " + json.dumps(command)) == {"Cmd": command}


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        change(text)
    except InvalidSpec:
        return
