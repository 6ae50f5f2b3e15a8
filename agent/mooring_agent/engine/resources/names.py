# SPDX-License-Identifier: Apache-2.0
"""The words of a spec that have a syntax of their own: names, users, signals, capabilities, CPU lists, paths.

Each function takes the text and `where` (which option, for the sentence of the error), and returns the normal
form.
"""

from __future__ import annotations

import posixpath
import re
import signal

from mooring_agent.engine.resources.options import refusal
from mooring_agent.errors import InvalidSpec
from mooring_agent.network.specs import NAME as NETWORK_NAME
from mooring_agent.network.specs import NAME_EXPECTED as NETWORK_NAME_EXPECTED

# The syntax of Docker's names, so that what one API makes the other can name.
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_LONGEST_NAME = 128
# useradd(8): what Debian accepts in a name, and the trailing $ of machine accounts.
_ACCOUNT = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]*\$?")
_ID = re.compile(r"[0-9]{1,10}")
_LARGEST_ID = 2**32 - 2  # (uid_t) -1 means "unchanged" to setuid(2)
_HOSTNAME_LABEL = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")  # RFC 1123, 2.1
_LONGEST_HOSTNAME = 64  # __NEW_UTS_LEN in linux/utsname.h
_CAPABILITY = re.compile(r"[A-Z]+(?:_[A-Z]+)*")
_REALTIME = re.compile(r"(RTMIN\+|RTMAX-)([0-9]{1,2})")
_CPU_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_SIGNALS = {item.name.removeprefix("SIG"): int(item) for item in signal.Signals}


def image(text: str, where: str) -> str:
    """The name of an image, or its id; what it names is the store's to say."""
    if not text or any(letter.isspace() for letter in text):
        raise refusal(where, text, 'the name of an image such as "busybox" or "registry/web:2", or its id')
    return text


def check_name(kind: str, name: object) -> str:
    """Return the name of a container, network, volume or cgroup; raise InvalidSpec if it is not one."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise refusal(
            f"the name of a {kind}",
            name,
            f"2 to {_LONGEST_NAME} letters, digits, '_', '.' or '-', of which the first is a letter or digit",
        )
    return name


def network_name(text: str, where: str) -> str:
    """Check a name that refers to a network, which may have spaces."""
    if not NETWORK_NAME.fullmatch(text):
        raise refusal(where, text, f"the name of a network, {NETWORK_NAME_EXPECTED}")
    return text


def resource_name(kind: str, text: str, where: str) -> str:
    """Check a name that refers to another resource."""
    try:
        return check_name(kind, text)
    except InvalidSpec as error:
        raise InvalidSpec(f"{where}: {error.message}") from None


def user(text: str, where: str) -> str:
    """Check "name|uid[:group|gid]"; leading zeros of a number go."""
    parts = text.split(":")
    if len(parts) > 2 or not all(_ACCOUNT.fullmatch(part) or _is_id(part) for part in parts):
        raise refusal(where, text, '"USER" or "USER:GROUP", each a name or a number from 0 to 4294967294')
    return ":".join(str(int(part)) if _ID.fullmatch(part) else part for part in parts)


def group(text: str, where: str) -> str:
    """Check the name or number of a group; leading zeros of a number go."""
    if not (_ACCOUNT.fullmatch(text) or _is_id(text)):
        raise refusal(where, text, "the name of a group or a number from 0 to 4294967294")
    return str(int(text)) if _ID.fullmatch(text) else text


def _is_id(part: str) -> bool:
    return _ID.fullmatch(part) is not None and int(part) <= _LARGEST_ID


def hostname(text: str, where: str) -> str:
    """Check a host name of RFC 1123, of at most the 64 characters that the kernel takes."""
    if len(text) > _LONGEST_HOSTNAME or not all(
        _HOSTNAME_LABEL.fullmatch(label) for label in text.split(".")
    ):
        raise refusal(where, text, f"a host name of at most {_LONGEST_HOSTNAME} letters, digits, '-' and '.'")
    return text


def absolute_path(text: str, where: str) -> str:
    """Return an absolute path without "//", "/./", "/../" and trailing slash."""
    if not text.startswith("/"):
        raise refusal(where, text, "an absolute path, beginning with /")
    return "/" + posixpath.normpath(text).lstrip("/")


def signal_number(name: str) -> int:
    """Return the number of "TERM", "SIGTERM", "15" or "SIGRTMIN+3"; raise InvalidSpec for other words."""
    return _signal(name, "the signal")[1]


def signal_name(text: str, where: str) -> str:
    """Return the name of a signal in the form SIGTERM."""
    return _signal(text, where)[0]


def _signal(text: str, where: str) -> tuple[str, int]:
    word = text.strip().upper().removeprefix("SIG")
    if word.isascii() and word.isdigit() and len(word) <= 3:
        number = int(word)
    elif match := _REALTIME.fullmatch(word):
        offset = int(match[2])
        number = signal.SIGRTMIN + offset if match[1] == "RTMIN+" else signal.SIGRTMAX - offset
    else:
        number = _SIGNALS.get(word, 0)
    for name, known in _SIGNALS.items():
        if known == number:
            return f"SIG{name}", number
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}", number
    raise refusal(where, text, 'a signal such as "SIGTERM", "INT", "SIGRTMIN+3" or its number')


def capability(text: str, where: str) -> str:
    """Return a capability's name in the form NET_ADMIN, or ALL."""
    word = text.strip().upper().removeprefix("CAP_")
    if not _CAPABILITY.fullmatch(word):
        raise refusal(where, text, 'a capability such as "NET_ADMIN" (see capabilities(7)), or "ALL"')
    return word


def cpu_list(text: str, where: str) -> str:
    """Return a list of CPUs or memory nodes ("0-3,8", cpuset(7) "List format"), sorted and merged."""
    numbers: set[int] = set()
    for part in text.replace(" ", "").split(","):
        match = _CPU_RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise refusal(where, text, 'a list of numbers and ranges such as "0-3,8"')
        numbers.update(range(first, last + 1))
    return ",".join(_ranges(sorted(numbers)))


def _ranges(numbers: list[int]) -> list[str]:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return [str(first) if first == last else f"{first}-{last}" for first, last in runs]
