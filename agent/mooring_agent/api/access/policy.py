# SPDX-License-Identifier: Apache-2.0
"""The rules of the configuration's `access`: who may do what. The first that fits a peer decides.

Without rules, whoever may open the socket or has a certificate of the CA may do everything.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import InvalidSpec
from ..messages import Request
from ..router import Need, Route
from ..sparingly import SparingLog
from .accounts import Accounts
from .ownership import Forbidden, Owner
from .peers import Peer

_SUBJECTS = ("users", "groups", "certificates")
_KEYS = (*_SUBJECTS, "allow", "prefix")
_ALLOW = {"all": Need.ALL, "own": Need.OWN, "read": Need.READ}
_NAME = re.compile(r"[^\s:,/]{1,256}")
_COMMON_NAME = re.compile(r"CN=.{1,64}", re.DOTALL)  # RFC 5280, A.1: ub-common-name
# The last one keeps a name of theirs from being the beginning of an id, and from one that goes on otherwise.
_PREFIX = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}[_.-]")
_MAX_RULES = 1000
_MAX_NAMES = 1000


@dataclass(frozen=True, slots=True)
class Rule:
    """Some users, groups and certificates (by common name), and what they may do: `allow` is what calls need.

    Users and groups are names or numbers, as text. With Need.OWN there is a `prefix`, that of their names.
    """

    users: tuple[str, ...]
    groups: tuple[str, ...]
    common_names: tuple[str, ...]
    allow: Need
    prefix: str = ""

    @classmethod
    def parse(cls, spec: Any, number: int) -> Rule:
        """Check one entry of the list, the one of this number; raises InvalidSpec that names it."""
        where = f"rule {number} of access"
        if not isinstance(spec, Mapping):
            raise InvalidSpec(f"{where} is not usable: expected a mapping of {', '.join(_KEYS)}")
        for key in spec:
            if key not in _KEYS:
                raise InvalidSpec(f"{where} has an unknown setting {key!r}: expected {', '.join(_KEYS)}")
        allow = spec.get("allow")
        if not isinstance(allow, str) or allow not in _ALLOW:
            raise InvalidSpec(f"{where} is not usable: allow is {allow!r}; expected {' or '.join(_ALLOW)}")
        users = _names(spec, "users", where, _NAME, "names or numbers of users")
        groups = _names(spec, "groups", where, _NAME, "names or numbers of groups")
        certificates = _names(spec, "certificates", where, _COMMON_NAME, 'common names, such as "CN=ci"')
        if not (users or groups or certificates):
            raise InvalidSpec(f"{where} is for nobody: expected some {' or '.join(_SUBJECTS)}")
        common_names = tuple(each.removeprefix("CN=") for each in certificates)
        return cls(users, groups, common_names, _ALLOW[allow], _prefix(spec, where))


class Policy:
    """The rules, and what follows from them for a request."""

    def __init__(
        self, rules: Sequence[Rule], accounts: Accounts | None = None, own_uid: int | None = None
    ) -> None:
        self._rules = tuple(rules)
        self._accounts = accounts or Accounts()
        # These could change the agent itself, so a rule could not hold them.
        self._always = {0, os.geteuid() if own_uid is None else own_uid}
        self._refusals = SparingLog(logging.getLogger(__name__))

    @classmethod
    def parse(cls, spec: Sequence[Any]) -> Policy:
        """Check what the configuration says; raises InvalidSpec that names the rule."""
        if not spec or len(spec) > _MAX_RULES:
            raise InvalidSpec(
                f"access has {len(spec)} rules: expected 1 to {_MAX_RULES}, or no access, which leaves it to "
                "the permissions of the socket"
            )
        return cls([Rule.parse(each, number) for number, each in enumerate(spec, 1)])

    async def check(self, request: Request, route: Route) -> Need | Owner:
        """What the peer may do, which is enough for this request, or which names they have, whose calls are
        held to that elsewhere. Raises Forbidden, and logs that; Unavailable where the host does not tell who
        is meant by a rule.
        """
        peer = request.peer or Peer()
        number, allowed = await self.decide(peer)
        if allowed is Need.ALL or (allowed is not None and allowed is route.needs):
            return allowed
        who = peer.described(None if peer.uid is None else await self._accounts.name(peer.uid))
        if allowed is Need.OWN:
            return Owner(who, number, self._rules[number - 1].prefix)
        self.note_refusal(request, who)
        if allowed is None:
            raise Forbidden(
                f"{who} may do nothing on this host: no rule of access in the agent's configuration is for "
                "them; ask who runs the host for one"
            )
        raise Forbidden(
            f"{who} may not {request.method} {request.path}: rule {number} of access in the agent's "
            "configuration lets them read only, which is to look at what is there, and neither to change it, "
            "nor to run anything, nor to copy files out; ask who runs the host for allow: all"
        )

    def note_refusal(self, request: Request, who: str) -> None:
        """Log that something was refused to who is asking."""
        self._refusals.warning("refused who=%r method=%s path=%r", who, request.method, request.path)

    async def decide(self, peer: Peer) -> tuple[int, Need | None]:
        """The number of the rule that decides, from 1 on, and what it allows; (0, ALL) for who may always do
        everything, (0, None) where no rule fits. Raises Unavailable.
        """
        if peer.uid is not None and peer.uid in self._always:
            return 0, Need.ALL
        for number, rule in enumerate(self._rules, 1):
            if await self._fits(rule, peer):
                return number, rule.allow
        return 0, None

    async def _fits(self, rule: Rule, peer: Peer) -> bool:
        if peer.uid is None:
            return peer.common_name is not None and peer.common_name in rule.common_names
        for user in rule.users:
            if await self._accounts.uid(user) == peer.uid:
                return True
        for group in rule.groups:
            if await self._accounts.gid(group) in peer.gids:
                return True
        return False


def _prefix(spec: Mapping[str, Any], where: str) -> str:
    prefix = spec.get("prefix")
    if spec["allow"] != "own":
        if prefix is None:
            return ""
        raise InvalidSpec(f"{where} has a prefix and allow: {spec['allow']}: remove it, or say allow: own")
    if isinstance(prefix, str) and _PREFIX.fullmatch(prefix):
        return prefix
    raise InvalidSpec(
        f"{where} is not usable: prefix is {str(prefix)[:200]!r}; expected the beginning of names that it "
        "gives, of 2 to 64 letters, digits, '_', '.' and '-', the last one of these three, such as \"ci-\""
    )


def _names(
    spec: Mapping[str, Any], key: str, where: str, form: re.Pattern[str], expected: str
) -> tuple[str, ...]:
    values = spec.get(key)
    if values is None:
        return ()
    if isinstance(values, list) and 0 < len(values) <= _MAX_NAMES:
        texts = [str(value) if type(value) is int and value >= 0 else value for value in values]
        if all(isinstance(text, str) and form.fullmatch(text) for text in texts):
            return tuple(texts)
    raise InvalidSpec(
        f"{where} is not usable: {key} is {str(values)[:200]!r}; expected a list of {expected}, of 1 to "
        f"{_MAX_NAMES}"
    )
