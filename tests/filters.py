"""What a seccomp filter does with a call: the kernel's part, in Python, for tests.

Classic BPF over struct seccomp_data, little-endian, and only the instructions that filters have.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

# AUDIT_ARCH_* of what the tests look at; x32 is x86_64 with a bit in the number.
X86_64, X86, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
X32_BIT = 0x40000000
ALLOW, KILL_PROCESS, KILL_THREAD, TRAP, LOG = 0x7FFF0000, 0x80000000, 0, 0x00030000, 0x7FFC0000
_INSTRUCTION = struct.Struct("<HBBI")


def errno_of(error: int) -> int:
    """SECCOMP_RET_ERRNO with *error*."""
    return 0x00050000 | error


def run(program: bytes, architecture: int, number: int, arguments: Sequence[int] = ()) -> int:
    """The action that *program* returns for a call."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *padded)
    accumulator: int = 0
    place = 0
    while True:
        code, true, false, value = _INSTRUCTION.unpack_from(program, 8 * place)
        place += 1
        if code == 0x20:
            assert value % 4 == 0 and value < len(data)
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:
            accumulator &= value
        elif code == 0x05:
            place += value
        elif code == 0x06:
            return int(value)
        else:
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: accumulator & value != 0,
            }[code]
            place += true if holds else false


def check(program: bytes) -> None:
    """What the kernel looks at before it takes a program: its size, and where jumps lead."""
    assert len(program) % 8 == 0 and 0 < len(program) // 8 <= 4096
    length = len(program) // 8
    for place in range(length):
        code, true, false, value = _INSTRUCTION.unpack_from(program, 8 * place)
        assert code in (0x20, 0x54, 0x05, 0x06, 0x15, 0x25, 0x35, 0x45), hex(code)
        farthest = {0x05: value, 0x06: -1, 0x20: 0, 0x54: 0}.get(code, max(true, false))
        assert place + 1 + farthest < length
    assert _INSTRUCTION.unpack_from(program, 8 * (length - 1))[0] == 0x06
