"""What testhost asks of the machine, and the one sentence said when it is not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .errors import ToolError

# program: the Debian package that has it
PACKAGES = {
    "cp": "coreutils",
    "dpkg-deb": "dpkg",
    "journalctl": "systemd",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "nsenter": "util-linux",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
    "tar": "tar",
    "unshare": "util-linux",
}
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def root() -> None:
    if os.geteuid() != 0:
        raise ToolError("testhost must run as root: it makes namespaces and mounts", hint="sudo testhost ...")


def programs(*names: str, path: str = SEARCH_PATH) -> None:
    """Raise when one of the programs is missing, naming all the packages to install."""
    missing = [name for name in names if shutil.which(name, path=path) is None]
    if missing:
        packages = sorted({PACKAGES[name] for name in missing})
        raise ToolError(
            f"this machine has no {', '.join(missing)}", hint="apt-get install " + " ".join(packages)
        )


def space(directory: Path, mebibytes: int) -> None:
    free = shutil.disk_usage(directory).free >> 20
    if free < mebibytes:
        raise ToolError(
            f"{directory} has {free} MiB free, and {mebibytes} MiB are needed",
            hint="testhost clean --cache, or set GEAR_TESTHOST_CACHE to a directory on a larger file system",
        )
