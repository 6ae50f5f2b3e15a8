# SPDX-License-Identifier: Apache-2.0
"""Everything that reads bytes from outside and touches nothing: one function a decoder.

A target takes any bytes and returns, or raises an assertion: what a decoder says by its own errors (a
MooringError, a BadMessage, …) is right, any other exception is a find. `tests/fuzz/test_decoders.py` runs
them with hypothesis, `script/fuzz` with a coverage-guided fuzzer.
"""

from __future__ import annotations

import bz2
import gzip
import ipaddress
import json
import lzma
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from mooring_agent.api.docker import convert
from mooring_agent.api.jsontext import parsed
from mooring_agent.api.messages import decoded
from mooring_agent.api.query import Query
from mooring_agent.api.websocket.frames import Data, Decoder, Ping, ProtocolError
from mooring_agent.cgroups import cpulist, devices, interface, mountinfo
from mooring_agent.cgroups.v1 import cpu as cpu_v1
from mooring_agent.cgroups.v1 import memory as memory_v1
from mooring_agent.cgroups.v2 import cpu as cpu_v2
from mooring_agent.cgroups.v2 import memory as memory_v2
from mooring_agent.engine.logs import LineAssembler, LogReader
from mooring_agent.engine.resources import CgroupSpec, ContainerSpec
from mooring_agent.errors import MooringError
from mooring_agent.images import changes, tar_reader
from mooring_agent.images.content import MEDIA_MANIFEST
from mooring_agent.images.dockerfile.ignore import Ignore
from mooring_agent.images.dockerfile.plan import plan_stages
from mooring_agent.images.dockerfile.stages import parse_dockerfile
from mooring_agent.images.reference import Reference
from mooring_agent.images.registry.auth import parse_challenges
from mooring_agent.images.registry.client import next_page
from mooring_agent.images.registry.documents import check_manifest
from mooring_agent.images.registry.refusals import parse_refusal, parse_retry_after
from mooring_agent.images.specs import normalise_image_spec
from mooring_agent.images.stream import HashingReader, decompress, detect
from mooring_agent.keeper import messages
from mooring_agent.keeper.logs import Log, OpenFiles
from mooring_agent.keeper.records import Journal, Record
from mooring_agent.linux import netlink, rtnetlink
from mooring_agent.network.naming import transfer
from mooring_agent.network.naming.transfer import Heard
from mooring_agent.network.specs import normalise_spec
from mooring_agent.oci import bundles, config_types
from mooring_agent.runtime import users
from mooring_agent.runtime.compile import (
    compile_launch,
    compile_process,
    id_maps,
    is_standard,
    joined_namespaces,
    new_namespaces,
    time_offsets,
)
from mooring_agent.runtime.mounts import Overlay
from mooring_agent.runtime.plan import JoinPlan, LaunchPlan
from mooring_agent.runtime.seccomp_profile import compile_profile

from . import documents
from .mutation import as_bytes, mutated

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
# Inputs from which a coverage-guided fuzzer begins, by target.
SEEDS: dict[str, tuple[bytes, ...]] = {}

_MAX_BYTES = 1 << 24


def target(*seeds: bytes) -> Callable[[Target], Target]:
    """Enter a function into the table under its own name."""

    def enter(function: Target) -> Target:
        TARGETS[function.__name__] = function
        SEEDS[function.__name__] = seeds
        return function

    return enter


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _json(data: bytes, valid: Any) -> Any:
    """JSON as it is if the bytes are some, else the valid document changed as the bytes say."""
    if data[:1] in (b"{", b"["):
        with suppress(ValueError, RecursionError):
            return json.loads(data)
    # Through its text and back, as it would come from outside.
    return json.loads(as_bytes(mutated(valid, data)))


