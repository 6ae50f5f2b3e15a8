# SPDX-License-Identifier: Apache-2.0
"""What docker-py's own integration suite found: behaviours of dockerd that its clients build on."""

from __future__ import annotations

import io
import os
import pathlib
import shutil
import signal
import stat
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from harness import archives
from harness.agent import AgentUnderTest
from harness.waiting import eventually, has_died

docker = pytest.importorskip("docker")

pytestmark = pytest.mark.root


def run(client: Any, *command: str, **options: Any) -> Any:
    return client.containers.run("busybox", list(command) or ["sleep", "600"], detach=True, **options)


def test_an_exec_with_a_terminal_is_framed_when_its_start_asks_for_no_terminal(client: Any) -> None:
    container = run(client)
    execution = client.api.exec_create(container.id, ["sh", "-c", "echo out; echo err >&2"], tty=True)
    assert client.api.exec_start(execution, demux=True) == (b"out\r\nerr\r\n", None)
    execution = client.api.exec_create(container.id, ["echo", "raw"], tty=True)
    assert client.api.exec_start(execution, tty=True) == b"raw\r\n"


def test_links_are_names_of_a_network_for_whoever_comes_later(client: Any) -> None:
    network = client.networks.create("py-links")
    config = client.api.create_networking_config(
        {network.name: client.api.create_endpoint_config(links=[("py-later", "db")])}
    )
    host = client.api.create_host_config(network_mode=network.name)
    made = client.api.create_container(
        "busybox", ["sleep", "600"], host_config=host, networking_config=config
    )
    client.api.start(made)
    container = client.containers.get(made["Id"])
    shown = container.attrs["NetworkSettings"]["Networks"][network.name]
    assert shown["Links"] == ["py-later:db"]

    later = run(client, name="py-later", network=network.id)
    later.reload()
    address = later.attrs["NetworkSettings"]["Networks"][network.name]["IPAddress"]
    found = container.exec_run(["nslookup", "db"])
    assert (found.exit_code, address in found.output.decode()) == (0, True)

    client.api.remove_container(f"{container.name}/db", link=True)
    eventually(lambda: container.exec_run(["nslookup", "db"]).exit_code != 0, 10, "the end of the link")
    with pytest.raises(docker.errors.NotFound):
        client.api.remove_container(f"{container.name}/db", link=True)


def test_a_link_is_told_in_the_environment(client: Any) -> None:
    run(client, name="py-db", environment={"FOO": "1"})
    told = client.containers.run("busybox", "env", links={"py-db": "db"}, name="py-web").decode()
    assert "DB_NAME=/py-web/db\n" in told
    assert "DB_ENV_FOO=1\n" in told


def test_a_link_goes_with_the_container_that_gave_it(client: Any) -> None:
    network = client.networks.create("py-links")
    run(client, name="py-db", network=network.name)
    asks = run(client, network=network.name)
    gives = client.api.create_container("busybox", ["sleep", "600"])
    network.connect(gives["Id"], links=[("py-db", "store")])
    eventually(lambda: asks.exec_run(["nslookup", "store"]).exit_code == 0, 10, "the link's name")
    client.api.remove_container(gives)
    eventually(lambda: asks.exec_run(["nslookup", "store"]).exit_code != 0, 10, "the end of the link's name")


def test_volumes_come_from_another_container(client: Any) -> None:
    run(client, "sh", "-c", "echo kept > /data/file", name="py-first", volumes=["/data"]).wait()
    read = client.containers.run("busybox", ["cat", "/data/file"], volumes_from=["py-first:ro"])
    assert read == b"kept\n"


def test_a_variable_of_the_image_can_be_taken_away(client: Any) -> None:
    image, _ = client.images.build(fileobj=io.BytesIO(b"FROM busybox\nENV FOO=image BAR=image"), tag="py-env")
    made = client.api.create_container(image.id, ["env"], environment={"FOO": None, "BAR": "own"})
    client.api.start(made)
    client.api.wait(made)
    told = client.api.logs(made).decode()
    assert "BAR=own\n" in told
    assert "FOO" not in told
    client.containers.get(made["Id"]).remove()
    client.images.remove("py-env")


def test_prunes(client: Any) -> None:
    ended = run(client, "sh", "-c", "echo hello > /file")
    ended.wait()
    runs = run(client)
    named = client.volumes.create("py-named")
    nameless = client.volumes.create()
    pruned = client.containers.prune()
    assert pruned["ContainersDeleted"] == [ended.id]
    assert pruned["SpaceReclaimed"] > 0
    assert client.containers.list(all=True) == [runs]
    assert client.volumes.prune()["VolumesDeleted"] == [nameless.name]
    assert client.volumes.prune(filters={"all": True})["VolumesDeleted"] == [named.name]


