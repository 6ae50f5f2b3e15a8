# SPDX-License-Identifier: Apache-2.0
"""Docker's images on their way: pull, push, import, load, save, and what registries tell."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ...engine.imageworkers import streamed
from ...errors import Denied, InvalidSpec, MooringError, NotFound, NotSupported, Unauthorized
from ...images.changes import apply_changes
from ...images.config import ImageConfig
from ...images.content import MAX_DOCUMENT, Descriptor
from ...images.fetching import fetch
from ...images.manifests import Index, is_image, parse_config, parse_manifest
from ...images.platform import Platform
from ...images.reference import DEFAULT_DOMAIN, Reference
from ...images.registry.credentials import parse_auth_config, parse_registry_auth, registry_of_key
from ...images.turns import Stop
from ..messages import Reply, Request, Stream, encode, json_response
from ..progress import begun, report
from ..router import Need, Route
from .transferlines import Event, Line, LoadLines, PullLines, PushLines, failure, status

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ...engine.images import Pulled
    from ...images.image import Image, Progress
    from ...images.registry.client import Repository
    from ...images.registry.settings import Credentials

_TAR = "application/x-tar"
_AUTH = "x-registry-auth"


class ImageTransferCalls:
    """Calls that move images."""

    def __init__(self, engine: Engine) -> None:
        self._images = engine.image_service

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        one = "/images/{ref:path}"
        yield Route("POST", "/images/create", self.create, versioned=True, abandon=True, needs=Need.ALL)
        yield Route("POST", "/images/load", self.load, versioned=True, needs=Need.ALL)
        yield Route("GET", "/images/get", self.save, versioned=True, needs=Need.ALL)
        yield Route("GET", "/images/search", self.search, versioned=True, needs=Need.READ)
        yield Route("GET", one + "/get", self.save, versioned=True, needs=Need.ALL)
        yield Route("POST", one + "/push", self.push, versioned=True, abandon=True, needs=Need.ALL)
        yield Route("GET", "/distribution/{ref:path}/json", self.distribution, versioned=True, needs=Need.ALL)
        yield Route("POST", "/auth", self.auth, versioned=True, needs=Need.ALL)

    # Registries

    async def create(self, request: Request) -> Reply:
        """`docker pull`, or `docker import`: an image from a tar stream in the body."""
        query = request.query
        if name := query.text("fromImage"):
            reference, credentials = named(name, query.text("tag")), _credentials(request)
            platform = Platform.parse(text) if (text := query.text("platform")) else None
            names = [reference]
            if not query.text("tag") and not name.endswith((f":{reference.tag}", f"@{reference.digest}")):
                names = await self._tags_there(reference, credentials)
            return Stream(await begun(self._pull(names, platform, credentials)))
        source = query.text("fromSrc")
        if source != "-" and "://" not in source:
            source = f"http://{source}"  # as docker has it
        repository, tag = query.text("repo"), query.text("tag")
        imported = (f"{repository}:{tag}" if tag else repository) if repository else None
        config = ImageConfig.from_oci(apply_changes({}, query.many("changes")))
        architecture = _architecture(query.text("platform"))
        named_so = imported, config, query.text("message"), architecture
        if source == "-":
            return Stream(self._import(lambda _: request.body, *named_so))
        return Stream(await begun(self._imported_from(source, *named_so)))

    async def _tags_there(self, name: Reference, credentials: Credentials | None) -> list[Reference]:
        """All names that a repository has at its registry: what is meant when no tag is given."""
        tags = await self._images.at_registry(
            str(name), credentials, lambda repository: repository.tags_to_pull()
        )
        if not tags:
            raise NotFound(f"repository {name.familiar_repository} has no tags")
        return [named(name.repository, tag) for tag in tags]

    async def _pull(
        self, names: list[Reference], platform: Platform | None, credentials: Credentials | None
    ) -> AsyncGenerator[bytes, None]:
        """The lines of a pull. Raises what has gone wrong where that comes before any of them."""
        for name in names:
            lines = PullLines()
            head: Line | None = status(f"Pulling from {_path(name)}") | {"id": name.digest or name.tag}
            work = _moving(self._images.pull, name, platform=platform, credentials=credentials)
            async for line in _told(work, lines.of, partial(_after_pull, name), abandon=True):
                if head is not None:
                    if "error" in line and name is names[0]:
                        raise _failed(line)
                    yield encode(head)
                    head = None
                yield encode(line)
                if "error" in line:
                    return

    async def push(self, request: Request) -> Reply:
        """`docker push`: one tag, or all of a repository when none is given."""
        repository, tag = request.params["ref"], request.query.text("tag")
        if platform := request.query.text("platform"):
            raise NotSupported(
                f"push of platform {platform} is not supported: of an image the platform that is here is sent"
            )
        names = [named(repository, tag)] if tag else await self._tags(named(repository, ""))
        for name in names:
            await self._images.get(str(name))
        return Stream(self._push(names, _credentials(request)))

    async def _tags(self, wanted: Reference) -> list[Reference]:
        """All names that a repository has here."""
        names = [Reference.parse(text) for image in await self._images.list() for text in image.references]
        found = sorted(name for name in names if name.repository == wanted.repository)
        if not found:
            raise NotFound(f"An image does not exist locally with the tag: {wanted.familiar_repository}")
        return found

    async def _push(self, names: list[Reference], credentials: Credentials | None) -> AsyncIterator[bytes]:
        yield encode(status(f"The push refers to repository [{names[0].repository}]"))
        for name in names:
            lines = PushLines((await self._images.get(str(name))).id[7:19])
            work = _moving(self._images.push, name, credentials=credentials)
            async for line in _told(work, lines.of, partial(_after_push, name), abandon=True):
                yield encode(line)
                if "error" in line:
                    return

    async def distribution(self, request: Request) -> Reply:
        """What a registry has under a name, and for which platforms."""
        name = Reference.parse(request.params["ref"])
        top, platforms = await self._images.at_registry(
            str(name), _credentials(request), lambda repository: _described(repository, name)
        )
        return json_response(
            {
                "Descriptor": {"mediaType": top.media_type, "digest": top.digest, "size": top.size},
                "Platforms": [platform.to_json() for platform in platforms],
            }
        )

    async def auth(self, request: Request) -> Reply:
        """`docker login`: whether a registry takes the credentials, or none; they are kept by the client."""
        body = await request.json()
        given = {key: body.get(key) or "" for key in ("username", "password", "auth", "identitytoken")}
        credentials = parse_auth_config(given, "the request")
        if credentials is None and any(given.values()):
            raise InvalidSpec("the login has no complete credentials: expected username and password")
        address = body.get("serveraddress") or ""
        if not isinstance(address, str):
            raise InvalidSpec("serveraddress is not usable: expected the name of a registry")
        host = registry_of_key(address) if address else DEFAULT_DOMAIN
        token = await self._images.check_login(host, credentials)
        return json_response({"Status": "Login Succeeded", "IdentityToken": token})

    async def search(self, request: Request) -> Reply:
        """Registries cannot be searched: no specification of theirs has a call for it."""
        raise NotSupported(
            "docker search is not supported: it asks an index that is no part of a registry; "
            "name the image, or look in the registry's own pages"
        )

    # Archives

    async def _imported_from(self, source: str, *said: Any) -> AsyncGenerator[bytes, None]:
        """The same from an address. Raises what has gone wrong where that comes before any of it."""
        stop = threading.Event()

        def fetched(progress: Progress) -> AsyncIterator[bytes]:
            return streamed(fetch(source, Stop("the import", stop), progress))

        first = True
        try:
            async for line in self._lines_of_import(fetched, *said):
                if first and "error" in line:
                    raise _failed(line)
                first = False
                yield encode(line)
        finally:
            stop.set()

    async def _import(
        self, body: Callable[[Progress], AsyncIterator[bytes]], *said: Any
    ) -> AsyncIterator[bytes]:
        async for line in self._lines_of_import(body, *said):
            yield encode(line)

    async def _lines_of_import(
        self,
        body: Callable[[Progress], AsyncIterator[bytes]],
        reference: str | None,
        config: ImageConfig,
        comment: str,
        architecture: str | None,
    ) -> AsyncIterator[Line]:
        """Progress on the way, then the image's id, in the messages that the client renders."""

        def work(progress: Progress) -> Awaitable[Image]:
            chunks = body(progress)
            return self._images.import_stream(chunks, reference, config, progress, comment, architecture)

        async for line in _told(work, _of_import, lambda image: [status(image.id)], abandon=True):
            yield line

    async def load(self, request: Request) -> Reply:
        """`docker load`: the images of an archive in the body."""
        quiet = request.query.flag("quiet")
        platform = request.query.text("platform")
        wanted = Platform.parse(platform) if platform else None
        return Stream(self._load(request.body, wanted, quiet))

    async def _load(
        self, body: AsyncIterator[bytes], platform: Platform | None, quiet: bool
    ) -> AsyncIterator[bytes]:
        def work(progress: Progress) -> Awaitable[list[Image]]:
            return self._images.load(body, platform=platform, progress=progress)

        of = (lambda event: []) if quiet else LoadLines().of
        async for line in _told(
            work, of, lambda images: [{"stream": f"{text}\n"} for text in loaded(images)]
        ):
            yield encode(line)

    async def save(self, request: Request) -> Reply:
        """`docker save`: images as an archive."""
        names = [request.params["ref"]] if "ref" in request.params else request.query.many("names")
        if not names:
            raise InvalidSpec("names is missing: say which images are to be saved")
        return Stream(await self._images.save(names), _TAR)


