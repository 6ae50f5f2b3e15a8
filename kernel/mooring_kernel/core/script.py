# SPDX-License-Identifier: Apache-2.0
"""What the shell in a container is told: how it is launched, how it is prepared, how a cell reaches it.

No prompt is matched anywhere. The shell tells what happens by marks (see `marks.py`), all written to
/dev/tty, so that they arrive even after `exec >file`:

    A ; missing programs ; nonce ; the chosen shell     the launch script, before it becomes the shell
    C ;                  ; nonce                        the cell begins: only from here on is output its own
    D ; exit status      ; nonce ; working directory    the shell would show its prompt: the cell is over

A cell travels in base64, in lines that fit the terminal's line buffer, and is ended by ^D (VEOF): so nothing
in it can be taken for something else by the terminal, and an unbalanced quote is a syntax error with status 2
instead of a shell that waits for more. ECHO is off while the shell itself reads and on while a cell runs, as
in any terminal: so a program that turns it off can be told from one that does not (it asks for a password).

Written for bash, dash and busybox ash; every line is POSIX sh but those that only bash gets to see.
"""

from __future__ import annotations

import base64
import re

# n_tty's line buffer holds 4096 bytes (N_TTY_BUF_SIZE, drivers/tty/n_tty.c); busybox may be built with less
# for a line.
_LINE = 200
_END_OF_FILE = b"\x04"

# Shells that cannot be driven: they read other languages.
FOREIGN_SHELLS = ("zsh", "fish", "csh", "tcsh", "nu", "pwsh", "xonsh", "elvish")

# $1 is the shell the user asked for, or nothing. --noediting: readline would put the terminal into raw mode.
# busybox leaves its line editor off because ECHO is off when it starts.
_LAUNCH = r"""
missing=
for program in base64 stty; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
stty -echo 2>/dev/null
shell=$1
if [ -z "$shell" ]; then
    shell=$(command -v bash) || shell=$(command -v sh) || shell=/bin/sh
fi
printf '\033]133;A;%s;$nonce;%s\007' "${missing# }" "$shell" >/dev/tty
case ${shell##*/} in
bash) exec "$shell" --noediting -i ;;
*) exec "$shell" -i ;;
esac
"""

# p: before the cell's text is read. It remembers $?, which reading the text would change: in dash and ash the
#    prompt is expanded in a subshell, so what d sees there cannot be kept there.
# c: the cell begins. Its status is the $? of the cell before, so that a cell may ask for it; under `set -e`
#    it must not fail.
# r: the cell has come to its end (it does not after an interrupt or a syntax error). It keeps the status, and
#    makes the prompt ours again in case the cell has changed it (activating a virtual environment does).
# d: in the place of the prompt. A program may have left the terminal in raw mode: it is made as it was.
#
# Under `set -v` bash would show PROMPT_COMMAND too: that option is off while no cell runs.
# \eval: so that no alias of a cell stands in its place.
# ignoreeof: when a background job ends, busybox ash is interrupted in fgets and takes that for the end of its
# input.
#
# PS0 must be unset: bash 5.2 with an empty one prints freed memory after a syntax error in eval.
# Redirecting the group, and not the command, keeps the trace of `set -x` off the terminal.
_BOOTSTRAP = r"""
__mooring_b=$(command -v base64)
__mooring_y=$(command -v stty)
__mooring_t=$("$__mooring_y" -g </dev/tty)
__mooring_s=0
__mooring_k=
__mooring_v=
__mooring_p() {
__mooring_s=${__mooring_k:-$?}
__mooring_k=
}
__mooring_c() {
case $- in
*e*) __mooring_s=0 ;;
esac
"$__mooring_y" echo </dev/tty || :
[ -z "$__mooring_v" ] || set -v
command printf '\033]133;C;;$nonce;\007' >/dev/tty
return "$__mooring_s"
}
__mooring_d() {
set -- "${__mooring_k:-$?}"
"$__mooring_y" "$__mooring_t" </dev/tty || :
case ${PWD-} in
*[[:cntrl:]]*) command printf '\033]133;D;%s;$nonce;\007' "$1" >/dev/tty ;;
*) command printf '\033]133;D;%s;$nonce;%s\007' "$1" "${PWD-}" >/dev/tty ;;
esac
}
__mooring_r() {
__mooring_k=$?
__mooring_v=
case $- in
*v*) __mooring_v=y; set +v ;;
esac
if [ -n "${BASH_VERSION-}" ]; then
unset PS0
PROMPT_COMMAND='{ __mooring_d; } 2>/dev/null'
PS1=
else
PS1='$({ __mooring_d; } 2>/dev/null)'
fi
PS2=
}
unset HISTFILE
if [ -n "${BASH_VERSION-}" ]; then
set +o history +H
IGNOREEOF=50
else
set -o ignoreeof
fi
__mooring_r
"""

_DECODE_BOOTSTRAP = b'\\eval "$(base64 -d)"\n'
# The line must not begin with a reserved word such as `{`: after an eval with an unterminated quote, bash 5.2
# would not see it as one, and would then read the cell's text as commands.
_DECODE_CELL = b'__mooring_p; \\eval "$("$__mooring_b" -d)"; { __mooring_r; } 2>/dev/null\n'
_BEGIN = "__mooring_c 2>/dev/null\n"
# A shell under `set -x` or `set -v` shows the lines above on the terminal; with this they are known.
OWN_PREFIX = "__mooring_"
# What shells say about an end of input that they ignore.
_IGNORED_END = re.compile(rb'\r?\n?Use "exit" to leave (?:the )?shell\.\r?\n')

ENVIRONMENT = {
    "TERM": "xterm-256color",
    "PS1": "",
    "PS2": "",
    # A pager would want the whole screen.
    "PAGER": "cat",
    "MANPAGER": "cat",
    "GIT_PAGER": "cat",
    "SYSTEMD_PAGER": "cat",
}


def launch_argv(nonce: str, shell: str | None) -> list[str]:
    """Return what to execute in the container: a script that turns ECHO off and becomes the shell.

    Without `shell` it is bash where the container has it, and else sh.
    """
    return [shell or "/bin/sh", "-c", _with_nonce(_LAUNCH, nonce), "mooring", shell or ""]


def bootstrap(nonce: str) -> bytes:
    """Return what to write to the new shell so that it gives marks. The first D mark is the answer to it."""
    return _DECODE_BOOTSTRAP + _encoded(_with_nonce(_BOOTSTRAP, nonce))


def cell(code: str) -> bytes:
    """Return what to write to the shell so that it runs `code`, which must hold no NUL."""
    return _DECODE_CELL + _encoded(_BEGIN + code)


def without_own_words(said: bytes) -> bytes:
    """Return what was said between two cells, without what a shell says because a notebook drives it."""
    return _IGNORED_END.sub(b"", said)


def _with_nonce(script: str, nonce: str) -> str:
    return script.replace("$nonce", nonce)


def _encoded(text: str) -> bytes:
    data = base64.b64encode(text.encode("utf-8", "surrogateescape"))
    lines = [data[start : start + _LINE] for start in range(0, len(data), _LINE)]
    return b"\n".join(lines) + b"\n" + _END_OF_FILE
