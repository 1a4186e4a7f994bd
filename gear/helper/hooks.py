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
    import select

    path = hook["path"]
    # No pipe: a hook that does not read a long state would keep this from hearing that its time is over.
    reading = os.memfd_create("state")
    with open(reading, "wb", buffering=0, closefd=False) as file:
        while state:
            state = state[file.write(state) :]
    os.lseek(reading, 0, 0)
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
    timeout = hook.get("timeout")
    if timeout:
        process = syscalls.pidfd_open(pid)
        poll = select.poll()
        poll.register(process, select.POLLIN)
        expired = not poll.poll(timeout * 1000)
        os.close(process)
        if expired:
            os.kill(pid, SIGKILL)
            os.waitpid(pid, 0)
            raise Failure(f"the hook {path} did not end within {timeout} s")
    _, status = os.waitpid(pid, 0)
    if status:
        code = os.waitstatus_to_exitcode(status)
        why = f"exit status {code}" if code >= 0 else f"signal {-code}"
        raise Failure(f"the hook {path} failed: {why}")


def run_all(hooks: dict, kind: str, state: bytes) -> None:  # type: ignore[type-arg]
    """Run the hooks of *kind* in their order; the first that fails ends it with its Failure."""
    for hook in hooks.get(kind, ()):
        run(hook, state)
