"""Limits of what containers make of the network, with real traffic: rates, priority, connections."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from gearhost import GearHost

# SERVER CLIENT ADDRESS: bits per second by TCP between the network namespaces of two processes, for a moment.
MEASURE = b"""
import ctypes, os, socket, sys, time
def enter(pid):
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    assert ctypes.CDLL(None).setns(fd, 0) == 0
server, client, address = sys.argv[1:]
reading, writing = os.pipe()
enter(server)
listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
port = listening.getsockname()[1]
if os.fork() == 0:
    enter(client)
    made = socket.create_connection((address, port), 10)
    end, data = time.monotonic() + 0.3, bytes(65536)
    while time.monotonic() < end:
        made.send(data)
    os._exit(0)
made, _ = listening.accept()
got, data = len(made.recv(65536)), b""
begun = time.monotonic()
while data := made.recv(262144):
    got += len(data)
print(got * 8 / (time.monotonic() - begun))
"""
# PORT NUMBER ADDRESS...: opens a connection to each address, and says of each whether it got one; of these NUMBER are
# closed then, and one more is tried until that works.
CONNECT = b"""
import socket, sys, time
port, closed, *addresses = sys.argv[1:]
made = []
for address in addresses:
    try:
        made.append(socket.create_connection((address, int(port)), 5))
        print("connected")
    except OSError as error:
        print(type(error).__name__)
for item in made[: int(closed)]:
    item.close()
deadline = time.monotonic() + 20
while closed != "0":
    try:
        socket.create_connection((addresses[0], int(port)), 5)
        print("connected again")
        break
    except ConnectionRefusedError:
        assert time.monotonic() < deadline
        time.sleep(0.05)