@target(
    b'Basic realm="x", Bearer realm="https://a/token",service="b",scope="repository:c:pull"',
    b'</v2/x/tags/list?last=b&n=2>; rel="next"',
    b'{"errors":[{"code":"DENIED","message":"no"}]}',
    b'{"schemaVersion":2,"config":{},"layers":[]}',
    b"Wed, 25 Nov 2026 21:03:51 GMT",
)
def registry(data: bytes) -> None:
    """Headers and documents of a registry's answers."""
    text = data.decode("latin-1")
    parse_challenges([text])
    following = next_page(text, "https://a.example/v2/x/tags/list")
    assert following is None or following.startswith("https://a.example")
    seconds = parse_retry_after(text, 0.0)
    assert seconds is None or seconds >= 0
    assert str(parse_refusal(data)).isprintable()
    for media_type in (None, MEDIA_MANIFEST, text):
        with suppress(MooringError):
            check_manifest(data, media_type, "it")


@target(b"busybox", b"a.example:5000/x/y:tag@sha256:" + b"0" * 64)
def reference(data: bytes) -> None:
    """The name of an image; its spellings parse to itself."""
    with suppress(MooringError):
        found = Reference.parse(_text(data))
        assert Reference.parse(str(found)) == found
        assert Reference.parse(found.familiar) == found


@target(
    b"# escape=`\nARG V=1\nFROM a:$V AS b\nENV a=${b:-'c'} d=${e#f*}\n",
    b"FROM a\nRUN --mount=type=cache,target=/x <<E cat \\\n y\nz\nE\nONBUILD EXPOSE 80-90\n",
    b'FROM a\nCOPY --from=0 --link <<-"E" a b\n\tc\nE\nHEALTHCHECK --interval=1m CMD ["x"]\n',
)
def dockerfile(data: bytes) -> None:
    """A Dockerfile to its stages, planned, with all that is expanded; an error has its place."""
    found, refused = None, "Dockerfile:"
    try:
        found = parse_dockerfile(data)
    except MooringError as error:
        refused = error.message
    assert refused.startswith("Dockerfile:"), refused
    if found is None:
        return
    values = {"a": "x y", "V": "1", "b": ""}
    with suppress(MooringError):
        for stage in plan_stages(found, values.get).stages:
            for instruction in stage.instructions:
                with suppress(MooringError):
                    assert instruction.expand(values.get, found.escape).location == instruction.location


@target(b"# x\n*.o\n!a/**/b\n[a-c]?\\*/\n", b"**/a*\n!/a\n")
def dockerignore(data: bytes) -> None:
    """An ignore file; a directory that is skipped is left out itself."""
    with suppress(MooringError):
        ignore = Ignore.parse(data)
        for path in ("a", "a/b", "a/b/c.o", "x y"):
            assert ignore.excludes(path) or not ignore.skips_directory(path)


@target(b"root:x:0:0::/:/bin/sh\nwww:x:1000:1000::/:/bin/sh\0audio:x:29:www\0www:audio")
def passwd(data: bytes) -> None:
    """passwd(5), group(5) and who is asked for, NULs between: no number that setresuid(2) reads as -1."""
    parts = [part.decode("utf-8", "replace") for part in data.split(b"\0")]
    texts = [*parts, "", "", ""][:3]
    with suppress(users.UnknownUser):
        found = users.resolve(texts[2], texts[0], texts[1])
        for number in (found.uid, found.gid, *found.groups):
            assert 0 <= number < 1 << 31, number


@target(messages.encode(messages.Signal("x", 9), 1), messages.encode(messages.Hello(), 0))
def message(data: bytes) -> None:
    """A packet of the keeper's protocol: each field has the type that it should have."""
    with suppress(messages.BadMessage):
        number, found = messages.decode(data)
        assert messages.decode(messages.encode(found, number)) == (number, found)


_PLAN = LaunchPlan(
    id="x", group="x", root=Overlay(("/a",)), process=JoinPlan.decode(b'{"pid":1,"start_time":1,"groups":[],'
    b'"process":{"args":["x"],"env":[],"capabilities":{}}}').process
)  # fmt: skip


