"""Addresses and ports: kept, chosen free, never two containers' at once, given back."""

from __future__ import annotations

import json
import os
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from nets import define, machine, write

from gear import allocation, connecting, files, process
from gear.errors import GearError, HostError, NotFoundError, UsageError
from gear.model import Layout
from gear.network import Interface, Network, Port


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    return machine(tmp_path, monkeypatch)


def on(
    *names: str, ports: tuple[Port, ...] = (), ip: str | None = None, ip6: str | None = None, mac: str = ""
) -> Network:
    """What is asked for by --net for each name."""
    return Network("bridge", tuple(Interface(name, "", ip, ip6, mac) for name in names), ports)


@pytest.fixture(autouse=True)
def _nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "is_free", lambda port: True)
    monkeypatch.setattr(process, "find", lambda program: f"/usr/sbin/{program}")


def connect(layout: Layout, name: str, asked: Network, old: Network | None = None) -> Network:
    """Settle and take, as an install does."""
    with files.locked(layout.lock):
        network = connecting.settle(layout, name, asked, old)
        had = allocation.held(layout, name)
        connecting.take(layout, name, network)
        allocation.give_back(had - allocation.wanted(layout, network))
        return network


def owners(layout: Layout) -> dict[str, str]:
    return {item.path.name: item.name for item in allocation.taken(layout)}


def test_default_is_made_on_demand_and_families_share_the_number(layout: Layout) -> None:
    asked = on("default", ports=(Port("", 8080, 80), Port("", 0, 81)))
    assert not layout.networks.exists()
    found = connecting.settle(layout, "web", asked)
    assert not layout.networks.exists()
    assert connect(layout, "web", asked) == found
    (interface,) = found.interfaces
    assert (interface.interface, interface.ip) == ("eth0", "10.89.0.2")
    assert interface.ip6 is not None and interface.ip6.endswith("::2")
    assert [port.external for port in found.ports] == [8080, 20000]
    assert owners(layout) == {
        interface.ip: "web",
        interface.ip6: "web",
        "tcp-8080-": "web",
        "tcp-20000-": "web",
    }
    unit = layout.units / "gear-network@default.service"
    assert unit.read_bytes().startswith(b"# Rendered by gear from ")


def test_what_it_has_stays(layout: Layout) -> None:
    write(layout, define("a"))
    asked = on("default", "a", ports=(Port("", 0, 80), Port("", 0, 80)))
    first = connect(layout, "x", asked)
    second = connect(layout, "y", asked)
    allocation.give_back(allocation.held(layout, "x"))
    assert connect(layout, "y", asked, second) == second
    # Settled is settled: nothing changes when it is asked for with everything said.
    assert connecting.settle(layout, "y", second, second) == second
    assert connect(layout, "z", asked).interfaces[0].ip == first.interfaces[0].ip


def test_addresses_that_are_asked_for(layout: Layout) -> None:
    write(layout, define("a"))
    found = connect(layout, "x", on("a", ip="10.89.0.9", mac="02:00:00:00:00:09"))
    (interface,) = found.interfaces
    assert (interface.ip, interface.ip6, interface.mac) == ("10.89.0.9", "fd00:1::9", "02:00:00:00:00:09")
    assert connect(layout, "y", on("a", ip6="fd00:1::7")).interfaces[0].ip == "10.89.0.7"
    # Another one frees the first.
    connect(layout, "x", on("a", ip="10.89.0.10"), found)
    assert "10.89.0.9" not in owners(layout) and owners(layout)["10.89.0.10"] == "x"


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        ({"ip": "10.89.1.2"}, "y can't have the address 10.89.1.2 (--ip): a gives those of 10.89.0.0/24."),
        ({"ip": "10.89.0.1"}, "y can't have the address 10.89.0.1 (--ip): a has it itself, as its gateway."),
        (
            {"ip": "10.89.0.0"},
            "y can't have the address 10.89.0.0 (--ip): a has it itself, as its first or last.",
        ),
        (
            {"ip": "10.89.0.255"},
            "y can't have the address 10.89.0.255 (--ip): a has it itself, as its first or last.",
        ),
        (
            {"ip6": "fd00:1::"},
            "y can't have the address fd00:1:: (--ip6): a has it itself, as its first or last.",
        ),
        ({"ip": "10.89.0.2"}, "y can't have the address 10.89.0.2 of a: x has it."),
    ],
)
def test_addresses_that_can_not_be_had(layout: Layout, addresses: dict[str, str], message: str) -> None:
    write(layout, define("a"))
    connect(layout, "x", on("a"))
    with pytest.raises(UsageError) as caught:
        connecting.settle(layout, "y", on("a", ip=addresses.get("ip"), ip6=addresses.get("ip6")))
    assert caught.value.message == message


