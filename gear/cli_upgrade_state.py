"""What the verbs of the lifecycle have to do with upgrades: finishing what was interrupted, and what status says."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gear import upgrade_record
from gear.command import Context, for_each
from gear.systemd import Manager

if TYPE_CHECKING:
    from gear.spec import Spec
    from gear.status import Seen


def finish(manager: Manager, context: Context, names: Sequence[str]) -> int:
    """Finish or undo upgrades of *names* that were interrupted, and say so; returns the exit status."""
    found = [name for name in names if upgrade_record.pending_path(context.layout, name).exists()]
    if not found:
        return 0
    from gear import upgrading  # which nothing else here needs

    def one(name: str) -> None:
        done = upgrading.recover(manager, context.layout, name)
        if done is not None:
            context.warn(f"an upgrade of {name} to {done.target} was interrupted; now it is: {done.result}")

    return for_each(found, one, context)


def state(manager: Manager, context: Context, spec: Spec, seen: Seen) -> dict[str, Any]:
    """All that gear status says of a container."""
    from gear import scheduling, status  # which only verbs that look need

    name = spec.name
    previous = upgrade_record.read(context.layout, name).previous
    image = None if previous is None else previous.image
    return status.state(manager, context.layout, spec, seen) | {
        "previous": None if image is None else {"reference": image.reference, "digest": image.digest},
        "schedule": scheduling.state(manager, context.layout, name),
    }


def lines(state: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The same about upgrades, for people."""
    found = []
    if image := state["previous"]:
        found.append(("Previous", f"{image['reference']} ({image['digest']}): gear rollback {state['name']}"))
    if schedule := state["schedule"]:
        last, coming = (schedule[key] and moment(schedule[key]) for key in ("last", "next"))
        said = f"{schedule['calendar']}, next {coming or 'never'}"
        ended = f"; the last one ended with {schedule['result']} on {last}" if last else ""
        found.append(("Upgrades", said + ended))
    return found


def moment(seconds: float) -> str:
    """A time since the epoch, as people of this host write it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
