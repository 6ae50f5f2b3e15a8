# SPDX-License-Identifier: Apache-2.0
"""Docker's images on their way, as clients see them, on an engine in memory."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.api.docker.images import prune_filter
from mooring_agent.api.docker.transferlines import LoadLines, PullLines, PushLines
from mooring_agent.errors import InvalidSpec
from mooring_agent.images.pruning import PruneFilter

from .fake_engine import FakeEngine
from .fake_images import IMAGE
from .served import Served

DIGEST = f"sha256:{'d' * 64}"


def lines(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body.splitlines()]


def test_a_pull_in_the_client_s_lines(api: Served, engine: FakeEngine) -> None:
    auth = base64.urlsafe_b64encode(json.dumps({"username": "me", "password": "secret"}).encode()).decode()
    query = "fromImage=reg.example/new/app&tag=2&platform=linux/arm64"
    answer = api.call("POST", f"/v1.47/images/create?{query}", b"", **{"X-Registry-Auth": auth})
    assert lines(answer.body) == [
        {"status": "Pulling from new/app", "id": "2"},
        {"status": "Pulling fs layer", "progressDetail": {}, "id": "aa"},
        {"status": "Downloading", "progressDetail": {"current": 1, "total": 2}, "id": "aa"},
        {"status": "Verifying Checksum", "progressDetail": {}, "id": "aa"},
        {"status": "Download complete", "progressDetail": {}, "id": "aa"},
        {"status": "Extracting", "progressDetail": {"current": 1, "total": 2}, "id": "aa"},
        {"status": "Pull complete", "progressDetail": {}, "id": "aa"},
        {"status": "Already exists", "progressDetail": {}, "id": "bb"},
        {"status": f"Digest: {DIGEST}"},
        {"status": "Status: Downloaded newer image for reg.example/new/app:2"},
    ]
    reference, platform, credentials = engine.image_service.pulled[0]
    assert (reference, str(platform)) == ("reg.example/new/app:2", "linux/arm64")
    assert credentials is not None
    assert (credentials.username, credentials.password) == ("me", "secret")


def test_a_pull_by_digest_that_is_there(api: Served, engine: FakeEngine) -> None:
    answer = api.call("POST", f"/images/create?fromImage=web&tag={DIGEST}", b"")
    assert lines(answer.body)[-1]["status"] == f"Status: Image is up to date for web@{DIGEST}"
    assert engine.image_service.pulled[0][0] == f"docker.io/library/web@{DIGEST}"


def test_a_pull_without_a_tag_is_one_of_all_tags(api: Served, engine: FakeEngine) -> None:
    api.call("POST", "/images/create?fromImage=web", b"")
    api.call("POST", "/images/create?fromImage=web:3", b"")
    names = [reference for reference, _, _ in engine.image_service.pulled]
    assert names == [f"docker.io/library/web:{tag}" for tag in "123"]


def test_a_pull_of_what_is_not_there_has_the_status_that_says_so(api: Served) -> None:
    answer = api.call("POST", "/images/create?fromImage=absent&tag=1", b"")
    assert (answer.status, answer.json()) == (404, {"message": answer.json()["message"]})
    assert "no such image" in answer.json()["message"]


def test_a_pull_of_what_may_not_be_seen_makes_no_client_ask_for_a_password(api: Served) -> None:
    answer = api.call("POST", "/images/create?fromImage=secret&tag=1", b"")
    assert (answer.status, "log in" in answer.json()["message"]) == (404, True)


def test_a_pull_that_has_begun_tells_its_error_in_the_stream(api: Served) -> None:
    answer = api.call("POST", "/images/create?fromImage=breaks&tag=1", b"")
    first, *_, last = lines(answer.body)
    assert (answer.status, first["status"]) == (200, "Pulling from library/breaks")
    assert last["errorDetail"]["code"] == 404
    assert "no such layer" in last["error"]


def test_a_push_in_the_client_s_lines(api: Served) -> None:
    assert lines(api.call("POST", "/images/web/push?tag=1").body) == [
        {"status": "The push refers to repository [docker.io/library/web]"},
        {"status": "Pushing", "progressDetail": {"current": 1, "total": 2}, "id": "aa"},
        {"status": "Pushed", "progressDetail": {}, "id": "aa"},
        {"status": "Mounted from other/app", "progressDetail": {}, "id": "bb"},
        {"status": f"1: digest: {DIGEST} size: 7"},
        {"progressDetail": {}, "aux": {"Tag": "1", "Digest": DIGEST, "Size": 7}},
    ]
    assert "1: digest" in str(lines(api.call("POST", "/images/web/push").body))
    assert api.call("POST", "/images/none/push").status == 404
    assert api.call("POST", "/images/none/push?tag=1").status == 404
    assert api.call("POST", "/images/web/push?tag=1&platform=x").status == 501


def test_load_and_save(api: Served) -> None:
    assert lines(api.call("POST", "/images/load", b"tar").body) == [
        {"status": "Loading layer", "progressDetail": {"current": 1, "total": 2}, "id": "aa"},
        {"stream": "Loaded image: web:1\n"},
        {"stream": f"Loaded image ID: {IMAGE.id}\n"},
    ]
    assert len(lines(api.call("POST", "/images/load?quiet=1", b"tar").body)) == 2
    assert lines(api.call("POST", "/images/load", b"bad").body)[0]["error"] == "this is no archive"
    assert api.call("GET", "/images/get?names=web:1&names=web").body == b"web:1 web"
    assert api.call("GET", "/images/web:1/get").body == b"web:1"
    assert api.call("GET", "/images/none/get").status == 404
    assert api.call("GET", "/images/get").status == 400


def test_login(api: Served) -> None:
    body = {"username": "me", "password": "right", "serveraddress": "reg.example"}
    assert api.call("POST", "/auth", body).json() == {"Status": "Login Succeeded", "IdentityToken": ""}
    refused = api.call("POST", "/auth", body | {"password": "wrong"})
    assert (refused.status, "reg.example" in refused.json()["message"]) == (401, True)
    assert api.call("POST", "/auth", {"username": "me"}).status == 400
    nobody = {"username": None, "password": None, "serveraddress": "open.example"}
    assert api.call("POST", "/auth", nobody).json()["Status"] == "Login Succeeded"
    assert api.call("POST", "/auth", nobody | {"serveraddress": "reg.example"}).status == 401


def test_prune(api: Served, engine: FakeEngine) -> None:
    answer = api.call("POST", "/images/prune?filters=%7B%22dangling%22:%5B%22false%22%5D%7D").json()
    assert answer == {
        "ImagesDeleted": [{"Untagged": "web:1"}, {"Deleted": IMAGE.id}],
        "SpaceReclaimed": 42,
    }
    assert engine.image_service.pruned == [PruneFilter(all=True)]


def test_prune_filters() -> None:
    asked = {"until": ("1h30m",), "label": ("a", "b=c"), "label!": ("d",)}
    assert prune_filter(asked, 10_000.0) == PruneFilter(until=4600.0, labels=("a", "b=c"), without=("d",))
    assert prune_filter({"until": ("2001-09-09T01:46:40Z",)}, 0.0).until == 1_000_000_000
    for wrong in ({"dangling": ("maybe",)}, {"until": ("soon",)}, {"until": ("1h", "2h")}):
        with pytest.raises(InvalidSpec):
            prune_filter(wrong, 0.0)


def test_commit_diff_export(api: Served, engine: FakeEngine) -> None:
    query = "container=c&repo=made&tag=2&comment=why&author=me&changes=ENV%20A=1&pause=0"
    body = {"Env": ["B=1"], "Hostname": "x", "Labels": {}}
    assert api.call("POST", f"/commit?{query}", body).json() == {"Id": IMAGE.id}
    reference, name, options = engine.commits.asked[0]
    assert (reference, name) == ("c", "docker.io/library/made:2")
    assert options == {
        "config": {"Env": ["B=1"]},
        "changes": ("ENV A=1",),
        "author": "me",
        "message": "why",
        "pause": False,
    }
    assert api.call("POST", "/commit?container=c", b"null").status == 201
    assert api.call("POST", "/commit").status == 400
    assert api.call("POST", "/commit?container=c", {"Cmd": "x"}).status == 400
    assert api.call("POST", "/commit?container=c", {"Strange": 1}).status == 501
    changed = api.call("GET", "/containers/c/changes").json()
    assert changed == [{"Path": "/made", "Kind": 1}, {"Path": "/gone", "Kind": 2}]
    assert api.call("GET", "/containers/c/export").body == b"tar"


def test_df_tells_what_was_asked_for(api: Served) -> None:
    told = api.call("GET", "/system/df").json()
    assert (told["LayersSize"], told["Images"][0]["SharedSize"], told["Containers"]) == (5, 2, [])
    assert api.call("GET", "/system/df?type=volume").json()["Images"] is None
    assert api.call("GET", "/system/df?type=x").status == 400


events = st.builds(
    dict,
    step=st.sampled_from(["download", "verify", "unpack", "exists", "upload", "mount", "load"]),
    current=st.integers(0, 3),
    total=st.just(3),
    detail=st.sampled_from(["aa", "bb", "bb from x"]),
)


@given(st.lists(events, max_size=30))
def test_a_layer_that_is_done_stays_done(told: list[dict[str, Any]]) -> None:
    for renderer in (PullLines(), PushLines("cc"), LoadLines()):
        done: set[str] = set()
        for event in told:
            for line in renderer.of(event):
                assert set(line) == {"status", "progressDetail", "id"}
                assert not (isinstance(renderer, PullLines) and line["id"] in done)
                if line["status"] == "Pull complete":
                    done.add(line["id"])
