# SPDX-License-Identifier: Apache-2.0
"""Shell text as far as an editor needs to understand it: the word at the cursor, names that cells define.
Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_OPERATORS = ";|&()<>\n`"
# Reserved words and commands after which another command follows (POSIX XCU, section 2.4).
_BEFORE_COMMAND = {
    *(
        "!",
        "{",
        "do",
        "elif",
        "else",
        "if",
        "then",
        "until",
        "while",
        "time",
        "exec",
        "command",
        "builtin",
        "sudo",
    ),
    *("env", "nohup", "nice", "xargs", "exit"),
} - {"exit"}
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_VARIABLE = re.compile(r"(?:^|[^\\])\$(\{?)(\w*)\Z")
_SPECIAL = re.compile(r"([^\w@%+=:,./~-])")
_SPECIAL_IN_DOUBLE = re.compile(r'(["$`\\])')
_ASSIGNED = re.compile(
    r"(?:^|[\s;&|(])(?:export\s+|local\s+|readonly\s+|declare\s+(?:-\w+\s+)*)?([A-Za-z_]\w*)\+?=",
    re.MULTILINE,
)
_BOUND = re.compile(r"\b(?:for|read(?:\s+-\w+)*|export|getopts\s+\S+)\s+([A-Za-z_]\w*)")
_FUNCTION = re.compile(r"(?:^|[;&|{(])\s*(?:function\s+)?([A-Za-z_][\w-]*)\s*\(\s*\)", re.MULTILINE)
_HEREDOC = re.compile(r"(?<!<)<<(?!<)(-?)[ \t]*(['\"]?)([A-Za-z_]\w*)\2")


@dataclass(frozen=True)
class Word:
    """The word that ends at the cursor: where it starts, what it says without its quotes, and which quote is
    open.

    `kind` is `command`, `file` (an argument, or behind a redirection) or `variable`; then `start` is behind
    the `$`.
    """

    start: int
    value: str
    quote: str
    kind: str


def word_at(code: str, cursor: int) -> Word:
    """Return the word that ends at the cursor, which may be empty."""
    start, value, quote = 0, "", ""
    command = True
    in_word = False
    position = 0
    while position < cursor:
        character = code[position]
        if not in_word and character == "#":
            position = _end_of_line(code, position, cursor)
            continue
        if quote == "'":
            if character == "'":
                quote = ""
            else:
                value += character
        elif character == "\\" and position + 1 < cursor:
            in_word, start = True, start if in_word else position
            position += 1
            value += code[position]
        elif quote == '"':
            if character == '"':
                quote = ""
            else:
                value += character
        elif character in "'\"":
            in_word, start, quote = True, start if in_word else position, character
        elif character.isspace() or character in _OPERATORS:
            if in_word:
                command = _leads_to_command(value, command)
            if character not in " \t":
                command = character not in "<>"
            in_word, value = False, ""
        else:
            in_word, start = True, start if in_word else position
            value += character
        position += 1
    if not in_word:
        start, value = cursor, ""
    variable = _VARIABLE.search(code[start:cursor]) if quote != "'" else None
    if variable is not None:
        return Word(cursor - len(variable[2]), variable[2], quote, "variable")
    return Word(start, value, quote, "command" if command else "file")


def _end_of_line(code: str, position: int, cursor: int) -> int:
    end = code.find("\n", position, cursor)
    return cursor if end < 0 else end


def _leads_to_command(word: str, was_command: bool) -> bool:
    """Return whether a command follows the finished word."""
    return was_command and (word in _BEFORE_COMMAND or _ASSIGNMENT.match(word) is not None)


def whole_word(code: str, cursor: int) -> Word:
    """Return the word around the cursor, up to its end."""
    end = cursor
    while end < len(code) and not code[end].isspace() and code[end] not in _OPERATORS:
        end += 1
    return word_at(code, end)


def quoted(value: str, quote: str) -> str:
    """Return a value as it has to be written behind the quote that is open (`"`, `'` or nothing)."""
    if quote == "'":
        return "'" + value.replace("'", "'\\''")
    if quote == '"':
        return '"' + _SPECIAL_IN_DOUBLE.sub(r"\\\1", value)
    if "\n" in value:  # a backslash would take it away
        return "'" + value.replace("'", "'\\''") + "'"
    return _SPECIAL.sub(r"\\\1", value)


def defined_names(code: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the variables and the functions that a cell seems to define."""
    variables = frozenset(_ASSIGNED.findall(code)) | frozenset(_BOUND.findall(code))
    return variables, frozenset(_FUNCTION.findall(code))


def ends_open(code: str) -> bool:
    """Return whether more must follow by what the text alone shows: a line continued, a here-document not
    ended.
    """
    last = code.rsplit("\n", 1)[-1]
    if (len(last) - len(last.rstrip("\\"))) % 2:
        return True
    lines = code.split("\n")
    for number, line in enumerate(lines):
        for dash, _quote, delimiter in _HEREDOC.findall(line):
            rest = (each.lstrip("\t") if dash else each for each in lines[number + 1 :])
            if delimiter not in rest:
                return True
    return False


def next_indent(code: str) -> str:
    """Return the indentation that the line after an unfinished text deserves."""
    last = code.rstrip("\n").rsplit("\n", 1)[-1]
    indent = last[: len(last) - len(last.lstrip())]
    opens = re.search(r"(?:\b(?:do|then|else|in)|[{(])\s*\Z", last) is not None
    return indent + ("    " if opens else "")
