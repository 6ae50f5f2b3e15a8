# SPDX-License-Identifier: Apache-2.0
"""Docker Compose 2, the real one: services that wait for each other, are scaled, changed, and go again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.claims import free_port
from harness.host import compose_plugin
from harness.waiting import eventually
from harness.web import fetched

pytestmark = [pytest.mark.root, pytest.mark.docker]

# Three services on two networks: web reaches app by an alias on the one, app waits for db on the other.
SHOP = """
services:
  db:
    image: busybox
    init: true
    command: ["sh", "-c", "echo bread > /data/stock; sleep 1; touch /ready; exec sleep 600"]
    volumes: ["stock:/data"]
    networks: [back]
    healthcheck:
      test: ["CMD", "test", "-e", "/ready"]
      interval: 30s
      start_period: 30s
      start_interval: 200ms
  app:
    image: busybox
    init: true
    command: ["sh", "-c", "hostname > /tmp/index.html; echo app up; exec httpd -f -p 8080 -h /tmp"]
    depends_on: {db: {condition: service_healthy}}
    networks: {back: {}, front: {aliases: [backend]}}
  web:
    image: busybox
    init: true
    command: ["sh", "-c", "echo $$MODE > /tmp/index.html; exec httpd -f -p 80 -h /tmp"]
    depends_on: [app]
    environment: {MODE: "${MODE:-plain}"}
    networks: {front: {ipv4_address: 10.88.7.80}}
    ports: ["127.0.0.1:${PORT:-}:80"]
networks:
  front: {ipam: {config: [{subnet: 10.88.7.0/24}]}}
  back: {internal: true}
volumes:
  stock: {labels: {of: shop}}
"""

CLEAR_LINE = "\x1b[2K"  # which logs have before each line, terminal or not


class Project:
    """A directory with a compose.yaml, and the client that works on it."""

    def __init__(self, agent: AgentUnderTest, directory: Path, text: str) -> None:
        self.agent, self.directory = agent, directory
        self.environment = agent.docker_environment()
        # The classic builder, which is the one that the agent has.
        self.environment["DOCKER_BUILDKIT"] = "0"
        self.write(text)

    def write(self, text: str) -> None:
        (self.directory / "compose.yaml").write_text(text)

    def command(self, *arguments: str) -> list[str]:
        return self.agent.docker_command(
            *("compose", "--ansi", "never", "--progress", "plain"),
            *("--project-directory", str(self.directory)),
            *arguments,
        )

    def __call__(self, *arguments: str, check: bool = True, **variables: str) -> str:
        """What the client says, on both of its streams."""
        done = self.run(*arguments, **variables)
        assert done.returncode == 0 or not check, f"{arguments}: {done.stdout}\n{self.agent.log_tail(20)}"
        return done.stdout.replace(CLEAR_LINE, "")

    def run(self, *arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            check=False,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**self.environment, **variables},
            timeout=100,
        )

    def states(self) -> dict[str, dict[str, Any]]:
        """What `ps` tells, by the container's name."""
        lines = self("ps", "--all", "--format", "json").splitlines()
        return {each["Name"]: each for each in map(json.loads, lines)}

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.agent.docker("inspect", name).stdout)[0]
        return found

    def get(self, service: str = "web") -> str:
        """What a service answers on its published port."""
        return fetched(f"http://{self('port', service, '80').strip()}/").strip()

    def has_logged(self, service: str, text: str) -> None:
        """Wait until a service has said this, and nothing else: it may have only just been started."""

        def told() -> bool:
            found = self("logs", "--no-log-prefix", service)
            assert found == text, found
            return True

        eventually(told)


@pytest.fixture
def shop(agent: AgentUnderTest, tmp_path: Path) -> Iterator[Project]:
    plugin = compose_plugin()
    if plugin is None:
        pytest.skip("needs Docker Compose 2: script/test fetches it as root")
    plugins = agent.base / "docker/cli-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    if not (plugins / "docker-compose").exists():
        (plugins / "docker-compose").symlink_to(plugin)
    directory = tmp_path / "shop"  # what the project is called
    directory.mkdir()
    project = Project(agent, directory, SHOP)
    yield project
    project("down", "--volumes", "--timeout", "0", "--remove-orphans")
    assert agent.docker("ps", "-aq").stdout == ""
    assert agent.docker("volume", "ls", "-q").stdout == ""
    assert agent.docker("network", "ls", "-q", "--filter", "type=custom").stdout == ""


