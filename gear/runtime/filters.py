"""Compiled seccomp filters of bundles, kept by the content of the profile.

The directory is root's alone (0700): who can write there decides what containers may do.
"""

from __future__ import annotations

import os

from gear import __version__
from gear.helper.bundle import Filter
from gear.helper.failure import Failure
from gear.runtime.document import dumps
from gear.runtime.placement import third_party
from gear.runtime.state import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NEW_LISTENER = 8  # SECCOMP_FILTER_FLAG_NEW_LISTENER, linux/seccomp.h


def _digest(content: bytes) -> str:
    try:
        from _sha256 import sha256  # the C half that hashlib wraps; 3.12 calls it _sha2
    except ImportError:
        try:
            from _sha2 import sha256
        except ImportError:
            from hashlib import sha256
    return str(sha256(content).hexdigest())


def compiled(profile: dict[str, Any], cache: str) -> Filter:
    """The program for `linux.seccomp`, with its flags of seccomp(2)."""
    key = _digest(f"{__version__} {os.uname().machine} {os.uname().release} {dumps(profile)}".encode())
    path = f"{cache}/{key}"
    try:
        with open(path, "rb", buffering=0) as file:
            content = file.read()
        return Filter(content[4:], int.from_bytes(content[:4], "little"))
    except FileNotFoundError:
        pass
    third_party()
    from gear import seccomp
    from gear.errors import GearError

    try:
        program, flags = seccomp.compile_oci(profile)
    except GearError as error:
        raise Failure(error.message.rstrip(".")) from error
    if profile.get("listenerPath"):
        flags |= _NEW_LISTENER
    os.makedirs(cache, 0o700, exist_ok=True)
    replace(path, flags.to_bytes(4, "little") + program)
    return Filter(program, flags)
