"""Everything that operations bring, in one container at once: what is copied, kept, taken back and taken away."""

from __future__ import annotations

import json

from gearhost import GearHost

STATE = "/var/lib/gear"
SCRIPT = "trap 'echo reread' HUP; trap exit TERM; echo has come up; httpd -p 80 -h /data; while :; do sleep 0.1; done"
OPTIONS = (
    "--entrypoint", "/bin/sh", "--user", "0", "--secret", "tg-secret", "--config", "tg-config:/etc/tg.conf",
    "--reload-signal", "HUP", "--env-set", "tg-env", "--slice", "container-together", "--log-namespace", "tglog",
    "-v", "tg-data:/data", "--net", "tgnet", "-p", "8099:80", "--ready-when", "log:come up",
    "--health-cmd", "test ! -e /tmp/bad", "--health-interval", "300ms", "--health-on-failure", "none",
    "--restart", "on-failure:3", "-l", "gear.app=tg", "--start", "--", "-c", SCRIPT,
)  # fmt: skip
INSIDE = "cat /run/secrets/tg-secret /etc/tg.conf /data/index.html /mine; echo $LEVEL"


def inside(host: GearHost, name: str) -> str:
    return host.gear("exec", name, "sh", "-c", INSIDE)


def test_one_container_with_everything(host: GearHost) -> None:
    # What comes with gear itself is there with the first container.
    host.gear("install", "hello", "tg", "--net", "none")
    host.gear("delete", "tg")
    before = host.sh("ls -R /usr/local/lib/systemd /etc/systemd/system")
    host.run("gear", "secret", "create", "tg-secret", input=b"hunter2\n")
    host.write("/root/tg.conf", b"first\n")
    host.gear("config", "create", "tg-config", "/root/tg.conf")
    host.gear("set-env", "tg-env", "LEVEL=info")
    host.gear("slice", "create", "container-together")
    host.gear("log-namespace", "create", "tglog", "--max-use", "50m")
    host.gear("network", "create", "tgnet")
    host.gear("install", "hello", "tg", *OPTIONS)
    host.gear("upgrade", "tg", "--schedule", "Sun 03:00")
    host.gear("exec", "tg", "sh", "-c", "echo data > /data/index.html; echo mine > /mine")
    expected = inside(host, "tg")
    assert expected == "hunter2\nfirst\ndata\nmine\ninfo\n"
    host.gear("fsck")

    # A copy has all of it, and runs beside it.
    host.gear("snapshot", "tg", "before", "--volumes", "--no-pause")
    host.gear("clone", "tg", "tg2", "--volumes", "--no-pause")
    host.gear("start", "tg2")
    assert inside(host, "tg2") == expected
    unit = "ctr-tg2.service"
    assert (host.show(unit, "Slice"), host.show(unit, "LogNamespace")) == (
        "container-together.slice",
        "tglog",
    )
    assert host.json("status", "tg2")[0]["health"]["status"] == "healthy"

    # An image has what was written, and nothing that was given.
    host.gear("commit", "--no-pause", "tg", "tgimage:2")
    host.gear("image", "save", "tgimage:2", "-o", "/root/tg.tar")
    host.sh("! grep -q hunter2 /root/tg.tar; rm /root/tg.tar")

    # Files, data and options come back together.
    host.gear("exec", "tg", "sh", "-c", "echo other > /data/index.html; echo other > /mine")
    said = host.gear("update", "tg", "--unset", "secret", "--unset", "health-cmd", "--unset", "health-interval",
                     "--unset", "health-on-failure", "--unset", "restart")  # fmt: skip
    assert said.startswith("tg is changed: pace.limit, pace.window (live); secrets, health.interval")
    host.gear("snapshot", "tg", "--restore", "before", "--restart")
    assert inside(host, "tg") == expected and "Health: healthy" in host.gear("status", "tg")

    # To another image and back.
    host.gear("upgrade", "tg", "--image", "tgimage:2", "--no-pull", "--snapshot-volumes")
    assert inside(host, "tg") == expected
    host.gear("rollback", "tg", "--volumes")
    assert inside(host, "tg") == expected and "Health: healthy" in host.gear("status", "tg")
    host.write("/root/tg.conf", b"second\n")
    told = host.gear("config", "create", "--replace", "tg-config", "/root/tg.conf")
    assert "tg is reloaded" in told and "tg2 is reloaded" in told
    assert host.gear("exec", "tg", "cat", "/etc/tg.conf") == "second\n"
    host.gear("fsck")

    # What is in use stays, and how to let go of it is told.
    for hint, *words in (
        ("gear update tg --unset secret=tg-secret", "secret", "rm", "tg-secret"),
        ("gear update tg --unset config=tg-config", "config", "rm", "tg-config"),
        ("gear update tg --unset env-set=tg-env", "env", "--rm", "tg-env"),
        ("gear update tg --slice container", "slice", "rm", "container-together"),
        ("gear update tg --unset log-namespace", "log-namespace", "rm", "tglog"),
    ):
        assert hint in host.fails(1, *words)
        if "--unset" in hint:
            host.gear(*hint.split()[1:], "--dry-run")

    host.gear("delete", "--volumes", "tg", "tg2")
    assert host.leftovers() == []
    host.gear("fsck")
    for rm in (
        "secret rm tg-secret", "config rm tg-config", "env --rm tg-env", "slice rm container-together",
        "log-namespace rm --entries tglog", "network rm tgnet", "image rm tgimage:2", "clean",
    ):  # fmt: skip
        host.gear(*rm.split())
    host.sh("rm /root/tg.conf")
    assert host.sh("ls -R /usr/local/lib/systemd /etc/systemd/system") == before
    assert host.sh(f"find {STATE} -name '*tg*' -o -name '*together*'") == ""
    assert "tg" not in host.out(
        "systemctl", "list-units", "--all", "--plain", "--no-legend", "*tg*", "*together*"
    )


