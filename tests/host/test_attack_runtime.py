"""Attacks on what runs when a container starts: the interpreter, its descriptors, its working directory."""

from __future__ import annotations

import json

import archives
from attacking import REFUSED, Attacker, command, gained

PYTHON = "/usr/bin/python3"
# Paths that lead, or once led other engines, to a descriptor or directory of the host (CVE-2024-21626).
DIRECTORIES = (
    *(f"/proc/self/fd/{number}" for number in range(3, 24)),
    "/proc/self/fd/7/../../..",
    "/proc/1/fd/8",
    "/proc/thread-self/fd/9",
    "/proc/self/cwd/../../../../..",
    "/proc/self/task/1/fd/10",
    "/link/etc",
    "/dev/fd/11",
)


def test_the_interpreter_is_not_written_to_through_proc(attacker: Attacker) -> None:
    """CVE-2019-5736: the image's program is the helper's own, run by a loader that belongs to the image."""
    host = attacker.host
    before = host.sh(f"sha256sum {PYTHON}; stat -Lc '%a %u %g %Z' {PYTHON}")
    names = ("lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1")
    loader = [archives.entry(name, attacker.loader, mode=0o755) for name in names]
    scripts = [archives.entry(name, b"#!/proc/self/exe\n", mode=0o755) for name in ("bin/sh", "entry")]
    attacker.image("loader", *loader, *scripts, options=command("/proc/self/exe"))
    ran = 0
    for program in ("/proc/self/exe", "/entry", "/proc/1/exe", "/proc/thread-self/exe"):
        options = ("--restart", "no", "--user", "0", "--start", "--entrypoint", program)
        done = host.run("gear", "install", "loader", "loader", *options, check=False)
        if done.returncode == 0:  # the loader of the image ran in the place of the interpreter
            result = attacker.result("loader")
            ran += 1
            assert gained(result) == ["held"] and set(result) > {"write", "chmod", "bind-over"}, result
        assert host.sh(f"sha256sum {PYTHON}; stat -Lc '%a %u %g %Z' {PYTHON}") == before
        host.gear("delete", "loader")
    assert ran, "the loader never ran, so nothing was tried"
    # The same as the host's root is no problem at all, on a copy: the attack is one.
    host.sh(f"cp {PYTHON} /root/victim")
    result = attacker.control("reopen", "/root/victim", wrapper=("unshare", "--mount"))
    assert {"write", "chmod", "xattr", "bind-over"} <= set(gained(result)), result
    host.sh("rm /root/victim")


def test_descriptors_and_directory_of_the_payload_are_its_own(attacker: Attacker) -> None:
    result = attacker.attack("descriptors")
    assert set(result) == {"fd-0", "fd-1", "fd-2", "cwd", "above-the-root"}, result
    assert result["fd-0"] == "/dev/null" and result["fd-1"].startswith("socket:")
    assert result["cwd"] == "/" and result["above-the-root"] == "ENOENT"


def test_no_working_directory_leads_out(attacker: Attacker) -> None:
    host = attacker.host
    attacker.image(
        "cwd", archives.symlink("link", "/proc/1/root"), options=command("/bin/probe", "descriptors")
    )
    host.gear("install", "cwd", "cwd", "--user", "0", "--restart", "no")
    place = "/var/lib/gear/containers/cwd/config.json"
    config = json.loads(host.read(place))
    for directory in DIRECTORIES:
        config["process"]["cwd"] = directory
        host.write(place, json.dumps(config).encode(), mode="600")
        done = host.run("systemctl", "start", "ctr-cwd", check=False)
        if done.returncode == 0:
            result = attacker.result("cwd")
            assert result["above-the-root"] == "ENOENT" and result["cwd"].startswith("/"), (directory, result)
            assert not result["cwd"].startswith("(unreachable)"), result
            host.sh("systemctl stop ctr-cwd")
    # As the image's own word, too.
    attacker.image("workdir", options=(*command("/bin/probe"), "--workdir", "/proc/self/fd/8"))
    host.gear("install", "workdir", "cwd", "--restart", "no")
    assert "can't change to the working directory" in host.fails(1, "start", "cwd")


def test_capabilities_are_dockers_and_a_programs_own_add_nothing(attacker: Attacker) -> None:
    """CVE-2022-24769: nothing is inheritable, and attributes of a file give no more than the bounding set."""
    result = attacker.attack("capabilities")
    assert result["CapInh"] == result["CapAmb"] == "0" * 16
    assert result["CapPrm"] == result["CapEff"] == result["CapBnd"] == "00000000a80425fb"
    for name in (
        "ambient-sys_admin",
        "reboot",
        "settime",
        "swapon",
        "hostname",
        "nice",
        "oom",
        "nofile",
        "iopl",
    ):
        assert result[name] in REFUSED, (name, result[name])
    assert result["setuid-outside"] == "EINVAL" and result["kill-host"] == "ESRCH"
    assert "settime" not in REFUSED & {attacker.control("capabilities")["hostname"]}
    # A program that a file attribute gives everything, started by a user who has nothing; set by the host's root.
    host = attacker.host
    host.sh(
        "mkdir -p /var/lib/t/caps; cp /root/attacks/probe /var/lib/t/caps/probe; chmod 755 /var/lib/t/caps"
    )
    for caps, most in (
        ("all=ep", None),
        ("all+eip", None),
        ("cap_net_raw=ep", 1 << 13),
        ("cap_sys_admin=p", 0),
    ):
        host.sh(f"python3 -c \"import os, sys; os.setxattr('/var/lib/t/caps/probe', 'security.capability',"
                f" bytes.fromhex('{_attribute(caps)}'))\"")  # fmt: skip
        options = ("--user", "8080", "-v", "/var/lib/t/caps:/caps:ro,idmap")
        result = attacker.attack("capabilities", "/caps/probe", "capabilities", options=options)
        assert result["CapInh"] == result["CapAmb"] == "0" * 16
        effective = int(result["CapEff"], 16)
        assert effective & ~0xA80425FB == 0, result
        assert most is None or effective & ~most == 0, result


