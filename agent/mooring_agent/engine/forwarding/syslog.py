# SPDX-License-Identifier: Apache-2.0
"""Lines of logs as messages of syslog: RFC 3164, RFC 5424, and the short form of syslog(3) for this host.

Pure. What dockerd writes where the formats leave a choice is what is written here: the tag is APP-NAME and
MSGID, the process id is that of the sender.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from ..resources.logdrivers import parse_facility
from .origin import Encoder, Line, Origin

_DAEMON = "daemon"
_SEVERITIES = {1: 6, 2: 3}  # RFC 5424, 6.2.1: informational, error
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
# RFC 5424, 6: printable US-ASCII without the space, so many of them at most.
_PRINTABLE = range(33, 127)
_HOSTNAME_MAX, _APP_NAME_MAX, _PROCID_MAX, _MSGID_MAX = 255, 48, 128, 32

Stamp = Callable[[int], str]
Frame = Callable[[bytes], bytes]


def encoder(options: Mapping[str, str], origin: Origin, *, stream: bool, secured: bool) -> Encoder:
    """What makes messages of the lines of a container. They follow each other on a `stream`, one by one
    otherwise; `secured` is one with TLS, where RFC 5425 counts the bytes of messages of RFC 5424.
    """
    facility = parse_facility(options.get("syslog-facility", _DAEMON), "syslog-facility")
    format = options.get("syslog-format", "")
    heads = {
        number: f"<{facility * 8 + severity}>{'1 ' if format.startswith('rfc5424') else ''}".encode()
        for number, severity in _SEVERITIES.items()
    }
    if format.startswith("rfc5424"):
        stamp: Stamp = _micros if format == "rfc5424micro" else _seconds
        name = _word(origin.hostname, _HOSTNAME_MAX)
        app, message_id = _word(origin.tag, _APP_NAME_MAX), _word(origin.tag, _MSGID_MAX)
        tail = f" {name} {app} {_word(str(origin.pid), _PROCID_MAX)} {message_id} - ".encode()
    else:
        stamp = _short
        host = f" {_word(origin.hostname, _HOSTNAME_MAX)}" if format == "rfc3164" else ""
        tail = f"{host} {_one_line(origin.tag)}[{origin.pid}]: ".encode("utf-8", "replace")
    frame: Frame = bytes
    if stream:
        frame = _counted if secured and format.startswith("rfc5424") else _ended

    def encode(line: Line) -> bytes:
        return frame(heads[line.stream] + stamp(line.time_ns).encode() + tail + line.text)

    return encode


def _ended(message: bytes) -> bytes:
    """RFC 6587, 3.4.2: a line has no newline in it."""
    return message + b"\n"


def _counted(message: bytes) -> bytes:
    """RFC 5425, 4.3: SYSLOG-FRAME."""
    return b"%d %b" % (len(message), message)


def _short(moment: int) -> str:
    """RFC 3164, 4.1.2: TIMESTAMP, in local time, whatever the locale."""
    at = time.localtime(moment // 1_000_000_000)
    clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    return f"{_MONTHS[at.tm_mon - 1]} {at.tm_mday:2} {clock}"


def _seconds(moment: int) -> str:
    return _stamp(moment, "seconds")


def _micros(moment: int) -> str:
    return _stamp(moment, "microseconds")


def _stamp(moment: int, precision: str) -> str:
    """RFC 5424, 6.2.3: TIMESTAMP, in local time with its offset."""
    seconds, nanoseconds = divmod(moment, 1_000_000_000)
    at = datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanoseconds // 1000).astimezone()
    text = at.isoformat(timespec=precision)
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


def _word(text: str, longest: int) -> str:
    """A part of a header; "-" is NILVALUE."""
    return "".join(sign if ord(sign) in _PRINTABLE else "_" for sign in text)[:longest] or "-"


def _one_line(text: str) -> str:
    return "".join(sign if sign.isprintable() else "_" for sign in text)