@target(_PLAN.encode(), b'{"pid":1,"start_time":1,"groups":[],"process":{"args":["x"],"env":[]}}')
def plan(data: bytes) -> None:
    """What the agent sends to a launcher. It may fail in any way; what is read is written as it was."""
    for kind in (LaunchPlan, JoinPlan):
        with suppress(Exception):
            found = kind.decode(data)
            assert kind.decode(found.encode()) == found


@target(b"\1\2\3", b"\x10\x20\x30\x40\x50\x60")
def config(data: bytes) -> None:
    """A runtime-spec config to a plan, which is the same after its way over the wire."""
    document = _json(data, documents.CONFIG)
    with suppress(MooringError):
        bundles.check(document)
        is_standard(document)
        for kind in documents.CONFIG["hooks"]:
            bundles.hooks_of(document, kind)
        for ask in (new_namespaces, joined_namespaces, id_maps, time_offsets):
            ask(document)
        found = compile_launch(document, id="x", group="x", root=Overlay(("/a",), "/b", "/c"))
        assert LaunchPlan.decode(found.encode()) == found


@target(b"\1\2\3")
def process(data: bytes) -> None:
    """The process of an exec, from a file."""
    document = _json(data, documents.CONFIG["process"])
    if isinstance(document, dict):
        with suppress(MooringError):
            config_types.check_process(document)
            bundles.check_process(document)
            compile_process(document, {}, None)


@target(json.dumps(documents.SECCOMP).encode(), b"\1\2\3")
def seccomp(data: bytes) -> None:
    """A seccomp profile to a BPF program, in the forms of the runtime-spec and of docker."""
    for valid in (documents.SECCOMP, documents.DOCKER_SECCOMP):
        document = _json(data, valid)
        if isinstance(document, dict):
            with suppress(MooringError):
                assert len(compile_profile(document, ("CAP_KILL",))) % 8 == 0


@target(json.dumps(documents.CONTAINER).encode(), b"\1\2\3")
def container(data: bytes) -> None:
    """A container as it is declared; its normal form parses to itself."""
    with suppress(MooringError):
        found = ContainerSpec.parse(_json(data, documents.CONTAINER), name="x")
        assert ContainerSpec.parse(found.to_dict(), name="x").to_dict() == found.to_dict()
        assert ContainerSpec.parse(json.loads(json.dumps(found.given))).hash == found.hash


@target(b"\1\2\3")
def resources(data: bytes) -> None:
    """The other things that are declared: groups, networks, images."""
    for valid, parse in (
        ({"memory": "1g", "cpus": 1, "pids_limit": 5}, lambda document: CgroupSpec.parse(document)),
        (documents.NETWORK, normalise_spec),
        (documents.IMAGE, normalise_image_spec),
    ):
        document = _json(data, valid)
        if isinstance(document, dict):
            with suppress(MooringError):
                parse(document)


@target(
    b'{"set":{"c1":{"addresses":["10.220.7.5","fd00:7::5"],"names":["web","db.example.com"]}},"gone":["c2"]}\n'
    b'{"complete":true}\n{}\n{"gone":["c1"]}\n',
    b'{"complete":true}\n{"set":{"c1":{"addresses":["10.220.7.5\\t"],"names":["web\\n10.0.0.1 bank"]}}}\n',
)
def hearsay(data: bytes) -> None:
    """What another host tells of names: only addresses of its slice are known, and only by names."""
    told = Heard([ipaddress.ip_network("10.220.7.0/24"), ipaddress.ip_network("fd00:7::/64")])
    told.take(transfer.greeting())
    with suppress(MooringError):
        for line in data.splitlines():
            told.take(line)
    for bucket in range(transfer.BUCKETS):
        for line in told.text(bucket).splitlines():
            address, _, names = line.partition("\t")
            assert address.startswith(("10.220.7.", "fd00:7:"))
            assert all(re.fullmatch("[a-z0-9_.-]+", name) for name in names.split(" "))


