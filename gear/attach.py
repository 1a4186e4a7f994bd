"""Being attached to a container: what its payload writes from now on, until it ends, and how it ended.

Not a terminal to it (gear exec), and no history (gear logs).  The output goes through journald, as always, so
nothing is lost by whoever attaches, detaches or is killed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gear import containers, inroot, inside, journal, process
from gear.errors import GearError
from gear.journaling import DISCARD
from gear.model import Layout
from gear.systemd import Manager

# Signals that --sig-proxy passes on: those that people and programs send to end or steer a program.
_PROXIED = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH,
)  # fmt: skip
_CLD_EXITED = 1  # waitid(2), si_code
# PID 1 hears of the end when everybody does; this is for a machine under load.
_PATIENCE_S = 30.0


def attach(
    manager: Manager, layout: Layout, name: str, write: Callable[[bytes], None], *, sig_proxy: bool = False
) -> int:
    """Write what the payload of *name* writes from now on until it ends; returns its exit status.

    KeyboardInterrupt ends it earlier, and the container goes on.
    """
    found = inside.running(manager, layout, name)
    if found.unit.endswith(".scope"):
        raise GearError(
            f"{name} can't be attached to: it was run in a terminal, and what it writes goes there.",
            hint=f"A shell beside it: gear exec -it {name} -- sh",
        )
    spec = containers.existing(layout, name)
    namespace = None if spec is None else spec.logging.namespace
    if spec is not None and spec.logging.driver == DISCARD:
        raise GearError(f"{name} can't be attached to: what it writes is thrown away (--log-driver none).")
    invocation = bytes(manager.properties(found.unit).get("InvocationID") or b"").hex()
    try:
        pidfd = os.pidfd_open(found.pid)
    except ProcessLookupError:
        raise inside.not_running(name) from None
    with inroot.opened(pidfd), _proxy(pidfd, sig_proxy):
        cursor = journal.position(namespace)
        records = _Records(write, cursor)
        arguments = journal.from_position(found.unit, namespace, invocation, cursor, follow=True)
        with process.reading(arguments) as output:
            while True:
                ready, _, _ = select.select([output, pidfd], [], [])
                if output in ready and not records.take(os.read(output, 1 << 16)):
                    raise GearError("The journal can't be read any more: journalctl has ended.")
                if pidfd in ready:
                    break
        # What it wrote last may be on its way to the journal still; what was printed is not printed again.
        journal.synchronize(namespace)
        rest = journal.from_position(found.unit, namespace, invocation, records.cursor, follow=False)
        records.take(process.output(rest, accept=(0, 1)).encode("utf-8", "surrogateescape"), whole=True)
    return _exit_status(manager, found)


class _Records:
    """Journal records in JSON, a line each, as they come in."""

    def __init__(self, write: Callable[[bytes], None], cursor: str | None) -> None:
        self._write, self.cursor = write, cursor
        self._rest = b""

    def take(self, data: bytes, *, whole: bool = False) -> bool:
        """Write the messages that *data* completes; False when there was none."""
        if whole:
            self._rest = b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            record = json.loads(line)
            self.cursor = record.get("__CURSOR", self.cursor)
            message = record.get("MESSAGE")
            if isinstance(message, list):  # bytes that are no text
                self._write(bytes(message) + b"\n")
            elif message is not None:
                self._write(str(message).encode("utf-8", "surrogateescape") + b"\n")
        return bool(data)


@contextmanager
def _proxy(pidfd: int, wanted: bool) -> Iterator[None]:
    """Pass signals of this process on to the one behind *pidfd*."""

    def forward(number: int, _: object) -> None:
        try:
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            pass

    before = {number: signal.signal(number, forward) for number in (_PROXIED if wanted else ())}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_status(manager: Manager, found: inside.Running) -> int:
    """How the payload ended, as a shell says it: 128 and the signal's number for one that was killed."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        service = manager.properties(found.unit, "Service")
        if (
            service.get("ExecMainPID") != found.pid
        ):  # started again meanwhile: its status is in the journal only
            return 0
        if code := int(service.get("ExecMainCode") or 0):
            status = int(service.get("ExecMainStatus") or 0)
            return status if code == _CLD_EXITED else 128 + status
        if time.monotonic() > deadline:
            raise GearError(f"{found.name} has ended, but systemd does not say how.")
        select.select([], [], [], 0.02)
