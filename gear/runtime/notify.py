"""NOTIFY_SOCKET of the caller, for the container: the one word READY=1 of sd_notify(3), and nothing else.

Only where `create` or `run` found NOTIFY_SOCKET in its environment.  The payload never gets the caller's socket, over
which it could name another main process or keep descriptors: it gets one of the container's own, which `start` listens
on until the payload is ready or has ended.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, socket

from gear.helper.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gear.runtime.report import Log
    from gear.runtime.state import Container

_VARIABLE = "NOTIFY_SOCKET"
_INSIDE = "/run/notify"  # for a caller whose socket has no path
_DIRECTORY = _NAME = "notify"


def outside() -> str:
    """The caller's socket; `` when nobody wants to be told."""
    path = os.environ.get(_VARIABLE, "")
    return path if path.startswith(("/", "@")) else ""


def provide(container: Container, config: dict[str, Any], path: str) -> None:
    """Have the container see a directory of its own in the place of the caller's socket, and know of it."""
    directory = f"{container.directory}/{_DIRECTORY}"
    os.mkdir(directory, 0o755)
    inside = path if path.startswith("/") else _INSIDE
    bind = {
        "destination": inside,
        "type": "bind",
        "source": directory,
        "options": ["bind", "nosuid", "nodev"],
    }
    config["mounts"] = [*(config.get("mounts") or ()), bind]
    process = config.get("process")
    if process:
        process["env"] = [*(process.get("env") or ()), f"{_VARIABLE}={inside}/{_NAME}"]


class Readiness:
    """The socket that a payload is to tell, and the container's first process, which may end before it does."""

    def __init__(self, listener: socket, first: int) -> None:
        self.listener, self.first = listener, first


def listen(container: Container) -> Readiness | None:
    """Listen to the payload, before it is executed; None for a container that was made without."""
    try:
        directory = os.open(
            f"{container.directory}/{_DIRECTORY}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
        )
    except FileNotFoundError:
        return None
    listener = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{_NAME}")
        # Whoever sees the directory is in the container, and may be anybody there.
        os.chmod(f"/proc/self/fd/{directory}/{_NAME}", 0o666)
    except OSError as error:
        raise Failure(f"can't listen for the container's readiness: {error.strerror}") from error
    finally:
        os.close(directory)
    return Readiness(listener, container.pidfd())


def forward(readiness: Readiness, path: str, log: Log) -> None:
    """Wait until the container is ready, and tell the caller's socket *path*; or until its first process has ended.

    What else the payload tells is dropped, and descriptors with it.
    """
    import select

    listener, first = readiness.listener, readiness.first
    poller = select.poll()
    poller.register(listener.fileno(), select.POLLIN)
    poller.register(first, select.POLLIN)
    listener.setblocking(False)
    ended = False
    while not ended:
        ended = any(descriptor == first for descriptor, _ in poller.poll())
        try:
            while True:
                if b"READY=1" in listener.recv(4096).split(b"\n"):
                    _tell(path, log)
                    return
        except BlockingIOError:
            continue


def _tell(path: str, log: Log) -> None:
    directory = -1
    sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    try:
        address = "\0" + path[1:]
        if path.startswith("/"):  # which may be longer than an address may be (unix(7))
            directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            address = f"/proc/self/fd/{directory}/{os.path.basename(path)}"
        sender.sendto(b"READY=1", address)
    except OSError as error:
        log.warn(f"can't tell {path} that the container is ready: {error.strerror}")
    finally:
        sender.close()
        if directory >= 0:
            os.close(directory)
