"""What rules of others do to what networks forward, by rules as nft lists them."""

from __future__ import annotations

from typing import Any

import pytest

from gear.forwarding import Dropper, Filter, advice, obstacles

BRIDGE = "gear-default"


def chain(family: str, table: str, name: str, policy: str = "") -> dict[str, Any]:
    """A chain; with *policy* of the hook forward."""
    hook = {"type": "filter", "hook": "forward", "prio": 0, "policy": policy} if policy else {}
    return {"chain": {"family": family, "table": table, "name": name, "handle": 1, **hook}}


def rule(family: str, table: str, name: str, *expressions: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"family": family, "table": table, "chain": name, "handle": 2, "expr": list(expressions)}}


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str, right: Any, op: str = "==") -> dict[str, Any]:
    return match({"meta": {"key": key}}, right, op)


ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}
REJECT: dict[str, Any] = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}
ESTABLISHED = match({"ct": {"key": "state"}}, ["established", "related"], "in")
DNAT = match({"ct": {"key": "status"}}, "dnat", "in")
COUNTER: dict[str, Any] = {"counter": {"packets": 0, "bytes": 0}}


def told(*objects: dict[str, Any], published: bool = True) -> list[str]:
    """The commands that are told for a network of both families, with one way to others."""
    found = obstacles(
        Filter(({"metainfo": {}}, *objects), ["gear-default"]), BRIDGE, ["eth0"], (4, 6), published=published
    )
    return [advice(dropper, BRIDGE, inward=inward) for dropper, inward in found]


def test_without_a_chain_of_the_hook_nothing_is_told() -> None:
    assert not Filter([chain("inet", "x", "y")], []).forwards
    assert told(chain("inet", "x", "y"), rule("inet", "x", "y", DROP)) == []
    assert told(chain("inet", "x", "forward", "accept")) == []
    # gear's own drop what nobody may.
    assert told(chain("inet", "gear-default", "forward", "drop")) == []


def test_a_policy_drops_both_ways() -> None:
    assert told(chain("inet", "filter", "forward", "drop")) == [
        "nft insert rule inet filter forward iifname gear-default accept",
        "nft insert rule inet filter forward oifname gear-default accept",
    ]
    # Published ports are none of its business where there are none, but answers to what leaves are.
    assert told(
        chain("inet", "filter", "forward", "drop"),
        rule("inet", "filter", "forward", ESTABLISHED, ACCEPT),
        published=False,
    ) == ["nft insert rule inet filter forward iifname gear-default accept"]


@pytest.mark.parametrize(
    ("expressions", "count"),
    [
        ((meta("oifname", BRIDGE), ACCEPT), 1),
        ((meta("oifname", "gear-*"), ACCEPT), 1),
        ((meta("oifname", {"set": ["eth1", BRIDGE]}), COUNTER, ACCEPT), 1),
        ((meta("iifname", BRIDGE, "!="), ACCEPT), 1),
        ((meta("oifname", "docker0"), ACCEPT), 2),
        ((meta("iifname", "docker0", "!="), ACCEPT), 0),
        ((meta("nfproto", "ipv4"), ACCEPT), 2),  # the other family is dropped still
        # What can't be told counts for the packet.
        ((match({"payload": {"protocol": "tcp", "field": "dport"}}, 80), ACCEPT), 0),
        ((meta("mark", 7), ACCEPT), 0),
        ((match({"payload": {"protocol": "icmp", "field": "type"}}, "echo-request"), ACCEPT), 2),
        ((meta("l4proto", "icmp"), ACCEPT), 2),
        ((meta("l4proto", "udp"), ACCEPT), 0),
        (({"xt": {"type": "match", "name": "icmp"}}, ACCEPT), 2),
        ((meta("oifname", "@bridges"), ACCEPT), 0),
        ((DNAT, ACCEPT), 2),
        ((ACCEPT,), 0),
        (({"queue": None},), 0),
        (({"return": None}, ACCEPT), 2),
    ],
)
def test_what_a_rule_lets_through(expressions: tuple[dict[str, Any], ...], count: int) -> None:
    objects = (chain("inet", "f", "forward", "drop"), rule("inet", "f", "forward", *expressions))
    assert len(told(*objects)) == count


