"""Bad input and a bad world: one clear sentence, a hint, the right exit status, and nothing half done."""

from __future__ import annotations

import pytest
from gearhost import GearHost

EVERYTHING = "cd / && find var/lib/gear usr/local/lib/systemd/system -type f | sort | xargs -r sha256sum"


def snapshot(host: GearHost) -> str:
    """Every file of gear's, with its content."""
    return host.sh(EVERYTHING)


@pytest.mark.parametrize(
    ("status", "sentence", "arguments"),
    [
        (2, "'../x' can't name a container.", ("install", "hello", "../x")),
        (2, "'-x' can't name a container.", ("delete", "--", "-x")),
        (2, "can't name a container.", ("install", "hello", "a" * 64)),
        (2, "'naïve' can't name a container.", ("install", "hello", "naïve")),
        (
            1,
            "There is no image 'nowhere' on this host, and it can't be pulled",
            ("install", "nowhere", "web"),
        ),
        (1, "There is no image 'nowhere' on this host.", ("install", "--pull", "never", "nowhere", "web")),
        (2, "No container is named.", ("install", "hello", "A=b")),
        (2, "can't be bound: it has control characters.", ("install", "hello", "web", "-v", "/a\nb:/c")),
        (
            2,
            "there is no such file or directory on this machine.",
            ("install", "hello", "web", "-v", "/nowhere:/c"),
        ),
        (2, "is no volume.", ("install", "hello", "web", "-v", "/data")),
        (2, "Nothing can be mounted on /proc/x", ("install", "hello", "web", "-v", "/srv:/proc/x")),
        (2, "Two mounts are asked for on /c.", ("install", "hello", "web", "--tmpfs", "/c", "-v", "v:/c/")),
        (2, "A bind mount has no option 'suid'.", ("install", "hello", "web", "-v", "/srv:/c:suid")),
        (2, "'../v' can't name a volume.", ("install", "hello", "web", "-v", "../v:/c")),
        (2, "'lots' is no size.", ("install", "hello", "web", "--memory", "lots")),
        (2, "'0' is no number of processors.", ("install", "hello", "web", "--cpus", "0")),
        (2, "'-1' is no limit of processes.", ("install", "hello", "web", "--pids-limit=-1")),
        (2, "'SIGNOTHING' is no signal.", ("install", "hello", "web", "--stop-signal", "SIGNOTHING")),
        (2, "is no restart policy.", ("install", "hello", "web", "--restart", "perhaps")),
        (2, "'bridge' can't name a network.", ("install", "hello", "web", "--net", "bridge")),
        (2, "can't name a slice.", ("install", "hello", "web", "--slice", "../x")),
        (2, "can't be a host name.", ("install", "hello", "web", "--hostname", "no\nname")),
        (2, "can't name an environment variable.", ("install", "hello", "web", "-e", "=x")),
        (2, "There is no file /nowhere", ("install", "hello", "web", "--env-file", "/nowhere")),
        (2, "must be an absolute path in the container", ("install", "hello", "web", "--workdir", "www")),
        (2, "Unrecognized arguments: --frobnicate.", ("install", "hello", "web", "--frobnicate")),
        (2, "There is no verb 'conjure'.", ("conjure", "hello", "web")),
        (2, "takes no command after --.", ("start", "web", "--", "x")),
        (2, "must be an absolute path", ("--state-dir", "relative", "ps")),
        (1, "has nothing to run", ("install", "hello", "web", "--entrypoint", "")),
    ],
)
def test_wrong_requests(host: GearHost, status: int, sentence: str, arguments: tuple[str, ...]) -> None:
    before = snapshot(host)
    if arguments[:2] == ("delete", "--"):
        arguments = ("delete", "../-x")
        sentence = "'../-x' can't name a container."
    error = host.fails(2 if "nothing to run" in sentence else status, *arguments)
    assert sentence in error and error.startswith("error: ") and error.count("error: ") == 1, error
    assert snapshot(host) == before


def test_limits_are_refused_where_nothing_would_enforce_them(host: GearHost) -> None:
    if host.host.cgroup == "v2":
        pytest.fail(
            "this test needs a host with cgroup v1: contrib/testhost boots nested hosts as the machine is"
        )
    before = snapshot(host)
    for options, controller in (
        (("--memory", "64m"), "memory"),
        (("--cpus", "0.5"), "cpu"),
        (("--pids-limit", "10"), "pids"),
    ):
        error = host.fails(1, "install", "hello", "web", *options)
        assert f"this machine has no {controller} controller." in error and "\nhint: " in error
    assert snapshot(host) == before