def test_a_container_that_waits_for_its_restart_is_not_removed_by_the_way(client: Any) -> None:
    container = run(client, "false", restart_policy={"Name": "always"})
    eventually(lambda: client.containers.get(container.id).status == "restarting", 20)
    with pytest.raises(docker.errors.APIError, match="stop the container before"):
        container.remove()
    container.remove(force=True)


def test_a_container_that_ends_while_it_is_committed_is_committed(client: Any) -> None:
    base = client.images.get("busybox")
    for _ in range(10):
        container = run(client, "touch", "/file")
        image = container.commit()
        assert image.attrs["Parent"] == base.id
        client.images.remove(image.id)


def test_the_driver_none_shows_output_to_who_is_attached(agent: AgentUnderTest, client: Any) -> None:
    run = agent.docker("run", "--name", "py-none", "--log-driver", "none", "busybox", "echo", "seen")
    assert run.stdout == "seen\n"
    with pytest.raises(docker.errors.APIError, match="does not support reading"):
        client.api.logs("py-none")


def test_a_build_tells_errors_as_the_classic_builder_does(client: Any) -> None:
    lines = client.api.build(
        fileobj=io.BytesIO(b"FROM busybox\nRUN echo said >&2; exit 3"), decode=True, nocache=True
    )
    told = list(lines)
    assert {"stream": "\x1b[91msaid\n\x1b[0m"} in told
    assert told[-1]["error"].startswith(
        "The command '/bin/sh -c echo said >&2; exit 3' returned a non-zero code: 3"
    )


def test_a_build_runs_on_a_network_that_is_given_by_its_id(client: Any) -> None:
    network = client.networks.create("py-build")
    run(client, name="py-target", network=network.name)
    built, _ = client.images.build(
        fileobj=io.BytesIO(b"FROM busybox\nRUN nslookup py-target"), network_mode=network.id, nocache=True
    )
    client.images.remove(built.id)


def test_a_mount_makes_its_volume_with_labels(client: Any) -> None:
    mount = docker.types.Mount("/data", "py-labelled", type="volume", labels={"a": "b"})
    run(client, "true", mounts=[mount]).wait()
    assert client.volumes.get("py-labelled").attrs["Labels"] == {"a": "b"}


def test_a_bind_makes_the_directory_that_is_missing(client: Any, tmp_path: Any) -> None:
    missing = tmp_path / "not/there"
    container = run(client, volumes=[f"{missing}:/data"])
    assert stat.S_IMODE(missing.stat().st_mode) == 0o755
    container.stop(timeout=0)
    shutil.rmtree(missing.parent)
    container.start()
    assert container.exec_run(["touch", "/data/file"]).exit_code == 0
    assert (missing / "file").exists()
    (tmp_path / "file").write_text("a file")
    read = client.containers.run("busybox", ["cat", "/file"], volumes=[f"{tmp_path}/file:/file"])
    assert read == b"a file"
    with pytest.raises(docker.errors.APIError, match="cannot be made"):
        client.containers.run("busybox", "true", volumes=[f"{tmp_path}/file/below:/data"])
    mount = docker.types.Mount("/data", str(tmp_path / "neither"), type="bind")
    with pytest.raises(docker.errors.APIError):
        run(client, mounts=[mount])
    assert not (tmp_path / "neither").exists()


@pytest.fixture
def filling(client: Any) -> Iterator[str]:
    """An image with something at /data, and a link to it."""
    steps = (
        "FROM busybox",
        "RUN mkdir -p /data/deep && echo of-the-image > /data/deep/file && ln -s deep/file /data/link",
        "RUN ln /data/deep/file /data/hard && chown 7:8 /data && chmod 1770 /data && ln -s data /way",
    )
    image, _ = client.images.build(fileobj=io.BytesIO("\n".join(steps).encode()), tag="py-filling")
    yield "py-filling"
    for container in client.containers.list(all=True, filters={"ancestor": image.id}):
        container.remove(force=True, v=True)
    client.images.remove("py-filling")


LOOK = "stat -c '%a %u:%g' /data; cat /data/link; stat -c %h /data/hard"
FILLED = b"1770 7:8\nof-the-image\n2\n"


@pytest.mark.parametrize("bind", ["/data", "py-new:/data", "py-new:/way"])
def test_a_new_volume_begins_with_what_the_image_has(client: Any, filling: str, bind: str) -> None:
    made = client.api.create_container(filling, ["sh", "-c", LOOK], host_config={"Binds": [bind]})
    (volume,) = client.volumes.list()
    place = pathlib.Path(volume.attrs["Mountpoint"])
    assert (place / "deep/file").read_text() == "of-the-image\n"
    assert os.listdir(place.parent) == ["_data"]
    container = client.containers.get(made["Id"])
    container.start()
    container.wait()
    assert container.logs() == FILLED
    assert container.diff() in ([], None)


