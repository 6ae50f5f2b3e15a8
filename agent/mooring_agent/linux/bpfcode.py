# SPDX-License-Identifier: Apache-2.0
"""Instructions for the kernel's BPF machine, with labels for jumps.

Follows Documentation/bpf/standardization/instruction-set.rst. Pure.
"""

from __future__ import annotations

import struct

WIDTHS = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}  # BPF_B, BPF_H, BPF_W, BPF_DW: by bytes
_LDX_MEM, _STX_MEM, _LD_IMM64 = 0x61, 0x63, 0x18
_MOVE, _ADD, _AND, _SHIFT_LEFT = 0xB7, 0x07, 0x57, 0x67  # 64 bits, with a constant
_MOVE_REGISTER = 0xBF
_JUMP, _CALL, _EXIT = 0x05, 0x85, 0x95
_JUMPS = {"==": 0x15, "!=": 0x55, "== register": 0x1D, "!= register": 0x5D, "> register": 0x2D}
_PSEUDO_MAP_FD = 1
FRAME = 10
"""The register that points at the end of the stack."""


class Assembler:
    """A program in the making. Registers are numbers; labels are texts, and may be defined later."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, str | int, int]] = []
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        """What follows is called so."""
        self._labels[name] = len(self._code)

    def load(self, width: int, target: int, base: int, offset: int) -> None:
        """Fill `target` with `width` bytes that lie `offset` after where `base` points."""
        self._code.append((_LDX_MEM | WIDTHS[width], target, base, offset, 0))

    def store(self, width: int, base: int, offset: int, source: int) -> None:
        """Write the lower bytes of `source` to where `base` points, and `offset` on."""
        self._code.append((_STX_MEM | WIDTHS[width], base, source, offset, 0))

    def load_map(self, target: int, descriptor: int) -> None:
        """Let `target` stand for a map."""
        self._code.append((_LD_IMM64, target, _PSEUDO_MAP_FD, 0, descriptor))
        self._code.append((0, 0, 0, 0, 0))

    def move(self, target: int, source: int) -> None:
        """Copy a register."""
        self._code.append((_MOVE_REGISTER, target, source, 0, 0))

    def set(self, target: int, value: int) -> None:
        """Fill a register with a constant."""
        self._code.append((_MOVE, target, 0, 0, value))

    def add(self, target: int, value: int) -> None:
        """Add a constant."""
        self._code.append((_ADD, target, 0, 0, value))

    def mask(self, target: int, value: int) -> None:
        """Keep these bits."""
        self._code.append((_AND, target, 0, 0, value))

    def shift_left(self, target: int, bits: int) -> None:
        """Shift."""
        self._code.append((_SHIFT_LEFT, target, 0, 0, bits))

    def jump(self, label: str) -> None:
        """Go on there."""
        self._code.append((_JUMP, 0, 0, label, 0))

    def jump_if(self, register: int, relation: str, value: int, label: str) -> None:
        """Go on there if the relation ("==" or "!=") holds with a constant."""
        self._code.append((_JUMPS[relation], register, 0, label, value))

    def jump_unless_equal(self, register: int, other: int, label: str) -> None:
        """Go on there if two registers differ."""
        self._code.append((_JUMPS["!= register"], register, other, label, 0))

    def jump_if_equal(self, register: int, other: int, label: str) -> None:
        """Go on there if two registers hold the same."""
        self._code.append((_JUMPS["== register"], register, other, label, 0))

    def jump_if_greater(self, register: int, other: int, label: str) -> None:
        """Go on there if the first of two registers holds more (without a sign)."""
        self._code.append((_JUMPS["> register"], register, other, label, 0))

    def call(self, helper: int) -> None:
        """Call a function of the kernel (include/uapi/linux/bpf.h, BPF_FUNC_*)."""
        self._code.append((_CALL, 0, 0, 0, helper))

    def leave(self, value: int) -> None:
        """End with this result."""
        self.set(0, value)
        self._code.append((_EXIT, 0, 0, 0, 0))

    def assemble(self) -> bytes:
        """The program."""
        return b"".join(
            struct.pack(
                "=BBhI",
                operation,
                target | source << 4,
                self._labels[where] - number - 1 if isinstance(where, str) else where,
                value & 0xFFFFFFFF,
            )
            for number, (operation, target, source, where, value) in enumerate(self._code)
        )
