"""What is measured of what goes in and out: connections by each way of publishing a port, and output followed."""

from __future__ import annotations

from gearhost import GearHost
from nethost import ROOT as PYTHON_ROOT
from nethost import NetHost, outside

from .peers import PORT, TOP, UNITS, Gear, Peer, script_unit
from .running import Run, Step

IMAGE = "localhost/bench-python:1"
OUTSIDE = "bench-out"
# How a port of a server gets outside: none at all, those of gear, those of others.
MODES = ("nat", "socket", "fd")
WAYS = ("host", *MODES, "podman", "docker")
# Takes what the first byte of a connection asks for: r receives, e echoes, c closes.
SERVER = """
import os, socket, threading
def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    kind, buffer = connection.recv(1), bytearray(1 << 20)
    while kind == b"r" and connection.recv_into(buffer):
        pass
    while kind == b"e" and (data := connection.recv(64)):
        connection.send(data)
    connection.close()
if os.environ.get("LISTEN_FDS"):
    listening = socket.socket(fileno=3)
else:
    listening = socket.create_server(("", int(os.environ.get("PORT", "80"))), backlog=512)
while True:
    threading.Thread(target=serve, args=listening.accept()[:1], daemon=True).start()
"""
# Asks at HOST PORT for SECONDS each; prints bytes per second, the median time of an answer, connections per second.
CLIENT = """
import json, socket, statistics, sys, time
address, seconds = (sys.argv[1], int(sys.argv[2])), float(sys.argv[3])
def connect(kind):
    made = socket.create_connection(address, 10)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.sendall(kind)
    return made
data, sent = bytes(1 << 20), 0
made, began = connect(b"r"), time.monotonic()
while time.monotonic() < began + seconds:
    sent += made.send(data)
made.shutdown(socket.SHUT_WR)
made.recv(1)
throughput = sent / (time.monotonic() - began)
made, times, end = connect(b"e"), [], time.monotonic() + seconds
while (before := time.monotonic()) < end:
    made.send(b"x")
    made.recv(1)
    times.append(time.monotonic() - before)
count, began = 0, time.monotonic()
while time.monotonic() < began + seconds:
    made = connect(b"c")
    made.recv(1)
    made.close()
    count += 1
print(json.dumps({"throughput": throughput, "latency": statistics.median(times),
                  "connections-rate": count / (time.monotonic() - began)}))
"""
LINES = 20000
LINE = "benchmark " + "x" * 80
# Follows while the container writes: arguments are the number of lines and the command that follows.
FOLLOW = f"""
import json, os, subprocess, sys, time
wanted = int(sys.argv[1])
go = "{TOP}/mark/go"
follower = subprocess.Popen(["timeout", "120", *sys.argv[2:]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
seen, began, ended = set(), None, None
for line in follower.stdout:
    if b"ready to write" in line:
        open(go, "w").close()
    elif b"benchmark xxx" in line:
        # From the first to the last of them: how soon the writer begins says nothing.
        ended = time.monotonic()
        began = began or ended
        seen.add(line.split()[-1])
    elif b"all written" in line:
        break
if len(seen) < 2:
    sys.exit("nothing of what the container writes was seen")
follower.terminate()
follower.wait()
os.unlink(go)
print(json.dumps({{"lines-rate": len(seen) / (ended - began), "lines-loss": 1 - len(seen) / wanted}}))
"""
WRITER = f"""trap "exit 0" TERM
while :; do
    echo ready to write
    [ ! -e /mark/go ] || break
    /bin/busybox sleep 0.2
done
/bin/busybox seq 1 {LINES} | /bin/busybox sed "s/^/{LINE} /"
/bin/busybox sleep 0.2
echo all written
/bin/busybox sleep 100000 &
wait
"""


def network(run: Run, *, ways: tuple[str, ...] = WAYS, seconds: float = 1.0) -> None:
    """Throughput, latency and connections per second from another machine, by each way of publishing a port.

    *ways* are those that take part, and *seconds* is how long each number of each round is measured.
    """
    host = run.host
    NetHost(host)  # makes the root with Python
    host.write(f"{PYTHON_ROOT}/server.py", SERVER.encode())
    host.write(f"{TOP}/client.py", CLIENT.encode())
    outside(host, OUTSIDE)
    # Docker has everything dropped that is forwarded and not its own.
    host.sh("iptables -P FORWARD ACCEPT 2>/dev/null || :")
    ports = publish(host, run, ways)
    rounds = min(run.rounds, 5)
    client = ["ip", "netns", "exec", OUTSIDE, "python3", f"{TOP}/client.py", "192.0.2.1"]
    cases: dict[str, list[Step]] = {
        name: [{"argv": [*client, str(port), str(seconds)], "metric": "traffic", "numbers": True}]
        for name, port in ports.items()
    }
    run.series("network", "from outside", cases, rounds=rounds, warmup=1)
    host.sh(
        "systemctl stop bench-server 2>/dev/null || :\n"
        "for mode in nat socket fd; do gear delete bn-$mode >/dev/null 2>&1 || :; done\n"
        f"ip netns delete {OUTSIDE}; ip link delete {OUTSIDE} 2>/dev/null || :\n"
        "podman rm -f -t 0 bn-podman >/dev/null 2>&1 || :; docker rm -f bn-docker >/dev/null 2>&1 || :"
    )


