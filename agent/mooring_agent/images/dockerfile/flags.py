# SPDX-License-Identifier: Apache-2.0
"""The flags of an instruction: `--name=value` and `--name`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .errors import DockerfileError, nearest


class Flags:
    """The flags that an instruction has, checked against those that it may have.

    `switches` are true or false and need no value, `once` need one, `many` may be repeated. Raises
    DockerfileError for a flag that is not known, there twice, or lacks its value.
    """

    def __init__(
        self,
        words: Sequence[str],
        switches: Collection[str] = (),
        once: Collection[str] = (),
        many: Collection[str] = (),
    ) -> None:
        self._many: dict[str, list[str]] = {}
        self._once: dict[str, str] = {}
        self._switches: dict[str, bool] = {}
        for word in words:
            flag, equals, value = word.partition("=")
            name = flag.removeprefix("--")
            if name not in (*switches, *once, *many):
                known = [f"--{other}" for other in (*switches, *once, *many)]
                hint = nearest(flag, known) if known else "this instruction has none"
                raise DockerfileError(f"the flag {flag} is not known: {hint}")
            if name in self._once or name in self._switches:
                raise DockerfileError(f"the flag {flag} is there twice: expected it once")
            if (name in switches and equals and not value) or (name not in switches and not equals):
                raise DockerfileError(f"the flag {flag} has no value: expected {flag}=value")
            if name in switches:
                self._switches[name] = _switch(flag, value)
            elif name in once:
                self._once[name] = value
            else:
                self._many.setdefault(name, []).append(value)

    def switch(self, name: str) -> bool | None:
        """Whether it is on, None if it is not there."""
        return self._switches.get(name)

    def value(self, name: str, default: str = "") -> str:
        """Its value, the default if it is not there."""
        return self._once.get(name, default)

    def values(self, name: str) -> tuple[str, ...]:
        """All its values."""
        return tuple(self._many.get(name, ()))


def _switch(flag: str, value: str) -> bool:
    match value.lower():
        case "" | "true":
            return True
        case "false":
            return False
    raise DockerfileError(f"the flag {flag} is {value!r}: expected true or false")
