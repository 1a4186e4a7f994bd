"""Ports of mode socket and fd, and containers on demand, with real connections."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from gearhost import GearHost
from serving import ROOT, ServingHost

UNITS = "systemctl list-units --all --plain --no-legend 'ctr-*'; ls /usr/local/lib/systemd/system | grep ^ctr- || :"
LOGS = "journalctl --no-pager -o cat"


@pytest.fixture
def serving(host: GearHost) -> Iterator[ServingHost]:
    """The host; nothing of a container's units may be left after the test, and its network goes."""
    yield ServingHost(host)
    names = host.gear("list-units", "--all", "--quiet").split()
    if names:
        host.gear("delete", "--volumes", *names)
    # A target that was read while it wanted a socket remembers the name.
    host.sh("systemctl daemon-reload")
    host.wait(lambda: host.sh(UNITS) == "", "units to be forgotten")
    assert host.sh("find /etc/systemd/system -name 'ctr-*'") == ""
    networks = host.gear("network", "list", "--quiet").split()
    if networks:
        host.gear("network", "rm", *networks)


def test_a_proxy_leads_to_the_container(serving: ServingHost) -> None:
    host = serving.host
    serving.install("xweb", ["-p", "8080:80,socket", "-p", "127.0.0.1:8081:81,socket"], "t80", "t81")
    serving.install("xlone", ["--net", "none", "-p", "8082:80,socket"], "wait1", "t80")
    asked = [f"tcp/{address}/{port}/{port}" for port in (8080, 8082) for address in ("127.0.0.1", "::1")]
    expected = ["xweb t80 8080"] * 2 + ["xlone t80 8082"] * 2
    assert serving.ask(*asked) == expected
    assert serving.ask("tcp/127.0.0.1/8081/a", "tcp/::1/8081/b") == ["xweb t81 a", "ConnectionRefusedError"]
    status = host.sh("cat /proc/$(systemctl show -P MainPID ctr-xlone@80.service)/status")
    assert "\nCapEff:\t0000000000000000\n" in status and "\nNoNewPrivs:\t1\n" in status
    assert "\nUid:\t0" not in status
    host.sh(
        "systemd-analyze verify ctr-xweb.service ctr-xweb@80.socket ctr-xweb@80.service ctr-xlone@80.service"
    )
    # It does not outlive the payload, and the next one waits for the next payload to listen.
    proxy = host.show("ctr-xlone@80.service", "MainPID")
    host.sh("systemctl kill --signal KILL ctr-xlone.service")
    host.wait(lambda: host.show("ctr-xlone@80.service", "MainPID") != proxy, "the proxy to go")
    host.wait(lambda: serving.ask("tcp/127.0.0.1/8082/again") == ["xlone t80 again"], "the restart")
    host.gear("stop", "xweb", "xlone")
    assert serving.ask(asked[0], asked[2]) == ["ConnectionRefusedError"] * 2
    host.host.reboot()
    assert serving.ask(asked[0]) == ["ConnectionRefusedError"]
    host.gear("start", "xweb")
    assert serving.ask(*asked[:2]) == expected[:2]


def test_descriptors_are_passed_into_the_payload(serving: ServingHost) -> None:
    host = serving.host
    options = ["-p", "8100:80,fd", "-p", "127.0.0.1:8101:53/udp,fd", "-p", "8102:81,nat", "--net", "default"]
    serving.install("xfd", options, "t81", "fd")
    serving.install("xfdnone", ["--net", "none", "-p", "[::]:8103:80,fd", "-p", "8104:90,fd"], "fd")
    asked = ("tcp/127.0.0.1/8100/a", "tcp/::1/8100/b", "udp/127.0.0.1/8101/c", "tcp/127.0.0.1/8102/d")
    for _ in range(2):
        assert serving.ask(*asked) == ["xfd 80/tcp a", "xfd 80/tcp b", "xfd 53/udp c", "xfd t81 d"]
        assert serving.ask("tcp/::1/8103/a", "tcp/127.0.0.1/8103/b", "tcp/127.0.0.1/8104/c", "tcp/::1/8104/d") == [
            "xfdnone 80/tcp a", "ConnectionRefusedError", "xfdnone 90/tcp c", "xfdnone 90/tcp d"
        ]  # fmt: skip
        # Three standard ones, its own, those of its ports, and the directory that it lists; nothing of nat's.
        assert "open: 0 1 2 3 4 5 6 1" in host.gear("logs", "--lines", "1", "xfd")
        assert "open: 0 1 2 3 4 5 6 1" in host.gear("logs", "--lines", "1", "xfdnone")
        assert json.loads(host.gear("status", "--output", "json", "xfdnone"))[0]["net"] == "none"
        host.gear("restart", "xfd", "xfdnone")
        host.wait(lambda: serving.ask(asked[3]) == ["xfd t81 d"], "the restart")
    rows = {(row["mode"], row["external"]) for row in host.json("ports", "xfd")}
    assert {("fd", 8100), ("fd", 8101), ("nat", 8102)} <= rows