def named(repository: str, tag: str) -> Reference:
    """A name with the `tag` of a query, which may be a digest. Raises InvalidSpec. Pure."""
    if not tag:
        return Reference.parse(repository)
    return Reference.parse(f"{repository}@{tag}" if ":" in tag else f"{repository}:{tag}")


def loaded(images: list[Image]) -> list[str]:
    """What `docker load` tells of the images that it brought. Pure."""
    return [
        text
        for image in images
        for text in (
            [f"Loaded image: {name}" for name in image.view()["references"]]
            or [f"Loaded image ID: {image.id}"]
        )
    ]


async def _told(
    work: Callable[[Progress], Awaitable[Any]],
    of: Callable[[Event], list[Line]],
    after: Callable[[Any], list[Line]],
    *,
    abandon: bool = False,
) -> AsyncIterator[Line]:
    """The lines `of` each event of the work, then those `after` it, or one that tells why it failed."""
    async for event in report(work, abandon=abandon):
        if "progress" in event:
            told = of(event["progress"])
        elif "error" in event:
            told = [failure(event["error"]["message"], event["error"]["status"])]
        else:
            told = after(event["outcome"])
        for line in told:
            yield line


def _failed(line: Line) -> MooringError:
    """The error that a last line tells of.

    As dockerd: what may not be seen is not there. A client that read 401 would ask its user for a password.
    """
    error = MooringError(line["error"])
    code = line["errorDetail"]["code"]
    error.status = NotFound.status if code in (Unauthorized.status, Denied.status) else code
    return error