def test_only_root_may(host: GearHost) -> None:
    for verb in (("install", "hello", "x"), ("start", "x"), ("status", "x"), ("ps",), ("delete", "x"), ("clean",),
                 ("logs", "x"), ("purge",), ("image", "load", "/root/hello")):  # fmt: skip
        done = host.run(
            "setpriv", "--reuid", "33", "--regid", "33", "--clear-groups", "gear", *verb, check=False
        )
        assert done.returncode == 1, (verb, done)
        error = done.stderr.decode()
        assert error.startswith("error: ") and "\nhint: " in error and "sudo" in error, error
    done = host.run("setpriv", "--reuid", "33", "--regid", "33", "--clear-groups", "gear", "version")
    assert done.stdout.startswith(b"gear ")


def test_without_systemd_it_says_so(host: GearHost) -> None:
    script = "mount -t tmpfs none /run && gear ps"
    done = host.run("unshare", "--mount", "sh", "-c", script, check=False)
    assert done.returncode == 1
    assert done.stderr.decode().startswith("error: systemd is not running on this machine")
    script = "mount -t tmpfs none /run/dbus && gear ps"
    done = host.run("unshare", "--mount", "sh", "-c", script, check=False)
    assert done.returncode == 1
    assert "error: The system bus can't be reached" in done.stderr.decode()


def test_calls_wait_for_a_busy_pid_1(host: GearHost) -> None:
    # It is in no hurry now, and often answers before anybody has to wait.
    waits = "strace -f -e trace=ppoll gear ps 2>&1 >/dev/null | grep -o 'tv_sec=[0-9]*' || :"
    host.wait(lambda: {"tv_sec=179", "tv_sec=180"} & set(host.sh(waits).split()), "a wait of three minutes")


def test_a_kernel_without_user_namespaces_is_named(host: GearHost) -> None:
    # A new user namespace may have its own limit of further ones: none.
    script = "echo 0 > /proc/sys/user/max_user_namespaces; gear install hello x"
    done = host.run("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private", "sh", "-c",
                    "mount -t proc proc /proc 2>/dev/null; " + script, check=False)  # fmt: skip
    if b"Read-only" in done.stderr:
        done = host.run("unshare", "--mount", "sh", "-c",
                        "echo 0 > /run/none && mount --bind /run/none /proc/sys/user/max_user_namespaces"
                        " && gear install hello x", check=False)  # fmt: skip
    assert done.returncode == 1
    assert "User namespaces are switched off on this machine" in done.stderr.decode(), done


def test_a_missing_program_is_named_with_its_package(host: GearHost) -> None:
    host.gear("install", "hello", "web")
    done = host.run(
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount --bind /dev/null /usr/bin/journalctl; gear logs web",
        check=False,
    )
    assert done.returncode == 1
    expected = "error: The program journalctl is not installed.\nhint: apt-get install systemd\n"
    assert done.stderr.decode() == expected


def test_a_full_disk_leaves_what_was_there(host: GearHost) -> None:
    units = "/usr/local/lib/systemd/system"
    listing = f"cd /run/full/gear && find . -not -name lock | sort; ls {units} | grep ctr-second || :"
    state = ("--state-dir", "/run/full/gear")
    host.sh("mkdir -p /run/full && mount -t tmpfs -o size=8m tmpfs /run/full")
    try:
        host.gear(*state, "image", "load", "/root/hello")
        host.gear(*state, "install", "hello", "first")
        before = host.sh(listing)
        outcomes = set()
        # With less and less room the disk is full at one step after the other.
        for blocks in (40, 16, 12, 10, 8, 7, 6, 5, 4, 3, 2, 1, 0):
            host.sh("rm -f /run/full/ballast; dd if=/dev/zero of=/run/full/ballast bs=4k 2>/dev/null || :")
            host.sh(f"truncate -s -{blocks * 4}k /run/full/ballast")
            done = host.run("gear", *state, "install", "hello", "second", "-v", "data:/data", check=False)
            outcomes.add(done.returncode)
            if done.returncode == 0:
                host.gear(*state, "delete", "--volumes", "second")
            else:
                error = done.stderr.decode()
                assert "the file system is full" in error and "hint: Free some space" in error, error
            assert host.sh(listing) == before, f"with {blocks} blocks left"
        assert outcomes == {0, 1}
        assert "full" in host.fails(1, *state, "image", "import", "/root/hello", "other")
        # With room again the same command does it.
        host.sh("rm /run/full/ballast")
        host.gear(*state, "install", "hello", "second")
        host.gear(*state, "delete", "--volumes", "first", "second")
    finally:
        host.sh("umount -l /run/full")


