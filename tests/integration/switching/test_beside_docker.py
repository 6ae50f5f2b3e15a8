# SPDX-License-Identifier: Apache-2.0
"""A real dockerd on the same host, with the firewall that it makes: neither is in the other's way for good.

Docker forbids the host to forward what it does not know of, so that somebody has to let our bridges through.
The agent says how, and what it says is what these tests do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import peers
from bench.engine_api import EngineApi, EngineFailed
from harness.waiting import eventually
from integration.network.topology import HOST_OUTER, NamedNamespace, Namespace

from .firewalls import advised
from .world import World, server

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

THEIRS = 8090

Dockerd = Callable[[], "Theirs"]


class Theirs:
    """A dockerd, and its container that says "docker" at a published port."""

    def __init__(self, docker: peers.Docker, archive: Path) -> None:
        self.docker = docker
        self.api = EngineApi(docker.socket)
        self.api.import_image(archive, "web")
        self.publish("theirs", THEIRS)

    def publish(self, name: str, port: int) -> None:
        """Run a container that comes back with dockerd. Raises EngineFailed."""
        script = "mkdir -p /srv; echo docker >/srv/index.html; exec httpd -f -p 80 -h /srv"
        body = {
            "Image": "web", "Cmd": ["sh", "-c", script], "ExposedPorts": {"80/tcp": {}}, "StopTimeout": 0,
            "HostConfig": {
                "PortBindings": {"80/tcp": [{"HostPort": str(port)}]}, "RestartPolicy": {"Name": "always"},
            },
        }  # fmt: skip
        self.api.start(self.api.call("POST", f"/containers/create?name={name}", body)["Id"])

    @property
    def inside(self) -> Namespace:
        """The network namespace of its container."""
        view = self.api.call("GET", "/containers/theirs/json")
        return Namespace(Path(f"/proc/{view['State']['Pid']}/ns/net"))

    def restart(self) -> None:
        """End dockerd, and start it anew; its container comes back."""
        self.api.close()
        self.docker.restart()
        self.api = EngineApi(self.docker.socket)


@pytest.fixture
def dockerd(places: tuple[NamedNamespace, NamedNamespace], busybox_rootfs: Path) -> Iterator[Dockerd]:
    """Return a function that starts dockerd on the host."""
    if not peers.has("dockerd"):
        pytest.skip("dockerd is not installed: it is 250 MB, and script/bench installs it")
    host, _ = places
    with ExitStack() as stack:
        # Short, since paths of unix sockets are.
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mrgt-")))

        def start() -> Theirs:
            docker = stack.enter_context(peers.dockerd(base / "docker", host.path))
            theirs = Theirs(docker, busybox_rootfs)
            stack.callback(lambda: theirs.api.close())
            return theirs

        yield start


def obstacles(world: World) -> list[str]:
    found: list[str] = world.agent.api("GET", "/mooring/v1/host")["obstacles"]
    return found


def let_through(world: World) -> None:
    """Do what the agent says."""
    [sentence] = eventually(lambda: obstacles(world), what="it is said what is in the way")
    for command in advised(sentence):
        world.host.run(*command.split())
    eventually(lambda: obstacles(world) == [], what="nothing is in the way any more")


def says(world: World, where: Namespace, address: str, port: int = 8080) -> str:
    try:
        return world.says(where, address, port)
    except OSError as error:
        return str(error)


def inside(world: World, name: str = "web") -> Namespace:
    return Namespace(Path(f"/proc/{world.view(name)['pid']}/ns/net"))


def both_work(world: World, theirs: Theirs) -> None:
    """From outside, from the host, from the containers of the other, and to the outside."""
    ours, their = inside(world), theirs.inside
    for where, address in (
        (world.outside, HOST_OUTER),
        (world.host, HOST_OUTER),
        (world.host, "127.0.0.1"),
        (ours, HOST_OUTER),
        (their, HOST_OUTER),
    ):
        eventually(lambda: says(world, where, address) == "web", what=f"ours is reached from {where.path}")  # noqa: B023
        eventually(
            lambda: says(world, where, address, THEIRS) == "docker",  # noqa: B023
            what=f"theirs is reached from {where.path}",
        )


def ours_works(world: World) -> bool:
    return says(world, world.outside, HOST_OUTER) == "web"


def theirs_works(world: World) -> bool:
    return says(world, world.outside, HOST_OUTER, THEIRS) == "docker"


def test_agent_on_a_host_that_has_docker_already(
    places: tuple[NamedNamespace, NamedNamespace], dockerd: Dockerd, make_world: Callable[[], World]
) -> None:
    # Docker drops what it does not know of where it is the one who makes the host forward.
    places[0].run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    theirs = dockerd()
    world = make_world()
    try:
        world.put("web", server("web"))
        assert not ours_works(world), "this docker lets everything through: nothing is tested"
        assert theirs_works(world)
        assert "DOCKER-USER" in obstacles(world)[0]

        let_through(world)
        both_work(world, theirs)

        # Neither end of the agent, nor its return, is noticed by docker.
        world.agent.kill9()
        assert theirs_works(world)
        assert ours_works(world)
        world.agent.start()
        assert obstacles(world) == []
        world.agent.restart()
        both_work(world, theirs)

        # Nor what docker does: all of its rules are made anew.
        theirs.restart()
        both_work(world, theirs)
        network = theirs.api.call("POST", "/networks/create", {"Name": "other"})["Id"]
        both_work(world, theirs)
        theirs.api.call("DELETE", f"/networks/{network}")
        both_work(world, theirs)
        assert obstacles(world) == []

        world.agent.api("DELETE", "/mooring/v1/containers/web?force=true&timeout=0")
        assert theirs_works(world)
    finally:
        world.end()
    assert theirs_works(world)


def test_docker_that_comes_to_a_host_with_an_agent(dockerd: Dockerd, world: World) -> None:
    world.put("web", server("web"))
    world.until_served("web")
    assert obstacles(world) == []

    theirs = dockerd()
    both_work(world, theirs)

    world.host.run("iptables", "-P", "FORWARD", "DROP")  # as docker itself, had it been the first
    eventually(lambda: obstacles(world), what="it is said what is in the way")
    assert "drops what networks forward; let our bridges through" in world.agent.docker("info").stderr
    let_through(world)
    both_work(world, theirs)
    assert "network obstructed" in world.agent.log_tail()

    # By hand, all rules of iptables go, and its policy stays.
    world.host.run("iptables", "-F")
    assert not ours_works(world)
    let_through(world)
    eventually(lambda: ours_works(world), what="ours works after iptables -F")
    theirs.restart()
    both_work(world, theirs)

    world.host.run("nft", "flush", "ruleset")
    eventually(lambda: ours_works(world), what="ours works after nft flush ruleset")
    theirs.docker.stop()
    assert ours_works(world)
    assert says(world, world.host, "127.0.0.1") == "web"


def test_port_is_published_by_one_of_both(dockerd: Dockerd, world: World) -> None:
    theirs = dockerd()
    world.put("web", server("web"))

    refused = world.put("taker", server("taker", ports=[f"{THEIRS}:80"]), check=False)
    assert f"port {THEIRS}/tcp" in refused["message"]
    assert "docker-proxy" in refused["message"]
    with pytest.raises(EngineFailed, match="address already in use"):
        theirs.publish("taker", 8080)

    both_work(world, theirs)