def test_the_volumes_of_an_image_are_made_where_nothing_else_is(client: Any, filling: str) -> None:
    steps = f"FROM {filling}\nVOLUME /data /other/"
    image, _ = client.images.build(fileobj=io.BytesIO(steps.encode()), tag="py-volumes")
    container = client.containers.run(image.id, ["sh", "-c", LOOK], volumes=["py-other:/other"], detach=True)
    container.wait()
    container.reload()
    assert container.logs() == FILLED
    made = {mount["Destination"]: mount["Name"] for mount in container.attrs["Mounts"]}
    assert (set(made), made["/other"]) == ({"/data", "/other"}, "py-other")
    container.remove(v=True)
    assert [volume.name for volume in client.volumes.list()] == ["py-other"]
    client.images.remove(image.id)


def test_a_volume_that_has_something_stays_as_it_is(client: Any, filling: str) -> None:
    run(client, "sh", "-c", "echo x > /data/own; chmod 711 /data", volumes=["py-own:/data"]).wait()
    look = client.containers.run(
        filling, ["sh", "-c", "ls /data; stat -c %a /data"], volumes=["py-own:/data"]
    )
    assert look == b"own\n711\n"


def test_a_volume_gets_nothing_where_that_is_asked_for(client: Any, filling: str) -> None:
    assert client.containers.run(filling, ["ls", "/data"], volumes=["py-none:/data:nocopy"]) == b""
    mount = docker.types.Mount("/data", "py-none", no_copy=True)
    assert client.containers.run(filling, ["ls", "/data"], mounts=[mount]) == b""
    first = run(client, volumes=["py-none:/data"])
    assert client.containers.run(filling, ["ls", "/data"], volumes_from=[first.id]) == b""
    client.containers.run(filling, ["ls", "/data"], volumes=["py-none:/data"])
    # Whoever has it mounted already sees it come.
    assert first.exec_run(["cat", "/data/deep/file"]).output == b"of-the-image\n"


def test_who_comes_while_a_volume_is_being_filled_waits_and_finds_it_whole(
    client: Any, agent: AgentUnderTest
) -> None:
    steps = (
        "FROM busybox",
        "RUN mkdir /data && cd /data && for n in $(seq 3000); do echo $n > $n; done",
    )
    client.images.build(fileobj=io.BytesIO("\n".join(steps).encode()), tag="py-many")
    body = {"Image": "py-many", "HostConfig": {"Binds": ["py-many:/data"]}, "Volumes": {"/other": {}}}
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(agent.request, "POST", "/containers/create?name=py-many", body)
        place = agent.config.data_root / "volumes/py-many"
        eventually(lambda: (place / "_draft").exists(), 30, "the volume is being filled")
        other = pool.submit(agent.request, "POST", "/containers/create?name=py-other", body)
        assert agent.request("DELETE", "/containers/py-many?force=1&v=1").status == 204
        assert (answer.result(60).status, other.result(60).status) == (201, 201)
    assert os.listdir(place) == ["_data"]
    assert len(os.listdir(place / "_data")) == 3000
    client.containers.get("py-other").remove(v=True)
    client.images.remove("py-many")


def packed(**files: bytes) -> bytes:
    return archives.packed({name.replace("__", "/"): content for name, content in files.items()})


def unpacked(pieces: Any) -> dict[str, bytes | None]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        return {
            member.name: file.read() if (file := archive.extractfile(member)) else None for member in archive
        }


@pytest.mark.parametrize("runs", [True, False])
def test_files_are_copied_in_and_out(client: Any, runs: bool) -> None:
    name = "py-copied"
    host = client.api.create_host_config(binds=["py-data:/data"], network_mode="none")
    client.api.create_container("busybox", ["sleep", "600"], name=name, host_config=host)
    container = client.containers.get(name)
    if runs:
        container.start()
    assert container.put_archive("/data", packed(kept=b"in the volume"))
    assert container.put_archive("/tmp", packed(one=b"1", deep__two=b"2"))
    pieces, told = container.get_archive("/tmp/deep")
    assert unpacked(pieces) == {"deep": None, "deep/two": b"2"}
    assert (told["name"], told["mode"] >> 31) == ("deep", 1)
    pieces, told = container.get_archive("/data/kept")
    assert unpacked(pieces) == {"kept": b"in the volume"}
    assert told["size"] == 13
    with pytest.raises(docker.errors.NotFound, match="Could not find the file"):
        container.get_archive("/nowhere")
    with pytest.raises(docker.errors.NotFound):
        container.put_archive("/nowhere", packed(one=b"1"))
    with pytest.raises(docker.errors.APIError, match="no directory"):
        container.put_archive("/data/kept", packed(one=b"1"))
    if not runs:
        container.start()
    assert container.exec_run(["cat", "/data/kept", "/tmp/one"]).output == b"in the volume1"


