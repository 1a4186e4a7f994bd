"""What a payload tries from inside: keyrings, terminals, sockets, the service manager, and whatever can be used up."""

from __future__ import annotations

import json

import archives
from attacking import PROBE, REFUSED, Attacker, command, gained

# FILE: makes as many inotify instances as it can, tells how many that were, and keeps them while there is FILE.
INOTIFY = """
import ctypes, os, sys, time
library, made = ctypes.CDLL(None), 0
while library.inotify_init1(0) >= 0:
    made += 1
print(made, flush=True)
while os.path.exists(sys.argv[1]):
    time.sleep(0.05)
"""
AS_NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


def test_keys_are_not_shared(attacker: Attacker) -> None:
    host = attacker.host
    attacker.start("keys-a", "keyring", "add", "gear-secret")
    added = attacker.result("keys-a")
    found = attacker.attack("keyring", "find", "gear-secret", name="keys-b")
    assert not gained(found) and found["guessed"] == "0", found
    assert set(found.values()) - {"0"} <= REFUSED | {"ENOKEY", "ENOENT"}
    # The host's root neither finds the key in its keyrings nor has its own found.
    on_host = attacker.control(
        "keyring", "find", "gear-secret", wrapper=("systemd-run", "-q", "--pipe", "--wait")
    )
    assert not gained(on_host), on_host
    assert added["listed"] in ("ENOENT", *REFUSED)
    # In one session the same search finds it.
    script = f"{PROBE} keyring add gear-secret session; {PROBE} keyring find gear-secret"
    assert "find-session ok" in host.sh(
        f"systemd-run -q --pipe --wait -p KeyringMode=private sh -c '{script}'"
    )
    # With the default profile no keyring can be reached at all.
    assert not [name for name in gained(added) if name.startswith("add-")], added


def test_no_terminal_of_the_host_is_in_reach(attacker: Attacker) -> None:
    result = attacker.attack("terminal")
    assert not gained(result), result
    # The same in a terminal of the host pushes its line: script(1) has one.
    run = "script -qec '/root/attacks/probe terminal x' /dev/null </dev/null"
    control = attacker.host.sh(f"sysctl -qn dev.tty.legacy_tiocsti 2>/dev/null || echo 1; {run}").replace(
        "\r", ""
    )
    if control.startswith("1"):
        assert "sti-stdin ok" in control or "sti-tty ok" in control, control


def test_no_socket_of_the_host_is_in_reach(attacker: Attacker) -> None:
    result = attacker.attack("sockets")
    assert result["connected"] == "0" and not gained(result), result
    assert result["notify"] == "unset"
    assert "connect-/run/systemd/private" in gained(attacker.control("sockets"))


def test_gear_listens_on_no_abstract_address(attacker: Attacker) -> None:
    """CVE-2020-15257: a container on the host's network sees the host's abstract sockets; none of them is gear's."""
    host = attacker.host
    names = "ss -xlH 2>/dev/null | awk '{print $5}' | grep ^@ || :"
    before = set(host.sh(names).split())
    attacker.start("abstract", "sockets", options=("--net", "host"))
    result = attacker.result("abstract")
    assert set(host.sh(names).split()) <= before
    reached = {name for name in result if name.startswith("abstract")}
    assert not any("gear" in result[name] for name in reached), result
    assert not [name for name in gained(result) if name.startswith("connect-")]


def test_nothing_that_a_payload_prints_is_believed(attacker: Attacker) -> None:
    """Lines that look like messages to the service manager, journal fields or priorities stay lines."""
    host = attacker.host
    host.sh("systemd-run -q --unit=victim sleep 10000")
    victim = host.show("victim", "MainPID")
    words = (
        f"MAINPID={victim}",
        "READY=1",
        "<0>panic",
        "_SYSTEMD_UNIT=victim.service",
        "_PID=1",
        "STOPPING=1",
    )
    lines = "\\n".join((*words, "WATCHDOG=trigger"))
    script = f"printf '{lines}\\nthe-end\\n'; printf '{lines}\\n' >&2; exec sleep 1000"
    host.gear(
        "install",
        "hello",
        "forger",
        "--restart",
        "no",
        "--start",
        "--entrypoint",
        "/bin/sh",
        "--",
        "-c",
        script,
    )
    host.wait(lambda: "the-end" in host.gear("logs", "forger"), "the script")
    assert host.show("ctr-forger", "MainPID") != victim and host.show("ctr-forger", "ActiveState") == "active"
    fields = [
        json.loads(line) for line in host.sh("journalctl -o json -u ctr-forger --no-pager -n 14").splitlines()
    ]
    assert {entry["_SYSTEMD_UNIT"] for entry in fields if "_PID" in entry and entry["_PID"] != "1"} == {
        "ctr-forger.service"
    }
    assert host.sh("journalctl -q -u victim --no-pager | grep -c READY || :") == "0"
    host.sh("systemctl stop victim")


