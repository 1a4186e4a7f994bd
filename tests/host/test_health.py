"""Readiness, health checks and restarts, with real containers under PID 1.

Not here, as it takes cgroup v2: a pause in the middle of a probe and the limit of processes (tests/vm/test_health.py).
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from gearhost import GearHost

SHELL = ("--entrypoint", "/bin/sh", "--user", "0")
LOOP = 'trap "exit 0" TERM; while :; do sleep 0.1; done'
# Soon enough for a test, and slow enough for a busy machine.
QUICK = ("--health-interval", "300ms", "--health-timeout", "5s", "--health-retries", "2")


def check(host: GearHost, name: str) -> dict[str, Any]:
    found: dict[str, Any] = host.json("status", name)[0]["health"]
    return found


def words(host: GearHost, name: str) -> list[str]:
    """What its prober has written into the journal of a container."""
    host.run("journalctl", "--sync")
    said = host.out("journalctl", "-u", f"ctr-{name}", "-o", "cat", "--no-pager", "SYSLOG_IDENTIFIER=gear")
    return [line for line in said.splitlines() if line]


def commands(host: GearHost, name: str) -> list[str]:
    """The command lines of all processes of a container's unit."""
    group = host.show(f"ctr-{name}.service", "ControlGroup")
    script = f"""
        for root in /sys/fs/cgroup/unified /sys/fs/cgroup/systemd /sys/fs/cgroup; do
            [ -e $root{group}/cgroup.procs ] || continue
            for pid in $(cat $root{group}/cgroup.procs); do tr '\\0' ' ' </proc/$pid/cmdline && echo || :; done
            break
        done 2>/dev/null"""
    return [line.strip() for line in host.sh(script, check=False).splitlines() if line.strip()]


def probers(host: GearHost, name: str) -> int:
    """How many look after a container; not what one makes on the way to a probe, which has its command line."""
    return len(host.sh(f"pgrep -P 1 -f 'current/health.*/{name} ' || :").split())


def test_a_server_that_hangs_is_restarted_and_no_timer_is_made(host: GearHost) -> None:
    timers = host.sh("systemctl list-units --all --plain --no-legend --type timer | cut -d ' ' -f 1")
    probe = "wget -q -O /dev/null http://127.0.0.1:8080/ && echo fine"
    host.gear("install", "hello", "hc-web", "--health-cmd", probe, "--health-interval", "300ms",
              "--health-timeout", "1500ms", "--health-retries", "2", "--start")  # fmt: skip
    # Started means healthy.
    assert host.show("ctr-hc-web.service", "StatusText") == "healthy"
    assert check(host, "hc-web")["status"] == "healthy"
    assert "healthy" in host.gear("list-units") and "Health: healthy" in host.gear("status", "hc-web")
    assert host.gear("wait", "--healthy", "hc-web", "--timeout", "60s") == "hc-web is healthy\n"
    assert probers(host, "hc-web") == 1 and len(commands(host, "hc-web")) <= 4
    # What takes connections and never answers: only a probe finds out.
    pid = host.pid("hc-web")
    host.sh(f"kill -STOP {pid}")
    host.wait(lambda: host.pid("hc-web") not in (0, pid), "PID 1 to start it again")
    host.gear("wait", "--healthy", "hc-web", "--timeout", "60s")
    assert host.json("status", "hc-web")[0]["restarts"] == 1
    said = words(host, "hc-web")
    assert said[0] == said[-1] == "hc-web is healthy" and len(said) == 3, said
    assert said[1].startswith("hc-web is unhealthy: it took longer than 1.5 s"), said
    told = host.out("journalctl", "-u", "ctr-hc-web", "-o", "cat", "--no-pager", "_PID=1")
    assert "Failed with result 'watchdog'" in told and "Watchdog request" in told
    shown = host.gear(
        "events", "--no-follow", "-f", "container=hc-web", "-f", "event=health", "--output", "json"
    )
    events = [json.loads(line) for line in shown.splitlines()]
    assert [event["health"] for event in events] == ["healthy", "unhealthy", "healthy"]
    assert {event["image"] for event in events} == {"hello:latest"}
    # Neither a timer nor a unit for each probe, nor anything of the old ones.
    found = host.sh("systemctl list-units --all --plain --no-legend --type timer | cut -d ' ' -f 1")
    assert found == timers
    assert host.out("systemctl", "list-units", "--all", "--plain", "--no-legend", "*hc-web*").count("\n") == 0
    assert probers(host, "hc-web") == 1
    # It goes with the unit, also when that is killed.
    host.gear("kill", "hc-web")
    host.wait(lambda: host.json("status", "hc-web")[0]["restarts"] == 2, "PID 1 to start it again")
    host.gear("wait", "--healthy", "hc-web", "--timeout", "60s")
    assert probers(host, "hc-web") == 1
    host.gear("stop", "hc-web")
    assert probers(host, "hc-web") == 0
    assert check(host, "hc-web")["status"] == "stopped"


