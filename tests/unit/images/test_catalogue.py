# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from mooring_agent.errors import Conflict, InvalidSpec, NotFound
from mooring_agent.images.catalogue import Catalogue
from mooring_agent.images.image import Image, chain_id, check_runnable
from mooring_agent.images.platform import host_architecture


def image(
    digits: str, *references: str, created_at: float = 0.0, architecture: str = "amd64", os: str = "linux"
) -> Image:
    return Image(
        id=f"sha256:{digits:0<64}",
        manifest_digest=f"sha256:{digits[::-1]:f<64}",
        references=references,
        created_at=created_at,
        architecture=architecture,
        os=os,
        config={},
        history=(),
        diff_ids=(),
        chain_id=None,
        size=0,
    )


WEB = image("abc1", "docker.io/library/web:latest", "docker.io/library/web:1", created_at=2)
OTHER = image("abd2", "quay.example/me/web:latest", created_at=1)
NAMELESS = image("ff", created_at=3)


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue((WEB, OTHER, NAMELESS))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("web", WEB),
        ("web:latest", WEB),
        ("web:1", WEB),
        ("library/web:1", WEB),
        ("docker.io/library/web:1", WEB),
        ("index.docker.io/library/web:1", WEB),
        ("quay.example/me/web", OTHER),
        (WEB.id, WEB),
        (WEB.id.removeprefix("sha256:"), WEB),
        ("abc", WEB),
        ("sha256:abd", OTHER),
        ("f", NAMELESS),
        (f"web@{WEB.manifest_digest}", WEB),
        (f"web@{WEB.id}", WEB),
    ],
)
def test_what_a_word_means(catalogue: Catalogue, text: str, found: Image) -> None:
    assert catalogue.get(text) is found


@pytest.mark.parametrize(
    "text", ["nothing", "web:2", "abe", "0" * 64, "me/web", f"web@{OTHER.manifest_digest}"]
)
def test_what_is_not_there(catalogue: Catalogue, text: str) -> None:
    with pytest.raises(NotFound, match="no such image") as caught:
        catalogue.get(text)
    assert text.split("@")[0] in caught.value.message


def test_an_ambiguous_id_lists_the_candidates(catalogue: Catalogue) -> None:
    with pytest.raises(Conflict, match="ambiguous") as caught:
        catalogue.get("ab")
    assert caught.value.code == "ambiguous"
    assert "web:latest" in caught.value.message or "web:1" in caught.value.message
    assert "quay.example/me/web:latest" in caught.value.message


def test_what_is_no_name_says_so(catalogue: Catalogue) -> None:
    with pytest.raises(InvalidSpec, match="lower case"):
        catalogue.get("Web")


def test_a_name_wins_over_an_id(catalogue: Catalogue) -> None:
    named = image("00", "docker.io/library/abc1:latest")
    catalogue.put(named)
    assert catalogue.get("abc1") is named


def test_a_name_moves_to_its_new_bearer(catalogue: Catalogue) -> None:
    taker = image("77", "docker.io/library/web:latest", created_at=9)
    catalogue.put(taker)
    assert catalogue.get("web") is taker
    assert catalogue.get(WEB.id).references == ("docker.io/library/web:1",)
    assert catalogue.get("web:1").id == WEB.id
    catalogue.discard(taker.id)
    with pytest.raises(NotFound):
        catalogue.get("web")
    assert [found.id for found in catalogue.images()] == [NAMELESS.id, WEB.id, OTHER.id]


def test_what_a_name_is_called_in_full(catalogue: Catalogue) -> None:
    assert catalogue.named("web") == "docker.io/library/web:latest"
    assert catalogue.named("abc") is None
    assert catalogue.named(WEB.id) is None


def test_an_image_for_another_machine_names_both() -> None:
    check_runnable(image("1", architecture=host_architecture()))
    for wrong in (
        image("1", architecture="s390x"),
        image("1", architecture=host_architecture(), os="windows"),
    ):
        with pytest.raises(
            Exception, match=f"for {wrong.os}/{wrong.architecture}.*is linux/{host_architecture()}"
        ):
            check_runnable(wrong)


def test_chain_ids_are_those_of_the_specification() -> None:
    # Computed with: printf 'sha256:aa… sha256:bb…' | sha256sum
    first, second = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    assert chain_id([]) is None
    assert chain_id([first]) == first
    assert (
        chain_id([first, second])
        == "sha256:" + "ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c"
    )
