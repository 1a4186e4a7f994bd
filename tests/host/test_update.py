"""gear update, and slices: what is in force at once, what waits for a restart, and what nobody touches.

Limits themselves act where there is cgroup v2 (tests/vm/test_resources.py); here it is systemd that says what it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from gearhost import GearHost

NAME, UNIT = "updated", "ctr-updated.service"
SLICE = "container-updated.slice"
SPEC = f"/var/lib/gear/containers/{NAME}/spec.json"


@pytest.fixture(autouse=True)
def container(host: GearHost) -> Iterator[None]:
    host.gear("install", "hello", NAME, "-e", "A=1", "-l", "team=web", "--start")
    yield
    host.gear("delete", NAME)
    host.gear("slice", "rm", SLICE)


def needs_restart(host: GearHost) -> bool:
    return bool(host.json("status", NAME)[0]["restart_needed"])


def test_live_change_keeps_the_payload_and_lasts(host: GearHost) -> None:
    pid = host.pid(NAME)
    out = host.gear("update", NAME, "--restart", "always", "--stop-timeout", "3", "--label", "more=1")
    assert out == f"{NAME} is changed: labels, restart, stop_timeout (live)\n"
    wanted = {"Restart": "always", "TimeoutStopUSec": "3s", "MainPID": str(pid)}

    def shown() -> dict[str, str]:
        return {name: host.show(UNIT, name) for name in wanted}

    assert shown() == wanted and not needs_restart(host)
    assert host.json_file(SPEC)["labels"] == {"team": "web", "more": "1"}
    host.sh("systemctl daemon-reload")
    assert shown() == wanted
    assert host.show(UNIT, "DropInPaths") == ""
    host.sh("test ! -e /etc/systemd/system.control; test ! -e /run/systemd/system.control")
    assert host.gear("update", NAME, "--restart", "always") == f"{NAME} is as it was\n"
    # The same by installing it again.
    host.gear("install", "hello", NAME, "-e", "A=1", "--restart", "always", "--stop-timeout", "4")
    assert host.show(UNIT, "TimeoutStopUSec") == "4s" and host.pid(NAME) == pid and not needs_restart(host)
    host.host.reboot()
    host.wait(lambda: host.show(UNIT, "ActiveState") == "active", "the container after the boot")
    assert (host.show(UNIT, "Restart"), host.show(UNIT, "TimeoutStopUSec")) == ("always", "4s")


def test_network_and_its_limits_at_once(host: GearHost) -> None:
    pid = host.pid(NAME)
    assert "limits (live)" in host.gear("update", NAME, "--net-rate", "10mbit")
    assert "10Mbit" in host.sh("tc qdisc show")
    assert "limits (live)" in host.gear("update", NAME, "--unset", "net-rate")
    assert "10Mbit" not in host.sh("tc qdisc show")
    assert host.pid(NAME) == pid and not needs_restart(host)


def test_what_needs_a_restart_says_so_and_keeps_what_was_written(host: GearHost) -> None:
    host.gear("exec", "--user", "0", NAME, "sh", "-c", "echo kept >/kept")
    plan = host.gear("update", NAME, "--env", "B=2", "--restart", "no", "--dry-run")
    assert f"{NAME}: env is changed by a restart\n{NAME}: restart is changed at once (live)\n" in plan
    assert host.json_file(SPEC)["env"] == {"A": "1"}
    (report,) = host.json("update", NAME, "--env", "B=2", "--unset", "env=A", "--oom-score-adj", "100")
    assert report == {
        "name": NAME,
        "changes": [
            {"member": "env", "effect": "restart"},
            {"member": "oom_score_adj", "effect": "restart"},
        ],
        "running": True,
        "restart_needed": True,
        "restarted": False,
    }
    # A live change does not hide that the others wait.
    assert "gear restart" in host.gear("update", NAME, "--stop-timeout", "5") and needs_restart(host)
    assert host.gear("update", NAME, "-v", "/srv:/srv", "-p", "8080", "--restart-now").endswith("restarted\n")
    assert not needs_restart(host)
    assert (
        host.gear("exec", NAME, "sh", "-c", "cat /kept; echo $A$B; cat /proc/1/oom_score_adj")
        == "kept\n2\n100\n"
    )
    host.gear("update", NAME, "--unset", "volume=/srv", "--unset", "publish=8080", "--unset", "oom-score-adj")
    document = host.json_file(SPEC)
    assert (document["mounts"], document["network"]["ports"], document["isolation"]) == ([], [], {})
    assert json.loads(host.gear("inspect", NAME))[0]["altered"] == []


def test_what_can_not_be(host: GearHost) -> None:
    before = host.read(SPEC)
    for words, message in (
        ((), "Nothing is to be changed."),
        (("--storage-driver", "vfs"), "--storage-driver can't be changed by gear update."),
        (("--unset", "frob"), "There is nothing to unset that is called 'frob'."),
        (("--unset", "env=NOT"), "There is no 'NOT' among what --env lists."),
        (
            ("--memory-low", "2m", "--memory", "1m"),
            "--memory-low can't be more than --memory: 2m is, beside 1m.",
        ),
        (("--on-demand",), f"{NAME} can not be so:"),
    ):
        assert message in host.fails(2, "update", NAME, *words)
    assert host.read(SPEC) == before


def test_slices(host: GearHost) -> None:
    assert "no limits" in host.gear("slice", "create", SLICE)
    host.gear("update", NAME, "--slice", SLICE, "--restart-now")
    assert host.show(UNIT, "ControlGroup") == f"/container.slice/{SLICE}/{UNIT}"
    # Applied to what runs, with nothing left of the way there.
    host.sh(f"rm /usr/local/lib/systemd/system/{SLICE}")
    host.gear("slice", "create", SLICE)
    assert (host.show(SLICE, "DropInPaths"), host.show(SLICE, "NeedDaemonReload")) == ("", "no")
    host.sh("test ! -e /run/systemd/system.control")
    assert NAME in host.fails(1, "slice", "rm", SLICE)
    (row,) = [row for row in host.json("slice", "list") if row["name"] == SLICE]
    assert (row["containers"], row["made"], row["resources"]) == ([NAME], True, {})
    host.sh(f'test -z "$(systemd-analyze verify {SLICE} 2>&1)"')
    (document,) = json.loads(host.gear("slice", "inspect", SLICE))
    assert document["systemd"]["ControlGroup"] == f"/container.slice/{SLICE}" and not document["altered"]
    unit = f"/usr/local/lib/systemd/system/{SLICE}"
    host.sh(f"rm {unit}")
    assert unit in host.run("gear", "fsck", "--quick", check=False).stdout.decode()
    host.gear("fsck", "--quick", "--repair")
    assert host.show(SLICE, "FragmentPath") == unit
    host.gear("update", NAME, "--unset", "slice", "--restart-now")
    assert host.gear("slice", "rm", SLICE) == f"{SLICE} is removed\n"
    assert "nothing was removed" in host.gear("slice", "rm", SLICE)
    assert host.show(SLICE, "FragmentPath") == ""
    for name, message in (("web", "below container.slice"), ("container-small", "comes with gear")):
        assert message in host.fails(2, "slice", "create", name)
    host.fails(1, "slice", "inspect", "container-nowhere")