def test_units_that_are_ordered_after_it_wait_until_it_is_healthy(host: GearHost) -> None:
    host.gear("install", "hello", "hc-db", *SHELL, "--health-cmd", "cat /tmp/up", *QUICK,
              "--health-start-period", "5m", "--health-start-interval", "100ms", "--", "-c", LOOP)  # fmt: skip
    host.write("/run/systemd/system/hc-after.service", b"[Unit]\nRequires=ctr-hc-db.service\n"
               b"After=ctr-hc-db.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\n")  # fmt: skip
    host.sh("systemctl daemon-reload; systemctl start --no-block hc-after")
    host.wait(lambda: (check(host, "hc-db") or {}).get("failing", 0) > 3, "probes")
    assert host.show("hc-after.service", "ActiveState") == "inactive"
    assert host.show("ctr-hc-db.service", "ActiveState") == "activating"
    assert host.show("ctr-hc-db.service", "StatusText") == "starting"
    last = check(host, "hc-db")["last"]
    assert last["exit_status"] == 1 and "can't open '/tmp/up'" in last["output"], last
    # The time until it has to be healthy is added to systemd's own: 90 s, 5 min, two intervals and a probe.
    assert host.show("ctr-hc-db.service", "TimeoutStartUSec") == "6min 35.600000s"
    host.gear("exec", "hc-db", "touch", "/tmp/up")
    host.wait(lambda: host.show("hc-after.service", "ActiveState") == "active", "what is ordered after it")
    assert words(host, "hc-db") == ["hc-db is healthy"]
    host.sh("systemctl stop hc-after; rm /run/systemd/system/hc-after.service; systemctl daemon-reload")


def test_what_never_gets_healthy_does_not_start(host: GearHost) -> None:
    probe = "printf 'no \\033[31mway\\n\\377\\0 MAINPID=1'; exit 3"
    host.gear("install", "hello", "hc-ill", *SHELL, "--restart", "no", "--health-cmd", probe, "--health-interval",
              "200ms", "--", "-c", LOOP)  # fmt: skip
    error = host.fails(1, "start", "hc-ill")
    assert "unhealthy: exit status 3: no ?[31mway" in error and "watchdog" in error
    assert check(host, "hc-ill")["status"] == "unhealthy"
    shown = host.gear("status", "hc-ill")
    assert "\x1b" not in shown and "Failed: result watchdog" in shown
    assert host.json("list-units")[0]["result"] == "watchdog"
    assert "has failed (result watchdog)" in host.fails(1, "wait", "--healthy", "hc-ill")
    # With another reaction it may be as unwell as it likes, and a start that waits for nothing is over at once.
    host.gear("install", "hello", "hc-ill", *SHELL, "--health-cmd", "exit 3", *QUICK, "--health-on-failure", "none",
              "--ready-when", "started", "--start", "--", "-c", LOOP)  # fmt: skip
    host.wait(lambda: check(host, "hc-ill")["status"] == "unhealthy", "the verdict")
    assert host.show("ctr-hc-ill.service", "StatusText") == "unhealthy: exit status 3"
    assert host.json("status", "hc-ill")[0]["restarts"] == 0
    host.gear("install", "hello", "hc-ill", *SHELL, "--health-cmd", "exit 3", *QUICK, "--health-on-failure", "stop",
              "--ready-when", "started", "--start", "--", "-c", LOOP)  # fmt: skip
    assert host.gear("wait", "--stopped", "hc-ill", "--timeout", "60s") == "hc-ill is stopped\n"
    assert host.show("ctr-hc-ill.service", "Result") == "success"


