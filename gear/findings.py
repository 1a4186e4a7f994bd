"""What a check found wrong, and what can be done about it.

Not the checks themselves (gear/checking.py, gear/container_check.py, gear/network_state.py), nor when something is
mended (gear/mending.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gear.records import dataclass


@dataclass(frozen=True)
class Finding:
    """One fault: where, what (a clause that goes on from the path), and how it can be mended.

    *damage* is false for what is only left over from interrupted work and harms nobody.  *mend* raises GearError when
    it can't be done now; without it, or beside it, *hint* is what a person can do: what has been lost has to come
    again from somewhere else.  *lost* says that mending takes away what is unusable and does not bring it back.
    *foreign* says that it is somebody else's doing, which gear leaves alone and only tells of.
    """

    path: Path | str  # what is in the kernel and not in a file has a name
    what: str
    damage: bool = True
    mend: Callable[[], object] | None = None
    hint: str = ""
    lost: bool = False
    foreign: bool = False

    def __str__(self) -> str:
        return f"{self.path} {self.what}"
