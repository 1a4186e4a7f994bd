"""Changes of networks: what is kept, and what containers on them get; or it is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nets import define, machine, write
from published import make_container, make_image

from gear import allocation, connecting, defining, files, network_plan, process
from gear.definition import Definition, checked, make_subnets
from gear.errors import GearError, HostError, UsageError
from gear.limits import Limits
from gear.model import Layout
from gear.network import Interface, Network, Port
from gear.underlay import Underlay


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


def test_what_is_not_given_is_kept(layout: Layout) -> None:
    write(layout, define("n", "10.1.0.0/24", "fd01::/64", internal=True, isolate=False, mtu=1400))
    assert defining.define(layout, "n", ()) == define(
        "n", "10.1.0.0/24", "fd01::/64", internal=True, isolate=False, mtu=1400
    )
    found = defining.define(layout, "n", make_subnets(["fd02::/64"], [], []), mtu="auto", internal=False)
    assert found == define("n", "10.1.0.0/24", "fd02::/64", isolate=False)
    found = defining.define(layout, "n", (), without=[6], isolate=True)
    assert found == define("n", "10.1.0.0/24", internal=True, mtu=1400)
    with pytest.raises(UsageError, match="--subnet fd02::/64 and --no-ipv6 exclude each other"):
        defining.define(layout, "n", make_subnets(["fd02::/64"], [], []), without=[6])
    with pytest.raises(UsageError, match="A network has one subnet"):
        defining.define(layout, "n", (), without=[4, 6])
    # A new one has what is given alone, or free ones.
    assert [str(item.subnet) for item in defining.define(layout, "m", (), without=[6]).subnets] == [
        "10.89.0.0/24"
    ]
    assert defining.define(layout, "m", make_subnets(["fd02::/64"], [], [])) == define("m", "fd02::/64")


def test_mtu_of_a_vxlan_follows_its_peers_unless_it_was_given(layout: Layout) -> None:
    subnets = make_subnets(["10.1.0.0/24"], [], ["10.1.0.128/25"], own=True)
    write(layout, defining.define(layout, "vx", subnets, driver="vxlan", underlay=Underlay(vni=7, port=4790)))
    kept = defining.define(layout, "vx", (), underlay=Underlay(peers=("2001:db8::1",)))
    assert (kept.mtu, kept.underlay.port) == (1430, 4790)
    write(layout, defining.define(layout, "vy", subnets, driver="vxlan", underlay=Underlay(vni=8), mtu=1300))
    assert defining.define(layout, "vy", (), underlay=Underlay(peers=("2001:db8::1",))).mtu == 1300
    assert defining.define(layout, "vy", (), mtu="auto").mtu == 1450


@pytest.mark.parametrize("subnet", ["10.1.0.0/24", "fd01::/64"])
def test_least_mtu(subnet: str) -> None:
    """Below it the kernel has no IPv6 on the bridge, and so not its variables either."""
    assert checked(define("n", subnet, mtu=1280)).mtu == 1280
    with pytest.raises(UsageError, match="An MTU of 1279 can't work") as caught:
        checked(define("n", subnet, mtu=1279))
    assert caught.value.hint == "Give 1280 to 65535."
