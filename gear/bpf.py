"""Programs in classic BPF that decide about system calls, put together from labels.

Pure.  Not a compiler of whole profiles, which libseccomp is (gear/seccomp.py): this is for the few decisions that
libseccomp can't express, which are put in front of its program.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence

from gear.errors import UsageError
from gear.records import dataclass, field

# BPF_MAXINSNS: the kernel loads no longer program.
MOST_INSTRUCTIONS = 4096
# linux/bpf_common.h: load a word, and, jump, jump if equal / greater / greater or equal, return a constant.
LOAD, AND, JUMP, EQUAL, GREATER, NOT_LESS, RETURN = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x06
# Where struct seccomp_data has what (seccomp(2)).
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
_WORD = 0xFFFFFFFF
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
        self.load(condition.index, True, mask >> 32)
        if condition.operator in ("GT", "GE"):
            self.test(GREATER, wanted >> 32, true, "")
        self.test(EQUAL, wanted >> 32, "", false)
        self.load(condition.index, False, mask & _WORD)
        code = {"GT": GREATER, "GE": NOT_LESS}.get(condition.operator, EQUAL)
        self.test(code, wanted & _WORD, true, false)

    def load(self, index: int, high: bool, mask: int = _WORD) -> None:
        """One half of an argument, into the accumulator."""
        self.emit(LOAD, ARGUMENTS + 8 * index + 4 * (high != self.big_endian))
        if mask != _WORD:
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
    for (index, high, action), group in itertools.groupby(rules, _alternative):
        alternatives = [conditions for conditions, _ in group]
        if index is None:
            for conditions in alternatives:
                _decide_one(program, conditions, action)
        else:
            _decide_values(program, index, high, [conditions[0].value for conditions in alternatives], action)


def _alternative(rule: tuple[Sequence[Condition], int]) -> tuple[int | None, int, int]:
    """The same for rules that only differ in what one argument equals, in its low half."""
    conditions, action = rule
    if len(conditions) == 1 and conditions[0].operator == "EQ":
        return conditions[0].index, conditions[0].value >> 32, action
    return None, 0, action


def _decide_one(program: Program, conditions: Sequence[Condition], action: int) -> None:
    after = program.fresh()
    for condition in conditions:
        holds = program.fresh()
        program.test_argument(condition, holds, after)
        program.label(holds)
    program.emit(RETURN, action)
    program.label(after)


def _decide_values(program: Program, index: int, high: int, values: Sequence[int], action: int) -> None:
    """One load for many values of an argument, such as the families of socket(2)."""
    for start in range(0, len(values), _FARTHEST // 2):
        after, found = program.fresh(), program.fresh()
        some = values[start : start + _FARTHEST // 2]
        program.load(index, True)
        program.test(EQUAL, high, "", after)
        program.load(index, False)
        for value in some[:-1]:
            program.test(EQUAL, value & _WORD, found, "")
        program.test(EQUAL, some[-1] & _WORD, found, after)
        program.label(found)
        program.emit(RETURN, action)
        program.label(after)
