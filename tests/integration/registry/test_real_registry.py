# SPDX-License-Identifier: Apache-2.0
"""The client against Debian's docker-registry, with skopeo as the judge."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.images import MadeImage, describe, digest_of, make_image, opener
from harness.registry import PASSWORD, USER, RegistryUnderTest
from integration.registry.conftest import Connect
from mooring_agent.errors import InvalidSpec, NotFound, Unauthorized, Unavailable
from mooring_agent.images.content import MEDIA_MANIFEST
from mooring_agent.images.manifests import DOCKER_MANIFEST
from mooring_agent.images.reference import Reference
from mooring_agent.images.registry.client import Repository
from mooring_agent.images.registry.settings import Credentials

IMAGE = make_image({"etc/name": b"one\n", "random": os.urandom(6 << 20)}, {"etc/other": b"two\n"})


def push(repository: Repository, image: MadeImage, tag: str) -> None:
    for descriptor in image.descriptors:
        repository.push_blob(descriptor, opener(image.blobs[descriptor.digest]))
    assert repository.push_manifest(tag, MEDIA_MANIFEST, image.manifest) == image.digest


def pull(repository: Repository, tag: str) -> MadeImage:
    _, manifest = repository.manifest(tag)
    document = json.loads(manifest)
    blobs = {}
    for part in (document["config"], *document["layers"]):
        descriptor = next(known for known in IMAGE.descriptors if known.digest == part["digest"])
        blobs[descriptor.digest] = b"".join(repository.blob(descriptor))
    return MadeImage(manifest, IMAGE.config, IMAGE.layers, blobs)


def test_what_was_pushed_is_what_skopeo_sees_and_what_comes_back(
    plain: RegistryUnderTest, connect: Connect
) -> None:
    repository = connect().repository(Reference.parse(f"{plain.host}/fleet/app:1"))
    push(repository, IMAGE, "1")
    seen = json.loads(plain.skopeo("inspect", f"docker://{plain.host}/fleet/app:1"))
    assert seen["Digest"] == IMAGE.digest
    assert seen["Layers"] == [layer.digest for layer in IMAGE.layers]
    resolved = repository.resolve("1")
    assert (resolved.digest, resolved.media_type, resolved.size) == (
        IMAGE.digest,
        MEDIA_MANIFEST,
        len(IMAGE.manifest),
    )
    assert repository.resolve(IMAGE.digest) == resolved
    assert pull(repository, IMAGE.digest) == IMAGE
    assert repository.name == f"{plain.host}/fleet/app"


def test_an_image_that_skopeo_pushed_in_dockers_format_is_read_byte_for_byte(
    plain: RegistryUnderTest, connect: Connect
) -> None:
    registries = connect()
    push(registries.repository(Reference.parse(f"{plain.host}/fleet/app")), IMAGE, "1")
    source, target = f"docker://{plain.host}/fleet/app:1", f"docker://{plain.host}/fleet/by-skopeo:1"
    plain.skopeo("copy", "--format", "v2s2", source, target)
    descriptor, body = registries.repository(Reference.parse(f"{plain.host}/fleet/by-skopeo")).manifest("1")
    assert descriptor.media_type == DOCKER_MANIFEST
    assert body.decode() == plain.skopeo("inspect", "--raw", target)
    assert descriptor.digest == digest_of(body)


def test_nothing_is_sent_that_is_there(plain: RegistryUnderTest, connect: Connect) -> None:
    repository = connect().repository(Reference.parse(f"{plain.host}/fleet/changed"))
    push(repository, IMAGE, "1")
    changed = make_image({"etc/name": b"one\n", "random": b"smaller"}, {"etc/other": b"two\n"})
    assert changed.layers[1] == IMAGE.layers[1]
    plain.forget()
    repository.push_blob(IMAGE.layers[0], opener(b"never read"))
    push(repository, changed, "2")
    new = changed.layers[0].size + changed.config.size + len(changed.manifest)
    assert new < plain.traffic.sent < new + 8192  # what is beyond are the heads of ten requests
    assert sum(request.method == "POST" for request in plain.requests()) == 2


def test_blobs_are_mounted_from_another_repository(plain: RegistryUnderTest, connect: Connect) -> None:
    registries = connect()
    push(registries.repository(Reference.parse(f"{plain.host}/fleet/base")), IMAGE, "1")
    other = registries.repository(Reference.parse(f"{plain.host}/fleet/derived"))
    digest = IMAGE.layers[0].digest
    assert not other.has_blob(digest)
    plain.forget()
    assert other.mount_blob(digest, "fleet/base")
    assert other.has_blob(digest)
    assert plain.traffic.sent < 4096
    assert not other.mount_blob(digest_of(b"nobody has this"), "fleet/base")
    # The upload that the registry began in its place is given up.
    last = plain.requests()[-1]
    assert (last.method, last.status) == ("DELETE", 204)


def test_a_large_blob_can_be_sent_in_chunks(plain: RegistryUnderTest, connect: Connect) -> None:
    data = os.urandom((5 << 20) + 17)
    repository = connect({plain.host: {"upload_chunk": 2 << 20}}).repository(
        Reference.parse(f"{plain.host}/fleet/chunked")
    )
    plain.forget()
    repository.push_blob(describe(data), opener(data))
    assert [request.method for request in plain.requests()].count("PATCH") == 3
    assert b"".join(repository.blob(describe(data))) == data


def test_an_empty_blob_goes_there_and_back(plain: RegistryUnderTest, connect: Connect) -> None:
    repository = connect().repository(Reference.parse(f"{plain.host}/fleet/empty"))
    repository.push_blob(describe(b""), opener(b""))
    assert repository.has_blob(digest_of(b""))
    assert list(repository.blob(describe(b""))) == []


def test_a_download_goes_on_where_its_connection_broke(plain: RegistryUnderTest, connect: Connect) -> None:
    data = os.urandom(24 << 20)
    repository = connect().repository(Reference.parse(f"{plain.host}/fleet/broken"))
    repository.push_blob(describe(data), opener(data))
    plain.forget()
    plain.wire.cut_after, plain.wire.cuts = 7 << 20, 2
    assert b"".join(repository.blob(describe(data))) == data
    assert plain.wire.cuts == 0
    # What was on its way when the connection broke travels twice, and no more.
    assert plain.traffic.received < len(data) + (4 << 20)


def test_an_upload_survives_its_connection_and_a_restart(plain: RegistryUnderTest, connect: Connect) -> None:
    data = os.urandom(12 << 20)
    repository = connect({plain.host: {"upload_chunk": 2 << 20}}).repository(
        Reference.parse(f"{plain.host}/fleet/survivor")
    )
    plain.wire.cut_after, plain.wire.cuts = 3 << 20, 1
    repository.push_blob(describe(data), opener(data))
    assert plain.wire.cuts == 0
    assert b"".join(repository.blob(describe(data))) == data
    fresh = data[::-1]
    chunks = opener(fresh)

    def restarting(offset: int):  # type: ignore[no-untyped-def]
        if offset == 4 << 20 and not restarted:
            restarted.append(offset)
            plain.stop()
            plain.start()
        yield from chunks(offset)

    restarted: list[int] = []
    plain.forget()
    repository.push_blob(describe(fresh), restarting)
    assert restarted == [4 << 20]
    assert b"".join(repository.blob(describe(fresh))) == fresh


def test_tags_and_repositories_are_listed_and_manifests_deleted(
    plain: RegistryUnderTest, connect: Connect
) -> None:
    registries = connect()
    repository = registries.repository(Reference.parse(f"{plain.host}/fleet/listed"))
    for descriptor in IMAGE.descriptors:
        repository.push_blob(descriptor, opener(IMAGE.blobs[descriptor.digest]))
    for tag in ("b", "a", "latest"):
        repository.push_manifest(tag, MEDIA_MANIFEST, IMAGE.manifest)
    assert repository.tags() == ["a", "b", "latest"]
    assert "fleet/listed" in registries.catalog(plain.host)
    repository.delete_manifest(IMAGE.digest)
    with pytest.raises(
        NotFound, match=f"pull of {plain.host}/fleet/listed:a: registry {plain.host} does not"
    ):
        repository.manifest("a")
    repository.delete_blob(IMAGE.layers[0].digest)
    assert not repository.has_blob(IMAGE.layers[0].digest)
    with pytest.raises(NotFound):
        repository.delete_blob(IMAGE.layers[0].digest)


def test_a_registry_refuses_a_manifest_of_which_a_layer_is_missing(
    plain: RegistryUnderTest, connect: Connect
) -> None:
    repository = connect().repository(Reference.parse(f"{plain.host}/fleet/incomplete"))
    with pytest.raises(
        InvalidSpec, match=r"push of .*incomplete:1: registry .* refuses .*MANIFEST_BLOB_UNKNOWN"
    ):
        repository.push_manifest("1", MEDIA_MANIFEST, IMAGE.manifest)


@pytest.mark.parametrize("way", ["settings", "docker's config", "request"])
def test_credentials_of_each_kind_open_a_guarded_registry(
    guarded: RegistryUnderTest, connect: Connect, tmp_path: Path, way: str
) -> None:
    reference = Reference.parse(f"{guarded.host}/fleet/app:1")
    if way == "settings":
        secret = tmp_path / "password"
        secret.write_text(f"{PASSWORD}\n")
        registries = connect({guarded.host: {"username": USER, "password_file": str(secret)}})
        repository = registries.repository(reference)
    elif way == "request":
        registries = connect()
        repository = registries.repository(reference, Credentials("the request", USER, PASSWORD))
    else:
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"auths": {guarded.host: {"username": USER, "password": PASSWORD}}}))
        registries = connect(docker_config=config)
        repository = registries.repository(reference)
    push(repository, IMAGE, "1")
    assert json.loads(guarded.skopeo("inspect", f"docker://{reference}"))["Digest"] == IMAGE.digest
    guarded.forget()
    assert pull(repository, "1") == IMAGE
    # Asked for once, known from then on.
    assert [request.status for request in guarded.requests()].count(401) == 0


def test_a_new_login_takes_effect_at_once(
    guarded: RegistryUnderTest, connect: Connect, tmp_path: Path
) -> None:
    registries, reference = connect(docker_config=tmp_path / "config.json"), f"{guarded.host}/fleet/app:1"
    for number, password in enumerate((None, PASSWORD, "wrong")):
        entry = {guarded.host: {"username": USER, "password": password}} if password else {}
        (tmp_path / "config.json").write_text(json.dumps({"auths": entry}))
        os.utime(tmp_path / "config.json", ns=(number, number))
        expected = NotFound if password == PASSWORD else Unauthorized
        with pytest.raises(expected):
            registries.repository(Reference.parse(reference)).resolve("absent")


def test_without_or_with_wrong_credentials_one_is_told_what_was_sent(
    guarded: RegistryUnderTest, connect: Connect
) -> None:
    registries = connect()
    reference = Reference.parse(f"{guarded.host}/fleet/app:1")
    with pytest.raises(Unauthorized, match="denies it without credentials") as without:
        registries.repository(reference).resolve("1")
    assert f"registries.{guarded.host}" in without.value.message
    wrong = Credentials("the request", USER, "wrong-password")
    with pytest.raises(Unauthorized, match="to user 'sailor', from the request") as refused:
        registries.repository(reference, wrong).manifest("1")
    assert "wrong-password" not in refused.value.message + repr(wrong)
    with pytest.raises(Unauthorized, match=f"login to {guarded.host}"):
        registries.check_login(guarded.host, wrong)
    assert registries.check_login(guarded.host, Credentials("x", USER, PASSWORD)).identity_token == ""


@pytest.mark.parametrize("where", ["setting", "directory"])
def test_a_private_ca_is_named_in_the_settings_or_lies_in_dockers_directory(
    private: RegistryUnderTest, connect: Connect, tmp_path: Path, where: str
) -> None:
    if where == "setting":
        registries = connect({private.host: {"ca_file": str(private.ca_file)}})
    else:
        directory = tmp_path / "certs.d" / private.host
        directory.mkdir(parents=True)
        (directory / "ca.crt").write_bytes(private.ca_file.read_bytes())
        registries = connect(certificates=tmp_path / "certs.d")
    repository = registries.repository(Reference.parse(f"{private.host}/fleet/app"))
    push(repository, IMAGE, "1")
    assert (
        json.loads(private.skopeo("inspect", f"docker://{private.host}/fleet/app:1"))["Digest"]
        == IMAGE.digest
    )
    assert pull(repository, "1") == IMAGE


def test_a_certificate_that_is_not_trusted_is_an_error_that_says_what_to_do(
    private: RegistryUnderTest, connect: Connect
) -> None:
    registries = connect({private.host: {"tls": "verify"}})
    repository = registries.repository(Reference.parse(f"{private.host}/fleet/app"))
    with pytest.raises(
        Unavailable, match=f"certificate of registry {private.host} is not trusted"
    ) as refused:
        repository.resolve("1")
    assert f"registries.{private.host}.ca_file" in refused.value.message
    unverified = connect({private.host: {"tls": "unverified"}})
    with pytest.raises(NotFound):
        unverified.repository(Reference.parse(f"{private.host}/fleet/app")).resolve("none")


def test_a_clients_certificate_is_shown_to_a_registry_that_wants_one(connect: Connect) -> None:
    with RegistryUnderTest(client_ca=True) as registry:
        reference = Reference.parse(f"{registry.host}/fleet/app")
        settings = {"ca_file": str(registry.ca_file)}
        with pytest.raises(
            Unavailable, match=r"want a client's certificate in registries\..*\.client_certificate"
        ):
            connect({registry.host: settings}).repository(reference).resolve("1")
        settings |= {
            "client_certificate": str(registry.client_certificate),
            "client_key": str(registry.client_key),
        }
        with pytest.raises(NotFound):
            connect({registry.host: settings}).repository(reference).resolve("1")
        settings["client_key"] = str(registry.ca_file)
        with pytest.raises(InvalidSpec, match=r"client certificate .*client\.crt .* is not usable"):
            connect({registry.host: settings}).repository(reference).resolve("1")


def test_tls_is_found_out_on_loopback_and_a_wrong_setting_is_told(
    private: RegistryUnderTest, plain: RegistryUnderTest, connect: Connect
) -> None:
    registries = connect()
    for registry in (private, plain):
        with pytest.raises(NotFound):
            registries.repository(Reference.parse(f"{registry.host}/fleet/none")).resolve("1")
    registries = connect({plain.host: {"tls": "unverified"}})
    with pytest.raises(
        Unavailable, match=r"does not speak TLS; if plain HTTP is meant, say off in registries"
    ):
        registries.repository(Reference.parse(f"{plain.host}/fleet/none")).resolve("1")
