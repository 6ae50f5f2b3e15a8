# SPDX-License-Identifier: Apache-2.0
"""Heredocs of RUN, COPY and ADD: `<<WORD`, `<<-WORD`, `<<"WORD"`, several on a line."""

from __future__ import annotations

import re

from .errors import DockerfileError
from .syntax import Heredoc, Node
from .words import process_words

_HEREDOC = re.compile(r"[0-9]*<<(-?)[\t\n\f\r ]*([^<]+)")
_TAKES_HEREDOCS = frozenset(("add", "copy", "run"))


def heredocs_of(node: Node) -> list[Heredoc]:
    """The heredocs that the instruction announces, without their content. Raises DockerfileError."""
    inner = node.child or node
    if inner.name.lower() not in _TAKES_HEREDOCS or inner.json or "<<" not in node.original:
        return []
    try:
        words = process_words(node.original, _unset, quotes="keep", keep_escapes=True, keep_unset=True)
    except DockerfileError:
        # A shell may read what this lexer cannot; then there is no heredoc in it.
        return []
    return [heredoc for word in words if (heredoc := parse_heredoc(word)) is not None]


def parse_heredoc(word: str) -> Heredoc | None:
    """The heredoc that a word announces, None if it does not. Raises DockerfileError for an open quote."""
    found = _HEREDOC.fullmatch(word)
    if found is None:
        return None
    bare = process_words(found[2], _unset, keep_unset=True)
    if len(bare) != 1:
        return None
    kept = process_words(found[2], _unset, quotes="keep", keep_unset=True)
    quoted = _quotes("".join(kept)) != _quotes(bare[0])
    return Heredoc(bare[0], expand=not quoted, chomp=found[1] == "-")


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')


def _unset(_name: str) -> None:
    return None
