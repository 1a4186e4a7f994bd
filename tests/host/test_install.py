"""Installing, changing, planning: idempotent, in the open, and with systemd's own tools still in charge."""

from __future__ import annotations

import json

from gearhost import GearHost

UNITS = "/usr/local/lib/systemd/system"


def test_installing_again_changes_and_restarts_nothing(host: GearHost) -> None:
    options = ("-e", "A=1", "--label", "x=y", "--tmpfs", "/scratch:size=1m")
    host.gear("install", "hello", "web", *options, "--start")
    pid, files = (
        host.pid("web"),
        host.sh(f"stat -c '%n %i %Y' /var/lib/gear/containers/web/* {UNITS}/ctr-web.service"),
    )
    assert host.gear("install", "hello", "web", *options, "--start") == "web is as it was; running\n"
    assert host.pid("web") == pid
    assert host.sh(f"stat -c '%n %i %Y' /var/lib/gear/containers/web/* {UNITS}/ctr-web.service") == files


def test_changes_are_said_and_wait_for_a_restart(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    pid = host.pid("web")
    out = host.gear("install", "hello", "web", "-e", "A=1", "--stop-timeout", "5")
    assert out == "web is changed: env, stop_timeout; it runs with what was before until: gear restart web\n"
    assert host.pid("web") == pid
    assert host.json("status", "web")[0]["restart_needed"] is True
    # The unit is known to systemd as it is now, without a ritual.
    assert host.show("ctr-web", "TimeoutStopUSec") == "5s"
    assert host.show("ctr-web", "NeedDaemonReload") == "no"
    assert host.gear("restart", "web") == "web is running again\n"
    assert host.pid("web") != pid
    assert b"A=1" in host.read(f"/proc/{host.pid('web')}/environ").split(b"\0")
    assert host.json("status", "web")[0]["restart_needed"] is False
    # Asked to have it running as installed, install restarts, and says why.
    assert "restarted, because" in host.gear("install", "hello", "web", "--start")


def test_new_units_need_no_daemon_reload(host: GearHost) -> None:
    def reloads() -> int:
        return int(host.sh("journalctl --no-pager -o cat _PID=1 | grep -cE '^Reloading\\.+$' || :"))

    host.gear("install", "hello", "first")
    before = reloads()
    host.gear("install", "hello", "second", "third", "--start")
    host.gear("delete", "second", "third")
    assert reloads() == before
    # Three changed units are one reload.
    host.gear("install", "hello", "second", "third")
    host.gear("start", "first", "second", "third")
    before = reloads()
    host.gear("install", "hello", "first", "second", "third", "--stop-timeout", "7")
    assert reloads() == before + 1


def test_plan_shows_what_install_would_do_and_does_nothing(host: GearHost) -> None:
    before = host.sh(f"find /var/lib/gear/containers /var/lib/gear/uids {UNITS} | sort")
    diff = host.gear("plan", "hello", "web", "-e", "A=1")
    assert f"--- /dev/null\n+++ {UNITS}/ctr-web.service\n" in diff and "+[Service]\n" in diff
    assert host.gear("install", "hello", "web", "-e", "A=1", "--dry-run") == diff
    assert host.sh(f"find /var/lib/gear/containers /var/lib/gear/uids {UNITS} | sort") == before
    host.gear("install", "hello", "web", "-e", "A=1")
    assert host.gear("plan", "hello", "web", "-e", "A=1") == "web: nothing would change\n"
    plan = host.gear("plan", "hello", "web", "-e", "A=2")
    assert '-      "A=1",\n' in plan and '+      "A=2",\n' in plan
    (change,) = host.json("plan", "hello", "other")
    assert {item["action"] for item in change["changes"]} == {"create"}


def test_an_edited_spec_is_planned_and_applied(host: GearHost) -> None:
    host.gear("install", "hello", "web")
    path = "/var/lib/gear/containers/web/spec.json"
    spec = json.loads(host.read(path))
    spec["env"]["COLOUR"] = "green"
    host.write(path, json.dumps(spec).encode(), mode="600")
    assert "COLOUR=green" in host.gear("plan", "web")
    host.gear("apply", "web")
    assert host.gear("plan", "web") == "web: nothing would change\n"
    spec["evn"] = {}
    host.write(path, json.dumps(spec).encode(), mode="600")
    error = host.fails(1, "plan", "web")
    assert error == f"error: {path} is damaged: /evn: no such member.\n"
    # Installing again mends it.
    assert host.gear("install", "hello", "web")


def test_a_file_that_was_altered_is_found_and_mended(host: GearHost) -> None:
    host.gear("install", "hello", "web")
    host.sh(f"echo '# mine' >> {UNITS}/ctr-web.service")
    (document,) = json.loads(host.gear("inspect", "web"))
    assert document["altered"] == [f"{UNITS}/ctr-web.service"]
    assert host.gear("install", "hello", "web") == f"web is changed: {UNITS}/ctr-web.service\n"
    assert json.loads(host.gear("inspect", "web"))[0]["altered"] == []


def test_drop_ins_enable_and_mask_are_the_administrators(host: GearHost) -> None:
    host.gear("install", "hello", "web")
    drop_in = "/etc/systemd/system/ctr-web.service.d/override.conf"
    host.write(drop_in, b"[Service]\nEnvironment=MINE=1\nTimeoutStopSec=42\n")
    host.sh("systemctl daemon-reload")
    host.gear("install", "hello", "web", "-e", "A=1", "--start")
    assert host.show("ctr-web", "TimeoutStopUSec") == "42s"
    assert host.read(drop_in) == b"[Service]\nEnvironment=MINE=1\nTimeoutStopSec=42\n"
    assert drop_in in host.out("systemctl", "cat", "ctr-web")
    # What the unit's environment says is systemd's and the helper's; the payload's comes from its image and spec.
    assert b"MINE=1" not in host.read(f"/proc/{host.pid('web')}/environ").split(b"\0")
    host.gear("stop", "web")
    host.out("systemctl", "mask", "ctr-web")
    assert "web is masked, so systemd will not start it.\nhint: systemctl unmask ctr-web" in host.fails(
        1, "start", "web"
    )
    host.out("systemctl", "unmask", "ctr-web")
    host.out("systemctl", "enable", "--now", "ctr-web")
    assert host.json("status", "web")[0]["boot"] == "enabled"
    done = host.run("gear", "delete", "web")
    assert b"your own settings for it are still in /etc/systemd/system/ctr-web.service.d" in done.stderr
    assert host.read(drop_in)
    host.sh("rm -r /etc/systemd/system/ctr-web.service.d && systemctl daemon-reload")


def test_every_unit_passes_systemds_own_check(host: GearHost) -> None:
    host.sh("mkdir -p '/srv/with space %n $HOME' ")
    host.gear("install", "hello", "plain")
    host.gear("install", "hello", "full", "-v", "/srv/with space %n $HOME:/data", "-v", "vol:/vol", "--tmpfs", "/t",
              "--net", "host", "--restart", "always", "--stop-signal", "RTMIN+3", "--stop-timeout", "0",
              "--slice", "container-small", "--label", "a=%b", "-e", "X=%n")  # fmt: skip
    units = host.sh(f"ls {UNITS}/ctr-*.service {UNITS}/container*").split()
    assert len(units) == 8
    done = host.run("systemd-analyze", "verify", *units, check=False)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    host.gear("start", "full")
    assert host.show("ctr-full", "Slice") == "container-small.slice"
    assert '"/srv/with space %n \\$HOME"' in host.show("ctr-full", "RequiresMountsFor")


def test_hostile_texts_reach_the_payload_and_not_the_unit(host: GearHost) -> None:
    texts = ["two\nlines", "%n %% $HOME ${HOME}", "quote\"quote'", "back\\slash\\", " lead and trail ", "-dash", "@at",
             "", "\t", "ünïcode", "x=y=z", "\x7f\x01"]  # fmt: skip
    options = [word for number, text in enumerate(texts) for word in ("-e", f"V{number}={text}")]
    options += ["--label", f"note={texts[0]}", "--workdir", "/www", "--hostname", "host-1"]
    host.gear("install", "hello", "odd", *options, "--start", "--", "sh", "-c", "sleep 1000; :", *texts)
    unit = host.read(f"{UNITS}/ctr-odd.service").decode()
    host.gear("install", "hello", "even", "--workdir", "/www", "--", "sh", "-c", "sleep 1000; :")
    assert unit.replace("odd", "even") == host.read(f"{UNITS}/ctr-even.service").decode()
    pid = host.pid("odd")
    environ = host.read(f"/proc/{pid}/environ").decode().split("\0")
    for number, text in enumerate(texts):
        assert f"V{number}={text}" in environ
    assert host.read(f"/proc/{pid}/cmdline").decode().split("\0")[-len(texts) - 1 : -1] == texts
    assert host.out("readlink", f"/proc/{pid}/cwd") == "/www"
    assert json.loads(host.gear("inspect", "odd"))[0]["spec"]["labels"] == {"note": texts[0]}


def test_bytes_that_are_no_utf_8_survive(host: GearHost) -> None:
    host.write("/root/env", b'# a comment\nRAW=\xff\xfe bytes\nPLAIN\nEMPTY=\n\nQUOTED="as is"\r\n')
    host.gear("install", "hello", "raw", "--env-file", "/root/env", "--start", env={"PLAIN": "from outside"})
    environ = host.read(f"/proc/{host.pid('raw')}/environ").split(b"\0")
    for wanted in (b"RAW=\xff\xfe bytes", b"PLAIN=from outside", b"EMPTY=", b'QUOTED="as is"'):
        assert wanted in environ
    host.write("/root/env", b"fine=1\nnot fine=2\n")
    assert "Line 2 of /root/env is not NAME=VALUE." in host.fails(
        2, "install", "hello", "raw", "--env-file", "/root/env"
    )


def test_volumes_binds_and_tmpfs(host: GearHost) -> None:
    host.sh(
        "rm -rf /var/lib/t; mkdir -p /var/lib/t; cd /var/lib/t; mkdir ro rw mapped; echo data > ro/file; chmod 777 rw"
    )
    script = (
        "set -x; cat /ro/file; ! touch /ro/x; touch /rw/plain; touch /mapped/as-root; echo kept >> /vol/log; id -u;"
        " touch /t/x; df -m /t | tail -n 1; stat -c %u /mapped/as-root; cat /vol/log; echo done; exec sleep 1000"
    )
    arguments = (
        "--user",
        "0",
        "-v",
        "/var/lib/t/ro:/ro:ro",
        "-v",
        "/var/lib/t/rw:/rw",
        "-v",
        "/var/lib/t/mapped:/mapped:idmap",
        "-v",
        "kept:/vol",
        "--tmpfs",
        "/t:size=3m",
        "--entrypoint",
        "/bin/sh",
        "--",
        "-c",
        script,
    )
    host.gear("install", "hello", "vols", "--start", *arguments)
    host.wait(lambda: "done" in host.gear("logs", "vols").split("\n"), "the script")
    said = host.gear("logs", "vols")
    assert "data" in said and "Read-only file system" in said and "3" in said
    base = host.json("status", "vols")[0]["uid_range"]["base"]
    assert host.sh("stat -c %u /var/lib/t/rw/plain") == str(base)
    assert host.sh("stat -c %u /var/lib/t/mapped/as-root /var/lib/gear/volumes/kept/data/log") == "0\n0"
    # The volume outlives the container, and serves the next one, whatever ids that has.
    host.gear("delete", "vols")
    host.gear("install", "hello", "other")
    host.gear("install", "hello", "vols", "--start", *arguments)
    host.wait(lambda: host.gear("logs", "-i", "vols").count("kept\n") >= 2, "both lines in the volume")
    host.gear("delete", "--volumes", "vols")
    assert host.run("test", "-e", "/var/lib/gear/volumes/kept", check=False).returncode == 1
    assert host.sh("cat /var/lib/t/ro/file") == "data"


def test_read_only_root_and_hostname(host: GearHost) -> None:
    script = "hostname; cat /etc/hostname; grep -c h1 /etc/hosts; touch /x 2>&1; touch /tmp/y && echo tmp; sleep 1000"
    host.gear("install", "hello", "ro", "--read-only", "--tmpfs", "/tmp", "--hostname", "h1", "--user", "0", "--start",
              "--entrypoint", "/bin/sh", "--", "-c", script)  # fmt: skip
    host.wait(lambda: "tmp" in host.gear("logs", "ro").split(), "the script")
    assert host.gear("logs", "ro").splitlines() == [
        "h1",
        "h1",
        "2",  # with its address of IPv4, and of IPv6
        "touch: /x: Read-only file system",
        "tmp",
    ]
