"""What is known of the containers of this command line: one directory each below --root.

    ROOT/ID/            0700
      state.json        replaced by rename; made before anything else of the container is
      config.json       the bundle's, as it was when the container was created
      start             the socket that the first process waits on until `start`
      notify/           where the payload can say that it is ready, if whoever made it wants to know
      lock              held (fcntl(2)) by whoever changes the container
    ROOT/.cache/        compiled seccomp filters

A process is told by its pid and its start time, so a pid that was given to another process counts as gone.
Locks are fcntl(2)'s and not flock(2)'s: the first process inherits descriptors, and must not inherit a lock.
"""

from __future__ import annotations

import os
import time

from gear.helper.failure import Failure
from gear.runtime.document import dumps, load_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any

OCI_VERSION = "1.3.0"
DEFAULT_ROOT = "/run/gear/oci"
_FIRST = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-"
_LONGEST_ID = 255


def check_id(name: str) -> str:
    """*name*, if a container may be called so; the same set as runc's and crun's."""
    if not name:
        raise Failure("the container's id is missing", 2)
    for position, character in enumerate(name):
        if character not in (_FIRST + "." if position else _FIRST):
            raise Failure(
                f"invalid character `{character}` in the ID {name}: letters, digits, _+-. and no . first", 2
            )
    if len(name) > _LONGEST_ID:
        raise Failure("the container's id is longer than a file name may be", 2)
    return name


def start_time(pid: int) -> int:
    """When *pid* started, in clock ticks since boot; 0 when there is no such process, or only what is left of one."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            content = file.read(4096)
    except OSError:
        return 0
    # proc_pid_stat(5): the name is in parentheses and may hold any byte; state is field 3, starttime field 22.
    fields = content[content.rindex(b")") + 2 :].split()
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


class Container:
    """One container: its directory, and what state.json says."""

    def __init__(self, root: str, name: str) -> None:
        self.name = name
        self.directory = f"{root}/{name}"
        self.data: dict[str, Any] = {}
        self.held = False  # this process has the lock

    @property
    def socket(self) -> str:
        """Where the first process waits for `start`."""
        return f"{self.directory}/start"

    @property
    def pid(self) -> int:
        """The first process; 0 when it is not there any more."""
        pid = int(self.data.get("pid", 0))
        return pid if pid and start_time(pid) == self.data.get("startTime") else 0

    def remember(self, pid: int) -> None:
        """Note the first process."""
        self.data["pid"], self.data["startTime"] = pid, start_time(pid)

    def pidfd(self) -> int:
        """A descriptor of the first process (pidfd_open(2)); raises Failure when it has ended."""
        pid = self.pid
        if pid:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                pass
            else:
                if self.pid == pid:  # still the same one, now that it can't be exchanged any more
                    return descriptor
                os.close(descriptor)
        raise Failure(f"container {self.name} is not running")

    def status(self) -> str:
        """creating, created, running or stopped (runtime.md, "State"); freezing is not looked at here."""
        recorded = str(self.data.get("status", "creating"))
        if recorded == "creating":
            # Without its maker it is what a crash left of it.
            return "creating" if not self.held and is_locked(self.directory) else "stopped"
        return recorded if self.pid else "stopped"

    def document(self, status: str, pid: int | None = None) -> dict[str, Any]:
        """The state object of the specification, with the members that runc and crun add."""
        known = {
            "ociVersion": OCI_VERSION,
            "id": self.name,
            "pid": (0 if status == "stopped" else self.data.get("pid", 0)) if pid is None else pid,
            "status": status,
            "bundle": self.data.get("bundle", ""),
            "rootfs": self.data.get("rootfs", ""),
            "created": self.data.get("created", ""),
            "owner": self.data.get("owner", ""),
        }
        if self.data.get("group", {}).get("scope"):
            known["systemd-scope"] = self.data["group"]["scope"]
        if self.data.get("annotations"):
            known["annotations"] = self.data["annotations"]
        return known

    def config(self) -> dict[str, Any]:
        """config.json as it was when the container was created."""
        return load_json(f"{self.directory}/config.json")

    def save(self) -> None:
        """Replace state.json."""
        replace(f"{self.directory}/state.json", dumps(self.data).encode())

    def make(self) -> None:
        """Create the directory; raises Failure when the id is taken."""
        root = os.path.dirname(self.directory)
        os.makedirs(root, 0o700, exist_ok=True)
        try:
            os.mkdir(self.directory, 0o700)
        except FileExistsError:
            raise Failure(f"container {self.name} already exists") from None

    def forget(self) -> None:
        """Remove the directory; state.json goes last, so what is interrupted can be seen and removed again."""
        names = sorted(os.listdir(self.directory), key=lambda name: (name == "state.json", name == "lock"))
        for name in names:
            if name == "notify":
                for inner in os.listdir(f"{self.directory}/notify"):
                    os.unlink(f"{self.directory}/notify/{inner}")
                os.rmdir(f"{self.directory}/notify")
                continue
            os.unlink(f"{self.directory}/{name}")
        os.rmdir(self.directory)


def replace(path: str, content: bytes) -> None:
    """Write a file beside *path* and rename it there."""
    partial = f"{path}.partial-{os.getpid()}"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
    os.rename(partial, path)


def load(root: str, name: str) -> Container:
    """The container called *name*; raises Failure when there is none."""
    container = Container(root, check_id(name))
    try:
        container.data = load_json(f"{container.directory}/state.json")
    except FileNotFoundError:
        # Between mkdir(2) and the first state.json there is a moment without one, and a crash can fall into it.
        if not os.path.isdir(container.directory):
            raise Failure(f"container {name} does not exist") from None
    return container


def names(root: str) -> list[str]:
    """The ids of all containers."""
    try:
        found = os.listdir(root)
    except FileNotFoundError:
        return []
    return sorted(name for name in found if name[0] in _FIRST and os.path.isdir(f"{root}/{name}"))


def everything(root: str) -> Iterator[Container]:
    """All containers, without those that go away meanwhile."""
    for name in names(root):
        try:
            yield load(root, name)
        except Failure:
            continue


class Lock:
    """The right to change one container, as a context; waits for whoever has it."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._descriptor = -1

    def __enter__(self) -> Container:
        from fcntl import LOCK_EX, lockf

        path = f"{self._container.directory}/lock"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._descriptor = os.open(path, flags, 0o600)
            lockf(self._descriptor, LOCK_EX)
            if os.fstat(self._descriptor).st_nlink:
                try:
                    self._container.data = load_json(f"{self._container.directory}/state.json")
                except FileNotFoundError:  # it is just being made, or its maker died at once
                    pass
                self._container.held = True
                return self._container
        except FileNotFoundError:
            pass
        self.__exit__(None, None, None)
        raise Failure(f"container {self._container.name} does not exist")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._container.held = False


def is_locked(directory: str) -> bool:
    """Whether some other process is changing the container (a lock of this one does not count)."""
    from fcntl import LOCK_EX, LOCK_NB, lockf

    try:
        descriptor = os.open(f"{directory}/lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        lockf(descriptor, LOCK_EX | LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    finally:
        os.close(descriptor)
    return False


def now() -> str:
    """The time as RFC 3339 has it."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"
