"""Running one hook (OCI runtime specification, config.md, "POSIX-platform Hooks").

A hook gets exactly the environment that its entry lists, never one of the image or the caller (CVE-2025-23266).
"""

from __future__ import annotations

import posix as os
from _signal import SIGKILL

from gear.helper import syscalls
from gear.helper.execute import to_bytes
from gear.helper.failure import Failure


def run(hook: dict, state: bytes) -> None:  # type: ignore[type-arg]
    """Execute *hook* with *state* (JSON) on its standard input and wait for it; raises Failure when it fails."""
    path = hook["path"]
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(reading, 0)
            # Not only on exec: a hook in the container may be a script, whose interpreter the image chooses.
            syscalls.close_from(3)
            environment = [entry.partition("=") for entry in hook.get("env", ())]
            variables = {to_bytes(key): to_bytes(value) for key, _, value in environment}
            os.execve(path, [to_bytes(word) for word in hook.get("args") or [path]], variables)
        except OSError as error:
            os.write(2, f"gear: hook {path}: {error.strerror}\n".encode(errors="replace"))
        finally:
            os._exit(127)
    os.close(reading)
    if not _feed(pid, writing, state, hook.get("timeout")):
        os.kill(pid, SIGKILL)
        os.waitpid(pid, 0)
        raise Failure(f"the hook {path} did not end within {hook['timeout']} s")
    _, status = os.waitpid(pid, 0)
    if status:
        code = os.waitstatus_to_exitcode(status)
        why = f"exit status {code}" if code >= 0 else f"signal {-code}"
        raise Failure(f"the hook {path} failed: {why}")


def _feed(pid: int, writing: int, state: bytes, timeout: int | None) -> bool:
    """Write *state* to a hook as it reads it, which it does not have to; whether the hook has ended in time."""
    import select
    import time

    deadline = time.monotonic() + timeout if timeout else None
    process = syscalls.pidfd_open(pid)
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.register(writing, select.POLLOUT)
    os.set_blocking(writing, False)
    view = memoryview(state)
    try:
        while True:
            left = None if deadline is None else max(0, int((deadline - time.monotonic()) * 1000))
            ready = dict(poll.poll(left))
            if process in ready or not ready:
                return bool(ready)
            try:
                view = view[os.write(writing, view) :]
            except BrokenPipeError:  # it has closed it
                view = view[len(view) :]
            if not view:
                poll.unregister(writing)
                os.close(writing)
                writing = -1
    finally:
        os.close(process)
        if writing >= 0:
            os.close(writing)


def run_all(hooks: dict, kind: str, state: bytes) -> None:  # type: ignore[type-arg]
    """Run the hooks of *kind* in their order; the first that fails ends it with its Failure."""
    for hook in hooks.get(kind, ()):
        run(hook, state)
