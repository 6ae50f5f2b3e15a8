# SPDX-License-Identifier: Apache-2.0
"""Registries that stall, break off, lie, redirect or never end: a success or a clear error, in some time."""

from __future__ import annotations

import email.utils
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import hostile_registry as faults
from harness.claims import free_port
from harness.hostile_registry import HostileRegistry
from harness.images import describe, make_image, opener
from harness.waiting import PATIENCE
from integration.registry.conftest import DATA, MANIFEST, Connect, named
from mooring_agent.errors import InvalidSpec, MooringError, NotFound, NotSupported, Unavailable
from mooring_agent.images.content import MEDIA_INDEX, MEDIA_MANIFEST
from mooring_agent.images.manifests import DOCKER_MANIFEST
from mooring_agent.images.reference import Reference
from mooring_agent.images.registry.client import Repository
from mooring_agent.images.registry.connections import Limits
from mooring_agent.images.registry.retrying import RetryPolicy
from mooring_agent.images.registry.settings import Credentials

BLOB = describe(DATA)
GET_BLOB = "GET /v2/app/blobs/"


@pytest.mark.parametrize(
    "fault",
    [
        faults.break_off(0),
        faults.break_off(1 << 20),
        faults.stall(),
        faults.stall(1 << 20),
        faults.hang_up,
        faults.status(503),
        faults.status(500),
        faults.drip,
        faults.answer_with(206, b"", Content_Range="bytes 5-6/7"),
    ],
    ids=[
        "cut",
        "cut in the middle",
        "stall",
        "stall in the middle",
        "hang up",
        "503",
        "500",
        "drip",
        "range",
    ],
)
def test_a_download_survives_two_faults(
    repository: Repository, hostile: HostileRegistry, fault: faults.Action
) -> None:
    if fault is not faults.drip and "answer_with" not in repr(fault):
        hostile.fault(GET_BLOB, fault, times=2)
    else:
        hostile.fault(GET_BLOB, faults.break_off(1 << 20))
        hostile.fault(GET_BLOB, fault)
    assert b"".join(repository.blob(BLOB)) == DATA
    assert hostile.count(GET_BLOB) == 3


def test_it_is_taken_up_where_it_broke_off(repository: Repository, hostile: HostileRegistry) -> None:
    hostile.fault(GET_BLOB, faults.break_off(1 << 20), times=2)
    assert b"".join(repository.blob(BLOB)) == DATA
    ranges = [asked.headers.get("Range") for asked in hostile.asked]
    assert ranges == [None, f"bytes={1 << 20}-", f"bytes={2 << 20}-"]
    assert b"".join(repository.blob(BLOB, offset=1000)) == DATA[1000:]


def test_a_registry_that_knows_no_ranges_sends_all_again(
    repository: Repository, hostile: HostileRegistry
) -> None:
    hostile.fault(GET_BLOB, faults.break_off(1 << 20))
    hostile.fault(GET_BLOB, faults.ignore_range)
    assert b"".join(repository.blob(BLOB)) == DATA


def test_attempts_without_progress_come_to_an_end(repository: Repository, hostile: HostileRegistry) -> None:
    hostile.fault(GET_BLOB, faults.break_off(10), times=1000)
    began = time.monotonic()
    with pytest.raises(Unavailable, match=rf"at byte 30 of {len(DATA)}.* 3 times in a row: .* too early"):
        list(repository.blob(BLOB))
    assert time.monotonic() - began < 5 * PATIENCE
    assert hostile.count(GET_BLOB) == 3


@pytest.mark.parametrize("length", [len(DATA) - 1, len(DATA) + 1])
def test_a_blob_of_another_size_is_refused_before_it_is_read(
    repository: Repository, hostile: HostileRegistry, length: int
) -> None:
    hostile.blobs[BLOB.digest] = bytes(length)
    with pytest.raises(InvalidSpec, match=f"has {length} bytes of it, expected {len(DATA)}"):
        list(repository.blob(BLOB))
    assert hostile.count(GET_BLOB) == 1


