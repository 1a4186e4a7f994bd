"""Limits of what a container makes of the network: their words, and what is rendered of them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import rendering
import unitsyntax
from hypothesis import given
from nets import define
from strategies import HOSTILE

from gear import activation, attachment, connecting, host, limits, units
from gear.cli_net import network_of, network_options
from gear.errors import HostError, UsageError
from gear.helper import netlink, ruleset, shaping
from gear.limits import Limits
from gear.model import Layout
from gear.naming import Naming
from gear.network import Interface, Network, Port, checked

ON = (Interface("default", "eth0", "10.89.0.2", "fd00:1::2", "02:00:00:00:00:01"),)
TWO = (*ON, Interface("default", "eth1", "10.89.0.3", None, "02:00:00:00:00:02"))
WEB = (Port("", 8080, 80),)
EVERY = Limits(10_000_000, 2_000_000, 65536, None, 0x1000A, 3, ("10.0.0.0/8",), ("any",))


def asked(*arguments: str) -> Network:
    """What a command line asks for."""
    parser = argparse.ArgumentParser()
    network_options(parser)
    return network_of(parser.parse_args(arguments))


# ---- words


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("10mbit", 10_000_000), ("500kbit", 500_000), ("1gbit", 10**9), ("1.5mbit", 1_500_000), ("64000", 64_000),
        ("2mbps", 16_000_000), ("1kibit", 1024 * 8 // 8), ("10MBIT", 10_000_000), ("8000bit", 8000), ("1tbit", 10**12),
        ("10m", 10_000_000), ("4000bps", 32_000), ("1mibps", 8 * 1024**2),
    ],
)  # fmt: skip
def test_rates_are_in_the_units_of_tc(text: str, bits: int) -> None:
    if bits < limits.LOWEST_RATE:
        with pytest.raises(UsageError, match="1024 bits a second are no rate"):
            limits.parse_rate(text)
    else:
        assert limits.parse_rate(text) == bits
        assert limits.parse_rate(limits.shown_rate(bits)) == bits


@pytest.mark.parametrize(
    "text", ["", "mbit", "10 mbit", "-1mbit", "10mb", "1e9", "7999", "2tbit", "0", "10mbit\n"]
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(UsageError):
        limits.parse_rate(text)


def test_rates_and_bursts_by_direction() -> None:
    assert limits.parse_rates("10mbit") == {"in": 10_000_000, "out": 10_000_000}
    assert limits.parse_rates("out=2mbit") == {"out": 2_000_000}
    assert limits.parse_bursts("in=64k,out=1m") == {"in": 65536, "out": 1 << 20}
    for text in ("in=1mbit,in=2mbit", "up=1mbit", "in=1mbit,2mbit", "in=", "in=1mbit,"):
        with pytest.raises(UsageError):
            limits.parse_rates(text)
    for text in ("2047", "2g", "64kbit", "64 k", "1t"):
        with pytest.raises(UsageError):
            limits.parse_bursts(text)


def test_priorities_are_numbers_or_classes() -> None:
    for text, value in (("0", 0), ("15", 15), ("1:a", 0x1000A), ("ffff:0", 0xFFFF0000)):
        assert limits.parse_priority(text) == value
        assert limits.parse_priority(limits.shown_priority(value)) == value
    for text in ("16", "-1", "a", "1:", ":1", "ffff:ffff", "10000:1", "1:g"):
        with pytest.raises(UsageError):
            limits.parse_priority(text)


@given(HOSTILE)
def test_any_text_is_a_limit_or_an_error(text: str) -> None:
    for parse in (limits.parse_rates, limits.parse_bursts, limits.parse_priority, limits.address_range):
        try:
            parse(text)
        except UsageError:
            continue


def test_options_become_limits() -> None:
    found = asked(
        "--net-rate", "in=10mbit,out=2mbit", "--net-burst", "in=64k", "--net-priority", "1:a", "-p", "8080:80",
        "--net-connections", "3", "--ip-allow", "10.1.2.3/8", "--ip-deny", "any",
    )  # fmt: skip
    # What is limited is on a network.
    assert found.limits == EVERY and found.networks == ("default",)
    assert Network.read(json.loads(json.dumps(found.to_mapping()))) == found
    assert asked("--net-rate", "in=1mbit", "--net-burst", "4k").limits == Limits(1_000_000, burst_in=4096)
    filtered = asked("--ip-deny", "::1/64,localhost", "--ip-deny", "192.0.2.1", "--net", "host").limits
    assert filtered == Limits(deny=("::/64", "localhost", "192.0.2.1")) and not filtered.shapes
    assert EVERY.words() == [
        "10mbit in", "2mbit out", "priority 1:a", "3 connections", "allow 10.0.0.0/8", "deny any",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--net", "host", "--net-rate", "1mbit"), "With --net host there is no interface"),
        (("--net", "none", "--net-priority", "1"), "With --net none there is no interface"),
        (("--net", "container:db", "--net-rate", "1mbit"), "there is no interface"),
        (("--net-burst", "64k"), "A burst of traffic in takes a rate"),
        (("--net-rate", "in=1mbit", "--net-burst", "out=64k"), "A burst of traffic out takes a rate"),
        (("--net-connections", "3"), "for published TCP ports"),
        (("--net-connections", "3", "-p", "53:53/udp"), "for published TCP ports"),
        (("--net-connections", "3", "-p", "80:80", "-p", "81:81,fd"), "for published TCP ports"),
        (("--net-connections", "1", "-p", "80:80,socket"), "no limit of one connection"),
        (("--net-connections", "0", "-p", "80:80"), "no limit of connections"),
        (("--net-connections", "x", "-p", "80:80"), "no number of connections"),
        (("--ip-allow", "localhost,everything"), "'everything' is no range"),
        (("--ip-deny", "fe80::1%eth0"), "no range"),
    ],
)
def test_what_does_not_go_together(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked(*arguments)
    assert words in caught.value.message


def test_a_specification_of_earlier_is_read() -> None:
    document = Network("bridge", ON, WEB).to_mapping()
    assert document.pop("limits") == {}
    assert Network.read(document).limits == Limits()


@pytest.mark.parametrize(
    "member",
    [
        {"rate_in": "1mbit"}, {"rate_in": True}, {"rate_in": 1}, {"rate": 10**6}, {"burst_in": 4096}, {"priority": -1},
        {"priority": 0xFFFFFFFF}, {"connections": 0}, {"allow": "any"}, {"deny": ["any\nExecStart=/bin/sh"]}, [],
    ],
)  # fmt: skip
def test_damaged_limits_are_refused(member: Any) -> None:
    document = Network("bridge", ON, WEB).to_mapping() | {"limits": member}
    with pytest.raises((UsageError, TypeError, ValueError)):
        Network.read(document)


def test_a_packet_fits_into_a_burst(tmp_path: Path) -> None:
    layout = Layout().moved("state", tmp_path)
    connecting.publish(layout, define(mtu=9000))
    wanted = Network("bridge", ON, limits=Limits(rate_in=10**6, burst_in=4096))
    with pytest.raises(
        UsageError, match="web can't have a burst of 4096 bytes on default: packets have up to 9018"
    ):
        connecting.settle(layout, "web", wanted)
    enough = Network("bridge", ON, limits=Limits(rate_in=10**6))
    assert connecting.settle(layout, "web", enough).limits == enough.limits


# ---- what is rendered


def test_start_member_has_limits_only_where_there_are_any() -> None:
    networks = {"default": define()}
    plain = attachment.start_member("web", Network("bridge", TWO, WEB), networks, Naming())
    assert set(plain) == {"interfaces", "ports", "resolver"} and "limits" not in plain["interfaces"][0]
    found = attachment.start_member("web", Network("bridge", TWO, WEB, limits=EVERY), networks, Naming())
    assert (found["priority"], found["connections"]) == (0x1000A, 3)
    first, second = (item["limits"] for item in found["interfaces"])
    assert first["in"] == {"rate": 1_250_000, "burst": 65536, "queue": 65536 + 62_500}
    assert first["out"] == second["out"] == {"rate": 250_000, "burst": 16384, "queue": 16384 + 32768}
    names = {first["device"], second["device"], attachment.rate_device("other", 0)}
    assert len(names) == 3 and all(len(name) == 15 and name.startswith(shaping.BEGINNING) for name in names)
    found = attachment.start_member(
        "web", Network("bridge", ON, limits=Limits(rate_in=10**9)), networks, Naming()
    )
    assert found["interfaces"][0]["limits"] == {
        "in": {"rate": 125_000_000, "burst": 1_250_000, "queue": 7_500_000}
    }


@pytest.mark.parametrize("rate", [limits.LOWEST_RATE, 34 * 10**9, limits.HIGHEST_RATE])
@pytest.mark.parametrize("burst", [None, limits.LEAST_BURST, limits.MOST_BURST])
def test_every_rate_can_be_said_to_the_kernel(rate: int, burst: int | None) -> None:
    found = attachment._rates("web", 0, Limits(rate_in=rate, burst_in=burst))["in"]
    assert limits.LEAST_BURST <= found["burst"] <= limits.MOST_BURST and found["burst"] < found["queue"]
    _, _, body = shaping._bucket(7, found)
    assert found["queue"].to_bytes(4, sys.byteorder) in body


def test_units_have_address_filters_and_proxies_a_limit() -> None:
    ports = (Port("", 8080, 80, mode="socket"),)
    document = checked(Network("bridge", ON, ports, limits=EVERY)).to_mapping()
    spec = rendering.make_spec(network=document)
    service = unitsyntax.parse(units.render(spec, rendering.make_image(), Layout()).decode())["Service"]
    found = {
        name: unitsyntax.parse(text.decode()) for name, text in units.render_sockets(spec, Layout()).items()
    }
    for settings in (service, found["ctr-web@80.socket"]["Socket"]):
        assert ("IPAddressAllow", "10.0.0.0/8") in settings and ("IPAddressDeny", "any") in settings
    (command,) = [value for key, value in found["ctr-web@80.service"]["Service"] if key == "ExecStart"]
    # The proxy refuses when there are more than that.
    assert command.split()[7] == "2"
    assert activation.address_filter(rendering.make_spec()) == []


def test_address_filters_need_the_unified_hierarchy(tmp_path: Path) -> None:
    spec = rendering.make_spec(network=Network("host", limits=Limits(deny=("any",))).to_mapping())
    with pytest.raises(
        HostError, match="web can't be limited by --ip-deny: systemd filters addresses with cgroup v2"
    ):
        host.require_address_filter(spec, tmp_path)
    host.require_address_filter(rendering.make_spec(), tmp_path)
    (tmp_path / "cgroup.controllers").write_text("")
    host.require_address_filter(spec, tmp_path)


def test_rules_of_a_container() -> None:
    wanted = {
        "interfaces": [{"addresses": ["10.89.0.2/24", "fd00:1::2/64"]}],
        "connections": 3,
        "priority": 0x1000A,
    }
    text = ruleset.render_limits("web", wanted)
    assert text.startswith("table inet gearlimits-web\ndelete table inet gearlimits-web\n")
    assert "ip6 saddr fd00:1::2 meta priority set 1:a" in text
    new = "meta l4proto tcp ct state new ct status dnat jump counted"
    assert text.count(f"ip daddr 10.89.0.2 {new}") == text.count(f"ip6 daddr fd00:1::2 {new}") == 2
    # nft 1.0.6 takes nothing after it.
    assert text.endswith("ct count over 3 reject with tcp reset\n    }\n}\n")
    del wanted["connections"]
    assert "counted" not in ruleset.render_limits("web", wanted)
    # The tables of networks are called otherwise.
    assert not ruleset.table_of("x").startswith(ruleset.LIMITS)


def test_messages_to_the_kernel() -> None:
    """Lengths and values where linux/pkt_sched.h has them."""
    rate = 6 << 30  # more than 32 bits
    _, _, body = shaping._bucket(7, {"rate": rate, "burst": 65536, "queue": 100_000})
    assert int.from_bytes(body[4:8], sys.byteorder) == 7 and body[12:16] == b"\xff" * 4
    outer = netlink.attributes(body[20:])
    assert outer[1] == b"tbf\0"
    options = netlink.attributes(outer[2])
    assert len(options[1]) == 36 and options[1][8:12] == b"\xff" * 4
    assert int.from_bytes(options[1][24:28], sys.byteorder) == 100_000
    assert (
        int.from_bytes(options[4], sys.byteorder) == rate
        and int.from_bytes(options[6], sys.byteorder) == 65536
    )
    outer = netlink.attributes(shaping._redirection(7, 9)[20:])
    options = netlink.attributes(outer[2])
    assert outer[1] == b"u32\0" and len(options[5]) == 32
    action = netlink.attributes(netlink.attributes(options[7])[1])
    assert action[1] == b"mirred\0"
    assert int.from_bytes(netlink.attributes(action[2])[2][24:28], sys.byteorder) == 9