def test_a_drop_that_might_not_match_is_not_told() -> None:
    policy = chain("inet", "f", "forward", "accept")
    saddr = match({"payload": {"protocol": "ip", "field": "saddr"}}, "203.0.113.1")
    assert told(policy, rule("inet", "f", "forward", saddr, DROP)) == []
    assert told(policy, rule("inet", "f", "forward", match({"ct": {"key": "state"}}, "invalid"), DROP)) == []
    assert len(told(policy, rule("inet", "f", "forward", REJECT))) == 2


PORT = match({"payload": {"protocol": "tcp", "field": "dport"}}, 25)
NAMED: dict[str, Any] = {"payload": {"protocol": "tcp", "field": "dport"}}
SOURCE: dict[str, Any] = {"payload": {"protocol": "ip", "field": "saddr"}}
NEW = match({"ct": {"key": "state"}}, "new", "in")


@pytest.mark.parametrize(
    "expressions",
    [
        (NEW, {"limit": {"rate": 1000, "per": "second", "inv": True}}, DROP),
        ({"limit": {"rate": 1000, "per": "second", "inv": True}}, {"jump": {"target": "more"}}),
        ({"ct count": {"val": 100, "inv": True}}, DROP),
        ({"quota": {"val": 1, "val_unit": "mbytes", "inv": True}}, DROP),
        ({"set": {"op": "add", "elem": SOURCE, "set": "@s", "stmt": [{"limit": {"rate": 1}}]}}, DROP),
        ({"meter": {"key": SOURCE, "stmt": {"limit": {"rate": 1}}, "size": 9, "name": "m"}}, DROP),
        ({"something new": {}}, DROP),
        ({"xt": None}, DROP),
        (None, DROP),
        ({"xt": {"type": "match", "name": "connlimit"}}, DROP),
        ({"xt": {"type": "match", "name": "conntrack"}}, DROP),  # what is invalid
        ({"vmap": {"key": NAMED, "data": {"set": [[25, DROP]]}}},),
        ({"vmap": {"key": SOURCE, "data": {"set": [["203.0.113.1", DROP], ["203.0.113.2", DROP]]}}},),
        ({"vmap": {"key": NAMED, "data": {"set": [[25, {"jump": {"target": "more"}}]]}}},),
        ({"vmap": {"key": NAMED, "data": {"set": [[25, {"goto": {"target": "more"}}]]}}},),
        ({"vmap": {"key": NAMED, "data": "@ports"}},),
        (match({"meta": {"key": "oifname"}}, BRIDGE, "<"), DROP),
    ],
)
def test_a_drop_of_some_is_not_told(expressions: tuple[Any, ...]) -> None:
    objects = [
        chain("inet", "f", "forward", "accept"),
        chain("inet", "f", "more"),
        rule("inet", "f", "more", DROP),
        rule("inet", "f", "forward", *expressions),
    ]
    assert told(*objects) == []
    # But one of all is, after it; save that what may be accepted is.
    assert len(told(*objects, rule("inet", "f", "forward", COUNTER, {"log": None}, DROP))) == (
        0 if "@ports" in str(expressions) else 2
    )


def test_who_may_have_left_a_chain_is_not_dropped_there() -> None:
    def after(*expressions: dict[str, Any], policy: str = "accept") -> list[str]:
        return told(
            chain("inet", "f", "forward", policy),
            chain("inet", "f", "none"),
            rule("inet", "f", "forward", *expressions),
            rule("inet", "f", "forward", DROP),
        )

    assert after(PORT, {"return": None}) == after(PORT, {"goto": {"target": "none"}}) == []
    assert len(after(PORT, {"jump": {"target": "none"}})) == 2
    assert len(after(PORT, {"return": None}, policy="drop")) == 2


def test_targets_of_iptables() -> None:
    def at(name: str) -> list[str]:
        target = {"xt": {"type": "target", "name": name}}
        return told(chain("ip", "filter", "FORWARD", "accept"), rule("ip", "filter", "FORWARD", target))

    assert len(at("REJECT")) == 2
    assert at("LOG") == at("NFQUEUE") == []
    queue = rule("ip", "filter", "FORWARD", {"xt": {"type": "target", "name": "NFQUEUE"}})
    assert told(chain("ip", "filter", "FORWARD", "drop"), queue) == []


