# SPDX-License-Identifier: Apache-2.0
"""What keeps a container's processes from what: system call filters and the labels of security modules."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from mooring_agent.engine.resources.options import Type, refusal
from mooring_agent.errors import InvalidSpec, MooringError

DEFAULT, UNCONFINED = "default", "unconfined"
# AppArmor's profile names and SELinux' fields: words without blanks and control characters.
_WORD = re.compile(r"[^\s\x00-\x1f]{1,255}")
_SELINUX = re.compile(r"(user|role|type|level):[^\s\x00-\x1f]{1,255}")


class Seccomp(Type["str | Mapping[str, Any]"]):
    """ "default", "unconfined", or a profile in Docker's format, as a mapping or as its JSON."""

    _EXPECTED = '"default", "unconfined" or a profile in Docker\'s format'

    def parse(self, value: object, where: str) -> str | Mapping[str, Any] | None:
        """See `Type.parse`."""
        if value in (DEFAULT, UNCONFINED):
            return str(value)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                raise refusal(where, value, self._EXPECTED) from None
        if not isinstance(value, Mapping):
            raise refusal(where, value, self._EXPECTED)
        # The command line reads sizes through this package, and has no need of what knows system calls.
        from mooring_agent.runtime.seccomp_syntax import parse

        try:
            parse(value)
        except MooringError as error:
            raise InvalidSpec(f"{where}: {error.message}") from None
        if value.get("listenerPath"):
            raise InvalidSpec(
                f"{where} has listenerPath, which a container of an agent cannot have, since nobody sees to "
                "it that the listener is there at every start; leave it out, and SCMP_ACT_NOTIFY with it"
            )
        return value

    def dump(self, value: str | Mapping[str, Any]) -> Any:
        """See `Type.dump`."""
        return value

    def show(self, value: str | Mapping[str, Any]) -> str:
        """See `Type.show`: a profile is told from another one, not printed."""
        if isinstance(value, str):
            return value
        canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
        return f"profile {hashlib.sha256(canonical.encode()).hexdigest()[:12]}"


def apparmor_profile(text: str, where: str) -> str:
    """Check the name of an AppArmor profile."""
    if not _WORD.fullmatch(text):
        raise refusal(where, text, 'the name of an AppArmor profile, or "unconfined"')
    return text


def selinux_option(text: str, where: str) -> str:
    """Check a part of an SELinux label as Docker writes it: "type:container_t", or "disable"."""
    if text != "disable" and not _SELINUX.fullmatch(text):
        raise refusal(where, text, '"disable", or "user:", "role:", "type:" or "level:" and a value')
    return text
