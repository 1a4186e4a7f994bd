"""Seccomp filters: what the compiled programs do with calls, run by an interpreter and by the kernel."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filters
import pytest
from filters import AARCH64, ALLOW, ARM, KILL_PROCESS, LOG, X32_BIT, X86, X86_64, errno_of
from hypothesis import given, settings
from hypothesis import strategies as st

from gear import seccomp, seccomp_profile
from gear.errors import GearError, HostError, IntegrityError, NotFoundError, UsageError

DOCKER_CAPABILITIES = frozenset(
    f"CAP_{name}"
    for name in (
        "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP "
        "SETUID SYS_CHROOT"
    ).split()
)
EPERM, ENOSYS, EINVAL = errno_of(errno.EPERM), errno_of(errno.ENOSYS), errno_of(errno.EINVAL)
HIGH = 0xFFFFFFFF_00000000
CLONE_FILES, CLONE_THREAD, SIGCHLD = 0x400, 0x10000, 17

# The numbers of calls, from the kernel's tables and not from libseccomp's.
NUMBERS = {
    X86_64: {
        "read": 0, "mmap": 9, "ioctl": 16, "vmsplice": 278, "socket": 41, "clone": 56, "execve": 59, "ptrace": 101,
        "personality": 135, "pivot_root": 155, "arch_prctl": 158, "chroot": 161, "acct": 163, "mount": 165,
        "swapon": 167, "reboot": 169, "sethostname": 170, "iopl": 172, "init_module": 175, "kexec_load": 246,
        "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "perf_event_open": 298,
        "open_by_handle_at": 304, "setns": 308, "finit_module": 313, "seccomp": 317, "bpf": 321, "userfaultfd": 323,
        "uretprobe": 335, "io_uring_setup": 425, "open_tree": 428, "clone3": 435, "openat2": 437,
        "landlock_add_rule": 445, "fchmodat2": 452, "statmount": 457, "lsm_list_modules": 461, "mseal": 462,
        "removexattrat": 466, "open_tree_attr": 467,
    },
    X86: {
        "read": 3, "execve": 11, "mount": 21, "ptrace": 26, "ioctl": 54, "chroot": 61, "reboot": 88, "socketcall": 102,
        "ipc": 117, "clone": 120, "modify_ldt": 123, "personality": 136, "init_module": 128, "pivot_root": 217,
        "add_key": 286, "request_key": 287, "keyctl": 288, "unshare": 310, "vmsplice": 316, "perf_event_open": 336,
        "setns": 346, "bpf": 357, "socket": 359, "userfaultfd": 374, "io_uring_setup": 425, "clone3": 435,
        "openat2": 437, "fchmodat2": 452, "statmount": 457, "mseal": 462, "open_tree_attr": 467,
    },
    AARCH64: {
        "ioctl": 29, "pivot_root": 41, "mount": 40, "read": 63, "unshare": 97, "personality": 92, "socket": 198,
        "add_key": 217, "request_key": 218, "keyctl": 219, "clone": 220, "execve": 221, "bpf": 280, "userfaultfd": 282,
        "setns": 268, "io_uring_setup": 425, "clone3": 435, "fchmodat2": 452, "mseal": 462, "open_tree_attr": 467,
    },
    ARM: {
        "read": 3, "execve": 11, "mount": 21, "ioctl": 54, "clone": 120, "personality": 136, "socket": 281,
        "keyctl": 311, "unshare": 337, "setns": 375, "bpf": 386, "io_uring_setup": 425, "clone3": 435,
        "fchmodat2": 452, "mseal": 462, "set_tls": 0xF0005, "cacheflush": 0xF0002,
    },
}  # fmt: skip
# x32 has most numbers of x86_64, and others where structures differ.
NUMBERS["x32"] = {  # type: ignore[index]
    name: number | X32_BIT
    for name, number in {
        **{
            name: number
            for name, number in NUMBERS[X86_64].items()
            if name not in ("ioctl", "execve", "ptrace", "uretprobe", "kexec_load", "finit_module")
        },
        "ioctl": 514, "execve": 520, "ptrace": 521,
    }.items()
}  # fmt: skip
Architecture = Any


def call(program: bytes, architecture: Architecture, name: str, *arguments: int) -> int:
    """What *program* returns for the call *name*."""
    number = NUMBERS[architecture][name]
    return filters.run(program, X86_64 if architecture == "x32" else architecture, number, arguments)


@pytest.fixture(scope="module")
def programs() -> dict[Architecture, bytes]:
    """The default filter with Docker's capabilities, by architecture."""
    profile = seccomp.default_profile()
    intel = seccomp.compile(profile, DOCKER_CAPABILITIES, machine="x86_64")
    arm = seccomp.compile(profile, DOCKER_CAPABILITIES, machine="aarch64")
    return {X86_64: intel, X86: intel, "x32": intel, AARCH64: arm, ARM: arm}


