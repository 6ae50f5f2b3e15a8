# SPDX-License-Identifier: Apache-2.0
"""Names of images, read and completed as Docker does it (the grammar of distribution's `reference` package).

`busybox` is short for `docker.io/library/busybox:latest`; users are shown the short form, the long one is
stored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mooring_agent.errors import InvalidSpec

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"

_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_MAX_PATH = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")
_ID = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """The name of an image, complete: `domain/path` and a tag, a digest, or both."""

    domain: str
    path: str
    tag: str | None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a name as a user writes it; without tag and digest it gets the tag `latest`.

        Raises InvalidSpec that names the text and the part of it that is wrong.
        """
        if not text or text != text.strip():
            raise _bad(text, "it is empty or has blanks around it")
        if _ID.fullmatch(text):
            raise _bad(text, "64 hexadecimal digits are an image ID, not a name")
        rest, _, digest = text.partition("@")
        if digest and not _DIGEST.fullmatch(digest):
            raise _bad(text, f"the digest {digest!r} is not sha256: and 64 lower-case hexadecimal digits")
        if text.endswith("@"):
            raise _bad(text, "the digest after @ is missing")
        name, colon, tag = rest.rpartition(":")
        if not colon or "/" in tag:
            name, colon, tag = rest, "", ""
        if colon and not _TAG.fullmatch(tag):
            raise _bad(
                text, f"the tag {tag!r} is not 1 to 128 letters, digits, _ . or -, beginning with no . or -"
            )
        domain, path = _split_domain(name)
        _check_name(text, domain, path)
        return cls(domain, path, tag or (None if digest else DEFAULT_TAG), digest or None)

    @property
    def repository(self) -> str:
        """The long name without tag and digest."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_repository(self) -> str:
        """The short name without tag and digest, as `docker images` shows it."""
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        short = self.path.removeprefix(_OFFICIAL)
        # A short name that would be read as a host again has to keep its prefix.
        return short if short == self.path or _split_domain(short) == (self.domain, self.path) else self.path

    @property
    def familiar(self) -> str:
        """The short name, with tag and digest."""
        return self.familiar_repository + self._suffix()

    def __str__(self) -> str:
        """The long name, with tag and digest; it is what is stored."""
        return self.repository + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def _split_domain(name: str) -> tuple[str, str]:
    """Tell a host from the first component of a path, as splitDockerDomain does."""
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        domain, path = DEFAULT_DOMAIN, name
    else:
        domain, path = first, rest
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    return domain, path


def _check_name(text: str, domain: str, path: str) -> None:
    if not _DOMAIN.fullmatch(domain):
        raise _bad(text, f"{domain!r} is no host name with an optional port")
    if len(path) > _MAX_PATH:
        raise _bad(text, f"the name has {len(path)} characters, more than {_MAX_PATH}")
    for component in path.split("/"):
        if _COMPONENT.fullmatch(component):
            continue
        if not component:
            raise _bad(text, "a part of the name is empty")
        if component != component.lower() and _COMPONENT.fullmatch(component.lower()):
            raise _bad(text, f"{component!r} has capital letters and a name must be in lower case")
        raise _bad(
            text,
            f"{component!r} is not lower-case letters and digits, separated by single . or _, by __ or by -",
        )


def _bad(text: str, what: str) -> InvalidSpec:
    return InvalidSpec(
        f"image name {text!r} is not valid: {what} (expected [HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST])"
    )
