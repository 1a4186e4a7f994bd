"""Where testhost keeps things: one cache directory, and below it one directory for each host.

    CACHE/trees/RELEASE-KEY/      a root tree; several hosts share it, read-only
    CACHE/disks/RELEASE-KEY/      kernel, initrd and root disk of a virtual machine
    CACHE/images/NAME-RELEASE-KEY.tar
    CACHE/ssh/                    the key the virtual machines accept
    CACHE/locks/                  one lock file for each thing that is built, never removed
    CACHE/hosts/.lock             taken to claim a name and to sweep up
    CACHE/hosts/NAME/             everything of one host; gone when the host is

A name that starts with a dot is a build in progress, or what an interrupted one left.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import ToolError, UsageError

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}[a-z0-9]")


def check_name(name: str) -> str:
    """A host's name: it is a host name, a directory and a cgroup."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} can't be a host's name",
            hint="use 2 to 32 lower-case letters, digits and hyphens, a letter first",
        )
    return name


@dataclass(frozen=True)
class Places:
    cache: Path

    @classmethod
    def default(cls) -> Places:
        return cls(Path(os.path.abspath(os.environ.get("GEAR_TESTHOST_CACHE") or "/var/cache/gear-testhost")))

    @property
    def trees(self) -> Path:
        return self.cache / "trees"

    @property
    def disks(self) -> Path:
        return self.cache / "disks"

    @property
    def images(self) -> Path:
        return self.cache / "images"

    @property
    def ssh(self) -> Path:
        return self.cache / "ssh"

    @property
    def hosts(self) -> Path:
        return self.cache / "hosts"

    def host(self, name: str) -> Path:
        return self.hosts / check_name(name)

    def make(self) -> None:
        try:
            self.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in (self.trees, self.disks, self.images, self.hosts, self.cache / "locks"):
                path.mkdir(mode=0o700, exist_ok=True)
        except OSError as err:
            raise ToolError(f"the cache {self.cache} can't be made: {err.strerror}") from err

    @contextmanager
    def lock(self, what: str) -> Iterator[int]:
        """Hold the lock of one thing that is built; blocks while another process builds it.

        A process that is given the descriptor holds the lock, too, until it has ended.
        """
        with locked(self.cache / "locks" / what) as held:
            yield held

    @contextmanager
    def hosts_lock(self) -> Iterator[None]:
        with locked(self.hosts / ".lock"):
            yield


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """An exclusive flock(2), which the kernel drops when all that have the descriptor are dead."""
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
