"""Whether an image is what it says it is, and signed as it has to be: each check by its name, in the order of CHECKS.

Nothing is changed; `gear fsck` mends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gear import images, leases, signatures, store
from gear.checking import StoreCheck
from gear.errors import GearError
from gear.model import Layout
from gear.oci import Image
from gear.records import dataclass


@dataclass(frozen=True)
class Checked:
    """What one check came to: sentences about what is wrong, none when it passed; or why there was nothing to check."""

    check: str
    faults: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Verified:
    """What all checks came to for one image."""

    reference: str
    digest: str
    checks: tuple[Checked, ...]

    @property
    def passed(self) -> bool:
        return not any(checked.faults for checked in self.checks)

    def document(self) -> dict[str, Any]:
        return {
            "reference": "" if self.reference == self.digest else self.reference,
            "digest": self.digest,
            "passed": self.passed,
            "checks": [
                {
                    "check": checked.check,
                    "passed": not checked.faults,
                    "faults": list(checked.faults),
                    "note": checked.note,
                }
                for checked in self.checks
            ],
        }


def _content(layout: Layout, image: Image) -> Checked:
    """Every blob has its digest, the layers unpack to the diff ids of the config, and what is unpacked is that."""
    check = StoreCheck(layout, lambda diff_id: None)
    faults = tuple(str(finding) for finding in check.image(image.digest))
    return Checked(
        "content", faults, f"{len(image.layers)} layers of {image.size} bytes compared with their blobs"
    )


def _signature(layout: Layout, image: Image) -> Checked:
    """The policy lets it have its name, by the signatures that are kept beside it."""
    if image.reference == image.digest:
        return Checked("signature", (), "it has no name, so no policy is for it")
    try:
        verdict = signatures.check(layout, image)
    except GearError as error:
        hint = [f"hint: {error.hint}"] if error.hint else []
        return Checked("signature", (error.message, *error.details, *hint))
    said = f"signed by {', '.join(verdict.signers)}" if verdict.signers else "none is asked for"
    return Checked("signature", (), f"{said}; {verdict.where or 'there is no policy'}")


CHECKS: tuple[Callable[[Layout, Image], Checked], ...] = (_content, _signature)


def verify(layout: Layout, text: str) -> Verified:
    """Check the image *text*; raises GearError when it can't even be told what it is."""
    store.prepare(layout)
    with leases.pinning(layout):
        image = images.pinned(layout, text)
        return Verified(image.reference, image.digest, tuple(check(layout, image) for check in CHECKS))
