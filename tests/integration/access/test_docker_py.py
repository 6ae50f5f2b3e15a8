# SPDX-License-Identifier: Apache-2.0
"""docker-py over TLS, whose raw streams begin in the middle of what it has buffered."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import TlsAgent

docker = pytest.importorskip("docker")

pytestmark = pytest.mark.root


@pytest.fixture
def client(tls_agent: TlsAgent, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    # A bundle of the machine's would take the place of ours (requests).
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    environment = tls_agent.remote("ops").environment
    path = environment["DOCKER_CERT_PATH"]
    tls = docker.tls.TLSConfig(
        client_cert=(f"{path}/cert.pem", f"{path}/key.pem"), ca_cert=f"{path}/ca.pem", verify=True
    )
    made = docker.DockerClient(base_url=environment["DOCKER_HOST"], tls=tls)
    yield made
    for container in made.containers.list(all=True):
        container.remove(force=True)
    made.close()
    del made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # docker-py leaves raw streams to the collector
        gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # see `client`
def test_output_logs_and_raw_streams(client: Any) -> None:
    assert client.containers.run("busybox", ["echo", "hello"], remove=True) == b"hello\n"
    container = client.containers.run("busybox", ["sh", "-c", "echo begun; exec sleep 600"], detach=True)
    logs = container.logs(stream=True, follow=True)
    assert next(logs) == b"begun\n"
    logs.close()
    for _ in range(20):
        done = container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 3"], demux=True)
        assert (done.exit_code, done.output) == (3, (b"out\n", b"err\n"))
    raw = container.exec_run(["sh", "-c", "echo first; read line; echo got $line"], stdin=True, socket=True)
    stream = raw.output
    assert stream.recv(8)[-1] == 6
    assert stream.recv(6) == b"first\n"
    stream.send(b"me\n")
    assert stream.recv(8)[-1] == 7
    assert stream.recv(7) == b"got me\n"
    stream.close()
