"""Terminals: handing the master to a socket, and serving it from the caller's own terminal.

The terminal is made by the helper in the container's devpts.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET, socket

from gear.helper.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def send(path: str, descriptor: int, message: bytes = b"terminal") -> None:
    """Send a descriptor over the socket at *path*, which may be longer than an address may be (unix(7))."""
    import sys

    directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        client.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
        client.sendmsg([message], [(SOL_SOCKET, SCM_RIGHTS, descriptor.to_bytes(4, sys.byteorder))])
    except OSError as error:
        raise Failure(f"can't hand a descriptor to {path}: {error.strerror}") from error
    finally:
        client.close()
        os.close(directory)


def size() -> dict[str, int] | None:
    """The size of the caller's terminal, as `consoleSize` has it; None when there is none."""
    import sys
    from fcntl import ioctl
    from termios import TIOCGWINSZ

    try:
        window = ioctl(0, TIOCGWINSZ, bytes(8))
    except OSError:
        return None
    return {
        "height": int.from_bytes(window[:2], sys.byteorder),
        "width": int.from_bytes(window[2:4], sys.byteorder),
    }


class Proxy:
    """The caller's terminal connected to a container's: raw while it lasts, as an object with start() and serve()."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._saved: list[Any] | None = None

    def resize(self, *_: object) -> None:
        """Give the container's terminal the size of the caller's."""
        from fcntl import ioctl
        from termios import TIOCGWINSZ, TIOCSWINSZ

        try:
            ioctl(self._master, TIOCSWINSZ, ioctl(0, TIOCGWINSZ, bytes(8)))
        except OSError:  # the caller has no terminal
            pass

    def start(self) -> None:
        """Make the caller's terminal raw and follow its size."""
        import termios
        from _signal import signal

        try:
            self._saved = termios.tcgetattr(0)
        except termios.error:
            return
        raw = termios.tcgetattr(0)
        raw[0] &= ~(
            termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON | termios.INLCR
        )
        raw[1] &= ~termios.OPOST
        raw[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
        termios.tcsetattr(0, termios.TCSADRAIN, raw)
        self.resize()
        signal(28, self.resize)  # SIGWINCH

    def stop(self) -> None:
        """Give the caller's terminal back as it was."""
        import termios

        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
            self._saved = None

    def serve(self, pidfd: int) -> None:
        """Copy both ways until the process *pidfd* has ended and all of its output is told."""
        import select

        os.set_blocking(self._master, False)  # what is typed faster than it is read must not stop the output
        typed, listening, ended = b"", True, False
        while True:
            poller = select.poll()
            poller.register(self._master, select.POLLIN | (select.POLLOUT if typed else 0))
            if listening and not typed:  # what can't be passed on yet is not read either
                poller.register(0, select.POLLIN)
            if not ended:
                poller.register(pidfd, select.POLLIN)
            ready = dict(poller.poll(0 if ended else None))
            if ready.get(self._master, 0) & ~select.POLLOUT:
                data = _read(self._master)
                if not data:
                    return
                _write_all(1, data)
            elif ended:
                return
            if ready.get(self._master, 0) & select.POLLOUT:
                typed = self._type(typed)
            if 0 in ready:
                data = _read(0)
                listening = bool(data)
                typed = self._type(data or b"\4")  # end of file, as a terminal says it
            ended = ended or pidfd in ready

    def _type(self, data: bytes) -> bytes:
        """Write to the terminal what it takes; returns the rest."""
        try:
            return data[os.write(self._master, data) :]
        except BlockingIOError:
            return data


def _read(descriptor: int) -> bytes:
    """What can be read; nothing from a terminal that nobody has the other side of open (EIO)."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