def everywhere(*names: str) -> list[tuple[Architecture, str]]:
    return [(arch, name) for arch, numbers in NUMBERS.items() for name in names if name in numbers]


DENIED = everywhere(
    *(
        "mount pivot_root unshare setns keyctl add_key request_key bpf perf_event_open userfaultfd kexec_load"
    ).split(),
    *(
        "init_module finit_module acct swapon reboot sethostname iopl open_by_handle_at io_uring_setup"
    ).split(),
    *("vmsplice open_tree open_tree_attr lsm_list_modules").split(),
)
ALLOWED = everywhere(
    *(
        "read mmap execve ptrace chroot arch_prctl modify_ldt seccomp openat2 landlock_add_rule socketcall ipc"
    ).split(),
    *("fchmodat2 statmount mseal removexattrat uretprobe set_tls cacheflush").split(),
)


@pytest.mark.parametrize(("architecture", "name"), DENIED)
def test_default_denies(programs: dict[Architecture, bytes], architecture: Architecture, name: str) -> None:
    for arguments in ((), (0xFFFFFFFFFFFFFFFF,) * 6):
        assert call(programs[architecture], architecture, name, *arguments) == EPERM


@pytest.mark.parametrize(("architecture", "name"), ALLOWED)
def test_default_allows(programs: dict[Architecture, bytes], architecture: Architecture, name: str) -> None:
    for arguments in ((), (0xFFFFFFFFFFFFFFFF,) * 6):
        assert call(programs[architecture], architecture, name, *arguments) == ALLOW


@pytest.mark.parametrize("architecture", NUMBERS)
class TestArguments:
    """The default profile's rules about arguments, for every architecture."""

    @pytest.mark.parametrize("high", (0, HIGH, 1 << 32))
    def test_no_characters_into_terminals(
        self, programs: dict[Architecture, bytes], architecture: Architecture, high: int
    ) -> None:
        program = programs[architecture]
        for request in (0x5412, 0x541C):
            assert call(program, architecture, "ioctl", 0, high | request) == EPERM
        for request in (0x5401, 0x5413, 0x5411, 0x541B, 0x541D, 0, 0xFFFFFFFF, 0x80005412):
            assert call(program, architecture, "ioctl", 0, high | request) == ALLOW

    def test_clone_makes_no_namespaces(
        self, programs: dict[Architecture, bytes], architecture: Architecture
    ) -> None:
        program = programs[architecture]
        for flags in (SIGCHLD, CLONE_FILES | CLONE_THREAD, 0x003D0F00, 0x01200011, HIGH | SIGCHLD):
            assert call(program, architecture, "clone", flags) == ALLOW
        for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
            assert call(program, architecture, "clone", flag | SIGCHLD) == EPERM
            assert call(program, architecture, "clone", flag | HIGH) == EPERM
        assert call(program, architecture, "clone3") == ENOSYS

    def test_personalities(self, programs: dict[Architecture, bytes], architecture: Architecture) -> None:
        program = programs[architecture]
        for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
            assert call(program, architecture, "personality", value) == ALLOW
        # ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, and a value that has the allowed one in its low half only.
        for value in (0x0040000, 0x0400000, 0x0400008, 0x1_00000000):
            assert call(program, architecture, "personality", value) == EPERM

    def test_socket_families(self, programs: dict[Architecture, bytes], architecture: Architecture) -> None:
        program = programs[architecture]
        for family in (1, 2, 10, 16, 17, 29, 31, 44, 45):
            assert call(program, architecture, "socket", family, 1, 0) == ALLOW
        for family in (38, 40, 12, 37, 46, 255, 0xFFFFFFFF, HIGH | 40, HIGH | 1):
            assert call(program, architecture, "socket", family, 1, 0) == EPERM

    def test_audit_only_with_its_capability(
        self, programs: dict[Architecture, bytes], architecture: Architecture
    ) -> None:
        assert call(programs[architecture], architecture, "socket", 16, 3, 9) == ALLOW
        machine = "aarch64" if architecture in (AARCH64, ARM) else "x86_64"
        without = seccomp.compile(seccomp.default_profile(), frozenset(), machine=machine)
        for high in (0, HIGH):
            assert call(without, architecture, "socket", high | 16, 3, high | 9) == EINVAL
        assert call(without, architecture, "socket", 16, 3, 0) == ALLOW
        assert call(without, architecture, "socket", 2, 3, 9) == ALLOW

    def test_nobody_knows(self, programs: dict[Architecture, bytes], architecture: Architecture) -> None:
        bit = X32_BIT if architecture == "x32" else 0
        arch = X86_64 if architecture == "x32" else architecture
        newest = 548 if architecture == "x32" else 468
        for number in (newest, 600, 999, 100000, 0xEFFFF):
            assert filters.run(programs[architecture], arch, number | bit) == ENOSYS
        hole = {X86: 470, ARM: 480}.get(architecture, 400)
        assert filters.run(programs[architecture], arch, hole | bit) == ENOSYS


