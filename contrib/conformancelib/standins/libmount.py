"""As much of util-linux's Python module `libmount`, which Debian does not package, as suites use: reading mountinfo.

Found by the tests alone, whose PYTHONPATH this directory is.
"""

from __future__ import annotations

import re


class Filesystem:
    """One line of proc_pid_mountinfo(5)."""

    def __init__(self, line: str) -> None:
        mount, _, rest = line.partition(" - ")
        words = mount.split()
        self.target = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), words[4])
        self.vfs_options = words[5]
        self.fs_options = rest.split()[2]


class Table:
    """A file in the form of proc_pid_mountinfo(5)."""

    def __init__(self, path: str) -> None:
        with open(path) as file:
            self.lines = [Filesystem(line) for line in file if " - " in line]

    def find_target(self, target: str) -> Filesystem:
        """The mount on top at a place."""
        return next(line for line in reversed(self.lines) if line.target == target)
