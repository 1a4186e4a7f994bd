"""A container's network as its start makes it, with real traffic: bridges, addresses, published ports, and the host's
own firewall."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gearhost import GearHost
from nethost import NetHost

LOST, REFUSED = "TimeoutError", "ConnectionRefusedError"


@pytest.fixture
def net(host: GearHost) -> Iterator[NetHost]:
    host.forget()  # the default network, which earlier tests may have used and which has the same addresses
    made = NetHost(host)
    made.define("nd", 0)
    yield made
    made.bridged_frames_pass(1)
    host.sh("nft delete table inet firewall 2>/dev/null || :")
    made.forget()
    assert host.sh("nft list ruleset; ls /sys/class/net") == "lo"


def start(net: NetHost, *names: str) -> None:
    net.host.sh(f"systemctl start {' '.join(f'ctr-{name}' for name in names)}")
    for name in names:  # the program inside needs a moment more than its start
        net.host.wait(lambda: REFUSED not in net.ask_from(name, "tcp/127.0.0.1/80"), f"{name} to listen")  # noqa: B023


@pytest.mark.parametrize("bridged", [0, 1])
def test_published_ports_are_reached_from_everywhere(net: NetHost, bridged: int) -> None:
    net.bridged_frames_pass(bridged)
    net.outside("nout")
    net.install("nweb", "ndb")
    net.give("nweb", ("nd", 0, 2), ports=("tcp/8080/80", "udp/8053/53", "127.0.0.1/tcp/8081/80"))
    net.give("ndb", ("nd", 0, 3))
    start(net, "nweb", "ndb")
    for protocol, port in (("tcp", 8080), ("udp", 8053)):

        def at(*hosts: str, protocol: str = protocol, port: int = port) -> tuple[str, ...]:
            return tuple(f"{protocol}/{host}/{port}" for host in hosts)

        # From the host itself; who comes from a loopback address is seen as the bridge.
        assert net.ask(*at("127.0.0.1", "127.1.2.3", "192.0.2.1", "2001:db8::1", "10.89.0.1", "fd12:0::1")) == [
            "nweb 10.89.0.1", "nweb 10.89.0.1", "nweb 192.0.2.1", "nweb 2001:db8::1", "nweb 10.89.0.1", "nweb fd12::1"
        ]  # fmt: skip
        # From outside, with the client's address.
        assert net.ask(*at("192.0.2.1", "2001:db8::1"), where="nout") == [
            "nweb 192.0.2.9",
            "nweb 2001:db8::9",
        ]
        # From another container, and from itself.
        for name in ("ndb", "nweb"):
            answers = net.ask_from(name, *at("192.0.2.1", "2001:db8::1", "10.89.0.1", "fd12:0::1"))
            assert answers == ["nweb 10.89.0.1", "nweb fd12::1"] * 2
    if not bridged:
        assert net.ask("tcp/::1/8080", "udp/::1/8053") == ["nweb fd12::1"] * 2
    else:  # refused at once, so that clients of `localhost` go on to 127.0.0.1
        assert net.ask("tcp/::1/8080") == [REFUSED]
    # On one address only.
    assert net.ask("tcp/127.0.0.1/8081", "tcp/192.0.2.1/8081", "tcp/::1/8081") == [
        "nweb 10.89.0.1",
        REFUSED,
        REFUSED,
    ]
    # Without any port, on the network they share.
    assert net.ask_from("ndb", "tcp/10.89.0.2/80", "udp/10.89.0.2/53", "tcp/fd12:0::2/80") == [
        "nweb 10.89.0.3",
        "nweb 10.89.0.3",
        "nweb fd12::3",
    ]


def test_containers_reach_the_outside_by_the_hosts_address(net: NetHost) -> None:
    net.outside("nout")
    net.host.sh(
        "systemd-run -q --unit=nouter ip netns exec nout python3 /var/lib/answering/answer.py outer t80 u53"
    )
    net.install("nweb")
    net.give("nweb", ("nd", 0, 2))
    start(net, "nweb")
    net.host.wait(lambda: net.ask("tcp/192.0.2.9/80") == ["outer 192.0.2.1"], "the outside")
    asked = ("tcp/192.0.2.9/80", "udp/192.0.2.9/53", "tcp/2001:db8::9/80", "udp/2001:db8::9/53")
    assert net.ask_from("nweb", *asked) == ["outer 192.0.2.1"] * 2 + ["outer 2001:db8::1"] * 2
    inside = net.host.inside("nweb", "ip -o addr show eth0; ip route; ip -6 route; ip link show eth0")
    assert "10.89.0.2/24" in inside and "fd12::2/64 scope global nodad" in inside
    assert "default via 10.89.0.1 dev eth0" in inside and "default via fd12::1 dev eth0" in inside
    assert "02:00:00:00:00:02" in inside
    net.host.sh("systemctl stop nouter")


def test_nothing_but_published_ports_is_reached(net: NetHost) -> None:
    net.outside("nout")
    net.host.sh(
        "ip -n nout route add 10.89.0.0/16 via 192.0.2.1; ip -n nout route add fd12::/32 via 2001:db8::1"
    )
    for name, number, changes in (("nother", 1, {}), ("ninner", 2, {"internal": True})):
        net.define(name, number, **changes)
    net.install("nweb", "nforeign", "nshut")
    net.give("nweb", ("nd", 0, 2), ports=("tcp/8080/80",))
    net.give("nforeign", ("nother", 1, 2))
    net.give("nshut", ("ninner", 2, 2))
    start(net, "nweb", "nforeign", "nshut")
    asked = ("tcp/10.89.0.2/80", "tcp/fd12:0::2/80")
    assert net.ask(*asked, where="nout") == [LOST, LOST]
    assert net.ask_from("nforeign", *asked) == [LOST, LOST]
    assert net.ask_from("nforeign", "tcp/192.0.2.1/8080") == [
        "nweb 10.89.1.1".replace("10.89.1.1", "10.89.0.1")
    ]
    # An internal network has no way out, not even to published ports of others.
    assert net.ask_from("nshut", "tcp/192.0.2.1/8080", "tcp/192.0.2.9/80") == [LOST, LOST]
    assert net.ask("tcp/10.89.2.2/80") == ["nshut 10.89.2.1"]
    # The host's loopback addresses stay its own, whatever a container sends.
    pid = net.occupy("nlocal", "tcp", "127.0.0.1", 7777)
    net.host.inside(
        "nweb",
        "ip route add 127.0.0.0/8 via 10.89.0.1 table 7; echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet;"
        " ip rule add to 127.0.0.1 table 7 pref 1; ip rule del pref 0; ip rule add table local pref 5",
    )
    assert net.ask_from("nweb", "tcp/127.0.0.1/7777") == [LOST]
    assert net.host.sh(f"kill -0 {pid}; systemctl stop nlocal") == ""


def test_networks_that_are_not_isolated_reach_each_other(net: NetHost) -> None:
    for name, number in (("nopen1", 3), ("nopen2", 4)):
        net.define(name, number, isolate=False)
    net.install("nweb", "nforeign")
    net.give("nweb", ("nopen1", 3, 2))
    net.give("nforeign", ("nopen2", 4, 2))
    start(net, "nweb", "nforeign")
    assert net.ask_from("nforeign", "tcp/10.89.3.2/80") == ["nweb 10.89.3.1"]


def test_the_hosts_firewall_decides(net: NetHost) -> None:
    """Published ports are forwarded: what the host's chain of that hook drops, whatever its place, is dropped."""
    net.outside("nout")
    net.install("nweb")
    net.give("nweb", ("nd", 0, 2), ports=("tcp/8080/80", "tcp/8443/80"))
    start(net, "nweb")
    asked = ("tcp/192.0.2.1/8080", "tcp/2001:db8::1/8080", "tcp/192.0.2.1/8443")
    assert net.ask(*asked, where="nout") == ["nweb 192.0.2.9", "nweb 2001:db8::9", "nweb 192.0.2.9"]
    for place in (-10, 10):
        net.host.write(
            "/root/firewall.nft",
            f"""
table inet firewall
delete table inet firewall
table inet firewall {{
    chain input {{
        type filter hook input priority {place}; policy drop;
        iifname lo accept; ct state established accept; meta l4proto icmpv6 accept
    }}
    chain forward {{ type filter hook forward priority {place}; policy drop; }}
}}""".encode(),
        )
        net.host.sh("nft -f /root/firewall.nft")
        assert net.ask(*asked, where="nout") == [LOST] * 3
        # As the manual says how to let a published port through.
        net.host.sh(
            "nft add rule inet firewall forward ct state established,related accept;"
            " nft add rule inet firewall forward meta l4proto tcp ct original proto-dst 8080 ct status dnat accept"
        )
        assert net.ask(*asked, where="nout") == ["nweb 192.0.2.9", "nweb 2001:db8::9", LOST]
        # From the host itself it is no forwarding.
        assert net.ask("tcp/127.0.0.1/8080", "tcp/127.0.0.1/8443") == ["nweb 10.89.0.1"] * 2


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_taken_port_is_left_to_its_owner(net: NetHost, address: str) -> None:
    net.install("nweb")
    net.give("nweb", ("nd", 0, 2), ports=("tcp/8080/80",))
    pid = net.occupy("nbusy", "tcp", address, 8080)
    net.host.sh("systemctl start ctr-nweb", check=False)
    journal = net.host.out("journalctl", "-u", "ctr-nweb", "-o", "cat")
    assert f"can't publish port 8080/tcp: it is taken by python3 (pid {pid})" in journal
    assert net.host.sh("ip -br link | grep v0- || :; nft list map inet gear-nd any4 | grep 8080 || :") == ""
    net.host.sh("systemctl stop nbusy; systemctl reset-failed ctr-nweb")
    start(net, "nweb")
    # And the other way round: nobody else gets it from here on, but on the stop.
    assert net.listens("tcp", address, 8080) == "OSError 98"
    net.host.sh("systemctl stop ctr-nweb")
    assert net.listens("tcp", address, 8080) == "ready"


