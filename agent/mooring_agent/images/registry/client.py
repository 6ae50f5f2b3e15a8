# SPDX-License-Identifier: Apache-2.0
"""Repositories at their registries (OCI distribution-spec 1.1; Docker's registry API v2)."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, urljoin, urlsplit

from mooring_agent.errors import InvalidSpec, MooringError, NotFound, Unavailable
from mooring_agent.images.content import MAX_DOCUMENT, Descriptor, digest_of
from mooring_agent.images.manifests import MANIFEST_TYPES
from mooring_agent.images.reference import Reference
from mooring_agent.images.registry import documents
from mooring_agent.images.registry.connections import Broken, ConnectionPool, Limits, Response
from mooring_agent.images.registry.credentials import find_credentials
from mooring_agent.images.registry.downloads import read_blob
from mooring_agent.images.registry.retrying import RetryPolicy
from mooring_agent.images.registry.session import Session
from mooring_agent.images.registry.settings import (
    Credentials,
    Endpoint,
    RegistriesSettings,
    check_registry,
    file_stamp,
)
from mooring_agent.images.registry.uploads import OpenChunks, Upload, blob_is_there

_log = logging.getLogger(__name__)

_PAGE = 1000  # names asked for at once
_MAX_PAGES = 1000
_MAX_PAGE = 4 << 20  # bytes
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")  # distribution-spec, "Pulling manifests"
_LINK = re.compile(r"<([^<>]*)>([^<]*)")
_NEXT = re.compile(r';\s*rel\s*=\s*"?next"?\s*(?:[;,]|$)', re.IGNORECASE)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Login:
    """What a successful login gave: an identity token in place of the password, or empty."""

    identity_token: str = ""

    def __repr__(self) -> str:
        return "Login()"


class Repository:
    """One repository, read through the registry's mirrors in order, written at the registry itself.

    Safe for threads. Every method may block for as long as the retry policy allows. Besides what each says,
    they raise NotFound, Unauthorized, Denied, Unavailable (nothing answers, or not as it should) and
    InvalidSpec (what was sent cannot be used).
    """

    def __init__(self, name: str, path: str, sessions: tuple[Session, ...], rest: _Rest) -> None:
        self.name = name
        self._path = path
        self._sessions, self._rest = sessions, rest
        self._origin = sessions[-1]
        self._left_out: dict[str, int] = {}  # by digest: sources that sent something else

    def mistrust(self, digest: str) -> bool:
        """Read a blob no more from the first source that it was read from; False if it was the last."""
        left_out = self._left_out.get(digest, 0) + 1
        if left_out >= len(self._sessions):
            return False
        _log.warning(
            "%s of %s came damaged: %s is passed over", digest, self.name, self._sessions[left_out - 1].where
        )
        self._left_out[digest] = left_out
        return True

    def resolve(self, tag_or_digest: str) -> Descriptor:
        """What a tag points to now; nothing but a header travels where the registry can tell it by that."""
        what = self._what("look-up", tag_or_digest)
        return self._read(lambda session: self._resolve(session, tag_or_digest, what))

    def stored(self, tag_or_digest: str) -> Descriptor:
        """As `resolve`, of the registry itself: what a mirror has says nothing of what is written there."""
        return self._resolve(self._origin, tag_or_digest, self._what("look-up", tag_or_digest))

    def manifest(self, tag_or_digest: str) -> tuple[Descriptor, bytes]:
        """A manifest or an index, byte for byte, and what it is. Its digest is verified where it is known.

        Raises InvalidSpec for one of more than 4 MiB, of another digest, or about which there is doubt
        whether it is a manifest or an index.
        """
        what = self._what("pull", tag_or_digest)
        return self._read(lambda session: self._manifest(session, tag_or_digest, what))

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """Yield a blob's bytes from `offset` on, exactly as many as the descriptor says.

        What breaks off is taken up from there, if need be at the next source. The digest is the reader's to
        verify, and where it is wrong, to `mistrust`.
        """
        what = self._what("pull", descriptor.digest)
        failures: list[MooringError] = []
        for session in self._awake(self._left_out.get(descriptor.digest, 0)):
            try:
                for chunk in self._blob(session, descriptor, offset, what):
                    offset += len(chunk)
                    yield chunk
                return
            except MooringError as error:
                self._pass_over(session, error, failures)

    def has_blob(self, digest: str) -> bool:
        """Whether the registry itself has a blob in this repository."""
        _check_digest(digest, self.name)
        path, what = self._at(self._origin, "blobs"), self._what("look-up", digest)
        return blob_is_there(self._origin, path, digest, what, self._scopes(self._origin, "pull"))

    def mount_blob(self, digest: str, from_repository: str) -> bool:
        """Have a blob here too that another repository of this registry has; False when it must be pushed.

        `from_repository` is a path, without the registry.
        """
        _check_digest(digest, self.name)
        session, what = self._origin, self._what("mount", digest)
        query = f"mount={quote(digest, safe='')}&from={quote(from_repository, safe='/')}"
        scopes = self._scopes(session, "pull,push") | {f"repository:{from_repository}:pull"}
        with session.request(
            "POST",
            f"{self._at(session, 'blobs')}/uploads/?{query}",
            what,
            scopes=scopes,
            headers={"Content-Length": "0"},
            expect=(201, 202),
        ) as response:
            if response.status == 201:
                return True
            try:
                # An upload was begun in place of it, which nobody goes on with.
                session.once("DELETE", session.resolve_location(response), what, scopes=scopes).close()
            except (Broken, MooringError) as error:
                _log.info("%s: the upload that was begun instead stays: %s", what, error)
        return False

    def push_blob(self, descriptor: Descriptor, open_chunks: OpenChunks) -> None:
        """Send a blob, unless the repository has it. `open_chunks(offset)` gives its bytes from there on.

        It is called again after a failure, with what the registry has already.
        """
        _check_digest(descriptor.digest, self.name)
        session = self._origin
        Upload(
            session,
            self._at(session, "blobs"),
            descriptor,
            open_chunks,
            self._what("push", descriptor.digest),
            self._scopes(session, "pull,push"),
        ).run()

    def push_manifest(self, tag_or_digest: str, media_type: str, body: bytes) -> str:
        """Send a manifest or an index, and return its digest; what it names must be there already."""
        digest, what = digest_of(body), self._what("push", tag_or_digest)
        if len(body) > MAX_DOCUMENT:
            raise InvalidSpec(f"{what}: it has {len(body)} bytes, registries take {MAX_DOCUMENT}")
        session = self._origin
        with session.request(
            "PUT",
            self._manifest_path(session, tag_or_digest),
            what,
            scopes=self._scopes(session, "pull,push"),
            headers={"Content-Type": media_type},
            body=body,
            expect=(201, 202),
        ) as response:
            said = response.headers.get("Docker-Content-Digest", digest)
        if _DIGEST.fullmatch(said) and said != digest:
            raise Unavailable(
                f"{what}: {session.where} stored it as {said}, which is not its digest {digest}: it "
                "changed on its way"
            )
        return digest

    def tags(self) -> list[str]:
        """All tags, sorted; the registry itself is asked, since a mirror may know of less."""
        return self._tags(self._origin)

    def tags_to_pull(self) -> list[str]:
        """All tags, sorted; a mirror is asked where the registry itself cannot be reached."""
        try:
            return self.tags()
        except Unavailable:
            return self._read(self._tags)

    def _tags(self, session: Session) -> list[str]:
        path, what = self._at(session, "tags/list"), f"list of tags of {self.name}"
        return read_pages(session, path, "tags", what, self._scopes(session, "pull"))

    def delete_tag(self, tag: str) -> bool:
        """Delete a tag alone; False where that is not done, since many registries take digests only.

        Those that take none at all say so when they are given one.
        """
        # distribution-spec, "Deleting tags": 400 or 405 where it is not done. CNCF Distribution looks for a
        # manifest without a digest, and says 404.
        return self._delete(self._manifest_path(self._origin, tag), tag, other=(400, 404, 405))

    def delete_manifest(self, digest: str) -> None:
        """Delete a manifest with all tags that point to it. Raises NotSupported where it is not allowed."""
        _check_digest(digest, self.name)
        self._delete(self._manifest_path(self._origin, digest), digest)

    def delete_blob(self, digest: str) -> None:
        """Delete a blob of the repository. Raises NotSupported where it is not allowed."""
        _check_digest(digest, self.name)
        self._delete(f"{self._at(self._origin, 'blobs')}/{digest}", digest)

    def _delete(self, path: str, tag_or_digest: str, other: tuple[int, ...] = ()) -> bool:
        """Whether it was deleted, and not answered with one of the `other` statuses."""
        session, what = self._origin, self._what("removal", tag_or_digest)
        scopes = self._scopes(session, "delete")
        with session.request("DELETE", path, what, scopes=scopes, expect=(200, 202, 204, *other)) as response:
            return response.status not in other

    def _resolve(self, session: Session, tag_or_digest: str, what: str) -> Descriptor:
        url = self._manifest_path(session, tag_or_digest)
        # 405: a registry, or a proxy ahead of it, that knows no HEAD.
        with session.request(
            "HEAD",
            url,
            what,
            scopes=self._scopes(session, "pull"),
            headers={"Accept": ", ".join(MANIFEST_TYPES)},
            expect=(200, 405),
        ) as response:
            found = _described(response, tag_or_digest)
        if found is None:
            return self._manifest(session, tag_or_digest, what)[0]
        documents.check_media_type(found.media_type, what)
        if _DIGEST.fullmatch(tag_or_digest) and found.digest != tag_or_digest:
            raise InvalidSpec(f"{what}: {session.where} has {found.digest} in its place: push it again")
        return found

    def _manifest(self, session: Session, tag_or_digest: str, what: str) -> tuple[Descriptor, bytes]:
        response, body = session.fetch(
            self._manifest_path(session, tag_or_digest),
            what,
            MAX_DOCUMENT,
            scopes=self._scopes(session, "pull"),
            headers={"Accept": ", ".join(MANIFEST_TYPES), "Accept-Encoding": "identity"},
        )
        digest = digest_of(body)
        asked = tag_or_digest if ":" in tag_or_digest else response.headers.get("Docker-Content-Digest", "")
        if (asked.startswith("sha256:") or asked == tag_or_digest) and digest != asked:
            raise InvalidSpec(
                f"{what}: {session.where} sends a manifest with digest {digest}, expected {asked}: it is "
                "damaged there or was changed on its way; push it again, or take out a proxy that changes it"
            )
        media_type = documents.check_manifest(body, response.headers.get("Content-Type"), what)
        return Descriptor(media_type, digest, len(body)), body

    def _blob(
        self, session: Session, descriptor: Descriptor, offset: int, what: str
    ) -> Generator[bytes, None, None]:
        _check_digest(descriptor.digest, self.name)
        url = f"{self._at(session, 'blobs')}/{descriptor.digest}"
        return read_blob(session, url, descriptor, offset, what, self._scopes(session, "pull"))

    def _read(self, ask: Callable[[Session], T]) -> T:
        """Ask the sources in order, until one knows; what the registry itself says is final."""
        failures: list[MooringError] = []
        *mirrors, origin = self._awake(0)
        for session in mirrors:
            try:
                return ask(session)
            except MooringError as error:
                self._pass_over(session, error, failures)
        try:
            return ask(origin)
        except MooringError as error:
            self._pass_over(origin, error, failures)
            raise

    def _awake(self, skip: int) -> list[Session]:
        """The sources that are to be asked; the registry itself always is."""
        mirrors = [session for session in self._sessions[skip:-1] if not self._rest.is_resting(session)]
        return [*mirrors, self._origin]

    def _pass_over(self, session: Session, error: MooringError, failures: list[MooringError]) -> None:
        """Go on without a mirror; raises the error, with those of mirrors, if it is the registry itself."""
        if session is self._origin:
            if failures:
                error.put_before("".join(f"{failure.message}; then " for failure in failures))
            raise error
        failures.append(error)
        _log.log(logging.INFO if isinstance(error, NotFound) else logging.WARNING, "%s", error)
        if isinstance(error, Unavailable):
            self._rest.begin(session)

    def _at(self, session: Session, kind: str) -> str:
        return f"/v2/{session.endpoint.prefix}{self._path}/{kind}"

    def _manifest_path(self, session: Session, tag_or_digest: str) -> str:
        if not _TAG.fullmatch(tag_or_digest):
            _check_digest(tag_or_digest, self.name)
        return f"{self._at(session, 'manifests')}/{tag_or_digest}"

    def _scopes(self, session: Session, actions: str) -> frozenset[str]:
        """What one wants to be allowed, as token servers know it (Docker's token scope)."""
        return frozenset((f"repository:{session.endpoint.prefix}{self._path}:{actions}",))

    def _what(self, verb: str, tag_or_digest: str) -> str:
        return f"{verb} of {self.name}{'@' if ':' in tag_or_digest else ':'}{tag_or_digest}"


class Registries:
    """All registries, as the settings have them: made once, for all threads.

    `close` ends what is under way.
    """

    def __init__(
        self,
        settings: RegistriesSettings | None = None,
        *,
        policy: RetryPolicy | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._settings = settings or RegistriesSettings()
        self._policy = policy or RetryPolicy()
        self._pool = ConnectionPool(limits)
        self._closing = threading.Event()
        self._rest = _Rest(self._policy.mirror_rest)
        self._lock = threading.Lock()
        # Sessions with the credentials of the settings: their tokens serve all. Those with a caller's do not.
        self._sessions: dict[Endpoint, tuple[int, Session]] = {}

    def repository(self, reference: Reference, credentials: Credentials | None = None) -> Repository:
        """The repository of a name. A caller's credentials go to the registry itself, never to a mirror."""
        endpoints = self._settings.endpoints(reference.domain)
        mirrors = [self._session(endpoint, None) for endpoint in endpoints[:-1]]
        origin = self._session(endpoints[-1], credentials)
        return Repository(reference.familiar_repository, reference.path, (*mirrors, origin), self._rest)

    def catalog(self, host: str, credentials: Credentials | None = None) -> list[str]:
        """Names of all repositories of a registry, sorted; large public ones do not tell."""
        session = self._session(self._settings.origin(host), credentials)
        scopes = frozenset(("registry:catalog:*",))
        return read_pages(session, "/v2/_catalog", "repositories", f"catalogue of {host}", scopes)

    def check_login(self, host: str, credentials: Credentials | None) -> Login:
        """Raises Unauthorized when a registry does not take the credentials, InvalidSpec for what is none.
        None are enough for one that wants none.
        """
        check_registry(host, "the login")
        session = self._new_session(self._settings.origin(host), lambda: credentials)
        session.request("GET", "/v2/", f"login to {host}", offline=True).close()
        return Login(session.authenticator.refresh_token)

    def close(self) -> None:
        """End connections and waits, in all threads."""
        self._closing.set()
        self._pool.close()

    def _session(self, endpoint: Endpoint, credentials: Credentials | None) -> Session:
        if credentials is not None:
            return self._new_session(endpoint, lambda: credentials)
        # After a login or a logout, tokens of before are not used any more.
        stamp = file_stamp(self._settings.docker_config)
        with self._lock:
            known = self._sessions.get(endpoint)
            if known is not None and known[0] == stamp:
                return known[1]
            session = self._new_session(endpoint, lambda: find_credentials(self._settings, endpoint.name))
            self._sessions[endpoint] = stamp, session
            return session

    def _new_session(self, endpoint: Endpoint, find: Callable[[], Credentials | None]) -> Session:
        return Session(endpoint, find, self._pool, self._policy, self._closing.wait, self._settings.tls)


class _Rest:
    """Mirrors that failed and are left alone for a while."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[Endpoint, float] = {}

    def begin(self, session: Session) -> None:
        self._until[session.endpoint] = time.monotonic() + self._seconds

    def is_resting(self, session: Session) -> bool:
        return time.monotonic() < self._until.get(session.endpoint, 0.0)


def read_pages(session: Session, path: str, key: str, what: str, scopes: frozenset[str]) -> list[str]:
    """All names of a list that comes in pages (distribution-spec, "Listing tags"), sorted."""
    names: set[str] = set()
    url = f"{path}?n={_PAGE}"
    for _ in range(_MAX_PAGES):
        response, body = session.fetch(url, what, _MAX_PAGE, scopes=scopes)
        try:
            page = json.loads(body).get(key) or []
            usable = isinstance(page, list) and all(isinstance(name, str) for name in page)
        except (ValueError, AttributeError, RecursionError):
            usable = False
        if not usable:
            raise Unavailable(f"{what}: {session.where} answers with something else than a list of {key}")
        following = next_page(response.headers.get("Link"), response.url)
        # A page that brings nothing new would be followed for ever.
        if following is None or names.issuperset(page):
            return sorted(names.union(page))
        names.update(page)
        url = following
    raise Unavailable(f"{what}: {session.where} has more than {_MAX_PAGES} pages of it")


def next_page(link: str | None, url: str) -> str | None:
    """The URL of a list's next page by its Link (RFC 8288), None at the end. Pure."""
    for target, parameters in _LINK.findall(link or ""):
        if _NEXT.search(parameters):
            try:
                parts, own = urlsplit(urljoin(url, target)), urlsplit(url)
            except ValueError:
                return None
            # Registries behind a proxy often get their own name wrong, but a list does not move elsewhere.
            return own._replace(path=parts.path, query=parts.query).geturl()
    return None


def _described(response: Response, tag_or_digest: str) -> Descriptor | None:
    """What the headers of an answer say of a manifest, None if they do not say all of it."""
    media_type = documents.essence(response.headers.get("Content-Type"))
    digest = response.headers.get("Docker-Content-Digest", "")
    size = response.headers.get("Content-Length", "")
    if response.status != 200 or not _DIGEST.fullmatch(digest) or not (size.isascii() and size.isdigit()):
        return None
    if not media_type.startswith("application/vnd."):
        return None
    return Descriptor(media_type, digest, int(size))


def _check_digest(digest: str, name: str) -> None:
    """Keep out of URLs what is no digest: it may come out of somebody's manifest."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidSpec(
            f"{digest[:200]!r} in {name} is not supported: expected sha256: and 64 hexadecimal digits"
        )