def test_chains_that_are_jumped_to() -> None:
    def jump(word: str) -> list[dict[str, Any]]:
        return [
            chain("inet", "f", "forward", "accept"),
            chain("inet", "f", "more"),
            rule("inet", "f", "forward", meta("iifname", BRIDGE), {word: {"target": "more"}}),
            rule("inet", "f", "forward", DROP),
        ]

    back = rule("inet", "f", "more", {"return": None})
    assert len(told(*jump("jump"), back)) == 2
    assert len(told(*jump("goto"), back)) == 1  # what leaves goes to the policy
    assert len(told(*jump("jump"), rule("inet", "f", "more", ACCEPT))) == 1
    # One that jumps to itself, which the kernel refuses, ends nevertheless.
    assert told(*jump("jump"), rule("inet", "f", "more", {"jump": {"target": "more"}}))


def test_a_map_of_verdicts() -> None:
    def by_interface(*pairs: list[Any]) -> list[str]:
        lookup = {"vmap": {"key": {"meta": {"key": "oifname"}}, "data": {"set": list(pairs)}}}
        return told(chain("inet", "f", "forward", "drop"), rule("inet", "f", "forward", lookup))

    assert len(by_interface([BRIDGE, ACCEPT], ["eth1", DROP])) == 1
    assert len(by_interface(["eth1", ACCEPT])) == 2

    def passing(*pairs: list[Any]) -> list[str]:
        lookup = {"vmap": {"key": {"meta": {"key": "oifname"}}, "data": {"set": list(pairs)}}}
        return told(chain("inet", "f", "forward", "accept"), rule("inet", "f", "forward", lookup))

    assert len(passing([BRIDGE, DROP], ["eth1", ACCEPT])) == 1
    assert len(passing([BRIDGE, ACCEPT], ["*", DROP])) == 1  # what leaves


def test_whose_rules_they_are() -> None:
    firewalld = [
        chain("inet", "firewalld", "filter_FORWARD", "accept"),
        rule("inet", "firewalld", "filter_FORWARD", ESTABLISHED, ACCEPT),
        rule("inet", "firewalld", "filter_FORWARD", DNAT, ACCEPT),
        rule("inet", "firewalld", "filter_FORWARD", REJECT),
    ]
    assert told(*firewalld) == [
        "firewall-cmd --permanent --zone=trusted --add-interface=gear-default && firewall-cmd --reload"
    ]
    docker = [
        chain("ip", "filter", "FORWARD", "drop"),
        chain("ip", "filter", "DOCKER-USER"),
        rule("ip", "filter", "FORWARD", COUNTER, {"jump": {"target": "DOCKER-USER"}}),
        rule("ip", "filter", "FORWARD", meta("iifname", "docker0"), meta("oifname", "docker0", "!="), ACCEPT),
        rule("ip", "filter", "DOCKER-USER", COUNTER, {"return": None}),
    ]
    assert told(*docker) == [f"iptables -I DOCKER-USER {way} gear-default -j ACCEPT" for way in ("-i", "-o")]
    # Matches of iptables that nft has no words for: connections that are there, and whatever else.
    known = {"xt": {"type": "match", "name": "conntrack"}}
    ufw = [
        chain("ip6", "filter", "FORWARD", "drop"),
        chain("ip6", "filter", "ufw6-before-forward"),
        rule("ip6", "filter", "FORWARD", {"jump": {"target": "ufw6-before-forward"}}),
        rule("ip6", "filter", "ufw6-before-forward", known, ACCEPT),
        rule("ip6", "filter", "ufw6-before-forward", {"xt": {"type": "target", "name": "LOG"}}),
    ]
    assert told(*ufw) == ["ufw route allow in on gear-default", "ufw route allow out on gear-default"]
    assert (
        told(*ufw, rule("ip6", "filter", "FORWARD", {"xt": {"type": "match", "name": "rpfilter"}}, ACCEPT))
        == []
    )
    assert advice(Dropper("ip6", "filter", "FORWARD", "iptables"), "b", inward=True) == (
        "ip6tables -I FORWARD -o b -j ACCEPT"
    )


def test_every_way_outside_counts() -> None:
    """A firewall that lets one of two links in has been told about."""
    objects = (
        chain("inet", "f", "forward", "drop"),
        rule("inet", "f", "forward", meta("iifname", "eth1"), ACCEPT),
        rule("inet", "f", "forward", meta("iifname", BRIDGE), ACCEPT),
    )
    rules = Filter(objects, [])
    assert len(obstacles(rules, BRIDGE, ["eth0"], [4], published=True)) == 1
    assert obstacles(rules, BRIDGE, ["eth0", "eth1"], [4], published=True) == []
    assert obstacles(rules, BRIDGE, [], [4], published=True) == []
