"""The table of what a change takes: it has every member of spec.json, and no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import rendering

from gear import effects, records
from gear.budget import Budget
from gear.effects import LIVE, RESTART, Change
from gear.health import Health
from gear.isolation import Isolation
from gear.journaling import Logging
from gear.naming import Naming
from gear.network import Network
from gear.restarts import Pace
from gear.supplies import Secret, Supplies

PARTS = {
    "network": Network,
    "naming": Naming,
    "isolation": Isolation,
    "resources": Budget,
    "supplies": Supplies,
    "logging": Logging,
    "health": Health,
    "pace": Pace,
}


def test_every_member_has_a_class_and_nothing_else_has_one() -> None:
    wanted = set(_document()) - set(effects.NESTED)
    for part, kind in PARTS.items():
        # What a start waits for is called as its option.
        fields = (field.name.replace("ready", "ready_when") for field in records.fields(kind))
        wanted |= {f"{part}.{name}" for name in fields}
    assert set(effects.TABLE) == wanted
    assert set(PARTS) == set(effects.NESTED)
    assert set(effects.TABLE.values()) <= set(effects.CLASSES)


def _document() -> dict[str, Any]:
    """With all members, those too that are left out where nothing is asked for."""
    asked: dict[str, Any] = {
        "supplies": Supplies(reload_signal="HUP"),
        "health": Health(retries=1),
        "pace": Pace(delay=1.0),
    }
    return replace(rendering.make_spec(), **asked).to_mapping()


def test_nested_members_are_all_objects_of_the_document() -> None:
    document = _document()
    # Whatever else is an object there is the user's: variables and labels, and what an image is.
    objects = {name for name, value in document.items() if isinstance(value, dict)}
    assert objects - set(effects.NESTED) == {"env", "labels", "image"}


def test_devices_that_are_forgotten() -> None:
    limited = Budget(io_read_iops_max=(("/dev/a", 1), ("/dev/b", 2)), io_weight=5)
    assert not effects.forgets_devices(limited, replace(limited, io_weight=None))
    assert not effects.forgets_devices(Budget(), limited)
    assert effects.forgets_devices(limited, replace(limited, io_read_iops_max=(("/dev/b", 2),)))
    assert effects.forgets_devices(limited, Budget())


def test_changes_are_named_with_their_class() -> None:
    old = rendering.make_spec()
    assert effects.between(old, old) == [] and effects.worst([]) == LIVE
    new = replace(old, env={"A": "1"}, restart="no", resources=Budget(memory_max=1 << 30))
    found = effects.between(old, new)
    assert found == [Change("env"), Change("restart"), Change("resources.memory_max")]
    assert [(change.member, change.effect) for change in found] == [
        ("env", RESTART),
        ("restart", LIVE),
        ("memory_max", LIVE),
    ]
    assert effects.worst(found) == RESTART
    assert effects.worst(found[1:]) == LIVE


def test_an_object_that_asks_for_nothing_any_more_has_changed_only_in_what_it_asked_for() -> None:
    old = replace(
        rendering.make_spec(),
        supplies=Supplies(secrets=(Secret("a", "a"),)),
        pace=Pace(limit=3, window=60.0),
    )
    new = replace(old, supplies=Supplies(), pace=Pace())
    assert [change.path for change in effects.between(old, new)] == [
        "supplies.secrets",
        "pace.limit",
        "pace.window",
    ]
    # limit alone would say nothing.
    assert [change.member for change in effects.between(old, new)] == ["secrets", "pace.limit", "pace.window"]
