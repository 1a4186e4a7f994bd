"""The one door to other programs.

Not for interpreting what they print.  Arguments are lists, never a shell's line; standard input is empty.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import NoReturn

from gear.errors import GearError, HostError

# The Debian package that brings each program gear calls.
_PACKAGES = {"journalctl": "systemd", "nft": "nftables", "systemctl": "systemd", "systemd-analyze": "systemd"}


def find(program: str) -> str:
    """The path of *program*; raises HostError naming the package when it is missing."""
    path = shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        package = _PACKAGES.get(program, program)
        raise HostError(f"The program {program} is not installed.", hint=f"apt-get install {package}")
    return path


def output(arguments: Sequence[str], *, accept: Sequence[int] = (0,)) -> str:
    """Run a program and return its standard output; raises GearError with its last words on other statuses."""
    command = [find(arguments[0]), *arguments[1:]]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode not in accept:
        words = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise GearError(f"{' '.join(arguments)} failed with status {done.returncode}: {words[-1]}.")
    return done.stdout.decode(errors="replace")


def call(arguments: Sequence[str]) -> None:
    """Run a program of gear's own, which says in its last line what went wrong; that is the GearError raised then."""
    done = subprocess.run(
        [find(arguments[0]), *arguments[1:]], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        if not words:
            raise GearError(f"{' '.join(arguments)} failed with status {done.returncode}.")
        sentence = words[-1].removeprefix("gear: ").rstrip(".")
        raise GearError(f"{sentence[:1].upper()}{sentence[1:]}.", details=words[:-1])


def exchange(arguments: Sequence[str], data: bytes, timeout_s: float) -> tuple[int, bytes]:
    """Give a program *data* on standard input; returns its exit status and what it printed, at most 1 MiB."""
    command = [find(arguments[0]), *arguments[1:]]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as running:
        try:
            answer, _ = running.communicate(data, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            running.kill()
            raise GearError(f"{arguments[0]} did not end within {timeout_s:g} seconds.") from None
    return running.returncode, answer[: 1 << 20]


def show(arguments: Sequence[str]) -> int:
    """Run a program on gear's own standard output; returns its exit status."""
    command = [find(arguments[0]), *arguments[1:]]
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode


@contextlib.contextmanager
def reading(arguments: Sequence[str]) -> Iterator[int]:
    """Run a program and give the descriptor of its standard output; it is ended with the block."""
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


def replace(arguments: Sequence[str]) -> NoReturn:
    """Become another program, as gear logs becomes journalctl."""
    os.execv(find(arguments[0]), list(arguments))
