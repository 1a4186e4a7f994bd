"""Reading a bundle: the OCI config.json, and the two questions about it that several steps ask.

Not for validation of what people write: gear renders the files from a validated spec.  The `json` module costs
half as much as everything else the helper does (it imports `re`), so its C scanner is used directly.
"""

from __future__ import annotations

from gear.helper import syscalls
from gear.helper.failure import Failure

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


def is_bind(mount: dict) -> bool:  # type: ignore[type-arg]
    """Whether a `mounts` entry is a bind mount (config.md, "Linux mounts": by type or by option)."""
    options = mount.get("options", ())
    return mount.get("type") == "bind" or "bind" in options or "rbind" in options
