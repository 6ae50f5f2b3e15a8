# SPDX-License-Identifier: Apache-2.0
"""Requests to one endpoint of a registry: authorized, through redirects, and again where that may help."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar
from urllib.parse import SplitResult, quote, urlencode, urljoin, urlsplit

from mooring_agent import __version__
from mooring_agent.errors import InvalidSpec, MooringError, Unavailable
from mooring_agent.images.registry.auth import Authenticator, Refused, parse_challenges
from mooring_agent.images.registry.connections import Broken, ConnectionPool, Mismatch, Response, Unreachable
from mooring_agent.images.registry.refusals import denied, parse_refusal, parse_retry_after, refused
from mooring_agent.images.registry.retrying import TEMPORARY, Retrying, RetryPolicy
from mooring_agent.images.registry.settings import Credentials, Endpoint, Tls, TlsSettings

_MAX_REDIRECTS = 5
_MAX_ERROR = 64 << 10  # bytes of an error's document
_MAX_TOKEN = 1 << 20  # bytes of a token server's answer
_REDIRECTS = (301, 302, 303, 307, 308)
_SAFE = "%/:=&?~#+!$,;'@()*[]"  # what a Location may hold unquoted

T = TypeVar("T")
Body = bytes | Callable[[], Iterable[bytes]] | None


class Session:
    """One endpoint, as one user. Safe for threads.

    `tls_of` tells how another host is connected to, to which a registry redirects or leaves its tokens.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        find: Callable[[], Credentials | None],
        pool: ConnectionPool,
        policy: RetryPolicy,
        wait: Callable[[float], bool],
        tls_of: Callable[[str], TlsSettings],
    ) -> None:
        self.endpoint = endpoint
        self._pool, self._policy, self._wait, self._tls_of = pool, policy, wait, tls_of
        secure = endpoint.tls.mode in (Tls.VERIFY, Tls.UNVERIFIED)
        self.authenticator = Authenticator(find, self._ask_token_server, secure=secure)

    @property
    def where(self) -> str:
        """The endpoint in a message."""
        return self.endpoint.where

    def retrying(self) -> Retrying:
        """The attempts at something of one's own."""
        return Retrying(self._policy, self._wait, is_mirror=self.endpoint.is_mirror)

    def url(self, path: str) -> str:
        """The URL of a path of the API. Raises Unavailable if finding it out fails."""
        retrying = self.retrying()
        while True:
            try:
                scheme = self._pool.scheme(self.endpoint.address, self.endpoint.tls)
            except Broken as error:
                if isinstance(error, Mismatch) or not retrying.again(unreachable=True):
                    raise self.failed(self.endpoint.name, error, retrying.attempts) from error
            else:
                return f"{scheme}://{self.endpoint.address}{path}"

    def request(
        self,
        method: str,
        url: str,
        what: str,
        *,
        scopes: frozenset[str] = frozenset(),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        expect: Collection[int] = (200,),
        offline: bool = False,
    ) -> Response:
        """Send until the status is one of `expect`; `url` may be a path. The caller closes it.

        `what` stands in errors for what was done, such as `pull of app:1`. Raises what `refused` gives for
        another status, and Unavailable when the attempts are used up.
        """

        def attempt() -> Response:
            return self.once(method, url, what, scopes=scopes, headers=headers, body=body, offline=offline)

        return self._repeat(attempt, lambda response: response, what, expect)

    def fetch(
        self,
        url: str,
        what: str,
        limit: int,
        *,
        scopes: frozenset[str] = frozenset(),
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Response, bytes]:
        """GET a document of at most `limit` bytes; the response is closed. Raises as `request` does."""

        def read(response: Response) -> tuple[Response, bytes]:
            with response:
                document = response.document(limit)
            if document is None:
                raise InvalidSpec(
                    f"{what}: {self.where} sends more than {limit} bytes, which is the most that it may have"
                )
            return response, document

        return self._repeat(
            lambda: self.once("GET", url, what, scopes=scopes, headers=headers), read, what, (200,)
        )

    def _repeat(
        self, send: Callable[[], Response], use: Callable[[Response], T], what: str, expect: Collection[int]
    ) -> T:
        retrying = self.retrying()
        while True:
            try:
                response = send()
                if response.status in expect:
                    return use(response)
                asked, error = retry_after(response), self.refusal(response, what)
                if response.status not in TEMPORARY or not retrying.again(asked):
                    raise error
            except Broken as broken:
                lasting = isinstance(broken, Mismatch)
                if lasting or not retrying.again(unreachable=isinstance(broken, Unreachable)):
                    raise self.failed(what, broken, retrying.attempts) from broken

    def once(
        self,
        method: str,
        url: str,
        what: str,
        *,
        scopes: frozenset[str] = frozenset(),
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        offline: bool = False,
        answer: float | None = None,
    ) -> Response:
        """Send once, or twice where authorization is missing; returns the answer whatever its status is.

        `answer` is how long its answer may take, in seconds, if not as usual.

        Raises Broken, and Unauthorized or Denied for credentials that are not taken.
        """
        url = self.url(url) if url.startswith("/") else url
        sent = self.authenticator.header(scopes)
        response = self._follow(method, url, headers, body, sent, answer)
        # The second time is for a token whose end the server sees before we do.
        for _ in range(2 if sent else 1):
            if response.status != 401 or not self._is_ours(_split(response.url)):
                return response
            challenges = parse_challenges(response.headers.get_all("WWW-Authenticate") or [])
            refusal = parse_refusal(response.document(_MAX_ERROR))
            response.close()
            credentials = None
            try:
                header = self.authenticator.answer(challenges, scopes, sent, offline=offline)
                credentials = self.authenticator.credentials
            except Refused as error:
                credentials = self.authenticator.credentials
                raise denied(
                    error.status,
                    f" ({error})",
                    what,
                    self.endpoint,
                    credentials,
                    sent=credentials is not None,
                ) from None
            except MooringError as error:
                error.put_before(f"{what}: {self.where} wants authorization: ")
                raise
            if not header:
                reason = f" ({refusal})" if str(refusal) else ""
                raise denied(401, reason, what, self.endpoint, credentials, sent=bool(sent))
            sent = header
            response = self._follow(method, url, headers, body, sent, answer)
        return response

    def refusal(self, response: Response, what: str) -> MooringError:
        """The error for an answer; reads and closes it."""
        with response:
            try:
                refusal = parse_refusal(response.document(_MAX_ERROR))
            except Broken:
                refusal = parse_refusal(None)  # the status alone has to do
        credentials = self.authenticator.credentials
        return refused(
            response.status,
            refusal,
            what,
            self.endpoint,
            credentials,
            sent=credentials is not None,
            asked=retry_after(response),
        )

    def failed(self, what: str, broken: Broken, attempts: int) -> MooringError:
        """The error for a connection that failed for good."""
        times = f", {attempts} times in a row" if attempts > 1 else ""
        address = "" if self.endpoint.address == self.endpoint.name else f" at {self.endpoint.address}"
        setting = broken.setting if isinstance(broken, Mismatch) else None
        unreachable = isinstance(broken, Unreachable) or setting == ""
        reach = "cannot be reached" if unreachable else "did not answer as it should"
        advice = f" in registries.{self.endpoint.name}.{setting}" if setting else ""
        return Unavailable(f"{what}: {self.where}{address} {reach}{times}: {broken}{advice}")

    def resolve_location(self, response: Response) -> str:
        """The URL that an answer's Location names. Raises Broken for none, or one that is not usable."""
        location = response.headers.get("Location")
        if not location:
            raise Broken("its answer lacks the header Location")
        try:
            parts = _split(urljoin(response.url, quote(location, safe=_SAFE)))
        except ValueError:
            raise Broken("it names a Location that is no URL") from None
        base = _split(response.url)
        if parts.scheme == "http" and base.scheme == "https" and parts.hostname == base.hostname:
            # A registry behind a proxy for TLS that does not know of it.
            parts = parts._replace(scheme="https", netloc=base.netloc)
        if parts.scheme not in ("http", "https") or parts.username is not None:
            raise Broken("it names a Location that is no URL of HTTP")
        downgraded = parts.scheme == "http" and base.scheme == "https"
        if downgraded and self._tls_of(parts.netloc).mode not in (Tls.OFF, Tls.ANY):
            raise Unavailable(
                f"{self.where} redirects to {parts.netloc} without TLS, which is not followed: correct it "
                f"there, or allow it by registries.{parts.netloc}.tls: off"
            )
        return parts._replace(fragment="").geturl()

    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        body: Body,
        authorization: str,
        answer: float | None,
    ) -> Response:
        for _ in range(_MAX_REDIRECTS + 1):
            sent = {"User-Agent": f"mooring/{__version__}", **(headers or {})}
            parts = _split(url)
            if authorization and self._is_ours(parts):
                sent["Authorization"] = authorization
            response = self._pool.exchange(
                method, url, self._tls_for(parts), sent, body() if callable(body) else body, answer
            )
            if response.status not in _REDIRECTS or (method not in ("GET", "HEAD") and response.status < 307):
                return response
            with response:
                url = self.resolve_location(response)
        raise Broken(f"it redirected more than {_MAX_REDIRECTS} times")

    def _is_ours(self, parts: SplitResult) -> bool:
        """Whether a URL is at the endpoint itself: only there it gets the authorization."""
        return _origin(parts) == _origin(_split(self.url("/")))

    def _tls_for(self, parts: SplitResult) -> TlsSettings:
        if self._is_ours(parts):
            return self.endpoint.tls
        tls = self._tls_of(parts.netloc)
        if tls.mode is Tls.VERIFY and not tls.ca_files:
            # Storage or token servers of a private registry are mostly signed by the CA that it has itself.
            tls = replace(tls, ca_files=self.endpoint.tls.ca_files, stamps=self.endpoint.tls.stamps)
        return tls

    def _ask_token_server(
        self, url: str, *, authorization: str = "", form: Sequence[tuple[str, str]] = ()
    ) -> tuple[int, bytes]:
        headers = {"User-Agent": f"mooring/{__version__}"}
        if authorization:
            headers["Authorization"] = authorization
        if form:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = urlencode(form).encode() if form else None
        parts = _split(url)
        retrying = self.retrying()
        while True:
            try:
                with self._pool.exchange(
                    "POST" if form else "GET", url, self._tls_for(parts), headers, body
                ) as response:
                    document = response.document(_MAX_TOKEN)
                if document is None:
                    raise Unavailable(
                        f"its token server {parts.netloc} answers with more than {_MAX_TOKEN} bytes"
                    )
                if response.status not in TEMPORARY or not retrying.again(retry_after(response)):
                    return response.status, document
            except Broken as broken:
                if not retrying.again(unreachable=isinstance(broken, Unreachable)):
                    raise Unavailable(
                        f"its token server {parts.netloc} cannot be asked: {broken}"
                    ) from broken


def retry_after(response: Response) -> float | None:
    """Seconds that an answer asks to wait."""
    return parse_retry_after(response.headers.get("Retry-After"), time.time())


def _split(url: str) -> SplitResult:
    """Take a URL apart; raises Broken for one that has no valid host and port."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if not parts.hostname:
        raise Broken("it names an address that is no URL")
    return parts


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
