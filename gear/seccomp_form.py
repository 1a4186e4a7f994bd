"""Seccomp profiles in JSON: what a stranger wrote, checked, and made plain.

Pure.  There are two forms: `linux.seccomp` of the OCI runtime specification, and Docker's, which adds `archMap` and
rules that hold for some capabilities, architectures and kernels only.  `resolve` makes the first of the second, `parse`
makes Filters of the first.  Neither knows the numbers of calls (gear/seccomp.py).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from gear.bpf import Condition
from gear.document import Node
from gear.errors import UsageError
from gear.records import dataclass

# linux/seccomp.h, SECCOMP_RET_*.
ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
ERRNO, NOTIFY, TRACE, LOG, ALLOW = (
    ACTIONS[f"SCMP_ACT_{name}"] for name in ("ERRNO", "NOTIFY", "TRACE", "LOG", "ALLOW")
)
# The most that errnoRet may be with the actions that take one: what libseccomp takes of the kernel's MAX_ERRNO (4095),
# and the 16 bits of SECCOMP_RET_DATA.
_DATA = {ERRNO: 4094, TRACE: 0xFFFF}
OPERATORS = tuple(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))
# linux/seccomp.h, SECCOMP_FILTER_FLAG_*.
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1 << 0,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 1 << 5,
}
ARCHITECTURES = tuple(
    f"SCMP_ARCH_{name}"
    for name in (
        "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X "
        "PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB"
    ).split()
)
NEW_LISTENER, TSYNC_ESRCH = 1 << 3, 1 << 4
# What Docker calls the machine in `includes` and `excludes`: the names of Go.
_DOCKER_NAMES = {
    "x86_64": "amd64",
    "i686": "x86",
    "aarch64": "arm64",
    "armv7l": "arm",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
    "loongarch64": "loong64",
}
# No profile that anybody wrote has more: a bound for the time that compiling takes.
_MOST_RULES = 20000


@dataclass(frozen=True)
class Rule:
    """What to do with calls by these names, when all conditions hold."""

    names: tuple[str, ...]
    action: int
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class Filter:
    """A profile made plain: nothing in it depends on the container any more."""

    default: int
    architectures: tuple[str, ...]
    flags: int
    rules: tuple[Rule, ...]


def _number(node: Node, name: str, most: int) -> int | None:
    value = node.value.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        node.fail(name, f"is not a number from 0 to {most}")
    return value


def _one_of(node: Node, name: str, known: Mapping[str, int] | tuple[str, ...], value: str) -> str:
    if value not in known:
        node.fail(name, f"is {value[:60]!r}, which does not exist")
    return value


def _action(node: Node, action: str, number: str, word: str) -> int:
    """The action that a member names, with its errno; Podman's profiles give that by name as well."""
    base = ACTIONS[_one_of(node, action, ACTIONS, node.text(action, None))]
    value = _number(node, number, 0xFFFFFFFF)
    if text := node.text(word):
        value = getattr(errno, text, None) if re.fullmatch(r"E[A-Z0-9]{1,20}", text) else None
        if value is None:
            node.fail(word, f"is {text[:60]!r}, which is no error of the system")
    if base not in _DATA:
        if value is not None:
            node.fail(number, f"is given, but {node.text(action)} returns no error")
        return base
    if value is not None and value > _DATA[base]:
        node.fail(number, f"is not a number from 0 to {_DATA[base]}")
    return base | (errno.EPERM if value is None else value)


def _condition(node: Node) -> Condition:
    index = _number(node, "index", 5)
    if index is None:
        node.fail("index", "is missing")
    operator = _one_of(node, "op", OPERATORS, node.text("op", None)).removeprefix("SCMP_CMP_")
    most = (1 << 64) - 1
    value, second = _number(node, "value", most) or 0, _number(node, "valueTwo", most) or 0
    # Bits outside the mask would make a comparison that is never true.
    return Condition(index, operator, value, second & value if operator == "MASKED_EQ" else 0)


def _names(node: Node) -> tuple[str, ...]:
    """`names`, or the `name` of Docker's older profiles."""
    names, name = node.texts("names") or (), node.text("name")
    if names and name:
        node.fail("name", "is given beside names")
    if not names and not name:
        node.fail("names", "is empty")
    return names or (name,)


def _rule(node: Node) -> list[Rule]:
    names = _names(node)
    action = _action(node, "action", "errnoRet", "errno")
    if action == NOTIFY and "write" in names:
        node.fail("names", "has write, which can't be asked about: the question itself is written")
    conditions = tuple(_condition(item) for item in node.nodes("args"))
    indexes = [condition.index for condition in conditions]
    if len(set(indexes)) < len(indexes):
        # What runc and crun make of it, since libseccomp takes one comparison of an argument in a rule: alternatives.
        return [Rule(names, action, (condition,)) for condition in conditions]
    return [Rule(names, action, conditions)]