@pytest.mark.parametrize("chunked", [True, False])
def test_endless_answers_are_cut(repository: Repository, hostile: HostileRegistry, chunked: bool) -> None:
    hostile.fault("GET", faults.endless(chunked), times=2)
    with pytest.raises(InvalidSpec, match=f"has more than {len(DATA)} bytes of it"):
        list(repository.blob(BLOB))
    with pytest.raises(InvalidSpec, match="sends more than 4194304 bytes"):
        repository.manifest("1")


def test_a_manifest_with_a_wrong_digest_is_refused(repository: Repository, hostile: HostileRegistry) -> None:
    digest = hostile.add_manifest("1", MEDIA_MANIFEST, MANIFEST)
    other = hostile.add_manifest("2", MEDIA_MANIFEST, {**MANIFEST, "annotations": {"a": "b"}})
    hostile.manifests[digest] = hostile.manifests[other]
    with pytest.raises(InvalidSpec, match=f"with digest {other}, expected {digest}"):
        repository.manifest(digest)
    with pytest.raises(InvalidSpec, match=f"has {other} in its place"):
        repository.resolve(digest)


def test_a_manifest_that_is_two_things_at_once_is_refused(
    repository: Repository, hostile: HostileRegistry
) -> None:
    """CVE-2021-41190."""
    hostile.add_manifest("both", MEDIA_INDEX, {**MANIFEST, "mediaType": MEDIA_INDEX, "manifests": []})
    hostile.add_manifest("other", DOCKER_MANIFEST, MANIFEST)
    with pytest.raises(InvalidSpec, match="it has layers, config; it is not used"):
        repository.manifest("both")
    with pytest.raises(InvalidSpec, match="contradicts itself"):
        repository.manifest("other")


def test_a_look_up_falls_back_to_the_manifest_itself(
    repository: Repository, hostile: HostileRegistry
) -> None:
    hostile.fault("HEAD", faults.status(405))
    hostile.fault("HEAD", faults.answer_with(200, b""))
    expected = faults.digest_of(hostile.manifests["1"][1])
    assert repository.resolve("1").digest == expected
    assert repository.resolve("1").digest == expected
    assert hostile.count("GET") == 2


def test_a_cut_manifest_is_fetched_again(repository: Repository, hostile: HostileRegistry) -> None:
    body = hostile.manifests["1"][1]
    hostile.fault("GET", faults.answer_with(200, body[:-5], Content_Length=str(len(body))))
    hostile.fault("GET", faults.hang_up)
    assert repository.manifest("1")[1] == body


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_heeded(repository: Repository, hostile: HostileRegistry, form: str) -> None:
    wait = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
    hostile.fault("HEAD", faults.status(429, Retry_After=wait))
    began = time.monotonic()
    repository.resolve("1")
    assert time.monotonic() - began > 0.9
    assert hostile.count("HEAD") == 2


def test_a_wait_that_is_too_long_is_told_instead(repository: Repository, hostile: HostileRegistry) -> None:
    hostile.fault("HEAD", faults.status(429, Retry_After="3600"))
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"takes no more requests .* try again in 3600 s") as refused:
        repository.resolve("1")
    assert refused.value.code == "rate_limited"
    assert time.monotonic() - began < 10


def test_503_for_ever_is_an_error(repository: Repository, hostile: HostileRegistry) -> None:
    hostile.fault("GET", faults.status(503, Retry_After="0"), times=99)
    with pytest.raises(Unavailable, match=r"answers with status 503 \(TESTED: tested\)"):
        repository.manifest("1")
    assert hostile.count("GET") == 3


