# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.changes import apply_changes, expand
from mooring_agent.images.config import ImageConfig


def change(*lines: str, base: ImageConfig | None = None) -> ImageConfig:
    return apply_changes(base or ImageConfig(), lines)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('CMD ["nginx", "-g", "daemon off;"]', ("nginx", "-g", "daemon off;")),
        ("CMD nginx -g 'daemon off;'", ("/bin/sh", "-c", "nginx -g 'daemon off;'")),
        ('cmd ["unclosed"', ("/bin/sh", "-c", '["unclosed"')),
        ("CMD [1]", ("/bin/sh", "-c", "[1]")),
    ],
)
def test_commands_have_two_forms(line: str, expected: tuple[str, ...]) -> None:
    assert change(line).cmd == expected
    assert change(line.replace("CMD", "ENTRYPOINT").replace("cmd", "entrypoint")).entrypoint == expected


@pytest.mark.parametrize(
    ("lines", "env"),
    [
        (["ENV A=1"], ("A=1",)),
        (["ENV A=1 B='two words' C=\"x y\""], ("A=1", "B=two words", "C=x y")),
        (["ENV A one two"], ("A=one two",)),
        (["ENV A=a\\ b"], ("A=a b",)),
        (["ENV A=1", "ENV B=$A-${A}"], ("A=1", "B=1-1")),
        (["ENV A=1", "ENV A=2 B=$A"], ("A=2", "B=1")),
        (["ENV A='$B'"], ("A=$B",)),
        (["ENV A=\\$B"], ("A=$B",)),
        (["ENV A=${B:-none} C=${A:+set}"], ("A=none", "C=")),
        (["ENV A=x", "ENV B=${A:+has} C=${Z:-${A}y}"], ("A=x", "B=has", "C=xy")),
        (["ENV A="], ("A=",)),
        (["ENV A=b=c"], ("A=b=c",)),
    ],
)
def test_environment(lines: list[str], env: tuple[str, ...]) -> None:
    assert change(*lines).env == env


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
    )
    assert config.workdir == "/srv/www"
    assert config.user == "www-data:www-data"
    assert config.exposed_ports == ("53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp")
    assert config.labels == {"a": "1", "b c": "d", "e": "f", "g": "h"}
    assert config.stop_signal == "SIGQUIT"


def test_a_new_entrypoint_drops_the_old_command() -> None:
    base = ImageConfig(cmd=("old",), entrypoint=("old",))
    assert change('ENTRYPOINT ["new"]', base=base) == ImageConfig(entrypoint=("new",))
    assert change('ENTRYPOINT ["new"]', 'CMD ["arg"]', base=base).cmd == ("arg",)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("RUN rm -rf /", "CMD"),
        ("FROM scratch", "CMD"),
        ("CMD", "no argument"),
        ("ENV A", "NAME=value"),
        ("ENV A=1 B", "NAME=value"),
        ("ENV A='x", "not closed"),
        ("ENV A=${B", "not closed"),
        ("ENV A=${B?x}", "replacement"),
        ("EXPOSE 0", "65535"),
        ("EXPOSE 90-80", "range"),
        ("EXPOSE http", "65535"),
        ("STOPSIGNAL !", "SIGTERM"),
    ],
)
def test_errors_name_the_line(line: str, word: str) -> None:
    with pytest.raises(InvalidSpec, match=word) as caught:
        change(line)
    assert repr(line) in caught.value.message


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8), min_size=1
    )
)
def test_any_command_comes_through_as_json(command: list[str]) -> None:
    assert change("CMD " + json.dumps(command)).cmd == tuple(command)


@given(st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]), max_size=20))
def test_single_quotes_keep_everything(value: str) -> None:
    value = value.replace("'", "")
    assert expand(f"'{value}'", {}, split=True) == [value]


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(value: str) -> None:
    try:
        expand(value, {"A": "1"}, split=True)
    except InvalidSpec:
        return
