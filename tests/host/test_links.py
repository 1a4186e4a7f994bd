"""Links, and networks of containers that run, with real traffic: made, moved, taken away, shared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gearhost import GearHost
from nethost import ROOT, NetHost

LOST, REFUSED = "TimeoutError", "ConnectionRefusedError"
RULES = "nft -s list table inet gearlinks"
HOST_ADDRESS = "10.89.0.1"

# Answers each piece of what it is sent with its name, for as long as the connection lasts.
SERVE = """
import socket, sys, threading

def answer(connection):
    while connection.recv(100):
        connection.sendall(sys.argv[1].encode())

server = socket.create_server(("::", 3306), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()
"""
# Connects, asks once, then only waits, and connects again when the connection ends: as a pool of connections does.
HOLD = """
import socket, sys, time
while True:
    try:
        connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 3)
        connection.settimeout(1000)
        connection.sendall(b"?")
        print(connection.recv(100).decode(), flush=True)
        print("end", connection.recv(100), flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
        time.sleep(0.1)
"""


@pytest.fixture
def net(host: GearHost) -> Iterator[NetHost]:
    made = NetHost(host)
    host.write(f"{ROOT}/serve.py", SERVE.encode())
    host.write(f"{ROOT}/hold.py", HOLD.encode())
    yield made
    host.sh("systemctl stop klistener 2>/dev/null || :")
    host.forget()
    left = host.sh("nft list tables | grep gear || :; ip -o link show | grep -E 'gear-|ve[0-9a-f]{12}' || :")
    assert left == ""


def answering(net: NetHost, name: str, *options: str, ports: str = "t80 u53") -> None:
    """Install and start a container that answers with its name, and wait until it does."""
    command = ("/usr/bin/python3", "/answer.py", name, *ports.split())
    net.host.gear("install", f"host:{ROOT}", name, "--start", *options, "--", *command)
    number = ports.split()[-1][1:]
    net.host.wait(
        lambda: net.host.inside(name, f"ss -Htuln | grep -c ':{number} ' || :") != "0", f"{name} to listen"
    )


def holding(net: NetHost, name: str, *options: str) -> None:
    """Install and start a container that holds a connection to its own port 6000."""
    net.host.gear(
        "install", f"host:{ROOT}", name, "--start", *options, "--", "/usr/bin/python3", "/hold.py", "6000"
    )


def says(net: NetHost, name: str) -> str:
    """The last line that a container has printed."""
    lines = net.host.sh(f"journalctl -t {name} -o cat -n 1").splitlines()
    return lines[-1] if lines else ""


def address(net: NetHost, name: str, version: int = 4) -> str:
    found = net.host.json("status", name)[0]["addresses"]
    return str(next(item for item in found if (":" in item) == (version == 6)))


def stale(net: NetHost, name: str) -> bool:
    return bool(net.host.json("status", name)[0]["restart_needed"])


def test_links_of_each_kind_at_the_start_and_at_once(net: NetHost) -> None:
    answering(net, "kdb", "--net", "default", ports="t3306 u3306")
    net.host.sh(f"systemd-run -q --unit=klistener python3 {ROOT}/answer.py thehost t8000 u8000")
    wanted = (
        "-n", "127.0.0.1:3306:kdb:3306,[::1]:3306:kdb:3306",
        "-n", "127.0.0.5:80:localhost:8000", "-n", "192.168.77.1:80:kdb:3306/tcp", "-n", "81:kweb:80",
        "-n", f"[::1]:9:[{address(net, 'kdb', 6)}]:3306/udp",
    )  # fmt: skip
    answering(net, "kweb", *wanted)
    four, six = address(net, "kweb"), address(net, "kweb", 6)
    asked = (
        "tcp/127.0.0.1/3306", "udp/127.0.0.1/3306", "tcp/::1/3306", "udp/::1/3306", "tcp/127.0.0.5/80",
        "udp/127.0.0.5/80", "tcp/192.168.77.1/80", "tcp/127.0.0.1/81", "udp/::1/9", "tcp/::1/9", "tcp/127.0.0.2/3306",
    )  # fmt: skip
    expected = [
        f"kdb {four}", f"kdb {four}", f"kdb {six}", f"kdb {six}", f"thehost {four}", f"thehost {four}", f"kdb {four}",
        "kweb 127.0.0.1", f"kdb {six}", REFUSED, REFUSED,
    ]  # fmt: skip
    net.host.wait(lambda: net.ask_from("kweb", *asked) == expected, "the links")
    rules, pid = net.host.inside("kweb", RULES), net.host.pid("kweb")
    assert net.host.gear("link", "--rm", "kweb") == "kweb has no links\n"
    assert net.ask_from("kweb", *asked[:3]) == [REFUSED] * 3
    assert "gearlinks" not in net.host.inside("kweb", "nft list tables")
    # At once what the start made, and the start what was made at once.
    net.host.gear("link", "kweb", *wanted)
    assert net.ask_from("kweb", *asked) == expected
    assert net.host.inside("kweb", RULES) == rules and net.host.pid("kweb") == pid
    assert not stale(net, "kweb")
    net.host.gear("restart", "kweb")
    assert net.host.inside("kweb", RULES) == rules
    net.host.wait(lambda: net.ask_from("kweb", *asked) == expected, "the links")
    rows = net.host.json("link", "--list", "kweb")
    assert [(row["host"], row["to"]) for row in rows[:3]] == [
        ("kdb", address(net, "kdb")), ("kdb", address(net, "kdb", 6)), ("localhost", HOST_ADDRESS),
    ]  # fmt: skip
    net.host.gear("link", "--rm", "kweb", "-n", "3306,[::1]:9")
    assert net.ask_from("kweb", "tcp/127.0.0.1/3306", "tcp/::1/3306") == [REFUSED, f"kdb {six}"]


def test_a_linked_container_goes_on_when_the_other_moves(net: NetHost) -> None:
    serve = ("--", "/usr/bin/python3", "/serve.py")
    for name in ("kone", "ktwo"):
        net.host.gear("install", f"host:{ROOT}", name, "--net", "default", "--start", *serve, name)
    holding(net, "kpool", "-n", "6000:kone:3306")
    net.host.wait(lambda: says(net, "kpool") == "kone", "the first connection")
    # To another container, while the first one is still there and says nothing.
    net.host.gear("link", "kpool", "-n", "6000:ktwo:3306")
    net.host.wait(lambda: says(net, "kpool") == "ktwo", "the second connection")
    # What leads where it led stays.
    before = net.host.sh("journalctl -t kpool -o cat | wc -l")
    net.host.gear("link", "kpool")
    assert net.host.inside("kpool", "ss -Htn state established | wc -l") == "1"
    assert net.host.sh("journalctl -t kpool -o cat | wc -l") == before
    # By a restart with another address.
    net.host.gear(
        "install", f"host:{ROOT}", "ktwo", "--net", "default", "--ip", "10.89.0.77", *serve, "moved"
    )
    net.host.gear("restart", "ktwo")
    net.host.gear("link", "kpool")
    net.host.wait(lambda: says(net, "kpool") == "moved", "the connection to the new address")
    # And at once: links follow by themselves.
    pid = net.host.pid("ktwo")
    out = net.host.gear("network", "connect", "default", "ktwo", "--ip", "10.89.0.99")
    assert "links made anew: kpool" in out and net.host.pid("ktwo") == pid
    net.host.wait(
        lambda: "10.89.0.99" in net.host.inside("ktwo", "ss -Htn state established"), "the new address"
    )
    net.host.wait(lambda: says(net, "kpool") == "moved", "the connection after the move")
    # Datagrams have no connection that could end.
    answering(net, "kthree", "--net", "default")
    answering(net, "kfour", "--net", "default")
    for name in ("kthree", "kfour"):
        net.host.gear("link", "kpool", "-n", f"53:{name}:53/udp")
        assert net.ask_from("kpool", "udp/127.0.0.1/53/5353") == [f"{name} {address(net, 'kpool')}"]


def test_what_links_do_not_open(net: NetHost) -> None:
    """A container with links takes answers for its loopback addresses, and nothing else from its neighbours."""
    answering(net, "kguest", "--net", "default")
    answering(net, "klocal", "-n", "6000:kguest:80")
    assert net.host.inside("klocal", "cat /proc/sys/net/ipv4/conf/eth0/route_localnet") == "1"
    net.host.inside(
        "kguest",
        f"ip route add 127.0.0.0/8 via {address(net, 'klocal')} table 7;"
        " echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet;"
        " ip rule add to 127.0.0.1 table 7 pref 1; ip rule del pref 0; ip rule add table local pref 5",
    )
    assert net.ask_from("kguest", "tcp/127.0.0.1/80") == [LOST]
    # One that leads nowhere keeps nobody from starting, and says so.
    net.host.gear("install", f"host:{ROOT}", "klost", "--start", "-n", "1:nobody.invalid:1,2:kguest:80",
                  "--", "/usr/bin/python3", "/answer.py", "klost", "t80")  # fmt: skip
    assert net.ask_from("klost", "tcp/127.0.0.1/2") == [f"kguest {address(net, 'klost')}"]
    assert "the link 127.0.0.1:1:nobody.invalid:1 of klost leads nowhere" in net.host.sh(
        "journalctl -u ctr-klost -o cat"
    )
    assert "leads nowhere" in net.host.fails(1, "link", "klost")
    assert net.host.json("link", "--list", "klost")[0]["to"] is None


def test_networks_come_and_go_under_a_container(net: NetHost) -> None:
    net.host.gear("network", "create", "knet1")
    net.host.gear("network", "create", "knet2")
    answering(net, "kmate", "--net", "knet2")
    answering(net, "kmover", "--net", "none")
    pid = net.host.pid("kmover")
    for network in ("knet1", "knet2"):
        assert "restart" not in net.host.gear("network", "connect", network, "kmover")
    shown = net.host.inside("kmover", "ip -o addr; ip route; ip -6 route")
    assert "eth0" in shown and "eth1" in shown and shown.count("default via") == 2
    assert net.ask_from("kmover", f"tcp/{address(net, 'kmate')}/80") == [
        f"kmate {net.host.json('status', 'kmover')[0]['addresses'][2]}"
    ]
    net.host.gear("network", "disconnect", "knet1", "kmover")
    assert "eth0" not in net.host.inside("kmover", "ip link")
    four, six = address(net, "kmover"), address(net, "kmover", 6)
    assert net.ask(f"tcp/{four}/80", f"tcp/{six}/80")[0].startswith("kmover ")
    assert net.host.pid("kmover") == pid and not stale(net, "kmover")
    # Nobody has what it has left.
    assert "kmover" not in net.host.sh("cd /var/lib/gear/networks/knet1; find . -type l -printf '%l\\n'")
    net.host.gear("network", "rm", "knet1")
    net.host.gear("restart", "kmover")
    assert address(net, "kmover") == four
    net.host.wait(lambda: net.ask(f"tcp/{four}/80")[0].startswith("kmover "), "the container")
    # What waits for a restart waits with all of it.
    net.host.gear("install", f"host:{ROOT}", "kmover", "--net", "knet2", "-e", "A=b",
                  "--", "/usr/bin/python3", "/answer.py", "kmover", "t80")  # fmt: skip
    assert "gear restart kmover" in net.host.gear("network", "connect", "default", "kmover")
    assert net.host.inside("kmover", "ip -br link | wc -l") == "2"


def test_published_ports_follow_a_move(net: NetHost) -> None:
    answering(net, "kport", "-p", "8090:80", "-p", "8091:53/udp")
    net.host.gear("network", "create", "kother")
    asked = ("tcp/127.0.0.1/8090", "udp/127.0.0.1/8091")
    net.host.wait(lambda: net.ask(*asked)[0] == "kport 10.89.0.1", "the container")
    pid = net.host.pid("kport")
    net.host.gear("network", "connect", "default", "kport", "--ip", "10.89.0.50")
    assert net.ask(*asked) == ["kport 10.89.0.1"] * 2
    assert net.ask("tcp/10.89.0.50/80") == ["kport 10.89.0.1"]
    # To another network altogether.
    net.host.gear("network", "connect", "kother", "kport")
    net.host.gear("network", "disconnect", "default", "kport")
    answers = net.ask(*asked, f"tcp/{address(net, 'kport', 6)}/80")
    assert all(answer.startswith("kport ") for answer in answers), answers
    assert "kport" not in net.host.sh("nft list table inet gear-default")
    assert net.host.pid("kport") == pid and not stale(net, "kport")
    # An address that another had a moment ago: the neighbours hear of it.
    answering(net, "kold", "--net", "kother", "--ip", "10.89.1.60")
    answering(net, "kasks", "--net", "kother")
    assert net.ask_from("kasks", "tcp/10.89.1.60/80")[0].startswith("kold ")
    net.host.gear("delete", "kold")
    net.host.gear("network", "connect", "kother", "kport", "--ip", "10.89.1.60")
    assert net.ask_from("kasks", "tcp/10.89.1.60/80")[0].startswith("kport ")


def test_a_shared_network(net: NetHost) -> None:
    answering(net, "kmain", "-p", "8092:80", "-p", "8093:81")
    answering(net, "kside", "--net", "container:kmain", ports="t81")
    net.host.wait(lambda: net.ask("tcp/127.0.0.1/8093") == ["kside 10.89.0.1"], "the container")
    namespaces = {net.host.sh(f"readlink /proc/{net.host.pid(name)}/ns/net") for name in ("kmain", "kside")}
    assert len(namespaces) == 1
    assert net.host.sh(f"readlink /proc/{net.host.pid('kmain')}/ns/user") != net.host.sh(
        f"readlink /proc/{net.host.pid('kside')}/ns/user"
    )
    look = "import os; print(sorted(os.listdir('/sys/class/net')), 'kmain' in open('/etc/hosts').read())"
    assert net.host.gear("exec", "kside", "/usr/bin/python3", "-c", look) == "['eth0', 'lo'] True\n"
    # It has no rights over what is another's.
    assert "OSError" in net.host.gear("exec", "--privileged", "kside", "/usr/bin/python3", "-c",
        "import socket\ntry: socket.if_nameindex(); open('/proc/sys/net/ipv4/ip_forward', 'w').write('1')\n"
        "except OSError as error: print('OSError', error)")  # fmt: skip
    # It comes and goes with the other, however that happens.
    for command in (
        "systemctl kill -s KILL ctr-kmain",
        "gear restart kmain",
        "gear stop kmain; gear start kmain",
    ):
        pid = net.host.pid("kside")
        net.host.sh(command)
        net.host.wait(lambda pid=pid: net.host.pid("kside") not in (0, pid), command)  # type: ignore[misc]
        net.host.wait(lambda: net.ask("tcp/127.0.0.1/8093") == ["kside 10.89.0.1"], command)
    net.host.gear("stop", "kmain")
    assert net.host.show("ctr-kside", "ActiveState") == "inactive"
    # Who is stopped stays so; who is started brings the other.
    net.host.gear("stop", "kside")
    net.host.gear("start", "kmain")
    assert net.host.show("ctr-kside", "ActiveState") == "inactive"
    net.host.gear("stop", "kmain")
    net.host.gear("start", "kside")
    assert net.host.show("ctr-kmain", "ActiveState") == "active"
    assert "it has --net container:kmain" in net.host.fails(2, "network", "connect", "default", "kside")
    assert "kside has --net container:kmain" in net.host.fails(
        2, "install", f"host:{ROOT}", "kthird", "--net", "container:kside"
    )
    assert "its network is that of kmain" in net.host.fails(
        2, "install", f"host:{ROOT}", "kthird", "--net", "container:kmain", "--sysctl", "net.ipv4.ip_forward=1",
        "--", "/usr/bin/python3",
    )  # fmt: skip
    net.host.gear("delete", "kmain")
    assert "the container kmain, whose network it shares, is not there" in net.host.fails(1, "start", "kside")
