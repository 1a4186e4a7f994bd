"""What the prober asks of the host by systemctl(1) and journalctl(1)."""

from __future__ import annotations

import posix as os
from _signal import SIGKILL

_ENVIRONMENT = {b"PATH": b"/usr/sbin:/usr/bin:/sbin:/bin", b"LC_ALL": b"C.UTF-8"}
_SYSTEMCTL = "/usr/bin/systemctl"
_JOURNALCTL = "/usr/bin/journalctl"
_PATIENCE_MS = 10_000


class Program:
    """One that runs, with a pipe from its standard output; raises OSError.  *pid* is 0 once it was waited for."""

    def __init__(self, *arguments: str) -> None:
        self.reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            actions = [(os.POSIX_SPAWN_DUP2, writer, 1)]
            self.pid = os.posix_spawn(arguments[0], arguments, _ENVIRONMENT, file_actions=actions)
        except OSError:
            os.close(self.reader)
            raise
        finally:
            os.close(writer)

    def read(self) -> bytes:
        """Something that it has written, once it has; nothing when it has ended."""
        return os.read(self.reader, 4096)

    def close(self) -> None:
        """End it."""
        os.close(self.reader)
        if self.pid:
            os.kill(self.pid, SIGKILL)  # a child that is waited for below: it can't be another
            os.waitpid(self.pid, 0)


def is_up(unit: str) -> bool:
    """Whether *unit* runs or starts and is not about to stop; when nobody tells, it is taken for so."""
    from select import poll

    try:
        program = Program(_SYSTEMCTL, "show", "--property=ActiveState", "--value", unit)
    except OSError:
        return True
    try:
        waiting = poll()
        waiting.register(program.reader)
        said = program.read() if waiting.poll(_PATIENCE_MS) else b""
    finally:
        program.close()
    return said.strip() in (b"", b"active", b"activating", b"reloading", b"refreshing")


def stop(unit: str) -> None:
    """Ask PID 1 to stop *unit*, and do not wait for it: this process goes with it."""
    pid = os.posix_spawn(_SYSTEMCTL, [_SYSTEMCTL, "--no-block", "stop", unit], _ENVIRONMENT)
    os.waitpid(pid, 0)


def search_log(unit: str, invocation: str, pattern: str, namespace: str | None) -> Program:
    """Something that writes when a line of what the payload has written matches *pattern*, or does so later;
    *namespace* is the log namespace that it writes to.

    The journal keeps what was written, so nothing stands between payload and journal, now or later; and the library
    that matches has bounds for patterns that take forever.
    """
    where = [] if namespace is None else [f"--namespace={namespace}"]
    return Program(
        _JOURNALCTL, *where, "--quiet", "--no-pager", "--output=cat", "--all", "--lines=all", "--follow",
        f"--grep={pattern}", "--case-sensitive=yes",
        f"_SYSTEMD_UNIT={unit}", "_TRANSPORT=stdout", f"_SYSTEMD_INVOCATION_ID={invocation}",
    )  # fmt: skip
