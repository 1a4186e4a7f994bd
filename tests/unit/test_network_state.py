"""What is compared of rules and links, as nft and the kernel list them; the rest takes a kernel (tests/host)."""

from __future__ import annotations

from typing import Any

from gear import attachment, interfaces, network_strays, packetfilter
from gear.findings import Finding
from gear.interfaces import DEFAULT, Link
from gear.mending import treat
from gear.network_state import Kernel, Member


def listed(*rules: int, handle: int = 1, elements: bool = False) -> list[dict[str, Any]]:
    """A table with a chain, a map and rules, beside one of somebody else."""
    place = {"family": "inet", "table": "gear-x"}
    content = {"elem": [[80, 81]]} if elements else {}
    return [
        {"metainfo": {"version": "1"}},
        {"table": {"family": "inet", "name": "gear-x", "handle": handle}},
        {"table": {"family": "ip", "name": "gear-x", "handle": handle}},
        {"chain": {**place, "name": "forward", "handle": handle + 1, "hook": "forward", "policy": "accept"}},
        {"map": {**place, "name": "any4", "handle": handle + 2, **content}},
        *(
            {"rule": {**place, "chain": "forward", "handle": handle + 3 + r, "expr": [{"x": r}]}}
            for r in rules
        ),
        {"rule": {"family": "inet", "table": "other", "chain": "forward", "handle": 9, "expr": []}},
    ]


def test_rules_are_compared_without_what_the_kernel_adds() -> None:
    found = packetfilter.of_table(listed(1, 2), "gear-x")
    assert set(found) == {"", "forward", "any4"} and len(found["forward"]) == 3
    assert found == packetfilter.of_table(listed(1, 2, handle=50, elements=True), "gear-x")
    for other in (listed(1), listed(2, 1), listed(1, 2, 3)):
        assert packetfilter.of_table(other, "gear-x")["forward"] != found["forward"]
    assert packetfilter.of_table(listed(1), "nothing") == {}
    assert packetfilter.tables(listed()) == ["gear-x"]


def test_links_to_others() -> None:
    def link(name: str, kind: str = "", master: str = "", *routes: str) -> Link:
        return Link(name, kind, True, 1500, "", master, frozenset(), frozenset(routes))

    every = [
        link("lo", "", "", DEFAULT),
        link("gear-x", "bridge"),
        link("ve1", "veth", "gear-x"),
        link("eth0"),
    ]
    assert interfaces.outside({item.name: item for item in every}) == ["eth0"]
    every += [link("br0", "bridge", "", DEFAULT), link("eth1", "", "br0")]
    assert interfaces.outside({item.name: item for item in every}) == ["br0"]


def test_what_others_do_is_told_with_its_hint_and_is_no_fault() -> None:
    told = treat(Finding("the chain x", "drops", damage=False, hint="do this", foreign=True), repair=True)
    assert not told.is_wrong and told.document() == {
        "path": "the chain x",
        "what": "drops",
        "damage": False,
        "mended": False,
        "problem": "",
        "hint": "do this",
    }


def test_what_may_be_a_running_containers_is_not_taken_away() -> None:
    """What start.json does not name may be of a container that runs with an earlier one."""

    def link(name: str, kind: str, alias: str = "") -> Link:
        return Link(name, kind, True, 1500, alias, "")

    device, end, other = attachment.rate_device("a", 0), attachment.host_end("a", "eth1"), "ve0123456789ab"
    every = [
        link(end, "veth"),
        link(other, "veth"),
        link("vexed", "veth"),
        link(device, "ifb", "gear container a"),
    ]
    every += [
        link("gi0", "ifb", "gear container a"),
        link(attachment.rate_device("b", 0), "ifb", "an intern's"),
    ]
    links = {item.name: item for item in every}
    tables = ["gearlimits-a", "gear-a", "other"]

    def told(**members: Member) -> list[tuple[str, bool]]:
        found = [*network_strays._veths(members, links), *network_strays._rates(members, links)]
        found += network_strays._limits(members, tables)
        return [(str(item.path).split()[-1], item.mend is not None) for item in found]

    gone = [(end, True), (other, True), (device, True), ("gearlimits-a", True)]
    assert told() == gone
    # Installed again, damaged, or on its way: its own are not told, and what may be its own is not mended.
    assert told(a=Member("a", True, False, {}, None)) == [(other, False)]
    # Settled on no network, and on one without limits; what does not run holds no rate.
    assert told(a=Member("a", True, True, {}, 0)) == gone
    wanted = {"interfaces": [{"host": end, "limits": {"device": device}}], "connections": 3}
    assert told(a=Member("a", True, True, wanted, 0)) == [(other, True)]
    assert told(a=Member("a", False, True, wanted, 0)) == [
        (other, True),
        (device, True),
        ("gearlimits-a", True),
    ]


def test_only_tables_of_gears_shape_are_gears() -> None:
    kernel = Kernel()
    place = {"family": "inet", "table": "gear-x"}
    maps = [{"map": {**place, "name": name}} for name in ("any4", "any6", "one4", "one6")]
    chains = [{"chain": {**place, "name": name}} for name in ("guard", "published", "forward")]
    for parts, is_gears in (
        ([*maps, *chains], True),
        (maps, False),
        (chains, False),
        ([*maps[1:], *chains], False),
        ([*maps, *({"chain": {**place, "name": item["map"]["name"]}} for item in maps)], False),
        ([], False),
    ):
        kernel.__dict__["rules"] = [{"table": {"family": "inet", "name": "gear-x"}}, *parts]
        assert (network_strays._shape(kernel, "gear-x") >= network_strays._NETWORK) is is_gears, parts