def test_network_of_one_family(layout: Layout) -> None:
    write(layout, define("six", "fd00:6::/64"))
    (interface,) = connect(layout, "x", on("six")).interfaces
    assert (interface.ip, interface.ip6) == (None, "fd00:6::2")
    with pytest.raises(UsageError, match=r"\(--ip\): six has none of that family"):
        connecting.settle(layout, "y", on("six", ip="10.0.0.2"))
    with pytest.raises(UsageError, match="it has no such address on six"):
        connecting.settle(layout, "y", on("six", ports=(Port("127.0.0.1", 80, 80),)))


def test_range_and_end_of_addresses(layout: Layout) -> None:
    definition = define("small", "10.7.0.0/29")
    subnet = replace(definition.subnets[0], range=type(definition.subnets[0].subnet)("10.7.0.4/30"))
    write(layout, replace(definition, subnets=(subnet,)))
    found = [connect(layout, f"c{number}", on("small")).interfaces[0].ip for number in range(3)]
    assert found == ["10.7.0.4", "10.7.0.5", "10.7.0.6"]  # .7 is the broadcast address
    with pytest.raises(HostError, match="No address of 10.7.0.4/30 is left in the network small"):
        connecting.settle(layout, "c3", on("small"))
    # One that is asked for may be outside the range.
    assert connect(layout, "c3", on("small", ip="10.7.0.2")).interfaces[0].ip == "10.7.0.2"


def test_ports_of_others_are_refused_and_left_alone(layout: Layout) -> None:
    connect(layout, "x", on("default", ports=(Port("127.0.0.1", 80, 80),)))
    before = owners(layout)
    with pytest.raises(UsageError) as caught:
        connecting.settle(layout, "y", on("default", ports=(Port("", 81, 80), Port("", 80, 80))))
    assert caught.value.message == "y can't have the port 80/tcp: x has it."
    assert owners(layout) == before
    with pytest.raises(UsageError, match="y can't have the port 80/tcp: x has it"):
        allocation.take(layout, "y", Network(ports=(Port("127.0.0.1", 80, 80),)))
    assert owners(layout) == before
    connect(layout, "y", on("default", ports=(Port("127.0.0.2", 80, 80), Port("", 80, 80, "udp"))))


