# SPDX-License-Identifier: Apache-2.0
"""Options of containers and networks that few ask for, by Docker's clients, and what the kernel does then."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import eventually

docker = pytest.importorskip("docker")

pytestmark = pytest.mark.root

SLEEP = ["sleep", "600"]


def mount(**options: Any) -> Any:
    return docker.types.Mount("/at", "parts", type="volume", **options)


@pytest.fixture
def parts(client: Any) -> Any:
    """A volume with a directory, a file in it, and links in and out."""
    script = (
        "mkdir -p /v/a/b && echo inner >/v/a/b/file && echo single >/v/single && ln -s /a/b /v/inside && "
        "ln -s ../../../../../etc /v/out && ln -s / /v/top"
    )
    client.containers.run("busybox", ["sh", "-c", script], volumes=["parts:/v"], remove=True)
    return client.volumes.get("parts")


def shown(client: Any, subpath: str, *command: str) -> str:
    return client.containers.run(
        "busybox", list(command), mounts=[mount(subpath=subpath)], remove=True
    ).decode()


@pytest.mark.parametrize("subpath", ["a/b", "a/./b/", "inside", "a/../a/b", "../../a/b"])
def test_a_part_of_a_volume_is_mounted(client: Any, parts: Any, subpath: str) -> None:
    if subpath.startswith(".."):
        with pytest.raises(docker.errors.APIError, match="a relative path inside of the volume"):
            shown(client, subpath, "cat", "/at/file")
        return
    assert shown(client, subpath, "cat", "/at/file") == "inner\n"


def test_a_file_of_a_volume_is_mounted(client: Any, parts: Any) -> None:
    assert shown(client, "single", "cat", "/at") == "single\n"


def test_no_link_of_a_volume_leads_out_of_it(client: Any, parts: Any) -> None:
    # /out is ../../../../../etc, which is etc of the volume: there is none.
    with pytest.raises(docker.errors.APIError, match="out"):
        shown(client, "out", "ls", "/at")
    assert shown(client, "top", "ls", "/at").split() == ["a", "inside", "out", "single", "top"]


def test_a_part_that_is_missing_is_said_by_name(client: Any, parts: Any) -> None:
    with pytest.raises(docker.errors.APIError, match=r"subpath nosuch of .*: No such file"):
        shown(client, "nosuch", "ls", "/at")


def test_a_part_is_shown_and_copied_from(agent: AgentUnderTest, client: Any, parts: Any) -> None:
    made = client.containers.create("busybox", SLEEP, name="parted", mounts=[mount(subpath="a/b")])
    host = made.attrs["HostConfig"]
    assert host["Binds"] is None
    [point] = host["Mounts"]
    assert (point["Source"], point["VolumeOptions"]["Subpath"]) == ("parts", "a/b")
    for step in ("at rest", "running"):
        if step == "running":
            made.start()
        assert b"inner" in b"".join(made.get_archive("/at/file")[0])
    made.remove(force=True)


def test_labels_of_security_modules_change_nothing_where_there_are_none(client: Any, tmp_path: Any) -> None:
    (tmp_path / "file").write_text("plain\n")
    made = client.containers.create("busybox", ["cat", "/at/file"], volumes=[f"{tmp_path}:/at:ro,z"])
    made.start()
    made.wait()
    assert made.logs() == b"plain\n"
    assert made.attrs["HostConfig"]["Binds"] == [f"{tmp_path}:/at:ro,z"]
    made.remove()


def test_link_local_addresses_are_heard_and_those_of_others_are_not(client: Any) -> None:
    network = client.networks.create("py local", enable_ipv6=True)
    made = []
    for number in (1, 2):
        settings = client.api.create_endpoint_config(
            link_local_ips=[f"169.254.9.{number}", f"fe80::9:{number}"], driver_opt={"somebody.s": "on"}
        )
        config = {network.name: settings}
        made.append(
            client.containers.run(
                *("busybox", SLEEP),
                detach=True,
                network=network.name,
                networking_config=config,
                cap_add=["NET_ADMIN"],
            )
        )
    one, two = made
    one.reload()
    endpoint = one.attrs["NetworkSettings"]["Networks"]["py local"]
    assert endpoint["IPAMConfig"]["LinkLocalIPs"] == ["169.254.9.1", "fe80::9:1"]
    assert endpoint["DriverOpts"] == {"somebody.s": "on"}

    for address in ("169.254.9.2", "fe80::9:2%eth0"):
        eventually(
            lambda to=address: one.exec_run(["ping", "-c1", "-W2", to]).exit_code == 0,
            20,
            f"{address} answers",
        )
    assert two.exec_run(["ip", "addr", "add", "169.254.9.77/16", "dev", "eth0"]).exit_code == 0
    assert one.exec_run(["ping", "-c1", "-W1", "169.254.9.77"]).exit_code != 0
    for container in made:
        container.remove(force=True)
    network.remove()


def test_reserved_addresses_have_names(client: Any) -> None:
    pool = docker.types.IPAMPool(
        subnet="10.199.4.0/24", aux_addresses={"router": "10.199.4.9", "10.199.4.8": "10.199.4.8"}
    )
    network = client.networks.create("py-named", ipam=docker.types.IPAMConfig(pool_configs=[pool]))
    network.reload()
    assert network.attrs["IPAM"]["Config"][0]["AuxiliaryAddresses"] == {
        "router": "10.199.4.9",
        "10.199.4.8": "10.199.4.8",
    }
    network.remove()


def test_what_docker_s_own_drivers_would_understand_is_refused(client: Any) -> None:
    settings = client.api.create_endpoint_config(driver_opt={"com.docker.network.bridge.x": "1"})
    with pytest.raises(docker.errors.APIError, match=r"com\.docker\.network\.bridge\.x"):
        client.containers.create("busybox", network="bridge", networking_config={"bridge": settings})


@pytest.mark.parametrize(
    ("user", "owner"), [("", "7:8"), ("1234:77", "1234:77"), ("keeper", "41:42"), ("root", "0:0")]
)
def test_copies_belong_to_the_user_of_the_container_if_that_is_asked_for(
    client: Any, user: str, owner: str
) -> None:
    entry = tarfile.TarInfo("below/file")
    entry.uid, entry.gid = 7, 8
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(entry)
    container = client.containers.create("busybox", SLEEP, user=user)
    account = io.BytesIO()
    with tarfile.open(fileobj=account, mode="w") as archive:
        line = b"keeper:x:41:42::/:/bin/sh\nroot:x:0:0::/:/bin/sh\n"
        told = tarfile.TarInfo("etc/passwd")
        told.size = len(line)
        archive.addfile(told, io.BytesIO(line))
    container.put_archive("/", account.getvalue())

    url = client.api._url("/containers/{0}/archive", container.id)
    answer = client.api.put(url, params={"path": "/tmp", "copyUIDGID": "true"}, data=packed.getvalue())

    assert answer.status_code == 200
    container.start()
    shown = container.exec_run(["stat", "-c", "%u:%g", "/tmp/below/file"], user="0").output.decode()
    assert shown.strip() == owner


def test_a_user_that_is_not_there_is_said(agent: AgentUnderTest, client: Any, tmp_path: Any) -> None:
    (tmp_path / "file").write_text("x")
    agent.docker("create", "--name", "nobody-known", "-u", "ghost", "busybox", "true")
    done = agent.docker("cp", "-a", str(tmp_path / "file"), "nobody-known:/tmp", check=False)
    assert done.returncode != 0
    assert "ghost" in done.stderr


@pytest.fixture
def busy() -> Iterator[None]:
    """A host with more to do than it has processors."""
    loops = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range((os.cpu_count() or 1) + 1)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


@pytest.mark.alone  # it would keep other tests from the processors
@pytest.mark.parametrize("way", ["logs", "attach"])
def test_what_is_written_at_once_is_in_the_log_right_after_the_start(
    client: Any, busy: None, way: str
) -> None:
    api = client.api
    for _ in range(30):
        made = api.create_container("busybox", ["echo", "at once"])
        api.start(made)
        said = api.logs(made) if way == "logs" else api.attach(made, stream=False, logs=True)
        assert said == b"at once\n"
        api.remove_container(made, force=True)


def test_a_silent_container_is_not_waited_for_long(client: Any) -> None:
    container = client.containers.run("busybox", SLEEP, detach=True)
    begun = time.monotonic()
    assert container.logs() == b""
    assert time.monotonic() - begun < 5
    eventually(lambda: _seconds(container.logs) < 0.2, 10, "its log is shown at once")


def _seconds(call: Callable[[], object]) -> float:
    begun = time.monotonic()
    call()
    return time.monotonic() - begun
