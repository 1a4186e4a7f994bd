"""What the supervisor knows of a kind of host; nested.py and machine.py say what it is.

A guest lives in the supervisor's own namespaces: processes are numbered, and paths are mounted, as there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .places import Places
from .state import Request


class Watched(Protocol):
    def fileno(self) -> int: ...


@dataclass(frozen=True)
class News:
    """What a guest has told: where its leader runs, the port of its ssh, that it is up."""

    leader: int | None = None
    port: int | None = None
    ready: bool = False


class Guest(ABC):
    def __init__(self, places: Places, request: Request, cgroups: list[Path]) -> None:
        self.places = places
        self.request = request
        self.cgroups = cgroups
        self.directory = places.host(request.name)
        self.storage = Path(request.storage) if request.storage else self.directory
        self.child: int | None = None  # the process that is the host; ends when the host is off

    @abstractmethod
    def prepare(self) -> None:
        """Make what stays over reboots: mounts, disks."""

    @abstractmethod
    def start(self) -> None:
        """Start the host and set child."""

    @abstractmethod
    def watched(self) -> list[Watched]:
        """What to wait for input on; asked anew after each start."""

    @abstractmethod
    def heard(self, source: Watched) -> News | None:
        """Take the input that is there."""

    @abstractmethod
    def ended(self, status: int) -> bool:
        """The child has ended, with this wait status; True when it asks to be started again."""

    def helper_ended(self, pid: int, status: int) -> News | None:
        """Another process has ended that the guest had started."""
        return None

    @abstractmethod
    def cut_power(self) -> None:
        """Kill it as a power cut would."""
