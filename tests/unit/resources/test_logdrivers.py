# SPDX-License-Identifier: Apache-2.0
"""Log drivers and their options: what is taken, what is refused, and how tags are written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.engine.resources.logdrivers import LogOptions, SyslogAddress, parse_address
from mooring_agent.engine.resources.logtags import Tagged, parse_tag, render_tag
from mooring_agent.errors import InvalidSpec

OF = Tagged(
    id="0123456789abcdef" * 4,
    name="web1",
    image="registry/web:1",
    image_id="sha256:fedcba9876543210",
    hostname="host",
    command="nginx -g x",
    daemon="mooring",
    labels={"a b": "label"},
)


@pytest.mark.parametrize(
    ("template", "tag"),
    [
        ("plain", "plain"),
        ("{{.ID}}", "0123456789ab"),
        ("{{ .Name }}/{{.ImageName}}", "web1/registry/web:1"),
        ("{{.FullID}}", OF.id),
        ("{{.ImageID}}|{{.ImageFullID}}", "sha256:fedcb|sha256:fedcba9876543210"),
        ("{{.DaemonName}} {{.Hostname}} {{.ContainerName}}", "mooring host /web1"),
        ('{{index .ContainerLabels "a b"}}-{{(index .ContainerLabels "none")}}', "label-"),
        ("a  {{- .Name -}}  b", "aweb1b"),
        ("", ""),
    ],
)
def test_tags(template: str, tag: str) -> None:
    assert render_tag(parse_tag(template, "tag"), OF) == tag


@pytest.mark.parametrize("template", ["{{", "{{.Nam}}", "{{.ID", "{{if .ID}}x{{end}}", "{{ID}}"])
def test_templates_that_are_none(template: str) -> None:
    with pytest.raises(InvalidSpec):
        parse_tag(template, "tag")


@given(st.text(max_size=30))
def test_any_text_is_a_template_or_refused(text: str) -> None:
    try:
        render_tag(parse_tag(text, "tag"), OF)
    except InvalidSpec:
        return


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("udp://1.2.3.4", SyslogAddress("udp", "1.2.3.4", 514)),
        ("tcp://logs.example:601", SyslogAddress("tcp", "logs.example", 601)),
        ("tcp+tls://[::1]:6514", SyslogAddress("tcp+tls", "::1", 6514)),
        ("unix:///run/log", SyslogAddress("unix", path="/run/log")),
        ("unixgram:///dev/log", SyslogAddress("unixgram", path="/dev/log")),
    ],
)
def test_addresses(text: str, address: SyslogAddress) -> None:
    assert parse_address(text, "x") == address
    assert parse_address(str(address), "x") == address


@pytest.mark.parametrize("host", ["logs..example", ".example", "a" * 64])
def test_names_that_nobody_can_resolve_are_refused(host: str) -> None:
    with pytest.raises(InvalidSpec, match="an address such as"):
        parse_address(f"tcp://{host}:514", "x")


@given(
    st.text(max_size=30)
    | st.sampled_from(("udp", "tcp", "unix")).flatmap(
        lambda kind: st.text().map(lambda rest: f"{kind}://{rest}")
    )
)
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = parse_address(text, "x")
    except InvalidSpec:
        return
    assert address.path or (address.host and 0 < address.port < 65536)


@pytest.mark.parametrize(
    "log",
    [
        {"driver": "journald", "options": {"tag": "{{.Name}}", "labels": "a,b", "mode": "non-blocking"}},
        {"driver": "syslog", "options": {"syslog-address": "tcp+tls://a:1", "syslog-tls-ca-cert": "/ca"}},
        {"driver": "json-file", "options": {"env-regex": "^A", "mode": "blocking"}},
    ],
)
def test_options_that_are_taken(log: dict[str, Any]) -> None:
    assert LogOptions.parse(log).differing() == log or log["driver"] == "json-file"


@pytest.mark.parametrize(
    ("log", "word"),
    [
        ({"driver": "gelf"}, "driver"),
        (
            {"options": {"syslog-address": "udp://x"}},
            "unknown log opt 'syslog-address' for json-file log driver",
        ),
        ({"driver": "local", "options": {"tag": "x"}}, "unknown log opt 'tag'"),
        ({"driver": "none", "options": {"mode": "blocking"}}, "unknown log opt"),
        ({"options": {"mode": "non-blocking"}}, "mode"),
        ({"driver": "syslog", "options": {"mode": "blocking"}}, "mode"),
        ({"driver": "syslog", "options": {"max-buffer-size": "4m"}}, "max-buffer-size"),
        ({"driver": "syslog", "options": {"syslog-format": "rfc1"}}, "syslog-format"),
        ({"driver": "syslog", "options": {"syslog-facility": "24"}}, "syslog-facility"),
        ({"driver": "syslog", "options": {"syslog-tls-skip-verify": "true"}}, "tcp+tls"),
        (
            {"driver": "syslog", "options": {"syslog-address": "tcp+tls://a", "syslog-tls-cert": "/c"}},
            "syslog-tls-key",
        ),
        ({"driver": "journald", "options": {"labels-regex": "("}}, "labels-regex"),
        ({"driver": "journald", "options": {"labels": "a,,b"}}, "labels"),
        ({"driver": "journald", "options": {"cache-disabled": "maybe"}}, "cache-disabled"),
    ],
)
def test_options_that_are_refused_by_name(log: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidSpec, match="log") as refused:
        LogOptions.parse(log)
    assert word in refused.value.message


def test_what_is_shown_of_a_log() -> None:
    assert LogOptions.parse({}).shown
    assert not LogOptions.parse({"driver": "none"}).shown
    assert not LogOptions.parse({"driver": "syslog", "options": {"cache-disabled": "true"}}).shown
    assert str(LogOptions.parse({"driver": "journald", "options": {"tag": "x"}})) == (
        "journald, 3 files of 16m, tag"
    )
