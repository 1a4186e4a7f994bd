"""Attacks on those who come in from outside: exec's process, its terminal, and copies in both directions."""

from __future__ import annotations

import archives
from attacking import Attacker, command, gained, parse

PYTHON = "/usr/bin/python3"
SECRET = "swordfish-of-the-host"
TARGETS = (
    "/etc",
    "../../../../../../etc",
    "/proc/1/root/etc",
    "/proc/self/root/etc",
    "/proc/self/cwd",
    "/srv",
    "nowhere",
)


def run(attacker: Attacker, *words: str) -> dict[str, str]:
    """What the probe says by gear exec."""
    return parse(attacker.host.gear("exec", *words).replace("\r", "").split("\n"))


def test_a_joining_process_gives_nothing_away(attacker: Attacker) -> None:
    """CVE-2016-9962, CVE-2019-5736: root of the container hunts processes that join, by ptrace and by procfs."""
    host = attacker.host
    before = host.sh(f"sha256sum {PYTHON}")
    attacker.start("hunter", "processes", "8")
    host.wait(lambda: "hunting now" in attacker.log("hunter"), "the hunter")
    count = host.sh("n=0; end=$(($(date +%s) + 7)); while [ $(date +%s) -lt $end ]; do"
                    " gear exec hunter -- /bin/probe files / >/dev/null; n=$((n+1)); done; echo $n")  # fmt: skip
    result = attacker.result("hunter")
    assert int(count) > 5 and int(result["attempts"]) > 0, (count, result)
    assert result["gained"] == "0", result
    # As the host's root it gets hold of anybody.
    alone = ("unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", 'sleep 9 & "$@"', "sh")
    assert int(attacker.control("processes", "1", wrapper=alone)["gained"]) > 0
    assert host.sh(f"sha256sum {PYTHON}") == before


def test_exec_does_not_run_the_hosts_interpreter_for_an_image(attacker: Attacker) -> None:
    host = attacker.host
    before = host.sh(f"sha256sum {PYTHON}; stat -Lc '%a %u %g %Z' {PYTHON}")
    names = ("lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1")
    loader = [archives.entry(name, attacker.loader, mode=0o755) for name in names]
    scripts = [archives.entry(name, b"#!/proc/self/exe\n", mode=0o755) for name in ("bin/sh", "entry")]
    attacker.image("trap", *loader, *scripts, options=command("/bin/probe", "descriptors"))
    attacker.start("trap", "descriptors", image="trap")
    attacker.result("trap")
    for program in ("/proc/self/exe", "/entry", "sh", "/proc/1/exe"):
        done = host.run("gear", "exec", "trap", "--", program, "reopen", "/proc/self/exe", check=False)
        result = parse(done.stdout.decode(errors="replace").split("\n"))
        assert set(gained(result)) <= {"held"}, (program, result)
        assert host.sh(f"sha256sum {PYTHON}; stat -Lc '%a %u %g %Z' {PYTHON}") == before


def test_exec_brings_nothing_of_the_host_along(attacker: Attacker) -> None:
    """CVE-2024-21626 by exec: descriptors, working directory, capabilities, environment."""
    host = attacker.host
    attacker.start("in", "descriptors")
    attacker.result("in")
    found = run(attacker, "in", "--", "/bin/probe", "descriptors")
    assert {name for name in found if name.startswith("fd-")} == {"fd-0", "fd-1", "fd-2"}, found
    assert found["above-the-root"] == "ENOENT"
    for directory in (
        *(f"/proc/self/fd/{number}" for number in range(3, 14)),
        "/proc/1/root/..",
        "/proc/self/cwd/..",
    ):
        done = host.run("gear", "exec", "-w", directory, "in", "--", "/bin/probe", "descriptors", check=False)
        found = parse(done.stdout.decode().split("\n"))
        assert done.returncode != 0 or (
            found["above-the-root"] == "ENOENT" and found["cwd"].startswith("/")
        ), found
    found = run(attacker, "in", "--", "/bin/probe", "capabilities")
    assert (
        found["CapInh"] == found["CapAmb"] == "0" * 16
        and found["CapBnd"] == found["CapEff"] == "00000000a80425fb"
    )
    assert run(attacker, "in", "--", "/bin/probe", "mounts", "nested") == {"nest": "EPERM"}
    environment = host.gear("exec", "in", "--", "/bin/probe", "files", "/proc/self/environ")
    assert "SUDO" not in environment
    # A user given by name is the container's own, whatever the host calls so.
    assert run(attacker, "-u", "www", "in", "--", "/bin/probe", "capabilities")["Uid"].startswith("8080")


def test_nothing_is_typed_into_the_callers_terminal(attacker: Attacker) -> None:
    """CVE-2017-5226: TIOCSTI reaches the container's own terminal, not the shell that called exec -it."""
    host = attacker.host
    attacker.start("typist", "descriptors")
    attacker.result("typist")
    host.sh("rm -f /injected; printf '%s\\n' \"gear exec -it typist -- /bin/probe terminal 'touch /injected"
            "\n'\" 'echo still-here' exit > /var/lib/t/keys")  # fmt: skip
    said = host.sh("script -qec 'sh -i' /dev/null < /var/lib/t/keys | tr -d '\\r'")
    assert "still-here" in said
    assert host.run("test", "-e", "/injected", check=False).returncode == 1


