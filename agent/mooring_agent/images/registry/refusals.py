# SPDX-License-Identifier: Apache-2.0
"""What a registry says when it refuses, as errors for a user (distribution-spec, "Error Codes"). Pure."""

from __future__ import annotations

import email.utils
import json
from dataclasses import dataclass

from mooring_agent.errors import (
    Conflict,
    Denied,
    InvalidSpec,
    MooringError,
    NotFound,
    NotSupported,
    Unauthorized,
    Unavailable,
)
from mooring_agent.images.registry.settings import Credentials, Endpoint

_MAX_TEXT = 300  # characters of what a registry says that are shown


@dataclass(frozen=True, slots=True)
class Refusal:
    """The first error of an answer: its code (empty if the registry gave none) and message."""

    code: str = ""
    message: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.code, self.message)))


def parse_refusal(body: bytes | None) -> Refusal:
    """Read the body of an error; what is no document of the specification gives an empty one."""
    try:
        first = json.loads(body or b"")["errors"][0]
        return Refusal(_shown(first.get("code")), _shown(first.get("message")))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return Refusal()


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Seconds that a Retry-After asks to wait (RFC 9110, 10.2.3), `now` in seconds since the epoch.

    None for a header that is missing or cannot be read.
    """
    text = (text or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:10])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def refused(
    status: int,
    refusal: Refusal,
    what: str,
    endpoint: Endpoint,
    credentials: Credentials | None,
    *,
    sent: bool,
    asked: float | None = None,
) -> MooringError:
    """The error for an answer of which the status is none of those expected.

    `what` says what was done, such as `pull of app:1`; `sent` whether credentials were part of it, `asked`
    how many seconds the registry asks to wait.
    """
    reason = f" ({refusal})" if str(refusal) else ""
    later = f"try again in {asked:.0f} s" if asked else "try again later"
    where = endpoint.where
    if status in (401, 403):
        return denied(status, reason, what, endpoint, credentials, sent=sent)
    if status == 404:
        return NotFound(f"{what}: {where} does not have it{reason}: check its name, and that it was pushed")
    if status == 405 or refusal.code == "UNSUPPORTED":
        return NotSupported(f"{what}: {where} does not allow it{reason}: it must be enabled there")
    if status == 413:
        return InvalidSpec(
            f"{what}: {where}, or a proxy ahead of it, takes no request of that size: set "
            f"registries.{endpoint.name}.upload_chunk to a number of bytes that it takes"
        )
    if status == 429:
        return Unavailable(
            f"{what}: {where} takes no more requests for now{reason}: {later}, log in for a higher "
            f"limit, or name a mirror in registries.{endpoint.name}.mirrors",
            code="rate_limited",
        )
    if status == 409:
        return Conflict(f"{what}: {where} says that it conflicts with what is there{reason}")
    if 400 <= status < 500:
        return InvalidSpec(f"{what}: {where} refuses it with status {status}{reason}")
    return Unavailable(f"{what}: {where} answers with status {status}{reason}: see its log, and {later}")


def denied(
    status: int, reason: str, what: str, endpoint: Endpoint, credentials: Credentials | None, *, sent: bool
) -> MooringError:
    """The error for 401 and 403: says whether credentials were sent, whose, and from where."""
    where = endpoint.where
    if credentials is None or not sent:
        return Unauthorized(
            f"{what}: {where} denies it without credentials{reason}: it does not exist there, or one must "
            f"log in; give credentials with the request, in registries.{endpoint.name}, or in docker's "
            "config.json"
        )
    whose = f"user {credentials.username!r}" if credentials.username else "a token"
    kind = Unauthorized if status == 401 else Denied
    advice = "check them" if status == 401 else "that user needs the right to it, or it does not exist"
    return kind(f"{what}: {where} denies it to {whose}, from {credentials.source}{reason}: {advice}")


def _shown(value: object) -> str:
    """A text from outside, fit to be shown: short, on one line, without control characters."""
    text = value if isinstance(value, str) else ""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _MAX_TEXT]).split())[:_MAX_TEXT]
