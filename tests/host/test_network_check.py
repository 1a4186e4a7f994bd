"""What administrators, interrupted commands and kills do to networks: noticed, and mended with containers running."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from gearhost import GearHost

PAGE = "It works"
BRIDGE = "gear-chk1"
HELPER = "/usr/bin/python3 -I -S /var/lib/gear/helper/current/network"
# Another machine: a namespace on a wire.
OUTSIDE = """
ip netns add chkout; ip link add chkout type veth peer name eth0 netns chkout
ip addr add 192.0.2.1/24 dev chkout; ip addr add 2001:db8::1/64 dev chkout nodad; ip link set chkout up
ip -n chkout addr add 192.0.2.9/24 dev eth0; ip -n chkout addr add 2001:db8::9/64 dev eth0 nodad
ip -n chkout link set eth0 up
systemd-run -q --unit chkpeer ip netns exec chkout busybox httpd -f -p '[::]:80' -h /root/chkpeer
"""
# What somebody does, and what is said of it.  Each line is done by itself, or with others that do not hide it.
BROKEN = (
    ("nft flush ruleset", "the table inet gear-chk1 is not there"),
    (f"ip link delete {BRIDGE}", "the link gear-chk1 is not there"),
    (
        """nft delete rule inet gear-chk1 forward handle $(
            nft -a list chain inet gear-chk1 forward | sed -n 's/.*ct status dnat accept # handle //p')
        nft delete element inet gear-chk1 any4 '{ tcp . 8095 }'
        ip address delete 10.66.0.1/24 dev gear-chk1; ip address add 10.67.0.1/24 dev gear-chk1
        sysctl -qw net.ipv4.ip_forward=0
        ip link set $(ls /sys/class/net/gear-chk1/brif) down""",
        "another forward than it should: of its lines 1 missing",
        "does not lead the port 8095/tcp to chkweb",
        "does not have the address 10.66.0.1/24",
        "has the address 10.67.0.1/24, which is not the network's",
        "/proc/sys/net/ipv4/ip_forward is 0 and not 1",
        "of chkweb is down",
    ),
    (
        """ip link set $(ls /sys/class/net/gear-chk1/brif) nomaster; ip link set gear-chk1 down
        nft delete table inet gear-chk1
        sysctl -qw net.ipv6.conf.all.forwarding=0 net.ipv4.conf.gear-chk1.route_localnet=0""",
        "of chkweb is no port of gear-chk1",
        "the link gear-chk1 is down",
        "the table inet gear-chk1 is not there",
        "/proc/sys/net/ipv6/conf/all/forwarding is 0",
        "/proc/sys/net/ipv4/conf/gear-chk1/route_localnet is 0",
    ),
    (
        """ip route delete 10.66.0.0/24 dev gear-chk1; nft insert rule inet gear-chk1 guard accept
        nft add element inet gear-chk1 any4 '{ tcp . 9 comment "nobody" : 10.66.0.2 . 9 }'
        nft add chain inet gear-chk1 more""",
        "has no route to 10.66.0.0/24",
        "another guard than it should: of its lines 1 that are not gear's",
        "leads the port 9/tcp to nobody",
        "has more, which is not gear's",
    ),
)


@pytest.fixture
def net(host: GearHost) -> Iterator[GearHost]:
    """The host with a network, a container on it, and another machine."""
    host.write("/root/chkpeer/outside", PAGE.encode())
    host.sh(OUTSIDE)
    host.gear("network", "create", "chk1", "--subnet", "10.66.0.0/24", "--subnet", "fd66::/64")
    host.gear("install", "hello", "chkweb", "--net", "chk1", "-p", "8095:8080", "--start")
    yield host
    host.sh(
        "systemctl stop chkpeer; ip netns delete chkout; umount /run/netns 2>/dev/null || :; rm -r /root/chkpeer"
    )
    host.gear("delete", "chkweb")
    host.gear("network", "rm", "chk1")
    assert host.sh("nft list tables; ls /sys/class/net; find /var/lib/gear/networks -mindepth 1") == "lo"


def works(net: GearHost) -> None:
    """Wait until the published port is answered on the host and outside, and the container gets outside."""
    inside = f"nsenter -t {net.pid('chkweb')} -n curl -s -g -m 2"
    script = f"""
        curl -s -m 2 http://127.0.0.1:8095/ &
        ip netns exec chkout curl -s -m 2 http://192.0.2.1:8095/ &
        ip netns exec chkout curl -s -g -m 2 'http://[2001:db8::1]:8095/' &
        {inside} http://192.0.2.9/outside & {inside} 'http://[2001:db8::9]/outside' & wait
    """
    net.wait(lambda: net.sh(script, check=False).count(PAGE) == 5, "traffic")


def found(net: GearHost, *arguments: str, status: int = 1) -> str:
    """What a check prints."""
    done = net.run("gear", "network", "check", *arguments, check=False)
    assert done.returncode == status and not done.stderr, done.stderr.decode() + done.stdout.decode()
    return done.stdout.decode()


def test_what_an_administrator_breaks_is_noticed_and_mended(net: GearHost) -> None:
    works(net)
    assert found(net, status=0) == "everything is as it should be\n"
    pid = net.pid("chkweb")
    mends = ["gear network check --repair", "systemctl restart gear-network@chk1"]
    # Both for what the issue is about, and each for half of the rest.
    for number, (script, *sentences) in enumerate((BROKEN[0], *BROKEN)):
        mend = mends[number % 2]
        net.sh(script)
        text = found(net) if number % 2 else net.sh(mend)
        for sentence in sentences:
            assert sentence in text, text
        if number % 2:
            net.sh(mend)
        else:
            assert "nothing is damaged any more" in text and "damaged: " not in text, text
        assert found(net, "chk1", status=0) == "everything is as it should be\n"
        works(net)
    # A container that has lost its own end gets another, which only gear can make.
    net.sh(f"ip link delete $(ls /sys/class/net/{BRIDGE}/brif)")
    assert "is not there: chkweb is not connected to chk1" in found(net)
    found(net, "--repair", status=0)
    works(net)
    assert found(net, status=0) == "everything is as it should be\n" and net.pid("chkweb") == pid
    # The whole ruleset is replaced by Debian's service as well.
    net.sh("printf '#!/usr/sbin/nft -f\\nflush ruleset\\n' >/etc/nftables.conf; systemctl start nftables")
    found(net, "--repair", status=0)
    net.sh("systemctl reload nftables")
    net.wait(lambda: net.run("gear", "network", "check", check=False).returncode == 0, "the reload")
    net.sh("systemctl stop nftables; systemctl reload gear-network@chk1")
    assert net.fails(1, "network", "check", "nowhere").startswith("error: There is no network 'nowhere'.")


def test_what_is_left_of_others_is_removed(net: GearHost) -> None:
    """Remains of networks and containers that are gone, and of ends that did not come to theirs."""
    net.gear("install", "hello", "chkgone", "--net", "chk1", "-p", "8096:8080", "--start")
    net.write(
        "/run/systemd/system/ctr-chkgone.service.d/zz.conf",
        b"[Service]\nExecStopPost=\nExecStopPost=-/bin/false\n",
    )
    net.sh(
        "systemctl daemon-reload; systemctl stop ctr-chkgone; rm -r /run/systemd/system/ctr-chkgone.service.d;"
        " systemctl daemon-reload; ip link add ve0123456789ab type veth peer name chkleft;"
        " ip link add gear-lost type bridge; ip link set gear-lost alias 'gear network lost';"
        " nft add table inet gear-lost; nft add chain inet gear-lost guard; nft add chain inet gear-lost published;"
        " for map in any4 any6 one4 one6; do"
        " nft add map inet gear-lost $map '{ type inet_service : inet_service; }'; done;"
        " systemd-run -q --remain-after-exit --unit gear-network@lost true;"
        " ln -s chknobody /var/lib/gear/networks/chk1/addresses/10.66.0.99"
    )
    text = found(net)
    for sentence in (
        "the table inet gear-chk1 leads the port 8096/tcp to chkgone, which does not have it",
        "the link ve0123456789ab is of no container that is installed",
        "the link gear-lost is of no network that is defined",
        "the table inet gear-lost is of no network that is defined",
        "gear-network@lost.service is active, and its network is not defined",
        "the address 10.66.0.99 of chk1, which chknobody does not have",
    ):
        assert sentence in text, text
    documents: list[dict[str, Any]] = net.json("network", "check", "--repair")
    assert len(documents) >= 6 and all(item["mended"] for item in documents), documents
    assert found(net, status=0) == "everything is as it should be\n"
    works(net)
    net.gear("delete", "chkgone")
    # A network that is down under its containers, and one that is half down without any.
    net.sh("systemctl stop gear-network@chk1")
    assert "gear-network@chk1.service is inactive, but chkweb on it run" in found(net)
    found(net, "--repair", status=0)
    works(net)
    net.sh(f"systemctl stop ctr-chkweb gear-network@chk1; {HELPER} up /var/lib/gear/networks/chk1")
    assert "the link gear-chk1 is there, but gear-network@chk1.service is inactive" in found(net)
    found(net, "--repair", status=0)
    assert "gear-chk1" not in net.sh("ip -br link; nft list tables")


def test_what_runs_is_left_alone(net: GearHost) -> None:
    """Whatever is done to the files of a container that runs, and whatever others call like gear's own."""
    limited = ("--net-rate", "out=50mbit", "--net-connections", "9")
    install = ("install", "hello", "chkrun", "--net", "chk1", "-p", "8097:8080")
    net.gear(*install, *limited, "--start")
    net.sh("nft add table inet gear-mine; nft add table inet gearlimits-mine; mkdir /root/chkother")
    directory, other = "/var/lib/gear/containers/chkrun", {"GEAR_STATE_DIR": "/root/chkother"}

    def has() -> str:
        script = """ls /sys/class/net; nft list tables; grep chkrun /var/lib/gear/networks/chk1/hosts
            for port in 8095 8097; do curl -s -m 2 http://127.0.0.1:$port/; done; systemctl show -P \
            ActiveEnterTimestampMonotonic gear-network@chk1"""
        return net.sh(script, check=False)

    net.wait(lambda: has().count(PAGE) == 2, "both ports")
    before = has()
    assert all(word in before for word in ("gear-mine", "gearlimits-chkrun", "\tchkrun", "\ngi"))
    for env in (other, None):
        assert net.gear("network", "check", "--repair", env=env) == "everything is as it should be\n"
        assert has() == before
    net.sh("nft flush chain inet gearlimits-chkrun counted")
    text = found(net, "--repair")
    assert "gearlimits-chkrun has another counted than it should: of its lines 1 missing" in text, text
    net.gear("restart", "chkrun")
    before = has()
    net.sh(f"cp -a {directory} /root/chkother/")
    for script in (
        f"echo '{{' >{directory}/spec.json",
        f"rm {directory}/start.json",
        # A variable takes a restart, so its limits are left for that as well.
        "gear install hello chkrun --net chk1 -p 8097:8080 -e A=1",
    ):
        net.sh(script)
        text = net.run("gear", "network", "check", "--repair", check=False).stdout.decode()
        assert has() == before, (script, text)
        net.sh(f"rm -rf {directory}; cp -a /root/chkother/chkrun {directory}")
    # Without its directory it has neither name nor address, and runs on.
    net.sh(f"rm -r {directory}")
    net.gear("network", "check", "--repair")
    assert {line for line in before.splitlines() if "\tchkrun" not in line} <= set(has().splitlines())
    net.sh(f"cp -a /root/chkother/chkrun {directory}")
    net.gear("network", "check", "--repair")
    # What is installed without a network runs with the one it had until its next start; install has closed its port.
    net.gear("install", "hello", "chkrun", "--net", "none")
    before = has()
    found(net, "--repair", status=0)
    assert has() == before and before.count("\nve") == 2
    # A link that may be its own is told, and stays.
    net.sh("ip link add ve0123456789ab type veth peer name chkleft")
    assert "may be of chkrun" in found(net, "--repair")
    net.gear("restart", "chkrun")
    found(net, "--repair", status=0)
    assert has().count("\nve") == 1 and "ve0123456789ab" not in has()
    net.gear("delete", "chkrun")
    net.sh("nft delete table inet gear-mine; nft delete table inet gearlimits-mine; rm -r /root/chkother")


