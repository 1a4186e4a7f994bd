"""Containers of two hosts on one network, with real traffic: by a VXLAN over IPv4 and over IPv6, and as macvlans."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from gearhost import GearHost, start_host
from nethost import ROOT, NetHost

LOST = "TimeoutError"
# What either host gives addresses from, on each network; in IPv6 the same number.
PARTS = ("0/25", "128/25")
SIX = ("::/113", "::8000/113")

# Sends a megabyte to whoever connects.
GIVE = """
import socket
waiting = socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    connection, _ = waiting.accept()
    connection.sendall(bytes(1 << 20))
    connection.close()
"""
TAKE = """
import socket, sys
made, got = socket.create_connection((sys.argv[1], 7000), 20), 0
while data := made.recv(1 << 16):
    got += len(data)
print(got)
"""
# Sends a frame in a VXLAN: SOURCE TARGET VNI MAC; the frame is for everybody.
FORGE = """
import socket, sys
source, target, vni, mac = sys.argv[1:]
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.bind((source, 0))
head = b"\\x08\\0\\0\\0" + int(vni).to_bytes(3, "big") + b"\\0"
made.sendto(head + b"\\xff" * 6 + bytes.fromhex(mac) + b"\\x88\\xb5" + bytes(46), (target, 4789))
"""
# Asks for 10.80.1.200 as the gateway 10.80.1.1 does, again and again.
PROBE = """
import socket, time
mac, gateway = bytes.fromhex("02670a500101"), bytes([10, 80, 1, 1])
head = b"\\xff" * 6 + mac + b"\\x08\\x06" + bytes.fromhex("0001080006040001")
asker = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
while True:
    try:
        asker.sendto(head + mac + gateway + bytes(6) + bytes([10, 80, 1, 200]), ("vx-blue", 0))
    except OSError:
        pass  # It is being made anew.
    time.sleep(0.01)
"""


def subnets(number: int, place: int) -> tuple[str, ...]:
    """The options for 10.80.NUMBER.0/24 and fd80:NUMBER::/64, and the host's part of each."""
    four, six = f"10.80.{number}.", f"fd80:{number}"
    return (
        "--subnet", f"{four}0/24", "--ip-range", four + PARTS[place],
        "--subnet", f"{six}::/64", "--ip-range", six + SIX[place],
    )  # fmt: skip


class Pair:
    """Two hosts on one wire, `wire0` on both: 192.0.2.1 and .2, 2001:db8::1 and ::2; a container on each."""

    def __init__(self, one: GearHost, other: GearHost) -> None:
        self.hosts = one, other
        self.nets = NetHost(one), NetHost(other)
        ends = [f"wire0 netns {host.host.leader}" for host in self.hosts]
        subprocess.run(["ip", "link", "add", *f"{ends[0]} type veth peer name {ends[1]}".split()], check=True)
        for number, host in enumerate(self.hosts, 1):
            host.sh(
                f"ip addr add 192.0.2.{number}/24 dev wire0; ip addr add 2001:db8::{number}/64 dev wire0 nodad;"
                " ip link set wire0 up"
            )
            for name, program in (("give", GIVE), ("take", TAKE), ("forge", FORGE), ("probe", PROBE)):
                host.write(f"/root/{name}.py", program.encode())

    def both(self, work: Callable[[int], object]) -> None:
        """Do *work* for 0 and 1, the number of a host, at once."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, (0, 1)))

    def create(self, name: str, number: int, *arguments: str) -> None:
        """Make a network with 10.80.NUMBER.0/24 and fd80:NUMBER::/64 on both; @ in an argument is the end of the other
        host's address."""

        def one(place: int) -> None:
            more = [word.replace("@", str(2 - place)) for word in arguments]
            self.hosts[place].gear("network", "create", name, *subnets(number, place), *more)

        self.both(one)

    def install(self, *options: str) -> None:
        """Install and start two1 and two2."""

        def one(place: int) -> None:
            name = f"two{place + 1}"
            command = ("/usr/bin/python3", "/answer.py", name, "t80", "u53")
            self.hosts[place].gear("install", f"host:{ROOT}", name, *options, "--start", "--", *command)

        self.both(one)

    def talk(self, number: int) -> None:
        """Both containers answer each other on a network, by TCP and UDP."""
        begin = (f"10.80.{number}.", f"fd80:{number}::")
        addresses = []
        for host, name in zip(self.hosts, ("two1", "two2"), strict=True):
            found = sorted(host.json("status", name)[0]["addresses"])
            addresses.append([address for address in found if address.startswith(begin)])
        assert [len(each) for each in addresses] == [2, 2]

        def one(place: int) -> None:
            questions = [
                f"{way}/{address}/{port}"
                for way, port in (("tcp", 80), ("udp", 53))
                for address in addresses[1 - place]
            ]
            expected = [f"two{2 - place} {address}" for address in addresses[place]] * 2
            self.hosts[place].wait(
                lambda: self.nets[place].ask_from(f"two{place + 1}", *questions) == expected,
                f"answers on {place}",
            )

        self.both(one)

    def forget(self) -> None:
        def one(place: int) -> None:
            host = self.hosts[place]
            host.forget()
            host.sh("systemctl reset-failed")
            assert host.sh("nft list tables; ip -br link | grep -Ev '^(lo|wire0)' || :") == ""

        try:
            self.both(one)
        finally:
            self.hosts[0].sh("ip link delete wire0")


