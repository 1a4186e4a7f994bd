"""What was asked for: the specification of one container, kept as spec.json.

The only truth about a container.  Units, bundle and everything else are rendered from it and the image
(gear/composing.py), so this form is versioned and strict: unknown members are refused, not ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from gear import budget, members, mounting, outline
from gear.budget import Budget
from gear.errors import IntegrityError, UsageError
from gear.health import Health
from gear.isolation import Isolation
from gear.journaling import Logging
from gear.members import container_path
from gear.model import container_name, unit_name
from gear.mounting import Mount
from gear.naming import Naming
from gear.network import Network
from gear.outline import VERSION, ImageRef, Outline
from gear.patterns import pattern
from gear.records import dataclass, field
from gear.restarts import Pace, restart_policy
from gear.signals import signal_number
from gear.supplies import Supplies

UID_RANGE_SIZE = 65536

# The first one is what a container gets unless somebody says otherwise (gear/storage.py).
STORAGE_DRIVERS = ("overlay", "btrfs", "vfs")
_HOSTNAME = pattern(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?", re.ASCII)


@dataclass(frozen=True)
class Spec:
    """A container as it was asked for; None means what the image or gear's default says."""

    name: str
    image: ImageRef
    uid_base: int
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    workdir: str | None = None
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    hostname: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    slice: str = Outline.slice
    resources: Budget = field(default_factory=Budget)
    restart: str = "on-failure"
    stop_signal: str | None = None
    stop_timeout: float | None = None  # seconds
    network: Network = field(default_factory=Network)
    naming: Naming = field(default_factory=Naming)
    ephemeral: bool = False
    storage: str = STORAGE_DRIVERS[0]
    isolation: Isolation = field(default_factory=Isolation)
    supplies: Supplies = field(default_factory=Supplies)
    logging: Logging = field(default_factory=Logging)
    health: Health = Health()
    pace: Pace = Pace()

    @property
    def own_ids(self) -> bool:
        """Whether it has a user namespace, and not the host's ids."""
        return self.isolation.userns != "host"

    @property
    def id_count(self) -> int:
        """How many user ids there are inside."""
        if not self.own_ids:
            return 1 << 32
        return self.isolation.id_range[1] if self.isolation.id_range else UID_RANGE_SIZE

    @property
    def unit(self) -> str:
        """The name of the container's service unit."""
        return unit_name(self.name)

    def to_mapping(self) -> dict[str, Any]:
        """The content of spec.json."""
        return {
            "version": VERSION,
            "name": self.name,
            "image": {"reference": self.image.reference, "digest": self.image.digest},
            "uid_base": self.uid_base,
            "entrypoint": None if self.entrypoint is None else list(self.entrypoint),
            "command": None if self.command is None else list(self.command),
            "env": dict(self.env),
            "user": self.user,
            "workdir": self.workdir,
            "mounts": [
                {"kind": m.kind, "source": m.source, "destination": m.destination, "options": list(m.options)}
                for m in self.mounts
            ],
            "read_only": self.read_only,
            "hostname": self.hostname,
            "labels": dict(self.labels),
            "slice": self.slice,
            "resources": self.resources.to_mapping(),
            "restart": self.restart,
            "stop_signal": self.stop_signal,
            "stop_timeout": self.stop_timeout,
            "network": self.network.to_mapping(),
            "naming": self.naming.to_mapping(),
            "ephemeral": self.ephemeral,
            "storage": self.storage,
            "isolation": self.isolation.to_mapping(),
            # Only what was asked for, so that older specifications stay as they are.
            **({"supplies": self.supplies.to_mapping()} if self.supplies != Supplies() else {}),
            **({"health": self.health.to_mapping()} if self.health != Health() else {}),
            **({"pace": self.pace.to_mapping()} if self.pace != Pace() else {}),
            "logging": self.logging.to_mapping(),
        }

    @classmethod
    def from_mapping(cls, document: Any, where: str) -> Spec:
        """The spec in *document*; raises IntegrityError naming *where* and every fault in it."""
        plain = outline.current(document, where)
        isolation = plain.pop("isolation", {})
        faults: list[str] = []
        if "resources" not in plain:  # as versions before it wrote them
            flat = {name: plain.pop(name) for name in budget.FLAT_MEMBERS if name in plain}
            try:
                plain["resources"] = budget.of_version_0(flat)
            except UsageError as error:
                faults.append(f"/resources: {error.message.removesuffix('.')}")
        values, wrong = members.read(plain, _READERS, "", ("name", "image", "uid_base"))
        faults += wrong
        try:
            values["isolation"], wrong = Isolation.read(isolation, "/isolation")
            faults += wrong
        except TypeError as error:
            faults.append(f"/isolation: not as expected ({error})")
        if not faults:
            faults += [f"/uid_base: {fault}" for fault in _range_faults(values)]
        if faults:
            raise IntegrityError(f"{where} is damaged: {'; '.join(faults)}.")
        return cls(**values)