def publish(host: GearHost, run: Run, ways: tuple[str, ...]) -> dict[str, int]:
    """Run the server by each of *ways* for which there is the tool; returns their ports."""
    command = "/usr/bin/python3 -S /server.py"
    ports = {}
    if "host" in ways:
        host.sh(f"systemd-run -q -u bench-server -E PORT=18400 /usr/bin/python3 -S {PYTHON_ROOT}/server.py")
        ports["host"] = 18400
    for number, mode in enumerate(MODES):
        if mode in ways and run.tool("gear"):
            ports[f"gear {mode}"] = 18401 + number
            published = f"{18401 + number}:{PORT},{mode}"
            host.sh(f"gear install host:{PYTHON_ROOT} bn-{mode} -p {published} --start -- {command}")
    off = "--cgroups=disabled" if host.host.kind == "nested" else ""
    if "podman" in ways and run.tool("podman"):
        run.script(
            f"tar -C {PYTHON_ROOT} -c . | podman import -q - {IMAGE} >/dev/null 2>&1\n"
            f"podman run -q -d {off} --name bn-podman -p 18410:{PORT} {IMAGE} {command} >/dev/null 2>&1"
        )
        ports["podman"] = 18410
    if "docker" in ways and run.tool("docker"):
        run.script(
            f"tar -C {PYTHON_ROOT} -c . | docker import - {IMAGE} >/dev/null 2>&1\n"
            f"docker run -d --name bn-docker -p 18411:{PORT} {IMAGE} {command} >/dev/null"
        )
        ports["docker"] = 18411
    for port in ports.values():
        host.wait(lambda port=port: answers(host, port), f"the server on port {port}")  # type: ignore[misc]
    return ports


def answers(host: GearHost, port: int) -> bool:
    """Whether a server answers to a client outside."""
    ask = f"import socket; s = socket.create_connection(('192.0.2.1', {port}), 2); s.send(b'c'); print(s.recv(1))"
    done = host.run("ip", "netns", "exec", OUTSIDE, "python3", "-c", ask, check=False)
    return done.returncode == 0


def logs(run: Run) -> None:
    """Following what a container writes as fast as it can: lines per second, and the part that is lost."""
    run.host.write(f"{TOP}/mark/writer", WRITER.encode())
    run.host.write(f"{TOP}/follow.py", FOLLOW.encode())
    followers = {
        "bare": ["journalctl", "-f", "-n", "0", "-o", "cat", "-u", "bench-writer"],
        "gear": ["gear", "logs", "-f", "-n", "0", "bench-writer"],
        "podman": ["podman", "logs", "-f", "--tail", "0", "bench-writer"],
        "docker": ["docker", "logs", "-f", "--tail", "0", "bench-writer"],
    }
    cases: dict[str, list[Step]] = {}
    for tool in run.tools:
        if tool.name not in followers:
            continue
        begin, end = writing(tool)
        follow = ["python3", f"{TOP}/follow.py", str(LINES), *followers[tool.name]]
        cases[tool.name] = [
            {"argv": ["bash", "-ec", end]},
            {"argv": ["bash", "-ec", begin]},
            {"argv": follow, "metric": "logs", "numbers": True},
            {"argv": ["bash", "-ec", end]},
        ]
    run.series("logs", f"{LINES} lines", cases, rounds=min(run.rounds, 5), warmup=1)
    run.host.sh(f"rm -f {UNITS}/bench-writer.service; systemctl daemon-reload")


def writing(tool: Peer) -> tuple[str, str]:
    """The scripts that begin and end a container that writes."""
    name, volume = "bench-writer", f"-v {TOP}/mark:/mark"
    if isinstance(tool, Gear):
        return (
            f"gear install localhost/bench:1 {name} --net none {volume} -- sh /mark/writer; systemctl start ctr-{name}",
            f"gear delete {name} || :",
        )
    if tool.name == "bare":
        unit = script_unit(name, "[Service]\nExecStart=/bin/busybox sh /mark/writer\n")
        return (
            f"ln -sfn {TOP}/mark /mark\n{unit}systemctl daemon-reload; systemctl start {name}",
            f"systemctl stop {name} || :",
        )
    off = "--cgroups=disabled" if tool.name == "podman" and tool.nested else ""
    return (
        f"{tool.name} run -d {off} --name {name} --net none {volume} localhost/bench:1 sh /mark/writer",
        f"{tool.name} rm -f {name} || :",
    )