@pytest.mark.parametrize(
    "late", ["sleep 1001 & (sleep 1002 &) ; sleep 1003", "yes", "trap '' TERM; exec sleep 1004"]
)
def test_a_probe_that_takes_too_long_is_killed_with_all_it_has_started(host: GearHost, late: str) -> None:
    host.gear("install", "hello", "hc-late", *SHELL, "--health-cmd", late, "--health-timeout", "400ms",
              "--health-interval", "10m", "--health-start-interval", "10m", "--ready-when", "started", "--start",
              "--", "-c", LOOP)  # fmt: skip
    host.wait(lambda: check(host, "hc-late")["failing"] == 1, "the probe to fail")
    assert check(host, "hc-late")["last"]["why"] == "it took longer than 0.4 s"
    left = [command for command in commands(host, "hc-late") if command.startswith(("sleep 100", "yes"))]
    assert left == []
    assert len(host.read("/var/lib/gear/containers/hc-late/health.json")) < 30_000


def test_what_a_probe_leaves_behind_goes_with_it(host: GearHost) -> None:
    probe = "sleep 1005 & sleep 1006 & cat /proc/self/oom_score_adj"
    host.gear(
        "install", "hello", "hc-rest", *SHELL, "--health-cmd", probe, *QUICK, "--start", "--", "-c", LOOP
    )
    # The prober outlives others when memory runs out, and programs of the container have nothing of that.
    usual = host.read(f"/proc/{host.pid('hc-rest')}/oom_score_adj").decode()
    assert check(host, "hc-rest")["last"]["output"] == usual != "-999\n"
    # Where a host may do that: not in some containers.
    wanted = host.sh("sh -c 'echo -999 >/proc/self/oom_score_adj' 2>/dev/null && echo -999 || echo 0")
    assert host.sh("cat /proc/$(pgrep -P 1 -f 'current/health.*/hc-rest ')/oom_score_adj") == wanted
    # A program of words is found in the container's own PATH, and one that is not there is a failing probe.
    host.gear("install", "hello", "hc-word", *SHELL, "--health-cmd", '["nothing-there", "x y"]', *QUICK,
              "--restart", "no", "--ready-when", "started", "--start", "--", "-c", LOOP)  # fmt: skip
    host.wait(lambda: check(host, "hc-word")["failing"] > 0, "a probe")
    assert "can't run nothing-there" in check(host, "hc-word")["last"]["why"]
    assert not any("sleep 100" in command for command in commands(host, "hc-rest")[:1])


SIBLINGS = b"""
import ctypes, os, signal
number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
for _ in range(20):
    if ctypes.CDLL(None).syscall(number, 0x8000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:  # CLONE_PARENT
        os.setsid()
        os.execv("/usr/bin/sleep", ["sleep", "1007"])
with open("/tmp/probes", "a") as file:
    file.write("x")
"""


def test_children_that_a_probe_gives_the_prober_are_buried(host: GearHost) -> None:
    host.write("/root/siblings.py", SIBLINGS)
    host.gear("install", "host:/", "hc-sib", "--ephemeral", "--userns", "host", "-v", "/root/siblings.py:/s.py:ro",
              "--health-cmd", "python3 /s.py", *QUICK, "--start", "--", "/bin/sh", "-c", LOOP)  # fmt: skip
    probes = f"/proc/{host.pid('hc-sib')}/root/tmp/probes"
    host.wait(lambda: len(host.read(probes)) > 5, "probes")
    (prober,) = host.out("pgrep", "-P", "1", "-f", "current/health.*/hc-sib ").split()
    # Those that were killed by the probe before count until the next has ended.
    assert len(host.sh(f"pgrep -P {prober} || :").split()) < 50
    host.gear("delete", "hc-sib")


