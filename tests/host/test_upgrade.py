"""Upgrades of containers from Debian's registry: good ones, failed ones, killed ones, back and forth, by a timer."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from gearhost import GearHost
from registryhost import copy, digest_of, raw

IDLE = "trap exit TERM; while :; do sleep 1 & wait $!; done"
# Says which image it is of, and writes so to its volume; `bad` ends at once.
START = "cat /version >> /data/log; [ $(cat /version) != bad ] || exit 3; " + IDLE
HOST = "localhost:5000/upgrades"


@pytest.fixture(scope="module")
def machine(registry: GearHost) -> Iterator[GearHost]:
    """The host with the images one, two and bad of the repository `upgrades`, made of the demo image."""
    registry.gear("image", "load", "/root/hello")
    for version in ("one", "two", "bad"):
        registry.gear("install", "hello", "maker", "-u", "0", "--start", "--", "/bin/sh", "-c", IDLE)
        registry.gear("exec", "maker", "sh", "-c", f"echo {version} > /version")
        registry.gear("commit", "--no-pause", "maker", f"{HOST}:{version}")
        registry.gear("image", "push", "-q", f"{HOST}:{version}")
        registry.gear("delete", "maker")
        registry.gear("image", "rm", f"{HOST}:{version}")
    yield registry
    registry.forget()
    registry.gear("clean", "--images", "--volumes")


@pytest.fixture
def host(machine: GearHost) -> Iterator[GearHost]:
    with machine.tidy():
        yield machine
        names = machine.gear("list-units", "--all", "--quiet").split()
        if names:
            machine.gear("delete", "--volumes", *names)
        machine.gear("image", "prune", "--all", "--yes")
        machine.gear("clean")


def publish(host: GearHost, tag: str, version: str) -> str:
    """Have the tag stand for one of the images at the registry; returns its digest."""
    copy(host, f"docker://{HOST}:{version}", f"docker://{HOST}:{tag}", "--src-tls-verify=false")
    return digest_of(raw(host, f"{HOST}:{tag}"))


def install(host: GearHost, name: str, tag: str, *options: str) -> None:
    host.gear(
        "install",
        f"{HOST}:{tag}",
        name,
        "-u",
        "0",
        "-v",
        f"{name}s:/data",
        *options,
        "--",
        "/bin/sh",
        "-c",
        START,
    )


def version(host: GearHost, name: str) -> str:
    return host.gear("exec", name, "cat", "/version").strip()


def log(host: GearHost, volume: str) -> str:
    return host.sh(f"cat /var/lib/gear/volumes/{volume}/data/log").replace("\n", " ")


def test_an_upgrade_and_the_way_back(host: GearHost) -> None:
    one = publish(host, "there", "one")
    install(host, "upthere", "there", "--start")
    assert "has the newest image" in host.gear("upgrade", "upthere", "--check")
    host.gear("exec", "upthere", "sh", "-c", "echo mine > /mine")
    two = publish(host, "there", "two")
    (row,) = host.json("upgrade", "--all", "--check")
    assert (row["digest"], row["available"], row["newer"]) == (one, two, True)
    # Nothing was fetched for that.
    assert two not in host.gear("image", "list")
    assert f"upthere is upgraded to {HOST}:there ({two})" in host.gear(
        "upgrade", "upthere", "--settle", "0.5"
    )
    assert version(host, "upthere") == "two" and log(host, "upthere" + "s") == "one two"
    state = host.json("status", "upthere")[0]
    assert state["restart_needed"] is False and state["previous"]["digest"] == one
    assert "gear rollback upthere" in host.gear("status", "upthere")
    # What is needed for going back is nobody's garbage.
    host.gear("image", "prune", "--all", "--yes")
    host.gear("clean", "--images")
    assert host.leftovers() == []
    assert "unchanged" == host.json("upgrade", "upthere")[0]["action"]
    host.gear("rollback", "upthere", "--settle", "0")
    assert version(host, "upthere") == "one" and host.gear("exec", "upthere", "cat", "/mine") == "mine\n"
    host.gear("rollback", "upthere", "--settle", "0")
    assert version(host, "upthere") == "two"
    entries = host.json("upgrade", "upthere", "--history")
    assert [(entry["kind"], entry["from"], entry["result"]) for entry in entries] == [
        ("upgrade", one, "done"),
        ("rollback", two, "done"),
        ("rollback", one, "done"),
    ]
    assert "No snapshot" in host.fails(1, "rollback", "upthere", "--volumes")
    # One that does not run is not started.
    host.gear("stop", "upthere")
    publish(host, "there", "bad")
    host.gear("upgrade", "upthere")
    assert host.show("ctr-upthere", "ActiveState") == "inactive"
    host.gear("upgrade", "upthere", "--image", f"{HOST}:one")
    host.gear("start", "upthere")
    assert version(host, "upthere") == "one"
    assert "upthere" not in host.run("gear", "fsck", "--quick", check=False).stdout.decode()


def test_a_failed_upgrade_takes_back_image_and_data(host: GearHost) -> None:
    publish(host, "sick", "one")
    install(host, "upsick", "sick", "--restart", "on-failure", "--start")
    bad = publish(host, "sick", "bad")
    error = host.fails(1, "upgrade", "upsick", "--snapshot-volumes")
    assert "upsick is not upgraded, and is again what it was before" in error
    # In gear's words, or in PID 1's where that has started it again already.
    assert "status 3" in error or "status=3" in error
    host.wait(lambda: host.show("ctr-upsick", "ActiveState") == "active", "it to run")
    # The bad one has written to the volume, and that is gone as well.
    assert version(host, "upsick") == "one" and log(host, "upsicks") == "one one"
    (entry,) = host.json("upgrade", "upsick", "--history")
    assert (entry["to"], entry["result"]) == (bad, "rolled back") and "did not sta" in entry["reason"]
    assert host.json("status", "upsick")[0]["previous"] is None
    # Without that its data stays as it left them; and back by hand with data.
    host.fails(1, "upgrade", "upsick")
    assert "bad" in log(host, "upsicks")
    publish(host, "sick", "two")
    before = log(host, "upsicks")
    host.gear("upgrade", "upsick", "--snapshot-volumes", "--settle", "0.5")
    host.gear("rollback", "upsick", "--volumes", "--settle", "0.5")
    assert log(host, "upsicks") == before + " one"
    host.gear("rollback", "upsick", "--volumes", "--settle", "0.5")
    assert log(host, "upsicks") == before + " two two"
    assert len(host.json("snapshot", "upsick", "--list")) == 1
    # Who ends it while it waits has it taken back.
    publish(host, "sick", "one")
    host.sh("systemd-run -q --unit=upending gear upgrade upsick --settle 600")
    host.wait(
        lambda: host.run("gear", "exec", "upsick", "cat", "/version", check=False).stdout == b"one\n", "it"
    )
    # What is meant by the name must not become another container meanwhile.
    assert "upsick is being upgraded by somebody else" in host.fails(1, "delete", "upsick")
    host.run("systemctl", "stop", "upending")
    assert version(host, "upsick") == "two"
    assert host.json("upgrade", "upsick", "--history")[-1]["reason"] == "gear was told to end."


def test_killed_anywhere_it_is_old_or_new(host: GearHost) -> None:
    one, two = publish(host, "cut", "one"), publish(host, "cut", "two")
    host.gear("image", "pull", f"{HOST}:cut")
    host.gear("image", "pull", f"{HOST}:one")
    host.gear(
        "install",
        f"{HOST}:one",
        "upcut",
        "-u",
        "0",
        "-v",
        "upcuts:/data",
        "--start",
        "--",
        "/bin/sh",
        "-c",
        IDLE,
    )
    words = ("upgrade", "upcut", "--no-pull", "--snapshot-volumes", "--settle", "0", "--image")
    seen = set()
    steps = host.steps(*words, f"{HOST}:cut", most=12)
    for number, step in enumerate(steps):
        host.gear("upgrade", "upcut", "--no-pull", "--settle", "0", "--image", f"{HOST}:one")
        host.killed(step, *words, f"{HOST}:cut")
        host.gear(*(("start", "upcut") if number % 2 else ("clean",)))
        host.wait(lambda: host.show("ctr-upcut", "ActiveState") == "active", "it to run")
        state = host.json("status", "upcut")[0]
        assert state["restart_needed"] is False, step
        is_two = state["image"]["digest"] == two
        assert version(host, "upcut") == ("two" if is_two else "one"), step
        assert is_two or state["image"]["digest"] == one
        seen.add(is_two)
        assert json.loads(host.gear("inspect", "upcut"))[0]["altered"] == [], step
        host.gear("clean")
        assert host.leftovers() == [], step
    assert seen == {True, False}


def test_lock_files(host: GearHost) -> None:
    one = publish(host, "held", "one")
    install(host, "uplock", "held")
    host.sh("cd /root; gear lock --file up.lock uplock")
    assert json.loads(host.read("/root/up.lock")) == {"version": 1, "images": {f"{HOST}:held": one}}
    two = publish(host, "held", "two")
    host.gear("upgrade", "uplock")
    assert host.json("status", "uplock")[0]["image"]["digest"] == two
    host.gear("upgrade", "uplock", "--locked", "/root/up.lock")
    assert host.json("status", "uplock")[0]["image"]["digest"] == one
    assert host.json("upgrade", "uplock", "--locked", "/root/up.lock")[0]["action"] == "unchanged"
    host.gear("delete", "--volumes", "uplock")
    host.gear("image", "prune", "--all", "--yes")
    host.gear("install", f"{HOST}:held", "uplock", "--locked", "/root/up.lock")
    image = host.json("status", "uplock")[0]["image"]
    assert image == {"reference": f"{HOST}:held", "digest": one}
    assert "no digest for the image" in host.fails(
        2, "install", f"{HOST}:two", "upother", "--locked", "/root/up.lock"
    )


def test_a_timer_upgrades(host: GearHost) -> None:
    publish(host, "timed", "one")
    install(host, "uptimed", "timed", "--start")
    two = publish(host, "timed", "two")
    assert "is no time" in host.fails(2, "upgrade", "uptimed", "--schedule", "a\nb")
    assert "does not take" in host.fails(2, "upgrade", "uptimed", "--schedule", "Someday 03:00")
    assert "next on" in host.gear("upgrade", "uptimed", "--schedule", "Sun 03:00", "--random-delay", "30m")
    host.sh("systemd-analyze verify gear-upgrade@uptimed.timer gear-upgrade@uptimed.service")
    host.gear("upgrade", "uptimed", "--schedule", "*-*-* *:*:0/3")
    host.wait(lambda: host.json("status", "uptimed")[0]["image"]["digest"] == two, "the timer")
    host.wait(lambda: host.json("status", "uptimed")[0]["schedule"]["result"] == "success", "its end")
    host.wait(lambda: version(host, "uptimed") == "two", "the new one")
    # A failure is seen by who looks for such, and on the next try it is no more.  Tried by hand, once the last is over.
    host.gear("upgrade", "uptimed", "--schedule", "daily")
    service = "gear-upgrade@uptimed.service"
    host.wait(lambda: host.show(service, "ActiveState") == "inactive", "the end of the last try")
    publish(host, "timed", "bad")
    host.sh(f"systemctl start {service}", check=False)
    assert service in host.sh("systemctl --failed --plain")
    publish(host, "timed", "two")
    host.sh(f"systemctl start {service}")
    assert host.json("status", "uptimed")[0]["schedule"]["result"] == "success"
    assert version(host, "uptimed") == "two"
    host.gear("upgrade", "uptimed", "--unschedule")
    assert host.json("status", "uptimed")[0]["schedule"] is None
    host.gear("upgrade", "uptimed", "--schedule", "daily")
    host.gear("delete", "--volumes", "uptimed")
    assert host.sh("find / -xdev -name '*gear-upgrade@*' -not -path '/proc/*'") == ""


# Asks again and again until it is told to end; says how many there were, which failed, and the longest wait.
LOOP = """
import socket, sys, time, os
port, failed, count, longest = int(sys.argv[1]), [], 0, 0.0
while not os.path.exists(sys.argv[2]):
    began = time.monotonic()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as made:
            made.sendall(b"x")
            answer = made.recv(100)
            if not answer:
                failed.append("closed")
    except OSError as error:
        failed.append(type(error).__name__)
    count, longest = count + 1, max(longest, time.monotonic() - began)
