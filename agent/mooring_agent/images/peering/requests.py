# SPDX-License-Identifier: Apache-2.0
"""What a peer asks for, read out of its request (OCI distribution-spec 1.1, "Pull"). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

MAX_WAIT = 10.0
"""Seconds that an answer is put off at most, for what is on its way here."""

_NAME = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
_CALL = re.compile(
    rf"/v2/(?P<name>{_NAME})/(?:manifests/(?P<reference>[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}|sha256:[0-9a-f]{{64}})"
    r"|blobs/(?P<digest>sha256:[0-9a-f]{64}))"
)
_RANGE = re.compile(r"bytes=(\d{1,19})-(\d{0,19})")
_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})\b")


@dataclass(frozen=True, slots=True)
class Call:
    """One call: a manifest by `reference`, a blob by `digest`, or with neither the root of the API."""

    name: str = ""
    reference: str = ""
    digest: str = ""
    registry: str | None = None


def parse_target(target: str) -> Call | None:
    """Read a request's target; None for what is no call of the specification's read side.

    `?ns=REGISTRY`, as containerd sends it to mirrors, tells the registry of the repository.
    """
    path, _, query = target.partition("?")
    if path in ("/v2/", "/v2"):
        return Call()
    found = _CALL.fullmatch(unquote(path))
    if found is None:
        return None
    registry = parse_qs(query).get("ns", [None])[0]
    return Call(found["name"], found["reference"] or "", found["digest"] or "", registry)


def parse_range(header: str | None, size: int) -> range | None:
    """The bytes of `size` that a Range asks for (RFC 9110, 14.2), None if none of them exist.

    What is no single range with a beginning is ignored, as the RFC allows, and all bytes are meant.
    """
    found = _RANGE.fullmatch((header or "").strip())
    if found is None:
        return range(size)
    start = int(found[1])
    end = min(int(found[2]) + 1, size) if found[2] else size
    if found[2] and int(found[2]) < start:
        return range(size)
    return range(start, end) if start < size else None


def parse_wait(prefer: str | None) -> float:
    """Seconds that a client would rather wait than be sent away (`Prefer: wait=N`, RFC 7240, 4.3)."""
    found = _WAIT.search(prefer or "")
    return min(float(found[1]), MAX_WAIT) if found else 0.0
