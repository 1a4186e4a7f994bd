"""Hooks that run in the runtime's own namespaces: prestart, createRuntime, poststart and poststop.

Not createContainer and startContainer: those run inside, so the helper runs them.  A hook gets the state on its
standard input and only the environment that config.json gives it: the image's variables would be orders to the host's
programs (CVE-2025-23266).
"""

from __future__ import annotations

import os
import select
from _signal import SIG_DFL, SIG_SETMASK, SIGKILL, SIGPIPE, SIGXFSZ, pthread_sigmask, signal

from gear.helper import syscalls
from gear.helper.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


def run(hooks: dict[str, Any], kind: str, state: bytes) -> None:
    """Run the hooks of *kind* in their order; the first that fails raises Failure."""
    for hook in hooks.get(kind) or ():
        _run_one(hook, kind, state)


def _run_one(hook: dict[str, Any], kind: str, state: bytes) -> None:
    path, timeout = hook["path"], hook.get("timeout")
    reader, writer = os.pipe2(os.O_CLOEXEC)
    status_reader, status_writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _become(hook, reader, status_writer)
    os.close(reader)
    os.close(status_writer)
    os.set_blocking(writer, False)
    descriptor = os.pidfd_open(child)
    try:
        ended = _feed(writer, state, descriptor, timeout)
        if not ended:
            os.kill(child, SIGKILL)
        _, status = os.waitpid(child, 0)
        refusal = os.read(status_reader, 4)
    finally:
        os.close(descriptor)
        os.close(status_reader)
    if not ended:
        raise Failure(f"the {kind} hook {path} did not end within {timeout} seconds")
    if refusal:
        raise Failure(f"can't run the {kind} hook {path}: {os.strerror(int.from_bytes(refusal, 'little'))}")
    code = os.waitstatus_to_exitcode(status)
    if code:
        how = f"exit status {code}" if code > 0 else f"signal {-code}"
        raise Failure(f"the {kind} hook {path} failed with {how}")


def _feed(writer: int, state: bytes, descriptor: int, timeout: float | None) -> bool:
    """Write the state to a hook that may read none of it, and wait; whether the hook ended in time."""
    import time

    deadline = time.monotonic() + timeout if timeout else None
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    poller.register(writer, select.POLLOUT)
    rest = memoryview(state)
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = dict(poller.poll(left))
        if writer in ready and writer >= 0:
            try:
                rest = rest[os.write(writer, rest) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                rest = rest[:0]
            if not rest:
                poller.unregister(writer)
                os.close(writer)
                writer = -1
        if descriptor in ready or not ready:
            if writer >= 0:
                os.close(writer)
            return bool(ready)


def _become(hook: dict[str, Any], reader: int, status_writer: int) -> NoReturn:
    """In the child: the hook itself; what prevents it is told through the pipe."""
    try:
        os.dup2(reader, 0)
        syscalls.close_on_exec_from(3)
        os.setsid()
        for number in (SIGPIPE, SIGXFSZ):
            signal(number, SIG_DFL)
        pthread_sigmask(SIG_SETMASK, ())
        variables = dict(entry.partition("=")[::2] for entry in hook.get("env") or ())
        os.execve(hook["path"], hook.get("args") or [hook["path"]], variables)
    except OSError as error:
        os.write(status_writer, (error.errno or 5).to_bytes(4, "little"))
    finally:
        os._exit(127)
