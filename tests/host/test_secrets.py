"""Secrets: encrypted on disk, in memory for the payload's user, and nowhere else."""

from __future__ import annotations

import re
import secrets

from gearhost import GearHost

# Where PID 1 has them decrypted, for root alone, while the unit runs.
CREDENTIALS = "/run/credentials"


def keep(host: GearHost, name: str, value: bytes, *options: str) -> str:
    return host.run("gear", "secret", "create", name, *options, input=value).stdout.decode()


def sleeper(host: GearHost, name: str, *options: str) -> None:
    host.gear(
        "install",
        "hello",
        name,
        "--start",
        "--restart",
        "no",
        "--entrypoint",
        "/bin/sleep",
        *options,
        "--",
        "1000",
    )


def forget(host: GearHost, *names: str) -> None:
    for container in host.gear("list-units", "--all", "--quiet").split():
        host.gear("delete", container)
    host.gear("secret", "rm", *names)


def places_of(host: GearHost, value: bytes) -> list[str]:
    """Where *value* is found on the host: files, command lines, environments, the journal."""
    # Not in an argument of what looks for it, and not in a place where that looks.
    host.write("/dev/shm/sec-pattern", value, mode="600")
    found = host.sh(
        "grep -rlF -f /dev/shm/sec-pattern --exclude-dir=credentials --exclude-dir=sys"
        " /var/lib /var/log /var/tmp /tmp /etc /usr/local /root /run 2>/dev/null || :\n"
        "grep -lF -f /dev/shm/sec-pattern /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null || :\n"
        "journalctl --no-pager -o export | grep -cF -f /dev/shm/sec-pattern | grep -v '^0$' || :\n"
        "rm /dev/shm/sec-pattern"
    )
    return found.split()


def test_a_secret_is_nowhere_but_in_memory(host: GearHost) -> None:
    value = secrets.token_hex(16).encode()
    mounts = host.mount_table()
    assert "sec-one is kept" in keep(host, "sec-one", value, "--label", "for=tests")
    keep(host, "sec-two", value)
    one, two = (host.read(f"/var/lib/gear/secrets/{name}/credential") for name in ("sec-one", "sec-two"))
    assert one != two and value not in one
    sleeper(host, "sec-web", "--user", "www", "--secret", "sec-one")
    host.gear("snapshot", "--no-pause", "sec-web", "before")
    host.gear("commit", "--no-pause", "sec-web", "sec-committed:1")
    told = (
        host.gear("inspect", "sec-web")
        + host.gear("status", "sec-web")
        + host.gear("secret", "inspect", "sec-one")
    )
    told += host.gear("logs", "sec-web", "--all") + host.sh("systemctl show ctr-sec-web.service")
    assert value.decode() not in told and '"for": "tests"' in told
    assert host.gear("exec", "sec-web", "cat", "/run/secrets/sec-one") == value.decode()
    assert places_of(host, value) == []
    # In memory that is never written to a swap device, and gone with the container.
    pid = host.pid("sec-web")
    line = host.sh(f"grep ' /run/secrets ' /proc/{pid}/mountinfo")
    assert " ro,nosuid,nodev,noexec" in line and ("noswap" in line or "ramfs" in line)
    host.gear("stop", "sec-web")
    assert [mount for mount in host.mount_table() if mount not in mounts] == []
    assert host.sh(f"ls {CREDENTIALS} | grep ctr- || :") == ""
    host.gear("image", "rm", "sec-committed:1")
    forget(host, "sec-one", "sec-two")


def test_only_whom_it_is_for_reads_it(host: GearHost) -> None:
    keep(host, "sec-file", b"inner\n\0bytes")
    keep(host, "sec-word", b"word \xff$x'")
    error = host.run(
        "gear", "install", "hello", "sec-user", "--start", "--restart", "no", "--user", "www", "--read-only",
        "--secret", "sec-file", "--secret", "sec-word,target=/etc/tls/key.pem,uid=0,gid=8080,mode=0440",
        "--secret", "sec-word,type=env,target=SEC_WORD", "--entrypoint", "/bin/sleep", "--", "1000",
    ).stderr.decode()  # fmt: skip
    assert "warning: the secret sec-word will be in the environment" in error

    def inside(script: str, user: str = "www") -> str:
        command = ("gear", "exec", "--user", user, "sec-user", "sh", "-c", f"{{ {script}; }} 2>&1 || :")
        return host.run(*command).stdout.decode(errors="replace")

    assert inside("cat $CREDENTIALS_DIRECTORY/sec-file") == "inner\n\0bytes"
    assert "-r--r-----" in inside("ls -ln /etc/tls/key.pem") and "word" in inside("cat /etc/tls/key.pem")
    assert "Permission denied" in inside("cat /run/secrets/sec-file", "12345:12345")
    assert "Permission denied" in inside("cat /etc/tls/key.pem", "12345:12345")
    for script in (
        "echo x > /run/secrets/sec-file",
        "rm -f /run/secrets/sec-file",
        "chmod 444 /run/secrets/sec-file",
    ):
        assert "Read-only file system" in inside(script, "0"), script
    for script in ("mount -o remount,rw /run/secrets", "umount /run/secrets"):
        assert re.search("not permitted|denied", inside(script, "0")), script
    # In the environment of the payload alone, byte for byte.
    assert b"\0SEC_WORD=word \xff$x'\0" in b"\0" + host.read(f"/proc/{host.pid('sec-user')}/environ")
    assert "SEC_WORD" not in inside("env") and "SEC_WORD" not in host.gear("inspect", "sec-user").replace(
        '"SEC_WORD"', ""
    )
    forget(host, "sec-file", "sec-word")


