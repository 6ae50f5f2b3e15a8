# SPDX-License-Identifier: Apache-2.0
"""When a token is fetched, kept and let go, on a clock of the test's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

import pytest

from mooring_agent.errors import Unavailable
from mooring_agent.images.registry.auth import Authenticator, Challenge, Refused, basic
from mooring_agent.images.registry.settings import Credentials

BEARER = Challenge("bearer", {"realm": "https://tokens.example/get?a=b", "service": "registry.example"})
PULL = frozenset(("repository:app:pull",))
PUSH = frozenset(("repository:app:pull,push",))
SAILOR = Credentials("the test", "sailor", "secret")


class House:
    """An authenticator, its clock and its token server."""

    def __init__(self, credentials: Credentials | None = None, *, secure: bool = True) -> None:
        self.now = 1000.0
        self.credentials = credentials
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.status = 200
        self.answer: object = {"token": "t", "expires_in": 300}
        self.authenticator = Authenticator(
            lambda: self.credentials, self.ask, secure=secure, clock=lambda: self.now
        )

    def ask(
        self, url: str, *, authorization: str = "", form: Sequence[tuple[str, str]] = ()
    ) -> tuple[int, bytes]:
        self.asked.append((url, authorization, dict(form)))
        answer = self.answer
        if isinstance(answer, dict) and answer.get("token") == "t":
            answer = {**answer, "token": f"t{len(self.asked)}"}
        return self.status, json.dumps(answer).encode()


def test_a_token_is_kept_by_scope_until_shortly_before_its_end() -> None:
    house = House()
    assert house.authenticator.header(PULL) == ""
    assert house.authenticator.answer([BEARER], PULL, "") == "Bearer t1"
    assert house.authenticator.header(PULL) == "Bearer t1"
    assert house.authenticator.header(PUSH) == ""
    assert house.authenticator.answer([BEARER], PUSH, "") == "Bearer t2"
    house.now += 289
    assert house.authenticator.header(PULL) == "Bearer t1"
    house.now += 2
    assert house.authenticator.header(PULL) == ""


def test_a_token_without_a_lifetime_has_that_of_the_specification() -> None:
    house = House()
    house.answer = {"access_token": "x"}
    assert house.authenticator.answer([BEARER], PULL, "") == "Bearer x"
    house.now += 53
    assert house.authenticator.header(PULL) == "Bearer x"
    house.now += 2
    assert house.authenticator.header(PULL) == ""


def test_a_token_that_another_thread_has_fetched_is_used() -> None:
    house = House()
    house.authenticator.answer([BEARER], PULL, "")
    assert house.authenticator.answer([BEARER], PULL, "") == "Bearer t1"
    assert house.authenticator.answer([BEARER], PULL, "Bearer t1") == "Bearer t2"
    assert len(house.asked) == 2


def test_the_token_server_is_asked_as_docker_asks_it() -> None:
    house = House(SAILOR)
    house.authenticator.answer([BEARER], PUSH, "")
    url, authorization, form = house.asked[0]
    assert url.startswith("https://tokens.example/get?a=b&")
    assert parse_qs(urlsplit(url).query) == {
        "a": ["b"],
        "service": ["registry.example"],
        "scope": ["repository:app:pull,push"],
        "account": ["sailor"],
    }
    assert (authorization, form) == (basic(SAILOR), {})


def test_the_scope_of_the_challenge_is_asked_for_too() -> None:
    house = House()
    challenge = Challenge("bearer", {**BEARER.parameters, "scope": "repository:app:pull registry:catalog:*"})
    house.authenticator.answer([challenge], PULL, "")
    query = parse_qs(urlsplit(house.asked[0][0]).query)
    assert query["scope"] == ["registry:catalog:*", "repository:app:pull"]


def test_an_identity_token_is_posted_and_no_password_with_it() -> None:
    house = House(Credentials("the test", identity_token="id"))
    house.authenticator.answer([BEARER], PULL, "")
    url, authorization, form = house.asked[0]
    assert (url, authorization) == (BEARER.parameters["realm"], "")
    assert form == {
        "grant_type": "refresh_token",
        "refresh_token": "id",
        "service": "registry.example",
        "scope": "repository:app:pull",
        "client_id": "mooring",
    }


def test_a_registry_token_is_sent_as_it_is_and_only_once() -> None:
    house = House(Credentials("the test", registry_token="given"))
    assert house.authenticator.answer([BEARER], PULL, "") == "Bearer given"
    assert house.authenticator.answer([BEARER], PULL, "Bearer given") == ""
    assert house.asked == []


def test_basic_is_remembered_until_it_is_refused() -> None:
    house = House(SAILOR)
    header = house.authenticator.answer([Challenge("basic")], PULL, "")
    assert header == basic(SAILOR) == house.authenticator.header(PUSH)
    assert house.authenticator.answer([Challenge("basic")], PULL, header) == ""
    house.credentials = Credentials("a new login", "sailor", "other")
    assert house.authenticator.answer([Challenge("basic")], PULL, header) == basic(house.credentials)


def test_there_is_nothing_to_say_to_an_unknown_scheme_or_without_credentials() -> None:
    assert House(SAILOR).authenticator.answer([Challenge("negotiate")], PULL, "") == ""
    assert House().authenticator.answer([Challenge("basic")], PULL, "") == ""
    assert House(SAILOR).authenticator.answer([], PULL, "") == ""


def test_of_several_challenges_bearer_is_taken() -> None:
    assert House(SAILOR).authenticator.answer([Challenge("basic"), BEARER], PULL, "") == "Bearer t1"


@pytest.mark.parametrize(
    "realm", ["", "ftp://x/", "https://", "https://u:p@tokens.example/", "http://tokens/"]
)
def test_credentials_are_given_to_no_unfit_token_server(realm: str) -> None:
    house = House(SAILOR)
    with pytest.raises(Unavailable, match="token server"):
        house.authenticator.answer([Challenge("bearer", {"realm": realm})], PULL, "")
    assert house.asked == []


def test_a_registry_without_tls_may_have_its_token_server_so_too() -> None:
    house = House(SAILOR, secure=False)
    assert house.authenticator.answer([Challenge("bearer", {"realm": "http://tokens/"})], PULL, "")


@pytest.mark.parametrize(
    "answer",
    [[], "x", {}, {"token": 5}, {"token": ""}, {"token": "a\nb"}, {"token": "x", "expires_in": "soon"}],
)
def test_an_answer_without_a_usable_token_is_an_error(answer: object) -> None:
    house = House(SAILOR)
    house.answer = answer
    with pytest.raises(Unavailable, match=r"tokens\.example answered without a token"):
        house.authenticator.answer([BEARER], PULL, "")


def test_a_refusal_and_a_failure_are_told_apart() -> None:
    house = House(SAILOR)
    house.status = 401
    with pytest.raises(Refused, match="status 401") as refused:
        house.authenticator.answer([BEARER], PULL, "")
    assert "secret" not in str(refused.value)
    house.status = 500
    with pytest.raises(Unavailable, match="status 500"):
        house.authenticator.answer([BEARER], PULL, "")


def test_a_refresh_token_is_asked_for_at_a_login() -> None:
    house = House(SAILOR)
    house.answer = {"token": "t", "refresh_token": "long-lived"}
    house.authenticator.answer([BEARER], frozenset(), "", offline=True)
    assert parse_qs(urlsplit(house.asked[0][0]).query)["offline_token"] == ["true"]
    assert house.authenticator.refresh_token == "long-lived"


def test_secrets_are_in_no_representation() -> None:
    credentials = Credentials("here", "sailor", "pass-word", "identity-token", "registry-token")
    for secret in ("pass-word", "identity-token", "registry-token"):
        assert secret not in repr(credentials)
    house = House(credentials)
    house.authenticator.answer([Challenge("basic")], PULL, "")
    assert "c2Fpb" not in repr(house.authenticator)
