"""Which devices a control group of version 2 lets through: `linux.resources.devices` as a BPF program.

Version 1 has files for it (gear/runtime/groupfiles.py) and systemd has DeviceAllow= (gear/resources.py).  The rules are
an ordered list, and each later one overrides: so the program goes from the last to the first, and keeps which of the
rights that are asked for (read, write, mknod) no rule has granted yet.
"""

from __future__ import annotations

from gear.helper import syscalls
from gear.helper.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# linux/bpf.h
_PROG_TYPE_CGROUP_DEVICE = 15
_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2
_KINDS = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_BLOCK, BPF_DEVCG_DEV_CHAR
_RIGHTS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_MKNOD, _READ, _WRITE
_MOST = 480  # instructions that syscalls.bpf_load() takes

# What every container gets (config-linux.md, "Default Devices"): c MAJOR:MINOR, None for any.
DEFAULTS = [
    {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}
    for kind, major, minor, access in (
        ("c", None, None, "m"), ("b", None, None, "m"), ("c", 1, 3, "rwm"), ("c", 1, 5, "rwm"), ("c", 1, 7, "rwm"),
        ("c", 1, 8, "rwm"), ("c", 1, 9, "rwm"), ("c", 5, 0, "rwm"), ("c", 5, 1, "rwm"), ("c", 5, 2, "rwm"),
        ("c", 136, None, "rwm"),
    )
]  # fmt: skip


def _instruction(
    code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0
) -> bytes:
    """struct bpf_insn of linux/bpf.h, on a little-endian machine."""
    registers = destination | source << 4
    return (
        bytes((code, registers)) + offset.to_bytes(2, "little", signed=True)
        + immediate.to_bytes(4, "little", signed=True)
    )  # fmt: skip


def _return(value: int) -> bytes:
    return _instruction(0xB7, 0, immediate=value) + _instruction(0x95)  # r0 = value; exit


def normalise(rule: dict[str, Any]) -> tuple[bool, str, int | None, int | None, int]:
    """(allow, kind, major, minor, rights): kind `a` for both, None for any number."""
    kind = rule.get("type") or "a"
    if kind == "u":
        kind = "c"
    if kind not in ("a", "b", "c"):
        raise Failure(f"the type of a device rule can't be {kind}: it is a, b or c")
    numbers = []
    for member in ("major", "minor"):
        number = rule.get(member)
        numbers.append(None if number is None or number < 0 else int(number))
    access = rule.get("access") or "rwm"
    if not set(access) <= set(_RIGHTS):
        raise Failure(f"the access of a device rule can't be {access}: it is made of r, w and m")
    return bool(rule.get("allow")), kind, numbers[0], numbers[1], sum(_RIGHTS[one] for one in set(access))


def program(rules: list[dict[str, Any]]) -> bytes:
    """The BPF program for *rules*; the context is struct bpf_cgroup_dev_ctx."""
    # r2 = kind, r3 = rights that are asked for and not granted yet, r4 = major, r5 = minor
    code = [
        _instruction(0x61, 2, 1, 0), _instruction(0xBC, 3, 2), _instruction(0x54, 2, immediate=0xFFFF),
        _instruction(0x74, 3, immediate=16), _instruction(0x61, 4, 1, 4), _instruction(0x61, 5, 1, 8),
    ]  # fmt: skip
    for rule in reversed(rules):
        allow, kind, major, minor, rights = normalise(rule)
        if allow:
            # r3 &= ~rights; is nothing left, it is granted
            body = _instruction(0x54, 3, immediate=~rights & 7) + _instruction(0x55, 3, offset=2) + _return(1)
        else:
            # is any of them asked for, it is refused
            body = (
                _instruction(0x45, 3, offset=1, immediate=rights) + _instruction(0x05, offset=2) + _return(0)
            )
        tests = [(register, number) for register, number in ((4, major), (5, minor)) if number is not None]
        if kind != "a":
            tests.insert(0, (2, _KINDS[kind]))
        length = len(body) // 8
        for position, (register, number) in enumerate(tests):
            over = len(tests) - position - 1 + length
            code.append(_instruction(0x55, register, offset=over, immediate=_signed(number)))
        code.append(body)
    code.append(_return(1))  # no rule at all: what the group above allows
    whole = b"".join(code)
    if len(whole) // 8 > _MOST:
        raise Failure(f"config.json has {len(rules)} device rules, which is more than one program can hold")
    return whole


def _signed(number: int) -> int:
    if number >= 1 << 31:
        raise Failure(f"there is no device number {number}")
    return number


def attach(descriptor: int, rules: list[dict[str, Any]]) -> None:
    """Put the program for *rules* on the control group that *descriptor* is the directory of."""
    loaded = syscalls.bpf_load(_PROG_TYPE_CGROUP_DEVICE, _CGROUP_DEVICE, program(rules))
    syscalls.bpf_attach(descriptor, loaded, _CGROUP_DEVICE, _ALLOW_MULTI)
    import os

    os.close(loaded)
