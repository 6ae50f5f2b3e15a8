# SPDX-License-Identifier: Apache-2.0
"""nftables through libnftables.so.1, in this process: libnftables(3), nft(8), libnftables-json(5).

Changes are given in nft's own language and carried out as one transaction, all or nothing; listings come back
as JSON. (The JSON parser of libnftables 1.0.6, Debian 12's, crashes on the declaration of a map whose values
are concatenations, so JSON goes one way only.)

A context belongs to the thread that made it, and to the network namespace that this thread was in then.
"""

from __future__ import annotations

import ctypes
import json
import threading
from typing import Any

from ..errors import MissingProgram, MooringError

LIBRARY = "libnftables.so.1"

# <nftables/libnftables.h>
NFT_CTX_DEFAULT = 0
NFT_CTX_OUTPUT_JSON = 1 << 4


class NftError(MooringError):
    """nft refused a command: the message holds its own text, which points at the place."""

    code = "firewall"


class _Context:
    """The library's state of one thread; it goes with the thread."""

    handle: int | None = None

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.handle = library.nft_ctx_new(NFT_CTX_DEFAULT)
        if not self.handle:
            raise MooringError("libnftables could not open a netlink socket; it needs root and memory")
        self.library.nft_ctx_buffer_output(self.handle)
        self.library.nft_ctx_buffer_error(self.handle)

    def __del__(self) -> None:
        if self.handle:
            self.library.nft_ctx_free(self.handle)

    def call(self, command: str, flags: int) -> str:
        """Run commands and return what they print."""
        self.library.nft_ctx_output_set_flags(self.handle, flags)
        status = self.library.nft_run_cmd_from_buffer(self.handle, command.encode())
        output = self.library.nft_ctx_get_output_buffer(self.handle)
        error = self.library.nft_ctx_get_error_buffer(self.handle)
        if status:
            raise NftError(f"nftables refused a change: {_in_one_line(error.decode(errors='replace'))}")
        return str(output.decode())


class Nftables:
    """What a table keeper needs of nft. Safe to use from several threads."""

    def __init__(self) -> None:
        self._library: ctypes.CDLL | None = None
        self._lock = threading.Lock()
        self._of_thread = threading.local()

    def run(self, commands: str) -> None:
        """Carry out commands as one transaction. Raises NftError, or MissingProgram without the library."""
        self._context().call(commands, 0)

    def listing(self, command: str) -> list[dict[str, Any]]:
        """The objects of a `list` command as libnftables-json(5) describes them, without its metainfo."""
        answer = self._context().call(command, NFT_CTX_OUTPUT_JSON)
        objects: list[dict[str, Any]] = json.loads(answer)["nftables"] if answer else []
        return [entry for entry in objects if "metainfo" not in entry]

    def table(self, family: str, name: str) -> list[dict[str, Any]] | None:
        """What a table holds, like `listing`; None if there is no such table."""
        tables = self.listing(f"list tables {family}")
        if not any(item["table"]["name"] == name for item in tables):
            return None
        return self.listing(f"list table {family} {name}")

    def _context(self) -> _Context:
        found: _Context | None = getattr(self._of_thread, "context", None)
        if found is None:
            with self._lock:
                if self._library is None:
                    self._library = _load()
            found = self._of_thread.context = _Context(self._library)
        return found


def _in_one_line(error: str) -> str:
    """nft prints "Error: …", then the command, then a line that underlines the place.

    Of several commands it prints the first one, whichever was wrong, so that only "Error: …" is worth
    repeating.
    """
    lines = [line.strip() for line in error.splitlines()]
    return "; ".join(line for line in lines if "Error:" in line) or " ".join(lines)


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        raise MissingProgram(
            f"the library {LIBRARY} is not installed, and networks need it; install the package libnftables1"
        ) from None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_free.restype = None
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_ctx_output_set_flags.restype = None
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).restype = ctypes.c_char_p
        getattr(library, name).argtypes = [ctypes.c_void_p]
    return library