@pytest.mark.parametrize("runs", [True, False])
def test_no_link_leads_a_copy_out_of_the_container(client: Any, tmp_path: Any, runs: bool) -> None:
    (tmp_path / "secret").write_text("of the host")
    script = f"mkdir -p {tmp_path}; ln -s {tmp_path} /out; ln -s /proc/1/root /magic; ln -s .. /up; "
    container = run(client, "sh", "-c", script + "touch /ready; exec sleep 600")
    eventually(lambda: container.exec_run(["test", "-e", "/ready"]).exit_code == 0)
    if not runs:
        container.kill()
    with pytest.raises(docker.errors.NotFound):
        container.get_archive("/out/secret")
    container.put_archive("/out", packed(planted=b"x"))
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    for path in ("/magic/etc", "/../../../../../etc/shadow-of-the-host"):
        with pytest.raises(docker.errors.APIError):
            container.get_archive(path)
    pieces, _ = container.get_archive("/up/ready")
    assert unpacked(pieces) == {"ready": b""}


def test_names_of_whiteouts_are_names_when_they_are_copied(client: Any) -> None:
    container = run(client)
    container.put_archive("/tmp", packed(one=b"1"))
    container.put_archive("/tmp", packed(**{".wh.one": b"w"}))
    pieces, _ = container.get_archive("/tmp/.")
    assert {"./one", "./.wh.one"} & {f"./{name.removeprefix('./')}" for name in unpacked(pieces)} == {
        "./one",
        "./.wh.one",
    }


@pytest.mark.parametrize("runs", [True, False])
def test_nothing_is_copied_into_a_volume_that_is_read_only(client: Any, runs: bool) -> None:
    container = run(client, volumes=["py-data:/data:ro"])
    if not runs:
        container.kill()
    with pytest.raises(docker.errors.APIError, match="read-only at /data") as refused:
        container.put_archive("/data", packed(one=b"1"))
    assert refused.value.status_code == 403


@pytest.mark.parametrize("runs", [True, False])
def test_into_a_read_only_container_is_copied_where_it_may_write(client: Any, runs: bool) -> None:
    container = run(client, read_only=True, volumes=["py-data:/data"])
    if not runs:
        container.kill()
    assert container.put_archive("/data", packed(one=b"1"))
    assert unpacked(container.get_archive("/data/one")[0]) == {"one": b"1"}
    with pytest.raises(docker.errors.APIError, match="read-only at /etc") as refused:
        container.put_archive("/etc", packed(one=b"1"))
    assert refused.value.status_code == 403


def test_copying_waits_for_the_news_of_an_end(client: Any, agent: AgentUnderTest) -> None:
    container = run(client)
    container.put_archive("/etc", packed(one=b"1"))
    keeper, _ = agent.keeper_pids()
    with ThreadPoolExecutor(1) as pool:
        os.kill(keeper, signal.SIGSTOP)
        try:
            container.reload()
            pid = container.attrs["State"]["Pid"]
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: has_died(pid))
            copying = pool.submit(lambda: unpacked(container.get_archive("/etc/one")[0]))
            with pytest.raises(TimeoutError):
                copying.result(0.5)
        finally:
            os.kill(keeper, signal.SIGCONT)
        assert copying.result(30) == {"one": b"1"}


def test_a_file_of_any_time_is_copied(client: Any) -> None:
    container = run(client)
    container.exec_run(["touch", "-d", "@999999999999", "/dev/shm/late"])
    pieces, told = container.get_archive("/dev/shm/late")
    assert (unpacked(pieces), told["mtime"]) == ({"late": b""}, "9999-12-31T23:59:59Z")


def test_docker_cp(agent: AgentUnderTest, client: Any, tmp_path: Any) -> None:
    run(client, name="py-cp")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("content")
    agent.docker("cp", f"{tmp_path}/tree", "py-cp:/tmp")
    agent.docker("cp", "py-cp:/tmp/tree/file", f"{tmp_path}/back")
    assert (tmp_path / "back").read_text() == "content"
    refused = agent.docker("cp", f"{tmp_path}/tree/file", "py-cp:/tmp/tree/file/x", check=False)
    assert refused.returncode != 0
    changed = agent.docker("diff", "py-cp").stdout.splitlines()
    assert changed == ["C /tmp", "A /tmp/tree", "A /tmp/tree/file"]


def test_a_command_without_a_program_is_refused_when_the_container_is_made(client: Any) -> None:
    with pytest.raises(docker.errors.APIError, match="first word is empty") as caught:
        client.api.create_container("busybox", [""])
    assert caught.value.status_code == 400
