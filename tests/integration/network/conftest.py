# SPDX-License-Identifier: Apache-2.0
"""A host with a network service, and the outside world that it is connected to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from integration.network.topology import Host, NamedNamespace, Namespace, Service

MakeHost = Callable[[], Host]
Serve = Callable[..., Service]


@pytest.fixture
def outside() -> Iterator[NamedNamespace]:
    """The outside world, as 198.51.100.1."""
    namespace = NamedNamespace()
    yield namespace
    namespace.remove()


@pytest.fixture
def make_host(tmp_path: Path, outside: NamedNamespace) -> Iterator[MakeHost]:
    """Return a function that makes hosts with one and the same state directory: one host that is rebooted."""
    with ExitStack() as stack:

        def make() -> Host:
            host = Host(tmp_path, outside)
            stack.callback(host.remove)
            return host

        yield make


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    """A host, as 198.51.100.2, with a running service."""
    made = make_host()
    assert made.start_agent() == []
    return made


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a service on a port of a namespace."""
    with ExitStack() as stack:

        def start(where: Namespace, port: int, name: str = "service", **options: object) -> Service:
            service = Service(where, port, name, **options)  # type: ignore[arg-type]
            stack.callback(service.close)
            return service

        yield start