def test_a_socket_that_could_not_be_opened_is_tried_once_more(serving: ServingHost) -> None:
    host = serving.host
    serving.install("xagain", ["--net", "none", "-p", "8105:80,fd"], "fd")
    # Fails as often as there are files, and then does not.
    drop_in = "[Socket]\nExecStartPre=sh -c 'rm /run/xagain/$(ls /run/xagain | head -n1) 2>/dev/null && exit 1 || :'\n"
    place = "/etc/systemd/system/ctr-xagain.socket.d/again.conf"
    host.write(place, drop_in.replace("$", "$$").encode())
    host.sh("systemctl daemon-reload; mkdir /run/xagain; touch /run/xagain/1")
    host.gear("restart", "xagain")
    assert serving.ask("tcp/127.0.0.1/8105/a") == ["xagain 80/tcp a"]
    host.sh("touch /run/xagain/1 /run/xagain/2")
    said = host.fails(1, "restart", "xagain")
    assert "xagain can't publish its ports: systemd does not listen (ctr-xagain.socket: exit-code)." in said
    assert "ctr-xagain.socket: Failed with result 'exit-code'." in said
    # More restarts than systemd allows a unit within ten seconds do not count against the socket.
    for _ in range(7):
        host.gear("restart", "xagain")
    host.sh("rm -r /run/xagain /etc/systemd/system/ctr-xagain.socket.d")


def test_twenty_first_connections_start_a_slow_container(serving: ServingHost) -> None:
    host = serving.host
    serving.install("xslow", ["-p", "8110:80", "--on-demand"], "wait2", "t80")
    assert serving.state("ctr-xslow.service") == "inactive"
    (row,) = (row for row in host.json("ports", "xslow") if row["external"])
    assert (row["mode"], row["active"], row["listening"], row["on_demand"]) == ("socket", False, True, True)
    assert "listening" in host.gear("list-units", "--all")
    assert "starts at the first connection" in host.gear("status", "xslow")
    asked = [f"tcp/{('127.0.0.1', '::1')[number % 2]}/8110/{number}" for number in range(20)]
    assert serving.ask(*asked) == [f"xslow t80 {number}" for number in range(20)]
    assert serving.state("ctr-xslow.service") == "active"
    host.gear("restart", "xslow")
    assert serving.state("ctr-xslow.service") == "inactive"
    host.host.reboot()
    assert serving.state("ctr-xslow.service") == "inactive"
    assert serving.ask(*asked[:2]) == ["xslow t80 0", "xslow t80 1"]
    host.gear("stop", "xslow")
    assert serving.ask(asked[0]) == ["ConnectionRefusedError"]
    host.host.reboot()
    assert serving.ask(asked[0]) == ["ConnectionRefusedError"]


def test_a_container_stops_when_nobody_is_connected(serving: ServingHost) -> None:
    host = serving.host
    serving.install(
        "xidle", ["-p", "8120:80", "-p", "8121:81", "--on-demand", "--idle-stop", "2s"], "t80", "t81"
    )
    host.sh("systemd-run -q --unit=xstaying python3 /root/connect.py tcp/127.0.0.1/8121/stay")
    host.wait(lambda: "xidle t81 stay" in host.sh(f"{LOGS} -u xstaying"), "the connection that stays")
    pid = host.pid("xidle")
    assert serving.ask("tcp/127.0.0.1/8120/a") == ["xidle t80 a"]
    # One proxy has nobody any more; the other keeps the container.
    host.wait(lambda: serving.state("ctr-xidle@80.service") == "inactive", "an idle proxy")
    assert host.pid("xidle") == pid
    host.sh("systemctl stop xstaying")
    host.wait(lambda: serving.state("ctr-xidle.service") == "inactive", "the container to stop")
    assert host.show("ctr-xidle.service", "Result") == "success"
    for text in "bc":
        assert serving.ask(f"tcp/127.0.0.1/8120/{text}") == [f"xidle t80 {text}"]
    assert host.pid("xidle") not in (0, pid)