def _attribute(caps: str) -> str:
    """The value of security.capability (struct vfs_cap_data, revision 2) for what setcap(8) would be told."""
    names = {"all": (1 << 41) - 1, "cap_net_raw": 1 << 13, "cap_sys_admin": 1 << 21}
    word, _, flags = caps.replace("+", "=").partition("=")
    mask = names[word]
    permitted, inheritable = (mask if letter in flags else 0 for letter in "pi")
    numbers = (0x02000000 | ("e" in flags), permitted & 0xFFFFFFFF, inheritable & 0xFFFFFFFF, permitted >> 32,
               inheritable >> 32)  # fmt: skip
    return b"".join(number.to_bytes(4, "little") for number in numbers).hex()


def test_the_environment_of_an_image_reaches_nothing_on_the_host(attacker: Attacker) -> None:
    """CVE-2025-23266: no loader, interpreter or library on the host acts on what an image says."""
    host = attacker.host
    marker = "/var/lib/t/env-marker"
    evil = archives.entry("evil/sitecustomize.py", f"open({marker!r}, 'w')\n".encode())
    variables = {
        "LD_PRELOAD": "/evil/evil.so", "LD_AUDIT": "/evil/evil.so", "PYTHONPATH": "/evil", "PYTHONHOME": "/evil",
        "PYTHONSTARTUP": "/evil/sitecustomize.py", "PYTHONINSPECT": "1", "GCONV_PATH": "/evil", "BASH_ENV": "/evil/sh",
        "ENV": "/evil/sh", "NOTIFY_SOCKET": "@evil", "LISTEN_FDS": "99", "PATH": "/evil", "GEAR_STATE_DIR": "/evil",
        "SYSTEMD_LOG_LEVEL": "debug", "TMPDIR": "/evil", "HOME": "/evil",
    }  # fmt: skip
    words = [word for name, content in variables.items() for word in ("--env", f"{name}={content}")]
    attacker.image("env", evil, options=(*command("/bin/probe", "sockets"), *words))
    host.gear("install", "env", "env", "--user", "0", "--restart", "no", "--start")
    result = attacker.result("env")
    assert result["notify"] == "@evil"  # the image's own word arrives inside, and nothing listens there
    environment = host.sh("systemctl show -p Environment --value ctr-env")
    assert "evil" not in environment and "evil" not in host.sh("systemctl show-environment")
    assert host.run("test", "-e", marker, check=False).returncode == 1
    assert host.show("ctr-env", "MainPID") == str(host.pid("env"))
    host.gear("delete", "env")


def test_no_program_of_an_image_runs_on_the_host(attacker: Attacker) -> None:
    """CVE-2022-1227: every verb is used on an image whose programs all leave a mark at /mark."""
    host = attacker.host
    names = ("ps", "sh", "bash", "nsenter", "getent", "id", "python3", "env", "kill", "cat", "tar", "ls", "top",
             "mount", "newuidmap", "systemd-notify", "true", "login", "su")  # fmt: skip
    places = ("bin", "usr/bin", "sbin", "usr/sbin", "usr/local/bin")
    programs = [
        archives.entry(f"{place}/{name}", attacker.probe, mode=0o4755)
        for place in places
        for name in names[:8]
    ]
    programs += [archives.entry(f"bin/{name}", attacker.probe, mode=0o4755) for name in names[8:]]
    programs += [archives.entry("lib/x86_64-linux-gnu/libnss_files.so.2", b"\x7fELF evil", mode=0o755)]
    programs += [archives.entry("etc/nsswitch.conf", b"passwd: evil files\n")]
    attacker.image("programs", *programs, options=command("/bin/probe", "descriptors"))
    host.sh("rm -f /mark")
    host.gear(
        "install",
        "programs",
        "programs",
        "--user",
        "www",
        "--restart",
        "no",
        "-v",
        "programs:/usr/bin",
        "--start",
    )
    attacker.result("programs")
    for words in (
        ("status",),
        ("inspect",),
        ("logs",),
        ("plan",),
        ("list-units",),
        ("restart",),
        ("stop",),
        ("start",),
    ):
        host.gear(*words, *(() if words == ("list-units",) else ("programs",)))
    attacker.result("programs")
    host.gear("delete", "--volumes", "programs")
    assert host.run("test", "-e", "/mark", check=False).returncode == 1
    # A program that does run leaves the mark: the test would notice.
    host.sh("cp /root/attacks/probe /root/ps; /root/ps; rm /root/ps; test -e /mark; rm /mark")


def test_the_interpreter_is_read_only_where_ids_are_the_hosts(attacker: Attacker) -> None:
    """CVE-2019-5736 with --userns host: root of the container is the host's, so a read-only mount has to do it."""
    host = attacker.host
    before = host.sh(f"sha256sum {PYTHON}; stat -Lc '%a %u %g %Z' {PYTHON}")
    names = ("lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1")
    loader = [archives.entry(name, attacker.loader, mode=0o755) for name in names]
    attacker.image("same-ids", *loader, options=command("/proc/self/exe"))
    host.gear("install", "same-ids", "same-ids", "--user", "0", "--userns", "host", "--restart", "no")
    if host.run("systemctl", "start", "ctr-same-ids", check=False).returncode == 0:
        assert gained(attacker.result("same-ids")) == ["held"]
    assert host.sh(f"sha256sum {PYTHON}; stat -Lc '%a %u %g %Z' {PYTHON}") == before