def test_what_a_killed_run_leaves_is_mended(net: GearHost) -> None:
    net.sh(
        "systemd-run -q --unit chkadhoc gear run --name chkscope --net chk1 -p 8098:8080"
        " --net-rate out=50mbit --net-connections 9 hello"
    )
    curl = "curl -s -m 2 http://127.0.0.1:8098/"
    net.wait(lambda: PAGE in net.sh(curl, check=False), "the port")
    assert found(net, status=0) == "everything is as it should be\n"
    net.sh("systemctl kill -s KILL chkadhoc; systemctl kill -s KILL ctr-chkscope.scope || :")
    net.wait(lambda: net.show("ctr-chkscope.scope", "ActiveState") in ("inactive", "failed"), "the end")
    text = found(net, "--repair", status=0)
    assert "leads the port 8098/tcp to chkscope, which does not have it" in text, text
    assert found(net, status=0) == "everything is as it should be\n"
    left = "nft list tables; nft list map inet gear-chk1 any4; ls /sys/class/net"
    assert not any(word in net.sh(left) for word in ("chkscope", "8098", "\ngi"))
    net.sh("systemctl reset-failed chkadhoc || :")
    net.gear("delete", "chkscope")


def struck(net: GearHost, call: str, number: int, command: str) -> bool:
    """Run *command* and kill the process of it that first makes *number* calls of *call*; tells whether one did."""
    net.sh(
        f"rm -f /root/struck; strace -qq -f -o /root/struck -e trace={call} "
        f"-e inject={call}:signal=SIGKILL:when={number} {command}",
        check=False,
    )
    return "+++ killed by SIGKILL +++" in net.sh("cat /root/struck")