def test_descriptors_on_demand(serving: ServingHost) -> None:
    host = serving.host
    options = ["--net", "none", "-p", "8130:80,fd", "-p", "8131:53/udp,fd", "--on-demand"]
    serving.install("xfdwait", options, "wait1", "fd", "once")
    for word, answer in (("tcp/127.0.0.1/8130/a", "80/tcp a"), ("udp/127.0.0.1/8131/b", "53/udp b")):
        assert serving.ask(word) == [f"xfdwait {answer}"]
        # It ends by itself, and the next one starts it again.
        host.wait(lambda: serving.state("ctr-xfdwait.service") == "inactive", "its end")
    assert "idle when connections of mode fd" in host.fails(
        2, "install", f"host:{ROOT}", "xfdwait", *options, "--idle-stop", "1h"
    )


def test_clients_of_what_fails_are_turned_away(serving: ServingHost) -> None:
    host = serving.host
    serving.install("xfail", ["-p", "8140:80", "--on-demand"], "fail")
    assert serving.ask("tcp/127.0.0.1/8140/a", "tcp/127.0.0.1/8140/b") == ["closed"] * 2
    assert "this payload fails" in host.gear("logs", "xfail")
    said = "can't reach port 80 of xfail: it does not run; see journalctl -u ctr-xfail.service"
    assert said in host.sh(f"{LOGS} -u ctr-xfail@80.service")
    # While they are turned away nothing is tried, and it still listens.
    tries = host.sh(f"{LOGS} -u ctr-xfail.service | grep -c ^Starting")
    assert serving.ask(*["tcp/127.0.0.1/8140/c"] * 20) == ["closed"] * 20
    assert host.sh(f"{LOGS} -u ctr-xfail.service | grep -c ^Starting") == tries
    assert int(tries) <= 6
    assert serving.state("ctr-xfail@80.socket") == "active"
    # A payload of mode fd that fails is PID 1's own matter: it closes the socket, until somebody starts it again.
    serving.install("xfdfail", ["-p", "8141:80,fd", "--on-demand"], "fail")
    assert serving.ask("tcp/127.0.0.1/8141/a") == ["closed"]
    host.wait(lambda: serving.state("ctr-xfdfail.socket") == "failed", "the limit")
    host.gear("start", "xfdfail")
    assert serving.state("ctr-xfdfail.socket") == "active"


def test_a_taken_port_names_its_owner(serving: ServingHost) -> None:
    host = serving.host
    host.sh("systemd-run -q --unit xtaker busybox httpd -f -p 8150")
    host.wait(lambda: "8150" in host.sh("ss -ltn"), "a listener")
    for number, options in enumerate((["--on-demand"], [])):
        for mode in "socket", "fd":
            name = f"xtaken{mode}{number}"
            host.gear(
                "install", f"host:{ROOT}", name, "-p", f"8150:80,{mode}", *options, "--", "/usr/bin/python3"
            )
            assert f"{name} can't publish port 8150/tcp: it is taken by busybox (pid" in host.fails(
                1, "start", name
            )
            host.gear("delete", name)
    host.sh("systemctl stop xtaker")


def test_a_container_changes_its_ports(serving: ServingHost) -> None:
    host = serving.host
    serving.install("xturn", ["-p", "8160:80", "--on-demand"], "t80", "t81")
    assert serving.ask("tcp/127.0.0.1/8160/a") == ["xturn t80 a"]
    serving.install("xturn", ["-p", "8161:81", "--on-demand"], "t80", "t81")
    assert serving.ask("tcp/127.0.0.1/8160/a", "tcp/127.0.0.1/8161/b") == [
        "ConnectionRefusedError",
        "xturn t81 b",
    ]
    serving.install("xturn", ["-p", "8160:80"], "t80", "t81")
    host.wait(lambda: serving.ask("tcp/127.0.0.1/8160/a") == ["xturn t80 a"], "nat")
    assert serving.ask("tcp/127.0.0.1/8161/b") == ["ConnectionRefusedError"]
    assert host.sh("systemctl is-enabled ctr-xturn.service") == "enabled"
    assert host.sh("ls /usr/local/lib/systemd/system | grep ^ctr-xturn") == "ctr-xturn.service"
    serving.install("xturn", ["-p", "8160:80,fd", "--on-demand"], "fd")
    assert serving.ask("tcp/127.0.0.1/8160/a") == ["xturn 80/tcp a"]
    for wrong in (
        ["--on-demand"],
        ["-p", "1:1/udp", "--on-demand"],
        ["-p", "1:1/udp,socket"],
        ["-p", "1:1", "--net", "none"],
        ["-p", "1:1", "--idle-stop", "1h"],
    ):
        host.fails(2, "install", f"host:{ROOT}", "xturn", *wrong)
    assert "What is run once can't have" in host.fails(2, "run", "--rm", "-p", "1:1,fd", "hello", "true")