def test_rotation_and_removal(host: GearHost) -> None:
    keep(host, "sec-turn", b"first")
    assert "There is a secret sec-turn already." in host.fails(
        1, "secret", "create", "sec-turn", "/etc/hostname"
    )
    sleeper(host, "sec-user", "--secret", "sec-turn", "--userns", "host", "--user", "0")
    assert host.json("status", "sec-user")[0]["restart_needed"] is False
    assert "gear restart sec-user" in keep(host, "sec-turn", b"second", "--replace")
    assert host.json("status", "sec-user")[0]["restart_needed"] is True
    assert host.gear("exec", "sec-user", "cat", "/run/secrets/sec-turn") == "first"
    host.gear("restart", "sec-user")
    assert host.gear("exec", "sec-user", "cat", "/run/secrets/sec-turn") == "second"
    assert "in use by sec-user" in host.fails(1, "secret", "rm", "sec-turn")
    assert {row["name"]: row["containers"] for row in host.json("secret", "list")}["sec-turn"] == ["sec-user"]
    assert "There is no secret sec-none." in host.fails(
        1, "install", "hello", "sec-other", "--secret", "sec-none"
    )
    # A credential of another machine, or of another name.
    host.sh(
        "printf x | systemd-creds encrypt --with-key=host --name=other - /var/lib/gear/secrets/sec-turn/credential"
    )
    error = host.fails(1, "restart", "sec-user")
    assert "could not read or decrypt one of its secrets" in error
    host.sh("mv /var/lib/gear/secrets/sec-turn /root/sec-turn")
    assert "sec-user has the secret sec-turn" in host.run("gear", "fsck", check=False).stdout.decode()
    host.sh("mv /root/sec-turn /var/lib/gear/secrets/sec-turn")
    forget(host, "sec-turn")


def test_what_is_run_once_has_secrets(host: GearHost) -> None:
    keep(host, "sec-once", b"once")
    options = ("--rm", "--secret", "sec-once", "--secret", "sec-once,type=env,target=ONCE")
    done = host.run(
        "gear", "run", *options, "hello", "sh", "-c", "cat /run/secrets/sec-once; echo $ONCE", input=b""
    )
    assert done.stdout == b"onceonce\n"
    host.gear("run", "--detach", "--name", "sec-back", *options, "hello", "sleep", "1000")
    assert host.gear("exec", "sec-back", "cat", "/run/secrets/sec-once") == "once"
    assert "sec-back" in host.fails(1, "secret", "rm", "sec-once")
    host.gear("stop", "sec-back")
    assert "error" in host.fails(1, "run", "--rm", "--secret", "sec-none", "hello", "true")
    forget(host, "sec-once")


def test_a_killed_create_or_rm_leaves_a_whole_secret_or_none(host: GearHost) -> None:
    host.write("/root/sec-value", b"new")
    create = ("secret", "create", "sec-kill", "/root/sec-value", "--replace")
    remove = ("secret", "rm", "sec-kill")
    there = "test -e /var/lib/gear/secrets/sec-kill/credential && echo there || :"
    # The first are those of the files, the last of the directory that has them.
    for step in (("fsync", 1), ("rename", 1), ("rename", 2), ("rename", 3)):
        host.killed(step, *create)
        if host.sh(there):
            assert decrypted(host) == "new"
    host.gear(*create)
    for step in (("rename", 1), ("unlinkat", 1), ("unlinkat", 2), ("rmdir", 1)):
        if host.sh(there):
            host.killed(step, *remove)
        assert not host.sh(there) or decrypted(host) == "new"
    host.gear("clean")
    host.gear(*create)
    assert decrypted(host) == "new"
    host.gear(*remove)
    assert host.sh("ls -A /var/lib/gear/secrets | grep -e sec-kill -e partial || :") == ""


def decrypted(host: GearHost) -> str:
    return host.out(
        "systemd-creds", "decrypt", "--name=sec-kill", "/var/lib/gear/secrets/sec-kill/credential", "-"
    )
