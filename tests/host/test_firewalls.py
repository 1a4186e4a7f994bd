"""gear beside what else makes rules on a host: firewalld, ufw, Docker and Podman, as Debian has them.

What one of them drops is dropped, gear says so and what to do about it, that works, and nobody takes the other's rules
away.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gearhost import GearHost, demo_image, start_host

PAGE = "It works"
OUTSIDE = """
ip netns add out; ip link add out type veth peer name eth0 netns out
ip addr add 192.0.2.1/24 dev out; ip addr add 2001:db8::1/64 dev out nodad; ip link set out up
ip -n out addr add 192.0.2.9/24 dev eth0; ip -n out addr add 2001:db8::9/64 dev eth0 nodad
ip -n out link set eth0 up
systemd-run -q --unit peer ip netns exec out busybox httpd -f -p '[::]:80' -h /opt/gear
"""
# Their own units at boot would be all at once.
QUIET = "systemctl stop firewalld docker docker.socket containerd ufw; nft flush ruleset"
# Overlays can't be stacked in a nested host.
STORAGE = b"""
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"""
IN, OUT = {"in4", "in6"}, {"out4", "out6"}
OPEN = {"here", *IN, *OUT}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GearHost]:
    """A host with a gear container on a published port, another machine on a wire, and no rules of others."""
    machine = start_host(extra="firewalls")
    try:
        machine.sh(QUIET)
        machine.sh(OUTSIDE)
        machine.host.copy(demo_image(tmp_path_factory.mktemp("image")), "/root")
        machine.gear("image", "load", "/root/hello")
        machine.gear("install", "hello", "fweb", "-p", "8080:8080", "--start")
        yield machine
    finally:
        machine.host.stop()


@pytest.fixture(autouse=True)
def rules(host: GearHost) -> Iterator[None]:
    """Every test begins with gear's rules alone, all traffic working, and ends with all of gear's in place."""
    host.wait(lambda: reached(host) == OPEN, "traffic")
    pid = host.pid("fweb")
    yield
    assert host.pid("fweb") == pid
    host.sh(f"{QUIET}; systemctl restart gear-network@default")


def reached(host: GearHost) -> set[str]:
    """Which ways there are: from this host and from outside to the published port, and from the container outside."""
    pid = host.pid("fweb")
    ways = {
        "here": "curl -s -o /dev/null -m 1 http://127.0.0.1:8080/",
        "in4": "ip netns exec out curl -s -o /dev/null -m 1 http://192.0.2.1:8080/",
        "in6": "ip netns exec out curl -s -g -o /dev/null -m 1 http://[2001:db8::1]:8080/",
        "out4": f"nsenter -t {pid} -n curl -s -o /dev/null -m 1 http://192.0.2.9/",
        "out6": f"nsenter -t {pid} -n curl -s -g -o /dev/null -m 1 http://[2001:db8::9]/",
    }
    script = "".join(f"({command} && echo {way}) & " for way, command in ways.items())
    return set(host.sh(f"{script} wait").split())


def hints(host: GearHost) -> list[str]:
    """What `gear network check` tells to do, while nothing of gear's is wrong."""
    rows = host.json("network", "check")
    assert not [row for row in rows if row["damage"]], rows
    return list(dict.fromkeys(row["hint"] for row in rows))  # once for both families


def test_firewalld(host: GearHost) -> None:
    # It answers once its rules are there.
    host.sh("systemctl start firewalld; firewall-cmd --state")
    # It lets in what is translated, and rejects what leaves.
    assert reached(host) == OPEN - OUT
    (hint,) = hints(host)
    assert hint == (
        "firewall-cmd --permanent --zone=trusted --add-interface=gear-default && firewall-cmd --reload"
    )
    host.sh(hint)
    for again in ("firewall-cmd --reload", "systemctl reload firewalld; firewall-cmd --state",
                  "systemctl restart firewalld; firewall-cmd --state"):  # fmt: skip
        host.sh(again)
        assert reached(host) == OPEN, again
        assert hints(host) == []
    # A network that is made anew stays in its zone.
    host.sh("systemctl restart gear-network@default")
    host.wait(lambda: reached(host) == OPEN, "traffic")  # neighbours find each other again
    host.sh("firewall-cmd --panic-on")
    assert reached(host) <= {"here"}
    host.sh("firewall-cmd --panic-off; systemctl stop firewalld")
    assert reached(host) == OPEN and hints(host) == []


def test_ufw(host: GearHost) -> None:
    host.sh("ufw --force reset; ufw --force enable")
    assert reached(host) == {"here"}
    wanted = ["ufw route allow in on gear-default", "ufw route allow out on gear-default"]
    assert hints(host) == wanted
    text = host.run("gear", "ports").stderr.decode()
    assert "drops what comes in to default, from other hosts; to let it through: ufw route allow out" in text
    (row,) = [row for row in host.json("ports") if row["mode"] == "nat"]
    assert row["dropped_by"]
    host.sh(wanted[0])
    assert reached(host) == {"here", *OUT} and hints(host) == wanted[1:]
    host.sh(wanted[1])
    for again in ("true", "ufw reload", "systemctl restart ufw"):
        host.sh(again)
        assert reached(host) == OPEN, again
        assert hints(host) == [] and not host.run("gear", "ports").stderr
    host.sh("ufw disable")
    assert reached(host) == OPEN and hints(host) == []


def test_docker(host: GearHost) -> None:
    # Where nothing forwards yet, as at boot, Docker sets its policy to drop.
    host.sh("systemctl stop gear-network@default; sysctl -qw net.ipv4.ip_forward=0")
    host.sh("systemctl reset-failed; systemctl start docker; systemctl start gear-network@default")
    assert "-P FORWARD DROP" in host.sh("iptables -S FORWARD")
    host.wait(lambda: reached(host) == OPEN - {"in4", "out4"}, "traffic of IPv6")
    wanted = [
        "iptables -I DOCKER-USER -i gear-default -j ACCEPT",
        "iptables -I DOCKER-USER -o gear-default -j ACCEPT",
    ]
    assert hints(host) == wanted
    host.sh("; ".join(wanted))
    assert reached(host) == OPEN and hints(host) == []
    host.sh("systemctl restart docker")
    assert reached(host) == OPEN and hints(host) == []


def test_podman(host: GearHost, tmp_path: Path) -> None:
    host.write("/etc/containers/storage.conf", STORAGE)
    host.sh("podman pull oci:/root/hello")
    # Without a limit of its own: nested hosts have no control groups to give it.
    host.sh("podman run -d --cgroups=disabled --name pweb -p 8081:8080 $(podman images -q | head -n 1)")
    theirs = "ip netns exec out curl -s -m 2 http://192.0.2.1:8081/"
    try:
        host.wait(lambda: PAGE in host.sh(theirs, check=False), "podman's page")
        assert reached(host) == OPEN and hints(host) == []
        # Neither's end takes anything of the other.
        host.sh("systemctl restart gear-network@default; podman network reload --all")
        host.wait(lambda: PAGE in host.sh(theirs, check=False) and reached(host) == OPEN, "both")
        assert hints(host) == []
        # A port that the other has is an error which names it.
        host.gear("install", "hello", "ftaken", "-p", "8081:8080")
        assert "publish port 8081/tcp: it is taken by conmon (pid " in host.fails(1, "start", "ftaken")
        host.gear("delete", "ftaken")
    finally:
        host.sh("podman rm -f -t 0 pweb")
    assert reached(host) == OPEN and hints(host) == []
