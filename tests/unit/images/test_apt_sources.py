# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from mooring_agent.images.apt_sources import (
    AptSource,
    distribution_sources,
    fetch_settings,
    host_sources,
    parse_deb822,
    parse_list,
)

LIST = """\
# the distribution
deb http://mirror.example/debian bookworm main contrib # with a comment
deb [arch=amd64,arm64 signed-by=/keys/d.gpg] https://mirror.example/debian-security bookworm-security main
deb-src http://mirror.example/debian bookworm main
deb https://tools.example/linux/debian bookworm stable
deb cdrom:[Debian 12]/ bookworm main

"""
SOURCES = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINB

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://cloud.example/apt
Suites: cloud-sdk
Components: main
"""


def test_the_form_of_lines() -> None:
    assert parse_list(LIST)[:3] == [
        AptSource(("http://mirror.example/debian",), ("bookworm",), ("main", "contrib")),
        AptSource(
            ("https://mirror.example/debian-security",),
            ("bookworm-security",),
            ("main",),
            (("Architectures", "amd64 arm64"), ("Signed-By", "/keys/d.gpg")),
        ),
        AptSource(("https://tools.example/linux/debian",), ("bookworm",), ("stable",)),
    ]


def test_the_form_of_paragraphs() -> None:
    first, second = parse_deb822(SOURCES)
    assert first.suites == ("bookworm", "bookworm-updates", "bookworm-backports")
    assert first.fields == (("Signed-By", "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINB"),)
    assert second.uris == ("http://cloud.example/apt",)
    assert parse_deb822(first.stanza()) == [first]


@pytest.mark.parametrize(
    ("suite", "expected"),
    [
        ("bookworm", {"bookworm", "bookworm-updates", "bookworm-security"}),
        ("trixie", {"trixie", "trixie-updates", "trixie-security"}),
        ("sid", {"sid"}),
    ],
)
def test_only_the_distribution_s_own_are_taken_and_turned(suite: str, expected: set[str]) -> None:
    found = distribution_sources([*parse_list(LIST), *parse_deb822(SOURCES)], "bookworm", suite)
    assert {name for source in found for name in source.suites} == expected
    assert {uri for source in found for uri in source.uris} <= {
        "http://mirror.example/debian",
        "https://mirror.example/debian-security",
    }


def test_moving_names_count_as_the_release() -> None:
    source = AptSource(("http://mirror.example/debian",), ("stable", "stable-updates"), ("main",))
    assert distribution_sources([source], "bookworm", "trixie")[0].suites == ("trixie", "trixie-updates")


def test_all_files_of_the_host_are_read(tmp_path: Path) -> None:
    assert host_sources(tmp_path) == []
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://one.example/ a main\n")
    (tmp_path / "sources.list.d" / "b.sources").write_text(SOURCES)
    (tmp_path / "sources.list.d" / "a.list").write_text("deb http://two.example/ a main\n")
    (tmp_path / "sources.list.d" / "c.list.disabled").write_text("deb http://three.example/ a main\n")
    assert [source.uris[0] for source in host_sources(tmp_path)] == [
        "http://one.example/",
        "http://two.example/",
        "http://mirror.example/debian",
        "http://cloud.example/apt",
    ]


def test_only_settings_about_fetching_are_taken() -> None:
    dump = """\
APT::Architecture "amd64";
Acquire "";
Acquire::http "";
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::https::Verify-Peer "false";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Dir::Cache "var/cache/apt";
DPkg::Post-Invoke:: "rm -rf /";
"""
    assert fetch_settings(dump).splitlines() == [
        'Acquire::http::Proxy "http://proxy.example:3128";',
        'Acquire::https::Verify-Peer "false";',
        'Acquire::Check-Valid-Until "false";',
    ]
