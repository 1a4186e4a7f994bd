"""Changes of networks that containers are on: settled for all of them, or refused, before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nets import define, machine, write
from published import make_container, make_image

from gear import allocation, connecting, files, network_plan, process
from gear.definition import Definition
from gear.errors import GearError, HostError, UsageError
from gear.limits import Limits
from gear.model import Layout
from gear.network import Interface, Network, Port


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setattr(allocation, "is_free", lambda port: True)
    monkeypatch.setattr(process, "find", lambda program: f"/usr/sbin/{program}")
    return machine(tmp_path, monkeypatch)


def put(layout: Layout, name: str, *networks: str, ip: str | None = None, **members: Any) -> None:
    """Install a container on *networks*, with *ip* on the first."""
    image = make_image(layout, Cmd=["/bin/true"])
    first, *others = networks
    asked = (Interface(first, ip=ip), *(Interface(other) for other in others))
    with files.locked(layout.lock):
        network = connecting.settle(layout, name, Network("bridge", asked, **members))
        connecting.take(layout, name, network)
        make_container(layout, image, name, network=network)


def state(layout: Layout) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in layout.state.parent.rglob("*") if path.is_file()}


def addresses(plan: network_plan.Plan) -> dict[str, list[str]]:
    return {spec.name: list(spec.network.interfaces[0].addresses()) for spec in plan.containers}


@pytest.mark.parametrize(
    ("members", "changed", "error", "message"),
    [
        (
            {"ports": (Port("", 8080, 8080),)},
            define(internal=True),
            UsageError,
            "web can't publish the port 8080:8080/tcp: it is on internal networks only",
        ),
        ({}, define("default", "10.5.0.0/30"), HostError, "No address of 10.5.0.0/30 is left"),
        (
            {"ports": (Port("fd00::1", 8080, 8080),)},
            define("default", "10.89.0.0/24"),
            UsageError,
            "web can't publish the port .*: it has no such address on default",
        ),
        (
            {"limits": Limits(rate_in=10**6, burst_in=4096)},
            define(mtu=9000),
            UsageError,
            "web can't have a burst of 4096 bytes on default: packets have up to 9018",
        ),
    ],
)
def test_what_a_container_can_not_have_is_refused_at_once(
    layout: Layout, members: dict[str, Any], changed: Definition, error: type[GearError], message: str
) -> None:
    write(layout, define())
    for name in ("a", "b"):
        put(layout, name, "default")
    put(layout, "web", "default", **members)
    before = state(layout)
    with pytest.raises(error, match=message):
        network_plan.plan(layout, changed)
    assert state(layout) == before


def test_no_two_get_the_same_address(layout: Layout) -> None:
    """One whose number the new subnet does not have gets a free one: not that of a container planned later."""
    write(layout, define("n", "10.1.0.0/16"))
    put(layout, "a", "n", ip="10.1.3.0")
    put(layout, "b", "n", ip="10.1.2.9")
    put(layout, "c", "n", ip="10.1.0.2")
    plan = network_plan.plan(layout, define("n", "10.2.0.0/24"))
    assert addresses(plan) == {"a": ["10.2.0.3"], "b": ["10.2.0.4"], "c": ["10.2.0.2"]}
    # As few as the new subnet has, with one for each.
    plan = network_plan.plan(layout, define("n", "10.1.0.0/29", "fd01::/64"))
    found = addresses(plan)
    assert found["c"] == ["10.1.0.2", "fd01::2"]
    assert len({address for given in found.values() for address in given}) == 6
    with pytest.raises(HostError, match=r"No address of 10.1.0.0/30 is left in the network n"):
        network_plan.plan(layout, define("n", "10.1.0.0/30"))


def test_other_networks_are_as_they_are(layout: Layout) -> None:
    """One that is internal now is no way out any more, and another one is."""
    for definition in (define("a", "10.1.0.0/24"), define("b", "10.2.0.0/24")):
        write(layout, definition)
    put(layout, "web", "a", "b", ports=(Port("", 8080, 80),))
    (spec,) = network_plan.plan(layout, define("a", "10.1.0.0/24", internal=True)).containers
    found = json.loads((layout.containers / "web" / "spec.json").read_text())
    assert spec.network.to_mapping() == found["network"]
    assert not network_plan.plan(layout, define("a", "10.1.0.0/24")).containers
