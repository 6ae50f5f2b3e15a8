# SPDX-License-Identifier: Apache-2.0
"""What the agent and the keeper say to each other, typed in one place.

The transport is a SOCK_SEQPACKET unix socket: one message a packet, file descriptors beside it. A request
carries a number `seq`, and its one answer the same number; events carry 0. What may grow without bound
(plans, lists) travels as a memory file. The first message on a connection is `Hello`, and the keeper answers
with its own.

Either side may be the older one. A field at its default is left out of the packet, and one that the reader
does not know is passed over: so a field can be added without a new protocol where its absence harms nobody. A
message that the reader does not know is answered with Failed.
"""

from __future__ import annotations

import json
import os
from dataclasses import MISSING, Field, dataclass, field, fields
from types import NoneType
from typing import Any

# Raised whenever an older side could misunderstand a message.
PROTOCOL = 1
# The form of the state that a keeper hands to the program that takes its place (`handover`).
STATE = 1
PACKET_MAX = 64 << 10
DESCRIPTORS_MAX = 8


@dataclass(frozen=True)
class Hello:
    """Who is there, and which protocol it speaks. The keeper fills in both process ids (0 for a guardian
    that has been killed), and `code`, a hash of the code that it runs.
    """

    protocol: int = PROTOCOL
    version: str = ""
    pid: int = 0
    guardian: int = 0
    code: str = ""


@dataclass(frozen=True)
class Configure:
    """The shape of which `size` launchers are kept ready. With a size of 0 those go, too, that somebody has
    acquired and not used yet. Answered with Done.
    """

    shape: dict[str, Any]
    size: int


@dataclass(frozen=True)
class Acquire:
    """Give me a prepared launcher of this shape. Answered with Slot. It goes with the connection if it is not
    used.
    """

    shape: dict[str, Any]


@dataclass(frozen=True)
class Slot:
    """A launcher that waits: its name, which is also that of its control group, and its process id."""

    slot: str
    pid: int


@dataclass(frozen=True)
class Prepare:
    """Let the launcher `slot` become what descriptor 0, a plan that is `ahead`, says, up to its execve. The
    other fields are those of the Launch, without a plan, that follows; or a Release does. Answered with Done.
    """

    slot: str
    id: str
    terminal: bool
    stdin: bool
    log_directory: str
    log_size: int
    log_files: int


@dataclass(frozen=True)
class Launch:
    """Turn the launcher `slot` into the container `id`; descriptor 0 is the plan, if it has not got one by
    Prepare.

    Output goes to `log_directory` in segments of at most `log_size` bytes, of which `log_files` are kept.
    Answered with Launched or Failed.
    """

    slot: str
    id: str
    terminal: bool
    stdin: bool
    log_directory: str
    log_size: int
    log_files: int


@dataclass(frozen=True)
class Release:
    """The launcher `slot`, or the joiner of this name that is prepared, is not needed. Answered with Done,
    for a launcher when nothing of it is left.
    """

    slot: str


@dataclass(frozen=True)
class Exec:
    """Start process `id` in the container `container`; descriptor 0 is the join plan. Or `joiner` is one that
    PrepareExec has made for just such an exec, and `args` are the arguments.

    Answered with Launched, and with descriptors: the terminal's master alone, or what was asked for of
    standard input (its writing end), output and error (their reading ends), in this order. `note` is kept
    with the record, for an agent that was not there when it was started.
    """

    id: str
    container: str
    terminal: bool
    stdin: bool
    stdout: bool
    stderr: bool
    note: str = ""
    joiner: str = ""
    args: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PrepareExec:
    """Let a joiner, known as `joiner` from now on, become what descriptor 0, a join plan that is `ahead`,
    says. The other fields are those of the Exec that may follow; a Release does otherwise, or the end of the
    connection. Answered with Done. Not for terminals.
    """

    joiner: str
    container: str
    stdin: bool
    stdout: bool
    stderr: bool


@dataclass(frozen=True)
class Launched:
    """The process runs. `start_time` is field 22 of proc(5) stat."""

    pid: int
    start_time: int


@dataclass(frozen=True)
class Signal:
    """Send `number` to the process of container or exec `id`. Answered with Done or Failed."""

    id: str
    number: int


@dataclass(frozen=True)
class Resize:
    """Set the size of the terminal of `id`, in characters. Answered with Done or Failed."""

    id: str
    rows: int
    columns: int


@dataclass(frozen=True)
class Streams:
    """Give me the descriptors of `id` again: of a container its standard input or its terminal's master; of
    an exec those of Exec. Answered with Done and the descriptors.
    """

    id: str


@dataclass(frozen=True)
class CloseStdin:
    """Nothing more will be written to the standard input of `id`. Answered with Done."""

    id: str


@dataclass(frozen=True)
class SetLog:
    """New limits for the log of container `id`. Answered with Done."""

    id: str
    log_size: int
    log_files: int


@dataclass(frozen=True)
class Inventory:
    """Which processes are there? Answered with Done and a memory file: a JSON list of records as in
    `records.Record`.
    """