print(count, longest, *failed)
"""
# Ends as a server should: it takes nobody new, and finishes with whom it has.
SERVER = """
import os, signal, socket, sys, time
ending, version = [], open("/version").read()
signal.signal(signal.SIGTERM, lambda *_: ending.append(1))
if sys.argv[1] == "fd":
    made = socket.socket(fileno=3)
else:
    made = socket.socket(); made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("0.0.0.0", 80)); made.listen(100)
made.settimeout(0.05)
while not ending:
    try:
        connection, _ = made.accept()
    except TimeoutError:
        continue
    connection.settimeout(10)
    connection.recv(10); time.sleep(0.01); connection.sendall(version.encode()); connection.close()
"""


def test_no_connection_fails_meanwhile(host: GearHost) -> None:
    # The host's Python, as images.
    host.sh(
        "mkdir -p /root/tree/usr/lib/x86_64-linux-gnu; cd /root/tree; mkdir -p usr/bin usr/lib64 proc dev sys tmp etc\n"
        "cp -L /usr/bin/python3 usr/bin; cp -a /usr/lib/python3.* usr/lib\n"
        "cp -L /usr/lib/x86_64-linux-gnu/lib*.so.* usr/lib/x86_64-linux-gnu\n"
        "cp -L /lib64/ld-linux-x86-64.so.2 usr/lib64; ln -sfn usr/lib lib; ln -sfn usr/lib64 lib64; ln -sfn usr/bin bin"
    )
    host.write("/root/tree/serve.py", SERVER.encode())
    host.write("/root/loop.py", LOOP.encode())
    for word in ("one", "two"):
        host.write("/root/tree/version", f"{word}\n".encode())
        host.sh(
            f"tar -C /root/tree -cf /root/tree.tar .; gear image import /root/tree.tar served:{word}; rm /root/tree.tar"
        )
    host.sh("rm -r /root/tree")
    for number, mode in enumerate(("socket", "fd")):
        name, port = f"upserve{mode}", 8301 + number
        host.gear("install", "served:one", name, "-p", f"{port}:80,{mode}", "--start", "--",
                  "/usr/bin/python3", "/serve.py", mode)  # fmt: skip
        unit = f"uploop{mode}"
        host.sh(
            f"rm -f /root/enough; systemd-run -q --unit={unit} -p StandardOutput=file:/root/{unit} "
            f"python3 /root/loop.py {port} /root/enough"
        )
        host.gear("upgrade", name, "--no-pull", "--image", "served:two", "--settle", "0.2")
        volumes = () if mode == "fd" else ("--snapshot-volumes",)
        host.gear("rollback", name, "--settle", "0.2")
        host.gear("upgrade", name, "--no-pull", "--image", "served:two", "--settle", "0.2", *volumes)
        host.sh("touch /root/enough")
        host.wait(lambda unit=unit: host.show(unit, "ActiveState") != "active", "the clients' end")  # type: ignore[misc]
        count, longest, *failed = host.sh(f"cat /root/{unit}").split()
        print(f"mode {mode}: {count} requests, the longest took {float(longest):.1f} s")
        assert failed == [] and int(count) > 50
