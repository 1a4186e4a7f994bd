"""What it takes until a change of a member of spec.json is in force for a payload that runs: the one table.

Each member has a class.  A unit test (tests/unit/test_effects.py) sees that none is without.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gear.records import dataclass

if TYPE_CHECKING:
    from gear.budget import Budget
    from gear.spec import Spec

# At once; by a reload of the payload; by a restart of it.
LIVE, RELOAD, RESTART = "live", "reload", "restart"
CLASSES = (LIVE, RELOAD, RESTART)
# Members that are objects of gear's own, whose members have classes.
NESTED = ("network", "naming", "isolation", "resources", "supplies", "logging", "health", "pace")

# Those whose members are called interval, limit or level.
_NAMED_WHOLE = ("health", "pace", "logging")


def _all(part: str, members: str, effect: str) -> dict[str, str]:
    return {f"{part}{member}": effect for member in members.split()}


TABLE: Mapping[str, str] = {
    # PID 1 applies what is in a unit to those that run as well.
    **_all(
        "resources.",
        "cpu_weight cpu_quota cpu_period cpus memory_nodes memory_min memory_low memory_high memory_max "
        "memory_swap_max memory_pressure memory_pressure_limit oom_policy tasks_max io_weight io_device_weight "
        "io_read_bandwidth_max io_write_bandwidth_max io_read_iops_max io_write_iops_max",
        LIVE,
    ),
    # PID 1 knows nothing of these: the start writes them.
    "resources.hugepages": RESTART,
    # Of the unit, and asked for when the payload ends.
    **_all("", "restart stop_signal stop_timeout", LIVE),
    # Nothing that runs sees these.
    "labels": LIVE,
    # The helper changes the network of what runs (gear/live.py).
    **_all("network.", "interfaces links limits", LIVE),
    # PID 1 or the start holds sockets for them.
    **_all("network.", "mode ports on_demand idle_stop", RESTART),
    **_all("naming.", "hosts servers search options", RESTART),
    **_all("supplies.", "env_sets secrets configs", RESTART),
    "supplies.reload_signal": LIVE,
    # PID 1 asks for these when the payload ends, and the prober has the others from its start on.
    **_all("pace.", "delay max_delay limit window", LIVE),
    **_all(
        "health.",
        "test interval timeout retries start_period start_interval on_failure ready_when start_timeout",
        RESTART,
    ),
    # journald and PID 1 take these when a program begins.
    **_all("logging.", "driver namespace rate level", RESTART),
    # Namespaces, rights and the environment are given to a process when it begins.
    **_all(
        "isolation.",
        "privileged cap_add cap_drop devices seccomp no_new_privileges apparmor label mask unmask userns pid ipc uts "
        "cgroupns sysctl ulimits init shm_size group_add umask timezone systemd oom_score_adj",
        RESTART,
    ),
    **_all(
        "",
        "image uid_base entrypoint command env user workdir mounts read_only hostname slice ephemeral storage",
        RESTART,
    ),
    # A container keeps these for as long as there is one.
    **_all("", "version name", RESTART),
}


@dataclass(frozen=True)
class Change:
    """A member of the specification that changes, and its class."""

    path: str  # as in TABLE

    @property
    def member(self) -> str:
        """What people are told has changed: the last part of its name where that says enough."""
        part, _, last = self.path.rpartition(".")
        return self.path if part in _NAMED_WHOLE else last

    @property
    def effect(self) -> str:
        """One of CLASSES."""
        return TABLE[self.path]


def between(old: Spec, new: Spec) -> list[Change]:
    """The members that differ, in the order of spec.json, those of nested objects last."""
    before, after = old.to_mapping(), new.to_mapping()
    plain = [name for name in after if name not in NESTED and before.get(name) != after[name]]
    return [Change(path) for path in (*plain, *_nested(before, after))]


def _nested(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[str]:
    for part in NESTED:
        old, new = before.get(part, {}), after.get(part, {})
        for member in sorted({*old, *new}):
            if _said(old.get(member)) != _said(new.get(member)):
                yield f"{part}.{member}"


def _said(value: Any) -> Any:
    """*value*, or None for an empty list: an object that asks for nothing is left out as a whole."""
    return None if value == [] else value


def forgets_devices(old: Budget, new: Budget) -> bool:
    """Whether a device is limited by *old*, and not by *new*."""
    before, after = old.to_mapping(), new.to_mapping()
    return any(set(before[name]) - set(after.get(name, ())) for name in before if name.endswith(_OF_DEVICES))


_OF_DEVICES = ("bandwidth_max", "iops_max")


def worst(changes: Iterable[Change]) -> str:
    """The class of all of *changes* together."""
    return max((change.effect for change in changes), key=CLASSES.index, default=LIVE)
