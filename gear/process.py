"""The one door to other programs.

Not for interpreting what they print.  Arguments are lists, never a shell's line; standard input is empty.
`subprocess` is imported by what uses it: most verbs come by this module and run no program.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from gear.errors import GearError, HostError

if TYPE_CHECKING:
    from socket import socket

# Where programs are looked for, whatever the caller's PATH.
_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
# The Debian package that brings each program gear calls.
_PACKAGES = {
    "journalctl": "systemd",
    "nft": "nftables",
    "systemctl": "systemd",
    "systemd-analyze": "systemd",
    "systemd-creds": "systemd",
    "ssh": "openssh-client",
}
# The most that is kept of what a program answers.
ANSWER_LIMIT = 1 << 20
# How long a program may take to end when nobody talks to it any more.
_GRACE_S = 10.0


def find(program: str) -> str:
    """The path of *program*; raises HostError naming the package when it is missing."""
    for path in (os.path.join(directory, program) for directory in _PATH):
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    package = _PACKAGES.get(program, program)
    raise HostError(f"The program {program} is not installed.", hint=f"apt-get install {package}")


def output(arguments: Sequence[str], *, accept: Sequence[int] = (0,)) -> str:
    """Run a program and return its standard output; raises GearError with its last words on other statuses."""
    import subprocess

    command = [find(arguments[0]), *arguments[1:]]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode not in accept:
        words = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise GearError(f"{' '.join(arguments)} failed with status {done.returncode}: {words[-1]}.")
    return done.stdout.decode(errors="replace")


def call(arguments: Sequence[str], data: bytes = b"") -> None:
    """Run a program of gear's own with *data* on standard input; it says in its last line what went wrong, and that is
    the GearError raised then."""
    import subprocess

    command = [find(arguments[0]), *arguments[1:]]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        if not words:
            raise GearError(f"{' '.join(arguments)} failed with status {done.returncode}.")
        sentence = words[-1].removeprefix("gear: ").rstrip(".")
        raise GearError(f"{sentence[:1].upper()}{sentence[1:]}.", details=words[:-1])


def filtered(arguments: Sequence[str], data: bytes) -> bytes:
    """What a program makes of *data*; raises GearError with its last words when it fails."""
    import subprocess

    command = [find(arguments[0]), *arguments[1:]]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise GearError(
            f"{' '.join(arguments[:2])} failed with status {done.returncode}: {words[-1].rstrip('.')}."
        )
    return done.stdout


def exchange(arguments: Sequence[str], data: bytes, timeout_s: float) -> tuple[int, bytes]:
    """Give a program *data* on standard input; returns its exit status and what it printed, at most ANSWER_LIMIT."""
    import subprocess

    command = [find(arguments[0]), *arguments[1:]]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as running:
        try:
            answer, _ = running.communicate(data, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            running.kill()
            raise GearError(f"{arguments[0]} did not end within {timeout_s:g} seconds.") from None
    return running.returncode, answer[:ANSWER_LIMIT]


def show(arguments: Sequence[str]) -> int:
    """Run a program on gear's own standard output; returns its exit status."""
    command = [find(arguments[0]), *arguments[1:]]
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    # The interpreter ignores SIGPIPE and SIGXFSZ, and so would the program.
    defaults = (signal.SIGPIPE, signal.SIGXFSZ)
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=[null], setsigdef=defaults)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextlib.contextmanager
def reading(arguments: Sequence[str]) -> Iterator[int]:
    """Run a program and give the descriptor of its standard output; it is ended with the block."""
    import subprocess

    command = [find(arguments[0]), *arguments[1:]]
    # A process group of its own, so that Ctrl-C on the terminal is gear's to act on.
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0, process_group=0
    ) as running:
        assert running.stdout is not None
        try:
            yield running.stdout.fileno()
        finally:
            running.kill()


@contextlib.contextmanager
def conversing(
    arguments: Sequence[str], tell: Callable[[str], None]
) -> Iterator[tuple[socket, Callable[[], int]]]:
    """Run a program whose standard input and output are one socket; gives the other end of it.

    *tell* gets each line of its standard error, in a thread.  The second value waits for the end of the program and
    returns its status.  It may ask for a password on the terminal, so it stays in the same process group.
    """
    # Here, since only copying between hosts needs them, and most verbs come by this module.
    import socket
    import subprocess
    import threading

    command = [find(arguments[0]), *arguments[1:]]
    ours, theirs = socket.socketpair()
    number = theirs.fileno()
    with (
        ours,
        theirs,
        subprocess.Popen(command, stdin=number, stdout=number, stderr=subprocess.PIPE) as running,
    ):
        theirs.close()

        def listen() -> None:
            assert running.stderr is not None
            while line := running.stderr.readline(4096):
                tell(line.decode(errors="replace").rstrip("\r\n"))

        listener = threading.Thread(target=listen, name="standard error", daemon=True)
        listener.start()

        def end() -> int:
            ours.close()
            try:
                status = running.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                running.kill()
                status = running.wait()
            listener.join(_GRACE_S)
            return status

        try:
            yield ours, end
        finally:
            running.kill()


def replace(arguments: Sequence[str]) -> NoReturn:
    """Become another program, as gear logs becomes journalctl."""
    os.execv(find(arguments[0]), list(arguments))