def test_what_a_kill_leaves_is_mended(net: GearHost) -> None:
    """SIGKILL at messages to the kernel and to PID 1, and at changes of files, of everything that changes networks."""
    directory = "/var/lib/gear/networks/chk1"
    net.gear("network", "create", "chk2", "--subnet", "10.68.0.0/24")
    pid = net.pid("chkweb")
    for before, command, call, number in (
        (":", f"{HELPER} up {directory}", "sendto", 2),
        ("nft flush ruleset", f"{HELPER} up {directory}", "sendmsg", 1),
        (":", f"{HELPER} down {directory}", "sendto", 2),
        ("nft flush ruleset", "gear network check --repair", "sendmsg", 8),
        ("nft flush ruleset", "gear network check --repair", "sendto", 5),
    ):
        net.sh(before)
        assert struck(net, call, number, command), (command, call)
        text = found(net, "--repair", status=0)
        assert "not mended" not in text, (command, call, text)
    assert found(net, status=0) == "everything is as it should be\n"
    works(net)
    assert net.pid("chkweb") == pid
    # Here the container may run with what was before until its next start.
    connect, disconnect = (f"gear network {verb} chk2 chkweb" for verb in ("connect", "disconnect"))
    for before, command, call, number in (
        (":", connect, "rename", 3),
        (":", connect, "sendto", 2),
        (connect, disconnect, "sendto", 2),
        (connect, disconnect, "unlink", 1),
    ):
        net.sh(before)
        assert struck(net, call, number, command), (command, call)
        found(net, "--repair", status=0)
        net.sh(f"{disconnect} || :; gear restart chkweb", check=False)
        found(net, "--repair", status=0)
        # Files that were to be renamed next.
        net.gear("clean")
        left = "ls /sys/class/net/gear-chk2/brif /var/lib/gear/networks/chk2/addresses 2>&1 | grep -E '^(ve|10)' || :"
        assert net.sh(left) == "", (command, call)
    works(net)
    assert struck(net, "unlink", 1, "gear network rm chk2")
    found(net, "--repair", status=0)
    net.gear("network", "rm", "chk2")
    assert "chk2" not in net.sh(
        "gear network list; nft list tables; ls /sys/class/net /var/lib/gear/networks"
    )