def test_a_redirect_to_another_host_is_followed_without_authorization(
    hostile: HostileRegistry, connect: Connect
) -> None:
    hostile.basic = ("sailor", "secret")
    hostile.add_blob(DATA)
    settings = {hostile.host: {"tls": "off", "username": "sailor", "password": "secret"}}
    repository = connect(settings).repository(named(hostile))
    with HostileRegistry() as storage:
        storage.add_blob(DATA)
        hostile.fault(GET_BLOB, faults.status(401, WWW_Authenticate="Basic"))
        hostile.fault(GET_BLOB, faults.redirect(storage.url + "{path}?signature=s3cret"))
        storage.fault(GET_BLOB, faults.break_off(1 << 20))
        hostile.fault(GET_BLOB, faults.redirect(storage.url + "{path}"))
        assert b"".join(repository.blob(BLOB)) == DATA
        assert [asked.headers.get("Authorization") for asked in storage.asked] == [None, None]
        assert storage.asked[1].headers["Range"] == f"bytes={1 << 20}-"
        # What another host wants to know is not told to it, and no part of a signed URL is in an error.
        hostile.fault(GET_BLOB, faults.redirect(storage.url + "{path}?signature=s3cret"), times=9)
        storage.fault(GET_BLOB, faults.status(401, WWW_Authenticate="Basic"), times=9)
        with pytest.raises(MooringError) as refused:
            list(repository.blob(BLOB))
        assert "cret" not in refused.value.message
        assert {asked.headers.get("Authorization") for asked in storage.asked} == {None}


def test_redirects_in_a_circle_end(repository: Repository, hostile: HostileRegistry) -> None:
    hostile.fault("HEAD", faults.redirect("{path}"), times=99)
    with pytest.raises(Unavailable, match="redirected more than 5 times"):
        repository.resolve("1")


@pytest.mark.parametrize("location", ["ftp://host/x", "http://[bad/x", "http://user:pw@host/x", "//:99999/x"])
def test_a_location_that_is_none_is_an_error(
    repository: Repository, hostile: HostileRegistry, location: str
) -> None:
    hostile.fault("HEAD", faults.redirect(location), times=99)
    with pytest.raises(Unavailable, match="it names a"):
        repository.resolve("1")


def test_expired_tokens_are_replaced_and_one_is_fetched_for_all_threads(
    hostile: HostileRegistry, connect: Connect
) -> None:
    hostile.tokens = faults.Tokens(users={"sailor": "secret"})
    hostile.add_manifest("1", MEDIA_MANIFEST, MANIFEST)
    settings = {hostile.host: {"tls": "off", "username": "sailor", "password": "secret"}}
    repository = connect(settings).repository(named(hostile))
    with ThreadPoolExecutor(8) as threads:
        assert len({found.digest for found in threads.map(repository.resolve, ["1"] * 8)}) == 1
    assert len(hostile.tokens.asked) == 1
    assert hostile.tokens.asked[0]["scope"] == ["repository:app:pull"]
    assert hostile.tokens.asked[0]["account"] == ["sailor"]
    hostile.tokens.good.clear()  # the token's end, of which the client believes that it is later
    repository.resolve("1")
    assert len(hostile.tokens.asked) == 2


def test_an_identity_token_is_turned_into_a_bearer_token(hostile: HostileRegistry, connect: Connect) -> None:
    hostile.tokens = faults.Tokens(users={"sailor": "secret"}, identity_token="refresh-me")
    hostile.add_manifest("1", MEDIA_MANIFEST, MANIFEST)
    registries = connect({hostile.host: {"tls": "off"}})
    login = registries.check_login(hostile.host, Credentials("the request", "sailor", "secret"))
    assert login.identity_token == "refresh-me"
    assert "refresh-me" not in repr(login)
    credentials = Credentials("the request", identity_token=login.identity_token)
    assert registries.repository(named(hostile), credentials).resolve("1")
    assert hostile.tokens.asked[-1]["method"] == "POST"
    assert hostile.tokens.asked[-1]["grant_type"] == ["refresh_token"]
    wrong = Credentials("the request", identity_token="another")
    with pytest.raises(MooringError, match=r"token server .* refused") as refused:
        registries.repository(named(hostile), wrong).resolve("1")
    assert "another" not in refused.value.message


def test_a_token_server_that_fails_is_named(hostile: HostileRegistry, connect: Connect) -> None:
    hostile.tokens = faults.Tokens(realm=f"http://127.0.0.1:{free_port()}/token")
    repository = connect({hostile.host: {"tls": "off"}}).repository(named(hostile))
    with pytest.raises(Unavailable, match=r"wants authorization: its token server 127.* cannot be asked"):
        repository.resolve("1")
    hostile.tokens.realm = ""
    hostile.fault("GET /token", faults.answer_with(200, b"[]"))
    with pytest.raises(Unavailable, match="answered without a token"):
        repository.resolve("1")


