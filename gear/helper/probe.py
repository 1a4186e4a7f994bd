"""One probe of a container: a program beside the payload, what it says, and how it ends.

It has what the payload has: user, environment, capabilities, seccomp filter, namespaces and control groups.  Whatever
it does is the container's, and hostile: its output is kept to a bound, its time is limited, and it is killed with all
that it has started.
"""

from __future__ import annotations

import posix as os
from _signal import ITIMER_REAL, SIG_DFL, SIGALRM, SIGKILL, setitimer, signal

from gear.helper import delegation, enter, syscalls
from gear.helper.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gear.helper.asking import Program
    from gear.helper.bundle import Filter

# Docker keeps as much.
MOST_OUTPUT = 4096
_PIECE = 65536
# Rounds of looking for processes that a probe has left; each kills all that it sees.
_ROUNDS = 50


class TooLate(Exception):
    """The probe could not even be started in its time."""


class Result:
    """How a probe has ended: 0 is well; None when it was killed or never ran, as *why* says."""

    def __init__(self, status: int | None, why: str, output: bytes) -> None:
        self.status = status
        self.why = why
        self.output = output

    def words(self, most: int = 200) -> str:
        """What to say of it: one line of printable characters."""
        said = clean(self.output, most)
        return f"{self.why}: {said}" if said else self.why


class Probe:
    """A probe that runs: a child of this process.  Raises Failure when it can't be started, and TooLate.

    *process* is an OCI process object, *confirm* raises Failure when *pid* is not the container's, and *spare* is the
    one child of this process that is no probe's.
    """

    def __init__(
        self,
        pid: int,
        process: dict,  # type: ignore[type-arg]
        filter_: Filter | None,
        owner: tuple[int, int],
        seconds: float,
        confirm: Callable[[], None],
        spare: Program | None = None,
    ) -> None:
        self.output = b""
        self.pid = 0
        self.reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.reader, False)
        try:
            # So that the program may open /dev/stdout.
            os.fchown(writer, *owner)
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            os.close(writer)
            entry = enter.Entry(filter_=filter_, confirm=confirm)
            self.pid = _in_time(lambda: enter.enter(pid, process, entry), seconds)
            self.ended = syscalls.pidfd_open(self.pid)
        except BaseException:
            self._silence()
            os.close(self.reader)
            kill_strays(self.pid, spare)
            if self.pid:
                os.waitpid(self.pid, 0)
            raise
        self._silence()

    @staticmethod
    def _silence() -> None:
        """Keep the pipe for the probe alone: nothing of this process is written to where the container reads."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.close(null)

    def read(self) -> bool:
        """Take what it has written; returns whether there may be more, ever."""
        try:
            piece = os.read(self.reader, _PIECE)
        except BlockingIOError:
            return True
        self.output = (self.output + piece)[:MOST_OUTPUT]
        return bool(piece)

    def finish(self, late: str = "", spare: Program | None = None) -> Result:
        """End it and all it has left but *spare*, and say how it went; *late* says why it is killed if it has not
        ended."""
        self.read()
        # Before the first process is waited for: until then its number stands for its group and session.
        kill_strays(self.pid, spare)
        os.close(self.ended)
        os.close(self.reader)
        _, state = os.waitpid(self.pid, 0)
        _bury(spare)
        if late:
            return Result(None, late, self.output)
        if os.WIFEXITED(state):
            status = os.WEXITSTATUS(state)
            return Result(status, f"exit status {status}", self.output)
        return Result(128 + os.WTERMSIG(state), f"killed by signal {os.WTERMSIG(state)}", self.output)


def _in_time(action: Callable[[], int], seconds: float) -> int:
    """What *action* returns; raises TooLate when a program of the container keeps it waiting, as a file system can.

    Time is counted in pieces, of which each starts when this process runs: a container that stood still is not late.
    """
    piece = max(min(seconds / 4, 1.0), 0.01)
    left = [int(seconds / piece) + 2]

    def ring(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:  # once: what cleans up after it must not be interrupted
            raise TooLate

    signal(SIGALRM, ring)
    setitimer(ITIMER_REAL, piece, piece)
    try:
        return action()
    finally:
        setitimer(ITIMER_REAL, 0)
        signal(SIGALRM, SIG_DFL)


def kill_strays(session: int, spare: Program | None = None) -> None:
    """Kill the children of this process but *spare*, and what is in the session or process group *session* (0: no such
    one).

    A program of the container can make children of this process (CLONE_PARENT, clone(2)).  What has made itself a
    daemon with a session of its own has become the container's, and ends with it.
    """
    if session:
        try:
            # At once for all of the group, so that not even a fork bomb is faster.
            os.killpg(session, SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    own = os.getpid()
    spared = (own, 0 if spare is None else spare.pid)
    for _ in range(_ROUNDS):
        killed = 0
        for pid in _members():
            if pid not in spared and _is_stray(pid, own, session):
                killed += _kill(pid, own, session)
        if not killed:
            return


def _bury(spare: Program | None) -> None:
    """Wait for the children that programs of the container have given this process: each that has ended would count
    as one of the container's processes for as long as that runs.  What has not ended yet is for the next probe."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        if spare is not None and pid == spare.pid:
            spare.pid = 0


def _kill(pid: int, own: int, session: int) -> int:
    try:
        target = syscalls.pidfd_open(pid)
    except OSError:
        return 0
    try:
        # Again, now that the number can't become another's.
        if not _is_stray(pid, own, session):
            return 0
        syscalls.pidfd_send_signal(target, SIGKILL)
    except OSError:
        return 0
    finally:
        os.close(target)
    return 1


def _is_stray(pid: int, own: int, session: int) -> bool:
    """Whether it lives and is of the probe (proc_pid_stat(5): state, parent, group and session after the name)."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read(4096).rpartition(b")")[2].split()
    except OSError:
        return False
    if fields[0] in (b"Z", b"X"):
        return False
    return int(fields[1]) == own or (session != 0 and int(fields[3]) == session)


def _members() -> list[int]:
    """The processes of this process's control group, or of the machine where that can't be told."""
    try:
        with open(f"{delegation.group_of()}/cgroup.procs", "rb", buffering=0) as file:
            return [int(line) for line in file.readlines()]
    except OSError:
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def clean(text: bytes, most: int) -> str:
    """*text* of the container as one line for people: nothing that steers a terminal or begins another line."""
    words = text.decode("utf-8", "replace").split()
    line = "".join([character if character.isprintable() else "?" for character in " ".join(words)])
    return line if len(line) <= most else line[:most] + "..."


def start_failure(failure: Failure) -> Result:
    """The result of a probe that could not be started."""
    return Result(None, failure.message, b"")
