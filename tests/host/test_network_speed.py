"""Starting with an address and a published port, and what passes through it, against a bare service and podman's
bridge on the same host in the same minute; no absolute time counts."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from gearhost import GearHost, start_host
from nethost import ROOT, NetHost
from timing import MEASURE, SERIES

ROUNDS = 15
# Of a bare service's time, of podman's unit's, and of podman's throughput.  The goals are 3, 1/3 and 0.95; these are
# what also holds while another host is under test on the same two processors.
BOUND, PODMANS_BOUND, THROUGHPUT = 4.0, 0.6, 0.8

# A unit as `podman generate systemd --new` writes it, but for control groups, which podman can't make on a nested host.
PODMAN = """
[Unit]
StartLimitIntervalSec=0
[Service]
Type=notify
NotifyAccess=all
ExecStart=/usr/bin/podman run --rm --replace -d --sdnotify=conmon --cgroups=disabled --name theirs -p 18080:80 \
    --rootfs {root} /usr/bin/python3 -S {program}
ExecStop=/usr/bin/podman stop --ignore -t 0 theirs
ExecStopPost=/usr/bin/podman rm --ignore -f theirs
"""
# Takes what is sent to port 80.
RECEIVE = """
import socket
listening = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
buffer = bytearray(1 << 20)
while True:
    connection, _ = listening.accept()
    while connection.recv_into(buffer):
        pass
    connection.close()
"""
# Sends for a second to each port in turn, several times; prints the best rate of each.
SEND = """
import json, socket, sys, time
data, best = bytes(1 << 20), {}
for _ in range(int(sys.argv[1])):
    for port in sys.argv[2:]:
        connection = socket.create_connection(("192.0.2.1", int(port)))
        sent, start = 0, time.monotonic()
        while time.monotonic() < start + 1:
            sent += connection.send(data)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
        best[port] = max(best.get(port, 0), sent / (time.monotonic() - start))
print(json.dumps(best))
"""


@pytest.fixture(scope="module")
def both() -> Iterator[NetHost]:
    """A host with podman besides, and a container of each that receives."""
    machine = start_host(extra="podman")
    try:
        machine.sh("podman info >/dev/null")  # its first call makes its directories
        net = NetHost(machine)
        net.define("nspeed", 0)
        machine.write(f"{ROOT}/receive.py", RECEIVE.encode())
        machine.write("/root/send.py", SEND.encode())
        machine.write("/root/measure.py", MEASURE.encode())
        unit = PODMAN.format(root=ROOT, program="/receive.py")
        machine.write("/run/systemd/system/theirs.service", unit.encode())
        machine.write(
            "/run/systemd/system/bare.service", b"[Service]\nType=exec\nExecStart=/bin/sleep 10000\n"
        )
        machine.gear(
            "install", f"host:{ROOT}", "ours", "--net", "none", "--", "/usr/bin/python3", "-S", "/receive.py"
        )
        net.give("ours", ("nspeed", 0, 2), ports=("tcp/18081/80",))
        yield net
    finally:
        machine.host.stop()


def test_a_start_with_a_published_port(both: NetHost) -> None:
    host: GearHost = both.host
    units = ("bare.service", "ctr-ours.service", "theirs.service")
    for _ in range(SERIES):
        times = json.loads(host.out("python3", "/root/measure.py", str(ROUNDS), *units))
        bare, ours, theirs = (times[unit][1] for unit in units)
        print(
            f"start with a port: {ours / bare:.2f} times a bare service's, {ours / theirs:.2f} times podman's"
        )
        if ours / bare <= BOUND and ours / theirs <= PODMANS_BOUND:
            break
    assert ours / bare <= BOUND and ours / theirs <= PODMANS_BOUND, times


def test_throughput_is_that_of_podmans_bridge(both: NetHost) -> None:
    host = both.host
    both.outside("nout")
    host.sh("systemctl start ctr-ours theirs")
    asked = ("tcp/192.0.2.1/18080", "tcp/192.0.2.1/18081")
    host.wait(lambda: "ConnectionRefusedError" not in both.ask(*asked), "both to listen")
    for _ in range(SERIES):
        send = ("ip", "netns", "exec", "nout", "python3", "/root/send.py", "4", "18080", "18081")
        rates = json.loads(host.out(*send))
        ratio = rates["18081"] / rates["18080"]
        print(f"throughput: {ratio:.2f} times podman's {rates['18080'] / 1e9:.2f} GB/s")
        if ratio >= THROUGHPUT:
            break
    assert ratio >= THROUGHPUT, rates
