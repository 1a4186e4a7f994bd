"""What is compared of rules and links, as nft and the kernel list them; the rest takes a kernel (tests/host)."""

from __future__ import annotations

from typing import Any

from gear import interfaces, packetfilter
from gear.findings import Finding
from gear.interfaces import DEFAULT, Link
from gear.mending import treat


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