def test_a_port_of_another_container_names_it(net: NetHost) -> None:
    net.define("nother", 1)
    net.install("nweb", "ntwin", "nlocal")
    net.give("nweb", ("nd", 0, 2), ports=("tcp/8080/80", "udp/8053/53"))
    net.give("ntwin", ("nother", 1, 2), ports=("udp/8053/53",))
    net.give("nlocal", ("nd", 0, 4), ports=("127.0.0.1/tcp/8080/80",))
    start(net, "nweb")
    for name, port in (("ntwin", "8053/udp"), ("nlocal", "127.0.0.1:8080/tcp")):
        net.host.sh(f"systemctl start ctr-{name}; systemctl stop ctr-{name}", check=False)
        journal = net.host.out("journalctl", "-u", f"ctr-{name}", "-o", "cat")
        assert f"can't publish port {port}: it is taken by the container nweb" in journal
        # What failed has removed nothing of its owner's.
        assert net.ask("tcp/127.0.0.1/8080", "udp/127.0.0.1/8053") == ["nweb 10.89.0.1"] * 2
    # By a restart the container gets its ports again, since PID 1 has kept them.
    net.host.sh("systemctl restart ctr-nweb")
    net.host.wait(lambda: net.ask("tcp/127.0.0.1/8080") == ["nweb 10.89.0.1"], "the container")
    assert net.listens("tcp", "127.0.0.1", 8080) == "OSError 98"


