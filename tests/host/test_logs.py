"""gear logs: journals of their own, several containers, and no line lost."""

from __future__ import annotations

import json

from gearhost import GearHost

MANY = 100_000
WRITE = (
    f"""i=0; while [ $i -lt {MANY} ]; do echo "line $i"; i=$((i+1)); done; echo end >&2; exec sleep 1000"""
)

# Whether somebody follows the journal obslate.
FOLLOWED = """
import glob, pathlib
lines = [pathlib.Path(path).read_bytes() for path in glob.glob("/proc/[0-9]*/cmdline") if pathlib.Path(path).exists()]
words = [line.split(b"\\0") for line in lines]  # not of this program itself, which has it all in one word
print(any(b"--namespace=obslate" in each and b"--follow" in each for each in words))
"""


def test_no_line_is_lost_in_a_journal_of_its_own(host: GearHost) -> None:
    assert host.gear("log-namespace", "create", "obslog", "--max-use", "1g", "--rate-limit", "off") == (
        "obslog is set\n"
    )
    assert "as it was" in host.gear(
        "log-namespace", "create", "obslog", "--max-use", "1g", "--rate-limit", "off"
    )
    host.gear("install", "hello", "obs-many", "--net", "none", "--log-namespace", "obslog", "-l", "gear.app=obs",
              "--start", "--", "/bin/sh", "-c", WRITE)  # fmt: skip
    host.gear("install", "hello", "obs-few", "--net", "none", "--start",
              "--", "/bin/sh", "-c", "echo one; echo '<3>two'; exec sleep 1000")  # fmt: skip
    host.wait(lambda: host.gear("logs", "-n", "1", "obs-many") == "end\n", "the last line")
    assert host.gear("logs", "obs-many").splitlines() == [*(f"line {n}" for n in range(MANY)), "end"]
    # A journald that is restarted for new limits loses nothing either, and its writers go on.
    host.gear("log-namespace", "create", "obslog", "--max-use", "2g", "--retention", "1d")
    assert host.sh("gear logs obs-many | wc -l") == str(MANY + 1)
    (item,) = host.json("log-namespace", "list")
    assert item["name"] == "obslog" and item["containers"] == ["obs-many"] and item["size"] > 1 << 20
    assert item["limits"] == {"max_use": 2 << 30, "max_file": None, "retention": 86400.0, "rate": None}

    # Fields, as others name them, and nothing of it in the usual journal.
    record = json.loads(host.gear("logs", "-n", "1", "--output", "json", "obs-many"))
    assert (record["CONTAINER_NAME"], record["IMAGE_NAME"], record["GEAR_APP"]) == (
        "obs-many",
        "hello:latest",
        "obs",
    )
    assert record["IMAGE_DIGEST"].startswith("sha256:") and record["_NAMESPACE"] == "obslog"
    assert host.sh("journalctl -q CONTAINER_NAME=obs-many _TRANSPORT=stdout | wc -l") == "0"
    assert host.sh("journalctl -q CONTAINER_NAME=obs-few _TRANSPORT=stdout -o cat") == "one\ntwo"
    # What PID 1 says is in the other journal, and --all shows both.
    whole = host.gear("logs", "--all", "obs-many")
    assert "Starting " in whole and "line 7\n" in whole
    assert "Started " in host.gear("logs", "--all", "--invocation", "obs-many")

    # Both at once, each line after its container's name.
    both = host.gear("logs", "obs-many", "obs-few").splitlines()
    assert len(both) == MANY + 3 and {"obs-many | end", "obs-few  | one", "obs-few  | two"} <= set(both)
    assert [line for line in both if "-many | line" in line] == [f"obs-many | line {n}" for n in range(MANY)]
    assert host.gear("logs", "--no-prefix", "-g", "^(two|end)$", "obs-few", "obs-many").split() in (
        ["two", "end"],
        ["end", "two"],
    )
    assert host.gear("logs", "-g", "9999[0-8]$", "-n", "2", "obs-many") == "line 99997\nline 99998\n"
    assert host.gear("logs", "-p", "err", "obs-few", "obs-many") == "obs-few  | two\n"
    assert "no priority" in host.fails(2, "logs", "-p", "loud", "obs-few")
    screen = host.typed([["obs-few", "\x03"]], "logs", "-f", "-n", "1", "obs-few", "obs-many")
    assert "\x1b[36mobs-few  | \x1b[0mtwo" in screen or "\x1b[33mobs-many | \x1b[0mend" in screen, screen

    assert "in use by obs-many" in host.fails(1, "log-namespace", "rm", "obslog")
    host.gear("delete", "obs-many", "obs-few")
    assert host.gear("log-namespace", "rm", "--entries", "obslog") == "obslog is removed\n"
    assert "There is no log namespace obslog" in host.fails(1, "log-namespace", "rm", "obslog")
    assert (
        host.sh("ls -d /var/log/journal/*.obslog /usr/local/lib/systemd/journald@obslog* 2>/dev/null || :")
        == ""
    )
    units = "systemctl list-units --all --no-legend 'systemd-journald*@obslog*'"
    host.wait(lambda: host.sh(units) == "", "its journald to be gone")


