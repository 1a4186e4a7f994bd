"""gear run: in a terminal as a scope, in the background as a transient service, and what is left of both."""

from __future__ import annotations

import subprocess

from gearhost import GearHost


def left(host: GearHost) -> str:
    """What there is of containers."""
    return host.sh("ls /var/lib/gear/containers /var/lib/gear/uids 2>/dev/null | grep -v : || :").strip()


def test_foreground_passes_streams_and_status(host: GearHost) -> None:
    assert host.run("gear", "run", "--rm", "-i", "hello", "cat", input=b"through").stdout == b"through"
    script = "echo out; echo err >&2; exit 7"
    done = host.run("gear", "run", "--rm", "-e", "A=1", "hello", "--", "sh", "-c", script, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert host.gear("run", "--rm", "-e", "A=b c", "hello", "sh", "-c", 'echo "$A"; hostname').startswith(
        "b c\n"
    )
    done = host.run("gear", "run", "--rm", "--entrypoint", "/missing", "hello", check=False)
    assert done.returncode == 127 and b"did not start: can't run /missing" in done.stderr
    assert left(host) == ""
    assert "/dev/pts/0" in host.typed([], "run", "-t", "--rm", "hello", "tty")
    assert host.fails(1, "run", "--rm", "nosuch")


def test_foreground_is_a_scope(host: GearHost) -> None:
    process = host.host.popen(
        ["gear", "run", "--rm", "--name", "adhoc", "hello", "sh", "-c", "echo ready; exec sleep 1000"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    assert host.show("ctr-adhoc.scope", "ActiveState") == "active"
    assert host.show("ctr-adhoc.scope", "Slice") == "container.slice"
    assert host.show("ctr-adhoc.scope", "TasksMax") == "2048"
    assert [row["unit"] for row in host.json("list-units")] == ["ctr-adhoc.scope"]
    assert host.json("status", "adhoc")[0]["active_state"] == "active"
    assert host.gear("exec", "adhoc", "cat", "/proc/1/comm") == "sleep\n"
    assert host.json("top", "adhoc")[0]["command"] == "sleep 1000"
    assert "adhoc can't be attached to" in host.fails(1, "attach", "adhoc")
    assert "There is a container adhoc already" in host.fails(1, "run", "--name", "adhoc", "hello", "true")
    assert host.leftovers() == []
    # Not waited for, since the payload has no handler for SIGTERM.
    host.gear("stop", "adhoc")
    process.communicate(timeout=host.patience_s)
    assert process.returncode == 137
    assert left(host) == ""


def test_signals_go_to_the_payload(host: GearHost) -> None:
    script = "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    process = host.host.popen(
        ["sh", "-c", 'echo $$; exec gear run --rm hello sh -c "$0"', script], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert process.stdout.readline() == b"ready\n"
    host.sh(f"kill -TERM {pid}")
    assert process.communicate(timeout=host.patience_s)[0] == b"got\n" and process.returncode == 5


def test_background_is_a_transient_service(host: GearHost) -> None:
    assert host.gear("run", "-d", "--name", "back", "hello") == "back\n"
    assert host.show("ctr-back.service", "FragmentPath") == "/run/systemd/system/ctr-back.service"
    assert host.sh(f"sed -n 's/^PPid:\\t//p' /proc/{host.pid('back')}/status") == "1"
    assert host.gear("exec", "back", "id", "-u") == "8080\n"
    host.gear("stop", "back")
    assert "is not installed, so it can't be started" in host.fails(1, "start", "back")
    host.gear("delete", "back")
    assert left(host) == ""
    name = host.gear(
        "run", "--detach", "--rm", "hello", "sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"
    ).strip()
    assert host.json("status", name)[0]["active_state"] == "active"
    host.gear("kill", "-s", "TERM", name)
    host.wait(lambda: left(host) == "", "PID 1 removing it")
    assert host.run("test", "-e", f"/run/systemd/system/ctr-{name}.service", check=False).returncode == 1
    error = host.fails(1, "run", "-d", "--rm", "--entrypoint", "/missing", "hello")
    assert "can't run /missing" in error
    assert left(host) == ""


def test_what_a_killed_gear_leaves_is_found(host: GearHost) -> None:
    process = host.host.popen(
        ["sh", "-c", "echo $$; exec gear run --rm --name gone hello sh -c 'echo ready; exec sleep 1000'"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert process.stdout.readline() == b"ready\n"
    host.sh(f"kill -KILL {pid}")
    process.communicate(timeout=host.patience_s)
    assert host.show("ctr-gone.scope", "ActiveState") == "active"  # the container goes on
    assert host.leftovers() == []
    host.gear("stop", "gone")
    assert [item["what"] for item in host.leftovers()] == ["a container of gear run --rm that has ended"]
    host.gear("clean")
    assert left(host) == ""


def test_without_rm_it_stays(host: GearHost) -> None:
    host.gear("run", "--name", "kept", "hello", "sh", "-c", "echo made > /tmp/file")
    assert host.json("ps", "--all")[0]["unit"] == "ctr-kept.scope"
    host.gear("cp", "kept:/tmp/file", "/root/made")
    assert host.read("/root/made") == b"made\n"
    host.gear("delete", "kept")
    assert left(host) == ""


def test_detach_leaves_it_running(host: GearHost) -> None:
    script = "echo ready; while :; do echo tick; sleep 0.1; done"
    shown = host.typed([["ready", "\x10\x11"]], "run", "-it", "--name", "away", "hello", "sh", "-c", script)
    assert "detached; away goes on" in shown
    assert host.json("status", "away")[0]["active_state"] == "active"
    host.gear("kill", "away")
    host.wait(lambda: host.show("ctr-away.scope", "ActiveState") == "inactive", "the end")


def test_foreground_has_what_a_unit_would_set(host: GearHost) -> None:
    """A scope has no resource limits, score or control groups to give away: gear sets them itself."""
    script = "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj"
    options = ("--ulimit", "nofile=100:200", "--ulimit", "core=0:unlimited", "--oom-score-adj", "500")
    assert host.gear("run", "--rm", *options, "hello", "sh", "-c", script).split() == ["100", "200", "500"]
    script = "mkdir /sys/fs/cgroup/mine /sys/fs/cgroup/unified/mine 2> /dev/null; ls -d /sys/fs/cgroup/*/cgroup.procs"
    made = host.run(
        "gear", "run", "--rm", "-u", "root", "--systemd", "always", "hello", "sh", "-c", script, check=False
    )
    assert b"mine/cgroup.procs" in made.stdout
    # httpd goes into the background once it has the port.
    assert (
        host.gear("run", "--rm", "--net", "host", "hello", "sh", "-c", "httpd -p 81 && echo bound")
        == "bound\n"
    )
    assert left(host) == ""