def test_datagrams_find_the_container_that_runs_now(net: NetHost) -> None:
    net.outside("nout")
    net.install("nweb", "nnew")
    net.give("nweb", ("nd", 0, 2), ports=("udp/8053/53",))
    net.give("nnew", ("nd", 0, 3), ports=("udp/8053/53",))
    asked = ("udp/192.0.2.1/8053/5353", "udp/2001:db8::1/8053/5354")
    start(net, "nweb")
    assert net.ask(*asked, where="nout") == ["nweb 192.0.2.9", "nweb 2001:db8::9"]
    net.host.sh("systemctl stop ctr-nweb")
    # While nobody is there, the kernel notes a connection that leads nowhere.
    assert net.ask(*asked, where="nout") == [REFUSED, REFUSED]
    start(net, "nnew")
    assert net.ask(*asked, where="nout") == ["nnew 192.0.2.9", "nnew 2001:db8::9"]
    net.host.sh("systemctl stop ctr-nnew")
    start(net, "nweb")
    assert net.ask(*asked, where="nout") == ["nweb 192.0.2.9", "nweb 2001:db8::9"]


def test_the_end_of_a_container_ends_its_connections_alone(net: NetHost) -> None:
    """As the kernel tracks them."""
    script = (
        "import sys; sys.path.insert(0, '/opt/gear'); from gear.helper import conntrack\n"
        "from _socket import AF_INET, AF_INET6, inet_ntop\n"
        "for family, length in ((AF_INET, 4), (AF_INET6, 16)):\n"
        "    for _, value, *_ in conntrack.translated(family):\n"
        "        print(inet_ntop(family, value[:length]))\n"
    )
    net.outside("nout")
    net.install("nweb", "nnew")
    net.give("nweb", ("nd", 0, 2), ports=("udp/8053/53",))
    net.give("nnew", ("nd", 0, 3), ports=("udp/8054/53",))
    start(net, "nweb")
    start(net, "nnew")
    hers, others = {"10.89.0.2", "fd12::2"}, {"10.89.0.3", "fd12::3"}
    ends = [(at, port) for at in ("192.0.2.1", "2001:db8::1") for port in (8053, 8054)]
    places = [f"udp/{at}/{port}/{5353 + count}" for count, (at, port) in enumerate(ends)]
    net.ask(*places, where="nout")
    assert set(net.host.out("python3", "-c", script).split()) >= hers | others
    net.host.sh("systemctl stop ctr-nweb")
    left = set(net.host.out("python3", "-c", script).split())
    assert not left & hers and left >= others


