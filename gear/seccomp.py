"""Seccomp filters: profiles compiled to the bytes that seccomp(2) loads, when a container is installed.

The only door to libseccomp, by its binding: Debian's python3-seccomp, or pyseccomp from PyPI, which is the same over
ctypes.  Not for loading: the helper does that at the start, and knows nothing of profiles.

Of several rules that match a call the strictest holds (in the kernel's order: kill, trap, errno, notify, trace, log,
allow), of equally strict ones that with conditions, then the first; where none matches, the default action.
libseccomp decides about calls whatever their arguments are.  In front of its program stands what it can't do:

- rules with conditions: libseccomp (2.5, 2.6) drops those of a call that has one without, in the order of the rules,
  gets several comparisons of one argument wrong, and on x86 looks at the arguments of socketcall for those of socket;
- calls that are newer than the installed libseccomp, whose names it does not know;
- calls that nobody knows yet: ENOSYS, so that programs fall back to older ones, where the default would refuse them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gear import seccomp_form as form
from gear import seccomp_profile
from gear.bpf import ARCHITECTURE, EQUAL, GREATER, LOAD, NOT_LESS, NUMBER, RETURN, Condition, Program, decide
from gear.document import DOCUMENT_LIMIT, parse_json
from gear.errors import GearError, HostError, NotFoundError, UsageError
from gear.files import read_bytes

# libseccomp's attribute for a binary tree (2.5): some eight comparisons for a call instead of up to four hundred.
_OPTIMIZE, _TREE = "CTL_OPTIMIZE", 2
_UNKNOWN = -1
# Numbers of x32 have this bit; they share the architecture of x86_64 (AUDIT_ARCH_X86_64).
_X32_BIT = 0x40000000
# Calls that Debian 12's or 13's libseccomp lacks.  Since Linux 5.1 all architectures here give new calls one number.
_NEWER = {
    "set_mempolicy_home_node": 450,
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
}
_NEWER_ON = {"SCMP_ARCH_X86_64": {"uretprobe": 335, "uprobe": 336}}
# A shorter hole in a table of calls stays one; new calls come at its end, and in the long hole before 424.
_HOLE = 16
_NUMBERS = range(640)
# ARM has some calls far above the others.
_PRIVATE = {"SCMP_ARCH_ARM": range(0xF0000, 0xF0010)}
_END = {"SCMP_ARCH_ARM": 0xEFFFF}


class _Machine(NamedTuple):
    native: str
    others: tuple[str, ...] = ()
    big_endian: bool = False


_X86 = _Machine("SCMP_ARCH_X86")
_ARM = _Machine("SCMP_ARCH_ARM")
# By what uname(2) calls it: its own architecture, and those whose programs its kernel runs besides.
_MACHINES = {
    "x86_64": _Machine("SCMP_ARCH_X86_64", ("SCMP_ARCH_X86", "SCMP_ARCH_X32")),
    "aarch64": _Machine("SCMP_ARCH_AARCH64", ("SCMP_ARCH_ARM",)),
    "i686": _X86,
    "armv7l": _ARM,
    "riscv64": _Machine("SCMP_ARCH_RISCV64"),
    "ppc64le": _Machine("SCMP_ARCH_PPC64LE"),
    "s390x": _Machine("SCMP_ARCH_S390X", ("SCMP_ARCH_S390",), big_endian=True),
    "loongarch64": _Machine("SCMP_ARCH_LOONGARCH64"),
}
# What to do with one call: rules with conditions, the strictest first, and the action of the rest, if there is any.
_Conditions = tuple[Condition, ...]
_Call = tuple[list[tuple[_Conditions, int]], int | None]


def default_profile() -> dict[str, Any]:
    """The profile of containers for which none is given, in Docker's form."""
    return seccomp_profile.default_profile()


