# SPDX-License-Identifier: Apache-2.0
"""How the words of an instruction are expanded when it is built."""

from __future__ import annotations

from dataclasses import dataclass

from .words import Lookup, process_word, process_words


@dataclass(frozen=True, slots=True)
class Expansion:
    """The variables at one place of a build (ARG and ENV so far), and the Dockerfile's escape."""

    lookup: Lookup
    escape: str = "\\"

    def word(self, text: str) -> str:
        """A word that stays one."""
        return process_word(text, self.lookup, escape=self.escape)

    def words(self, text: str) -> list[str]:
        """A word that may become several."""
        return process_words(text, self.lookup, escape=self.escape)

    def content(self, text: str) -> str:
        """The content of a heredoc: quotes are letters, and the escape is a backslash in every Dockerfile."""
        return process_word(text, self.lookup, quotes="literal")
