"""Asking another gear over a pipe as if it were a registry: one connection, no names, no TLS, no second attempt.

Not who is at the other end (gear/sending.py), nor what it answers (gear/offering.py).
"""

from __future__ import annotations

import http.client
import os
import socket
import threading

from gear.addresses import Address
from gear.netfailure import Lost
from gear.registries import Endpoint, Registries, Rule
from gear.transport import Transport

# The name of the one repository at the other end.
REPOSITORY = "image"
CHUNK = 256 << 10


class PipeTransport(Transport):
    """A connection that is there already, over *sock*; *name* is what the other end is called in messages."""

    def __init__(self, name: str, sock: socket.socket, timeout: float) -> None:
        super().__init__(Endpoint(name, REPOSITORY, Rule()), Registries(timeout=timeout, retries=0), {})
        self._home = Address(False, name, 80)
        self._only: http.client.HTTPConnection | None = http.client.HTTPConnection(name, blocksize=CHUNK)
        self._only.sock = sock
        self._open.add(self._only)

    def _connect(self, address: Address) -> http.client.HTTPConnection:
        self.check()
        connection, self._only = self._only, None
        if connection is None or address != self._home:
            raise Lost(f"{self.endpoint.host} ended the connection.")
        return connection


def standard_streams() -> socket.socket:
    """Standard input and output as one socket.

    Two threads copy: what sshd(8) gives a program may be pipes, and these know neither time limits nor
    shutdown(2).
    """
    ours, theirs = socket.socketpair()

    def take() -> None:
        try:
            while data := os.read(0, CHUNK):
                theirs.sendall(data)
        except OSError:
            pass  # one of both ends is gone, which the other learns by the end of the stream
        _shut(theirs, socket.SHUT_WR)

    def give() -> None:
        try:
            while data := theirs.recv(CHUNK):
                view = memoryview(data)
                while view:
                    view = view[os.write(1, view) :]
        except OSError:
            pass
        _shut(theirs, socket.SHUT_RDWR)

    for work in (take, give):
        threading.Thread(target=work, name=f"standard streams: {work.__name__}", daemon=True).start()
    return ours


def _shut(sock: socket.socket, how: int) -> None:
    try:
        sock.shutdown(how)
    except OSError:
        pass