def test_services_come_up_in_their_order_and_reach_each_other(shop: Project) -> None:
    shop("up", "--detach")

    states = shop.states()
    assert {name: state["State"] for name, state in states.items()} == dict.fromkeys(
        ["shop-app-1", "shop-db-1", "shop-web-1"], "running"
    )
    assert states["shop-db-1"]["Health"] == "healthy"
    probes = shop.inspect("shop-db-1")["State"]["Health"]["Log"]
    healthy = next(probe["End"] for probe in probes if probe["ExitCode"] == 0)
    starts = [shop.inspect(f"shop-{name}-1")["State"]["StartedAt"] for name in ("app", "web")]
    assert healthy < starts[0] < starts[1]
    assert shop.get() == "plain"
    app = shop.inspect("shop-app-1")["Config"]["Hostname"]
    eventually(lambda: shop("exec", "-T", "web", "wget", "-qO-", "http://backend:8080/").strip() == app)
    assert shop.run("exec", "-T", "web", "wget", "-qO-", "http://db/").returncode == 1  # not on its network
    assert shop("logs", "--no-color", "app") == "app-1  | app up\n"
    assert "httpd" in shop("top", "web")
    assert [line.split()[0] for line in shop("images").splitlines()[1:]] == sorted(states)

    again = shop("up", "--detach")
    assert "Creat" not in again
    assert "Start" not in again


def test_commands_on_services(shop: Project) -> None:
    shop("up", "--detach")
    address = "10.88.7.80"

    assert shop.run("exec", "-T", "db", "cat", stdin="piped\n").stdout == "piped\n"
    assert shop.run("exec", "-T", "db", "sh", "-c", "exit 5").returncode == 5
    ran = shop.run("run", "--rm", "-T", "--no-deps", "app", "sh", "-c", "nslookup db >&2 && exit 7")
    assert (ran.returncode, "Name:\tdb" in ran.stdout) == (7, True)
    shop("cp", "db:/data/stock", str(shop.directory / "got"))
    assert (shop.directory / "got").read_text() == "bread\n"

    shop("stop", "--timeout", "5", "web")
    assert shop.states()["shop-web-1"]["State"] == "exited"
    shop("start", "web")
    assert shop.get() == "plain"
    before = shop.inspect("shop-app-1")["State"]["Pid"]
    shop("restart", "--timeout", "5", "--no-deps", "app")
    assert shop.inspect("shop-app-1")["State"]["Pid"] != before
    shop("pause", "db")
    assert shop.states()["shop-db-1"]["State"] == "paused"
    shop("unpause", "db")
    shop("kill", "--signal", "TERM", "app")
    assert shop.inspect("shop-web-1")["NetworkSettings"]["Networks"]["shop_front"]["IPAddress"] == address
    shop("rm", "--stop", "--force", "web")
    assert set(shop.states()) == {"shop-app-1", "shop-db-1"}


def test_what_has_changed_is_made_anew_and_the_rest_stays(shop: Project) -> None:
    """The new container is made before the old one goes, with the same address, port and volume."""
    port = str(free_port())
    shop("up", "--detach", PORT=port)
    before = {name: state["ID"] for name, state in shop.states().items()}

    changed = shop("up", "--detach", PORT=port, MODE="other")

    after = {name: state["ID"] for name, state in shop.states().items()}
    assert "Recreated" in changed
    assert [name for name in after if after[name] != before[name]] == ["shop-web-1"]
    assert shop.get() == "other"
    place = shop.inspect("shop-web-1")["NetworkSettings"]["Networks"]["shop_front"]
    assert (place["IPAddress"], place["IPAMConfig"]["IPv4Address"]) == ("10.88.7.80", "10.88.7.80")
    shop("exec", "-T", "db", "sh", "-c", "echo cake > /data/stock")
    shop("up", "--detach", "--force-recreate", "--no-deps", "--timeout", "0", "db")
    assert "db-1 exited" not in shop("logs", "db")
    shop("down", "--timeout", "0")
    assert shop.agent.docker("volume", "ls", "-q").stdout == "shop_stock\n"


def test_a_service_of_several_containers(shop: Project) -> None:
    shop.write(
        """
services:
  worker:
    image: busybox
    init: true
    command: ["sh", "-c", "hostname > /tmp/index.html; exec httpd -f -p 80 -h /tmp"]
    ports: [{target: 80, published: "38400-38499", host_ip: 127.0.0.1}]
    deploy: {replicas: 2, resources: {limits: {cpus: "0.5", memory: 64M}}}
"""
    )
    shop("up", "--detach", "--wait")
    shop("up", "--detach", "--scale", "worker=4")
    assert sorted(shop.states()) == [f"shop-worker-{number}" for number in (1, 2, 3, 4)]
    found = set()
    for number in ("1", "2", "3", "4"):
        place = shop("port", "--index", number, "worker", "80").strip()
        assert 38400 <= int(place.rpartition(":")[2]) <= 38499
        found.add(fetched(f"http://{place}/").strip())
    assert len(found) == 4
    names = shop("exec", "-T", "worker", "nslookup", "worker")
    assert names.count("Address:") == 5  # the server's, and one of each container
    limits = shop.inspect("shop-worker-1")["HostConfig"]
    assert (limits["NanoCpus"], limits["Memory"]) == (500_000_000, 64 << 20)
    shop("scale", "worker=1")
    assert list(shop.states()) == ["shop-worker-1"]