def test_a_mirror_is_read_first_and_passed_over_when_it_fails(
    hostile: HostileRegistry, connect: Connect
) -> None:
    with HostileRegistry() as mirror:
        for registry in (hostile, mirror):
            registry.add_blob(DATA)
            registry.add_manifest("1", MEDIA_MANIFEST, MANIFEST)
        settings = {hostile.host: {"tls": "off", "mirrors": [f"http://{mirror.host}/cache"]}}
        repository = connect(settings).repository(named(hostile))
        repository.resolve("1")
        assert (len(hostile.asked), str(mirror.asked[0])) == (0, "HEAD /v2/cache/app/manifests/1")
        # In the middle of a blob: the registry goes on where the mirror broke off.
        mirror.fault("GET", faults.break_off(1 << 20))
        mirror.fault("GET", faults.hang_up, times=9)
        assert b"".join(repository.blob(BLOB)) == DATA
        assert hostile.asked[-1].headers["Range"] == f"bytes={1 << 20}-"
        # A mirror that failed is left alone for a while; one that lacks an image is asked again.
        asked = len(mirror.asked)
        repository.manifest("1")
        assert len(mirror.asked) == asked
        # Nothing is ever written to a mirror.
        repository.push_blob(describe(b"new"), opener(b"new"))
        assert len(mirror.asked) == asked


def test_a_mirror_that_lies_is_passed_over(hostile: HostileRegistry, connect: Connect) -> None:
    with HostileRegistry() as mirror:
        hostile.add_blob(DATA)
        mirror.blobs[BLOB.digest] = bytes(len(DATA))
        settings = {hostile.host: {"tls": "off", "mirrors": [f"http://{mirror.host}"]}}
        repository = connect(settings).repository(named(hostile))
        assert b"".join(repository.blob(BLOB)) == bytes(len(DATA))
        assert repository.mistrust(BLOB.digest)
        assert b"".join(repository.blob(BLOB)) == DATA
        assert not repository.mistrust(BLOB.digest)


def test_what_mirrors_said_is_part_of_the_error(hostile: HostileRegistry, connect: Connect) -> None:
    mirror = f"127.0.0.1:{free_port()}"
    repository = connect({hostile.host: {"tls": "off", "mirrors": [f"http://{mirror}"]}}).repository(
        named(hostile)
    )
    with pytest.raises(
        NotFound, match=f"mirror {mirror} cannot be reached.*; then .*registry {hostile.host}"
    ):
        repository.resolve("1")


def test_callers_credentials_never_go_to_a_mirror(hostile: HostileRegistry, connect: Connect) -> None:
    with HostileRegistry() as mirror:
        mirror.basic = hostile.basic = ("sailor", "secret")
        hostile.add_manifest("1", MEDIA_MANIFEST, MANIFEST)
        registries = connect({hostile.host: {"tls": "off", "mirrors": [f"http://{mirror.host}"]}})
        repository = registries.repository(named(hostile), Credentials("the request", "sailor", "secret"))
        repository.resolve("1")
        assert {asked.headers.get("Authorization") for asked in mirror.asked} == {None}


def test_tags_come_in_pages_and_a_circle_of_pages_ends(
    repository: Repository, hostile: HostileRegistry
) -> None:
    hostile.tag_pages = [["a", "b"], ["c"], ["d"]]
    assert repository.tags() == ["a", "b", "c", "d"]
    hostile.fault(
        "GET /v2/app/tags",
        faults.answer_with(200, b'{"tags": ["a"]}', Link='</v2/app/tags/list>; rel="next"'),
        times=99,
    )
    assert repository.tags() == ["a"]
    hostile.tag_pages = [[]]


def test_a_registry_that_deletes_nothing_says_so(repository: Repository, hostile: HostileRegistry) -> None:
    hostile.fault("DELETE", faults.status(405))
    with pytest.raises(NotSupported, match=r"removal of .* does not allow it"):
        repository.delete_manifest(BLOB.digest)


