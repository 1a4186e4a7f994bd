"""The containers that are installed: reading their specs, and what systemd says of them.

What they are rendered to is in gear/composing.py, changing them in gear/install.py and gear/remove.py, starting and
stopping in gear/lifecycle.py.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gear import files
from gear.errors import GearError, NotFoundError, UsageError
from gear.model import NAME, Layout, unit_name
from gear.records import dataclass

# Reading specifications takes half of what `gear stop` and `gear kill` need, which read none.
if TYPE_CHECKING:
    from gear.outline import Outline
    from gear.spec import Spec


def spec_path(layout: Layout, name: str) -> Path:
    """Where the spec of the container *name* is."""
    return Path(f"{layout.container(name)}/spec.json")


def names(layout: Layout) -> list[str]:
    """The names of all installed containers, sorted."""
    with files.explained(f"read {layout.containers}"):
        try:
            entries = os.listdir(layout.containers)
        except FileNotFoundError:
            return []
    top = str(layout.containers)
    return sorted(
        entry for entry in entries if NAME.fullmatch(entry) and os.path.exists(f"{top}/{entry}/spec.json")
    )


def find(layout: Layout, name: str) -> Spec | None:
    """The spec of *name*, or None when it is not installed."""
    from gear.spec import Spec

    path = spec_path(layout, name)
    document = files.read_json(path)
    return None if document is None else Spec.from_mapping(document, str(path))


def outline(layout: Layout, name: str) -> Outline:
    """What lists show of the specification of *name*; raises NotFoundError when it is not installed."""
    from gear.outline import Outline

    path = f"{layout.container(name)}/spec.json"
    document = files.read_json(path)
    if document is None:
        raise not_found(name)
    return Outline.from_mapping(document, path)


def exists(layout: Layout, name: str) -> bool:
    """Whether there is anything of the container *name*, whatever state it is in."""
    return (layout.containers / name).exists() or unit_path(layout, name).exists()


def not_found(name: str) -> NotFoundError:
    """The error for a container that is not installed."""
    return NotFoundError(
        f"There is no container {name}.", hint="gear list-units --all shows what is installed."
    )


def get(layout: Layout, name: str) -> Spec:
    """The spec of *name*; raises NotFoundError when it is not installed."""
    spec = find(layout, name)
    if spec is None:
        raise not_found(name)
    return spec


@dataclass(frozen=True)
class Run:
    """How a container of `gear run` lives: in a `service` or a `scope`, and whether it is removed when it ends, with
    the volumes that were made for it: one that was there before is somebody's data."""

    kind: str
    remove: bool
    volumes: tuple[str, ...] = ()


def run_path(layout: Layout, name: str) -> Path:
    """Where it is kept that a container is one of `gear run`."""
    return layout.containers / name / "run.json"


def switch_path(layout: Layout, name: str) -> Path:
    """Where it stands that what the container consists of is being replaced (gear/switching.py)."""
    return layout.containers / name / "switch.json"


def run_of(layout: Layout, name: str) -> Run | None:
    """How the container *name* was run; None for an installed one."""
    if not os.path.lexists(f"{layout.container(name)}/run.json"):  # nearly all of a thousand
        return None
    document = files.read_json(run_path(layout, name))
    if not isinstance(document, dict):
        return None
    from gear.mounting import volume_name

    kind = "scope" if document.get("kind") == "scope" else "service"
    volumes = tuple(volume_name(str(name)) for name in document.get("volumes") or ())
    return Run(kind, document.get("remove") is True, volumes)


def unit_of(layout: Layout, name: str) -> str:
    """The unit of *name*: a service, or a scope for what was run in a terminal."""
    run = run_of(layout, name)
    return scope_name(name) if run and run.kind == "scope" else unit_name(name)


def scope_name(name: str) -> str:
    """The unit of the container *name* when it was run in a terminal."""
    return unit_name(name).removesuffix("service") + "scope"


def has_owner(layout: Layout, name: str) -> bool:
    """Whether the gear that runs it is there still; it holds a lock on the container's directory."""
    with files.explained(f"read {layout.containers / name}"):
        descriptor = os.open(layout.containers / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def unit_path(layout: Layout, name: str) -> Path:
    """Where the service unit of *name* is: what was run and not installed is gone after a boot."""
    return (layout.units if run_of(layout, name) is None else layout.transient_units) / unit_name(name)


def modified(spec: Spec, layout: Layout) -> float:
    """When what a start reads was last changed: seconds since the epoch."""
    from gear import activation, supplies

    directory = layout.containers / spec.name
    return _latest(
        unit_path(layout, spec.name),
        directory / "config.json",
        directory / "start.json",
        directory / "seccomp.bpf",
        *(layout.units / unit for unit in activation.sockets(spec)),
        *(
            supplies.object_path(layout, supplies.SECRET, name)
            for name in spec.supplies.names(supplies.SECRET)
        ),
    )


def _latest(*paths: Path) -> float:
    """When one of *paths* was last changed, of those that are there."""
    latest = 0.0
    for path in paths:
        with suppress(FileNotFoundError):
            latest = max(latest, path.stat().st_mtime)
    return latest


def adjusted_path(layout: Layout, name: str) -> Path:
    """The file whose time says when the payload got at once what had been changed in its files (gear/live.py)."""
    return layout.containers / name / "adjusted"


def is_stale(spec: Spec, layout: Layout, service: dict[str, Any]) -> bool:
    """Whether the running payload was started from other files than there are now, or has not got what changed."""
    started = float(service.get("ExecMainStartTimestamp", 0)) / 1e6
    adjusted = max(started, _latest(adjusted_path(layout, spec.name)))
    stale = modified(spec, layout) > adjusted
    if spec.supplies.configs:
        from gear import provision, supplies  # which few of those who ask need

        read = max(started, _latest(layout.containers / spec.name / provision.RELOADED))
        configs = (
            provision.config_path(layout, spec.name, name) for name in spec.supplies.names(supplies.CONFIG)
        )
        stale = stale or _latest(*configs) > read
    return bool(service.get("MainPID")) and stale


def require_installed(spec: Spec) -> None:
    """Raise UsageError for ports that only an installed container can have: PID 1 listens for it."""
    from gear import activation

    if activation.sockets(spec):
        raise UsageError(
            "What is run once can't have ports of mode socket or fd, nor be started on demand.",
            hint="Use gear install.",
        )


def existing(layout: Layout, name: str) -> Spec | None:
    """Like find(), but a damaged spec counts as none, so that installing again mends it."""
    try:
        return find(layout, name)
    except GearError:
        return None
