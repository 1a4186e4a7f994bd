"""The main job: an image becomes a service, is supervised, read, stopped, and gone."""

from __future__ import annotations

import json

from gearhost import GearHost

PORT = 8080


def test_installed_container_is_a_running_service(host: GearHost) -> None:
    out = host.gear("install", "hello", "web", "--start")
    assert out.startswith("web is installed from hello:latest (sha256:") and out.endswith("; running\n")
    assert host.out("systemctl", "is-active", "ctr-web") == "active"
    assert host.out("systemctl", "is-enabled", "ctr-web") == "enabled"
    page = host.inside(
        "web", f"curl -sS --retry 50 --retry-connrefused --retry-delay 1 http://127.0.0.1:{PORT}/"
    )
    assert "It works" in page
    host.wait(lambda: "response:200" in host.gear("logs", "web"), "the request in the log")
    assert "Started ctr-web.service" in host.out("journalctl", "--unit", "ctr-web", "--no-pager")


def test_payload_is_the_main_process_and_the_only_one(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    pid = host.pid("web")
    assert host.read(f"/proc/{pid}/cmdline") == b"/bin/busybox\0httpd\0-f\0-v\0-p\0" + b"8080\0-h\0/www\0"
    group = host.show("ctr-web", "ControlGroup")
    found = host.sh(
        f"cat /sys/fs/cgroup/*{group}/cgroup.procs /sys/fs/cgroup{group}/cgroup.procs 2>/dev/null || :"
    )
    assert set(found.split()) == {str(pid)}
    # The kernel agrees that PID 1 is the parent, so PID 1 hears of its end at once.
    assert host.sh(f"sed -n 's/^PPid:\\t//p' /proc/{pid}/status") == "1"


def test_killed_payload_is_restarted_by_pid_1(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    first = host.pid("web")
    host.sh(f"kill -KILL {first}")
    host.wait(
        lambda: host.show("ctr-web", "NRestarts") == "1" and host.pid("web") not in (0, first), "a restart"
    )
    host.wait(lambda: host.out("systemctl", "show", "-P", "ActiveState", "ctr-web") == "active", "active")


def test_a_helper_of_another_interpreter_starts_containers_all_the_same(host: GearHost) -> None:
    """As after an upgrade of the distribution: until gear publishes the helper again, there is no bytecode for it."""
    host.gear("install", "hello", "oldhelper", "-v", "oldhelper-data:/data")
    host.sh("mv /var/lib/gear/helper/current/bytecode-* /root/away")
    host.gear("start", "oldhelper")
    # And in no other way than from the files: root has kept bytecode of what the first process needs.
    kept = host.sh("ls /var/lib/gear/helper/current/gear/helper/__pycache__")
    assert "payload." in kept and "mounts." in kept
    host.sh("d=$(readlink -f /var/lib/gear/helper/current); mv /root/away $d/$(sed 's/.* //' $d/SHA256SUMS)")
    host.sh(
        "rm -r /var/lib/gear/helper/current/gear/helper/__pycache__ /var/lib/gear/helper/current/gear/__pycache__"
    )


def test_restart_policy_no_leaves_a_killed_payload_failed(host: GearHost) -> None:
    host.gear("install", "hello", "once", "--restart", "no", "--start")
    host.sh(f"kill -KILL {host.pid('once')}")
    host.wait(lambda: host.show("ctr-once", "ActiveState") == "failed", "the failure")
    assert host.show("ctr-once", "NRestarts") == "0"
    # Stopping one that has failed is a success, and it is out of the boot.
    host.gear("stop", "once")
    assert host.show("ctr-once", "ActiveState") == "inactive"
    assert host.run("systemctl", "is-enabled", "ctr-once", check=False).stdout == b"disabled\n"


def test_crash_loop_ends_in_failed(host: GearHost) -> None:
    host.gear("install", "hello", "loop", "--restart", "always", "--", "/bin/busybox", "false")
    host.run("gear", "start", "loop", check=False)
    host.wait(lambda: host.show("ctr-loop", "ActiveState") == "failed", "systemd giving up")
    assert host.show("ctr-loop", "Result") in ("start-limit-hit", "exit-code")
    assert "failed" in host.gear("list-units")


def test_stop_does_not_wait_for_a_payload_that_cannot_hear(host: GearHost) -> None:
    # With the timeout of an hour the test would not end if anybody waited.
    for name, script in (
        ("deaf", "exec sleep 10000"),
        ("ignoring", "trap '' TERM; while :; do sleep 1; done"),
    ):
        host.gear(
            "install", "hello", name, "--start", "--stop-timeout", "3600", "--", "/bin/sh", "-c", script
        )
        host.gear("stop", name)
        assert host.show(f"ctr-{name}", "ActiveState") == "inactive"
    # The same by systemctl, which knows nothing of gear.
    host.gear("start", "deaf")
    host.out("systemctl", "stop", "ctr-deaf")
    assert host.show("ctr-deaf", "Result") == "success"


def test_stop_lets_a_payload_that_hears_finish(host: GearHost) -> None:
    script = "trap 'echo bye; exit 0' USR1; echo ready; while :; do sleep 0.1; done"
    host.gear("install", "hello", "kind", "--stop-signal", "USR1", "--start", "--", "/bin/sh", "-c", script)
    host.wait(lambda: "ready" in host.gear("logs", "kind"), "the handler")
    host.gear("stop", "kind")
    host.wait(lambda: "bye" in host.gear("logs", "kind"), "the farewell")
    assert host.show("ctr-kind", "Result") == "success"


def test_stop_after_the_timeout_kills(host: GearHost) -> None:
    script = "trap 'echo heard' TERM; echo ready; while :; do sleep 0.1; done"
    host.gear("install", "hello", "stubborn", "--stop-timeout", "1", "--start", "--", "/bin/sh", "-c", script)
    host.wait(lambda: "ready" in host.gear("logs", "stubborn"), "the handler")
    host.gear("stop", "stubborn")
    assert host.show("ctr-stubborn", "ActiveState") == "inactive"
    assert "heard" in host.gear("logs", "stubborn")


def test_boot_follows_start_and_stop(host: GearHost) -> None:
    link = "/etc/systemd/system/container-active.target.wants/ctr-web.service"
    host.gear("install", "hello", "web")
    assert host.run("test", "-e", link, check=False).returncode == 1
    host.gear("start", "web")
    assert host.out("readlink", link) == "/usr/local/lib/systemd/system/ctr-web.service"
    # A crash does not change it, a stop does.
    host.gear("install", "hello", "web", "--restart", "no", "--start")
    host.sh(f"kill -KILL {host.pid('web')}")
    host.wait(lambda: host.show("ctr-web", "ActiveState") == "failed", "the crash")
    host.gear("stop", "web")
    assert host.run("test", "-e", link, check=False).returncode == 1
    assert host.out("systemctl", "is-enabled", "container-active.target") == "enabled"


def test_start_tells_why_a_payload_cannot_run(host: GearHost) -> None:
    host.sh("mkdir -p /srv/programs && cd /srv/programs && printf 'text' > text && chmod 755 text"
            " && cp text locked && chmod 644 locked && printf '#!/nowhere/sh\\n' > orphan && chmod 755 orphan"
            " && head -c 18 /bin/true > foreign && printf '\\267\\0' >> foreign"
            " && tail -c +21 /bin/true >> foreign && chmod 755 foreign")  # fmt: skip
    cases = {
        "/nowhere": "can't run /nowhere: there is no such file in the container",
        "nowhere": "can't run nowhere: no such program in the container's PATH",
        "/programs": "can't run /programs: it is a directory",
        "/programs/text": "can't run /programs/text: it is neither a program for this machine nor a script",
        "/programs/locked": "can't run /programs/locked: it is not executable for user 8080",
        "/programs/orphan": "can't run /programs/orphan: its interpreter (/nowhere/sh) is not in the container",
        "/programs/foreign": "can't run /programs/foreign: it is built for aarch64, and this machine is",
    }
    for program, sentence in cases.items():
        host.gear("install", "hello", "bad", "-v", "/srv/programs:/programs:ro", "--entrypoint", program)
        error = host.fails(1, "start", "bad")
        assert error.startswith(f"error: bad did not start: {sentence}"), error
        assert "hint: The whole story: journalctl -u ctr-bad.service\n" in error
        assert host.show("ctr-bad", "NRestarts") == "0"  # no restart would mend it
        assert host.show("ctr-bad", "StatusText").startswith(sentence)
        # No process and no READY: dependents would not have been started.
        assert host.pid("bad") == 0
        assert host.show("ctr-bad", "ActiveState") == "failed"


def test_failures_of_one_do_not_stop_the_others(host: GearHost) -> None:
    host.gear("install", "hello", "a", "b")
    error = host.fails(1, "start", "a", "nobody", "b")
    assert "There is no container nobody." in error
    assert host.pid("a") and host.pid("b")
    error = host.fails(1, "stop", "a", "nobody", "b")
    assert host.pid("a") == 0 and host.pid("b") == 0
    assert host.fails(2, "install", "hello", "fine", "not/fine")
    assert host.gear("list-units", "--all", "--quiet").split() == ["a", "b", "fine"]


def test_status_and_lists(host: GearHost) -> None:
    host.gear("install", "hello", "a", "--start")
    host.gear("install", "hello", "b")
    text = host.gear("status", "a")
    assert "Active: active (running)" in text and "Main PID:" in text
    assert "Image: hello:latest (sha256:" in text and "User ids: 524288 to 589823" in text
    (state,) = host.json("status", "a")
    assert state["active_state"] == "active" and state["main_pid"] == host.pid("a")
    assert state["uid_range"] == {"base": 524288, "size": 65536} and state["boot"] == "enabled"
    assert host.gear("status", "b")  # not running is no failure to report
    assert host.fails(1, "status", "nobody") == (
        "error: There is no container nobody.\nhint: gear list-units --all shows what is installed.\n"
    )
    assert [row["name"] for row in host.json("list-units")] == ["a"]
    assert [row["name"] for row in host.json("ps", "--all")] == ["a", "b"]
    # The unit's name, as systemctl prints it, is as good.
    assert host.json("status", "ctr-a.service")[0]["name"] == "a"


def test_logs_bounds(host: GearHost) -> None:
    host.gear(
        "install",
        "hello",
        "talk",
        "--restart",
        "no",
        "--start",
        "--",
        "/bin/sh",
        "-c",
        "echo one; echo two; echo three",
    )
    host.wait(lambda: host.gear("logs", "talk").split() == ["one", "two", "three"], "three lines")
    assert host.gear("logs", "-n", "1", "talk") == "three\n"
    assert host.gear("logs", "--since", "+1 hour", "talk") == ""
    assert host.gear("logs", "--until", "-1 hour", "talk") == ""
    assert host.gear("logs", "--boot", "talk").split() == ["one", "two", "three"]
    host.gear("start", "talk")
    host.wait(lambda: len(host.gear("logs", "talk").split()) == 6, "the second run")
    host.wait(lambda: host.gear("logs", "--invocation", "talk").split() == ["one", "two", "three"], "one run")
    records = [json.loads(line) for line in host.gear("logs", "--output", "json", "talk").splitlines()]
    assert [record["MESSAGE"] for record in records[:3]] == ["one", "two", "three"]
    assert records[0]["_SYSTEMD_UNIT"] == "ctr-talk.service" and records[0]["SYSLOG_IDENTIFIER"] == "talk"
    assert "Started ctr-talk.service" in host.gear("logs", "--all", "talk")
    assert "no number of lines" in host.fails(2, "logs", "-n", "few", "talk")


def test_follow_sees_every_line(host: GearHost) -> None:
    script = "i=0; while [ $i -lt 50 ]; do echo line$i; i=$((i + 1)); done; exec sleep 1000"
    host.gear("install", "hello", "count", "--", "/bin/sh", "-c", script)
    out = host.sh("gear logs --follow count > /run/followed & pid=$!; gear start count >/dev/null;"
                  "timeout 60 sh -c 'until grep -qx line49 /run/followed; do :; done';"
                  " kill $pid; cat /run/followed")  # fmt: skip
    assert out.split() == [f"line{number}" for number in range(50)]