def test_other_architectures_are_killed(programs: dict[Architecture, bytes]) -> None:
    assert filters.run(programs[X86_64], AARCH64, 63) == filters.KILL_THREAD
    assert filters.run(programs[AARCH64], X86_64, 0) == filters.KILL_THREAD


@pytest.mark.parametrize(
    ("capability", "names"),
    [
        (
            "CAP_SYS_ADMIN",
            "mount pivot_root unshare setns bpf perf_event_open clone3 open_tree open_tree_attr",
        ),
        ("CAP_SYS_MODULE", "init_module finit_module"),
        ("CAP_BPF", "bpf"),
        ("CAP_PERFMON", "perf_event_open"),
        ("CAP_SYS_BOOT", "reboot"),
        ("CAP_SYS_PACCT", "acct"),
        ("CAP_SYS_RAWIO", "iopl"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
        ("CAP_SYS_CHROOT", "chroot"),
    ],
)
def test_capabilities_allow(capability: str, names: str) -> None:
    program = seccomp.compile(seccomp.default_profile(), frozenset({capability}), machine="x86_64")
    without = seccomp.compile(seccomp.default_profile(), frozenset(), machine="x86_64")
    for name in names.split():
        assert call(program, X86_64, name) == ALLOW
        assert call(without, X86_64, name) in (EPERM, ENOSYS)
    if capability == "CAP_SYS_ADMIN":
        assert call(program, X86_64, "clone", 0x10000000) == ALLOW
    for name in ("keyctl", "io_uring_setup", "userfaultfd", "kexec_load"):
        assert call(program, X86_64, name) == EPERM


def test_default_profile_is_sound() -> None:
    names = [name for group in seccomp_profile.ALWAYS.values() for name in group.split()]
    assert len(names) == len(set(names))
    profile = seccomp.default_profile()
    assert profile == json.loads(json.dumps(profile)) == seccomp.default_profile()
    assert profile is not seccomp.default_profile()


@pytest.mark.parametrize("machine", ("x86_64", "aarch64", "i686", "armv7l", "riscv64", "ppc64le"))
def test_compiled_again_it_is_the_same(machine: str) -> None:
    profile = seccomp.default_profile()
    one, two = (seccomp.compile(profile, DOCKER_CAPABILITIES, machine=machine) for _ in range(2))
    assert one == two
    filters.check(one)
    assert len(one) // 8 < 2000


# Profiles of one's own.


def oci(*rules: dict[str, Any], default: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"defaultAction": default, "syscalls": list(rules), **more}


def rule(
    names: str, action: str = "SCMP_ACT_ALLOW", *args: tuple[int, str, int, int], **more: Any
) -> dict[str, Any]:
    items = [{"index": i, "op": f"SCMP_CMP_{op}", "value": v, "valueTwo": w} for i, op, v, w in args]
    return {"names": names.split(), "action": action, "args": items, **more}


def result(profile: dict[str, Any], name: str, *arguments: int, architecture: Architecture = X86_64) -> int:
    program, _ = seccomp.compile_oci(profile, machine="x86_64")
    filters.check(program)
    return call(program, architecture, name, *arguments)


@pytest.mark.parametrize(
    ("action", "more", "expected"),
    [
        ("SCMP_ACT_KILL", {}, 0),
        ("SCMP_ACT_KILL_THREAD", {}, 0),
        ("SCMP_ACT_KILL_PROCESS", {}, KILL_PROCESS),
        ("SCMP_ACT_TRAP", {}, filters.TRAP),
        ("SCMP_ACT_ERRNO", {}, EPERM),
        ("SCMP_ACT_ERRNO", {"errnoRet": 0}, errno_of(0)),
        ("SCMP_ACT_ERRNO", {"errnoRet": None}, EPERM),
        ("SCMP_ACT_ERRNO", {"errnoRet": 4094}, errno_of(4094)),
        ("SCMP_ACT_TRACE", {"errnoRet": 7}, 0x7FF00007),
        ("SCMP_ACT_NOTIFY", {}, 0x7FC00000),
        ("SCMP_ACT_LOG", {}, LOG),
    ],
)
def test_actions(action: str, more: dict[str, Any], expected: int) -> None:
    profile = oci(rule("read", action, **more), default="SCMP_ACT_ALLOW")
    assert result(profile, "read") == expected
    assert result(profile, "mmap") == ALLOW


@pytest.mark.parametrize(
    ("default", "more", "expected"),
    [
        ("SCMP_ACT_ERRNO", {}, EPERM),
        ("SCMP_ACT_ERRNO", {"defaultErrnoRet": 38}, ENOSYS),
        ("SCMP_ACT_KILL_PROCESS", {}, KILL_PROCESS),
        ("SCMP_ACT_LOG", {}, LOG),
        ("SCMP_ACT_TRACE", {}, 0x7FF00001),
    ],
)
def test_default_actions(default: str, more: dict[str, Any], expected: int) -> None:
    profile = oci(rule("mmap"), default=default, **more)
    assert result(profile, "read") == expected
    assert result(profile, "mmap") == ALLOW
    program, _ = seccomp.compile_oci(profile, machine="x86_64")
    # A tracer and a log are for seeing what is new; whatever refuses says that it does not exist.
    unknown = expected if default in ("SCMP_ACT_LOG", "SCMP_ACT_TRACE") else ENOSYS
    assert filters.run(program, X86_64, 5000) == unknown


@pytest.mark.parametrize(
    ("op", "value", "second", "matching", "others"),
    [
        ("EQ", 5, 0, (5,), (4, 6, 1 << 32 | 5)),
        ("EQ", 5 << 32, 0, (5 << 32,), (5, 0)),
        ("NE", 5, 0, (4, 1 << 32 | 5), (5,)),
        ("LT", 1 << 32, 0, (0, 0xFFFFFFFF), (1 << 32, 2 << 32)),
        ("LE", 1 << 32, 0, (0, 1 << 32), (1 << 32 | 1,)),
        ("GT", 0xFFFFFFFF, 0, (1 << 32,), (0xFFFFFFFF, 0)),
        ("GE", 1 << 32 | 7, 0, (1 << 32 | 7, 2 << 32), (1 << 32 | 6, 8)),
        ("MASKED_EQ", 0xF0, 0x10, (0x10, HIGH | 0x1F), (0x20, 0)),
        ("MASKED_EQ", HIGH, 1 << 32, (1 << 32 | 9,), (1, 2 << 32)),
    ],
)
@pytest.mark.parametrize("always", (False, True))
def test_operators(
    op: str, value: int, second: int, matching: tuple[int, ...], others: tuple[int, ...], always: bool
) -> None:
    rules = [rule("read", "SCMP_ACT_KILL_PROCESS", (3, op, value, second))]
    if always:
        rules.append(rule("read", "SCMP_ACT_LOG"))
    profile = oci(*rules, default="SCMP_ACT_ALLOW")
    for argument in matching:
        assert result(profile, "read", 0, 0, 0, argument) == KILL_PROCESS
    for argument in others:
        assert result(profile, "read", 0, 0, 0, argument) == (LOG if always else ALLOW)


def test_conditions_on_several_arguments_hold_together() -> None:
    profile = oci(rule("read", "SCMP_ACT_ALLOW", (0, "EQ", 1, 0), (1, "EQ", 2, 0)))
    assert result(profile, "read", 1, 2) == ALLOW
    assert result(profile, "read", 1, 3) == result(profile, "read", 0, 2) == EPERM


def test_conditions_on_one_argument_are_alternatives() -> None:
    """As runc and crun have it, also for a condition on another argument in the same rule."""
    profile = oci(rule("read", "SCMP_ACT_ALLOW", (0, "EQ", 1, 0), (0, "EQ", 2, 0), (1, "EQ", 7, 0)))
    assert result(profile, "read", 1) == result(profile, "read", 2) == result(profile, "read", 0, 7) == ALLOW
    assert result(profile, "read", 3) == EPERM


def test_strictest_rule_holds() -> None:
    profile = oci(
        rule("read mmap"),
        rule("read", "SCMP_ACT_ERRNO", errnoRet=22),
        rule("mmap", "SCMP_ACT_ERRNO", (0, "EQ", 1, 0), errnoRet=22),
        rule("mmap", "SCMP_ACT_KILL_PROCESS", (1, "EQ", 1, 0)),
    )
    assert result(profile, "read") == EINVAL
    assert result(profile, "mmap") == ALLOW
    assert result(profile, "mmap", 1) == EINVAL
    assert result(profile, "mmap", 1, 1) == KILL_PROCESS


def test_socket_of_x86_is_not_socketcall() -> None:
    """libseccomp gives socketcall's number for the name: a rule about arguments would look at the wrong ones."""
    profile = oci(
        rule("socket socketcall"),
        rule("socket", "SCMP_ACT_KILL_PROCESS", (0, "EQ", 5, 0)),
        architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
    )
    assert result(profile, "socket", 5, architecture=X86) == KILL_PROCESS
    assert result(profile, "socketcall", 5, architecture=X86) == ALLOW


def test_architectures() -> None:
    profile = oci(rule("read"))
    assert result(profile, "read", architecture=X86) == filters.KILL_THREAD
    assert result(profile, "read", architecture="x32") == filters.KILL_THREAD
    profile["architectures"] = ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_S390X", "SCMP_ARCH_LOONGARCH64"]
    assert result(profile, "read", architecture=X86) == result(profile, "read", architecture="x32") == ALLOW
    assert result(profile, "read") == ALLOW


def test_flags() -> None:
    names = ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV")
    flags = [f"SECCOMP_FILTER_FLAG_{name}" for name in names]
    # The kernel takes the last of them with a listener only.
    assert seccomp.compile_oci(oci(flags=flags))[1] == 0b000111
    assert seccomp.compile_oci(oci(rule("mount", "SCMP_ACT_NOTIFY"), flags=flags))[1] == 0b111111
    assert seccomp.compile_oci(oci(rule("mount", "SCMP_ACT_NOTIFY")))[1] == 0b001000
    assert seccomp.compile_oci(oci())[1] == 0


def test_unknown_names_mean_nothing() -> None:
    profile = oci(rule("read no_such_call \u00fc"))
    assert result(profile, "read") == ALLOW


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ([], "The seccomp filter is not a JSON object."),
        ({}, "The seccomp filter: defaultAction is missing."),
        (oci(default="ALLOW"), "The seccomp filter: defaultAction is 'ALLOW', which does not exist."),
        (oci(default="SCMP_ACT_NOTIFY"), "The seccomp filter: defaultAction is SCMP_ACT_NOTIFY: then nobody could even "
         "hear the question."),
        (oci(rule("write", "SCMP_ACT_NOTIFY")), "The seccomp filter: syscalls[0].names has write, which can't be asked "
         "about: the question itself is written."),
        (oci(default="SCMP_ACT_KILL", defaultErrnoRet=1),
         "The seccomp filter: defaultErrnoRet is given, but SCMP_ACT_KILL returns no error."),
        (oci(rule("read", errnoRet=1)),
         "The seccomp filter: syscalls[0].errnoRet is given, but SCMP_ACT_ALLOW returns no error."),
        (oci(rule("read", "SCMP_ACT_ERRNO", errnoRet=4095)),
         "The seccomp filter: syscalls[0].errnoRet is not a number from 0 to 4094."),
        (oci(rule("read", "SCMP_ACT_NO")),
         "The seccomp filter: syscalls[0].action is 'SCMP_ACT_NO', which does not exist."),
        (oci(rule("read", "SCMP_ACT_ALLOW", (6, "EQ", 0, 0))),
         "The seccomp filter: syscalls[0].args[0].index is not a number from 0 to 5."),
        (oci(rule("read", "SCMP_ACT_ALLOW", (0, "IS", 0, 0))),
         "The seccomp filter: syscalls[0].args[0].op is 'SCMP_CMP_IS', which does not exist."),
        (oci(rule("read", "SCMP_ACT_ALLOW", (0, "EQ", 1 << 64, 0))),
         "The seccomp filter: syscalls[0].args[0].value is not a number from 0 to 18446744073709551615."),
        (oci(rule("")), "The seccomp filter: syscalls[0].names is empty."),
        (oci({**rule("read"), "name": "write"}), "The seccomp filter: syscalls[0].name is given beside names."),
        (oci(architectures=["SCMP_ARCH_Z80"]),
         "The seccomp filter: architectures is 'SCMP_ARCH_Z80', which does not exist."),
        (oci(flags=["SECCOMP_FILTER_FLAG_X"]),
         "The seccomp filter: flags is 'SECCOMP_FILTER_FLAG_X', which does not exist."),
        (oci(*[rule(" ".join(f"n{i}" for i in range(4000)))] * 6), "The seccomp filter: syscalls has more than 20000 "
         "names."),
    ],
)  # fmt: skip
def test_nonsense_is_refused(profile: Any, message: str) -> None:
    with pytest.raises(GearError) as caught:
        seccomp.compile_oci(profile)
    assert caught.value.message == message


