"""Dealing with a container that runs: kill, pause, top, attach."""

from __future__ import annotations

import json
import subprocess

from gearhost import GearHost

# Hears SIGTERM and SIGHUP, and says so.
LISTENER = "trap 'echo hup' HUP; trap 'echo term; exit 7' TERM; echo ready; while :; do sleep 0.05; done"


def listener(host: GearHost, name: str, *options: str) -> None:
    """Start a container that tells which signals it got."""
    host.gear(
        "install", "hello", name, "--restart", "no", *options, "--start", "--", "/bin/sh", "-c", LISTENER
    )
    host.wait(lambda: "ready" in host.gear("logs", "--invocation", name), "the handlers")


def test_kill_signals_the_payload(host: GearHost) -> None:
    listener(host, "ear")
    assert host.gear("kill", "-s", "HUP", "ear") == "ear was sent HUP\n"
    host.wait(lambda: "hup" in host.gear("logs", "ear"), "the signal")
    host.gear("kill", "--signal", "15", "ear")
    host.wait(lambda: host.show("ctr-ear", "ActiveState") == "failed", "the end")
    assert host.show("ctr-ear", "ExecMainStatus") == "7"
    assert "ear is not running" in host.fails(1, "kill", "ear")
    assert "There is no container nobody" in host.fails(1, "kill", "nobody")
    assert "is no signal" in host.fails(2, "kill", "-s", "NONE", "ear")
    listener(host, "ear")
    host.gear("kill", "ear")
    host.wait(lambda: host.show("ctr-ear", "ExecMainStatus") == "9", "SIGKILL")


def test_pause_says_what_it_needs_where_the_freezer_is_missing(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    if host.host.cgroup == "v2":
        host.gear("pause", "web")
        assert host.json("status", "web")[0]["paused"] is True
        host.gear("resume", "web")
    else:
        error = host.fails(1, "pause", "web")
        assert error.startswith("error: web can't be paused: ") and "hint: Freezing takes cgroup v2" in error
    assert host.gear("resume", "web") == "web is not paused\n"
    assert host.json("status", "web")[0]["paused"] is False
    assert host.json("list-units")[0]["paused"] is False
    # Of a thousand containers PID 1 is not asked one after the other.
    asked = host.sh("strace -f -s 500 -e trace=sendmsg gear ps 2>&1 >/dev/null")
    assert "ListUnitsByPatterns" in asked and "Freezer" not in asked
    host.gear("stop", "web")
    assert "web is not running" in host.fails(1, "pause", "web")


def test_top_shows_ids_of_both_sides(host: GearHost) -> None:
    script = "sleep 1000 & exec sleep 2000"
    host.gear("install", "hello", "two", "-u", "www", "--start", "--", "/bin/sh", "-c", script)
    host.wait(lambda: len(host.json("top", "two")) == 2, "both processes")
    first, second = host.json("top", "two")
    assert first["pid"] == host.pid("two") and first["inner_pid"] == 1 and second["inner_pid"] > 1
    assert first["uid"] == 8080 and first["user"] == "www" and first["command"] == "sleep 2000"
    assert second["parent_pid"] == first["pid"] and second["command"] == "sleep 1000"
    now = float(host.out("date", "+%s"))
    assert now - 60 < first["started"] < now + 60
    lines = host.gear("top", "two").splitlines()
    assert lines[0].split()[:3] == ["PID", "INSIDE", "USER"] and lines[1].endswith("sleep 2000")


def test_top_runs_nothing_of_the_container_and_prints_no_control_characters(host: GearHost) -> None:
    # A passwd file that is a pipe is no name service; an argument may hold anything.
    script = (
        "rm /etc/passwd; mkfifo /etc/passwd; exec sh -c 'trap : TERM; read line < /etc/passwd' '\033[2J\n'"
    )
    host.gear("install", "hello", "evil", "-u", "0", "--start", "--", "/bin/sh", "-c", script)
    host.wait(lambda: "trap" in host.gear("top", "evil"), "the payload")
    out = host.run("timeout", "20", "gear", "top", "evil").stdout
    assert b"\033" not in out and out.count(b"\n") == 2
    assert host.json("top", "evil")[0]["user"] == "0"


def test_attach_follows_to_the_end_and_passes_the_status_on(host: GearHost) -> None:
    script = "trap 'echo last; exit 5' TERM; echo first; while :; do echo line; sleep 0.05; done"
    host.gear("install", "hello", "speaker", "--restart", "no", "--start", "--", "/bin/sh", "-c", script)
    host.wait(lambda: "first" in host.gear("logs", "speaker"), "the handler")
    attached = host.host.popen(["gear", "attach", "speaker"], stdout=subprocess.PIPE)
    assert attached.stdout is not None
    assert attached.stdout.readline() == b"line\n"
    host.gear("kill", "-s", "TERM", "speaker")
    out, _ = attached.communicate(timeout=host.patience_s)
    assert attached.returncode == 5
    assert out.endswith(b"last\n") and b"first" not in out
    assert "speaker is not running" in host.fails(1, "attach", "speaker")


def test_attach_lets_go_at_ctrl_c_and_passes_signals_on_when_asked(host: GearHost) -> None:
    listener(host, "ear")
    # A job in the background of a shell ignores SIGINT unless it is told not to.
    attach = (
        "env --default-signal=INT gear attach {} > /run/out 2> /run/err & pid=$!; timeout 30 sh -c 'until gear kill"
        " -s HUP ear >/dev/null && test -s /run/out; do :; done'; kill -{} $pid; wait $pid || echo $?"
    )
    assert host.sh(attach.format("ear", "INT")) == ""
    assert host.pid("ear") != 0
    assert "detached; ear goes on" in host.read("/run/err").decode()
    assert host.sh(attach.format("--sig-proxy ear", "TERM")) == "7"
    assert "term" in host.read("/run/out").decode()


def test_json_of_top_is_complete(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    (row,) = json.loads(host.gear("top", "web", "--output", "json"))
    assert set(row) == {
        "pid", "inner_pid", "parent_pid", "uid", "user", "state", "started", "cpu_seconds", "command",
    }  # fmt: skip