def parse(document: Any, what: str = "The seccomp filter") -> Filter:
    """The content of `linux.seccomp`; raises IntegrityError with the place of what is wrong."""
    node = root(document, what)
    default = _action(node, "defaultAction", "defaultErrnoRet", "defaultErrno")
    if default == NOTIFY:
        node.fail("defaultAction", "is SCMP_ACT_NOTIFY: then nobody could even hear the question")
    flags = 0
    for flag in node.texts("flags") or ():
        flags |= FLAGS[_one_of(node, "flags", FLAGS, flag)]
    rules = [rule for item in node.nodes("syscalls") for rule in _rule(item)]
    if sum(len(rule.names) for rule in rules) > _MOST_RULES:
        node.fail("syscalls", f"has more than {_MOST_RULES} names")
    return Filter(default, _architectures(node), flags, tuple(rules))


def load_flags(plain: Filter) -> int:
    """The flags that seccomp(2) takes for a filter: it refuses some of them without a listener, and with one others."""
    if not any(rule.action == NOTIFY for rule in plain.rules):
        return plain.flags & ~FLAGS["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    tsync = TSYNC_ESRCH if plain.flags & FLAGS["SECCOMP_FILTER_FLAG_TSYNC"] else 0
    return plain.flags | NEW_LISTENER | tsync


def root(document: Any, what: str) -> Node:
    """*document* as the object that a profile is."""
    if not isinstance(document, dict):
        raise UsageError(f"{what} is not a JSON object.")
    return Node(document, what)


def _architectures(node: Node) -> tuple[str, ...]:
    given = node.texts("architectures") or ()
    return tuple(_one_of(node, "architectures", ARCHITECTURES, name) for name in given)


def resolve(
    document: Any,
    capabilities: frozenset[str],
    machine: str,
    kernel: str,
    native: str,
    what: str = "The seccomp profile",
) -> dict[str, Any]:
    """What Docker's form means for a container with *capabilities* on this machine, in OCI's form.

    *machine* and *kernel* are as uname(2) has them, *native* is the machine's SCMP_ARCH_*.
    """
    node = root(document, what)
    architectures = list(_architectures(node))
    entries = node.nodes("archMap")
    if entries and architectures:
        node.fail("archMap", "is given beside architectures")
    for entry in entries:
        own = _one_of(entry, "architecture", ARCHITECTURES, entry.text("architecture", None))
        others = entry.texts("subArchitectures") or ()
        checked = [_one_of(entry, "subArchitectures", ARCHITECTURES, name) for name in others]
        if own == native:
            architectures = [own, *checked]
    rules = []
    for item in node.nodes("syscalls"):
        if _holds(item, capabilities, _DOCKER_NAMES.get(machine, machine), kernel):
            rules.append({key: item.value[key] for key in item.value if key not in ("includes", "excludes")})
    members = (
        "defaultAction",
        "defaultErrnoRet",
        "defaultErrno",
        "flags",
        "listenerPath",
        "listenerMetadata",
    )
    plain = {key: node.value[key] for key in members if node.value.get(key) is not None}
    return {**plain, "architectures": architectures, "syscalls": rules}


def _holds(rule: Node, capabilities: frozenset[str], architecture: str, kernel: str) -> bool:
    """Whether a rule is one for this container; every list is checked, whether it decides or not."""
    holds, running = True, _version(kernel) or (0, 0)
    if includes := rule.node("includes"):
        arches, caps = includes.texts("arches") or (), includes.texts("caps") or ()
        holds = set(caps) <= capabilities and (not arches or architecture in arches)
        holds &= (least := _kernel(includes)) is None or running >= least
    if excludes := rule.node("excludes"):
        arches, caps = excludes.texts("arches") or (), excludes.texts("caps") or ()
        holds &= not set(caps) & capabilities and architecture not in arches
        holds &= (least := _kernel(excludes)) is None or running < least
    return holds


def _kernel(condition: Node) -> tuple[int, int] | None:
    text = condition.text("minKernel")
    if not text:
        return None
    return _version(text) or _bad_kernel(condition, text)


def _bad_kernel(condition: Node, text: str) -> NoReturn:
    condition.fail("minKernel", f"is {text[:40]!r}, which is no version of Linux such as 4.8")


def _version(text: str) -> tuple[int, int] | None:
    match = re.match(r"([0-9]{1,5})\.([0-9]{1,5})(?![0-9])", text)
    return (int(match[1]), int(match[2])) if match else None
