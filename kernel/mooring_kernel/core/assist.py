# SPDX-License-Identifier: Apache-2.0
"""Completion and inspection for cells: asked of the container by a command of its own, never of the live
shell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from . import words
from .client import Client
from .errors import KernelError

_DEADLINE = 2.0  # seconds
_MOST = 500
_MAX_OUTPUT = 256 << 10

# What is neither a file nor found in PATH (POSIX XCU, sections 2.4, 2.14 and the builtins that bash adds).
_BUILTIN_WORDS = """
. : [ alias bg break case cd command continue do done echo elif else esac eval exec exit export false fc
fg fi for function getopts hash if in jobs kill let local printf pwd read readonly return select set
shift source test then time times trap true type ulimit umask unalias unset until wait while
"""
_BUILTINS = frozenset(_BUILTIN_WORDS.split())

# $1: file or command, $2: what the names begin with. The answers are divided by NUL, since a name may hold
# anything else.
_COMPLETE = r"""
n=0
say() { n=$((n + 1)); [ "$n" -le 500 ] || exit 0; printf '%s\0' "$1"; }
case $1 in
file)
    given=$2
    prefix=$2
    case $2 in
    '~/'*) prefix=$HOME/${2#'~/'} ;;
    esac
    for file in "$prefix"*; do
        [ -e "$file" ] || [ -L "$file" ] || continue
        end=
        [ ! -d "$file" ] || end=/
        say "$given${file#"$prefix"}$end"
    done
    ;;
variable)
    env | while IFS= read -r line; do
        name=${line%%=*}
        case $name in
        *[!A-Za-z0-9_]*) ;;
        "$2"*) say "$name" ;;
        esac
    done
    ;;
command)
    IFS=:
    for directory in $PATH; do
        for file in "$directory/$2"*; do
            if [ -x "$file" ] && [ ! -d "$file" ]; then say "${file##*/}"; fi
        done
    done
    ;;
esac
"""

_INSPECT = r"""
found=$(command -V "$1" 2>/dev/null) || {
    [ -e "$1" ] && exec ls -ld -- "$1"
    exit 1
}
printf '%s\n' "$found"
path=$(command -v "$1")
case $path in
/*)
    ls -l -- "$path"
    case $(readlink -f -- "$path") in
    */busybox) printf '\n'; "$path" --help 2>&1 </dev/null; exit 0 ;;
    esac
    ;;
*) if [ -n "${BASH_VERSION-}" ]; then printf '\n'; help -- "$1" 2>/dev/null && exit 0; fi ;;
esac
if command -v man >/dev/null 2>&1; then
    printf '\n'
    MANPAGER=cat MANWIDTH=100 man -- "$1" 2>/dev/null </dev/null | head -n 300
fi
exit 0
"""

_INCOMPLETE = re.compile(
    r"unexpected end of file|end of file unexpected|unexpected EOF while looking for matching"
    r"|unterminated quoted string|delimited by end-of-file|EOF in backquote|missing '}'",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Completions:
    """What may stand in the place of `code[start:end]`."""

    matches: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Place:
    """Where a shell is: what a command beside it needs to see the same files."""

    client: Client
    container: str
    shell: str
    user: str | None
    directory: str | None


class Assistant:
    """Answers an editor's questions about cells for the shell in one place. Whatever fails, there is just no
    answer.
    """

    def __init__(self) -> None:
        self._variables: set[str] = set()
        self._functions: set[str] = set()

    def learn(self, code: str) -> None:
        """Remember the names that a cell defines: the live shell is not asked for them."""
        variables, functions = words.defined_names(code)
        self._variables |= variables
        self._functions |= functions

    def complete(self, place: Place, code: str, cursor: int) -> Completions:
        """Return what the word at the cursor may become."""
        word = words.word_at(code, cursor)
        if word.kind == "variable":
            names = {*self._ask(place, "variable", word.value), *self._known(self._variables, word.value)}
            return Completions(tuple(sorted(names)[:_MOST]), word.start, cursor)
        if word.kind == "command" and "/" not in word.value:
            if not word.value:
                return Completions((), cursor, cursor)
            names = {
                *self._ask(place, "command", word.value),
                *self._known(self._functions, word.value),
                *self._known(_BUILTINS, word.value),
            }
        else:
            names = set(self._ask(place, "file", word.value))
        matches = tuple(words.quoted(name, word.quote) for name in sorted(names)[:_MOST])
        return Completions(matches, word.start, cursor)

    def inspect(self, place: Place, code: str, cursor: int) -> str | None:
        """Return what the container says about the command or file at the cursor."""
        word = words.whole_word(code, cursor)
        if not word.value or word.kind == "variable":
            return None
        try:
            result = place.client.exec(
                place.container,
                [place.shell, "-c", _INSPECT, "sh", word.value],
                user=place.user,
                workdir=place.directory,
                timeout=_DEADLINE,
                max_output=_MAX_OUTPUT,
            )
        except KernelError:
            return None
        text = result.stdout.strip()
        return text if text and result.exit_code == 0 else None

    def check(self, place: Place, code: str) -> str:
        """Return whether a shell would take the text as it is: `complete`, `incomplete`, `invalid` or
        `unknown`.
        """
        if words.ends_open(code):
            return "incomplete"
        try:
            result = place.client.exec(
                place.container, [place.shell, "-n"], user=place.user, stdin=code + "\n", timeout=_DEADLINE
            )
        except KernelError:
            return "unknown"
        if result.timed_out:
            return "unknown"
        if _INCOMPLETE.search(result.stderr):
            return "incomplete"
        return "complete" if result.exit_code == 0 else "invalid"

    def _ask(self, place: Place, kind: str, prefix: str) -> list[str]:
        try:
            result = place.client.exec(
                place.container,
                ["/bin/sh", "-c", _COMPLETE, "sh", kind, prefix],
                user=place.user,
                workdir=place.directory,
                timeout=_DEADLINE,
                max_output=_MAX_OUTPUT,
            )
        except KernelError:
            return []
        names = result.stdout.split("\0")
        if names[-1] or result.truncated:
            names = names[:-1]  # cut off in the middle
        return [name for name in names if name]

    @staticmethod
    def _known(names: Iterable[str], prefix: str) -> list[str]:
        return [name for name in names if name.startswith(prefix)]
