"""Networks and containers with addresses on a test host, written by hand as gear renders them."""

from __future__ import annotations

import json
from typing import Any

from gearhost import GearHost

_PYTHON = "/usr/bin/python3 -I -S /var/lib/gear/helper/current/network"

# Answers every connection and datagram with its name and the address that it was asked from; arguments are the name,
# and ports with t or u in front.
ANSWER = """
import select, socket, sys
name, waiting = sys.argv[1], {}
for word in sys.argv[2:]:
    kind = socket.SOCK_STREAM if word[0] == "t" else socket.SOCK_DGRAM
    made = socket.socket(socket.AF_INET6, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.bind(("::", int(word[1:])))
    if word[0] == "t":
        made.listen(512)
    waiting[made] = word[0]
while True:
    for made in select.select(list(waiting), [], [])[0]:
        if waiting[made] == "t":
            connection, peer = made.accept()
            connection.sendall(f"{name} {peer[0].removeprefix('::ffff:')}".encode())
            connection.close()
        else:
            _, peer = made.recvfrom(512)
            made.sendto(f"{name} {peer[0].removeprefix('::ffff:')}".encode(), peer)
"""

# Asks at once what the arguments name, as tcp/HOST/PORT[/SOURCE-PORT], and prints an answer on each line.
ASK = """
import concurrent.futures, socket, sys

def ask(word):
    kind, host, port, *source = word.split("/")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as made:
        made.settimeout(TIMEOUT)
        try:
            if source:
                made.bind(("", int(source[0])))
            made.connect((host, int(port)))
            if kind == "udp":
                made.send(b"?")
            return made.recv(512).decode() or "nothing"
        except OSError as error:
            return type(error).__name__

with concurrent.futures.ThreadPoolExecutor(64) as pool:
    print("\\n".join(pool.map(ask, sys.argv[1:])))
"""
# The root of the containers: the host's Python and what it needs.
ROOT = "/var/lib/answering"
_MAKE_ROOT = f"""
cd /; mkdir -p {ROOT}/usr/lib/x86_64-linux-gnu; cd {ROOT}; mkdir usr/bin usr/lib64 proc dev sys tmp etc
cp -L /usr/bin/python3 {ROOT}/usr/bin
cp -a /usr/lib/python3.* {ROOT}/usr/lib
cp -L /usr/lib/x86_64-linux-gnu/lib*.so.* {ROOT}/usr/lib/x86_64-linux-gnu
cp -L /lib64/ld-linux-x86-64.so.2 {ROOT}/usr/lib64
ln -s usr/lib usr/lib64 usr/bin {ROOT}
"""
# Seconds until an answer counts as lost; a refusal comes at once.
PATIENCE = 3


# Takes a port as a program of the host would, tells whether it could, and waits.
LISTEN = """
import socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET
made = socket.socket(family, socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM)
if sys.argv[1] == "tcp":
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    made.bind((sys.argv[2], int(sys.argv[3])))
    if sys.argv[1] == "tcp":
        made.listen()
except OSError as error:
    print(type(error).__name__, error.errno)
    sys.exit()
print("ready", flush=True)
if sys.argv[4:]:
    time.sleep(1000)
"""


