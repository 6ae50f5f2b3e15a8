# SPDX-License-Identifier: Apache-2.0
"""Where a container's output goes: the option `log`, and the options of each log driver in Docker's words.

Pure; whether the host has what a driver needs is for `engine.forwarding.onhost`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

from mooring_agent.engine.resources.declared import Declared, option
from mooring_agent.engine.resources.logtags import parse_tag
from mooring_agent.engine.resources.options import MIB, Choice, Integer, Pairs, Size, refusal
from mooring_agent.errors import InvalidSpec

JOURNALD, SYSLOG = "journald", "syslog"
FORWARDED = (JOURNALD, SYSLOG)
"""Drivers by which what a container writes goes to somebody else, beside the files that are kept here."""

LOG_DRIVERS = ("json-file", "local", "none", *FORWARDED)

# The facilities of RFC 5424, 6.2.1, by the names of syslog(3), and their numbers.
_NAMED = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv"),
    "ftp",
)
FACILITIES = {
    **{name: number for number, name in enumerate(_NAMED)},
    **{f"local{number}": 16 + number for number in range(8)},
}
_HIGHEST_FACILITY = 23
FORMATS = ("rfc3164", "rfc5424", "rfc5424micro")
TRANSPORTS = ("udp", "tcp", "tcp+tls", "unix", "unixgram")
_LOCAL_TRANSPORTS = ("unix", "unixgram")
_PORT = 514
_TLS = "syslog-tls-"
_ADDRESS = 'an address such as "udp://HOST:514", "tcp://HOST", "tcp+tls://HOST:6514" or "unixgram:///dev/log"'


@dataclass(frozen=True, slots=True)
class SyslogAddress:
    """Where a syslog server listens: `host` and `port`, or the `path` of a socket of this host."""

    transport: str
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        """Return it as it is given."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}://{self.path or f'{host}:{self.port}'}"


def parse_address(text: str, where: str) -> SyslogAddress:
    """Read a syslog-address. Raises InvalidSpec."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # as whoever resolves it does
    except ValueError:
        raise refusal(where, text, _ADDRESS) from None
    if parts.scheme not in TRANSPORTS or parts.query or parts.fragment or parts.username is not None:
        raise refusal(where, text, _ADDRESS)
    if parts.scheme in _LOCAL_TRANSPORTS:
        if parts.netloc or not parts.path.startswith("/") or parts.path == "/":
            raise refusal(where, text, f'the path of a socket, such as "{parts.scheme}:///dev/log"')
        return SyslogAddress(parts.scheme, path=parts.path)
    if not host or port == 0 or parts.path not in ("", "/"):
        raise refusal(where, text, _ADDRESS)
    return SyslogAddress(parts.scheme, host, port or _PORT)


def parse_facility(text: str, where: str) -> int:
    """Read a facility, a name or a number. Raises InvalidSpec."""
    if text in FACILITIES:
        return FACILITIES[text]
    if text.isascii() and text.isdigit() and int(text) <= _HIGHEST_FACILITY:
        return int(text)
    raise refusal(where, text, f"a facility: one of {', '.join(FACILITIES)}, or a number up to 23")


def parse_flag(text: str, where: str) -> bool:
    """Read a boolean as Docker's log options have it. Raises InvalidSpec."""
    if text.lower() in ("true", "1", "t"):
        return True
    if text.lower() in ("false", "0", "f"):
        return False
    raise refusal(where, text, "true or false")


def _names(text: str, where: str) -> None:
    if not all(text.split(",")):
        raise refusal(where, text, 'names, with a comma between each two, such as "one,other"')


