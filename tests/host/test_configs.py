"""Configs: files that nobody inside can change, which containers that run get, and reloads that kill nothing."""

from __future__ import annotations

from gearhost import GearHost

# Prints its file whenever it is told to, and ends when it is to stop.
SERVER = (
    "trap 'cat /etc/app/app.conf' HUP; trap 'exit 0' TERM; cat /etc/app/app.conf; while :; do sleep 0.1; done"
)


def keep(host: GearHost, name: str, content: bytes, *options: str) -> str:
    return host.run("gear", "config", "create", name, *options, input=content).stdout.decode()


def needed(host: GearHost, name: str) -> bool:
    return bool(host.json("status", name)[0]["restart_needed"])


def test_a_change_reaches_what_runs(host: GearHost) -> None:
    keep(host, "cf-app", b"one\n")
    install = (
        "install",
        "hello",
        "cf-web",
        "--start",
        "--restart",
        "no",
        "--config",
        "cf-app:/etc/app/app.conf,uid=8080",
    )
    host.gear(
        *install, "--reload-signal", "HUP", "--user", "www", "--entrypoint", "/bin/sh", "--", "-c", SERVER
    )
    host.wait(lambda: "one" in host.gear("logs", "cf-web"), "the first content")
    pid = host.pid("cf-web")
    status = host.gear("exec", "--user", "0", "cf-web", "ls", "-ln", "/etc/app/app.conf")
    assert status.startswith("-r--r--r--") and " 8080 " in status
    for script in ("echo x > /etc/app/app.conf", "rm -f /etc/app/app.conf"):
        assert (
            host.run("gear", "exec", "--user", "0", "cf-web", "sh", "-c", script, check=False).returncode != 0
        )
    assert "cf-web is reloaded" in keep(host, "cf-app", b"two, and longer\n", "--replace")
    host.wait(lambda: "two, and longer" in host.gear("logs", "cf-web"), "the second content")
    assert "cf-web is reloaded" in keep(host, "cf-app", b"3\n", "--replace")
    assert host.gear("exec", "cf-web", "cat", "/etc/app/app.conf") == "3\n"
    assert keep(host, "cf-app", b"3\n", "--replace") == "the config cf-app is kept\n"
    # By hand, and by systemd.
    host.gear("reload", "cf-web")
    host.sh("systemctl reload ctr-cf-web.service")
    assert host.pid("cf-web") == pid and not needed(host, "cf-web")
    assert host.gear("inspect", "cf-web").count('"altered": []') == 1
    assert "in use by cf-web" in host.fails(1, "config", "rm", "cf-app")
    # Restarts keep what was changed; what is installed without it has no file of it left.
    host.gear("restart", "cf-web")
    assert host.gear("exec", "cf-web", "cat", "/etc/app/app.conf") == "3\n"
    host.gear("install", "hello", "cf-web")
    assert host.sh("ls /var/lib/gear/containers/cf-web | grep config- || :") == ""
    host.gear("delete", "cf-web")
    host.gear("config", "rm", "cf-app")


def test_who_cannot_hear_is_not_killed(host: GearHost) -> None:
    keep(host, "cf-deaf", b"one\n")
    options = (
        "--start",
        "--restart",
        "no",
        "--config",
        "cf-deaf:/etc/deaf.conf",
        "--entrypoint",
        "/bin/sleep",
    )
    host.gear(
        "install", "hello", "cf-deaf", *options, "--reload-signal", "HUP", "--pid", "host", "--", "1000"
    )
    host.gear("install", "hello", "cf-mute", *options, "--", "1000")
    pids = host.pid("cf-deaf"), host.pid("cf-mute")
    done = host.run("gear", "config", "create", "cf-deaf", "--replace", input=b"two\n", check=False)
    assert done.returncode == 1 and b"no handler for signal 1" in done.stderr
    assert b"gear restart cf-mute" in done.stdout
    assert (host.pid("cf-deaf"), host.pid("cf-mute")) == pids
    assert needed(host, "cf-deaf") and needed(host, "cf-mute")
    assert host.gear("exec", "cf-mute", "cat", "/etc/deaf.conf") == "two\n"
    assert "no reload signal" in host.fails(1, "reload", "cf-mute")
    host.gear("stop", "cf-mute", "cf-deaf")
    assert "does not run" in host.fails(1, "reload", "cf-deaf")
    # Killed between the config and what containers have of it: the same again does the rest.
    for step in [("rename", 1), ("rename", 2), ("fsync", 2), ("fsync", 3)]:
        host.killed(step, "config", "create", "cf-deaf", "/etc/hostname", "--replace")
        host.gear("config", "create", "cf-deaf", "/etc/hostname", "--replace")
        rendered = host.read("/var/lib/gear/containers/cf-mute/config-cf-deaf")
        assert rendered == host.read("/etc/hostname") == host.run("gear", "config", "cat", "cf-deaf").stdout
        keep(host, "cf-deaf", b"x", "--replace")
        host.gear("clean")
    host.gear("delete", "cf-mute", "cf-deaf")
    host.gear("config", "rm", "cf-deaf")
