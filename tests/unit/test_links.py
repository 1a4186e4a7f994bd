"""Links: the grammar of the option, what the start helper is told, where they lead, and the rules that come of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from nets import define
from strategies import HOSTILE

from gear import attachment
from gear.cli_link import _local
from gear.errors import GearError, UsageError
from gear.helper import links, ruleset
from gear.helper.failure import Failure
from gear.helper.nftables import Element
from gear.link import Link, parse_links
from gear.linking import without
from gear.naming import Naming
from gear.network import Interface, Network, checked

DB = Link("127.0.0.1", 3306, "db", 3306)
ON = (Interface("default", "eth0", "10.89.0.2", "fd00:1::2", "02:00:00:00:00:01"),)

# ---- the grammar


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:3306:db:3306", [DB]),
        ("3306:db:3306", [DB]),
        ("127.0.0.5:80:10.89.0.3:8080/TCP", [Link("127.0.0.5", 80, "10.89.0.3", 8080, "tcp")]),
        ("3306:10.0.0.1:3307", [Link("127.0.0.1", 3306, "10.0.0.1", 3307)]),
        ("[::1]:53:db:5353/udp", [Link("::1", 53, "db", 5353, "udp")]),
        ("53:[fd00::0:5]:53", [Link("::1", 53, "fd00::5", 53)]),
        ("[0::1]:1:[fd00::5]:2", [Link("::1", 1, "fd00::5", 2)]),
        ("192.168.1.1:80:localhost:80", [Link("192.168.1.1", 80, "localhost", 80)]),
        ("80:127.0.0.1:80", [Link("127.0.0.1", 80, "127.0.0.1", 80)]),
        ("3306:db:3306,5432:pg.example.org:5432", [DB, Link("127.0.0.1", 5432, "pg.example.org", 5432)]),
    ],
)
def test_links(text: str, expected: list[Link]) -> None:
    assert list(parse_links(text)) == expected
    assert [link for item in expected for link in parse_links(str(item))] == expected


@pytest.mark.parametrize(
    "text",
    ["", ",", "3306", "db:3306", "3306:db", "3306:db:", ":3306:db:3306", "1:2:3:4:5", "::1:53:db:53", "0:db:1",
     "1:db:0", "65536:db:1", "1:db:65536", "1:d b:1", "1:db:1/", "1:db:1/sctp", "1:db:1/tcp/udp", "0.0.0.0:1:db:1",
     "224.0.0.1:1:db:1", "[fe80::1]:1:db:1", "[::1]:1:10.0.0.1:1", "127.0.0.1:1:[fd00::1]:1", "1:0.0.0.0:1",
     "1:123:1", "1:10.0.1:1", "1:-x:1", "1:db\n:1", "٣:db:1", "256.0.0.1:1:db:1", "1:" + "a" * 254 + ":1"],
)  # fmt: skip
def test_what_is_no_link(text: str) -> None:
    with pytest.raises(UsageError):
        parse_links(text)


@given(HOSTILE)
def test_any_text_is_links_or_an_error(text: str) -> None:
    try:
        found = parse_links(text)
    except UsageError:
        return
    assert parse_links(",".join(map(str, found))) == found


def test_links_that_begin_at_the_same_port() -> None:
    tcp, udp = Link("127.0.0.1", 1, "a", 1, "tcp"), Link("127.0.0.1", 1, "b", 1, "udp")
    assert checked(Network("bridge", ON, links=(tcp, udp))).links == (tcp, udp)
    with pytest.raises(UsageError, match="same local port: 127.0.0.1:1:a:1/tcp and 127.0.0.1:1:c:1"):
        checked(Network("bridge", ON, links=(tcp, udp, Link("127.0.0.1", 1, "c", 1))))


@pytest.mark.parametrize("mode", ["none", "host", "container:db"])
def test_links_need_a_network(mode: str) -> None:
    with pytest.raises(UsageError, match="has no links"):
        checked(Network(mode, links=(DB,)))


def test_removal_by_local_port() -> None:
    udp = Link("::1", 53, "db", 53, "udp")
    assert without((DB, udp), [_local("3306")]) == (udp,)
    assert without((DB, udp), [_local("[::1]:53"), _local("127.0.0.1:3306:other:1")]) == ()
    with pytest.raises(GearError, match="no link at 127.0.0.1, port 53"):
        without((DB, udp), [_local("53")])
    for text in ("", "x", "127.0.0.1", "127.0.0.1:", "[::1]:x", "70000", "1:2:3:4:5:6"):
        with pytest.raises(UsageError):
            _local(text)


# ---- what is rendered


def test_start_member_has_links_only_where_there_are_any() -> None:
    networks = {"default": define()}
    plain = attachment.start_member("web", Network("bridge", ON), networks, Naming())
    assert set(plain) == {"interfaces", "ports", "resolver"} and "loopback6" not in plain["interfaces"][0]
    six = Link("::1", 53, "db", 53, "udp")
    found = attachment.start_member("web", Network("bridge", ON, links=(DB, six)), networks, Naming())
    assert found["links"][1] == {
        "address": "::1", "port": 53, "protocol": "udp", "host": "db", "target": 53,
    }  # fmt: skip
    assert found["gateways"] == ["10.89.0.1", "fd00:1::1"]
    assert found["interfaces"][0]["loopback6"] is True


# ---- where they lead


@pytest.fixture
def containers(tmp_path: Path) -> Path:
    """Containers and networks on disk."""

    def write(path: str, document: Any) -> None:
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(json.dumps(document))

    def interface(network: str, ip: str | None, ip6: str | None) -> dict[str, Any]:
        return {"network": network, "ip": ip, "ip6": ip6}

    for name, mode, interfaces in (
        (
            "db",
            "bridge",
            [interface("far", "10.1.0.9", None), interface("default", "10.89.0.7", "fd00:1::7")],
        ),
        ("away", "bridge", [interface("far", "10.1.0.8", None)]),
        ("open", "bridge", [interface("wide", "10.2.0.8", None)]),
        ("side", "container:db", []),
        ("knot", "container:side", []),
        ("hosted", "host", []),
        ("alone", "none", []),
    ):
        document = {"name": name, "network": {"mode": mode, "interfaces": interfaces}}
        write(f"containers/{name}/spec.json", document)
    for name, isolate in (("default", True), ("far", True), ("wide", False), ("mine", False)):
        write(f"networks/{name}/network.json", {"name": name, "isolate": isolate, "internal": False})
    return tmp_path / "containers"


def resolve(containers: Path, host: str, address: str = "127.0.0.1", network: str = "default") -> str:
    wanted = {"interfaces": [{"network": network}], "gateways": ["10.89.0.1", "fd00:1::1"]}
    item = {"address": address, "port": 1, "protocol": "", "host": host, "target": 1}
    return links.resolve(item, wanted, "web", str(containers))


@pytest.mark.parametrize(
    ("host", "address", "expected"),
    [
        ("db", "127.0.0.1", "10.89.0.7"),
        ("db", "::1", "fd00:1::7"),
        ("side", "127.0.0.1", "10.89.0.7"),
        ("hosted", "::1", "fd00:1::1"),
        ("10.0.0.9", "127.0.0.1", "10.0.0.9"),
        ("fd00::9", "::1", "fd00::9"),
        ("localhost", "127.0.0.1", "10.89.0.1"),
        ("host", "::1", "fd00:1::1"),
        ("127.0.0.3", "127.0.0.1", "10.89.0.1"),
        ("::1", "127.0.0.1", "10.89.0.1"),
    ],
)
def test_where_links_lead(containers: Path, host: str, address: str, expected: str) -> None:
    assert resolve(containers, host, address) == expected


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("away", "away is on no network of web"),
        ("open", "open is on no network of web"),
        ("alone", "alone is on no network of web"),
        ("knot", "shares another's"),
        ("nobody.invalid", "nobody.invalid is no container, and can't be resolved"),
    ],
)
def test_what_links_do_not_lead_to(containers: Path, host: str, why: str) -> None:
    with pytest.raises(Failure, match=why):
        resolve(containers, host)


def test_open_networks_are_reached_from_others(containers: Path) -> None:
    assert resolve(containers, "open", network="mine") == "10.2.0.8"
    with pytest.raises(Failure, match="open has no IPv6 address on wide"):
        resolve(containers, "open", "::1", network="mine")


# ---- the rules


def element(link: Link, to: str, protocol: str = "tcp") -> Element:
    entry = {"protocol": protocol, "address": link.address, "port": link.port, "target": link.target}
    return Element(ruleset.LINKS, entry, to, "web")


def test_rules_are_a_table_of_their_own() -> None:
    text = ruleset.render_links(
        [element(DB, "10.89.0.7"), element(Link("::1", 53, "x", 53), "fd00:1::7", "udp")]
    )
    lines = [line.strip() for line in text.splitlines()]
    assert lines[:3] == ["table inet gearlinks", "delete table inet gearlinks", "table inet gearlinks {"]
    assert '127.0.0.1 . tcp . 3306 comment "web" : 10.89.0.7 . 3306' in lines
    assert '::1 . udp . 53 comment "web" : fd00:1::7 . 53' in lines
    assert 'iifname != "lo" ip daddr 127.0.0.0/8 drop' in lines
    masquerade = 'oifname != "lo" ct status dnat meta l4proto {} ct original {} daddr {}'
    masquerade += " ct original proto-dst {} masquerade"
    assert masquerade.format("tcp", "ip", "127.0.0.1", 3306) in lines
    assert masquerade.format("udp", "ip6", "::1", 53) in lines
    assert "map any4" not in text and "flush" not in text