def _pattern(text: str, where: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        raise refusal(where, text, f"a regular expression, which this is not ({error})") from None


def _path(text: str, where: str) -> None:
    if not text.startswith("/"):
        raise refusal(where, text, "the absolute path of a file of this host")


def _format(text: str, where: str) -> None:
    if text not in FORMATS:
        raise refusal(where, text, f"one of {', '.join(FORMATS)}")


def _always(mode: str, why: str) -> Callable[[str, str], None]:
    def check(text: str, where: str) -> None:
        if text != mode:
            raise refusal(where, text, f'"{mode}", as it is here anyway: {why}')

    return check


Check = Callable[[str, str], object]
_ATTRIBUTES: dict[str, Check] = {
    "labels": _names,
    "labels-regex": _pattern,
    "env": _names,
    "env-regex": _pattern,
    "tag": parse_tag,
}
_HELD = _always("blocking", "output goes to files of this host, and waits in the container's pipe for them")
_NOT_HELD = _always(
    "non-blocking",
    "what is not sent yet waits in the files that are kept (max_size, max_files; with Docker's clients "
    "cache-max-size and cache-max-file), and holds up no container",
)
_SENT: dict[str, Check] = {**_ATTRIBUTES, "mode": _NOT_HELD, "cache-disabled": parse_flag}
OPTIONS: dict[str, dict[str, Check]] = {
    "json-file": {**_ATTRIBUTES, "mode": _HELD},
    "local": {"mode": _HELD},
    "none": {},
    JOURNALD: _SENT,
    SYSLOG: {
        **_SENT,
        "syslog-address": parse_address,
        "syslog-facility": parse_facility,
        "syslog-format": _format,
        f"{_TLS}ca-cert": _path,
        f"{_TLS}cert": _path,
        f"{_TLS}key": _path,
        f"{_TLS}skip-verify": parse_flag,
    },
}
"""The options that each driver has, and what reads or refuses a value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogOptions(Declared):
    """Where a container's output goes, and how much of it is kept: `max_files` files of `max_size` bytes.

    The `driver` says what clients of Docker's API see: json-file and local keep it here, and with none nobody
    is shown what a container wrote but who is attached to it. With journald and syslog it is kept here as
    well, and sent on from there. `options` are the driver's own.
    """

    KIND: ClassVar[str] = "log"

    driver: str = option(Choice(*LOG_DRIVERS), default="json-file", live=True)
    max_size: int = option(Size(4096), default=16 * MIB)
    max_files: int = option(Integer(1, 1000, what="a number of files"), default=3)
    options: Mapping[str, str] = option(Pairs("options of the log driver"), default={})

    def __str__(self) -> str:
        """Return "3 files of 16m"."""
        kept = f"{self.max_files} files of {Size().show(self.max_size)}"
        shown = kept if self.driver == "json-file" else f"{self.driver}, {kept}"
        # Names alone: plans are logged, and an address may be nobody's business.
        return f"{shown}, {' '.join(self.options)}" if self.options else shown

    def check(self, prefix: str) -> None:
        """Hold the driver's options to what it has."""
        known = OPTIONS[self.driver]
        for name, value in self.options.items():
            where = f"{prefix}options.{name}"
            if name not in known:
                words = ", ".join(known) or "it has none"
                # The beginning is dockerd's wording.
                raise InvalidSpec(
                    f"unknown log opt '{name}' for {self.driver} log driver: {where} is to go, or to be one "
                    f"of {words}"
                )
            known[name](value, where)
        secured = [name for name in self.options if name.startswith(_TLS)]
        if secured and self.address_transport != "tcp+tls":
            raise InvalidSpec(
                f"{prefix}options has {secured[0]} without an address of tcp+tls; remove it, or give "
                "syslog-address such a one"
            )
        if (f"{_TLS}cert" in self.options) != (f"{_TLS}key" in self.options):
            raise InvalidSpec(
                f"{prefix}options has one of {_TLS}cert and {_TLS}key, expected both or none; add the other"
            )

    @property
    def address_transport(self) -> str:
        """How a syslog server is reached, empty where none is named."""
        return self.options.get("syslog-address", "").partition(":")[0]

    @property
    def forwarded(self) -> bool:
        """Whether output goes to somebody else."""
        return self.driver in FORWARDED

    @property
    def shown(self) -> bool:
        """Whether what is kept is shown to who asks for it."""
        hidden = self.options.get("cache-disabled", "false")
        return self.driver != "none" and not parse_flag(hidden, "cache-disabled")