@pytest.fixture(scope="module")
def _other() -> Iterator[GearHost]:
    machine = start_host()
    yield machine
    machine.host.stop()


@pytest.fixture
def pair(host: GearHost, _other: GearHost) -> Iterator[Pair]:
    made = Pair(host, _other)
    yield made
    made.forget()


def test_a_vxlan_connects_containers_of_two_hosts(pair: Pair) -> None:
    one, two = pair.hosts
    pair.create("blue", 1, "--driver", "vxlan", "--vni", "77", "--peer", "192.0.2.@", "--parent", "wire0")
    pair.install("--net", "blue", "-p", "8077:80")
    pair.talk(1)
    # Each host is a gateway of its own for its containers, and gets to those of the other.
    assert "default via 10.80.1.129" in two.inside("two2", "ip route")
    assert pair.nets[0].ask("tcp/10.80.1.130/80", "tcp/fd80:1::8002/80") == [
        "two2 10.80.1.1",
        "two2 fd80:1::1",
    ]
    _large_packets(pair)
    # A link leads over the tunnel as ever, a published port is reached by the host's address, as is the way out.
    one.gear("link", "two1", "-n", "9000:10.80.1.130:80,127.0.0.1:9001:192.0.2.2:8077")
    asked = ("tcp/127.0.0.1/9000", "tcp/127.0.0.1/9001", "tcp/192.0.2.2/8077")
    assert pair.nets[0].ask_from("two1", *asked) == ["two2 10.80.1.2", "two2 192.0.2.1", "two2 192.0.2.1"]
    # A restart of the network leaves the container running, and it talks again.
    pid = one.pid("two1")
    one.sh("systemctl restart gear-network@blue")
    pair.talk(1)
    # Who is a peer is changed at once.
    command = ("blue", "--driver", "vxlan", "--vni", "77", "--parent", "wire0", "--peer")
    assert '+    "192.0.2.9"' in one.gear("network", "plan", *command, "192.0.2.9")
    one.gear("network", "create", *command, "192.0.2.9")
    assert pair.nets[0].ask_from("two1", "tcp/10.80.1.130/80") == [LOST]
    # What the host asks for meanwhile, as its gateway, is not taken for another host that has it.
    one.sh("systemd-run -q --unit=twoprobe python3 /root/probe.py")
    one.gear("network", "create", *command, "192.0.2.2")
    one.sh("systemctl stop twoprobe")
    assert one.pid("two1") == pid
    _only_peers_get_in(pair)


def _large_packets(pair: Pair) -> None:
    """What is longer than a packet of the wire is not lost."""
    one, two = pair.hosts
    assert "mtu 1450" in one.inside("two1", "ip link show eth0")
    one.sh(f"systemd-run -q --unit=twogive nsenter -t {one.pid('two1')} -n python3 /root/give.py")
    one.wait(lambda: "7000" in one.inside("two1", "ss -ltn"), "a listener")
    for address in ("10.80.1.2", "fd80:1::2"):
        assert two.inside("two2", f"python3 /root/take.py {address}") == str(1 << 20)
    one.sh("systemctl stop twogive")


def _only_peers_get_in(pair: Pair) -> None:
    one, two = pair.hosts
    two.gear("install", f"host:{ROOT}", "twoevil", "--net", "default", "--start", "--", "/usr/bin/python3",
             "/answer.py", "twoevil", "t80")  # fmt: skip
    two.sh("ip addr add 192.0.2.3/24 dev wire0")

    def forge(mac: str, source: str, vni: int = 77, target: str = "192.0.2.1") -> str:
        return f"python3 /root/forge.py {source} {target} {vni} 0200000000{mac}"

    two.sh(forge("01", "192.0.2.3"))  # no peer
    two.sh(forge("02", "192.0.2.2", 78))  # another network
    two.inside("twoevil", forge("03", "0.0.0.0"))  # a container, whose address becomes that of its host
    two.inside("two2", forge("04", "0.0.0.0"))
    one.inside("two1", "ip addr add 192.0.2.2/32 dev lo; " + forge("05", "192.0.2.2", target="10.80.1.1"))
    # VXLAN knows no more than addresses: what a peer itself sends gets in.  It was sent last.
    two.sh(forge("ff", "192.0.2.2"))
    one.wait(lambda: "02:00:00:00:00:ff" in one.sh("bridge fdb show br gear-blue"), "the peer's frame")
    assert "02:00:00:00:00:0" not in one.sh("bridge fdb show br gear-blue")
    two.sh("ip addr delete 192.0.2.3/24 dev wire0")