def test_a_network_comes_and_goes_under_running_containers(net: NetHost) -> None:
    net.install("nweb")
    net.give("nweb", ("nd", 0, 2), ports=("tcp/8080/80",))
    start(net, "nweb")
    pid = net.host.pid("nweb")
    asked = ("tcp/127.0.0.1/8080", "tcp/10.89.0.2/80")
    for break_it, heard, mend_it in (
        ("systemctl stop gear-network@nd", REFUSED, "systemctl start gear-network@nd"),
        ("nft flush ruleset", REFUSED, "systemctl reload gear-network@nd"),
        ("ip link delete gear-nd", LOST, "systemctl restart gear-network@nd"),
    ):
        net.host.sh(break_it)
        assert net.ask(asked[0]) == [heard]
        net.host.sh(mend_it)
        assert net.ask(*asked) == ["nweb 10.89.0.1"] * 2
    assert net.host.pid("nweb") == pid
    # Another definition is what counts from then on.
    net.define(
        "nd", 0, mtu=1400, subnets=[{"subnet": "10.89.0.0/24", "gateway": "10.89.0.254", "range": None}]
    )
    net.host.sh("systemctl reload gear-network@nd")
    bridge = net.host.sh("ip -o addr show gear-nd; ip link show gear-nd")
    assert (
        "10.89.0.254/24" in bridge
        and "10.89.0.1/24" not in bridge
        and "fd12" not in bridge
        and "mtu 1400" in bridge
    )


