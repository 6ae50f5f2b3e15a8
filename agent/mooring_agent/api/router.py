# SPDX-License-Identifier: Apache-2.0
"""The route table: method and path to call, with path parameters and Docker's version prefix."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ..errors import InvalidSpec, MooringError, NotFound
from .messages import Reply, Request, decoded

Call = Callable[[Request], Awaitable[Reply]]

# The versions of the Docker Engine API that are answered; 1.24 is the oldest that dockerd 28 takes.
OLDEST_API = (1, 24)
NEWEST_API = (1, 47)

_VERSION = re.compile(r"/v(\d{1,4})\.(\d{1,4})(/.*)", re.DOTALL)
_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")


class MethodNotAllowed(MooringError):
    """The path exists, but not with this method."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, allowed: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allowed = allowed


class Need(Enum):
    """What a peer must be allowed so that a call is made for them.

    READ looks at what is there. ALL does everything else: changes, commands, files out of containers and
    images, questions to registries with this host's credentials. OWN is what a rule may allow and no call
    needs: all that stays within containers, networks and volumes of certain names.
    """

    READ = "read"
    OWN = "own"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Route:
    """One call of an API.

    `needs` is what docs/access.md tells of the call; one that says nothing is for those who may do all.
    `path` is a template: `{name}` takes one segment, `{name:path}` may span several (image references).
    `versioned` routes also answer under `/v1.NN`. A call with `abandon` is cancelled when its client
    goes away; others run to their end, so that nothing is left half made.
    """

    method: str
    path: str
    call: Call
    versioned: bool = False
    abandon: bool = False
    needs: Need | None = None


class Resource(Protocol):
    """A group of calls about one thing."""

    def routes(self) -> Iterable[Route]:
        """The route table of this resource."""
        ...


class Router:
    """Finds the route of a request. Fixed paths win over those with parameters, then the order counts."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[str, dict[str, Route]] = {}
        # First segment of the path -> [(pattern, {method: route})], in order of registration.
        self._patterns: dict[str, list[tuple[re.Pattern[str], dict[str, Route]]]] = {}
        by_template: dict[str, dict[str, Route]] = {}
        for route in routes:
            methods = by_template.get(route.path)
            if methods is None:
                methods = by_template[route.path] = {}
                self._add(route.path, methods)
            if route.method in methods:
                raise ValueError(f"route {route.method} {route.path} is registered twice")
            methods[route.method] = route

    def _add(self, template: str, methods: dict[str, Route]) -> None:
        if "{" not in template:
            self._fixed[template] = methods
            return
        expression = ""
        position = 0
        for match in _PARAMETER.finditer(template):
            expression += re.escape(template[position : match.start()])
            expression += f"(?P<{match[1]}>{'.+' if match[2] else '[^/]+'})"
            position = match.end()
        expression += re.escape(template[position:])
        self._patterns.setdefault(_first_segment(template), []).append(
            (re.compile(expression, re.DOTALL), methods)
        )

    def resolve(self, request: Request) -> Route:
        """Find the call for a request and fill in its `params` and `version`.

        Raises NotFound, MethodNotAllowed, or InvalidSpec for a Docker API version that is not answered.
        """
        path = request.path
        if path.startswith("/v"):
            match = _VERSION.fullmatch(path)
            if match is not None:
                request.version = _checked_version(int(match[1]), int(match[2]))
                path = match[3]
        allowed: set[str] = set()
        methods = self._fixed.get(path)
        if methods is not None:
            route = self._choose(request, methods, allowed)
            if route is not None:
                return route
        for pattern, methods in self._patterns.get(_first_segment(path), ()):
            found = pattern.fullmatch(path)
            if found is not None:
                route = self._choose(request, methods, allowed)
                if route is not None:
                    request.params = {name: decoded(value) for name, value in found.groupdict().items()}
                    return route
        if allowed:
            listed = tuple(sorted(allowed))
            raise MethodNotAllowed(
                f"{request.path} does not take {request.method}: use {' or '.join(listed)}", listed
            )
        raise NotFound(f"no such call: {request.method} {request.path}")

    def _choose(self, request: Request, methods: dict[str, Route], allowed: set[str]) -> Route | None:
        route = methods.get(request.method)
        if route is None and request.method == "HEAD":
            route = methods.get("GET")
        if route is not None and (request.version is None or route.versioned):
            return route
        allowed.update(
            method for method, other in methods.items() if request.version is None or other.versioned
        )
        return None


def _first_segment(path: str) -> str:
    end = path.find("/", 1)
    return path if end < 0 else path[:end]


def _checked_version(major: int, minor: int) -> tuple[int, int]:
    version = (major, minor)
    # Wording of dockerd's middleware/version.go: clients show it as it is.
    if version > NEWEST_API:
        raise InvalidSpec(
            f"client version {major}.{minor} is too new. "
            f"Maximum supported API version is {_dotted(NEWEST_API)}"
        )
    if version < OLDEST_API:
        raise InvalidSpec(
            f"client version {major}.{minor} is too old. "
            f"Minimum supported API version is {_dotted(OLDEST_API)}, "
            "please upgrade your client to a newer version"
        )
    return version


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