@dataclass(frozen=True)
class Forget:
    """The exit of `id` is known: its record may go. Answered with Done."""

    id: str


@dataclass(frozen=True)
class Shutdown:
    """End, together with the guardian. Refused with Failed while containers run. Answered with Done."""


@dataclass(frozen=True)
class Upgrade:
    """Go on as another program, without letting go of anything: `execve` descriptor 0 with `command` and one
    more argument, the number of the descriptor in which your state is.

    `states` are the forms of the state that the program understands. Answered with Done by that program, on
    this connection, or with Failed by the one that goes on as it is.
    """

    command: list[str]
    states: list[int]


@dataclass(frozen=True)
class Done:
    """It is done."""


@dataclass(frozen=True)
class Failed:
    """It could not be done. `exit_code` is that of a failed start, as a shell would give it; `gone` says that
    the launcher that was to become the container is not there any more.
    """

    message: str
    exit_code: int = 125
    gone: bool = False


@dataclass(frozen=True)
class Exited:
    """Event: the process of `id` has ended. `exit_code` is 128 + the signal's number for a killed one.

    `known` is false when nobody could learn the status; then `exit_code` is 255.
    """

    id: str
    exit_code: int
    known: bool
    finished_at: float


Message = (
    Hello
    | Configure
    | Acquire
    | Slot
    | Prepare
    | Launch
    | Release
    | Exec
    | PrepareExec
    | Launched
    | Signal
    | Resize
    | Streams
    | CloseStdin
    | SetLog
    | Inventory
    | Forget
    | Shutdown
    | Upgrade
    | Done
    | Failed
    | Exited
)


def _default(found: Field[Any]) -> Any:
    return found.default_factory() if found.default_factory is not MISSING else found.default


_TYPES: dict[str, Any] = {kind.__name__: kind for kind in Message.__args__}
_DEFAULTS = {
    kind: {each.name: _default(each) for each in fields(kind) if _default(each) is not MISSING}
    for kind in Message.__args__
}


class BadMessage(Exception):
    """A packet that is not a message of this protocol. `seq` is its number, 0 where even that is not
    known.
    """

    def __init__(self, text: str, seq: int = 0) -> None:
        super().__init__(text)
        self.seq = seq


_KINDS: dict[Any, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (float, int),
    "int | None": (int, NoneType),
    "float | None": (float, int, NoneType),
    "dict[str, Any]": (dict,),
    "list[str]": (list,),
    "list[int]": (list,),
}
# Fields that become parts of paths.
_NAMES = frozenset(("id", "container", "slot"))
_NAME_MAX = 200  # bytes; with what is appended to it a name of a file has 255 at most


def field_kinds(kind: Any) -> dict[str, tuple[type, ...]]:
    """What may be in each field of a dataclass; for `check_fields`."""
    return {each.name: _KINDS[each.type] for each in fields(kind)}


def check_fields(kinds: dict[str, tuple[type, ...]], content: dict[str, Any]) -> None:
    """Raise TypeError for a value that its field cannot have, ValueError for a name that leads elsewhere."""
    for name, value in content.items():
        wanted = kinds.get(name)
        if wanted is None:
            continue
        if type(value) not in wanted:
            raise TypeError(f"{name} is of type {type(value).__name__}, expected {wanted[0].__name__}")
        if name not in _NAMES:
            continue
        # A ValueError too for half a surrogate pair.
        too_long = len(value.encode()) > _NAME_MAX
        if too_long or "/" in value or "\0" in value or value in ("", ".", ".."):
            raise ValueError(f"{name} is {value[:40]!r}, expected a name")


_FIELD_KINDS = {kind: field_kinds(kind) for kind in Message.__args__}


def encode(message: Message, seq: int = 0) -> bytes:
    """One packet."""
    defaults = _DEFAULTS[type(message)]
    content = vars(message)
    if defaults:
        content = {name: value for name, value in content.items() if defaults.get(name, MISSING) != value}
    return json.dumps([type(message).__name__, seq, content], separators=(",", ":")).encode()


def decode(packet: bytes) -> tuple[int, Message]:
    """The number and the message of a packet. Raises BadMessage."""
    number = 0
    try:
        name, seq, content = json.loads(packet)
        number = int(seq)
        kind = _TYPES.get(name)
        if kind is None:
            raise BadMessage(
                f"packet of {len(packet)} bytes is a message {str(name)[:40]!r}, which this side does not "
                "know: it is older than the other, or the other is at fault",
                number,
            )
        check_fields(_FIELD_KINDS[kind], content)
        try:
            message: Message = kind(**content)
        except TypeError:
            known = {each.name for each in fields(kind)}
            message = kind(**{name: value for name, value in content.items() if name in known})
        return number, message
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BadMessage(f"packet of {len(packet)} bytes is not a message: {error}", number) from None


def memory_file(content: bytes) -> int:
    """A descriptor of an anonymous file with `content`, read from its start."""
    descriptor = os.memfd_create("mooring", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    return descriptor


def read_memory_file(descriptor: int) -> bytes:
    """All of a memory file; closes the descriptor."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read()