def test_images_are_built_and_jobs_are_waited_for(shop: Project) -> None:
    """With a secret, a config, and a service in the network of another."""
    (shop.directory / "Dockerfile").write_text("FROM busybox\nARG WHO\nRUN echo made for $WHO > /made\n")
    (shop.directory / "password").write_text("sesame\n")
    shop.write(
        """
services:
  prepare:
    image: busybox
    command: ["sh", "-c", "cat /run/secrets/password /etc/shop.conf; echo prepared > /work/state"]
    volumes: ["work:/work"]
    secrets: [password]
    configs: [{source: settings, target: /etc/shop.conf}]
  main:
    build: {context: ., args: {WHO: us}}
    init: true
    read_only: true
    tmpfs: ["/tmp"]
    user: "1000:1000"
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    ulimits: {nofile: {soft: 100, hard: 200}}
    extra_hosts: ["host.docker.internal:host-gateway"]
    command: ["sh", "-c", "cat /made /work/state; ulimit -n; exec sleep 600"]
    volumes: [{type: volume, source: work, target: /work, read_only: true}]
    depends_on: {prepare: {condition: service_completed_successfully}}
    logging: {driver: json-file, options: {max-size: 1m}}
  beside:
    image: busybox
    init: true
    network_mode: "service:main"
    command: ["sh", "-c", "hostname; exec sleep 600"]
secrets: {password: {file: ./password}}
configs: {settings: {content: "colour = blue\\n"}}
volumes: {work: {}}
"""
    )
    built = shop("up", "--detach", "--build")
    assert "Successfully tagged shop-main:latest" in built
    assert shop("logs", "--no-log-prefix", "prepare") == "sesame\ncolour = blue\n"
    shop.has_logged("main", "made for us\nprepared\n100\n")
    main = shop.inspect("shop-main-1")
    shop.has_logged("beside", f"{main['Config']['Hostname']}\n")
    assert main["Config"]["Labels"]["com.docker.compose.project"] == "shop"
    gone = shop("down", "--volumes", "--timeout", "0", "--rmi", "local")
    assert "Image shop-main:latest  Removed" in gone
    assert "shop-main" not in shop.agent.docker("images").stdout


def test_in_the_foreground(shop: Project) -> None:
    """Output is shown as it comes, one end ends all, and its exit code is the client's."""
    shop.write(
        """
services:
  server: {image: busybox, init: true, command: ["sh", "-c", "echo serving; exec sleep 600"]}
  check:
    image: busybox
    depends_on: [server]
    command: ["sh", "-c", "echo checked; exit 3"]
"""
    )
    done = shop.run("up", "--abort-on-container-exit", "--exit-code-from", "check", "--timeout", "5")
    assert done.returncode == 3, done.stdout
    for line in ("server-1  | serving", "check-1   | checked", "check-1 exited with code 3"):
        assert line in done.stdout
    assert {state["State"] for state in shop.states().values()} == {"exited"}


def test_an_interrupt_stops_what_is_in_the_foreground(shop: Project) -> None:
    shop.write(
        """
services:
  server: {image: busybox, init: true, command: ["sh", "-c", "echo serving; exec sleep 600"]}
"""
    )
    with subprocess.Popen(
        shop.command("up", "--timeout", "5"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=shop.environment,
        start_new_session=True,
    ) as client:
        assert client.stdout is not None
        try:
            assert any("serving" in line for line in client.stdout)
            os.kill(client.pid, signal.SIGINT)
            client.communicate(timeout=60)
        finally:
            client.kill()
    assert shop.states()["shop-server-1"]["State"] == "exited"


def test_volumes_are_mounted_from_where_their_options_say(shop: Project, tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources/file").write_text("of the host\n")
    shop.write(
        f"""
services:
  one:
    image: busybox
    init: true
    command: ["sh", "-c", "cat /sources/file; echo shared >/scratch/note; exec sleep 600"]
    volumes: ["sources:/sources", "scratch:/scratch"]
    healthcheck: {{test: ["CMD", "test", "-s", "/scratch/note"], interval: 200ms}}
  two:
    image: busybox
    depends_on: {{one: {{condition: service_healthy}}}}
    command: ["sh", "-c", "cat /scratch/note; df -k /scratch | tail -1"]
    volumes: ["scratch:/scratch:ro"]
volumes:
  sources:
    driver: local
    driver_opts: {{type: none, o: bind, device: {tmp_path}/sources}}
  scratch:
    driver_opts: {{type: tmpfs, o: "size=3m,mode=700", device: tmpfs}}
"""
    )
    shop("up", "--detach")
    shop.agent.docker("wait", "shop-two-1")
    assert shop("logs", "--no-log-prefix", "one") == "of the host\n"
    assert "3072" in shop("logs", "--no-log-prefix", "two")
    shop("down", "--volumes", "--timeout", "0")
    assert (tmp_path / "sources/file").exists()