class NetHost:
    """A host on which networks and containers with addresses are made."""

    def __init__(self, host: GearHost) -> None:
        self.host = host
        host.sh(f"[ -e {ROOT} ] || {{ {_MAKE_ROOT} }}")
        host.write(f"{ROOT}/answer.py", ANSWER.encode())
        host.write("/root/listen.py", LISTEN.encode())
        host.write("/root/ask.py", ASK.replace("TIMEOUT", str(PATIENCE)).encode())

    def define(self, name: str, number: int, **changes: Any) -> None:
        """Write the network *name* with the subnets 10.89.NUMBER.0/24 and fd12:NUMBER::/64."""
        definition = {
            "version": 1,
            "name": name,
            "driver": "bridge",
            "interface": f"gear-{name}",
            "subnets": [
                {"subnet": f"10.89.{number}.0/24", "gateway": f"10.89.{number}.1", "range": None},
                {"subnet": f"fd12:{number}::/64", "gateway": f"fd12:{number}::1", "range": None},
            ],
            "internal": False, "isolate": True, "mtu": None, "parent": None, "vni": None, "peers": [],
        } | changes  # fmt: skip
        directory = f"/var/lib/gear/networks/{name}"
        self.host.write(f"{directory}/network.json", json.dumps(definition).encode())
        unit = (
            f"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={_PYTHON} up {directory}\n"
            f"ExecReload={_PYTHON} up {directory}\nExecStop={_PYTHON} down {directory}\n"
        )
        self.host.write(f"/run/systemd/system/gear-network@{name}.service", unit.encode())
        self.host.sh("systemctl daemon-reload")

    def install(self, *names: str) -> None:
        """Install containers that answer on TCP port 80 and UDP port 53."""
        for name in names:
            command = ("/usr/bin/python3", "/answer.py", name, "t80", "u53")
            self.host.gear("install", f"host:{ROOT}", name, "--net", "none", "--", *command)

    def give(self, container: str, *interfaces: tuple[str, int, int], ports: tuple[str, ...] = ()) -> None:
        """Put an installed container on networks: (name, number, index of the address); *ports* as
        [ADDRESS/]tcp/EXTERNAL/INTERNAL."""
        links = [
            {
                "network": network, "bridge": f"gear-{network}", "host": f"v{place}-{container}"[:15],
                "name": f"eth{place}", "mac": f"02:00:00:00:{number:02x}:{index:02x}", "mtu": None,
                "addresses": [f"10.89.{number}.{index}/24", f"fd12:{number}::{index:x}/64"],
                "gateways": [] if place else [f"10.89.{number}.1", f"fd12:{number}::1"],
            }
            for place, (network, number, index) in enumerate(interfaces)
        ]  # fmt: skip
        published = []
        for word in ports:
            *address, protocol, external, internal = word.split("/")
            network, number, index = interfaces[0]
            published.append(
                {
                    "table": f"gear-{network}", "protocol": protocol, "address": "".join(address),
                    "port": int(external), "target": int(internal),
                    "to": [f"10.89.{number}.{index}", f"fd12:{number}::{index:x}"],
                }
            )  # fmt: skip
        directory = f"/var/lib/gear/containers/{container}"
        start = self.host.json_file(f"{directory}/start.json") | {
            "network": {"interfaces": links, "ports": published}
        }
        self.host.write(f"{directory}/start.json", json.dumps(start).encode(), mode="600")
        units = " ".join(f"gear-network@{link['network']}.service" for link in links)
        drop_in = (
            f"[Unit]\nWants={units}\nAfter={units}\n[Service]\nFileDescriptorStoreMax={len(published)}\n"
            f"ExecStopPost=-{_PYTHON} unpublish {directory}\n"
        )
        self.host.write(f"/run/systemd/system/ctr-{container}.service.d/net.conf", drop_in.encode())
        self.host.sh("systemctl daemon-reload")

    def ask(self, *questions: str, where: str = "") -> list[str]:
        """What is answered to tcp/HOST/PORT, asked on the host, or in the network namespace of *where*."""
        inside = [] if not where else ["ip", "netns", "exec", where]
        return self.host.out(*inside, "python3", "/root/ask.py", *questions).splitlines()

    def ask_from(self, container: str, *questions: str) -> list[str]:
        """The same from inside of a container."""
        pid = str(self.host.pid(container))
        return self.host.out("nsenter", "-t", pid, "-n", "python3", "/root/ask.py", *questions).splitlines()

    def outside(self, name: str) -> None:
        """Another machine on a wire to this host."""
        outside(self.host, name)

    def listens(self, protocol: str, address: str, port: int) -> str:
        """What a program of the host hears that wants a port: `ready`, or the error."""
        return self.host.out("python3", "/root/listen.py", protocol, address, str(port))

    def occupy(self, unit: str, protocol: str, address: str, port: int) -> int:
        """Have a program of the host take a port, as a transient unit; returns its pid."""
        self.host.sh(f"systemd-run -q --unit={unit} python3 /root/listen.py {protocol} {address} {port} stay")
        self.host.wait(lambda: "ready" in self.host.out("journalctl", "-u", unit, "-o", "cat"), "the program")
        return int(self.host.show(f"{unit}.service", "MainPID"))

    def bridged_frames_pass(self, how: int) -> None:
        """Whether the kernel shows bridged frames to the rules for IP (br_netfilter), where it can."""
        bridged_frames_pass(self.host, how)

    def forget(self) -> None:
        """Remove all of it."""
        names = self.host.gear("list-units", "--all", "--quiet").split()
        if names:
            self.host.gear("delete", "--volumes", *names)
        self.host.sh(
            "systemctl stop 'gear-network@*' nouter nbusy nlocal 2>/dev/null || :;"
            " ip link delete nout 2>/dev/null || :; rm -rf /run/systemd/system/gear-network@* /var/lib/gear/networks"
            " /run/systemd/system/ctr-*.service.d; ip -all netns delete; umount /run/netns 2>/dev/null || :;"
            " systemctl daemon-reload; systemctl reset-failed"
        )


def outside(host: GearHost, name: str) -> None:
    """Another machine, as a network namespace: 192.0.2.9 and 2001:db8::9 on a wire to *host*'s .1."""
    host.sh(
        f"ip netns add {name}; ip link add {name} type veth peer name eth0 netns {name};"
        f" ip addr add 192.0.2.1/24 dev {name}; ip addr add 2001:db8::1/64 dev {name} nodad; ip link set {name} up;"
        f" ip -n {name} addr add 192.0.2.9/24 dev eth0; ip -n {name} addr add 2001:db8::9/64 dev eth0 nodad;"
        f" ip -n {name} link set eth0 up; ip -n {name} link set lo up"
    )


def bridged_frames_pass(host: GearHost, how: int) -> None:
    """Whether the kernel shows bridged frames to the rules for IP (br_netfilter), where it can."""
    host.sh(f"for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do [ ! -e $f ] || echo {how} >$f; done")
