"""What is on disk about the upgrades of a container, beside its spec.json.

    upgrade.json    an upgrade or a rollback that is under way: from before anything changes until it is over
    upgrades.json   what the container was before the last one, and what became of the last ones

Not how they are carried out (gear/upgrading.py).  Whoever finds upgrade.json without its maker, who holds flock(2) on
the container's directory, finishes or undoes what it says.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gear import containers, files, members
from gear.errors import GearError, IntegrityError
from gear.model import NAME, Layout
from gear.records import dataclass, replace

# Nearly no container that is looked at has been upgraded.
if TYPE_CHECKING:
    from gear.spec import Spec

UPGRADE, ROLLBACK = "upgrade", "rollback"
# What became of one: it is in force, it was taken back, or gear was killed and nobody saw how it started.
DONE, UNDONE, INTERRUPTED = "done", "rolled back", "interrupted"
# So many are remembered.
MOST = 50

_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Entry:
    """One upgrade or rollback: when (seconds since the epoch), from which digest to which, and what became of it."""

    time: float
    kind: str
    origin: str
    target: str
    result: str
    reason: str = ""

    def document(self) -> dict[str, Any]:
        """The members of `gear upgrade --history`, described in gear(1)."""
        return {
            "time": self.time,
            "kind": self.kind,
            "from": self.origin,
            "to": self.target,
            "result": self.result,
            "reason": self.reason,
        }

    @classmethod
    def read(cls, value: Any) -> Entry:
        item = members.mapping(value)
        words = (members.text(item[member]) for member in ("kind", "from", "to", "result", "reason"))
        return cls(float(members.number(item["time"])), *words)


@dataclass(frozen=True)
class Record:
    """What a container was before its last upgrade, the snapshot with the data of its volumes then, and the history,
    oldest first."""

    previous: Spec | None = None
    snapshot: str | None = None
    history: tuple[Entry, ...] = ()

    def noted(self, entry: Entry) -> Record:
        """The same with one more in the history."""
        return replace(self, history=(*self.history, entry)[-MOST:])


@dataclass(frozen=True)
class Pending:
    """An upgrade or rollback that is under way."""

    kind: str
    began: float  # seconds since the epoch
    boot: str  # the boot during which it began (proc_sys_kernel(5), random/boot_id)
    origin: Spec
    target: Spec
    snapshot: str | None  # of the volumes as they were: there once it is made
    restore: str | None  # what volumes become
    ran: bool  # whether it is to run in the end
    new_layer: bool  # whether the writable layer of *target* was made for this
    failed: str | None = None  # why it is being taken back

    def entry(self, result: str, reason: str = "") -> Entry:
        """What the history says of it."""
        digests = self.origin.image.digest, self.target.image.digest
        return Entry(self.began, self.kind, *digests, result, reason)


def record_path(layout: Layout, name: str) -> Path:
    """Where the history of *name* is."""
    return layout.containers / name / "upgrades.json"


def pending_path(layout: Layout, name: str) -> Path:
    """Where it stands that an upgrade of *name* is under way."""
    return layout.containers / name / "upgrade.json"


def read(layout: Layout, name: str) -> Record:
    """What is remembered of *name*; raises IntegrityError."""
    path = record_path(layout, name)

    def parse(top: dict[str, Any]) -> Record:
        from gear.spec import Spec

        previous = (
            None if top["previous"] is None else Spec.from_mapping(top["previous"], f"{path}: previous")
        )
        entries = tuple(Entry.read(item) for item in members.array(top["history"]))
        return Record(previous, _label(top["snapshot"]), entries)

    hint = f"Remove it: {name} can't be rolled back then, and nothing else is lost."
    return _parsed(path, parse, hint) or Record()


def pending(layout: Layout, name: str) -> Pending | None:
    """The upgrade of *name* that is under way, or was when gear was killed; raises IntegrityError."""
    path = pending_path(layout, name)

    def parse(top: dict[str, Any]) -> Pending:
        from gear.spec import Spec

        return Pending(
            members.text(top["kind"]),
            float(members.number(top["began"])),
            members.text(top["boot"]),
            Spec.from_mapping(top["from"], f"{path}: from"),
            Spec.from_mapping(top["to"], f"{path}: to"),
            _label(top["snapshot"]),
            _label(top["restore"]),
            members.boolean(top["ran"]),
            members.boolean(top["new_layer"]),
            members.optional(members.text)(top["failed"]),
        )

    hint = f"Remove it, and see what {name} is then: gear inspect {name}"
    return _parsed(path, parse, hint)


def _parsed(path: Path, parse: Callable[[dict[str, Any]], _Read], hint: str) -> _Read | None:
    try:
        document = files.read_json(path)
        if document is None:
            return None
        top = members.mapping(document)
        if top["version"] != 1:
            raise ValueError(f"its version is {top['version']!r}")
        return parse(top)
    except (KeyError, TypeError, ValueError, GearError) as error:
        raise IntegrityError(f"{path} is damaged: {str(error).rstrip('.')}.", hint=hint) from error


def _label(value: Any) -> str | None:
    if value is None:
        return None
    if not NAME.fullmatch(members.text(value)):
        raise ValueError(f"{value!r} is no label")
    return str(value)


def write(layout: Layout, name: str, record: Record) -> None:
    """Remember *record*, durably."""
    document = {
        "version": 1,
        "previous": None if record.previous is None else record.previous.to_mapping(),
        "snapshot": record.snapshot,
        "history": [entry.document() for entry in record.history],
    }
    files.write_atomic(record_path(layout, name), files.dump_json(document), 0o600)


def begin(layout: Layout, name: str, item: Pending) -> None:
    """Note durably that *item* is under way, or what is known of it by now."""
    document = {
        "version": 1,
        "kind": item.kind,
        "began": item.began,
        "boot": item.boot,
        "from": item.origin.to_mapping(),
        "to": item.target.to_mapping(),
        "snapshot": item.snapshot,
        "restore": item.restore,
        "ran": item.ran,
        "new_layer": item.new_layer,
        "failed": item.failed,
    }
    files.write_atomic(pending_path(layout, name), files.dump_json(document), 0o600)


def end(layout: Layout, name: str) -> None:
    """Note durably that nothing is under way any more."""
    path = pending_path(layout, name)
    if files.remove_file(path):
        files.sync_directory(path.parent)


@contextmanager
def owned(layout: Layout, name: str) -> Iterator[None]:
    """Be the one who upgrades *name*; raises GearError while somebody else is, and when there is no such container."""
    if not containers.spec_path(layout, name).exists():
        raise containers.not_found(name)
    with files.explained(f"lock {name}"):
        descriptor = os.open(layout.containers / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise _owned_by_another(name) from None
    finally:
        os.close(descriptor)


def _owned_by_another(name: str) -> GearError:
    return GearError(f"{name} is being upgraded by somebody else.", hint="Try again in a moment.")


def require_settled(layout: Layout, name: str) -> None:
    """Raise GearError while somebody upgrades *name*."""
    if pending_path(layout, name).exists() and containers.has_owner(layout, name):
        raise _owned_by_another(name)


def abandoned(layout: Layout, name: str) -> bool:
    """Whether an upgrade of *name* was interrupted: there is one, and nobody at it."""
    return pending_path(layout, name).exists() and not containers.has_owner(layout, name)


def specs(layout: Layout, name: str) -> list[Spec]:
    """What the container may become again without asking a registry: before its last upgrade, and both ends of the one
    that is under way.  Raises IntegrityError."""
    item, previous = pending(layout, name), read(layout, name).previous
    return [*([previous] if previous else []), *([item.origin, item.target] if item else [])]


def layers(layout: Layout, name: str) -> set[Path]:
    """The writable layers that go with these."""
    from gear import bundle

    return {bundle.writable_layer(spec, layout) for spec in specs(layout, name) if not spec.ephemeral}