def test_a_vxlan_over_ipv6_of_containers_that_run(pair: Pair) -> None:
    one, two = pair.hosts
    ends = ("--driver", "vxlan", "--port", "4790", "--peer", "2001:db8::@")
    pair.create("green", 3, "--vni", "78", *ends)
    pair.install("--net", "none")
    pids = [host.pid(f"two{number}") for number, host in enumerate(pair.hosts, 1)]
    pair.both(lambda place: pair.hosts[place].gear("network", "connect", "green", f"two{place + 1}"))
    assert pids == [host.pid(f"two{number}") for number, host in enumerate(pair.hosts, 1)]
    assert "mtu 1430" in one.inside("two1", "ip link show eth0")
    pair.talk(3)
    error = two.fails(2, "network", "create", "same", "--vni", "78", *ends[:4], *subnets(4, 1))
    assert "The network green is the VXLAN 78 already." in error
    # Two hosts with the same part of the addresses would have the same gateway.
    for place, host in enumerate(pair.hosts):
        peer = ("--peer", f"2001:db8::{2 - place}")
        host.gear("network", "create", "same", "--vni", "79", *ends[:4], *peer, *subnets(5, 0))
    one.sh("systemctl start gear-network@same")
    two.sh("systemctl start gear-network@same", check=False)
    journal = two.out("journalctl", "-u", "gear-network@same", "-o", "cat")
    assert (
        "the gateway 10.80.5.1 of the network same is in use by 02:67:0a:50:05:01: each host needs" in journal
    )


def test_macvlans_are_on_the_wire_themselves(pair: Pair) -> None:
    one, two = pair.hosts
    pair.create("lan", 6, "--driver", "macvlan", "--parent", "wire0")
    pair.install("--net", "lan")
    pair.talk(6)
    assert "default via 10.80.6.1" in one.inside("two1", "ip route")
    assert one.sh("nft list tables | grep gear || :; ip -br link | grep -E 'gear-|^ve' || :") == ""
    # The network's restart is nothing to them; and one that comes gets the address that another had at once.
    one.sh("systemctl restart gear-network@lan")
    assert pair.nets[1].ask_from("two2", "tcp/10.80.6.2/80") == ["two1 10.80.6.128"]
    command = ("--", "/usr/bin/python3", "/answer.py", "two3", "t80")
    one.gear("delete", "two1")
    one.gear("install", f"host:{ROOT}", "two3", "--net", "lan", "--ip", "10.80.6.2", "--start", *command)
    one.wait(lambda: "80" in one.inside("two3", "ss -ltn"), "a listener")
    assert pair.nets[1].ask_from("two2", "tcp/10.80.6.2/80") == ["two3 10.80.6.128"]
    # Leaving and coming while it runs, beside a bridge, by which its ports are reached.
    pid = one.pid("two3")
    one.gear("network", "disconnect", "lan", "two3")
    assert "eth0" not in one.inside("two3", "ip -br link")
    one.gear("network", "connect", "lan", "two3", "--ip", "10.80.6.9")
    assert pair.nets[1].ask_from("two2", "tcp/10.80.6.9/80") == ["two3 10.80.6.128"]
    assert one.pid("two3") == pid
    assert "who is on the network of wire0, but not this host" in one.gear("ports", "two3")
    error = one.fails(2, "install", f"host:{ROOT}", "twoport", "--net", "lan", "-p", "8080:80", *command)
    assert "can't publish the port 8080:80/tcp in the mode nat: this host can't reach it on lan" in error

    # A parent that is not there is told.
    one.gear("network", "create", "far", "--driver", "macvlan", "--parent", "nowire", *subnets(7, 0))
    one.gear("install", f"host:{ROOT}", "twofar", "--net", "far", *command)
    error = one.fails(1, "start", "twofar")
    assert "this host has no link nowire; see systemctl status gear-network@far.service" in error
    journal = one.out("journalctl", "-u", "gear-network@far", "-o", "cat")
    assert "the network far has the parent nowire, and there is no such link" in journal
    one.gear("stop", "twofar")
    # With passthru it is one container's alone.
    one.gear("network", "create", "far", "--parent", "wire0", "--mode", "passthru")
    error = one.fails(1, "start", "twofar")
    assert "wire0 takes no macvlan of the mode passthru" in error
