# SPDX-License-Identifier: Apache-2.0
"""How a container is asked whether it is healthy: the option `healthcheck`, and the same in Docker's words.

Follows `HealthConfig` of the Docker Engine API 1.47. What is not given is inherited from the image, field by
field.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from mooring_agent.engine.resources.declared import Declared, option
from mooring_agent.engine.resources.options import Choice, Integer, Items, Text, Type, refusal
from mooring_agent.errors import InvalidSpec
from mooring_agent.images.dockerfile.durations import parse_duration
from mooring_agent.images.dockerfile.errors import DockerfileError

SECOND = 1_000_000_000
"""Nanoseconds, in which spans of time are kept."""

LEAST_SPAN = 1_000_000
"""A millisecond, the shortest span that Docker takes."""

_LONGEST = 2**63 - 1
_NUMBER = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,2})?")
_UNITS = ((3600 * SECOND, "h"), (60 * SECOND, "m"))
_SMALL_UNITS = ((1_000_000, "ms"), (1_000, "µs"), (1, "ns"))
NONE = ("NONE",)
"""The test of a container that is not asked."""

KINDS = ("NONE", "CMD", "CMD-SHELL")
"""The words that a test begins with."""


def spelled(span: int) -> str:
    """A number of nanoseconds as Go writes a duration: "1m30s", "1.5s", "500ms"."""
    if span == 0:
        return "0s"
    if span < SECOND:
        size, unit = next(one for one in _SMALL_UNITS if span >= one[0])
        return f"{_decimal(span, size)}{unit}"
    text, begun = "", False
    for size, unit in _UNITS:
        count, span = divmod(span, size)
        begun = begun or count > 0
        text += f"{count}{unit}" if begun else ""
    return f"{text}{_decimal(span, SECOND)}s"


def _decimal(span: int, unit: int) -> str:
    whole, rest = divmod(span, unit)
    digits = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)


class Span(Type[int]):
    """A span of time in nanoseconds, given in seconds or as text such as "1m30s"; 0 is not set."""

    expected = 'a number of seconds or a time such as "1m30s" or "500ms", of at least 1ms, or 0 for not set'

    def parse(self, value: object, where: str) -> int | None:
        """See `Type.parse`."""
        span = self._nanoseconds(value, where)
        if span == 0:
            return None
        if not LEAST_SPAN <= span <= _LONGEST:
            raise refusal(where, value, self.expected)
        return span

    def _nanoseconds(self, value: object, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise refusal(where, value, self.expected)
        text = str(value).strip()
        if _NUMBER.fullmatch(text):
            return int(Decimal(text) * SECOND)
        try:
            return parse_duration(where, text)
        except DockerfileError:
            raise refusal(where, value, self.expected) from None

    def dump(self, value: int) -> int | str:
        """See `Type.dump`: whole seconds are a number."""
        return spelled(value) if value % SECOND else value // SECOND

    def show(self, value: int) -> str:
        """See `Type.show`."""
        return spelled(value)


class _Retries(Integer):
    """A number of failures in a row; 0 is not set."""

    def __init__(self) -> None:
        super().__init__(1, 2**31 - 1, unset=(0,))
        self.expected = "a number of failures in a row, or 0 for not set"


class HealthTest(Type[tuple[str, ...]]):
    """What asks: text for the image's shell, or a list that begins with NONE, CMD or CMD-SHELL."""

    _WORDS = Items(Text("an argument"))
    _EXPECTED = 'a command for the shell, or a list ["CMD", ARGUMENT …], ["CMD-SHELL", COMMAND] or ["NONE"]'

    def parse(self, value: object, where: str) -> tuple[str, ...] | None:
        """See `Type.parse`."""
        if isinstance(value, str):
            value = list(NONE) if value.strip().upper() == "NONE" else ["CMD-SHELL", value]
        if not isinstance(value, list | tuple) or not value:
            raise refusal(where, value, self._EXPECTED)
        words = self._WORDS.parse(value, where) or ()
        kind, *command = words
        if kind not in KINDS or bool(command) is (kind == "NONE") or (command and not command[0].strip()):
            raise refusal(where, value, self._EXPECTED)
        return words

    def dump(self, value: tuple[str, ...]) -> list[str]:
        """See `Type.dump`."""
        return list(value)

    def show(self, value: tuple[str, ...]) -> str:
        """See `Type.show`."""
        kind, *command = value
        return command[0] if kind == "CMD-SHELL" and len(command) == 1 else shlex.join(command) or "NONE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Healthcheck(Declared):
    """How a container is asked whether it is healthy; None where the image decides, or the default.

    Spans are nanoseconds. `on_unhealthy` says what happens to one that is not: "none" as with Docker, or
    "restart" by its restart policy.
    """

    KIND: ClassVar[str] = "healthcheck"

    test: tuple[str, ...] | None = option(HealthTest())
    interval: int | None = option(Span())
    timeout: int | None = option(Span())
    start_period: int | None = option(Span())
    start_interval: int | None = option(Span())
    retries: int | None = option(_Retries())
    on_unhealthy: str = option(Choice("none", "restart"), default="none")

    def check(self, prefix: str) -> None:
        """Nothing more can be said of a check that is none."""
        others = self.given_fields - {"test"}
        if self.test == NONE and others:
            raise InvalidSpec(
                f"{prefix}test is NONE, so that nothing is asked, and {', '.join(sorted(others))} would mean "
                "nothing; remove one of them"
            )

    def __str__(self) -> str:
        """Return "test true, interval 30s"."""
        shown = [] if self.test is None else [f"test {HealthTest().show(self.test)}"]
        shown += [f"{name} {spelled(value)}" for name in SPANS if (value := getattr(self, name)) is not None]
        shown += [f"retries {self.retries}"] if self.retries is not None else []
        shown += ["restarted when unhealthy"] if self.on_unhealthy == "restart" else []
        return ", ".join(shown) or "as the image has it"


SPANS = ("interval", "timeout", "start_period", "start_interval")
"""The options that are spans of time."""

DOCKER = {
    "test": "Test",
    "interval": "Interval",
    "timeout": "Timeout",
    "start_period": "StartPeriod",
    "start_interval": "StartInterval",
    "retries": "Retries",
}
"""Docker's words for our options, where it has the same."""


def inherited(declared: Healthcheck | None, image: Healthcheck | None) -> Healthcheck:
    """What holds: the declaration, and for what it leaves out the image's."""
    laid_over = {**(image.given if image is not None else {}), **(declared.given if declared else {})}
    return Healthcheck.parse_part(laid_over, "healthcheck")


def from_docker(config: Mapping[str, Any]) -> dict[str, Any]:
    """A HealthConfig in our words, for `Healthcheck`; nothing is checked but by that."""
    words = {name: config.get(theirs) for name, theirs in DOCKER.items()}
    given = {name: value for name, value in words.items() if value not in (None, 0, [])}
    return {name: f"{value}ns" if name in SPANS else value for name, value in given.items()}


def to_docker(check: Healthcheck) -> dict[str, Any]:
    """The same as a HealthConfig, without what is not set."""
    found = {theirs: getattr(check, name) for name, theirs in DOCKER.items()}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if value is not None
    }


def of_image(config: Mapping[str, Any], where: str) -> Healthcheck | None:
    """An image's check, from its HealthConfig. Raises InvalidSpec for one that means nothing."""
    if not config or config.get("Test") == list(NONE):
        return None
    try:
        return Healthcheck.parse_part(from_docker(config), f"{where}: healthcheck")
    except InvalidSpec as error:
        error.message += "; build it anew, or declare a healthcheck whose test is NONE"
        error.args = (error.message,)
        raise
