"""Whatever is in config.json, gear-oci refuses it in a sentence or can work with it: no property of a wrong type is
met later."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gear.helper.failure import Failure
from gear.runtime import devices, groupfiles, lifecycle, shapes, show, validate

WRONG: list[Any] = [
    None, 0, -1, "x", "", [], {}, True, 1 << 70, "a\0b", [None], [[]], {"a": 1}, 1.5, ["x"], [{}],
]  # fmt: skip


def example(shape: Any, name: str = "") -> Any:
    """Something of *shape*, with every property that it has."""
    if isinstance(shape, dict):
        return {key.lstrip("!*") or "any": example(inner, key) for key, inner in shape.items()}
    if isinstance(shape, list):
        return [example(shape[0])]
    return {str: "x", bool: True}.get(shape, 1) if not isinstance(shape, tuple) else max(shape[0], 1)


def whole() -> dict[str, Any]:
    """A bundle with every property; values that have to be right are."""
    config: dict[str, Any] = example({**shapes.CONFIG, "process": shapes.PROCESS})
    template = show.template(rootless=True)
    config |= {
        "ociVersion": "1.3.0",
        "root": template["root"],
        "mounts": [*template["mounts"], *config["mounts"]],
    }
    for hooks in config["hooks"].values():
        hooks[0]["path"] = "/x"
    config["process"] |= {
        "cwd": "/", "capabilities": {"bounding": ["CAP_KILL"]}, "execCPUAffinity": {"initial": "0", "final": "0"},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 1},
        "rlimits": [{"type": "RLIMIT_AS", "soft": 1, "hard": 1}],
    }  # fmt: skip
    config["process"]["scheduler"] |= {"policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_RESET_ON_FORK"]}
    linux = config["linux"]
    del linux["intelRdt"]
    linux |= {
        "namespaces": [{"type": kind} for kind in validate.NAMESPACES], "personality": {"domain": "LINUX"},
        "rootfsPropagation": "slave", "sysctl": {"net.x": "1"}, "timeOffsets": {"boottime": {"secs": 1}},
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
    }  # fmt: skip
    linux["devices"][0] |= {"path": "/dev/x", "type": "c"}
    linux["resources"]["devices"][0] |= {"type": "c", "access": "rwm"}
    linux["resources"]["memory"] |= {"limit": 100, "swap": 200}
    for name in ("realtimeRuntime", "realtimePeriod"):
        del linux["resources"]["cpu"][name]
    return config


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, item in members:
        yield from places(item, (*path, key))


def judge(config: dict[str, Any], bundle: Path) -> None:
    """What `create` does with config.json before it makes anything."""
    validate.check(config, str(bundle))
    lifecycle._complete(config, str(bundle))
    resources = config["linux"].get("resources") or {}
    groupfiles.version2(resources)
    groupfiles.version1({**resources, "unified": None})
    devices.program(groupfiles.device_rules(resources))


@pytest.mark.parametrize("part", sorted(whole()))
def test_no_value_is_a_surprise(part: str, tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    judge(whole(), tmp_path)
    for path in places(whole()[part], (part,)):
        for wrong in WRONG:
            config = whole()
            *above, last = path
            holder: Any = config
            for key in above:
                holder = holder[key]
            holder[last] = copy.deepcopy(wrong)
            try:
                judge(config, tmp_path)
            except Failure as failure:
                assert failure.message
