# SPDX-License-Identifier: Apache-2.0
"""Builds at a real agent: what the cache answers, what must not be left, and how a failure is told."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from harness.claims import free_port
from harness.host import need_programs
from harness.unix_http import UnixConnection
from harness.waiting import eventually
from harness.web import served_directory
from integration.conftest import StartAgent
from integration.images.building import (
    blobs,
    body,
    build,
    config_file,
    layers,
    tree_of,
    unpack_image,
    write_context,
)

pytestmark = pytest.mark.root


def groups_and_files(agent: AgentUnderTest) -> list[str]:
    """What there is of containers."""
    places = (agent.config.data_root / "containers", agent.config.run_root / "etc")
    found = [str(path) for place in places for path in place.iterdir()]
    return found + [
        str(path) for path, pids in agent.traces.occupied_cgroups() if pids and len(path.name) == 64
    ]


def files_below(top: Path) -> Iterator[Path]:
    """The files of a tree, some of which may go meanwhile."""
    for directory, _, names in os.walk(top):
        paths = (Path(directory, name) for name in names)
        yield from (path for path in paths if path.is_file() and not path.is_symlink())


# --- the cache


def test_a_second_build_runs_nothing_and_gives_the_same_image(agent: AgentUnderTest, tmp_path: Path) -> None:
    dockerfile = """
FROM busybox AS one
WORKDIR /w
COPY a b ./
RUN echo ran; cat a > c
FROM busybox
COPY --from=one /w/c /c
RUN echo ran too
CMD cat /c
"""
    context = write_context(tmp_path / "context", dockerfile, {"a": "a\n", "b": "b\n"})
    first = build(agent, context, tags=["twice"])
    assert (first.hits, first.output) == (0, "ran\nran too\n")

    for path in context.iterdir():
        os.utime(path, (1, 1))
    second = build(agent, context)
    assert (second.hits, second.output) == (5, "")
    assert second.id == first.id

    (context / "b").write_text("changed\n")
    third = build(agent, context)
    # WORKDIR stays; COPY and RUN are done again; what they leave for the next stage is the same.
    assert third.output == "ran\n"
    assert third.hits == 3

    (context / "a").chmod(0o600)
    assert build(agent, context).output == "ran\n"
    assert build(agent, context, no_cache=True).output == "ran\nran too\n"


def test_arguments_matter_to_the_commands_behind_them(agent: AgentUnderTest, tmp_path: Path) -> None:
    dockerfile = "FROM busybox\nRUN echo before\nARG WHO=nobody\nRUN echo $WHO $HTTP_PROXY\n"
    context = write_context(tmp_path / "context", dockerfile)
    assert build(agent, context).output == "before\nnobody\n"
    assert build(agent, context, args={"WHO": "me"}).output == "me\n"
    assert build(agent, context, args={"WHO": "me", "HTTP_PROXY": "http://proxy"}).output == ""
    built = build(agent, context, args={"UNKNOWN": "x"})
    assert "UNKNOWN" in next(event["detail"] for event in built.events if event["step"] == "warning")


def test_a_mounted_context_matters_and_a_cache_does_not(agent: AgentUnderTest, tmp_path: Path) -> None:
    dockerfile = """
FROM busybox
RUN --mount=type=bind,target=/ctx --mount=type=cache,target=/kept,mode=0700,uid=3 \\
    cat /ctx/a; echo x >> /kept/x; wc -l < /kept/x; stat -c '%a %u' /kept; ! touch /ctx/new
"""
    context = write_context(tmp_path / "context", dockerfile, {"a": "one\n"})
    assert build(agent, context).output.startswith("one\n1\n700 3\n")
    assert build(agent, context).hits == 1
    (context / "a").write_text("two\n")
    built = build(agent, context)
    assert built.output.startswith("two\n2\n700 3\n")
    assert not {"ctx", "kept"} & set(tree_of(unpack_image(agent, built.id, tmp_path / "tree")))


def test_images_stand_for_the_cache(agent: AgentUnderTest, tmp_path: Path) -> None:
    dockerfile = """