def test_copies_do_not_follow_racing_links_to_the_host(attacker: Attacker) -> None:
    """CVE-2018-15664: the container swaps a directory for links while files are copied in and out."""
    host = attacker.host
    host.write("/etc/gear-secret", SECRET.encode())
    host.write("/var/lib/t/in/gear-secret", b"from-outside")
    attacker.start("racer", "race", "600", "/tmp", "x", *TARGETS)
    host.wait(lambda: "racing now" in attacker.log("racer"), "the racer")
    snapshot = "find /etc /srv -not -path '/etc/systemd*' -printf '%p %y %s %i %T@\\n' | sort"
    before = host.sh(snapshot)
    script = (
        "set +e; rm -rf /var/lib/t/out; mkdir /var/lib/t/out; for i in $(seq 8); do "
        "gear cp /var/lib/t/in/gear-secret racer:/tmp/x/gear-secret;"
        " gear cp racer:/tmp/x/gear-secret /var/lib/t/out/$i;"
        " gear cp -L racer:/tmp/x /var/lib/t/out/tree-$i; done 2>/dev/null; :"
    )
    host.sh(script)
    assert host.sh(snapshot) == before
    assert host.sh(f"grep -rl {SECRET} /var/lib/t/out || :") == ""
    assert host.sh("cat /etc/gear-secret") == SECRET
    host.sh("rm -r /var/lib/t/out /var/lib/t/in /etc/gear-secret")


def test_copies_run_and_load_nothing_of_the_image(attacker: Attacker) -> None:
    """CVE-2019-14271: a container's libnss, tar or shell are not used for copying."""
    host = attacker.host
    evil = [
        archives.entry(name, attacker.probe, mode=0o4755)
        for name in ("bin/tar", "bin/sh", "bin/cp", "usr/bin/tar")
    ]
    libraries = [archives.entry(f"lib/x86_64-linux-gnu/{name}", b"\x7fELF evil", mode=0o755)
                 for name in ("libnss_files.so.2", "libc.so.6")]  # fmt: skip
    links = [archives.symlink("shadow", "/etc/shadow"), archives.symlink("up", "../../../../../../etc"),
             archives.entry("data/file", b"content"), archives.symlink("data/link", "/etc/shadow")]  # fmt: skip
    attacker.image("copied", *evil, *libraries, *links, options=command("/bin/probe", "descriptors"))
    host.sh("rm -f /mark; rm -rf /var/lib/t/out; mkdir -p /var/lib/t/out")
    for running in (False, True):
        host.gear(
            "install",
            "copied",
            "copied",
            "--user",
            "0",
            "--restart",
            "no",
            *(("--start",) if running else ()),
        )
        host.gear("cp", "copied:/data", f"/var/lib/t/out/{running}")
        assert host.sh(f"cat /var/lib/t/out/{running}/file") == "content"
        if not running:  # later it is what was copied there
            assert host.sh(f"readlink /var/lib/t/out/{running}/link") == "/etc/shadow"
        for path in ("/shadow", "/up/shadow"):
            host.run("gear", "cp", "-L", f"copied:{path}", "/var/lib/t/out/shadow", check=False)
            assert host.sh("grep -c root: /var/lib/t/out/shadow 2>/dev/null || :") in ("", "0")
            host.sh("rm -rf /var/lib/t/out/shadow")
        host.write("/var/lib/t/out/new", b"new")
        before = host.sh("ls -la --time-style=full-iso /etc | md5sum")
        host.run("gear", "cp", "/var/lib/t/out/new", "copied:/up/new", check=False)
        host.run("gear", "cp", "/var/lib/t/out/new", "copied:/data/link", check=False)
        assert host.sh("ls -la --time-style=full-iso /etc | md5sum") == before
    assert host.run("test", "-e", "/mark", check=False).returncode == 1
    host.sh("rm -r /var/lib/t/out")


def test_exec_keeps_the_interpreter_where_ids_are_the_hosts(attacker: Attacker) -> None:
    """CVE-2019-5736 by gear exec with --userns host."""
    host = attacker.host
    before = host.sh(f"sha256sum {PYTHON}; stat -Lc '%a %u %g %Z' {PYTHON}")
    names = ("lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1")
    loader = [archives.entry(name, attacker.loader, mode=0o755) for name in names]
    attacker.image("same-exec", *loader, options=command("/bin/probe", "descriptors"))
    attacker.start("same-exec", "descriptors", image="same-exec", options=("--userns", "host"))
    attacker.result("same-exec")
    done = host.run("gear", "exec", "same-exec", "--", "/proc/self/exe", check=False)
    result = parse(done.stdout.decode(errors="replace").split("\n"))
    assert gained(result) == ["held"], (result, done.stderr)
    assert host.sh(f"sha256sum {PYTHON}; stat -Lc '%a %u %g %Z' {PYTHON}") == before