def test_free_ports(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    layout.config.mkdir()
    (layout.config / "network.yaml").write_text("port_range: 700-704\n")
    monkeypatch.setattr(allocation, "is_free", lambda port: port.external != 701)
    connect(layout, "x", on("default", ports=(Port("127.0.0.1", 700, 80),)))
    asked = on("default", ports=(Port("", 702, 80), Port("", 0, 80), Port("", 0, 81)))
    found = connect(layout, "y", asked)
    assert [port.external for port in found.ports] == [702, 703, 704]
    with pytest.raises(HostError, match="No port from 700 to 704 is left for z"):
        connecting.settle(layout, "z", on("default", ports=(Port("", 0, 80),)))
    # A range of its own; and what it has, as long as that fits.
    wanted = on("default", ports=(Port("", 0, 80, choice=(9000, 9010)),))
    ninety = connect(layout, "z", wanted)
    assert ninety.ports == (Port("", 9000, 80),)
    assert connect(layout, "z", on("default", ports=(Port("", 0, 80),)), ninety).ports == ninety.ports
    other = on("default", ports=(Port("", 0, 80, choice=(9001, 9010)),))
    assert connect(layout, "z", other, ninety).ports == (Port("", 9001, 80),)
    assert "tcp-9000-" not in owners(layout)


@pytest.mark.parametrize("text", ["port_range: 5", "ports: 1-2", "[]", "port_range: 9-8", "port_range: a-b"])
def test_configuration_that_means_nothing(layout: Layout, text: str) -> None:
    layout.config.mkdir()
    (layout.config / "network.yaml").write_text(text)
    with pytest.raises(UsageError):
        connecting.configured_range(layout)


def test_only_a_network_that_a_container_has_of_its_own_is_shared(layout: Layout) -> None:
    with pytest.raises(NotFoundError, match="there is no container db"):
        connecting.settle(layout, "x", Network("container:db"))
    files.make_directory(layout.containers / "db")
    for mode, whose in (("host", "db has --net host"), ("container:z", "db has --net container:z")):
        files.write_atomic(
            layout.containers / "db" / "spec.json", files.dump_json({"network": {"mode": mode}})
        )
        with pytest.raises(UsageError, match=f"can't share the network of db: {whose}"):
            connecting.settle(layout, "x", Network("container:db"))
    files.write_atomic(layout.containers / "db" / "spec.json", files.dump_json({"network": {"mode": "none"}}))
    assert connecting.settle(layout, "x", Network("container:db")) == Network("container:db")
    with pytest.raises(UsageError, match="it would be its own"):
        connecting.settle(layout, "db", Network("container:db"))


def test_more_ports_than_a_start_can_hold_are_refused(layout: Layout) -> None:
    def ports(count: int, mode: str) -> tuple[Port, ...]:
        return tuple(Port("", 1000 + number, 80, "tcp", mode) for number in range(count))

    assert len(connecting.settle(layout, "x", on("default", ports=ports(900, "nat"))).ports) == 900
    with pytest.raises(UsageError, match="x can't publish 901 ports") as caught:
        connecting.settle(layout, "x", on("default", ports=ports(901, "nat")))
    assert "Publish 900 at most" in str(caught.value.hint)
    with pytest.raises(UsageError, match="x can't publish 451 ports") as caught:
        connecting.settle(layout, "x", on("default", ports=ports(451, "fd")))
    assert "Publish 450 at most" in str(caught.value.hint)


def test_ports_of_others_are_read_once(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    ports = allocation.ports
    monkeypatch.setattr(allocation, "ports", lambda of: calls.append(of) or ports(of))  # type: ignore[func-returns-value]
    connect(layout, "x", on("default", ports=tuple(Port("", number, 80) for number in range(100, 130))))
    assert len(calls) == 3  # to settle, to take, and for what it had


def test_free_ports_without_a_network(layout: Layout) -> None:
    asked = Network("none", (), (Port("", 0, 80, "tcp", "fd"), Port("", 0, 81, "tcp", "socket")))
    settled = connecting.settle(layout, "x", asked)
    first, second = (port.external for port in settled.ports)
    assert first and second and first != second
    assert connecting.settle(layout, "x", asked, settled) == settled
    # A proxy of the host reaches internal networks as well.
    write(layout, define("inner", internal=True))
    inner = on("inner", ports=(Port("", 1080, 80, "tcp", "socket"),))
    assert connecting.settle(layout, "x", inner).interfaces[0].ip


def test_ports_need_a_way_in(layout: Layout) -> None:
    write(layout, define("inner", internal=True))
    with pytest.raises(UsageError, match="it is on internal networks only"):
        connecting.settle(layout, "x", on("inner", ports=(Port("", 80, 80),)))


def test_interfaces_keep_their_names(layout: Layout) -> None:
    for name, third in (("a", 1), ("b", 2), ("c", 3)):
        write(layout, define(name, f"10.{third}.0.0/24"))
    found = connect(layout, "x", on("a", "b"))
    rest = replace(found, interfaces=(found.interfaces[1], Interface("c")))
    assert [item.interface for item in connect(layout, "x", rest, found).interfaces] == ["eth1", "eth0"]


def test_many_at_once_never_get_the_same(layout: Layout) -> None:
    found: list[Network] = []
    failures: list[BaseException] = []
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        try:
            barrier.wait()
            for again in range(5):
                found.append(connect(layout, f"c{number}-{again}", on("default", ports=(Port("", 0, 80),))))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for values in (
        [network.interfaces[0].ip for network in found],
        [network.interfaces[0].ip6 for network in found],
        [network.ports[0].external for network in found],
    ):
        assert len(set(values)) == 40


def test_link_of_another_is_never_taken_over(layout: Layout) -> None:
    write(layout, define("a"))
    network = connecting.settle(layout, "x", on("a"))
    # Somebody without the lock, after x was told what is free.
    directory = layout.networks / "a" / "addresses"
    directory.mkdir()
    os.symlink("thief", directory / "10.89.0.2")
    with pytest.raises(GearError, match="x can't have 10.89.0.2: it belongs to thief"):
        allocation.take(layout, "x", network)
    assert owners(layout)["10.89.0.2"] == "thief"


def test_what_listens_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        udp.bind(("127.0.0.1", 0))
        for sock, protocol in ((tcp, "tcp"), (udp, "udp")):
            number = sock.getsockname()[1]
            for address in ("", "0.0.0.0", "127.0.0.1"):
                assert not allocation.is_free(Port(address, number, 80, protocol))


def test_definition_on_disk_is_what_was_taken(layout: Layout) -> None:
    connect(layout, "x", on("default"))
    path: Path = layout.networks / "default" / "network.json"
    before = path.stat().st_mtime_ns
    connect(layout, "y", on("default"))
    assert path.stat().st_mtime_ns == before
    assert json.loads(path.read_bytes())["interface"] == "gear-default"