@target(b"\1\2\3", json.dumps(documents.DOCKER_CREATE).encode())
def docker(data: bytes) -> None:
    """Bodies of the Docker API."""
    document = _json(data, documents.DOCKER_CREATE)
    if isinstance(document, dict):
        with suppress(MooringError):
            ContainerSpec.parse(convert.convert(document).spec, name="x")


@target(b'{"a":[1,null,"\\ud83d\\ude00"]}', b"[1e400]", b'"\\ud800"')
def client_json(data: bytes) -> None:
    """JSON of clients; what passes can be written again."""
    with suppress(ValueError):
        json.dumps(parsed(data), ensure_ascii=False).encode("utf-8", "surrogateescape")


@target(b"\x82\x85\1\2\3\4heard", b"\x89\x80\0\0\0\0\x88\x82\0\0\0\0\x03\xe8", b"\x01\xfe\0\x80\0\0\0\0")
def websocket(data: bytes) -> None:
    """Frames of a websocket; a Close ends them, and no more is said than was heard."""
    decoder, said = Decoder(), 0
    with suppress(ProtocolError):
        for place in range(0, len(data), 7):
            for event in decoder.feed(data[place : place + 7]):
                said += len(event.data) if isinstance(event, Data | Ping) else 0
    assert said <= len(data)


@target(b"a=1&b=%20&filters=%7B%22x%22%3A%5B%22y%22%5D%7D", b"n=1&n=2")
def query(data: bytes) -> None:
    """A query string, and what calls ask of it."""
    text = data.decode("ascii", "ignore")
    with suppress(MooringError):
        decoded(text)
    with suppress(MooringError):
        found = Query(text)
        for name in found.to_dict():
            for ask in (
                lambda name: found.flag(name),
                lambda name: found.integer(name, minimum=0),
                lambda name: found.number(name),
                lambda name: found.many(name),
                lambda name: found.filters(("x", name)),
            ):
                with suppress(MooringError):
                    ask(name)


class _Skipped(Exception):
    """Not an archive that is worth the time."""


def _members(data: bytes) -> Iterator[tar_reader.TarEntry]:
    yield from tar_reader.read_entries(HashingReader([data], _MAX_BYTES))


def _archives() -> tuple[bytes, ...]:
    import io
    import tarfile

    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for kind, name in (
                (b"0", "file"),
                (b"5", "d"),
                (b"2", "l"),
                (b"1", "h"),
                (b"3", "c"),
                (b"6", "p" * 90),
            ):
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.mtime = kind, "file", 1.5 if form == tarfile.PAX_FORMAT else 1
                archive.addfile(info)
        found.append(buffer.getvalue())
    return tuple(found)


def with_checksum(data: bytes) -> bytes:
    """Give each block that could be a header the checksum that it should have: else nothing gets further."""
    blocks = bytearray(data)
    for start in range(0, len(blocks) - 511, 512):
        if blocks[start + 257 : start + 262] == b"ustar":
            blocks[start + 148 : start + 156] = b" " * 8
            blocks[start + 148 : start + 156] = b"%06o\0 " % sum(blocks[start : start + 512])
    return bytes(blocks)


@target(*_archives())
def tar(data: bytes) -> None:
    """The headers of an archive: members within bounds, or InvalidSpec."""
    for given in (data, with_checksum(data)):
        with suppress(MooringError):
            for number, entry in enumerate(_members(given)):
                assert 0 <= entry.stored <= entry.size or entry.parts is not None
                assert entry.mode <= 0o7777
                if number > 1000:
                    break


@target(gzip.compress(b"x" * 600), bz2.compress(b"x"), lzma.compress(b"x"), b"\x28\xb5\x2f\xfd\x00")
def stream(data: bytes) -> None:
    """Packed streams."""
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return  # that is another program's, or another library's, work
    unpacked = decompress(iter([data[:7], data[7:]]), detect(data))
    size = 0
    with suppress(MooringError):
        for piece in unpacked:
            size += len(piece)
            if size > _MAX_BYTES:
                break
    unpacked.close()


