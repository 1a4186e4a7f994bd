"""Environment sets: shared variables whose values arrive as they are, and who has to be restarted for a change."""

from __future__ import annotations

import os

from gearhost import GearHost

# Whatever an environment can hold.
HARD = b"a'b\"c $d %e \\ \n\tline two\r\x1b[31m\xff\xfe=;#\x7f "


def environ(host: GearHost, name: str) -> dict[bytes, bytes]:
    data = host.read(f"/proc/{host.pid(name)}/environ")
    return dict(entry.partition(b"=")[::2] for entry in data.split(b"\0") if entry)


def restart_needed(host: GearHost, name: str) -> bool:
    return bool(host.json("status", name)[0]["restart_needed"])


def test_every_byte_arrives_and_a_change_says_who_must_restart(host: GearHost) -> None:
    host.gear("set-env", "es-all", "A=all", "B=all", f"HARD={os.fsdecode(HARD)}", "EMPTY=")
    host.gear("set-env", "es-web", "B=web", "C=web")
    install = (
        "install",
        "hello",
        "es-one",
        "--env-set",
        "es-all",
        "--env-set",
        "es-web",
        "-e",
        "C=own",
        "--start",
    )
    host.gear(*install, "--restart", "no", "--entrypoint", "/bin/sleep", "--", "1000")
    host.gear("install", "hello", "es-still", "--env-set", "es-web")
    found = environ(host, "es-one")
    assert [found[name] for name in (b"A", b"B", b"C", b"HARD", b"EMPTY")] == [
        b"all",
        b"web",
        b"own",
        HARD,
        b"",
    ]
    raw = host.run("gear", "env", "es-all", "--output", "raw0").stdout
    assert b"HARD=" + HARD + b"\0" in raw
    shell = host.run("gear", "env", "es-all").stdout
    assert b"\x1b" not in shell
    host.write("/root/es-shell", shell + b'printf %s "$HARD"')
    assert host.run("bash", "/root/es-shell").stdout == HARD
    assert host.sh("stat -c %a /var/lib/gear/env/es-all/env.json") == "600"

    assert "es-one runs with what was before until: gear restart es-one" in host.gear(
        "set-env", "es-web", "D=new"
    )
    assert restart_needed(host, "es-one") and b"D" not in environ(host, "es-one")
    assert host.gear("set-env", "es-web", "D=new", "--output", "json").count('"restart"') == 1
    host.gear("restart", "es-one")
    assert environ(host, "es-one")[b"D"] == b"new" and not restart_needed(host, "es-one")
    # The same once more changes nothing, and files are what the specification renders to.
    assert host.gear("set-env", "es-web", "D=new") == ""
    for name in ("es-one", "es-still"):
        assert host.gear("inspect", name).count('"altered": []') == 1
    assert "in use by es-one, es-still" in host.fails(1, "env", "--rm", "es-web")
    assert [row["containers"] for row in host.json("env")] == [["es-one"], ["es-one", "es-still"]]
    assert "There is no environment set es-none." in host.fails(
        1, "install", "hello", "es-bad", "--env-set", "es-none"
    )
    host.gear("delete", "es-one", "es-still")
    host.gear("env", "--rm", "es-all", "es-web")
    assert host.json("env") == []


def test_ways_to_change_a_set(host: GearHost) -> None:
    def values() -> dict[str, str]:
        found: dict[str, str] = host.json("env", "es-way")[0]["variables"]
        return found

    host.write("/root/es-file", b"# comment\nF=file=1\nG= 'kept' \n")
    host.gear("set-env", "es-way", "A=1", "B=2")
    host.gear("set-env", "es-way", "A=3", "--unset", "B", "--env-file", "/root/es-file")
    assert values() == {"A": "3", "F": "file=1", "G": " 'kept' "}
    host.sh(
        "mkdir -p /root/es-www; printf 'U=url\\nA=url\\n' > /root/es-www/app.env\n"
        "printf 'HOME\\n' > /root/es-www/bad.env\n"
        "head -c 2000000 /dev/zero > /root/es-www/large.env\n"
        "systemd-run -q --unit es-www -p WorkingDirectory=/root/es-www python3 -m http.server 8099 --bind 127.0.0.1"
    )
    host.wait(lambda: ":1FA3 " in host.read("/proc/net/tcp").decode(), "the web server")
    host.gear("set-env", "es-way", "--reset", "A=4", "--env-url", "http://127.0.0.1:8099/app.env")
    assert values() == {"A": "4", "U": "url"}
    assert "status 404" in host.fails(
        1, "set-env", "es-way", "--env-url", "http://127.0.0.1:8099/none?token=abc"
    )
    for wrong in ("bad", "large"):
        host.run("gear", "set-env", "es-way", "--env-url", f"http://127.0.0.1:8099/{wrong}.env", check=False)
    assert "is to be set and taken out" in host.fails(2, "set-env", "es-way", "A=1", "--unset", "A")
    assert values() == {"A": "4", "U": "url"}
    host.gear("set-env", "es-way", "--reset")
    assert values() == {}
    host.sh("systemctl stop es-www; rm -r /root/es-www /root/es-file")
    host.gear("env", "--rm", "es-way")


def test_a_killed_change_is_completed_by_the_next(host: GearHost) -> None:
    host.gear("set-env", "es-kill", "A=0")
    host.gear("install", "hello", "es-killed", "--env-set", "es-kill")
    for number, step in enumerate(
        [("rename", 1), ("rename", 2), ("rename", 3), ("rename", 4), ("fsync", 2)], 1
    ):
        host.killed(step, "set-env", "es-kill", f"A={number}")
        assert host.json("env", "es-kill")[0]["variables"]["A"] in (str(number - 1), str(number))
        host.gear("set-env", "es-kill", f"A={number}")
        config = host.json_file("/var/lib/gear/containers/es-killed/config.json")
        assert f"A={number}" in config["process"]["env"]
        host.gear("clean")
    host.gear("delete", "es-killed")
    host.gear("env", "--rm", "es-kill")