def _uid_base(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} can't begin a range of {UID_RANGE_SIZE} user ids")
    return value


def _range_faults(values: dict[str, Any]) -> list[str]:
    """Whether the first id and what was asked for of user ids agree."""
    base, isolation = values["uid_base"], values["isolation"]
    if isolation.userns == "host":
        return [] if base == 0 else ["it is 0 for a container with the host's user ids"]
    if isolation.id_range is not None:
        return [] if base == isolation.id_range[0] else [f"it is not that of the range {isolation.userns}"]
    if base <= 0 or base % UID_RANGE_SIZE or base > 0x6FFF0000:
        return [f"not as expected ({base!r} can't begin a range of {UID_RANGE_SIZE} user ids)"]
    return []


def environment_name(text: str) -> str:
    """*text* if it can name an environment variable; raises UsageError otherwise."""
    if not text or "=" in text or "\0" in text:
        raise UsageError(f"{text!r} can't name an environment variable.")
    return text


def _environment(value: Any) -> dict[str, str]:
    return {environment_name(name): content for name, content in members.text_mapping(value).items()}


def host_name(text: str) -> str:
    """*text* if it may be a host name (hostname(7)); raises UsageError."""
    if not _HOSTNAME.fullmatch(text):
        raise UsageError(
            f"{text[:80]!r} can't be a host name.", hint="Use up to 64 letters, digits, '-' and '.'."
        )
    return text


def storage_driver(value: Any) -> str:
    """One of STORAGE_DRIVERS; raises UsageError."""
    if value not in STORAGE_DRIVERS:
        raise UsageError(
            f"There is no storage driver {value!r}.", hint=f"Drivers are {', '.join(STORAGE_DRIVERS)}."
        )
    return str(value)


def stop_timeout(value: Any) -> float:
    """Seconds, 0 (kill at once) to a day; raises UsageError."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise UsageError(f"{value!r} is no time to wait for a stop.", hint="Give seconds, 0 to 86400.")
    return seconds


_READERS: dict[str, Callable[[Any], Any]] = {
    "name": lambda value: container_name(members.text(value)),
    "image": outline.READERS["image"],
    "uid_base": _uid_base,
    "entrypoint": members.optional(members.texts),
    "command": members.optional(members.texts),
    "env": _environment,
    "user": members.optional(members.text),
    "workdir": members.optional(lambda value: container_path(members.text(value), "The working directory")),
    "mounts": mounting.read,
    "read_only": members.boolean,
    "hostname": members.optional(lambda value: host_name(members.text(value))),
    "labels": members.text_mapping,
    "slice": outline.READERS["slice"],
    "resources": Budget.read,
    "restart": lambda value: restart_policy(members.text(value)),
    "stop_signal": members.optional(
        lambda value: members.text(value) if signal_number(members.text(value)) else ""
    ),
    "stop_timeout": members.optional(lambda value: stop_timeout(members.number(value))),
    "network": outline.READERS["network"],
    "naming": Naming.read,
    "health": Health.read,
    "pace": Pace.read,
    "ephemeral": members.boolean,
    "storage": storage_driver,
    "supplies": Supplies.read,
    "logging": Logging.read,
}