@target(b'ENV A=b C=${A:-x}\nCMD ["sh"]\nEXPOSE 80/tcp 90-95\nLABEL a=b', b"ENTRYPOINT sh -c 'a b'\nUSER $X")
def instructions(data: bytes) -> None:
    """Lines of Dockerfile language."""
    with suppress(MooringError):
        changes.apply_changes({}, [_text(data)])


@target(rtnetlink.bridge_add("br0", "02:00:00:00:00:01"), rtnetlink.address_add(1, "10.0.0.1", 24))
def route(data: bytes) -> None:
    """Messages of the kernel about links, addresses and routes."""
    with suppress(netlink.NetlinkError):
        for _, _, _, payload in netlink.split(data):
            _payload(payload)
    _payload(data)


_UNOPENED = object.__new__(netlink.NetlinkSocket)


def _payload(payload: bytes) -> None:
    for parse in (rtnetlink.parse_link, rtnetlink.parse_address, rtnetlink.parse_route):
        with suppress(netlink.NetlinkError):
            parse(payload)
    with suppress(netlink.NetlinkError):
        _UNOPENED._failure(bytes(16), 0x200, payload)


@target(
    b"0-3,8",
    b"c 1:3 rwm",
    b"cache 1\nrss 2\n",
    b"30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n4:memory:/x\n",
)
def cgroup(data: bytes) -> None:
    """Files of control groups, and what users write of the same form."""
    text = _text(data)
    with suppress(MooringError):
        assert cpulist.parse_cpulist(cpulist.format_cpulist(cpulist.parse_cpulist(text))) is not None
    with suppress(MooringError):
        devices.parse_rule(text)
    # What the kernel would never write may be refused, in words.
    for parse in (interface.flat_keyed, mountinfo.parse_mountinfo, mountinfo.parse_membership):
        with suppress(MooringError, ValueError, IndexError):
            parse(text)
    for module in (memory_v1, memory_v2, cpu_v1, cpu_v2):
        with suppress(MooringError, ValueError, IndexError, KeyError):
            module.parse(
                dict.fromkeys(("memory.max", "memory.limit_in_bytes", "cpu.max", "cpu.weight"), text)
            )


@target(bytes(16), b"\1\0\0\0\0\0\0\0\4\0\0\0\1\0\0\0" * 3, b"\1" * 40)
def log(data: bytes) -> None:
    """A log after a power cut: index and data are whatever the disk has kept. It is read, and written on."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        for suffix, content in (("idx", data), ("out", data[:100]), ("err", b"")):
            with open(f"{directory}/0.{suffix}", "wb") as file:
                file.write(content)
        for skip in (lambda reader: None, lambda reader: reader.skip_to_end(), _tail):
            reader, lines = LogReader(directory), LineAssembler()
            skip(reader)
            for chunk in reader.read():
                assert chunk.stream in (1, 2)
                for _ in lines.feed(chunk):
                    pass
            reader.close()
        files = OpenFiles()
        written = Log(directory, 0, 3, files)
        written.mend()
        written.append(b"after\n", 1)
        written.close()
        reader = LogReader(directory)
        assert b"".join(chunk.data for chunk in reader.read() if chunk.stream == 1).endswith(b"after\n")
        reader.close()


def _tail(reader: LogReader) -> None:
    reader.skip_to_tail(2, (1, 2))


_RECORD = Record(id="x", container="x", pid=1, start_time=1, terminal=False)


@target(json.dumps(vars(_RECORD)).encode(), b"\1\2\3", b"", b"{}")
def record(data: bytes) -> None:
    """A record of the keeper's journal, damaged: it is passed over, or has the types that it should have."""
    document = data if data[:1] in (b"{", b"") else as_bytes(mutated(vars(_RECORD), data))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        journal = Journal(f"{directory}/records")
        with open(f"{directory}/records/x.json", "wb") as file:
            file.write(document)
        for found in journal.read_all():
            for name, value in vars(found).items():
                known = getattr(_RECORD, name)
                if known is not None:
                    assert type(value) is type(known), name