def test_rates_levels_and_output_that_nobody_wants(host: GearHost) -> None:
    script = "i=0; while [ $i -lt 200 ]; do echo $i; i=$((i+1)); done; echo '<3>last'; exec sleep 1000"
    host.gear("install", "hello", "obs-rate", "--net", "none", "--log-rate-limit", "20/1h", "--start",
              "--", "/bin/sh", "-c", script)  # fmt: skip
    host.gear("install", "hello", "obs-level", "--net", "none", "--log-level-max", "err", "--start",
              "--", "/bin/sh", "-c", script)  # fmt: skip
    host.gear("install", "hello", "obs-quiet", "--net", "none", "--log-driver", "none", "--start",
              "--", "/bin/sh", "-c", script)  # fmt: skip
    host.wait(lambda: host.gear("logs", "obs-level") == "last\n", "the level")
    # journald multiplies the number by what is free on the disk, so it is more than what was asked for.
    host.wait(lambda: host.gear("logs", "obs-rate").startswith("0\n1\n"), "the first lines")
    assert host.show("ctr-obs-rate", "LogRateLimitBurst") == "20"
    error = host.fails(1, "logs", "obs-quiet")
    assert "thrown away" in error and "--log-driver none" in error
    assert "thrown away" in host.fails(1, "attach", "obs-quiet")
    assert "Started " in host.gear("logs", "--all", "obs-quiet")
    assert host.sh("journalctl -q CONTAINER_NAME=obs-quiet _TRANSPORT=stdout") == ""
    assert "no namespace" in host.fails(
        2, "install", "hello", "obs-x", "--log-driver", "none", "--log-namespace", "a"
    )


def test_a_failed_start_and_attach_read_the_right_journal(host: GearHost) -> None:
    late = ("install", "hello", "obs-late", "--net", "none", "--restart", "no", "--log-namespace", "obslate")
    host.sh(
        "mkdir -p /root/obs-go; mkfifo -m 666 /root/obs-go/go; chmod 666 /root/obs-go/go; chmod 755 /root/obs-go"
    )
    script = "echo said; read line < /srv/go; echo more; exit 5"
    host.gear(*late, "-v", "/root/obs-go:/srv", "--", "/bin/sh", "-c", script)
    assert host.gear("logs", "obs-late") == ""  # a journal that nobody has written to yet
    host.gear("start", "obs-late")
    host.wait(lambda: host.gear("logs", "obs-late") == "said\n", "the first line")
    attach = "gear attach obs-late > /root/obs-attached || echo $? >> /root/obs-attached"
    host.sh(f"rm -f /root/obs-attached; ({attach}) > /dev/null 2>&1 &")
    host.wait(lambda: "True" in host.out("python3", "-c", FOLLOWED), "somebody attached")
    host.sh("timeout 20 sh -c 'echo > /root/obs-go/go'")
    host.wait(lambda: host.sh("tail -n 1 /root/obs-attached") == "5", "the end")
    assert host.read("/root/obs-attached") == b"more\n5\n"
    host.gear("delete", "obs-late")
    host.gear("log-namespace", "rm", "--entries", "obslate")
    host.sh("rm -r /root/obs-go /root/obs-attached")
