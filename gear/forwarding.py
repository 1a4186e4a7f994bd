"""Whether rules of others drop what a network of gear forwards, and what would let it through: a pure function of what
nft(8) lists (libnftables-json(5)).

Rules are looked at as one packet would meet them.  What can't be told of it counts for the packet: an accepting rule
that it might match accepts it, a dropping one does not drop it.  So nothing is told that might be wrong, and what a
firewall lets through for some only is not told of.  Rules of iptables-legacy are not listed by nft(8).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from gear.records import dataclass

ACCEPT, DROP = "accept", "drop"
_VERDICTS = ("accept", "drop", "reject", "return", "jump", "goto", "queue")
_ENDLESS = 32  # NFT_JUMP_STACK_SIZE is 16
# What passes: whether it comes in, the state of its connection, and whether that is to a published port.
_WAYS = (
    (False, "new", False),
    (False, "established", False),
    (True, "new", True),
    (True, "established", False),
)
# Statements after which the next one is looked at, whatever the packet.
_PASSING = ("counter", "log", "mangle", "notrack")
# The same of iptables' targets.
_PASSING_TARGETS = ("CLASSIFY", "CONNMARK", "CT", "LOG", "MARK", "NFLOG", "NOTRACK", "TCPMSS", "TRACE")
_ICMP = ("icmp", "ipv6-icmp", "icmpv6", "icmp6", 1, 58)
_UFW = ("ufw-", "ufw6-")
_DOCKER = "DOCKER-USER"


@dataclass(frozen=True)
class Packet:
    """A packet that is forwarded: its IP version, and the links by which it comes and goes.  *state* is that of its
    connection, *translated* whether it came to a published port."""

    version: int
    incoming: str
    outgoing: str
    state: str = "new"
    translated: bool = False


@dataclass(frozen=True)
class Dropper:
    """A chain of somebody else that drops."""

    family: str
    table: str
    chain: str
    kind: str  # firewalld, ufw, docker, iptables or nft

    def __str__(self) -> str:
        return f"the chain {self.chain} of the table {self.family} {self.table}"


class Filter:
    """The rules of a machine, as nft(8) lists them."""

    def __init__(self, objects: Iterable[dict[str, Any]], own: Iterable[str]) -> None:
        """*own* are gear's tables, which are not looked at."""
        self._rules: dict[tuple[str, str, str], list[list[dict[str, Any]]]] = {}
        self._hooks: list[dict[str, Any]] = []
        ours = {("inet", name) for name in own}
        for item in objects:
            (kind, body), *_ = item.items()
            if kind not in ("chain", "rule") or (body["family"], body["table"]) in ours:
                continue
            if kind == "chain":
                self._rules.setdefault((body["family"], body["table"], body["name"]), [])
                if body.get("hook") == "forward" and body.get("type") == "filter":
                    self._hooks.append(body)
            else:
                place = (body["family"], body["table"], body["chain"])
                # What nft(8) can't write down is null.
                told = [item if isinstance(item, dict) else {"": None} for item in body.get("expr", [])]
                self._rules.setdefault(place, []).append(told)

    @property
    def forwards(self) -> bool:
        """Whether anybody else filters what is forwarded."""
        return bool(self._hooks)

    def dropping(self, packet: Packet) -> list[Dropper]:
        """The chains that surely drop *packet*; every chain of the hook has to let a packet through."""
        families = ("inet", "ip" if packet.version == 4 else "ip6")
        found = []
        for hook in self._hooks:
            family, table, name = hook["family"], hook["table"], hook["name"]
            if family in families:
                verdict = self._chain((family, table, name), packet) or hook.get("policy", ACCEPT)
                if verdict == DROP:
                    found.append(Dropper(family, table, name, self._kind(family, table)))
        return found

    def _kind(self, family: str, table: str) -> str:
        chains = [chain for where, of, chain in self._rules if (where, of) == (family, table)]
        if table == "firewalld":
            return "firewalld"
        if any(chain.startswith(_UFW) for chain in chains):
            return "ufw"
        if _DOCKER in chains:
            return "docker"
        return "iptables" if family in ("ip", "ip6") and "FORWARD" in chains else "nft"

    def _chain(self, place: tuple[str, str, str], packet: Packet, depth: int = 0) -> str | None:
        """accept, drop, or None at the chain's end."""
        left = False  # perhaps, by a rule that it might have matched
        for statements in self._rules.get(place, ()) if depth < _ENDLESS else ():
            matches = _applies(statements, packet)
            verdicts, sure = _verdicts(statements, packet) if matches is not False else ([], False)
            sure = sure and matches is True
            for verdict in verdicts:
                ended, decided = self._verdict(verdict, place, packet, depth)
                if decided == ACCEPT or (decided == DROP and sure and not left):
                    return decided
                if ended and decided is None:
                    if sure:
                        return None
                    left = True
        return None

    def _verdict(
        self, verdict: dict[str, Any], place: tuple[str, str, str], packet: Packet, depth: int
    ) -> tuple[bool, str | None]:
        """Whether the chain ends with *verdict*, and what is decided by then."""
        ((word, what),) = verdict.items()
        if word in ("accept", "queue"):
            return True, ACCEPT
        if word in ("drop", "reject"):
            return True, DROP
        if word in ("jump", "goto"):
            return word == "goto", self._chain((*place[:2], what["target"]), packet, depth + 1)
        return True, None  # return