FROM busybox
ENV A=1
RUN echo one > /one; echo ran one
COPY a /
RUN cat /a; echo ran two
RUN true
CMD ["cat", "/one"]
"""
    context = write_context(tmp_path / "context", dockerfile, {"a": "a\n"})
    first = build(agent, context, tags=["sourced"])
    assert first.output == "ran one\na\nran two\n"
    agent.docker("builder", "prune", "-af")  # as on a host that has got the image from a registry

    again = build(agent, context, cache_from=["nosuch", "sourced"])
    assert again.output == ""
    assert layers(agent, again.id) == layers(agent, first.id)
    # All but FROM and COPY, whose content is not in the history: that is taken anew, and is the same.
    assert again.hits == 5

    assert build(agent, context, cache_from=["nosuch"]).output == first.output
    assert build(agent, context, cache_from=["sourced"], no_cache=True).output == first.output
    assert build(agent, context, cache_from=["sourced"], args={"UNKNOWN": "x"}).output == ""

    (context / "a").write_text("b\n")
    changed = build(agent, context, cache_from=["sourced"])
    assert changed.output == "b\nran two\n"
    (context / "Dockerfile").write_text(dockerfile.replace("ENV A=1", "ENV A=2"))
    assert build(agent, context, cache_from=["sourced"]).output == "ran one\nb\nran two\n"


def test_what_a_command_mounts_is_in_no_history(agent: AgentUnderTest, tmp_path: Path) -> None:
    dockerfile = "FROM busybox\nRUN --mount=type=bind,target=/ctx cat /ctx/a > /seen; echo ran\n"
    context = write_context(tmp_path / "context", dockerfile, {"a": "mounted\n"})
    build(agent, context, tags=["mounting"], no_cache=True)
    assert build(agent, context, cache_from=["mounting"]).output == ""
    agent.docker("builder", "prune", "-af")
    assert build(agent, context, cache_from=["mounting"]).output == "ran\n"


def test_the_cache_can_be_pruned(start_agent: StartAgent, tmp_path: Path) -> None:
    agent = start_agent()
    context = write_context(
        tmp_path / "context", "FROM busybox\nRUN --mount=type=cache,target=/c echo x > /file; echo y > /c/y\n"
    )
    build(agent, context)
    before = {layer.name for layer in blobs(agent).iterdir()}
    image = agent.api("GET", "/mooring/v1/images")[0]
    agent.api("DELETE", f"/v1.43/images/{image['id']}?force=1")
    cache = agent.api("GET", "/mooring/v1/builds/cache")
    assert [step["in_image"] for step in cache["steps"]] == [False]
    assert cache["size"] > 0
    assert len(cache["mounts"]) == 1
    agent.restart()
    assert build(agent, context).hits == 1
    for image in agent.api("GET", "/mooring/v1/images"):
        if "busybox:latest" not in image["references"]:
            agent.api("DELETE", f"/v1.43/images/{image['id']}?force=1")
    assert agent.api("DELETE", "/mooring/v1/builds/cache?keep_bytes=1000000000")["deleted"] == []
    pruned = agent.api("DELETE", "/mooring/v1/builds/cache")
    assert len(pruned["deleted"]) == 2
    assert pruned["freed"] > 0
    assert agent.api("GET", "/mooring/v1/builds/cache") == {"size": 0, "steps": [], "mounts": []}
    assert len(list(blobs(agent).iterdir())) == len(before) - 3  # the layer, the manifest, the configuration


# --- what is in the image


def test_secrets_are_nowhere(agent: AgentUnderTest, tmp_path: Path) -> None:
    word = "a-word-that-nothing-else-has"
    dockerfile = """
FROM busybox
RUN --mount=type=secret,id=file,mode=0440,gid=7 --mount=type=secret,id=env,env=TOKEN \\
    stat -c '%a %g' /run/secrets/file; md5sum < /run/secrets/file; echo "$TOKEN" | md5sum
RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent
RUN ls -A /run 2>/dev/null; echo end
"""
    context = write_context(tmp_path / "context", dockerfile)
    secret = base64.b64encode(word.encode()).decode()
    built = build(agent, context, secrets={"file": secret, "env": secret})
    assert built.output.startswith(f"440 7\n{hashlib.md5(word.encode()).hexdigest()}")
    assert built.output.endswith("end\n")
    for path in files_below(agent.base):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # the agent goes on: launchers come and go
            continue
        content += gzip.decompress(content) if content[:2] == b"\x1f\x8b" else b""
        assert word.encode() not in content, path
    config = config_file(agent, built.id)
    assert word not in json.dumps(config)
    assert layers(agent, built.id) == layers(agent, agent.api("GET", "/v1.43/images/busybox/json")["Id"])
    assert all(entry["empty_layer"] for entry in config["history"][1:])

    missing = write_context(
        tmp_path / "missing", "FROM busybox\nRUN --mount=type=secret,id=x,required=true true\n"
    )
    error = build(agent, missing).error
    assert error is not None
    assert error["message"].startswith(
        "Dockerfile:2: RUN --mount=type=secret,id=x,required=true true: secret x"
    )


def test_history_and_configuration_are_in_the_form_of_buildkit(agent: AgentUnderTest, tmp_path: Path) -> None:
    dockerfile = """
FROM busybox
ARG A=1
ENV E=2
WORKDIR /w
COPY --chown=1:1 f g/
RUN echo x > y
EXPOSE 80
ENTRYPOINT ["/bin/echo"]
CMD hello
"""
    context = write_context(tmp_path / "context", dockerfile, {"f": ""})
    config = config_file(agent, build(agent, context, labels={"l": "v"}).id)
    told = [(entry["created_by"], entry.get("empty_layer", False)) for entry in config["history"][1:]]
    assert told == [
        ("ARG A=1", True),
        ("ENV E=2", True),
        ("WORKDIR /w", False),
        ("COPY --chown=1:1 f g/ # buildkit", False),
        ("RUN |1 A=1 /bin/sh -c echo x > y # buildkit", False),
        ("EXPOSE map[80/tcp:{}]", True),
        ('ENTRYPOINT ["/bin/echo"]', True),
        ('CMD ["/bin/sh" "-c" "hello"]', True),
    ]
    assert {entry["comment"] for entry in config["history"][1:]} == {"buildkit.dockerfile.v0"}
    assert config["config"]["Labels"] == {"l": "v"}
    assert len(config["rootfs"]["diff_ids"]) == 4


def test_with_source_date_epoch_two_agents_give_the_same_image(
    agent: AgentUnderTest, start_agent: StartAgent, tmp_path: Path, busybox_rootfs: Path
) -> None:
    dockerfile = """
FROM scratch
ADD rootfs.tar /
COPY f /d/f
RUN echo x > /d/x; mkdir /e; rm -r /d/f
WORKDIR /w
"""
    context = write_context(tmp_path / "context", dockerfile, {"f": "f\n"})
    shutil.copy(busybox_rootfs, context / "rootfs.tar")
    other = start_agent(image=False)
    epoch = 1_500_000_000
    built = build(agent, context, source_date_epoch=epoch)
    assert build(other, context, args={"SOURCE_DATE_EPOCH": str(epoch)}, no_cache=True).id == built.id
    config = config_file(agent, built.id)
    assert {entry["created"] for entry in config["history"]} == {"2017-07-14T02:40:00Z"}
    assert config["created"] == "2017-07-14T02:40:00Z"
    tree = tree_of(unpack_image(agent, built.id, tmp_path / "tree"), times=True)
    assert max(facts[5] for facts in tree.values()) <= epoch * 1_000_000_000


def test_commands_are_confined_and_leave_only_what_they_wrote(agent: AgentUnderTest, tmp_path: Path) -> None:
    dockerfile = """
FROM busybox
RUN mkdir -p /lacking && rm -rf /proc /sys /dev /etc/hosts 2> /dev/null; true
RUN grep -E 'CapBnd|Seccomp:' /proc/self/status; hostname; grep -c . /etc/hosts; \\
    cat /proc/kcore 2>&1 | head -c 1 | wc -c; mount -t tmpfs x /lacking; echo $?
"""
    built = build(agent, write_context(tmp_path / "context", dockerfile))
    lines = built.output.split()
    assert lines[:4] == ["CapBnd:", "00000000a80425fb", "Seccomp:", "2"]
    assert lines[4] == "build"
    assert lines[-1] != "0"
    one, two = config_file(agent, built.id)["history"][1:]
    assert "empty_layer" not in one
    assert two["empty_layer"]
    assert groups_and_files(agent) == []
    assert agent.api("GET", "/v1.43/containers/json?all=1") == []


def test_networks_of_commands(agent: AgentUnderTest, tmp_path: Path) -> None:
    dockerfile = """
