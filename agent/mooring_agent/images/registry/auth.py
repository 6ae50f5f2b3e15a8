# SPDX-License-Identifier: Apache-2.0
"""Proving who one is to a registry: challenges (RFC 9110, 11.6.1), Basic, and Bearer tokens.

Tokens are fetched as Docker's token specification says: by GET with Basic credentials or none, or by POST
(OAuth2) where there is an identity token. They are kept by scope until shortly before they expire.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlencode, urlsplit

from mooring_agent.errors import Unavailable
from mooring_agent.images.registry.settings import Credentials

CLIENT_ID = "mooring"

_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_LIFETIME = 60.0  # seconds that a token lives when the server does not say (Docker's token specification)
_MARGIN = 10.0  # seconds before its end that a token is not used any more, at most a tenth of its life
_MAX_LIFETIME = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a server asks for; `scheme` and the names of `parameters` are in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Read the values of WWW-Authenticate: several headers, and several challenges in one.

    What follows something that cannot be understood is left out, up to the end of that header.
    """
    found: list[Challenge] = []
    for header in headers:
        found += _parse_header(header)
    return found


def _parse_header(text: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = 0
    while True:
        while position < len(text) and text[position] in " \t,":
            position += 1
        name = _TOKEN.match(text, position)
        if name is None:
            return found
        after = _blanks(text, name.end())
        if after < len(text) and text[after] == "=" and found:
            value, position = _value(text, _blanks(text, after + 1))
            if value is None:
                return found
            found[-1].parameters.setdefault(name[0].lower(), value)
            continue
        found.append(Challenge(name[0].lower()))
        position = after
        token = _TOKEN68.match(text, position)
        if token is not None and after > name.end() and _ends(text, token.end()) and "=" in token[0]:
            position = token.end()  # a token68, which no scheme of ours has


def _value(text: str, position: int) -> tuple[str | None, int]:
    quoted = _QUOTED.match(text, position)
    if quoted is not None:
        return re.sub(r"\\(.)", r"\1", quoted[1]), quoted.end()
    plain = _TOKEN.match(text, position)
    return (plain[0], plain.end()) if plain is not None else (None, position)


def _blanks(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t":
        position += 1
    return position


def _ends(text: str, position: int) -> bool:
    position = _blanks(text, position)
    return position == len(text) or text[position] == ","


def basic(credentials: Credentials) -> str:
    """The value of Authorization for Basic (RFC 7617)."""
    pair = f"{credentials.username}:{credentials.password}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


class AskTokenServer(Protocol):
    """Sends a request to a token server; returns status and body, which it bounds in size and time."""

    def __call__(
        self, url: str, *, authorization: str = "", form: Sequence[tuple[str, str]] = ()
    ) -> tuple[int, bytes]:
        """By GET, or by POST if there is a form."""


@dataclass(frozen=True, slots=True)
class _Token:
    header: str = field(repr=False)
    ends: float  # on the authenticator's clock


class Refused(Exception):
    """The credentials were not taken, or there are none; the message says by whom, with status and reason."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Authenticator:
    """What is sent to one registry on one's behalf. Safe for threads; of several only one fetches a token.

    `find` is asked for credentials at each challenge, so that those of a new login are taken up. Secrets are
    never part of an error.
    """

    def __init__(
        self,
        find: Callable[[], Credentials | None],
        ask: AskTokenServer,
        *,
        secure: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find, self._ask, self._secure, self._clock = find, ask, secure, clock
        self._lock = threading.Lock()
        self._basic = ""
        self._tokens: dict[frozenset[str], _Token] = {}
        self.credentials: Credentials | None = None
        """Those that were used last."""
        self.refresh_token = ""
        """What a token server gave in place of the password, if it was asked for that."""

    def header(self, scopes: frozenset[str]) -> str:
        """What is known to be wanted, as the value of Authorization; empty for nothing."""
        with self._lock:
            return self._known(scopes)

    def answer(
        self, challenges: Sequence[Challenge], scopes: frozenset[str], sent: str, *, offline: bool = False
    ) -> str:
        """What to send after `sent` (a header, or empty) was answered by these challenges.

        Empty when there is nothing else to try. `offline` asks for a refresh token too. Raises Refused when
        the token server does not take the credentials, Unavailable when its answer is of no use.
        """
        with self._lock:
            known = self._known(scopes)
            if known and known != sent:
                return known  # another thread was quicker
            self._tokens = {key: kept for key, kept in self._tokens.items() if self._clock() < kept.ends}
            self._tokens.pop(scopes, None)
            self.credentials = credentials = self._find()
            by_scheme = {challenge.scheme: challenge for challenge in reversed(challenges)}
            if "bearer" in by_scheme:
                if credentials is not None and credentials.registry_token:
                    if not _is_token(credentials.registry_token):
                        raise Unavailable(
                            f"the token from {credentials.source} is none that fits into a header"
                        )
                    header = f"Bearer {credentials.registry_token}"
                    return header if header != sent else ""
                token = self._fetch(by_scheme["bearer"], scopes, credentials, offline=offline)
                self._tokens[scopes] = token
                return token.header
            if "basic" in by_scheme and credentials is not None and credentials.username:
                header = basic(credentials)
                self._basic = header if header != sent else ""
                return self._basic
            return ""

    def _known(self, scopes: frozenset[str]) -> str:
        if self._basic:
            return self._basic
        token = self._tokens.get(scopes)
        return token.header if token is not None and self._clock() < token.ends else ""

    def _fetch(
        self, challenge: Challenge, scopes: frozenset[str], credentials: Credentials | None, *, offline: bool
    ) -> _Token:
        realm = challenge.parameters.get("realm", "")
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise Unavailable("it names no usable token server in its challenge: expected a realm with a URL")
        if parts.scheme == "http" and self._secure:
            raise Unavailable(
                f"it names a token server without TLS ({parts.hostname}) in its challenge, to which "
                "credentials are not given: correct its realm"
            )
        wanted = sorted(scopes.union(challenge.parameters.get("scope", "").split()))
        service = challenge.parameters.get("service", "")
        asked = self._clock()
        if credentials is not None and credentials.identity_token:
            form = [("grant_type", "refresh_token"), ("refresh_token", credentials.identity_token)]
            form += [("service", service), ("scope", " ".join(wanted)), ("client_id", CLIENT_ID)]
            status, body = self._ask(realm, form=form)
        else:
            query = [("service", service)] if service else []
            query += [("scope", scope) for scope in wanted]
            authorization = ""
            if credentials is not None and credentials.username:
                authorization = basic(credentials)
                query.append(("account", credentials.username))
            if offline:
                query += [("offline_token", "true"), ("client_id", CLIENT_ID)]
            url = parts._replace(query="&".join(filter(None, (parts.query, urlencode(query)))), fragment="")
            status, body = self._ask(url.geturl(), authorization=authorization)
        if status != 200:
            if status in (400, 401, 403):
                raise Refused(f"its token server {parts.netloc} refused (status {status})", status)
            raise Unavailable(
                f"its token server {parts.netloc} answered with status {status}: try again later"
            )
        return self._read_token(body, asked, parts.netloc)

    def _read_token(self, body: bytes, asked: float, server: str) -> _Token:
        try:
            answer = json.loads(body)
            token = answer.get("token") or answer.get("access_token")
            lifetime = float(answer.get("expires_in") or _LIFETIME)
            refresh = answer.get("refresh_token") or ""
            usable = _is_token(token) and isinstance(refresh, str)
        except (ValueError, TypeError, AttributeError, OverflowError):
            usable = False
        if not usable:
            raise Unavailable(
                f"its token server {server} answered without a token: expected a JSON object with one"
            )
        self.refresh_token = refresh
        lifetime = min(max(lifetime, 0.0), _MAX_LIFETIME)
        return _Token(f"Bearer {token}", asked + lifetime - min(_MARGIN, lifetime / 10))


def _is_token(value: object) -> bool:
    """Whether it fits into a header: what does not would stand in the error of the HTTP client."""
    return isinstance(value, str) and value.isascii() and value.isprintable() and value != ""