def test_a_line_is_waited_for_by_one_reader_however_many_probes_there_are(host: GearHost) -> None:
    script = "while [ ! -e /tmp/go ]; do sleep 0.05; done; echo here it is; exec sleep 1000"
    host.gear("install", "hello", "hc-line", *SHELL, "--ready-when", "log:^here", "--health-cmd", "echo >>/tmp/n",
              *QUICK, "--", "-c", script)  # fmt: skip
    host.sh("systemctl start --no-block ctr-hc-line")
    reader = "pgrep -x journalctl || :"
    host.wait(lambda: bool(host.sh(reader)), "the reader")
    host.wait(lambda: host.pid("hc-line") != 0, "the payload")
    before, root = host.sh(reader), f"/proc/{host.pid('hc-line')}/root/tmp"
    host.wait(lambda: host.sh(f"ls {root}") == "n", "the first probe")
    seen = len(host.read(f"{root}/n"))
    host.wait(lambda: len(host.read(f"{root}/n")) > seen + 3, "probes")
    assert host.sh(reader) == before and host.show("ctr-hc-line.service", "ActiveState") == "activating"
    host.sh(f"touch {root}/go")
    host.wait(lambda: host.show("ctr-hc-line.service", "ActiveState") == "active", "its word")
    host.wait(lambda: not host.sh(reader), "the reader's end")
    host.gear("delete", "hc-line")


def test_a_prober_that_stood_still_raises_no_alarm(host: GearHost) -> None:
    host.gear("install", "hello", "hc-still", *SHELL, "--health-cmd", "sleep 0.3", "--health-interval", "100ms",
              "--health-timeout", "1s", "--health-retries", "1", "--start", "--", "-c",
              "n=0; while :; do n=$((n+1)); echo $n >/tmp/n; sleep 0.1; done")  # fmt: skip
    pid = host.pid("hc-still")
    prober = host.sh("pgrep -P 1 -f current/health.*hc-still")
    count = f"/proc/{pid}/root/tmp/n"

    def counted() -> int:
        return int(host.read(count).strip() or b"0")

    host.sh(f"kill -STOP {prober}")
    before = counted()
    host.wait(lambda: counted() > before + 40, "time to pass")
    host.sh(f"kill -CONT {prober}")
    before = counted()
    host.wait(lambda: counted() > before + 20, "further probes")
    assert host.pid("hc-still") == pid and words(host, "hc-still") == ["hc-still is healthy"]


def test_a_slow_stop_is_not_hurried(host: GearHost) -> None:
    script = 'trap "touch /tmp/bad; sleep 2; echo drained; exit 0" TERM; while :; do sleep 0.1; done'
    host.gear("install", "hello", "hc-slow", *SHELL, "--health-cmd", "test ! -e /tmp/bad", "--health-interval", "100ms",
              "--health-retries", "1", "--start", "--", "-c", script)  # fmt: skip
    host.sh("systemctl stop ctr-hc-slow")
    assert "drained" in host.gear("logs", "hc-slow")
    assert host.show("ctr-hc-slow.service", "Result") == "success"