def test_too_many_rules_are_refused() -> None:
    many = [rule("read", "SCMP_ACT_ALLOW", (0, "GT", value, 0)) for value in range(1500)]
    with pytest.raises(UsageError, match=r"makes a filter of \d+ instructions; the kernel takes 4096\."):
        seccomp.compile_oci(oci(*many), machine="x86_64")


def test_many_exceptions_jump_far() -> None:
    """More than the 255 instructions that a comparison can jump."""
    exceptions = [rule("read mmap", "SCMP_ACT_ERRNO", (0, "EQ", n, 0), errnoRet=n) for n in range(1, 200)]
    profile = oci(rule("read mmap"), *exceptions)
    for name in ("read", "mmap"):
        assert result(profile, name, 1) == errno_of(1)
        assert result(profile, name, 199) == errno_of(199)
        assert result(profile, name, 200) == ALLOW


# Docker's form.


def docker(*rules: dict[str, Any], **more: Any) -> bytes:
    capabilities = more.pop("capabilities", frozenset())
    return seccomp.compile(oci(*rules, **more), capabilities, machine="x86_64")


@pytest.mark.parametrize(
    ("includes", "excludes", "capabilities", "holds"),
    [
        ({}, {}, "", True),
        (None, None, "", True),
        ({"caps": ["CAP_A", "CAP_B"]}, {}, "CAP_A", False),
        ({"caps": ["CAP_A", "CAP_B"]}, {}, "CAP_A CAP_B CAP_C", True),
        ({}, {"caps": ["CAP_A", "CAP_B"]}, "CAP_B", False),
        ({}, {"caps": ["CAP_A"]}, "CAP_B", True),
        ({"arches": ["amd64", "arm"]}, {}, "", True),
        ({"arches": ["arm64"]}, {}, "", False),
        ({}, {"arches": ["amd64"]}, "", False),
        ({}, {"arches": ["s390"], "caps": ["CAP_A"]}, "CAP_A", False),
        ({"minKernel": "4.8"}, {}, "", True),
        ({"minKernel": "999.0"}, {}, "", False),
        ({}, {"minKernel": "4.8"}, "", False),
        ({}, {"minKernel": "999.0"}, "", True),
    ],
)
def test_conditions_of_rules(includes: Any, excludes: Any, capabilities: str, holds: bool) -> None:
    program = docker(
        {**rule("read"), "includes": includes, "excludes": excludes},
        capabilities=frozenset(capabilities.split()),
    )
    assert call(program, X86_64, "read") == (ALLOW if holds else EPERM)