def test_a_payload_that_uses_everything_up_harms_itself(attacker: Attacker) -> None:
    host = attacker.host
    before = host.sh("cat /proc/sys/fs/file-nr | cut -f 1; systemctl is-system-running || :")
    assert int(attacker.attack("exhaust", "descriptors")["count"]) < 1 << 20
    assert int(attacker.attack("exhaust", "inotify")["count"]) < 10000
    # A flood is cut by the journal's rate limit for this service alone; another's lines are kept.
    attacker.start("flood", "exhaust", "journal")
    host.gear("install", "hello", "calm", "--restart", "no", "--start", "--entrypoint", "/bin/sh", "--", "-c",
              "echo still-heard; exec sleep 1000")  # fmt: skip
    host.wait(lambda: "still-heard" in host.gear("logs", "calm"), "the journal's line of another container")
    host.wait(lambda: "uppressed" in host.sh("journalctl -q --no-pager -n 2000 _COMM=systemd-journal || :")
              or int(host.sh("journalctl -q --no-pager -u ctr-flood | wc -l")) >= 60000, "the end")  # fmt: skip
    assert host.sh("systemctl is-system-running || :") == before.split("\n")[1]
    host.gear("delete", "flood", "calm")


def test_set_user_id_programs_of_images_are_out_of_reach_of_host_users(attacker: Attacker) -> None:
    """CVE-2021-41091: nobody but the host's root enters layers, writable layers or volumes."""
    host = attacker.host
    setuid = archives.entry("bin/become", attacker.probe, mode=0o4755)
    attacker.image("setuid", setuid, options=(*command("/bin/probe", "descriptors"), "--volume", "/data"))
    host.gear("install", "setuid", "setuid", "--user", "0", "--restart", "no", "--start")
    attacker.result("setuid")
    found = host.sh("find /var/lib/gear -name become -perm -4000").split()
    assert found
    for path in found:
        # By a shell: setpriv itself still has its capabilities when it looks the program up.
        assert host.run(*AS_NOBODY, "sh", "-c", 'exec "$0"', path, check=False).returncode == 126, path
    # Nor by way of the container's root, whatever the path is called: only root may follow these links of procfs.
    for way in ("root", "cwd", "fd/0", "exe", "map_files"):
        target = f"/proc/{host.pid('setuid')}/{way}"
        assert host.run(*AS_NOBODY, "readlink", target, check=False).returncode != 0, way
    directories = host.sh("find /var/lib/gear -mindepth 1 -maxdepth 1 -type d").split()
    for directory in directories:
        if not directory.endswith(("/helper",)):
            assert host.run(*AS_NOBODY, "ls", directory, check=False).returncode != 0, directory
    # Layers belong to ids that no container has, writable layers to the container's own.
    base = host.json("status", "setuid")[0]["uid_range"]["base"]
    assert host.sh("find /var/lib/gear/images -uid +65535 | head -1") == ""
    owners = host.sh("find /var/lib/gear/containers/setuid/layer-*/upper -printf '%U\\n' | sort -u").split()
    assert all(base <= int(owner) < base + 65536 for owner in owners), owners


def test_what_the_kernel_counts_by_user_is_counted_for_each_container(attacker: Attacker) -> None:
    """One container that takes all inotify instances takes them from nobody else; the same as root does."""
    host = attacker.host
    names = ("pl-greedy", "pl-other")
    for name in names:
        host.gear("install", "hello", name, "--net", "none", "--start", "--", "sleep", "10000")
    host.write("/tmp/pl-inotify.py", INOTIFY.encode(), mode="644")
    most = int(host.sh("cat /proc/sys/fs/inotify/max_user_instances"))
    program = "python3 /tmp/pl-inotify.py"
    greedy, other = (f"nsenter -t {host.pid(name)} -U {program}" for name in names)
    host.sh(f"touch /tmp/pl-keep; {greedy} /tmp/pl-keep >/tmp/pl-made 2>&1 &")
    host.wait(lambda: host.read("/tmp/pl-made") != b"", "its instances")
    # Other hosts under test may have containers with the same ids.
    assert int(host.read("/tmp/pl-made")) > most / 2
    assert int(host.sh(f"{other} /nothing")) > most / 2
    assert int(host.sh(f"{program} /nothing")) > 0
    host.sh("rm /tmp/pl-keep")
    host.wait(lambda: not host.sh("pgrep -f '[p]l-inotify' || :"), "its end")
    host.gear("delete", *names)
    host.sh("rm /tmp/pl-*")


def test_what_is_signalled_is_the_container_and_not_who_has_its_number_now(attacker: Attacker) -> None:
    """The number of an ended payload is given to another process: stop and delete must not touch that one."""
    host = attacker.host
    host.gear("install", "hello", "reused", "--restart", "no", "--start")
    number = host.pid("reused")
    host.sh(f"kill -9 {number}")
    host.wait(lambda: host.show("ctr-reused", "ActiveState") != "active", "the end of the payload")
    # clone3(2) with set_tid takes the number again, as chance would.
    program = (
        "import ctypes, os, struct, sys; n = ctypes.c_int(int(sys.argv[1]));"
        "a = struct.pack('<11Q', 0, 0, 0, 0, 17, 0, 0, 0, ctypes.addressof(n), 1, 0);"
        "p = ctypes.CDLL(None).syscall(435, a, len(a));"
        "os.execvp('sleep', ['sleep', '1000']) if p == 0 else print(p, flush=True)"
    )
    host.wait(
        lambda: host.run("test", "-e", f"/proc/{number}", check=False).returncode == 1,
        "the number to be free",
    )
    host.run(
        "systemd-run", "-q", "--unit=reuser", "-p", "Type=forking", "python3", "-c", program, str(number)
    )
    host.wait(lambda: host.sh(f"cat /proc/{number}/comm || :") == "sleep", "the number to be taken")
    for words in (("stop", "reused"), ("status", "reused"), ("delete", "reused")):
        host.gear(*words)
        assert host.sh(f"cat /proc/{number}/comm") == "sleep"
    host.sh("systemctl stop reuser")
