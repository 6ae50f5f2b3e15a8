# SPDX-License-Identifier: Apache-2.0
"""Names removed at registries: those that take digests only, those that take tags, and mirrors ahead."""

from __future__ import annotations

import json
import re

import pytest

from harness.hostile_registry import Handler, HostileRegistry
from harness.images import make_image, opener
from harness.registry import RegistryUnderTest
from integration.registry.conftest import MANIFEST, Connect
from mooring_agent.errors import Conflict, InvalidSpec, NotSupported
from mooring_agent.images.content import MEDIA_MANIFEST
from mooring_agent.images.reference import Reference
from mooring_agent.images.registry import removing
from mooring_agent.images.registry.client import Registries, Repository

IMAGE = make_image({"etc/name": b"one\n"})
OTHER = make_image({"etc/name": b"two\n"})


def pushed(registries: Registries, name: str, **tags: str) -> Repository:
    """Push IMAGE, or OTHER where a tag says so, under tags."""
    repository = registries.repository(Reference.parse(name))
    for tag, which in tags.items():
        image = OTHER if which == "other" else IMAGE
        for descriptor in image.descriptors:
            repository.push_blob(descriptor, opener(image.blobs[descriptor.digest]))
        repository.push_manifest(tag, MEDIA_MANIFEST, image.manifest)
    return repository


def remove(repository: Repository, name: str, *, force: bool = False) -> bool:
    """Whether there was something to remove."""
    parsed = Reference.parse(name)
    found = removing.find(repository, parsed)
    if found is not None:
        removing.remove(repository, parsed, found, force=force)
    return found is not None


def test_a_tag_takes_no_other_along_unasked(plain: RegistryUnderTest, connect: Connect) -> None:
    name = f"{plain.host}/gone/app"
    repository = pushed(connect(), name, a="", b="", c="", other="other")
    with pytest.raises(Conflict, match=rf"removes no tag alone.*{IMAGE.digest} has the tags b, c as well"):
        remove(repository, f"{name}:a")
    assert repository.tags() == ["a", "b", "c", "other"]
    assert remove(repository, f"{name}:other")
    assert not remove(repository, f"{name}:other")
    assert remove(repository, f"{name}:a", force=True)
    for tag in ("a", "b", "c"):
        assert removing.find(repository, Reference.parse(f"{name}:{tag}")) is None
    assert "MANIFEST_UNKNOWN" in _skopeo_fails(plain, f"{name}:b")


def test_a_digest_takes_its_tags_along(plain: RegistryUnderTest, connect: Connect) -> None:
    name = f"{plain.host}/gone/digest"
    repository = pushed(connect(), name, a="", b="")
    assert remove(repository, f"{name}@{IMAGE.digest}")
    assert not remove(repository, f"{name}@{IMAGE.digest}")
    assert not remove(repository, f"{name}:a")
    with pytest.raises(InvalidSpec, match="a tag or a digest, not both"):
        remove(repository, f"{name}:a@{IMAGE.digest}")


def test_a_registry_that_deletes_nothing_says_so(connect: Connect) -> None:
    with RegistryUnderTest(delete=False) as registry:
        name = f"{registry.host}/kept/app"
        repository = pushed(connect(), name, a="")
        for which in (f"{name}:a", f"{name}@{IMAGE.digest}"):
            with pytest.raises(NotSupported, match=r"does not allow it.*must be enabled there"):
                remove(repository, which)
        assert repository.tags() == ["a"]


def test_a_tag_is_removed_alone_where_that_is_possible(
    hostile: HostileRegistry, repository: Repository
) -> None:
    def untag(handler: Handler) -> bool:
        del hostile.manifests["1"]
        handler.answer(202)
        return True

    digest = hostile.add_manifest("2", MEDIA_MANIFEST, MANIFEST)
    hostile.fault("DELETE /v2/app/manifests/1", untag)
    assert remove(repository, f"{hostile.host}/app:1")
    assert [str(asked) for asked in hostile.asked if re.match("DELETE", str(asked))] == [
        "DELETE /v2/app/manifests/1"
    ]
    assert repository.stored("2").digest == digest


def test_what_a_mirror_has_is_not_asked(
    plain: RegistryUnderTest, hostile: HostileRegistry, connect: Connect
) -> None:
    name = f"{plain.host}/gone/mirrored"
    hostile.add_manifest("a", MEDIA_MANIFEST, json.loads(IMAGE.manifest))
    registries = connect({plain.host: {"mirrors": [f"http://{hostile.host}"]}, hostile.host: {"tls": "off"}})
    repository = registries.repository(Reference.parse(name))
    assert repository.resolve("a").size > 0
    assert not remove(repository, f"{name}:a")
    assert not hostile.count("DELETE")


def _skopeo_fails(registry: RegistryUnderTest, name: str) -> str:
    with pytest.raises(AssertionError) as failed:
        registry.skopeo("inspect", f"docker://{name}")
    return str(failed.value).upper().replace("MANIFEST UNKNOWN", "MANIFEST_UNKNOWN")
