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

        poller = select.poll()
        for descriptor in (0, self._master, pidfd):
            poller.register(descriptor, select.POLLIN)
        ended = False
        while True:
            ready = dict(poller.poll(0 if ended else None))
            if self._master in ready:
                try:
                    data = os.read(self._master, 65536)
                except OSError:  # EIO: nobody has the other side open
                    data = b""
                if not data:
                    return
                _write_all(1, data)
            elif ended:
                return
            if 0 in ready:
                data = os.read(0, 65536)
                if data:
                    _write_all(self._master, data)
                else:
                    poller.unregister(0)
                    _write_all(self._master, b"\4")  # end of file, as a terminal says it
            if pidfd in ready:
                poller.unregister(pidfd)
                ended = True


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