def load_profile(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The profile in a file, in OCI's or in Docker's form, checked whole; raises GearError."""
    data = read_bytes(Path(path), DOCUMENT_LIMIT)
    if data is None:
        raise NotFoundError(f"There is no seccomp profile {os.fspath(path)}.")
    what = f"The seccomp profile {os.fspath(path)}"
    document = parse_json(data, what)
    form.parse(document, what)
    form.resolve(document, frozenset(), "", "", "", what)
    assert isinstance(document, dict)
    return document


def resolve(
    profile: dict[str, Any],
    capabilities: frozenset[str],
    *,
    machine: str | None = None,
    kernel: str | None = None,
) -> dict[str, Any]:
    """*profile*, in either form, as `linux.seccomp` for a container with *capabilities* in its bounding set."""
    machine = machine or os.uname().machine
    return form.resolve(
        profile, capabilities, machine, kernel or os.uname().release, _machine(machine).native
    )


def compile(profile: dict[str, Any], capabilities: frozenset[str], *, machine: str | None = None) -> bytes:
    """The filter of an installed container: an array of struct sock_filter; raises GearError."""
    plain = form.parse(resolve(profile, capabilities, machine=machine), "The seccomp profile")
    if any(rule.action == form.NOTIFY for rule in plain.rules):
        raise UsageError(
            "The seccomp profile has SCMP_ACT_NOTIFY, but nobody listens for a container's service.",
            hint="Use SCMP_ACT_ERRNO there; gear-oci takes profiles that name a listenerPath.",
        )
    return _filter(plain, machine)


def compile_oci(linux_seccomp: dict[str, Any], *, machine: str | None = None) -> tuple[bytes, int]:
    """The filter of `linux.seccomp` and the flags to load it with; raises GearError.

    SECCOMP_FILTER_FLAG_NEW_LISTENER is among the flags if and only if the filter asks a listener.
    """
    plain = form.parse(linux_seccomp)
    return _filter(plain, machine), form.load_flags(plain)


def _machine(name: str) -> _Machine:
    if name not in _MACHINES:
        raise HostError(
            f"gear has no seccomp filters for a machine of the kind {name}.",
            hint="Use --security-opt seccomp=unconfined.",
        )
    return _MACHINES[name]


def _binding() -> Any:
    """libseccomp's Python module, whichever of the two there is."""
    try:
        import seccomp as binding
    except ImportError:
        binding = None
    # PyPI has another package called seccomp.
    if not hasattr(binding, "SyscallFilter"):
        try:
            import pyseccomp as binding
        except (ImportError, RuntimeError, OSError) as error:
            # RuntimeError: pyseccomp is there, libseccomp is not.
            raise HostError(
                "Seccomp filters can't be compiled: there is no Python binding of libseccomp.",
                hint="Install it with apt-get install python3-seccomp, or pip install pyseccomp.",
            ) from error
    return binding


def _filter(plain: form.Filter, machine: str | None) -> bytes:
    here = _machine(machine or os.uname().machine)
    # Programs of other architectures can't run here, so rules for them are left out.
    architectures = [here.native, *(name for name in here.others if name in plain.architectures)]
    calls = {name: _call(rules) for name, rules in sorted(_by_name(plain.rules).items())}
    try:
        return _Compiler(_binding(), plain.default, here, architectures, calls).compile()
    except (RuntimeError, OSError, ValueError) as error:
        raise GearError(f"libseccomp can't compile the seccomp profile: {error}.") from error


def _by_name(rules: Sequence[form.Rule]) -> dict[str, list[form.Rule]]:
    found: dict[str, list[form.Rule]] = {}
    for rule in rules:
        # No call has another name, and Debian's binding can't even ask for one.
        for name in filter(str.isascii, dict.fromkeys(rule.names)):
            found.setdefault(name, []).append(rule)
    return found


def _strictness(action: int) -> int:
    """Less is stricter: the kernel compares actions as signed numbers, so that KILL_PROCESS is the least."""
    return _signed(action & 0xFFFF0000)


def _signed(action: int) -> int:
    """As the C int that Debian's binding takes for an action."""
    return action - (1 << 32) if action & 0x80000000 else action


def _call(rules: Sequence[form.Rule]) -> _Call:
    """What the rules about one call come to."""
    always = [rule.action for rule in rules if not rule.conditions]
    rest = min(always, key=_strictness) if always else None
    exceptions = {
        (rule.conditions, rule.action): None
        for rule in rules
        if rule.conditions
        and (rest is None or (_strictness(rule.action) <= _strictness(rest) and rule.action != rest))
    }
    return sorted(exceptions, key=lambda item: _strictness(item[1])), rest


def _holes(known: set[int], bit: int, end: int) -> list[tuple[int, int]]:
    """The ranges of numbers that no call has, of an architecture whose numbers have *bit* and end at *end*."""
    found, last = [], -1
    for number in sorted(known):
        if number - last > _HOLE:
            found.append(((last + 1) | bit, (number - 1) | bit))
        last = number
    return [*found, ((last + 1) | bit, end | bit)]


class _Compiler:
    """One filter in the making."""

    def __init__(
        self, binding: Any, default: int, here: _Machine, architectures: list[str], calls: dict[str, _Call]
    ) -> None:
        self.binding = binding
        self.default = default
        self.here = here
        self.calls = calls
        self.tokens = {name: self._token(name) for name in architectures}

    def _token(self, architecture: str) -> Any:
        token = getattr(self.binding.Arch, architecture.removeprefix("SCMP_ARCH_"), None)
        if token is None:
            raise HostError(f"The installed libseccomp does not know {architecture}.")
        return token

    def compile(self) -> bytes:
        """Our decisions, then libseccomp's."""
        rest = self._library()
        program = Program(big_endian=self.here.big_endian)
        blocks = {name: self._block(name) for name in self.tokens}
        if not any(calls or holes for calls, holes in blocks.values()):
            return program.assemble(rest)
        program.emit(LOAD, ARCHITECTURE)
        for name, token in self.tokens.items():
            if name != "SCMP_ARCH_X32":
                other = program.fresh()
                program.test(EQUAL, int(token) & 0xFFFFFFFF, "", other)
                program.go(name)
                program.label(other)
        program.go("rest")
        for name, (calls, holes) in blocks.items():
            program.label(name)
            if name != "SCMP_ARCH_X32":
                program.emit(LOAD, NUMBER)
            if name == "SCMP_ARCH_X86_64":
                own = program.fresh()
                program.test(NOT_LESS, _X32_BIT, "", own)
                program.go("SCMP_ARCH_X32" if "SCMP_ARCH_X32" in blocks else "rest")
                program.label(own)
            self._emit(program, calls, holes)
        return program.assemble(rest)

    def _emit(self, program: Program, calls: dict[int, _Call], holes: list[tuple[int, int]]) -> None:
        """Of one architecture; the number is in the accumulator."""
        bodies = {number: program.fresh() for number in calls}
        for number, body in bodies.items():
            other = program.fresh()
            program.test(EQUAL, number, "", other)
            program.go(body)
            program.label(other)
        for first, last in holes:
            inside, outside = program.fresh(), program.fresh()
            program.test(NOT_LESS, first, "", outside)
            program.test(GREATER, last, outside, inside)
            program.label(inside)
            program.emit(RETURN, form.ERRNO | errno.ENOSYS)
            program.label(outside)
        program.go("rest")
        for number, body in bodies.items():
            program.label(body)
            exceptions, always = calls[number]
            decide(program, exceptions)
            if always is None:
                program.go("rest")
            else:
                program.emit(RETURN, always)

    def _block(self, architecture: str) -> tuple[dict[int, _Call], list[tuple[int, int]]]:
        """What stands in front for an architecture: calls by number, and ranges of numbers that nobody knows."""
        newer = _NEWER | _NEWER_ON.get(architecture, {})
        bit = _X32_BIT if architecture == "SCMP_ARCH_X32" else 0
        numbers = self._numbers(architecture, bit)
        found: dict[int, _Call] = {}
        for name, (exceptions, always) in self.calls.items():
            if name in numbers:
                if exceptions:
                    found[numbers[name] | bit] = (exceptions, always)
            elif name in newer and self._by_name(name) == _UNKNOWN:
                found[newer[name] | bit] = (exceptions, always)
        if self.default in (form.ALLOW, form.LOG) or self.default & 0xFFFF0000 == form.TRACE:
            return found, []
        known = {*numbers.values(), *newer.values()} & set(_NUMBERS)
        return found, _holes(known, bit, _END.get(architecture, 0x3FFFFFFF))

    def _numbers(self, architecture: str, bit: int) -> dict[str, int]:
        """The calls of an architecture as libseccomp knows them.

        Found by number: by name x86 has socketcall for socket, although there is a socket of its own.
        """
        found = {}
        for number in (*_NUMBERS, *_PRIVATE.get(architecture, ())):
            try:
                name = self.binding.resolve_syscall(self.tokens[architecture], number | bit)
            except ValueError:
                continue
            if name:
                found[name.decode()] = number
        return found

    def _by_name(self, name: str) -> int:
        """The number of a call on this machine, or one below 0 of libseccomp's own for a call of another kind."""
        number: int = self.binding.resolve_syscall(self.binding.Arch.NATIVE, name)
        return number

    def _library(self) -> bytes:
        """What libseccomp makes of the rest."""
        binding = self.binding
        program = binding.SyscallFilter(_signed(self.default))
        if hasattr(binding.Attr, _OPTIMIZE):
            program.set_attr(getattr(binding.Attr, _OPTIMIZE), _TREE)
        for token in self.tokens.values():
            if not program.exist_arch(token):
                program.add_arch(token)
        if _machine(os.uname().machine).native not in self.tokens:
            program.remove_arch(binding.Arch.NATIVE)
        for name, (exceptions, always) in self.calls.items():
            # By name: Debian's binding makes socketcall of the number of socket on x86, see _numbers.
            if not exceptions and always not in (None, self.default) and self._by_name(name) != _UNKNOWN:
                program.add_rule(_signed(always), name)
        descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        with open(descriptor, "r+b") as file:
            program.export_bpf(file)
            file.seek(0)
            return file.read()
