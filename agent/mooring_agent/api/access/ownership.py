# SPDX-License-Identifier: Apache-2.0
"""Who has the names that begin with a prefix, and what they are told where something is not theirs."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import MooringError, NotFound

_LONGEST_SHOWN = 100


class Forbidden(MooringError):
    """The agent knows who is asking, and its configuration does not let them."""

    status = 403
    code = "forbidden"


@dataclass(frozen=True, slots=True)
class Owner:
    """Somebody to whom rule `number` of access gives all names that begin with `prefix`.

    `who` is how messages name them. A prefix ends with a character that no id has, so that no name of theirs
    is the beginning of one.
    """

    who: str
    number: int
    prefix: str

    def owns(self, name: str) -> bool:
        """Whether this is the name of something of theirs."""
        return name.startswith(self.prefix)

    def missing(self, kind: str, reference: str) -> NotFound:
        """The error for what is not theirs: the same whether or not others have it."""
        return NotFound(
            f"no such {kind}: {reference}; you have those whose names begin with {self.prefix!r}, "
            f"by rule {self.number} of access"
        )

    def needs_name(self, what: str, name: object) -> Forbidden:
        """The error for a name that they may not give."""
        given = f"is called {name!r}" if name else "has no name"
        return Forbidden(
            f"{what} of {self.who} {given}: by rule {self.number} of access in the agent's configuration its "
            f"name begins with {self.prefix!r}; give it such a name"
        )

    def refuses(self, option: str, value: object, hint: str = "leave it out") -> Forbidden:
        """The error for an option that reaches beyond what is theirs."""
        shown = repr(value)
        shown = shown if len(shown) <= _LONGEST_SHOWN else f"{shown[: _LONGEST_SHOWN - 1]}…"
        return Forbidden(
            f"{self.who} may not ask for {option} ({shown}), which may reach beyond the container: rule "
            f"{self.number} of access in the agent's configuration gives them names that begin with "
            f"{self.prefix!r}, not the host; {hint}"
        )

    def may_not(self, method: str, path: str) -> Forbidden:
        """The error for a call that is not for owners of names."""
        return Forbidden(
            f"{self.who} may not {method} {path}: rule {self.number} of access in the agent's configuration "
            f"lets them have containers, networks and volumes whose names begin with {self.prefix!r}, of the "
            "images that are there; ask who runs the host for this, or for allow: all"
        )