FROM busybox
RUN --network=none ls /sys/class/net
RUN --network=host hostname
RUN ls /sys/class/net; grep buddy /etc/hosts
"""
    context = write_context(tmp_path / "context", dockerfile)
    output = build(agent, context, extra_hosts=["buddy:10.1.2.3"]).output
    assert output == f"lo\n{os.uname().nodename}\neth0\nlo\n10.1.2.3\tbuddy\n"
    assert build(agent, context, network="none", no_cache=True).output.endswith(
        f"{os.uname().nodename}\nlo\n"
    )


def test_limits_of_commands(agent: AgentUnderTest, tmp_path: Path) -> None:
    # What the shell is to hold is more than it may have.
    dockerfile = "FROM busybox\nRUN x=$(head -c 60000000 /dev/zero | tr '\\0' x); echo survived\n"
    context = write_context(tmp_path / "context", dockerfile)
    built = build(agent, context, memory=16 << 20, memory_swap=16 << 20)
    assert built.image is None
    assert "survived" not in built.output


# --- ADD


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server, and its directory."""
    directory = tmp_path / "web"
    directory.mkdir()
    with served_directory(directory) as url:
        yield url, directory


def test_files_are_fetched(agent: AgentUnderTest, tmp_path: Path, web: tuple[str, Path]) -> None:
    address, directory = web
    (directory / "file.txt").write_text("fetched\n")
    os.utime(directory / "file.txt", (1_000_000_000, 1_000_000_000))
    digest = hashlib.sha256(b"fetched\n").hexdigest()
    dockerfile = (
        f"FROM busybox\nADD --checksum=sha256:{digest} {address}/file.txt /into/\n"
        f"ADD --chmod=644 {address}/file.txt /named\n"
    )
    built = build(agent, write_context(tmp_path / "context", dockerfile))
    tree = tree_of(unpack_image(agent, built.id, tmp_path / "tree"), times=True)
    assert tree["into/file.txt"][0] == "0o100600"
    assert tree["into/file.txt"][5] == 1_000_000_000 * 10**9
    assert tree["named"][0] == "0o100644"

    def message(source: str) -> str:
        error = build(agent, write_context(tmp_path / "bad", f"FROM busybox\nADD {source}\n")).error
        assert error is not None
        return str(error["message"])

    assert "was expected" in message(f"--checksum=sha256:{'0' * 64} {address}/file.txt /x")
    assert "404" in message(f"{address}/absent /x")
    assert "cannot be fetched" in message("http://127.0.0.1:9/x /x")