def _applies(statements: list[dict[str, Any]], packet: Packet) -> bool | None:
    """Whether the packet gets to the verdict of a rule; None if that can't be told."""
    sure = True
    for statement in statements:
        kind = next(iter(statement), "")
        matches: bool | None = True
        if kind == "match":
            matches = _matches(statement["match"], packet)
        elif kind == "xt":
            matches = _extension(statement["xt"] or {}, packet)
        elif kind not in (*_PASSING, *_VERDICTS, "vmap"):
            matches = (
                None  # limits, quotas, counts of connections, sets that take no more, and what is not known
            )
        if matches is False:
            return False
        sure = sure and matches is True
    return True if sure else None


def _verdicts(statements: list[dict[str, Any]], packet: Packet) -> tuple[list[dict[str, Any]], bool]:
    """The verdicts that a rule may come to, and whether it surely does."""
    for statement in statements:
        if word := next((word for word in _VERDICTS if word in statement), ""):
            return [{word: statement[word]}], True
        if "vmap" in statement:
            pairs = statement["vmap"].get("data", {})
            if not isinstance(pairs, dict):
                return [{ACCEPT: None}], False  # those of a map with a name may be any
            known = _known(statement["vmap"].get("key", {}), packet)
            answers = [
                (verdict, None if known is None else _is(value, known))
                for value, verdict in pairs.get("set", [])
            ]
            chosen = [(verdict, answer) for verdict, answer in answers if answer is not False]
            return [verdict for verdict, _ in chosen], [answer for _, answer in chosen] == [True]
        if statement.get("xt") and statement["xt"].get("type") == "target":
            name = statement["xt"].get("name")
            if name not in _PASSING_TARGETS:
                return [{DROP if name == "REJECT" else ACCEPT: None}], True
    return [], False


def _known(left: Any, packet: Packet) -> list[str] | None:
    """What *left* of a match is for the packet; None if that can't be told."""
    if not isinstance(left, dict):
        return None
    if "meta" in left:
        names: dict[Any, str] = {
            "iifname": packet.incoming, "oifname": packet.outgoing,
            "nfproto": f"ipv{packet.version}", "protocol": "ip" if packet.version == 4 else "ip6",
        }  # fmt: skip
        name = names.get(left["meta"].get("key"))
        return None if name is None else [name]
    if "ct" in left:
        if left["ct"].get("key") == "state":
            return [packet.state]
        if left["ct"].get("key") == "status":
            return ["dnat"] if packet.translated else []
    return None


