"""gear events: the past and the present of containers, from the journal."""

from __future__ import annotations

import json
from typing import Any

from gearhost import GearHost

# Prints events as they come until one says that `obs-last` was deleted.
FOLLOW = b"""
import json, signal, subprocess
# Ignored in what a shell has in the background, and so in what that starts.
signal.signal(signal.SIGINT, signal.SIG_DFL)
running = subprocess.Popen(["gear", "events", "--output", "json"], stdout=subprocess.PIPE)
open("/root/obs-following", "w").close()
for line in running.stdout:
    print(line.decode(), end="", flush=True)
    event = json.loads(line)
    if event["event"] == "delete" and event["name"] == "obs-last":
        break
running.send_signal(2)
assert running.wait() == 0
"""

PRETEND = """
import socket
entry = b"MESSAGE=x\\nGEAR_EVENT=delete\\nCONTAINER_NAME=obs-last\\n"
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(entry, "/run/systemd/journal/socket")
"""


def told(host: GearHost, since: str, *options: str) -> list[dict[str, Any]]:
    host.sh("journalctl --sync")
    lines = host.gear("events", "--since", since, "--no-follow", "--output", "json", *options).splitlines()
    return [json.loads(line) for line in lines]


def test_events_of_a_life_and_of_a_death(host: GearHost) -> None:
    host.sh("journalctl --sync")
    since = host.sh("date +@%s.%N | cut -c1-18")
    host.write("/root/obs-follow.py", FOLLOW)
    host.sh("rm -f /root/obs-following; setsid python3 /root/obs-follow.py > /root/obs-followed 2>&1 &")
    # It has begun when it tells what happens.
    host.wait(lambda: host.sh("ls /root/obs-following 2>/dev/null || :"), "the follower")
    host.gear("install", "hello", "obs-first", "--net", "none")

    def following() -> bool:
        host.gear("install", "hello", "obs-first", "--net", "none", "-l", f"n={host.sh('date +%s%N')}")
        return host.sh("grep -c obs-first /root/obs-followed || :") not in ("", "0")

    host.wait(following, "the first event")
    host.gear("install", "hello", "obs-fails", "--net", "none", "--log-namespace", "obsevents", "--start",
              "--", "/bin/sh", "-c", "sleep 0.5; exit 3")  # fmt: skip
    fails = ("--filter", "container=obs-fails")
    host.wait(lambda: any(item["event"] == "restart" for item in told(host, since, *fails)), "the restart")
    host.gear("stop", "obs-fails")
    made = ("install", "hello", "obs-last", "--net", "none", "--restart", "no")
    host.gear(*made, "--start", "--", "/bin/sleep", "1000")
    host.gear(*made, "-l", "a=b", "--", "/bin/sleep", "1000")
    host.gear("snapshot", "obs-last", "--no-pause")
    host.gear("kill", "-s", "KILL", "obs-last")
    last = ("--filter", "container=obs-last")
    host.wait(lambda: any(item["event"] == "die" for item in told(host, since, *last)), "the end")
    # Who is not root can't say what gear did.
    host.run("runuser", "-u", "nobody", "--", "python3", "-c", PRETEND)
    host.gear("delete", "obs-last")

    kinds = [item["event"] for item in told(host, since, *last)]
    assert kinds == ["install", "starting", "start", "change", "snapshot", "kill", "die", "delete"]
    (die,) = told(host, since, *last, "--filter", "event=die")
    assert (die["exit_code"], die["exit_status"], die["result"]) == ("killed", 9, "signal")
    assert die["unit"] == "ctr-obs-last.service"
    died = told(host, since, *fails, "--filter", "event=die")
    assert ("exited", 3) in {(item["exit_code"], item["exit_status"]) for item in died}
    assert {"restart", "install"} <= {item["event"] for item in told(host, since, *fails)}
    (start, *_) = told(host, since, "--filter", "event=install", *last)
    assert start["image"] == "hello:latest" and start["digest"].startswith("sha256:")

    host.wait(lambda: '"delete"' in host.read("/root/obs-followed").decode(), "the follower to be told")
    followed = [json.loads(line) for line in host.read("/root/obs-followed").decode().splitlines()]
    assert [item for item in followed if item["name"] == "obs-last"] == told(host, since, *last)
    assert "die obs-last (exit_code=killed, exit_status=9, result=signal" in host.gear(
        "events", "--since", since, "--no-follow"
    )
    assert host.gear("events", "--since", since, "--until", since) == ""
    assert "filters nothing" in host.fails(2, "events", "--filter", "name")
    assert "'x' is no time" in host.fails(2, "events", "--since", "x", "--no-follow")
    assert "There is no event" in host.fails(2, "events", "--filter", "event=x")
    host.gear("delete", "obs-fails")
    host.gear("log-namespace", "rm", "--entries", "obsevents")
    host.wait(lambda: not host.sh("pgrep -f '[o]bs-follow|gear [e]vents' || :"), "the end of the follower")
    assert not host.sh("pgrep -x journalctl || :")
    host.sh("rm /root/obs-follow*")