def test_repositories_are_fetched(agent: AgentUnderTest, tmp_path: Path) -> None:
    need_programs("git", "/usr/lib/git-core/git-daemon")
    source = tmp_path / "repositories" / "one"
    source.mkdir(parents=True)

    def git(*words: str) -> None:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        subprocess.run(["git", *identity, *words], cwd=source, check=True, capture_output=True, timeout=20)

    git("init", "--quiet", "--initial-branch", "main")
    (source / "sub").mkdir()
    (source / "sub" / "file").write_text("in git\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    ready, port = tmp_path / "pid", free_port()
    daemon = subprocess.Popen(
        ["/usr/lib/git-core/git-daemon", "--export-all", f"--base-path={source.parent}", "--listen=127.0.0.1",
         f"--port={port}", f"--pid-file={ready}", "--reuseaddr"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually(ready.exists, what="git's daemon")
        url = f"git://127.0.0.1:{port}/one"
        dockerfile = (
            f"FROM busybox\nADD {url}#main /all\nADD {url}#main:sub /sub\nADD --keep-git-dir {url} /kept\n"
        )
        built = build(agent, write_context(tmp_path / "context", dockerfile))
        tree = tree_of(unpack_image(agent, built.id, tmp_path / "tree"))
        assert {"all/sub/file", "sub/file", "kept/.git/HEAD"} <= set(tree)
        assert "all/.git" not in tree
        missing = build(agent, write_context(tmp_path / "bad", f"FROM busybox\nADD {url}#none /x\n"))
        assert missing.error is not None
        assert "cannot be fetched with git" in missing.error["message"]
    finally:
        daemon.terminate()
        daemon.wait(10)


# --- failures


def test_a_failure_names_the_line_and_the_end_of_the_output(agent: AgentUnderTest, tmp_path: Path) -> None:
    dockerfile = "FROM busybox\n\n# comment\nRUN for i in $(seq 30); do echo line $i; done; \\\n    exit 7\n"
    built = build(agent, write_context(tmp_path / "context", dockerfile))
    error = built.error
    assert error is not None
    assert (error["code"], error["exit_code"]) == ("build_failed", 7)
    first, *lines = error["message"].splitlines()
    assert first.startswith("Dockerfile:4: RUN for i in ")
    assert first.endswith("ended with exit code 7; the end of its output:")
    assert lines == [f"line {number}" for number in range(11, 31)]

    def message(dockerfile: str) -> str:
        found = build(agent, write_context(tmp_path / "other", dockerfile)).error
        assert found is not None
        return str(found["message"])

    assert message("FROM busybox\nCOPY absent /\n").startswith(
        "Dockerfile:2: COPY absent /: 'absent' is not in"
    )
    assert message("FROM nothing:1\n").startswith("Dockerfile:1: ")
    assert "exec" in message('FROM busybox\nRUN ["/absent"]\n') or "/absent" in message(
        'FROM busybox\nRUN ["/absent"]\n'
    )
    assert "not supported" in message("FROM busybox\nRUN --mount=type=ssh true\n")
    assert "not supported" in message("FROM busybox\nRUN --security=insecure true\n")
    assert "COPY" in message("FROM busybox\nCOPY Dockerfile Dockerfile /no-slash\n")
    assert groups_and_files(agent) == []


def test_output_in_pieces_is_whole_characters(agent: AgentUnderTest, tmp_path: Path) -> None:
    dockerfile = "FROM busybox\nRUN printf '\\303'; usleep 300000; printf '\\251\\n'\n"
    assert build(agent, write_context(tmp_path / "context", dockerfile)).output == "é\n"


def test_a_build_ends_with_its_client(agent: AgentUnderTest, tmp_path: Path) -> None:
    dockerfile = "FROM busybox\nRUN echo started; sleep 1000\n"
    context = write_context(tmp_path / "context", dockerfile)
    connection = UnixConnection(agent.socket)
    connection.request("POST", "/mooring/v1/builds", b"".join(body(context, {})))
    answer = connection.getresponse()
    while b"started\\n" not in answer.readline():
        pass
    assert len(groups_and_files(agent)) >= 2
    answer.close()
    connection.close()
    eventually(lambda: groups_and_files(agent) == [], what="the end of the container")
    eventually(
        lambda: not os.listdir(agent.config.data_root / "images" / "ingest"), what="the end of the build"
    )


def test_a_build_ends_at_its_time_limit(agent: AgentUnderTest, tmp_path: Path) -> None:
    context = write_context(tmp_path / "context", "FROM busybox\nRUN sleep 1000\n")
    built = build(agent, context, time_limit=1)
    assert built.error is not None
    assert "longer than its limit of 1 s" in built.error["message"]
    assert groups_and_files(agent) == []


def test_the_failure_of_one_stage_ends_the_others(agent: AgentUnderTest, tmp_path: Path) -> None:
    dockerfile = """
FROM busybox AS slow
RUN sleep 1000
FROM busybox AS fast
RUN exit 3
FROM busybox
COPY --from=slow / /
COPY --from=fast / /
"""
    built = build(agent, write_context(tmp_path / "context", dockerfile))
    assert built.error is not None
    assert built.error["exit_code"] == 3


def test_stages_that_do_not_need_each_other_run_at_the_same_time(
    agent: AgentUnderTest, tmp_path: Path
) -> None:
    def stage(own: str, other: str) -> str:
        wait = f"until test -e /c/{other}; do usleep 20000; done"
        return f"FROM busybox AS {own}\nRUN --mount=type=cache,id=meet,target=/c touch /c/{own}; {wait}\n"

    dockerfile = stage("one", "two") + stage("two", "one") + "FROM busybox\n"
    dockerfile += "COPY --from=one /bin/busybox /one\nCOPY --from=two /bin/busybox /two\n"
    context = write_context(tmp_path / "context", dockerfile)
    assert build(agent, context, time_limit=30).error is None
