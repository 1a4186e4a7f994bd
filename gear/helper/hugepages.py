"""The limit of huge pages of a container: systemd knows no such controller, so its files are written at the start.

Control groups of version 2 only.  A group has the files of a controller that each group above it passes on
(cgroup-v2.rst, "Enabling and Disabling"); systemd leaves those alone that it does not know.
"""

from __future__ import annotations

import posix as os

from gear.helper.failure import Failure

_ROOT = "/sys/fs/cgroup"


def limit(group: str, pages: dict[str, int]) -> None:
    """Let the control group *group* have as many bytes in huge pages of each size as *pages* says; raises Failure."""
    try:
        _pass_on(group)
        for size, most in pages.items():
            # The reservation as well: with .max alone a fault can still end in SIGBUS.
            for name in ("max", "rsvd.max"):
                with open(f"{group}/hugetlb.{size}.{name}", "w", encoding="ascii") as file:
                    file.write(str(most))
    except FileNotFoundError as error:
        raise Failure(
            "can't limit huge pages: this kernel has none of that size, or no limit of them"
        ) from error
    except OSError as error:
        raise Failure(f"can't limit huge pages: {os.strerror(error.errno or 0)}") from error


def _pass_on(group: str) -> None:
    """Have every group above *group* pass the controller on."""
    above = _ROOT
    for part in group.removeprefix(f"{_ROOT}/").split("/"):
        with open(f"{above}/cgroup.subtree_control", "r+", encoding="ascii") as file:
            if "hugetlb" not in file.read().split():
                file.seek(0)
                file.write("+hugetlb")
        above = f"{above}/{part}"
