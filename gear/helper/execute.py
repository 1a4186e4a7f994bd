"""Becoming a program of the container: working directory, environment, PATH, execve(2), and why it can't.

Everything named here is looked up inside the container, by a process whose root is the container's.
"""

from __future__ import annotations

import posix as os
from _stat import S_ISCHR, S_ISDIR, S_ISREG

from gear.helper import syscalls
from gear.helper.failure import EXIT_CHDIR, EXIT_EXEC, Failure

TYPE_CHECKING = False  # importing `typing` for it would take as long as the whole start
if TYPE_CHECKING:
    from typing import NoReturn

# e_machine of an ELF header (elf.h), for the sentence about a foreign architecture.
_ELF_MACHINES = {
    3: "i386",
    8: "mips",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv",
}

_DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MOST_PASSWD = 1 << 20  # bytes of /etc/passwd that are looked at


def change_directory(cwd: str) -> None:
    """chdir(2) to `process.cwd`; raises Failure."""
    try:
        # Not through magic links of procfs, which lead out of the root; and what is outside of it shows as
        # "(unreachable)" (CVE-2024-21626).
        flags = os.O_PATH | os.O_DIRECTORY
        place = syscalls.openat2(syscalls.AT_FDCWD, cwd, flags, resolve=syscalls.RESOLVE_NO_MAGICLINKS)
        os.fchdir(place)
        os.close(place)
        if not os.getcwd().startswith("/"):
            raise OSError(2, "it lies outside the container")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise Failure(f"can't change to the working directory {cwd}: {reason}", EXIT_CHDIR) from error


def own_null() -> None:
    """Replace the host's /dev/null as a standard stream by the container's: whose root has the host's ids could
    change the mode and owner of the host's."""
    for number in range(3):
        try:
            if not _is_null(os.fstat(number)):
                continue
            flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY
            null = syscalls.openat2(
                syscalls.AT_FDCWD, "/dev/null", flags, resolve=syscalls.RESOLVE_NO_MAGICLINKS
            )
        except OSError:
            continue  # not open at all, or there is none inside
        if _is_null(os.fstat(null)):
            os.dup2(null, number)
        os.close(null)


def _is_null(status: os.stat_result) -> bool:
    return S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)


def variables(process: dict) -> dict[bytes, bytes]:  # type: ignore[type-arg]
    """The environment of `process.env`, with HOME from the container's /etc/passwd where it is not given."""
    pairs = [entry.partition("=") for entry in process.get("env", ())]
    result = {to_bytes(key): to_bytes(value) for key, separator, value in pairs if separator}
    if b"HOME" not in result:
        result[b"HOME"] = _home(process["user"]["uid"])
    return result


def _home(uid: int) -> bytes:
    """The home directory of *uid* in /etc/passwd of this root; `/` when there is none."""
    try:
        # Never a FIFO or a device, and never more than a bounded piece of a file that an image has made.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
        file = syscalls.openat2(
            syscalls.AT_FDCWD, "/etc/passwd", flags, resolve=syscalls.RESOLVE_NO_MAGICLINKS
        )
        try:
            content = os.read(file, _MOST_PASSWD) if S_ISREG(os.fstat(file).st_mode) else b""
        finally:
            os.close(file)
    except OSError:
        content = b""
    for line in content.split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == b"%d" % uid and fields[5].startswith(b"/"):
            return fields[5]
    return b"/"


def candidates(name: str, environment: dict[bytes, bytes]) -> list[str]:
    """Where *name* may be, as execvp(3) looks for it, in the container's own PATH."""
    if "/" in name:
        return [name]
    path = environment.get(b"PATH", _DEFAULT_PATH).decode("utf-8", "surrogateescape")
    return [f"{directory or '.'}/{name}" for directory in path.split(":")]


def require_program(process: dict, environment: dict[bytes, bytes]) -> None:  # type: ignore[type-arg]
    """Raise Failure when `process.args` names nothing that could be executed; a check before it is due."""
    name = process["args"][0]
    refusal = _absent(name)
    for candidate in candidates(name, environment):
        mode = _mode(candidate)
        if mode is None:
            if _mode(candidate, follow=False) is not None:
                refusal = Failure(f"can't run {candidate}: {_why_not(candidate, OSError(2, ''))}", EXIT_EXEC)
            continue
        if S_ISREG(mode) and mode & 0o111:
            return
        refusal = Failure(f"can't run {candidate}: {_why_not(candidate, OSError(13, ''))}", EXIT_EXEC)
    raise refusal


def _absent(name: str) -> Failure:
    if "/" in name:
        return Failure(f"can't run {name}: there is no such file in the container", EXIT_EXEC)
    return Failure(f"can't run {name}: no such program in the container's PATH", EXIT_EXEC)


def execute(process: dict, environment: dict[bytes, bytes]) -> NoReturn:  # type: ignore[type-arg]
    """Become the program of `process.args`; raises Failure."""
    args = process["args"]
    name = args[0]
    arguments = [to_bytes(argument) for argument in args]
    refusal = _absent(name)
    for candidate in candidates(name, environment):
        try:
            os.execve(candidate, arguments, environment)
        except OSError as error:
            if error.errno in (2, 20) and _mode(candidate, follow=False) is None:  # ENOENT, ENOTDIR
                continue
            refusal = Failure(f"can't run {candidate}: {_why_not(candidate, error)}", EXIT_EXEC)
            if error.errno != 13:  # EACCES: a later directory of PATH may have a usable one, as in execvp(3)
                break
    raise refusal


def to_bytes(text: str) -> bytes:
    """As os.fsencode() does it where the interpreter runs in UTF-8 mode."""
    return text.encode("utf-8", "surrogateescape")


def _mode(path: str, *, follow: bool = True) -> int | None:
    """st_mode of *path*; None when it is not there."""
    try:
        return os.stat(path, follow_symlinks=follow).st_mode
    except OSError:
        return None


def _why_not(program: str, error: OSError) -> str:
    """Why execve(2) refused *program*, in words."""
    if error.errno == 13:
        if S_ISDIR(_mode(program) or 0):
            return "it is a directory"
        return f"it is not executable for user {os.getuid()}"
    head = b""
    try:
        with open(program, "rb", buffering=0) as file:
            head = file.read(256)
    except OSError:
        pass
    if error.errno == 2:
        if head.startswith(b"#!"):
            line = head[2:].split(b"\n", 1)[0].strip().decode(errors="replace")
            return f"its interpreter ({line}) is not in the container"
        return "it exists, but the program loader or a file that it needs is not in the container"
    if error.errno == 8:
        if head.startswith(b"\x7fELF"):
            machine = int.from_bytes(head[18:20], "big" if head[5:6] == b"\2" else "little")
            built_for = _ELF_MACHINES.get(machine, f"machine type {machine}")
            return f"it is built for {built_for}, and this machine is {os.uname().machine}"
        return "it is neither a program for this machine nor a script with a #! line"
    return error.strerror or str(error)