def _moving(
    move: Callable[..., Awaitable[Any]], name: Reference, **options: Any
) -> Callable[[Progress], Awaitable[Any]]:
    return lambda progress: move(str(name), progress=progress, **options)


def _path(name: Reference) -> str:
    return name.path if name.domain == DEFAULT_DOMAIN else name.familiar_repository.partition("/")[2]


def _credentials(request: Request) -> Credentials | None:
    return parse_registry_auth(request.headers.get(_AUTH, ""))


def _described(repository: Repository, name: Reference) -> tuple[Descriptor, list[Platform]]:
    """What a repository has under a name, and the platforms of it."""
    top, body = repository.manifest(name.digest or name.tag or "")
    parsed = parse_manifest(body, top)
    if isinstance(parsed, Index):
        entries = [entry for entry in parsed.manifests if is_image(entry)]
        return top, [entry.platform for entry in entries if entry.platform is not None]
    if parsed.config.size > MAX_DOCUMENT:
        raise InvalidSpec(f"configuration {parsed.config.digest} has more than {MAX_DOCUMENT} bytes")
    config = parse_config(b"".join(repository.blob(parsed.config)), parsed.config.digest)
    return top, [config.platform]


def _architecture(platform: str) -> str | None:
    """The processor of a `--platform` such as linux/arm64; None when none is given."""
    if not platform:
        return None
    system, _, rest = platform.partition("/")
    if system != "linux":
        raise NotSupported(f"platform {platform} is not supported: expected linux/ARCHITECTURE")
    return rest.partition("/")[0] or None


def _of_import(event: Event) -> list[Line]:
    message: Line = {"status": event["detail"] or event["step"], "id": event["step"]}
    if event["current"] is not None:
        message["progressDetail"] = {"current": event["current"], "total": event["total"] or 0}
    return [message]


def _after_pull(name: Reference, pulled: Pulled) -> list[Line]:
    what = "Downloaded newer image for" if pulled.changed else "Image is up to date for"
    return [status(f"Digest: {pulled.digest}"), status(f"Status: {what} {name.familiar}")]


def _after_push(name: Reference, there: Descriptor) -> list[Line]:
    aux = {"Tag": name.tag, "Digest": there.digest, "Size": there.size}
    return [
        status(f"{name.tag}: digest: {there.digest} size: {there.size}"),
        {"progressDetail": {}, "aux": aux},
    ]
