"""Programs in classic BPF that decide about system calls, put together from labels.

Pure.  Not a compiler of whole profiles, which libseccomp is (gear/seccomp.py): this is for the few decisions that
libseccomp can't express, which are put in front of its program.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from gear.errors import UsageError

# BPF_MAXINSNS: the kernel loads no longer program.
MOST_INSTRUCTIONS = 4096
# linux/bpf_common.h: load a word, and, jump, jump if equal / greater / greater or equal, return a constant.
LOAD, AND, JUMP, EQUAL, GREATER, NOT_LESS, RETURN = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x06
# Where struct seccomp_data has what (seccomp(2)).
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
# The longest way of a conditional jump, whose offsets are of 8 bits.
_FARTHEST = 255


@dataclass(frozen=True)
class Condition:
    """A comparison of one argument, as in libseccomp and OCI: for MASKED_EQ *value* is the mask, *second* the value."""

    index: int
    operator: str
    value: int
    second: int = 0


@dataclass
class Program:
    """Instructions, whose jumps name labels until they are assembled."""

    big_endian: bool = False
    _code: list[tuple[int, int, str, str]] = field(default_factory=list)
    _labels: dict[str, int] = field(default_factory=dict)
    _count: int = 0

    def fresh(self) -> str:
        """A label that nothing has yet."""
        self._count += 1
        return f"#{self._count}"

    def label(self, name: str) -> None:
        """What comes next is called *name*."""
        self._labels[name] = len(self._code)

    def emit(self, code: int, value: int) -> None:
        """An instruction that goes on to the next."""
        self._code.append((code, value, "", ""))

    def go(self, target: str) -> None:
        """A jump, however far."""
        self._code.append((JUMP, 0, target, ""))

    def test(self, code: int, value: int, true: str, false: str) -> None:
        """A comparison of the accumulator; an empty label is the next instruction."""
        self._code.append((code, value, true, false))

    def test_argument(self, condition: Condition, true: str, false: str) -> None:
        """A comparison of all 64 bits of an argument, in two halves; clobbers the accumulator."""
        if condition.operator in ("LT", "LE"):
            opposite = {"LT": "GE", "LE": "GT"}[condition.operator]
            self.test_argument(Condition(condition.index, opposite, condition.value), false, true)
            return
        if condition.operator == "NE":
            self.test_argument(Condition(condition.index, "EQ", condition.value), false, true)
            return
        masked = condition.operator == "MASKED_EQ"
        wanted, mask = (condition.second, condition.value) if masked else (condition.value, (1 << 64) - 1)
        high, low = ARGUMENTS + 8 * condition.index + 4, ARGUMENTS + 8 * condition.index
        if self.big_endian:
            high, low = low, high
        self._load(high, mask >> 32)
        if condition.operator in ("GT", "GE"):
            self.test(GREATER, wanted >> 32, true, "")
        self.test(EQUAL, wanted >> 32, "", false)
        self._load(low, mask & 0xFFFFFFFF)
        code = {"GT": GREATER, "GE": NOT_LESS}.get(condition.operator, EQUAL)
        self.test(code, wanted & 0xFFFFFFFF, true, false)

    def _load(self, offset: int, mask: int) -> None:
        self.emit(LOAD, offset)
        if mask != 0xFFFFFFFF:
            self.emit(AND, mask)

    def assemble(self, rest: bytes) -> bytes:
        """The program with *rest*, itself a program, at its end; the label `rest` is where that begins."""
        self.label("rest")
        if (length := len(self._code) + len(rest) // 8) > MOST_INSTRUCTIONS:
            raise UsageError(
                f"The seccomp profile makes a filter of {length} instructions; the kernel takes {MOST_INSTRUCTIONS}."
            )
        return b"".join(self._instruction(place) for place in range(len(self._code))) + rest

    def _instruction(self, place: int) -> bytes:
        code, value, true, false = self._code[place]
        if code == JUMP:
            return instruction(JUMP, self._way(place, true))
        ways = (self._way(place, true), self._way(place, false))
        assert max(ways) <= _FARTHEST, "a comparison jumps too far: go() there"
        return instruction(code, value, *ways)

    def _way(self, place: int, label: str) -> int:
        way = self._labels[label] - place - 1 if label else 0
        assert way >= 0, "no jump goes back"
        return way


def instruction(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    """A struct sock_filter, in the byte order of this machine, which is the only one that can load it."""
    return struct.pack("=HBBI", code, true, false, value)


def decide(program: Program, rules: Sequence[tuple[Sequence[Condition], int]]) -> None:
    """Return the action of the first rule whose conditions all hold; go on after the rules otherwise."""
    for conditions, action in rules:
        after = program.fresh()
        for condition in conditions:
            holds = program.fresh()
            program.test_argument(condition, holds, after)
            program.label(holds)
        program.emit(RETURN, action)
        program.label(after)
