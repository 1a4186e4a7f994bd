"""What a container is started from: the bundle's config.json, two questions about it that several steps ask, and what a
front end wants beside it.

Not for validation of what people write: gear renders the files from a validated spec.  The `json` module costs
half as much as everything else the helper does (it imports `re`), so its C scanner is used directly.
"""

from __future__ import annotations

import posix as os
from fcntl import LOCK_SH, flock

from gear.helper import syscalls
from gear.helper.failure import Failure, Step

# OCI runtime specification, config-linux.md, "Namespaces".
NAMESPACES = {
    "pid": syscalls.CLONE_NEWPID,
    "network": syscalls.CLONE_NEWNET,
    "mount": syscalls.CLONE_NEWNS,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "user": syscalls.CLONE_NEWUSER,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "time": syscalls.CLONE_NEWTIME,
}


class _ScannerOptions:
    # What json.decoder.JSONDecoder hands to the scanner it builds.
    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict = {}  # type: ignore[type-arg]


class Filter:
    """A compiled seccomp filter: instructions of 8 bytes each, and flags of seccomp(2)."""

    def __init__(self, program: bytes, flags: int = 0) -> None:
        self.program = program
        self.flags = flags


class Start:
    """What a front end wants of a start, beside config.json."""

    def __init__(
        self,
        *,
        filter_: Filter | None = None,
        keep: int = 0,
        start_socket: int | None = None,
        cgroup2: bool = True,
        keyring: bool = True,
        state: dict | None = None,  # type: ignore[type-arg]
        interfaces: list | None = None,  # type: ignore[type-arg]
        passed: list | None = None,  # type: ignore[type-arg]
    ) -> None:
        self.filter = filter_  # the compiled seccomp filter
        self.keep = keep  # descriptors from 3 on that the payload gets
        self.start_socket = start_socket  # a listening socket: wait there before the payload is executed
        self.cgroup2 = cgroup2  # the unified hierarchy is there
        self.keyring = keyring  # a new session keyring
        self.state = state  # the state (runtime.md, "State") that hooks in the container get
        self.interfaces = interfaces  # of start.json's `network`: links that are there, without addresses
        self.passed = passed  # sockets for the payload: descriptors and names (gear/helper/activation.py)


def load_json(path: str) -> dict:  # type: ignore[type-arg]
    """The JSON object in *path*; raises Failure when it is none, and OSError."""
    with open(path, "rb", buffering=0) as file:
        return parse_json(file.read(), path)


def parse_json(content: bytes, what: str) -> dict:  # type: ignore[type-arg]
    """The JSON object in *content*; raises Failure, which calls it *what*, when it is none."""
    try:
        text = content.decode("utf-8").strip()
        document, end = _scan(text)
    except (ValueError, StopIteration, RecursionError):
        document, end, text = None, 0, ""
    if not isinstance(document, dict) or end != len(text):
        raise Failure(f"{what} is not one JSON object")
    return document


def _scan(text: str) -> tuple[object, int]:
    try:
        from _json import make_scanner

        scan = make_scanner(_ScannerOptions)  # type: ignore[arg-type]
    except (ImportError, AttributeError):
        import json

        return json.loads(text), len(text)
    document, end = scan(text, 0)
    return document, end


def claim(bundle: str, step: Step) -> None:
    """Wait for who copies into the container or out of it while it does not run (gear/copying.py): overlayfs must not
    have its upper directory mounted twice.  Until the calling process ends."""
    step.doing = f"read the bundle {bundle}"
    directory = os.open(f"{bundle}/rootfs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    step.doing = f"wait for copies of {bundle}"
    flock(directory, LOCK_SH)


def is_bind(mount: dict) -> bool:  # type: ignore[type-arg]
    """Whether a `mounts` entry is a bind mount (config.md, "Linux mounts": by type or by option)."""
    options = mount.get("options", ())
    return mount.get("type") == "bind" or "bind" in options or "rbind" in options