def test_a_failed_change_leaves_the_container_byte_for_byte(host: GearHost) -> None:
    host.gear("install", "hello", "web", "-e", "A=1", "--start")
    pid, before = host.pid("web"), snapshot(host)
    # A unit directory that can't be written: the unit is published last, everything else has to go back.
    host.sh("mount --bind -o ro /usr/local/lib/systemd/system /usr/local/lib/systemd/system 2>/dev/null"
            " && mount -o remount,bind,ro /usr/local/lib/systemd/system")  # fmt: skip
    try:
        error = host.fails(1, "install", "hello", "web", "-e", "A=2", "--stop-timeout", "3")
        assert "read-only" in error
        assert "read-only" in host.fails(1, "install", "hello", "new", "-v", "fresh:/data")
    finally:
        host.sh("umount /usr/local/lib/systemd/system")
    assert snapshot(host) == before
    assert host.pid("web") == pid
    assert host.run("test", "-e", "/var/lib/gear/volumes/fresh", check=False).returncode == 1
    assert host.leftovers() == []


def test_damaged_and_hostile_archives(host: GearHost) -> None:
    before = snapshot(host)
    make = """
import io, json, hashlib, os, tarfile
os.makedirs('/root/bad', exist_ok=True)
def tar(name, members):
    with tarfile.open('/root/bad/' + name, 'w') as out:
        for info, data in members:
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
def member(name, data=b'x', kind=tarfile.REGTYPE, target=''):
    info = tarfile.TarInfo(name); info.type = kind; info.linkname = target
    return info, (data if kind == tarfile.REGTYPE else b'')
tar('dotdot.tar', [member('../../../../../../root/escaped')])
tar('through.tar', [member('out', kind=tarfile.SYMTYPE, target='/root'), member('out/../../root/escaped')])
tar('hard.tar', [member('shadow', kind=tarfile.LNKTYPE, target='../../../../../../etc/shadow')])
open('/root/bad/short.tar', 'wb').write(open('/root/bad/through.tar', 'rb').read()[:700])
open('/root/bad/noise.tar', 'wb').write(os.urandom(4096))
"""
    host.run("python3", "-c", make)
    for archive in ("dotdot.tar", "through.tar", "hard.tar", "short.tar", "noise.tar"):
        error = host.fails(1, "image", "import", f"/root/bad/{archive}", "bad")
        assert error.startswith("error: ") and len(error.splitlines()) <= 2, error
        assert snapshot(host) == before, archive
    assert host.run("test", "-e", "/root/escaped", check=False).returncode == 1
    # A blob that is not what its digest says.
    host.sh("rm -rf /root/wrong && cp -r /root/hello /root/wrong && f=$(ls -S /root/wrong/blobs/sha256/* | head -n 1)"
            " && printf X | dd of=$f bs=1 seek=100 conv=notrunc 2>/dev/null")  # fmt: skip
    error = host.fails(1, "--state-dir", "/root/state", "image", "load", "/root/wrong", "--name", "wrong")
    assert "sha256:" in error
    assert host.sh("find /root/state -type f -not -name lock") == ""
    assert snapshot(host) == before
    # A link out of an image is only ever followed inside it.
    host.sh("rm -rf /root/evil && mkdir -p /root/evil/etc /root/evil/bin && cp /bin/busybox /root/evil/bin/sh"
            " && ln -s /etc/shadow /root/evil/etc/passwd && mkfifo /root/evil/etc/group")  # fmt: skip
    host.gear("image", "import", "/root/evil", "evil", "--cmd", '["sh"]', "--user", "daemon")
    error = host.fails(2, "install", "evil", "evil")
    assert "daemon" in error
    host.gear("image", "rm", "evil")
    assert host.leftovers() == []