def _matches(match: dict[str, Any], packet: Packet) -> bool | None:
    """Whether the packet matches; None if that can't be told."""
    left, right = match.get("left"), match.get("right")
    known = _known(left, packet)
    if match.get("op") not in ("==", "!=", "in"):
        return None
    if known is None:
        return _otherwise(left, packet, right)
    found = _is(right, known)
    return found if match.get("op") != "!=" or found is None else not found


def _otherwise(left: Any, packet: Packet, right: Any) -> bool | None:
    """What is known of a packet of no particular kind: its version, and that it is not ICMP."""
    found = left if isinstance(left, dict) else {}
    payload = found.get("payload", {})
    if str(payload.get("protocol")).startswith("icmp"):
        return False
    number = found.get("meta", {}).get("key") == "l4proto" or payload.get("field") in ("protocol", "nexthdr")
    if number and right in _ICMP:
        return False
    other = "ip6" if packet.version == 4 else "ip"
    return False if payload.get("protocol") == other else None


def _is(right: Any, known: list[str]) -> bool | None:
    """Whether one of *known* is what stands at the right of a match; None if that can't be told."""
    if isinstance(right, str):
        if right.startswith("@"):
            return None
        return any(_fits(right, word) for word in known)
    if isinstance(right, dict) and "set" in right:
        right = right["set"]
    if isinstance(right, list):
        answers = [_is(item, known) for item in right]
        return True if True in answers else None if None in answers else False
    return None


def _fits(pattern: str, word: str) -> bool:
    return word.startswith(pattern[:-1]) if pattern.endswith("*") else word == pattern


def _extension(body: dict[str, Any], packet: Packet) -> bool | None:
    """A match of iptables that nft has no words for: all that is said of it is its name."""
    if body.get("type") == "target":
        return True  # it is the verdict
    if body.get("name") in ("conntrack", "state"):
        # Hardly ever for anything but the connections that there are, or what is invalid.
        return False if packet.state == "new" else None
    if body.get("name") in _ICMP:
        return False
    return None


def advice(dropper: Dropper, bridge: str, *, inward: bool) -> str:
    """The command that lets what comes to *bridge*, or from there, through the chain; gear's own rules still keep out
    what is not published."""
    iptables = "ip6tables" if dropper.family == "ip6" else "iptables"
    way = f"-o {bridge}" if inward else f"-i {bridge}"
    if dropper.kind == "firewalld":
        return f"firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload"
    if dropper.kind == "ufw":
        return f"ufw route allow {'out' if inward else 'in'} on {bridge}"
    if dropper.kind in ("docker", "iptables"):
        return f"{iptables} -I {_DOCKER if dropper.kind == 'docker' else 'FORWARD'} {way} -j ACCEPT"
    side = "oifname" if inward else "iifname"
    rule = [dropper.family, dropper.table, dropper.chain, side, bridge, "accept"]
    return f"nft insert rule {shlex.join(rule)}"


def obstacles(
    filter_: Filter, bridge: str, outside: Iterable[str], versions: Iterable[int], *, published: bool
) -> list[tuple[Dropper, bool]]:
    """Who drops what is forwarded between the network of *bridge* and every one of the links *outside*, and whether on
    its way in."""
    found: dict[tuple[Dropper, bool], None] = {}
    others = list(outside)
    for version in versions:
        for inward, state, translated in _WAYS:
            if inward and translated and not published:
                continue
            dropping = []
            for other in others:
                ends = (other, bridge) if inward else (bridge, other)
                dropping.append(filter_.dropping(Packet(version, *ends, state, translated)))
            everywhere = (
                [item for item in dropping[0] if all(item in more for more in dropping)] if others else []
            )
            found |= dict.fromkeys((dropper, inward) for dropper in everywhere)
    return list(found)
