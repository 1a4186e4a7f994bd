"""What a payload tells by sd_notify(3), on its way to PID 1: the words that can harm nobody, and no others.

The payload never gets PID 1's own socket.  Over that it could name another process of the host the main one, which is
then killed when the unit is stopped, take the sockets of its ports out of PID 1's keeping or fill it with others, and
with enough datagrams keep PID 1 from everybody else.
"""

from __future__ import annotations

from _socket import socket

from gear.helper.probe import clean

_PLAIN = (b"READY=1", b"STOPPING=1", b"RELOADING=1", b"WATCHDOG=1", b"WATCHDOG=trigger")
_STATUS = b"STATUS="
_EXTEND = b"EXTEND_TIMEOUT_USEC="
_LARGEST = 4096  # bytes of a message that PID 1 takes
_MOST_STATUS = 200
# At a time and in all: a start that is made longer has an end all the same.
_LONGEST_US = 600_000_000
_MOST_US = 6 * 3600_000_000
# Messages at a time; then others wait, and their senders with them when the socket's queue is full.
BATCH = 20
PAUSE_S = 1.0


class Relay:
    """The socket on which the payload is heard."""

    def __init__(self, listener: socket) -> None:
        self.listener = listener
        listener.setblocking(False)
        self.status = ""  # what the payload said of itself last
        self.ready = False
        self._extended = 0

    def receive(self) -> list[str] | None:
        """What may be passed on of the next message, line by line, without its status; None when there is none.

        Descriptors that come along are closed by the kernel: nobody asks for them.
        """
        try:
            message = self.listener.recv(_LARGEST)
        except OSError:
            return None
        return self.passed(message)

    def passed(self, message: bytes) -> list[str]:
        """What may be passed on of *message*, line by line, without its status."""
        lines = []
        for line in message.split(b"\n"):
            if line in _PLAIN:
                lines.append(line.decode())
                self.ready = self.ready or line == b"READY=1"
            elif line.startswith(_STATUS):
                self.status = clean(line.removeprefix(_STATUS), _MOST_STATUS)
            elif line.startswith(_EXTEND) and not self.ready:
                # Afterwards it would put off the end of a stop.
                lines += self._extension(line.removeprefix(_EXTEND))
        return lines

    def _extension(self, digits: bytes) -> list[str]:
        if not digits.isdigit() or len(digits) > 18:
            return []
        wanted = min(int(digits), _LONGEST_US, _MOST_US - self._extended)
        self._extended += max(wanted, 0)
        return [f"{_EXTEND.decode()}{wanted}"] if wanted > 0 else []
