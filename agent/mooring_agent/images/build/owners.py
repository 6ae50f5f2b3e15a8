# SPDX-License-Identifier: Apache-2.0
"""Users and groups by name or number, looked up in the passwd(5) and group(5) of a tree."""

from __future__ import annotations

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.build.tree import Tree
from mooring_agent.runtime.users import UnknownUser, resolve

_PASSWD, _GROUP = b"etc/passwd", b"etc/group"


def owner_of(tree: Tree, user: str) -> tuple[int, int]:
    """The ids of `user[:group]` as a container that runs as that user has them. Raises InvalidSpec."""
    try:
        identity = resolve(user, tree.text(_PASSWD), tree.text(_GROUP))
    except UnknownUser as error:
        raise InvalidSpec(f"{user!r} is no owner: {error}") from None
    return identity.uid, identity.gid


def chown_of(tree: Tree, text: str) -> tuple[int, int]:
    """The ids that `--chown` means: a number without a group is both. Raises InvalidSpec."""
    user, colon, group = text.partition(":")
    if user.isascii() and user.isdigit() and not group:
        return owner_of(tree, f"{user}:{user}")
    return owner_of(tree, f"{user or '0'}{colon if group else ''}{group}")
