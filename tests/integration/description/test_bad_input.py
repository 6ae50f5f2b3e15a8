# SPDX-License-Identifier: Apache-2.0
"""Whatever a client sends, the agent says what is wrong with it: no 500, no hang, no traceback.

Breadth by schemathesis, which makes requests of every call from the published description, good ones and bad;
depth by good bodies of which one member is bad, since a body of many bad ones is refused for the first.
MOORING_EXAMPLES is how many of each, for a long run by hand.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable
from copy import deepcopy
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from harness.agent import AgentUnderTest
from harness.description import Description, Operation, need_description
from harness.oddities import TEXTS, VALUES, placed, sites
from harness.unix_http import Response, UnixConnection
from harness.waiting import PATIENCE

schemathesis = pytest.importorskip("schemathesis")

schemathesis.serializer.alias("application/x-tar", "application/octet-stream")

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

VERSION = "1.47"
EXAMPLES = int(os.environ.get("MOORING_EXAMPLES", "2"))
ANSWERED_WITHIN = 20.0 * PATIENCE  # seconds; a stop waits for ten by default
_STREAM_WITHIN = 0.2  # seconds in which a stream without an end is read

# What is asked of another party: the agent is right to wait for it, and to say that it does not answer.
_ELSEWHERE = {"/images/{name}/push", "/distribution/{name}/json", "/auth"}

# What is answered with the same error whatever is asked: `test_no_swarm_says_so_whatever_is_asked`.
_NEVER = ("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs")

# Calls that take a body: the query and the body of a request that succeeds.
_GOOD: dict[str, tuple[str, dict[str, Any]]] = {
    "/containers/create": ("", {"Image": "busybox", "Cmd": ["true"]}),
    "/containers/{id}/update": ("", {}),
    "/containers/{id}/exec": ("", {"Cmd": ["true"]}),
    "/exec/{id}/start": ("", {}),
    "/networks/create": ("", {"Name": "bad"}),
    "/networks/{id}/connect": ("", {"Container": "aim"}),
    "/networks/{id}/disconnect": ("", {"Container": "aim"}),
    "/volumes/create": ("", {"Name": "bad", "DriverOpts": {"type": "tmpfs", "device": "tmpfs"}}),
    "/commit": ("?container=aim", {}),
}

few = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


def failures_of(asked: Callable[[], None]) -> list[str]:
    """Run a property; return what it raised."""
    try:
        asked()
    except Unsatisfiable:  # nothing about this call can be wrong
        return []
    except (AssertionError, OSError, http.client.HTTPException) as error:
        return [f"{type(error).__name__} {error}"[:1500]]
    except BaseExceptionGroup as group:
        return [f"{type(error).__name__} {error}"[:1500] for error in group.exceptions]
    return []


class Target:
    """An agent with one container, image, network, volume and exec to aim at, all called `aim`."""

    def __init__(self, agent: AgentUnderTest, description: Description) -> None:
        self.agent = agent
        self.description = description
        self.execution = ""
        self.make()

    def make(self) -> None:
        """Make what the requests before have removed."""
        body = {"Image": "busybox", "Cmd": ["sh", "-c", "trap 'exit' TERM; while :; do sleep 1; done"]}
        self.agent.api("POST", "/containers/create?name=aim", body | {"OpenStdin": True}, check=False)
        self.agent.api("POST", "/containers/aim/unpause", check=False)
        self.agent.api("POST", "/containers/aim/start", check=False)
        self.agent.api("POST", "/images/busybox/tag?repo=aim", check=False)
        self.agent.api("POST", "/networks/create", {"Name": "aim"}, check=False)
        self.agent.api("POST", "/volumes/create", {"Name": "aim"}, check=False)
        made = self.agent.api("POST", "/containers/aim/exec", {"Cmd": ["true"]}, check=False)
        self.execution = made.get("Id", "")

    def unmake(self, operation: Operation, made: Any) -> None:
        """Remove what a request has made, so that nothing is in the way of the next."""
        removed = {
            "/containers/create": "/containers/{Id}?force=true&v=true",
            "/networks/create": "/networks/{Id}",
            "/commit": "/images/{Id}",
        }.get(operation.path)
        if removed is not None:
            self.agent.api("DELETE", removed.format(**made))

    def name(self, operation: Operation) -> str:
        """What takes the place of `{id}` or `{name}`."""
        return self.execution if operation.path.startswith("/exec/") else "aim"

    def failures(self, operation: Operation, cases: st.SearchStrategy[Any]) -> list[str]:
        """Send cases of schemathesis; return what was wrong with the answers."""

        @few
        @given(cases, st.booleans())
        def asked(case: Any, known: bool) -> None:
            if known:
                case.path_parameters = dict.fromkeys(case.path_parameters or {}, self.name(operation))
            prepared = prepared_request(case)
            if prepared is not None:
                self.verdict(operation, *prepared)

        return failures_of(asked)

    def verdict(
        self, operation: Operation, target: str, body: bytes | None, headers: dict[str, str]
    ) -> Response:
        """Send a request; raises AssertionError where the answer is none, a crash, or not as described."""
        target = f"/v{VERSION}{target}"
        try:
            response = send(self.agent, operation.method, target, body, headers)
        except TimeoutError:
            raise AssertionError(f"{operation.method} {target} {body!r}: no answer") from None
        shown = f"{operation.method} {target} {body!r}: {response.status} {response.body[:400]!r}"
        refused_by_others = operation.path in _ELSEWHERE and response.status in (500, 502)
        assert response.status < 500 or response.status in (501, 503) or refused_by_others, shown
        if response.status >= 400:
            problems = self.description.problems(operation.method, target, response)
            assert not problems, f"{shown}: {problems}"
        return response


def send(
    agent: AgentUnderTest, method: str, target: str, body: bytes | None, headers: dict[str, str]
) -> Response:
    """Send it and read the answer, of a stream what comes at once. Raises TimeoutError."""
    connection = UnixConnection(agent.socket, ANSWERED_WITHIN)
    try:
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        read = b""
        if answer.status >= 400 or "content-length" in found:
            read = answer.read()
        elif answer.status != 101 and connection.sock is not None:
            connection.sock.settimeout(_STREAM_WITHIN)
            try:
                while piece := answer.read1(1 << 16):
                    read += piece
            except (TimeoutError, http.client.HTTPException):
                pass
        return Response(answer.status, found, read)
    finally:
        connection.close()


@pytest.fixture(scope="module")
def target(agent: AgentUnderTest) -> Target:
    """Return what the requests of this module are aimed at."""
    return Target(agent, need_description(VERSION))


def test_every_call_takes_what_schemathesis_makes(target: Target) -> None:
    described = schemathesis.openapi.from_dict(deepcopy(target.description.document))
    operations = {(each.method, each.path): each for each in target.description.operations}
    failures = []
    for result in described.get_all_operations():
        made = result.ok()
        if made.path.startswith(_NEVER):
            continue
        target.make()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            cases = made.as_strategy(generation_mode=mode)
            failures += target.failures(operations[made.method.upper(), made.path], cases)
    assert not failures, "\n".join(failures)


def bodies(description: Description) -> st.SearchStrategy[tuple[Operation, str, bytes]]:
    """Good bodies with a bad member, any of those that are described, of any call that takes one."""
    places = []
    for path, (query, good) in _GOOD.items():
        operation = next(
            each for each in description.operations if (each.method, each.path) == ("POST", path)
        )
        parameters = description.document["paths"][path]["post"]["parameters"]
        schema = next(each["schema"] for each in parameters if each["in"] == "body")
        for way in sorted(set(sites(schema, description.document["definitions"]))):
            places.append((operation, query, way, good))
    return st.builds(
        lambda place, value: (place[0], place[1], json.dumps(placed(place[2], value, place[3])).encode()),
        st.sampled_from(places),
        st.sampled_from(VALUES),
    )


def test_one_bad_member_of_a_body(target: Target) -> None:
    @settings(few, max_examples=EXAMPLES * 400)
    @given(bodies(target.description))
    def asked(case: tuple[Operation, str, bytes]) -> None:
        operation, query, body = case
        path = operation.path.replace("{id}", target.name(operation)) + query
        answer = target.verdict(operation, path, body, {"Content-Type": "application/json"})
        if answer.status == 201:
            target.unmake(operation, answer.json())

    target.make()
    asked()


def test_one_bad_parameter_of_a_query(target: Target) -> None:
    cases = [
        (operation, parameter["name"])
        for operation in target.description.operations
        for parameter in target.description.document["paths"][operation.path][operation.method.lower()].get(
            "parameters", ()
        )
        if parameter["in"] == "query" and not operation.path.startswith(_NEVER)
    ]

    @settings(few, max_examples=EXAMPLES * 200)
    @given(st.sampled_from(cases), st.sampled_from(TEXTS))
    def asked(case: tuple[Operation, str], text: str) -> None:
        operation, name = case
        if operation.method != "GET":
            target.make()
        path = operation.path.replace("{id}", target.name(operation)).replace("{name}", "aim")
        target.verdict(operation, f"{path}?{name}={text}", None, {})

    asked()


@pytest.mark.parametrize("body", [None, b"", b"{}", b"{", b"[]", b"\xff\x00"])
def test_no_swarm_says_so_whatever_is_asked(target: Target, body: bytes | None) -> None:
    for operation in target.description.operations:
        if operation.path.startswith(_NEVER):
            path = operation.path.replace("{id}", "%00%ff" if body else "x")
            assert target.verdict(operation, path, body, {}).status in (503, 400), operation


def prepared_request(case: Any) -> tuple[str, bytes | None, dict[str, str]] | None:
    """Return the target, body and headers of a case; None where HTTP itself cannot carry it."""
    arguments = case.as_transport_kwargs(base_url="http://localhost")
    arguments.pop("cert", None)
    try:
        made = requests.Request(**{name: value for name, value in arguments.items() if name in _OF_REQUEST})
        prepared = made.prepare()
        parts = urlsplit(prepared.url or "")
        body = prepared.body.encode() if isinstance(prepared.body, str) else prepared.body
        headers = {name: value for name, value in prepared.headers.items() if _can_be_sent(value)}
    except (requests.RequestException, UnicodeError, ValueError):
        return None
    return f"{parts.path}{'?' if parts.query else ''}{parts.query}", body, headers


_OF_REQUEST = {"method", "url", "headers", "files", "data", "params", "json", "cookies"}


def _can_be_sent(value: str | bytes) -> bool:
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return text.isascii() and text.isprintable()