def test_ready_when_a_port_or_a_line_is_there(host: GearHost) -> None:
    begin = time.monotonic()
    host.gear("install", "hello", "hc-port", *SHELL, "--ready-when", "port:88", "--start", "--", "-c",
              "sleep 1; exec httpd -f -p 88")  # fmt: skip
    assert time.monotonic() - begin > 1
    assert host.inside("hc-port", "ss -Hltn").count(":88") >= 1
    # The image names one port, 8080.
    host.gear("install", "hello", "hc-port2", "--ready-when", "port", "--start")
    script = "echo Ready maybe; sleep 1; echo 'listener 7 is ready'; exec sleep 1000"
    host.gear("install", "hello", "hc-log", *SHELL, "--ready-when", r"log:^listener [0-9]+ is ready$", "--start",
              "--", "-c", script)  # fmt: skip
    assert "listener 7" in host.gear("logs", "hc-log")
    host.gear("install", "hello", "hc-space", *SHELL, "--log-namespace", "hcspace", "--ready-when", "log:^listener",
              "--start", "--", "-c", script)  # fmt: skip
    host.gear("delete", "hc-space")
    host.gear("log-namespace", "rm", "--entries", "hcspace")
    # Nobody is left in any of them when that is known.
    host.wait(lambda: not any(probers(host, f"hc-{name}") for name in ("port", "port2", "log")), "the end")
    assert commands(host, "hc-log") == ["sleep 1000"]
    # What never comes is an error that says so.
    host.gear("install", "hello", "hc-log", *SHELL, "--restart", "no", "--start-timeout", "1s", "--ready-when",
              "log:never", "--", "-c", script)  # fmt: skip
    assert "not ready within the start timeout" in host.fails(1, "restart", "hc-log")
    # What keeps its output elsewhere is listened to there, and its prober writes there.
    host.gear("install", "hello", "hc-log", *SHELL, "--log-namespace", "hclog", "--ready-when", "log:is ready$",
              "--health-cmd", "test ! -e /tmp/bad", *QUICK, "--health-on-failure", "none", "--start-timeout", "30s",
              "--", "-c", script)  # fmt: skip
    host.gear("restart", "hc-log")
    host.gear("wait", "--healthy", "hc-log", "--timeout", "60s")
    assert 'gear_container_healthy{container="hc-log"} 1' in host.gear("metrics")
    host.gear("exec", "hc-log", "touch", "/tmp/bad")
    host.wait(lambda: check(host, "hc-log")["status"] == "unhealthy", "the verdict")
    assert 'gear_container_healthy{container="hc-log"} 0' in host.gear("metrics")
    host.sh("journalctl --namespace=hclog --sync")
    events = host.gear("events", "--no-follow", "--since=-2min", "--filter", "event=health", "--filter",
                       "container=hc-log", "--output", "json").splitlines()  # fmt: skip
    found = [json.loads(line) for line in events]
    assert [(item["health"], item["image"]) for item in found] == [
        ("healthy", "hello:latest"), ("unhealthy", "hello:latest")
    ]  # fmt: skip
    assert "hc-log is unhealthy: exit status 1" in host.gear("logs", "--all", "hc-log")
    assert "unhealthy" not in host.gear("logs", "hc-log")
    assert "can't tell when it is ready" in host.fails(
        2, "install", "hello", "hc-none", "--log-driver", "none", "--ready-when", "log:x"
    )
    host.gear("delete", "hc-log")
    host.gear("log-namespace", "rm", "--entries", "hclog")


HOSTILE = b"""
import array, os, socket, sys, time
def tell(path, text, fds=()):
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sender.sendmsg([text.encode()], rights, 0, path)
for path in ("/run/systemd/notify", "/proc/1/root/run/systemd/notify", "/run/host/notify", "\\0/run/systemd/notify"):
    if path != os.environ.get("NOTIFY_SOCKET"):
        try:
            tell(path, "READY=1")
            print("reached", repr(path))
        except OSError:
            pass
path = os.environ.get("NOTIFY_SOCKET")
print("socket", path, flush=True)
if path:
    tell(path, "MAINPID=1\\nSTATUS=evil\\x1b[31m\\nNOTIFYACCESS=none")
    tell(path, "FDSTORE=1\\nFDNAME=x", [0, 1, 2])
    tell(path, "FDSTOREREMOVE=1\\nFDNAME=published")
    tell(path, "EXTEND_TIMEOUT_USEC=99999999999999999")
    tell(path, "X" * 5000)
    try:
        os.unlink(path)
    except OSError as error:
        print("unlink", error.errno, flush=True)
    print("told", flush=True)
    while not os.path.exists("/tmp/go"):
        time.sleep(0.05)
    tell(path, "READY=1\\nMAINPID=1\\nSTATUS=serving")
    for number in range(100):
        tell(path, "STATUS=%d" % number)
    print("flooded", flush=True)
time.sleep(1000)
"""