def test_what_is_damaged_is_found(host: GearHost) -> None:
    """Of the objects that several containers share; what is rendered from them is mended (tests/host/test_fsck.py)."""

    def found() -> dict[str, dict[str, str]]:
        done = host.run("gear", "fsck", "--output", "json", check=False)
        return {item["path"]: item for item in json.loads(done.stdout)}

    host.run("gear", "secret", "create", "tg-bad", input=b"hunter2")
    host.gear("set-env", "tg-bad", "A=1")
    host.gear("slice", "create", "container-tgbad")
    host.gear("install", "hello", "tg-bad", "--secret", "tg-bad", "--env-set", "tg-bad", "--net", "none")
    paths = [
        f"{STATE}/secrets/tg-bad/credential",
        f"{STATE}/env/tg-bad/env.json",
        f"{STATE}/slices/container-tgbad.json",
    ]
    for path in paths:
        host.write(path, b"{", mode="600")
    faults = found()
    hints = [faults[path]["hint"] for path in paths]
    assert hints == [
        "gear secret create --replace tg-bad",
        "gear set-env tg-bad --reset K=V...",
        f"rm {paths[2]}, and gear slice create container-tgbad.slice with all its options",
    ]
    # No image is missing.
    assert faults[f"{STATE}/containers/tg-bad/spec.json"]["hint"] == hints[1]
    assert hints[2] in host.fails(1, "slice", "create", "container-tgbad")
    assert hints[1] in host.fails(1, "set-env", "tg-bad", "B=1")
    # The hints are right.
    host.run("gear", "secret", "create", "--replace", "tg-bad", input=b"hunter2")
    host.gear("set-env", "tg-bad", "--reset", "A=2")
    host.sh(f"rm {paths[2]}")
    host.gear("slice", "create", "container-tgbad")
    host.gear("fsck")
    host.gear("delete", "tg-bad")
    for rm in ("secret rm tg-bad", "env --rm tg-bad", "slice rm container-tgbad"):
        host.gear(*rm.split())
