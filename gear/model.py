"""The words of gear: where its files are, what a container may be called, and what was asked for.

Pure: nothing here touches the host.  What an image says is in gear/oci.py.
"""

from __future__ import annotations

import os
import re

from gear.errors import UsageError
from gear.patterns import pattern

# `typing` and `pathlib` take longer to import than gear exec needs for all that it does with them.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Layout:
    """Every directory gear owns.  Options or the environment move each of them, so tests touch none of the
    real ones."""

    DEFAULT = {
        "state": "/var/lib/gear",
        # Below the administrator's own directory /etc/systemd/system, so that `systemctl mask` and full
        # replacement by a file of the same name work (systemd.unit(5), "Unit File Load Path").
        "units": "/usr/local/lib/systemd/system",
        # Of containers that are run and not installed; systemd forgets it at the next boot.
        "transient_units": "/run/systemd/system",
        # What the administrator writes and gear only reads.
        "config": "/etc/gear",
    }
    ENVIRONMENT = {
        "state": "GEAR_STATE_DIR",
        "units": "GEAR_UNIT_DIR",
        "config": "GEAR_CONFIG_DIR",
    }

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Layout:
        """The default layout with what the environment moves; raises UsageError for a relative path."""
        moved = {}
        for field, variable in cls.ENVIRONMENT.items():
            if value := environ.get(variable):
                moved[field] = absolute_path(value, variable)
        return cls(**moved)

    def __init__(
        self, state: Path | None = None, units: Path | None = None, config: Path | None = None
    ) -> None:
        given = {"state": state, "units": units, "config": config}
        self._places = self.DEFAULT | {field: str(path) for field, path in given.items() if path is not None}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self._places == other._places

    def __hash__(self) -> int:
        return hash(tuple(self._places.items()))

    def moved(self, field: str, path: Path) -> Layout:
        """The same layout with one of its directories elsewhere."""
        there = Layout()
        there._places = self._places | {field: str(path)}
        return there

    def _path(self, field: str) -> Path:
        from pathlib import Path

        return Path(self._places[field])

    @property
    def state(self) -> Path:
        """Everything but unit files."""
        return self._path("state")

    @property
    def config(self) -> Path:
        """What the administrator writes."""
        return self._path("config")

    @property
    def units(self) -> Path:
        """Where unit files are written."""
        return self._path("units")

    @property
    def transient_units(self) -> Path:
        """Where those of containers are written that are not installed."""
        return self._path("transient_units")

    @property
    def containers(self) -> Path:
        """One directory per installed container."""
        return self.state / "containers"

    def container(self, name: str) -> str:
        """The directory of one container."""
        return f"{self._places['state']}/containers/{name}"

    @property
    def volumes(self) -> Path:
        """One directory per named volume."""
        return self.state / "volumes"

    @property
    def images(self) -> Path:
        """The image store; its format is documented in gear/store.py."""
        return self.state / "images"

    @property
    def networks(self) -> Path:
        """One directory per network (gear/definitions.py)."""
        return self.state / "networks"

    @property
    def slices(self) -> Path:
        """A file for each slice that was made (gear/slices.py)."""
        return self.state / "slices"

    @property
    def ports(self) -> Path:
        """A link for each published port (gear/allocation.py)."""
        return self.state / "ports"

    @property
    def lock(self) -> Path:
        """Held while containers are installed, changed or removed."""
        return self.state / "lock"


def absolute_path(text: str, what: str) -> Path:
    """*text* as an absolute, normal path; raises UsageError naming *what*."""
    if not text.startswith("/") or "\0" in text or "\n" in text:
        raise UsageError(f"{what} must be an absolute path, not {text!r}.")
    from pathlib import Path

    return Path(os.path.normpath(text))


NAME = pattern(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
# Units by which PID 1 listens for a container (gear/activation.py).
_LISTENER = pattern(rf"ctr-({NAME.pattern})(?:@[0-9]{{1,5}}\.(?:socket|service)|\.socket)", re.ASCII)


def unit_name(name: str) -> str:
    """The service unit of the container *name*."""
    return f"ctr-{name}.service"


def listener_of(unit: str) -> str | None:
    """The container for which PID 1 listens by the unit *unit*, a socket or its proxy; None for any other unit."""
    match = _LISTENER.fullmatch(unit)
    return match[1] if match else None


def listeners(name: str) -> list[str]:
    """What the names of all those units of the container *name* match (glob(7))."""
    return [f"ctr-{name}.socket", f"ctr-{name}@*.socket", f"ctr-{name}@*.service"]


def container_name(text: str) -> str:
    """*text* if it may name a container; raises UsageError otherwise.

    The name becomes part of a unit name, a directory and a host name, so the allow-list is narrow: 1 to 63
    letters, digits, `_`, `.` and `-`, the first a letter or digit.  ctr-NAME.service, as systemctl prints it, means
    the container NAME.
    """
    if text.startswith("ctr-") and text.endswith(".service"):
        text = text.removeprefix("ctr-").removesuffix(".service")
    if not NAME.fullmatch(text):
        raise UsageError(
            f"{text[:80]!r} can't name a container.",
            hint="Use 1 to 63 letters, digits, '_', '.' or '-', and begin with a letter or digit.",
        )
    return text
