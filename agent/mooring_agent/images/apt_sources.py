# SPDX-License-Identifier: Apache-2.0
"""Where the host's apt gets its packages from (sources.list(5)): root file systems come from there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

_OPTION_FIELDS = {"arch": "Architectures", "lang": "Languages", "target": "Targets"}  # those that are renamed
_OPTIONS = re.compile(r"\[([^\]]*)\]")
_MOVING = ("stable", "oldstable", "testing", "unstable", "sid")  # suites that are no release's own name
_POCKETS = ("-updates", "-security", "/updates")
_WITHOUT_POCKETS = ("unstable", "sid", "experimental")
_SCHEMES = ("http:", "https:", "mirror:", "mirror+", "ftp:", "tor+")
# Settings of apt that say how things are fetched; the rest says how the host itself is run.
_FETCHING = re.compile(
    r"Acquire::(?:http|https|ftp|Check-Valid-Until|Check-Date|Min-ValidTime|Max-ValidTime|Max-FutureTime|Retries|"
    r"ForceIPv4|ForceIPv6|Queue-Mode|By-Hash|AllowInsecureRepositories|AllowWeakRepositories|AllowTLS)\b"
)


@dataclass(frozen=True, slots=True)
class AptSource:
    """One entry: where, which suites and components, and further deb822 fields such as Signed-By."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    fields: tuple[tuple[str, str], ...] = ()

    def stanza(self) -> str:
        """The entry in deb822 form."""
        lines = [
            "Types: deb",
            f"URIs: {' '.join(self.uris)}",
            f"Suites: {' '.join(self.suites)}",
            f"Components: {' '.join(self.components)}",
            *(f"{name}: {value}" for name, value in self.fields),
        ]
        return "\n".join(lines) + "\n"


def host_sources(etc: Path = Path("/etc/apt")) -> list[AptSource]:
    """All entries of binary packages that apt on this host uses, in the order in which it reads them."""
    directory = etc / "sources.list.d"
    listed = sorted(directory.iterdir()) if directory.is_dir() else []
    found: list[AptSource] = []
    for path in [etc / "sources.list", *listed]:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".list":
            found += parse_list(text)
        elif path.suffix == ".sources":
            found += parse_deb822(text)
    return found


def parse_list(text: str) -> list[AptSource]:
    """Read the one-line form: `deb [option=value …] URI SUITE COMPONENT…`."""
    found = []
    for line in text.splitlines():
        line = line.partition("#")[0]
        match = _OPTIONS.search(line)
        words = _OPTIONS.sub(" ", line, count=1).split()
        if len(words) < 4 or words[0] != "deb":
            continue
        options = (option.partition("=") for option in (match[1].split() if match else ()))
        fields = tuple((_field(name), value.replace(",", " ")) for name, _, value in options)
        found.append(AptSource((words[1],), (words[2],), tuple(words[3:]), fields))
    return found


def parse_deb822(text: str) -> list[AptSource]:
    """Read the form of paragraphs with fields; disabled entries and those of source packages are left out."""
    found = []
    for stanza in _stanzas(text.splitlines()):
        values = {name.lower(): value for name, value in stanza.items()}
        if "deb" not in values.get("types", "").split() or values.get("enabled", "yes").strip().lower() in (
            "no",
            "false",
        ):
            continue
        known = ("types", "enabled", "uris", "suites", "components")
        fields = tuple((name, value) for name, value in stanza.items() if name.lower() not in known)
        uris, suites, components = (tuple(values.get(name, "").split()) for name in known[2:])
        if uris and suites:
            found.append(AptSource(uris, suites, components, fields))
    return found


def distribution_sources(sources: Iterable[AptSource], codename: str, suite: str) -> list[AptSource]:
    """Those of the host's entries that are its distribution's own, turned to `suite`.

    `codename` is the host's release. Other people's repositories are told by their suites and components.
    Empty when the host has none that can be reached by network.
    """
    found = []
    for source in sources:
        uris = tuple(uri for uri in source.uris if uri.startswith(_SCHEMES))
        suites = tuple(
            dict.fromkeys(
                turned for own in source.suites if (turned := _turn(own, codename, suite)) is not None
            )
        )
        if uris and suites and "main" in source.components:
            found.append(replace(source, uris=uris, suites=suites))
    return found


def fetch_settings(dump: str) -> str:
    """From the output of `apt-config dump`, the settings about fetching: proxies, validity, retries."""
    lines = (line for line in dump.splitlines() if _FETCHING.match(line) and not line.endswith(' "";'))
    return "".join(f"{line}\n" for line in lines)


def _turn(own: str, codename: str, suite: str) -> str | None:
    for base in (codename, *_MOVING):
        if own == base:
            return suite
        if own.startswith(base) and own[len(base) :] in _POCKETS:
            return None if suite in _WITHOUT_POCKETS else suite + own[len(base) :]
    return None


def _field(option: str) -> str:
    option = option.rstrip("+-")
    return _OPTION_FIELDS.get(option, "-".join(word.capitalize() for word in option.split("-")))


def _stanzas(lines: Iterable[str]) -> list[Mapping[str, str]]:
    found: list[dict[str, str]] = [{}]
    name = None
    for line in lines:
        if line.startswith("#"):
            continue
        if not line.strip():
            found.append({})
            name = None
        elif line[0] in " \t":
            if name is not None:
                found[-1][name] += "\n" + line
        else:
            name, _, value = line.partition(":")
            name = name.strip()
            found[-1][name] = value.strip()
    return [stanza for stanza in found if stanza]
