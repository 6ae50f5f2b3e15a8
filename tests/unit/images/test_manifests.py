# SPDX-License-Identifier: Apache-2.0
"""Manifests, indexes and configurations from anywhere: facts or InvalidSpec, nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec, NotFound
from mooring_agent.images.content import MEDIA_INDEX, MEDIA_LAYER, MEDIA_MANIFEST, Descriptor, digest_of
from mooring_agent.images.manifests import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    Index,
    Manifest,
    choose,
    oci_layer,
    parse_config,
    parse_manifest,
)
from mooring_agent.images.platform import Platform, amd64_variant
from unit.images.repositories import build, layer

BUILT = build(layer(1), layer(2))
DIGEST = f"sha256:{'a' * 64}"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from(
    ("schemaVersion", "mediaType", "config", "layers", "manifests", "artifactType", "annotations", "subject",
     "digest", "size", "urls", "platform", "os", "architecture", "variant", "rootfs", "diff_ids", "type",
     "history", "created", "created_by", "empty_layer", "Cmd", "Env", "Labels", "Volumes", "author")
)  # fmt: skip


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += paths(inner, (*path, key))
    return found


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


def parse(body: bytes, media_type: str = "") -> Manifest | Index:
    return parse_manifest(body, Descriptor(media_type, digest_of(body), len(body)))


@given(st.data())
def test_a_manifest_with_one_thing_changed(data: st.DataObject) -> None:
    document = json.loads(BUILT.blobs[BUILT.manifest.digest])
    path = data.draw(st.sampled_from(paths(document)))
    body = json.dumps(changed(document, path, data.draw(json_values))).encode()
    media_type = data.draw(st.sampled_from(("", MEDIA_MANIFEST, DOCKER_MANIFEST, MEDIA_INDEX)))
    found = outcome(lambda: parse(body, media_type))
    assert isinstance(found, (Manifest, Index)) or digest_of(body) in found.message


@given(st.data())
def test_a_configuration_with_one_thing_changed(data: st.DataObject) -> None:
    document = json.loads(BUILT.blobs[BUILT.config.digest])
    path = data.draw(st.sampled_from(paths(document)))
    body = json.dumps(changed(document, path, data.draw(json_values))).encode()
    found = outcome(lambda: parse_config(body, DIGEST))
    if isinstance(found, InvalidSpec):
        assert DIGEST in found.message
        return
    assert isinstance(found.created_at, float)
    assert all(isinstance(entry, dict) for entry in found.history)


@given(st.dictionaries(keys, json_values, max_size=6), st.binary(max_size=200))
def test_anything_is_read_or_refused(document: dict[str, Any], raw: bytes) -> None:
    for body in (json.dumps(document).encode(), raw):
        for media_type in ("", MEDIA_MANIFEST, MEDIA_INDEX, DOCKER_LIST):
            outcome(partial(parse, body, media_type))
        outcome(partial(parse_config, body, DIGEST))


def outcome(action: Callable[[], Any]) -> Any:
    """What is found, or the one error that there may be."""
    try:
        return action()
    except InvalidSpec as error:
        return error


def test_what_has_two_meanings_is_refused() -> None:
    body = BUILT.blobs[BUILT.manifest.digest]
    with pytest.raises(InvalidSpec, match="announced as"):
        parse(body, MEDIA_INDEX)
    with pytest.raises(InvalidSpec, match="a key occurs twice"):
        parse(body.replace(b'"layers"', b'"config": {}, "layers"'))
    with pytest.raises(InvalidSpec, match="no JSON"):
        parse(b"[" * 100_000)
    with pytest.raises(InvalidSpec, match="limit"):
        parse(b" " * (5 << 20))
    untyped = json.loads(body)
    del untyped["mediaType"]
    found = parse(json.dumps(untyped).encode())
    assert isinstance(found, Manifest)
    assert found.descriptor.media_type == MEDIA_MANIFEST


def test_a_layer_of_docker_as_one_of_oci() -> None:
    for packing, expected in (("", ""), (".gzip", "+gzip"), (".zstd", "+zstd")):
        of_docker = Descriptor(f"application/vnd.docker.image.rootfs.diff.tar{packing}", DIGEST, 1)
        assert oci_layer(of_docker).media_type == MEDIA_LAYER + expected
    own = Descriptor(f"{MEDIA_LAYER}+zstd", DIGEST, 1)
    assert oci_layer(own) == own


platforms = st.builds(
    Platform,
    st.sampled_from(("linux", "linux", "linux", "windows")),
    st.sampled_from(("amd64", "x86_64", "386", "arm64", "aarch64", "arm", "armhf", "s390x")),
    st.sampled_from(("", "", "v1", "v2", "v3", "v5", "v6", "v7", "v8", "v9")),
)


def index_for(found: list[Platform]) -> Index:
    entries = tuple(
        Descriptor(MEDIA_MANIFEST, f"sha256:{number:064x}", 1, platform=platform)
        for number, platform in enumerate(found)
    )
    return Index(Descriptor(MEDIA_INDEX, DIGEST, 1), entries)


@given(st.lists(platforms, max_size=8), platforms)
def test_the_choice_is_the_best_that_runs(found: list[Platform], wanted: Platform) -> None:
    runs = wanted.runs()
    ranks = [runs.index(each.normal()) for each in found if each.normal() in runs]
    if not ranks:
        with pytest.raises(NotFound, match=str(wanted)) as caught:
            choose(index_for(found), wanted, "web")
        assert all(str(each) in caught.value.message for each in found)
        return
    chosen = choose(index_for(found), wanted)
    assert chosen.platform is not None
    assert runs.index(chosen.platform.normal()) == min(ranks)
    same = [number for number, each in enumerate(found) if each.normal() == chosen.platform.normal()]
    assert chosen.digest == f"sha256:{same[0]:064x}"


@given(platforms)
def test_platforms_are_normal_once_and_run_themselves(platform: Platform) -> None:
    assert platform.normal().normal() == platform.normal()
    assert platform.runs()[0] == platform.normal()
    assert len(set(platform.runs())) == len(platform.runs())
    assert Platform.parse(str(platform)) == platform.normal()
    assert Platform.from_json(platform.to_json()) == platform


def test_variants() -> None:
    def names(text: str) -> list[str]:
        return [str(each) for each in Platform.parse(text).runs()]

    assert names("linux/amd64/v3") == ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]
    assert names("arm64")[:2] == ["linux/arm64", "linux/arm/v8"]
    assert names("linux/arm/v7") == ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]
    assert names("armel") == ["linux/arm/v6", "linux/arm/v5"]
    assert names("riscv64") == ["linux/riscv64"]
    for bad in ("", "linux/", "a/b/c/d", "linux/amd 64"):
        with pytest.raises(InvalidSpec, match="OS/ARCHITECTURE"):
            Platform.parse(bad)
    old = "flags\t\t: fpu cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3\n"
    assert amd64_variant("") == "v1"
    assert amd64_variant(old) == "v2"
    assert amd64_variant(old.strip() + " abm avx avx2 bmi1 bmi2 f16c fma movbe xsave\n") == "v3"


def test_entries_that_are_no_images_are_passed_over() -> None:
    index = index_for([Platform("unknown", "unknown"), Platform("linux", "arm64")])
    note = {"vnd.docker.reference.type": "attestation-manifest"}
    about = replace(index.manifests[1], annotations=note)
    index = replace(index, manifests=(*index.manifests, about))
    assert choose(index, Platform.parse("arm64")) == index.manifests[1]
    with pytest.raises(NotFound, match="there is linux/arm64;"):
        choose(index, Platform.parse("s390x"))
    alone = replace(index, manifests=(replace(index.manifests[1], platform=None),))
    assert choose(alone, Platform.parse("s390x")) == alone.manifests[0]