def test_a_payload_tells_how_it_goes_and_no_more(host: GearHost) -> None:
    """With root of the host as its user, so that PID 1 would believe every word."""
    host.write("/root/hostile.py", HOSTILE)
    hostile = ("--ephemeral", "--userns", "host", "--restart", "no", "-v", "/root/hostile.py:/hostile.py:ro")
    host.gear("install", "host:/", "hc-tell", *hostile, "--ready-when", "notify", "--", "/usr/bin/python3",
              "/hostile.py")  # fmt: skip
    unit = "ctr-hc-tell.service"
    host.sh(f"systemctl start --no-block {unit}")
    host.wait(lambda: "told" in host.gear("logs", "hc-tell"), "the payload")
    host.wait(lambda: "evil" in host.show(unit, "StatusText"), "its status")
    assert host.show(unit, "ActiveState") == "activating"
    assert host.show(unit, "StatusText") == "starting; evil?[31m"
    pid = host.pid("hc-tell")
    host.sh(f"touch /proc/{pid}/root/tmp/go")
    host.wait(lambda: host.show(unit, "ActiveState") == "active", "its word")
    host.wait(lambda: host.show(unit, "StatusText") == "99", "its last status")
    assert host.pid("hc-tell") == pid != 1
    assert host.show(unit, "NFileDescriptorStore") == "0" and host.show(unit, "NotifyAccess") == "all"
    said = host.gear("logs", "hc-tell").splitlines()
    assert "socket /run/host/notify" in said and "unlink 16" in said
    assert not any(line.startswith("reached") for line in said), said
    assert probers(host, "hc-tell") == 1
    host.gear("stop", "hc-tell")
    # One that is to be healthy has no word in it at all.
    host.gear("install", "host:/", "hc-fake", *hostile, "--health-cmd", "test -e /tmp/go", "--health-start-period",
              "5m", "--health-start-interval", "100ms", "--", "/usr/bin/python3", "/hostile.py")  # fmt: skip
    unit = "ctr-hc-fake.service"
    host.sh(f"systemctl start --no-block {unit}")
    host.wait(lambda: "socket" in host.gear("logs", "hc-fake"), "the payload")
    host.wait(lambda: (check(host, "hc-fake") or {}).get("failing", 0) > 3, "probes")
    assert host.show(unit, "ActiveState") == "activating"
    assert host.gear("logs", "hc-fake").splitlines() == ["socket None"]
    host.sh(f"touch /proc/{host.pid('hc-fake')}/root/tmp/go")
    host.gear("wait", "--healthy", "hc-fake", "--timeout", "60s")


def test_nothing_is_beside_a_container_without_check(host: GearHost) -> None:
    host.gear(
        "install", "hello", "hc-none", *SHELL, "--no-healthcheck", "--start", "--", "-c", "exec sleep 1000"
    )
    assert commands(host, "hc-none") == ["sleep 1000"]
    text = host.read("/usr/local/lib/systemd/system/ctr-hc-none.service").decode()
    assert "NotifyAccess=main" in text and "Watchdog" not in text and "TimeoutStartSec" not in text
    assert check(host, "hc-none") is None
    assert "has no health check" in host.fails(2, "wait", "--healthy", "hc-none")
    assert host.fails(124, "wait", "--exit", "--timeout", "100ms", "hc-none")


def test_restarts_come_to_an_end_that_is_seen(host: GearHost) -> None:
    pace = ("--restart", "on-failure:2", "--restart-delay", "100ms", "--restart-max-delay", "400ms")
    begun = host.run("gear", "install", "hello", "hc-crash", *SHELL, *pace, "--start", "--", "-c",
                     "sleep 0.3; echo oh; exit 7")  # fmt: skip
    grows = int(host.out("systemctl", "--version").split()[1].partition(".")[0]) >= 254
    assert (b"no growing delay" in begun.stderr) is not grows
    unit = "ctr-hc-crash.service"
    host.wait(lambda: host.show(unit, "ActiveState") == "failed", "PID 1 to give up")
    assert host.gear("logs", "hc-crash").splitlines().count("oh") == 3
    (row,) = host.json("list-units")
    assert (row["active_state"], row["result"]) == ("failed", "exit-code")
    assert "exit-code" in host.gear("list-units")
    shown = host.gear("status", "hc-crash")
    assert "Failed: result exit-code after 3 starts; again with: gear start hc-crash" in shown
    assert host.gear("wait", "hc-crash") == "7\n"
    assert "Unknown" not in host.sh(f"systemd-analyze verify {unit} 2>&1")
    # Asked for by a person it begins from the front.
    host.gear("start", "hc-crash")
    host.wait(lambda: host.show(unit, "ActiveState") == "failed", "PID 1 to give up again")
    assert host.gear("logs", "hc-crash").splitlines().count("oh") == 6