"""
LEFT = "nft list tables | grep gearlimits || :; ip -o link show | grep -E ' gi[0-9a-f]{13}:' || :"


@pytest.fixture
def net(host: GearHost) -> Iterator[GearHost]:
    host.write("/root/measure.py", MEASURE)
    host.write("/root/connect.py", CONNECT)
    yield host
    if names := host.gear("list-units", "--all", "--quiet").split():
        host.gear("delete", *names)
    assert host.sh(LEFT) == ""
    if networks := host.gear("network", "list", "--quiet").split():
        host.gear("network", "rm", *networks)


def addresses(net: GearHost, *names: str) -> list[dict[int, str]]:
    """The addresses of containers, by the version of the protocol."""
    found = net.json("status", *names)
    return [{6 if ":" in text else 4: text for text in item["addresses"]} for item in found]


def rate(net: GearHost, server: int, client: int, to: str) -> float:
    """Megabits per second."""
    return float(net.out("python3", "/root/measure.py", str(server), str(client), to)) / 1e6


def connect(net: GearHost, port: int, closed: int, *addresses: str) -> list[str]:
    return net.out("python3", "/root/connect.py", str(port), str(closed), *addresses).splitlines()


def disciplines(net: GearHost) -> list[tuple[str, int]]:
    """What tells rates: (beginning of the device's name, bytes per second) of each token bucket."""
    found = json.loads(net.out("tc", "-j", "qdisc"))
    return sorted((item["dev"][:2], item["options"]["rate"]) for item in found if item["kind"] == "tbf")


def test_rates_hold_against_root_of_the_container(net: GearHost) -> None:
    options = ("--net", "default", "--cap-add", "NET_ADMIN", "--net-rate", "in=40mbit,out=20mbit")
    net.gear("install", "hello", "rslow", *options, "--start")
    net.gear("install", "hello", "rfast", "--net", "default", "--start")
    slow, fast, bridge = net.pid("rslow"), net.pid("rfast"), "10.89.0.1"
    to_slow, to_fast = addresses(net, "rslow", "rfast")
    assert disciplines(net) == [("gi", 2_500_000), ("ve", 5_000_000)]
    free = rate(net, 1, fast, bridge)
    assert free > 200, "the machine is too slow to tell"
    # Whoever is root inside has his own end, and no more.
    inside = f"nsenter -t {slow} -U -n"
    net.sh(f"{inside} tc qdisc replace dev eth0 root tbf rate 10gbit burst 10m latency 50ms")
    assert "Cannot find device" in net.sh(f"{inside} tc qdisc del dev gi0 root 2>&1 || :")
    for where, got, wanted in (
        ("out, to the host", rate(net, 1, slow, bridge), 20),
        ("out, to another container, by IPv6", rate(net, fast, slow, to_fast[6]), 20),
        ("in, from the host", rate(net, slow, 1, to_slow[4]), 40),
        ("in, from another container, by IPv6", rate(net, slow, fast, to_slow[6]), 40),
    ):
        assert 0.7 * wanted < got < 1.3 * wanted, f"{where}: {got}"
    # And nobody else is limited.
    assert rate(net, fast, 1, to_fast[4]) > 200
    # Another network at once; a network that is made anew; another number.
    net.gear("network", "create", "rother")
    net.gear("network", "connect", "rother", "rslow")
    assert disciplines(net) == [("gi", 2_500_000)] * 2 + [("ve", 5_000_000)] * 2
    net.gear("network", "disconnect", "default", "rslow")
    net.sh("systemctl restart gear-network@rother")
    assert disciplines(net) == [("gi", 2_500_000), ("ve", 5_000_000)]
    assert (
        14
        < rate(
            net, 1, slow, net.json("network", "inspect", "rother")[0]["definition"]["subnets"][0]["gateway"]
        )
        < 26
    )
    # Killed, and left without a word; the next start replaces what is there.
    net.sh("systemctl kill --signal KILL ctr-rslow")
    net.wait(lambda: net.pid("rslow") not in (0, slow), "a restart")
    net.gear("install", "hello", "rslow", "--net", "default", "--net-rate", "16mbit")
    device = net.sh("ip -o link show type ifb | grep -o 'gi[0-9a-f]*'")
    net.gear("stop", "rslow")
    assert net.sh(LEFT) == ""
    net.sh(f"ip link add {device} type ifb")
    net.gear("start", "rslow")
    assert disciplines(net) == [("gi", 2_000_000), ("ve", 2_000_000)]
    assert "16mbit in, 16mbit out" in net.gear("status", "rslow")


def test_connections_and_priority(net: GearHost) -> None:
    net.gear(
        "install", "hello", "cweb", "-p", "8080:8080", "--net-connections", "2", "--net-priority", "1:a", "--start"
    )  # fmt: skip
    net.gear("install", "hello", "cother", "-p", "8081:8080", "--start")
    net.gear("install", "hello", "cproxied", "-p", "8082:8080,socket", "--net-connections", "2", "--start")
    gateway = "10.89.0.1"
    wanted = ["connected", "connected", "ConnectionRefusedError"]
    assert connect(net, 8080, 1, "127.0.0.1", gateway, "127.0.0.1") == [*wanted, "connected again"]
    assert connect(net, 8081, 0, *["127.0.0.1"] * 6) == ["connected"] * 6
    # The same count for both families, and for other containers.
    six = next(
        item
        for item in net.json("network", "inspect", "default")[0]["definition"]["subnets"]
        if ":" in item["gateway"]
    )
    net.wait(lambda: connect(net, 8080, 0, gateway, six["gateway"], gateway) == wanted, "the limit")
    assert "everybody, 2 at a time" in net.gear("ports", "cweb")
    # A proxy takes a connection before it looks: who is too many hears nothing but its end.
    script = (
        "import socket; a = [socket.create_connection(('127.0.0.1', 8082), 5) for _ in range(3)]; print(a[2].recv(1));"
        "a[1].send(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(a[1].recv(4))"
    )
    assert net.out("python3", "-c", script).split() == ["b''", "b'HTTP'"]
    # All rules of the machine are removed, and the network made again.
    net.sh("nft flush ruleset; systemctl restart gear-network@default")
    net.wait(lambda: connect(net, 8080, 0, gateway, gateway, gateway) == wanted, "the limit")

    net.sh("systemd-run -q --unit cout unshare --net sleep infinity")
    outside = int(net.show("cout", "MainPID"))
    net.wait(
        lambda: net.sh(f"readlink /proc/{outside}/ns/net") != net.sh("readlink /proc/1/ns/net"), "its network"
    )
    net.sh(
        f"ip link add cout type veth peer name eth0 netns {outside}; ip addr add 192.0.2.1/24 dev cout;"
        f" ip link set cout up; tc qdisc add dev cout root handle 1: htb default b;"
        f" tc class add dev cout parent 1: classid 1:a htb rate 1gbit;"
        f" tc class add dev cout parent 1: classid 1:b htb rate 1gbit;"
        f" nsenter -t {outside} -n sh -c 'ip addr add 192.0.2.9/24 dev eth0; ip link set eth0 up'"
    )
    try:
        for name, mine, other in (("cweb", "1:a", "1:b"), ("cother", "1:b", "1:a")):
            before = _sent(net)
            rate(net, outside, net.pid(name), "192.0.2.9")
            after = _sent(net)
            assert after[mine] - before[mine] > 100_000 > after[other] - before[other], name
    finally:
        net.sh("systemctl stop cout; ip link del cout 2>/dev/null || :")


def _sent(net: GearHost) -> dict[str, int]:
    """Bytes by the class of the outside interface that has sent them."""
    lines = net.sh("tc -s class show dev cout").splitlines()
    names = [line.split()[2] for line in lines if line.startswith("class")]
    return dict(
        zip(names, (int(line.split()[1]) for line in lines if line.strip().startswith("Sent")), strict=True)
    )


def test_what_the_kernel_lacks_is_an_error(net: GearHost) -> None:
    """Asked for what this kernel really has not, by another name; nothing runs without its limit."""
    net.gear("install", "hello", "klacks", "--net", "default", "--net-rate", "1mbit")
    path = "/var/lib/gear/helper/current/gear/helper/shaping.py"
    net.sh(f'cp {path} /root/shaping.py; sed -i \'s/, "tbf")/, "nosuch")/\' {path}')
    # Which is read where there is no bytecode.
    net.sh("cd /var/lib/gear/helper/current; for i in bytecode-*; do mv $i /root/$i; done")
    try:
        error = net.fails(1, "start", "klacks")
    finally:
        net.sh(f"cp -p /root/shaping.py {path}; systemctl reset-failed ctr-klacks")
        net.sh(
            "mv /root/bytecode-* /var/lib/gear/helper/current; rm -r /var/lib/gear/helper/current/gear/__pycache__"
        )
        net.sh("rm -r /var/lib/gear/helper/current/gear/helper/__pycache__")
    assert "can't limit the rate of eth0: this kernel lacks what it takes (tbf)" in error


def test_addresses_are_not_filtered_without_cgroup2(net: GearHost) -> None:
    if net.host.cgroup == "v1":
        error = net.fails(1, "install", "hello", "nfilter", "--ip-deny", "any")
        assert (
            "nfilter can't be limited by --ip-deny: systemd filters addresses with cgroup v2 alone." in error
        )


def test_a_bridge_that_is_full(net: GearHost) -> None:
    """The kernel gives a bridge 1023 ports; who comes after that is told, and leaves nothing behind."""
    net.gear("network", "create", "nlfull", "--subnet", "10.99.0.0/16")
    net.gear("install", "hello", "nlin", "--net", "none", "--start", "--", "sleep", "10000")
    net.gear("install", "hello", "nlout", "--net", "nlfull", "--", "sleep", "10000")
    net.sh("systemctl start gear-network@nlfull")
    pair = "link add nlf$i type veth peer name nlp$i"
    net.sh(
        f"for i in $(seq 1023); do echo {pair}; echo link set nlf$i master gear-nlfull; done | ip -batch -"
    )
    links = net.sh("ip -br link | wc -l")
    full = "gear-nlfull has as many containers as the kernel lets a bridge have, which is 1023"
    assert full in net.fails(1, "start", "nlout")
    assert full in net.fails(1, "network", "connect", "nlfull", "nlin")
    assert net.sh("ip -br link | wc -l") == links and "eth0" not in net.inside("nlin", "ip -br link")
    net.sh("for i in $(seq 1023); do echo link delete nlf$i; done | ip -batch -")
    net.gear("start", "nlout")
    net.gear("delete", "nlin", "nlout")
    net.gear("network", "rm", "nlfull")