@pytest.mark.parametrize("digest", ["sha256:../../x", "sha512:" + "0" * 128, "sha256:" + "A" * 64])
def test_what_is_no_digest_gets_into_no_url(
    repository: Repository, hostile: HostileRegistry, digest: str
) -> None:
    with pytest.raises(InvalidSpec, match="expected sha256: and 64 hexadecimal digits"):
        repository.manifest(digest)
    with pytest.raises(InvalidSpec):
        repository.has_blob(digest)
    assert hostile.asked == []


def test_a_registry_that_is_not_there_is_an_error_soon(connect: Connect) -> None:
    host = f"127.0.0.1:{free_port()}"
    with pytest.raises(
        Unavailable, match=f"registry {host} cannot be reached, 3 times in a row: Connection refused"
    ):
        connect({host: {"tls": "off"}}).repository(Reference.parse(f"{host}/app:1")).resolve("1")


def test_a_close_ends_what_waits(hostile: HostileRegistry, connect: Connect) -> None:
    hostile.fault("HEAD", faults.stall(), times=9)
    hostile.fault("GET", faults.status(503, Retry_After="60"), times=9)
    limits, policy = Limits(stall=60, answer=60), RetryPolicy()
    registries = connect({hostile.host: {"tls": "off"}}, limits=limits, policy=policy)
    repository = registries.repository(named(hostile))
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(repository.resolve, "1"), threads.submit(repository.manifest, "1")]
        while hostile.count("HEAD") < 1 or hostile.count("GET") < 1:
            assert not any(thread.done() for thread in waiting)
            time.sleep(0.01)
        registries.close()
        for thread in waiting:
            with pytest.raises(Unavailable):
                thread.result(timeout=10)


def test_a_download_that_nobody_wants_any_more_ends_its_connection(
    repository: Repository, hostile: HostileRegistry
) -> None:
    chunks = repository.blob(BLOB)
    next(chunks)
    del chunks
    repository.resolve("1")
    assert hostile.connections == 2


def test_many_threads_read_through_one_repository(hostile: HostileRegistry, connect: Connect) -> None:
    hostile.add_blob(DATA)
    # One thread may get all the refusals, while none of the others runs.
    policy = RetryPolicy(attempts=8, base=0.01)
    repository = connect({hostile.host: {"tls": "off"}}, policy=policy).repository(named(hostile))
    hostile.fault(GET_BLOB, faults.break_off(1 << 20), times=6)
    hostile.fault(GET_BLOB, faults.status(503), times=6)
    with ThreadPoolExecutor(8) as threads:
        for data in threads.map(lambda _: b"".join(repository.blob(BLOB)), range(24)):
            assert data == DATA
    assert hostile.connections < 24


def test_a_host_that_nobody_knows_is_an_error_at_once(connect: Connect) -> None:
    waits = RetryPolicy(base=30.0)
    registries = connect({"registry.invalid": {"tls": "off"}}, policy=waits)
    with pytest.raises(Unavailable, match=r"registry registry\.invalid cannot be reached: its name is not"):
        registries.repository(Reference.parse("registry.invalid/app")).resolve("1")


def test_connections_are_kept_and_shared(repository: Repository, hostile: HostileRegistry) -> None:
    image = make_image({"a": b"b"})
    for descriptor in image.descriptors:
        repository.push_blob(descriptor, opener(image.blobs[descriptor.digest]))
    repository.push_manifest("2", MEDIA_MANIFEST, image.manifest)
    for _ in range(5):
        repository.resolve("2")
        assert repository.manifest("2")[1] == image.manifest
        assert b"".join(repository.blob(image.layers[0])) == image.blobs[image.layers[0].digest]
    assert hostile.connections == 1


def test_a_kept_connection_that_the_registry_ended_costs_no_attempt(
    hostile: HostileRegistry, connect: Connect
) -> None:
    hostile.add_manifest("1", MEDIA_MANIFEST, MANIFEST)
    policy = RetryPolicy(attempts=1)
    repository = connect({hostile.host: {"tls": "off"}}, policy=policy).repository(named(hostile))
    repository.resolve("1")
    hostile.end_connections()
    repository.resolve("1")
    assert hostile.connections == 2