def test_kernels_are_compared_as_numbers() -> None:
    profile = oci({**rule("read"), "includes": {"minKernel": "5.9"}})
    found = {
        kernel: len(seccomp.resolve(profile, frozenset(), kernel=kernel)["syscalls"])
        for kernel in ("4.19.0", "5.8.18-1-amd64", "5.9.0", "5.10.0-30-amd64", "6.1+", "nonsense")
    }
    assert list(found.values()) == [0, 0, 1, 1, 1, 0]


def test_architecture_map() -> None:
    entries = [
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
    ]
    program = docker(rule("read"), archMap=entries)
    assert call(program, X86, "read") == ALLOW
    assert call(program, "x32", "read") == filters.KILL_THREAD
    program = docker(rule("read"), archMap=[{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": None}])
    assert call(program, X86, "read") == filters.KILL_THREAD
    with pytest.raises(IntegrityError, match="archMap is given beside architectures"):
        docker(archMap=entries, architectures=["SCMP_ARCH_X86_64"])


def test_older_and_podmans_words() -> None:
    program = docker(
        {"name": "read", "action": "SCMP_ACT_ALLOW", "args": None, "comment": "x"},
        {"names": ["mmap"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "errno": "EINVAL"},
        defaultErrno="ENOSYS",
    )
    assert call(program, X86_64, "read") == ALLOW
    assert call(program, X86_64, "mmap") == EINVAL
    assert call(program, X86_64, "ioctl") == ENOSYS
    with pytest.raises(IntegrityError, match=r"errno is 'EWHAT', which is no error of the system\."):
        docker({"names": ["mmap"], "action": "SCMP_ACT_ERRNO", "errno": "EWHAT"})


def test_services_have_no_listener() -> None:
    with pytest.raises(UsageError, match="nobody listens for a container's service"):
        docker(rule("mount", "SCMP_ACT_NOTIFY"))


def test_profile_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(seccomp.default_profile()))
    assert seccomp.load_profile(path) == seccomp.default_profile()
    for text, message in (
        ("{", "is not valid JSON"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "defaultAction": "SCMP_ACT_KILL"}', "a member occurs twice"),
        ("[]", "is not a JSON object"),
        (
            '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "action": "x"}]}',
            r"syscalls\[0\]\.action",
        ),
        (json.dumps(oci({**rule("a"), "includes": {"minKernel": "new"}})), "is no version of Linux"),
    ):
        path.write_text(text)
        with pytest.raises(GearError, match=message) as caught:
            seccomp.load_profile(path)
        assert str(path) in caught.value.message
    with pytest.raises(NotFoundError):
        seccomp.load_profile(tmp_path / "missing")


# The binding.


def test_no_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seccomp", None)
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    with pytest.raises(HostError, match="there is no Python binding of libseccomp") as caught:
        docker()
    assert caught.value.hint == "Install it with apt-get install python3-seccomp, or pip install pyseccomp."


def test_other_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyseccomp has the same names; PyPI's package called seccomp has none of them."""
    expected = docker(rule("read"))
    monkeypatch.setitem(sys.modules, "pyseccomp", seccomp._binding())
    monkeypatch.setitem(sys.modules, "seccomp", sys)
    assert docker(rule("read")) == expected


def test_unknown_machine() -> None:
    with pytest.raises(HostError, match="machine of the kind vax"):
        seccomp.compile(seccomp.default_profile(), frozenset(), machine="vax")


def test_without_the_newest_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an older libseccomp does not know is decided by number; the outcome is the same."""
    binding = seccomp._binding()
    names = "fchmodat2 futex_wait cachestat set_mempolicy_home_node"
    unknown = {*names.split(), *range(450, 457)}

    class Older:
        def __getattr__(self, name: str) -> Any:
            return getattr(binding, name)

        def resolve_syscall(self, architecture: Any, call: str | int) -> Any:
            if isinstance(call, int) and call & ~X32_BIT in unknown:
                raise ValueError(call)
            return -1 if call in unknown else binding.resolve_syscall(architecture, call)

    monkeypatch.setattr(seccomp, "_binding", Older)
    program = seccomp.compile(seccomp.default_profile(), DOCKER_CAPABILITIES, machine="x86_64")
    for architecture in (X86_64, X86, "x32"):
        assert call(program, architecture, "fchmodat2") == ALLOW
        assert call(program, architecture, "statmount") == ALLOW
        bit = X32_BIT if architecture == "x32" else 0
        # set_mempolicy_home_node is known and refused.
        assert filters.run(program, X86 if architecture == X86 else X86_64, 450 | bit) == EPERM


# Any profile.

_VALUES = st.sampled_from((0, 1, 2, 5, 7, 0xFFFFFFFF, 1 << 32, 1 << 32 | 5, HIGH, (1 << 64) - 1))
_OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
_ACTIONS = {
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_TRAP": filters.TRAP,
    "SCMP_ACT_ERRNO": EPERM,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_ALLOW": ALLOW,
}
_CONDITIONS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(_OPERATORS), _VALUES, _VALUES),
    max_size=3,
    unique_by=lambda item: item[0],
)
_NAMES = ("read", "mmap", "clone", "statmount", "openat2")
_RULES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(_NAMES), min_size=1, max_size=2, unique=True),
        st.sampled_from(list(_ACTIONS)),
        _CONDITIONS,
    ),
    max_size=6,
)


def matches(conditions: list[tuple[int, str, int, int]], arguments: tuple[int, ...]) -> bool:
    def one(op: str, found: int, value: int, second: int) -> bool:
        return {
            "NE": found != value,
            "LT": found < value,
            "LE": found <= value,
            "EQ": found == value,
            "GE": found >= value,
            "GT": found > value,
            "MASKED_EQ": found & value == second & value,
        }[op]

    return all(one(op, arguments[index], value, second) for index, op, value, second in conditions)


@settings(max_examples=300)
@given(
    _RULES,
    st.sampled_from(list(_ACTIONS)),
    st.lists(st.tuples(_VALUES, _VALUES, _VALUES), min_size=4, max_size=8),
)
def test_the_strictest_matching_rule_holds_for_any_profile(
    rules: list[tuple[list[str], str, list[tuple[int, str, int, int]]]],
    default: str,
    calls: list[tuple[int, int, int]],
) -> None:
    profile = oci(*(rule(" ".join(names), action, *args) for names, action, args in rules), default=default)
    program, _ = seccomp.compile_oci(profile, machine="x86_64")
    filters.check(program)
    strict = list(_ACTIONS)
    for name in _NAMES:
        for arguments in calls:
            found = [action for names, action, args in rules if name in names and matches(args, arguments)]
            expected = _ACTIONS[min(found, key=strict.index) if found else default]
            assert call(program, X86_64, name, *arguments) == expected, (name, arguments)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 65), 1 << 65)
    | st.floats()
    | st.sampled_from(("", "read", "SCMP_ACT_ALLOW", "SCMP_CMP_EQ", "SCMP_ARCH_X86", "CAP_CHOWN", "\0"))
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def _loosely(members: dict[str, Any]) -> Any:
    """Objects with some of *members*, each as it should be, or anything."""
    return st.fixed_dictionaries({}, optional={name: good | _JSON for name, good in members.items()})


_HOSTILE = _loosely(
    {
        "defaultAction": st.sampled_from(list(_ACTIONS)),
        "defaultErrnoRet": st.integers(0, 5000),
        "architectures": st.just(["SCMP_ARCH_X86"]),
        "archMap": st.lists(
            _loosely({"architecture": st.just("SCMP_ARCH_X86_64"), "subArchitectures": _JSON}), max_size=2
        ),
        "flags": st.just(["SECCOMP_FILTER_FLAG_LOG"]),
        "syscalls": st.lists(
            _loosely(
                {
                    "names": st.lists(st.sampled_from(("read", "socket", "x")), max_size=2),
                    "action": st.sampled_from(list(_ACTIONS)),
                    "errnoRet": st.integers(0, 5000),
                    "args": st.lists(
                        _loosely({"index": st.integers(0, 6), "op": st.just("SCMP_CMP_NE"), "value": _VALUES}),
                        max_size=2,
                    ),
                    "includes": _loosely({"caps": _JSON, "arches": _JSON, "minKernel": st.just("4.8")}),
                    "excludes": _loosely({"caps": _JSON, "arches": _JSON, "minKernel": _JSON}),
                }
            ),
            max_size=3,
        ),
    }
)  # fmt: skip


@settings(max_examples=400)
@given(_HOSTILE | _JSON)
def test_hostile_profiles_end_in_a_sentence(document: Any) -> None:
    """Or in a filter that the kernel would take."""
    for docker_form in (False, True):
        try:
            filters.check(
                seccomp.compile(document, frozenset({"CAP_CHOWN"}))
                if docker_form
                else seccomp.compile_oci(document)[0]
            )
        except GearError as error:
            assert error.message.endswith(".")


@settings(max_examples=100)
@given(st.binary(max_size=50) | _HOSTILE.map(lambda document: json.dumps(document).encode()))
def test_hostile_files_end_in_a_sentence(data: bytes) -> None:
    path = Path(f"/proc/self/fd/{os.memfd_create('profile')}")
    try:
        path.write_bytes(data)
        assert isinstance(seccomp.load_profile(path), dict)
    except GearError as error:
        assert error.message.endswith(".")
    finally:
        os.close(int(path.name))


# The kernel itself.

_PR_SET_NO_NEW_PRIVS, _SECCOMP_SET_MODE_FILTER = 38, 1
_NATIVE = {"x86_64": X86_64, "aarch64": AARCH64}


def _in_child(program: bytes, flags: int, calls: list[tuple[int, ...]]) -> list[int]:
    """The errors of *calls* (number, argument...) in a process that has loaded *program*; 0 for success."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program, len(program))

    class Fprog(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    descriptor = Fprog(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    seccomp_number = {"x86_64": 317, "aarch64": 277}[os.uname().machine]

    def syscall(number: int, *arguments: Any) -> int:
        ctypes.set_errno(0)
        return ctypes.get_errno() if libc.syscall(ctypes.c_long(number), *arguments) < 0 else 0

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            errors = [syscall(seccomp_number, _SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(descriptor))]
            errors += [syscall(number, *map(ctypes.c_ulong, arguments)) for number, *arguments in calls]
            os.write(writer, json.dumps(errors).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        found = file.read()
    os.waitpid(child, 0)
    answers: list[int] = json.loads(found)
    assert answers[0] == 0, os.strerror(answers[0])
    return answers[1:]


@pytest.mark.spawns
def test_kernel_takes_the_default_filter_and_keeps_to_it() -> None:
    program = seccomp.compile(seccomp.default_profile(), DOCKER_CAPABILITIES)
    numbers = NUMBERS[_NATIVE[os.uname().machine]]
    with open("/dev/null", "rb") as null:
        file = null.fileno()
        expected: list[tuple[tuple[int, ...], int]] = [
            ((numbers["keyctl"], 0, 0xFFFFFFFD, 0), errno.EPERM),
            ((numbers["unshare"], 0x10000000), errno.EPERM),
            ((numbers["mount"], 0, 0, 0, 0, 0), errno.EPERM),
            ((numbers["io_uring_setup"], 1, 0), errno.EPERM),
            ((numbers["bpf"], 0, 0, 0), errno.EPERM),
            ((numbers["clone3"], 0, 0), errno.ENOSYS),
            ((numbers["clone"], 0x10000000 | SIGCHLD, 0, 0, 0, 0), errno.EPERM),
            ((numbers["socket"], 40, 1, 0), errno.EPERM),
            ((numbers["personality"], 0x0400000), errno.EPERM),
            ((numbers["personality"], 0xFFFFFFFF), 0),
            ((numbers["ioctl"], file, 0x5412, 0), errno.EPERM),
            ((numbers["ioctl"], file, 1 << 32 | 0x5412, 0), errno.EPERM),
            # Not a terminal: the call got through to the driver.
            ((numbers["ioctl"], file, 0x5413, 0), errno.ENOTTY),
            ((5000,), errno.ENOSYS),
            ((numbers["read"], file, 0, 0), 0),
        ]
        assert _in_child(program, 0, [arguments for arguments, _ in expected]) == [
            error for _, error in expected
        ]


@pytest.mark.spawns
def test_kernel_takes_the_flags() -> None:
    names = ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV")
    numbers = NUMBERS[_NATIVE[os.uname().machine]]
    profile = oci(
        rule("personality", "SCMP_ACT_ERRNO", errnoRet=errno.EDOM),
        default="SCMP_ACT_ALLOW",
        flags=[f"SECCOMP_FILTER_FLAG_{name}" for name in names],
    )
    assert _in_child(*seccomp.compile_oci(profile), [(numbers["personality"], 0xFFFFFFFF)]) == [errno.EDOM]


def test_nothing_else_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The binding is imported when something is compiled, not by every command."""
    loaded: Callable[..., Any] = seccomp.default_profile
    monkeypatch.setitem(sys.modules, "seccomp", None)
    assert loaded()["defaultAction"] == "SCMP_ACT_ERRNO"
