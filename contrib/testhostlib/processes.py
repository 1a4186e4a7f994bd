"""Processes named so that a reused pid is never mistaken for them.

A Process is a pid and its start time; it is signalled through a pidfd opened before the start time is
compared, so the signal reaches that very process or nothing.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path


def start_time(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Clock ticks from boot to the start of PID, field 22 of proc_pid_stat(5); None when it is no more.

    A zombie counts as gone: it holds nothing and can't be signalled any more.
    """
    try:
        text = (proc / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return parse_stat(text)


def parse_stat(text: str) -> int | None:
    """The start time from a stat line; the command name in it may hold spaces and parentheses."""
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


@dataclass(frozen=True)
class Process:
    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        start = start_time(pid)
        return None if start is None else cls(pid, start)

    @classmethod
    def current(cls) -> Process:
        found = cls.of(os.getpid())
        assert found is not None
        return found

    def alive(self) -> bool:
        return start_time(self.pid) == self.start

    def open(self) -> int | None:
        """A pidfd of this very process, or None when it is gone; the caller closes it."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.alive():
            return pidfd
        os.close(pidfd)
        return None

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; False when the process is gone."""
        pidfd = self.open()
        if pidfd is None:
            return False
        try:
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True

    def wait(self, timeout_s: float) -> bool:
        """Wait until the process has ended; False when it still lives after the timeout."""
        pidfd = self.open()
        if pidfd is None:
            return True
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            return bool(poll.poll(timeout_s * 1000))
        finally:
            os.close(pidfd)


class Entered(subprocess.Popen[bytes]):
    """A command that nsenter has started in another pid namespace; signals are for the command.

    If nsenter were killed, its child would become one of this machine's PID 1 and, until that reaps it, a
    zombie which the host's systemd waits for at shutdown.
    """

    def send_signal(self, sig: int) -> None:
        children = [Process.of(pid) for pid in children_of(self.pid)]
        living = [child for child in children if child is not None]
        if not living:
            super().send_signal(sig)  # it has not forked yet, or is about to end
        for child in living:
            child.signal(signal.Signals(sig))


def children_of(pid: int) -> list[int]:
    """See proc_pid_task_tid_children(5): exact for a process that forks no more."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
