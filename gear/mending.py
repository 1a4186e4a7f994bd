"""What becomes of a finding: mended right away, or told.

Not what is looked for (gear/fsck.py and gear/network_repair.py have the order of it).
"""

from __future__ import annotations

from typing import Any

from gear import files
from gear.errors import GearError
from gear.findings import Finding
from gear.records import dataclass


@dataclass(frozen=True)
class Outcome:
    """A finding, whether it was mended, and why not."""

    finding: Finding
    mended: bool
    problem: str = ""

    @property
    def is_wrong(self) -> bool:
        """Whether something is still not as it should be: what is lost has to come again from somewhere."""
        return self.finding.damage and (not self.mended or self.finding.lost)

    def document(self) -> dict[str, Any]:
        return {
            "path": str(self.finding.path),
            "what": self.finding.what,
            "damage": self.finding.damage,
            "mended": self.mended,
            "problem": self.problem,
            "hint": self.finding.hint if self.is_wrong or self.finding.foreign else "",
        }


def treat(finding: Finding, *, repair: bool) -> Outcome:
    """*finding*, mended if *repair* says so and it can be."""
    if not repair or finding.mend is None:
        return Outcome(finding, False)
    try:
        with files.explained(f"mend {finding.path}"):
            finding.mend()
    except GearError as error:
        return Outcome(finding, False, error.message)
    return Outcome(finding, True)
