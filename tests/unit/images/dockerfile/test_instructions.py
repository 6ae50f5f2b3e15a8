# SPDX-License-Identifier: Apache-2.0
"""Typed instructions: what they hold, what is refused, what is expanded."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.images.dockerfile.durations import parse_duration
from mooring_agent.images.dockerfile.errors import DockerfileError, Location
from mooring_agent.images.dockerfile.instructions import (
    Add,
    Arg,
    Argument,
    Cmd,
    CommandLine,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    InlineFile,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Pair,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from mooring_agent.images.dockerfile.mounts import Mount, MountFlag, MountKind, Sharing
from mooring_agent.images.dockerfile.ports import exposed_ports
from mooring_agent.images.dockerfile.stages import parse_dockerfile

HERE = Location("x", 1, 1, "x")
VALUES = {"a": "1", "b": "x y", "none": ""}


def read(text: str) -> Instruction:
    """The instruction, without its place."""
    head = "" if text.startswith("FROM") else "FROM base\n"
    (stage,) = parse_dockerfile((head + text).encode()).stages
    instruction = stage.instructions[0] if stage.instructions else stage.base
    return replace(instruction, location=HERE)


def shell(text: str) -> CommandLine:
    return CommandLine((text,), shell=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM --platform=$P i:1 as Build", From(HERE, "i:1", "$P", "build")),
        ("ARG a b= c='d e'", Arg(HERE, (Argument("a"), Argument("b", ""), Argument("c", "'d e'")))),
        ("ENV a=1 b=$a", Env(HERE, (Pair("a", "1"), Pair("b", "$a")))),
        ("ENV a b c", Env(HERE, (Pair("a", "b c"),))),
        ('LABEL "x y"=z', Label(HERE, (Pair('"x y"', "z"),))),
        ("RUN a | b", Run(HERE, shell("a | b"))),
        ('RUN ["a", "b"]', Run(HERE, CommandLine(("a", "b"), shell=False))),
        (
            "RUN --network=none --security=insecure --mount=target=/x a",
            Run(HERE, shell("a"), (MountFlag("target=/x"),), "none", "insecure"),
        ),
        ("COPY a b c/", Copy(HERE, ("a", "b"), (), "c/")),
        ('COPY ["a b", "c"]', Copy(HERE, ("a b",), (), "c")),
        (
            "COPY --from=s --chown=1:2 --chmod=644 --link --parents=true --exclude=*.o --exclude=t a b",
            Copy(HERE, ("a",), (), "b", "1:2", "644", True, ("*.o", "t"), "s", True),
        ),
        (
            "COPY <<A x <<-'B' d\na$a\nA\n\t$b\nB",
            Copy(HERE, ("x",), (InlineFile("A", "a$a\n", True), InlineFile("B", "$b\n", False)), "d"),
        ),
        ('COPY ["<<A", "b"]', Copy(HERE, ("<<A",), (), "b")),
        (
            "ADD --checksum=sha256:0 --keep-git-dir=false --unpack --link=false u d",
            Add(HERE, ("u",), (), "d", checksum="sha256:0", keep_git_dir=False, unpack=True),
        ),
        ("CMD a b", Cmd(HERE, shell("a b"))),
        ("CMD []", Cmd(HERE, CommandLine((), shell=False))),
        ("ENTRYPOINT", Entrypoint(HERE, CommandLine((), shell=True))),
        ('SHELL ["/bin/bash", "-c"]', Shell(HERE, ("/bin/bash", "-c"))),
        ("USER a:b", User(HERE, "a:b")),
        ("WORKDIR /a b", Workdir(HERE, "/a b")),
        ('VOLUME ["/a b", "/c"]', Volume(HERE, ("/a b", "/c"))),
        ("EXPOSE 80 443/tcp", Expose(HERE, ("80", "443/tcp"))),
        ("STOPSIGNAL SIGINT", StopSignal(HERE, "SIGINT")),
        ("HEALTHCHECK none", Healthcheck(HERE, ("NONE",))),
        (
            "HEALTHCHECK --interval=1m --timeout=1.5s --start-interval=5ms --retries=3 CMD a b",
            Healthcheck(HERE, ("CMD-SHELL", "a b"), 60 * 10**9, 15 * 10**8, 0, 5 * 10**6, 3),
        ),
        ('HEALTHCHECK CMD ["a"]', Healthcheck(HERE, ("CMD", "a"))),
        ("onbuild  RUN x \\\n y", Onbuild(HERE, "RUN x  y")),
        ("ONBUILD COPY <<E /a\nx\nE", Onbuild(HERE, "COPY <<E /a\nx\nE")),
        ("MAINTAINER A B <c>", Maintainer(HERE, "A B <c>")),
    ],
)
def test_an_instruction_is_read(text: str, expected: Instruction) -> None:
    assert read(text) == expected


def test_heredocs_of_run_stay_with_the_command() -> None:
    run = read("RUN <<E bash\n$a\nE")
    assert isinstance(run, Run)
    assert run.command.words == ("<<E bash",)
    assert [(one.name, one.content) for one in run.command.heredocs] == [("E", "$a\n")]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("RUM a", "'RUM' is not known: did you mean RUN?"),
        ("XYZZY", "expected one of ADD, ARG"),
        ("FROM", "FROM has 0 arguments"),
        ("FROM a b", "FROM has 2 arguments"),
        ("FROM a at b", "FROM has 3 arguments"),
        ("FROM a AS 1b", "stage name '1b' is not valid"),
        ("ARG =x", "has no name"),
        ("ARG", "ARG has no argument"),
        ("ENV =x", "ENV has a value without a name"),
        ("RUN", "RUN has no command"),
        ("RUN []", "RUN has no command"),
        ("RUN --netwrok=none a", "--netwrok is not known: did you mean --network?"),
        ("RUN --network=bridge a", "--network=bridge is not known"),
        ("RUN --network= a", "--network= is not known"),
        ("RUN --network a", "--network has no value"),
        ("RUN --security=x a", "--security=x is not known"),
        ("RUN --device=x a", "--device is not supported"),
        ("RUN --mount=type=chache,target=/a x", "'chache' is not known: did you mean cache?"),
        ("RUN --mount=from=$a,target=/a x", "from=$a has a variable"),
        ("COPY a", "COPY has no destination"),
        ("COPY", "COPY has no source"),
        ("COPY --link --link a b", "--link is there twice"),
        ("COPY --link=maybe a b", "--link is 'maybe'"),
        ("COPY --link= a b", "--link has no value"),
        ("COPY --exclude=[ a b", "the pattern '[' is not valid"),
        ("ADD --exclude=! a b", "the pattern ! takes nothing back in"),
        ("COPY --from=$a x y", "--from=$a has a variable"),
        ("COPY a <<E\nE", "a heredoc as its destination"),
        ("COPY << E a\nE", "the heredoc E is no source"),
        ("COPY <<'A B' a\nA B", "the heredoc A B is no source"),
        ("ADD --parents a b", "--parents is not known"),
        ("CMD --x a", "--x is not known: this instruction has none"),
        ("ARG --x a", "--x is not known"),
        ("SHELL /bin/sh -c", "not in JSON form"),
        ("SHELL []", "SHELL has no argument"),
        ("USER", "USER has no argument"),
        ('VOLUME [" "]', "empty path"),
        ("EXPOSE", "EXPOSE has no argument"),
        ("HEALTHCHECK", "HEALTHCHECK has no argument"),
        ("HEALTHCHECK NONE x", "NONE has flags or arguments"),
        ("HEALTHCHECK CMD", "CMD has no command"),
        ("HEALTHCHECK RUN x", "HEALTHCHECK RUN is not known"),
        ("HEALTHCHECK --interval=5 CMD x", "no duration"),
        ("HEALTHCHECK --interval=5us CMD x", "too short"),
        ("HEALTHCHECK --retries=-1 CMD x", "--retries=-1"),
        ("ONBUILD", "ONBUILD has no instruction"),
        ("ONBUILD FROM a", "ONBUILD FROM is not allowed"),
        ("ONBUILD COPY a", "COPY has no destination"),
        ("ONBUILD BUILD a", "'BUILD' is not known"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, part: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_dockerfile(f"FROM base\n\n{text}\n".encode(), "sub/Dockerfile.x")
    error = caught.value
    assert error.message.startswith("sub/Dockerfile.x:3: ")
    assert part in error.message
    assert error.message.endswith(f"(in: {text.partition(chr(10))[0].strip()})")
    assert error.location is not None
    assert error.location.instruction == text.split()[0].upper()
    assert (error.code, error.status) == ("invalid", 400)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("FROM --platform=linux/$a i:${a}", {"platform": "linux/1", "image": "i:1"}),
        ("ENV $a='$a' c=\"$b\"", {"pairs": (Pair("1", "$a"), Pair("c", "x y"))}),
        ("LABEL a=$b", {"pairs": (Pair("a", "x y"),)}),
        (
            "COPY --chown=$a --chmod=$a --exclude=$a s$a d$a",
            {"sources": ("s1",), "destination": "d1", "chown": "1", "chmod": "1", "excludes": ("$a",)},
        ),
        ("COPY <<E d\n'$a' \\$a\nE", {"files": (InlineFile("E", "'1' $a\n", True),)}),
        ("COPY <<'E' d\n$a\nE", {"files": (InlineFile("E", "$a\n", False),)}),
        ("ADD --checksum=$a s d", {"checksum": "1"}),
        ("USER $a", {"user": "1"}),
        ("WORKDIR /$a", {"path": "/1"}),
        ("VOLUME /$a /b", {"volumes": None, "paths": ("/1", "/b")}),
        ("STOPSIGNAL $a", {"signal": "1"}),
        ("EXPOSE $a 5-6/UDP", {"ports": ("1/tcp", "5/udp", "6/udp")}),
        ("ARG c=$a d", {"arguments": (Argument("c", "1"), Argument("d"))}),
        ("RUN $a", {}),
        ("CMD $a", {}),
        ("ENTRYPOINT $a", {}),
        ('SHELL ["$a"]', {}),
        ("HEALTHCHECK CMD $a", {}),
        ("ONBUILD RUN $a", {}),
        ("MAINTAINER $a", {}),
    ],
)
def test_what_is_expanded(text: str, changes: dict[str, Any]) -> None:
    changes.pop("volumes", None)
    instruction = read(text)
    assert instruction.expand(VALUES.get) == replace(instruction, **changes)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("FROM $none", "the image $none is empty"),
        ("FROM --platform=$none x", "the platform $none is empty"),
        ("USER ${none:?who}", "none: who"),
        ("EXPOSE a$a", "'a1' is no port"),
        ("EXPOSE 9-8", "ends before it begins"),
        ("EXPOSE 1/icmp", "'icmp' is not known"),
    ],
)
def test_an_expansion_that_fails_tells_the_place(text: str, part: str) -> None:
    with pytest.raises(DockerfileError, match=re.escape(part)) as caught:
        read(text).expand(VALUES.get)
    assert caught.value.message.startswith("x:1: ")


def test_another_escape_is_used_for_expansion() -> None:
    assert read("WORKDIR `$a\\$a").expand(VALUES.get, "`") == Workdir(HERE, "$a\\1")


def test_arguments_get_what_is_given_or_their_default_or_what_is_global() -> None:
    arg = read("ARG given=x default=$a next=$default outer unset none=")
    assert isinstance(arg, Arg)
    found = arg.assign({"given": "g"}, {"outer": "o", "default": "-"}.get, VALUES.get)
    assert [(one.name, one.value) for one in found] == [
        ("given", "g"),
        ("default", "1"),
        ("next", "1"),
        ("outer", "o"),
        ("unset", None),
        ("none", ""),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("target=/x", Mount(target="/x")),
        ("type=bind,from=s,source=$a,dst=/x,rw", Mount(origin="s", source="1", target="/x", read_only=False)),
        ("type=bind,dst=/x,readwrite=false,ro=0", Mount(target="/x", read_only=False)),
        (
            "type=cache,id=c,destination=/x,sharing=Locked,mode=0755,uid=1,gid=2",
            Mount(
                MountKind.CACHE,
                target="/x",
                read_only=False,
                id="c",
                sharing=Sharing.LOCKED,
                mode=0o755,
                uid=1,
                gid=2,
            ),
        ),
        ("type=tmpfs,target=/x,size=1.5k", Mount(MountKind.TMPFS, target="/x", read_only=False, size=1536)),
        (
            "type=tmpfs,target=/x,size=64MiB",
            Mount(MountKind.TMPFS, target="/x", read_only=False, size=64 << 20),
        ),
        ("type=secret,id=s,required,env=S", Mount(MountKind.SECRET, id="s", required=True, env="S")),
        ("type=ssh,required=false", Mount(MountKind.SSH)),
        ('"target=/a,b",ro', Mount(target="/a,b")),
        ("type=$kind,target=/x", Mount(MountKind.CACHE, target="/x", read_only=False)),
    ],
)
def test_a_mount_is_read(text: str, expected: Mount) -> None:
    run = read(f"RUN --mount='{text}' x")
    assert isinstance(run, Run)
    assert run.expand_mounts((VALUES | {"kind": "cache"}).get) == (expected,)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is empty"),
        ("target", "'target' has no value"),
        ("tagret=/x", "did you mean target?"),
        ("type=cache,sharing=x", "sharing=x is not known"),
        ("type=bind,sharing=locked", "does not go with type=bind"),
        ("type=bind,mode=0755", "mode= does not go with type=bind"),
        ("type=cache,mode=9", "expected an octal number"),
        ("type=cache,uid=4294967296", "below 2^32"),
        ("type=cache,size=1", "size= does not go with type=cache"),
        ("type=tmpfs,size=x", "size=x is not valid"),
        ("type=bind,required", "required= does not go with type=bind"),
        ("type=bind,ro=perhaps", "ro=perhaps is not valid"),
        ("type=secret", "a secret has no name"),
        ("type=secret,id=a,source=b", "both id= and source="),
        ("type=secret,id=a,from=b", "cannot have from="),
        ('"a', "not well formed"),
    ],
)
def test_a_mount_that_is_wrong_is_refused_when_read(text: str, part: str) -> None:
    with pytest.raises(DockerfileError, match=re.escape(part)):
        read(f"RUN --mount='{text}' x")


def test_a_mount_with_variables_is_checked_when_it_is_expanded() -> None:
    run = read("RUN --mount=type=$a,target=/x x")
    assert isinstance(run, Run)
    with pytest.raises(DockerfileError, match="the type '1' is not known"):
        run.expand_mounts(VALUES.get)


@pytest.mark.parametrize(
    ("mount", "name"),
    [
        (Mount(id="a"), "a"),
        (Mount(source="b"), "b"),
        (Mount(target="/c/d"), "d"),
        (Mount(target="/c/d/"), "d"),
    ],
)
def test_a_secret_is_named_by_what_is_there(mount: Mount, name: str) -> None:
    assert mount.secret_id == name


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("1h2m3.5s", 3723 * 10**9 + 5 * 10**8),
        (".5s", 5 * 10**8),
        ("1.s", 10**9),
        ("2000µs", 2 * 10**6),
    ],
)
def test_durations(text: str, nanoseconds: int) -> None:
    assert parse_duration("--interval", text) == nanoseconds


@given(st.integers(0, 65535), st.integers(0, 20), st.sampled_from(["", "/tcp", "/udp", "/SCTP"]))
def test_ports_of_a_range(start: int, more: int, protocol: str) -> None:
    end = min(start + more, 65535)
    found = exposed_ports(f"{start}-{end}{protocol}")
    assert found == [f"{port}/{(protocol[1:] or 'tcp').lower()}" for port in range(start, end + 1)]
    assert found[:1] == exposed_ports(f"8:{start}{protocol}")