def test_without_its_network_a_container_says_so(net: NetHost) -> None:
    net.install("nweb")
    net.give("nweb", ("nd", 0, 2))
    net.host.sh(
        "systemctl start gear-network@nd; ip link delete gear-nd; systemctl start ctr-nweb", check=False
    )
    journal = net.host.out("journalctl", "-u", "ctr-nweb", "-o", "cat")
    assert (
        "can't connect eth0 to the network nd: this host has no link gear-nd;"
        " see systemctl status gear-network@nd.service" in journal
    )


@pytest.mark.parametrize("call", ["sendto", "sendmsg", "bind", "flock"])
def test_a_start_that_is_killed_leaves_nothing(net: NetHost, call: str) -> None:
    """SIGKILL of the helper at its first, second, ... call: of netlink, the channel and PID 1, sockets, and locks."""
    net.install("nweb")
    net.give("nweb", ("nd", 0, 2), ports=("tcp/8080/80", "udp/8053/53"))
    drop_in = "/run/systemd/system/ctr-nweb.service.d/strace.conf"
    helper = "/usr/bin/python3 -I -S /var/lib/gear/helper/current/start /var/lib/gear/containers/nweb"
    for number in range(1, 60):
        strace = f"/usr/bin/strace -D -qq -o /dev/null -e inject={call}:signal=SIGKILL:when={number}"
        unit = (
            "[Service]\nRestart=no\nRestartForceExitStatus=\nTimeoutStartSec=20\n"
            f"ExecStart=\nExecStart={strace} {helper}\n"
        )
        net.host.write(drop_in, unit.encode())
        net.host.sh("systemctl daemon-reload; systemctl start ctr-nweb || :", check=False)
        if net.host.show("ctr-nweb", "ActiveState") == "active":  # it has no more of these calls
            break
        assert net.host.sh("ip -br link | grep v0- || :") == ""
        assert "elements" not in net.host.sh("nft list table inet gear-nd")
        assert net.listens("tcp", "0.0.0.0", 8080) == net.listens("udp", "::", 8053) == "ready"
    else:
        pytest.fail("it never started")
    assert number > 1
    net.host.sh(f"systemctl stop ctr-nweb; rm {drop_in}; systemctl daemon-reload")
    start(net, "nweb")
    assert net.ask("tcp/127.0.0.1/8080", "udp/127.0.0.1/8053") == ["nweb 10.89.0.1"] * 2


def test_what_even_the_end_has_left_is_replaced(net: NetHost) -> None:
    """A link and elements of an earlier start whose ExecStopPost= was killed, too, or never run."""
    net.install("nweb", "nnew")
    net.give("nweb", ("nd", 0, 2), ports=("tcp/8080/80",))
    net.give("nnew", ("nd", 0, 3), ports=("tcp/8080/80",))
    net.host.write(
        "/run/systemd/system/ctr-nweb.service.d/zz.conf",
        b"[Service]\nExecStopPost=\nExecStopPost=-/bin/false\n",
    )
    net.host.sh("systemctl daemon-reload")
    start(net, "nweb")
    net.host.sh("systemctl stop ctr-nweb")
    assert "nweb" in net.host.sh("nft list table inet gear-nd")
    net.host.sh("ip link show v0-nweb || ip link add v0-nweb type veth peer name nleft")
    start(net, "nweb")
    assert net.ask("tcp/127.0.0.1/8080") == ["nweb 10.89.0.1"]
    net.host.sh("systemctl stop ctr-nweb")
    net.host.wait(lambda: "v0-nweb" not in net.host.sh("ip -br link"), "the kernel to remove the namespace")
    start(net, "nnew")
    assert net.ask("tcp/127.0.0.1/8080") == ["nnew 10.89.0.1"]
