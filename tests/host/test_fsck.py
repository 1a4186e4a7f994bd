"""gear fsck on a host: damage to containers, kills at many steps of what changes the store, and a power cut."""

from __future__ import annotations

import json

import pytest
from gearhost import GearHost, demo_image

DIR = "/var/lib/gear/containers/fscked"
UNIT = "/usr/local/lib/systemd/system/ctr-fscked.service"


def faults(host: GearHost, *arguments: str, status: int = 1) -> list[dict[str, object]]:
    done = host.run("gear", "fsck", "--output", "json", *arguments, check=False)
    assert done.returncode == status, done.stdout.decode() + done.stderr.decode()
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def sound(host: GearHost, *state: str) -> None:
    """Nothing is damaged and nothing left over."""
    assert host.gear(*state, "fsck") == "everything is as it should be\n"


@pytest.fixture
def container(host: GearHost) -> GearHost:
    host.gear("install", "hello", "fscked", "-v", "kept:/data", "--start")
    host.sh("echo mine > /root/mine")
    host.gear("cp", "/root/mine", "fscked:/data/mine")
    host.gear("cp", "/root/mine", "fscked:/mine")
    host.gear("stop", "fscked")
    sound(host)
    return host


def data_is_there(host: GearHost) -> None:
    assert host.sh("cat /var/lib/gear/volumes/kept/data/mine") == "mine"
    assert host.sh(f"cat {DIR}/layer-*/upper/mine") == "mine"


# What is done to the files of a container, and what fsck says of it.
DAMAGES = (
    (f"echo >> {DIR}/config.json", "is not what spec.json renders to"),
    (f"rm {DIR}/start.json", "is missing"),
    (f"truncate -s 10 {DIR}/seccomp.bpf", "is not what spec.json renders to"),
    (f"echo '# mine' >> {UNIT}", "is not what spec.json renders to"),
    (f"rm {UNIT}", "is missing"),
    (f"chmod 644 {DIR}/spec.json", "can be read by others"),
    (f"chmod 755 {DIR}", "has the mode 0755 instead of 0700"),
    ("chmod 755 /var/lib/gear/volumes", "has the mode 0755 instead of 0700"),
    ("chown 5 /var/lib/gear/containers", "belongs to 5:0 instead of root"),
    ("rm /var/lib/gear/uids/*", "is missing: the user ids of fscked are not taken"),
    ("cd /var/lib/gear/uids; for i in *; do ln -sfn gone $i; done", "belongs to gone"),
    ("rm /var/lib/gear/helper/current", "leads to no version of the start helper"),
    ("ln -sfn /etc /var/lib/gear/helper/current", "leads to no version of the start helper"),
    ("echo >> /var/lib/gear/helper/current/gear/helper/payload.py", "is damaged"),
    ("rm /var/lib/gear/helper/current/start", "is damaged"),
    (
        "echo x | dd of=$(echo /var/lib/gear/helper/current/bytecode-*) seek=9000 bs=1 conv=notrunc",
        "has damaged bytecode",
    ),
    ("rm /var/lib/gear/helper/current/bytecode-*", "has damaged bytecode"),
    ("echo >> /usr/local/lib/systemd/system/container.slice", "is not as it came"),
)


def test_damage_to_what_is_rendered_is_mended(container: GearHost) -> None:
    for damage, sentence in DAMAGES:
        container.sh(damage)
        found = faults(container)
        assert any(sentence in str(item["what"]) and item["damage"] for item in found), (damage, found)
        assert faults(container) == found
        mended = faults(container, "--repair", status=0)
        assert all(item["mended"] for item in mended), (damage, mended)
        sound(container)
        data_is_there(container)
        container.gear("start", "fscked")
        assert container.show("ctr-fscked", "NeedDaemonReload") == "no", damage
        container.gear("stop", "fscked")


def test_what_only_a_person_can_mend(container: GearHost) -> None:
    container.sh(f"cp {DIR}/spec.json /root/spec && echo x > {DIR}/spec.json")
    (found,) = [item for item in faults(container, "--repair") if item["damage"]]
    assert "can't be read" in str(found["what"]) and "gear install IMAGE fscked" in str(found["hint"])
    container.sh(f"rm {DIR}/spec.json")
    (found,) = [item for item in faults(container, "--repair") if item["damage"]]
    assert "has a writable layer with files" in str(found["what"])
    container.sh(f"install -m 600 /root/spec {DIR}/spec.json; mv /var/lib/gear/volumes/kept /root/away")
    # Its addresses had been given back meanwhile, and are taken again.
    found = next(item for item in faults(container, "--repair") if "volume" in str(item["what"]))
    assert "has the volume kept" in str(found["what"]) and "Put the data back" in str(found["hint"])
    container.sh("mv /root/away /var/lib/gear/volumes/kept")
    faults(container, "--repair", status=0)
    data_is_there(container)
    container.sh(f"mv {DIR}/layer-* /root/layer")
    (found,) = faults(container)
    assert "is missing: what the container wrote is gone" in str(found["what"])
    container.sh(f"mv /root/layer {DIR}/$(basename {found['path']})")
    sound(container)


def test_a_snapshot_that_can_not_be_restored_is_told_and_kept(container: GearHost) -> None:
    container.gear("snapshot", "fscked", "good", "--volumes")
    container.gear("snapshot", "fscked", "bad", "--volumes")
    sound(container)
    bad = f"{DIR}/snapshots/bad"
    for damage, undo, sentence in (
        (f"mv {bad}/volumes/kept /root/lost", f"mv /root/lost {bad}/volumes/kept", "lacks the volume kept"),
        (f"mv {bad}/layer /root/lost", f"mv /root/lost {bad}/layer", "its writable layer is missing"),
        (
            f"cp {bad}/spec.json /root/s; echo x > {bad}/spec.json",
            f"cp /root/s {bad}/spec.json",
            "is damaged",
        ),
        (f"mv {bad}/snapshot.json /root/s", f"mv /root/s {bad}/snapshot.json", "is damaged"),
    ):
        container.sh(damage)
        (found,) = [item for item in faults(container, "--repair") if item["damage"]]
        assert sentence in str(found["what"]) and "gear snapshot fscked --rm bad" in str(found["hint"])
        container.sh(undo)
        sound(container)
    container.sh(f"chmod 755 {DIR}/snapshots; rm {bad}/snapshot.json")
    error = container.fails(1, "image", "prune")
    assert "The snapshot bad of fscked is damaged" in error and "gear snapshot fscked --rm bad" in error
    container.gear("snapshot", "fscked", "--rm", "bad")
    faults(container, "--repair", status=0)
    sound(container)
    container.gear("snapshot", "fscked", "--restore", "good")
    data_is_there(container)


def test_a_restore_whose_journal_is_damaged(container: GearHost) -> None:
    container.gear("snapshot", "fscked", "good", "--volumes")
    container.sh(f"echo x > {DIR}/switch.json")
    (found,) = [item for item in faults(container, "--repair") if item["damage"]]
    assert "keeps fscked from being started" in str(found["what"])
    assert "--restore LABEL" in str(found["hint"])
    assert "--restore LABEL" in container.fails(1, "start", "fscked")
    container.sh(f"rm {DIR}/switch.json")
    container.gear("snapshot", "fscked", "--restore", "good")
    sound(container)
    data_is_there(container)


SPOIL = """
import os, sys
sys.path.insert(0, "/opt/gear")
from gear import subvolumes
subvolumes.set_read_only(os.open(sys.argv[1], os.O_RDONLY), False)
open(f"{sys.argv[1]}/new", "w").close()
"""


@pytest.mark.parametrize("driver", ["btrfs", "vfs"])
def test_writable_layers_that_are_trees(fitting: GearHost, driver: str) -> None:
    host = fitting
    host.gear("install", "hello", "treed", "--storage-driver", driver)
    sound(host)
    place = host.sh("echo /var/lib/gear/containers/treed/layer-*")
    host.sh(f"mv {place}/root {place}/away")
    (found,) = faults(host)
    assert "what the container wrote is gone" in str(found["what"]) and found["path"] == place
    host.sh(f"mv {place}/away {place}/root")
    if driver == "btrfs":
        tree = host.sh("echo /var/lib/gear/images/subvolumes/sha256/*")
        host.run("/usr/bin/python3", "-c", SPOIL, tree)
        assert host.gear("fsck", "--quick") == "everything is as it should be\n"
        (found,) = faults(host)
        assert "is not what the layers of its image come to" in str(found["what"])
        faults(host, "--repair", status=0)
        host.gear("install", "hello", "second", "--storage-driver", driver)
        assert host.run("test", "-e", f"{tree}/new", check=False).returncode == 1
    sound(host)


def test_user_ids_that_two_have(container: GearHost) -> None:
    container.gear("install", "hello", "twin")
    base = container.json_file(f"{DIR}/spec.json")["uid_base"]
    container.sh(
        f'sed -i \'s/"uid_base": .*[0-9]/"uid_base": {base}/\' /var/lib/gear/containers/twin/spec.json'
    )
    found = faults(container)
    assert any("has user ids that fscked has as well" in str(item["what"]) for item in found), found
    container.gear("delete", "twin")


def test_a_tree_in_use_waits_for_its_container(container: GearHost) -> None:
    container.gear("start", "fscked")
    pid = container.pid("fscked")
    container.sh("cd /var/lib/gear/images/layers/sha256/*/root && chmod 700 www && rm www/index.html")
    assert "www/" in str(faults(container)[0]["what"])
    (found,) = faults(container, "--repair")
    assert "gear stop fscked" in str(found["problem"]), found
    assert container.pid("fscked") == pid and container.show("ctr-fscked", "ActiveState") == "active"
    container.gear("stop", "fscked")
    place = container.gear("image", "mount", "hello").strip()
    (found,) = faults(container, "--repair")
    assert f"gear image unmount {place}" in str(found["problem"]), found
    container.gear("image", "unmount", place)
    text = container.gear("fsck", "--repair")
    assert text.startswith("mended: ") and text.endswith("nothing is damaged any more\n")
    sound(container)
    container.gear("start", "fscked")


def test_an_image_that_is_lost_is_said_with_what_brings_it(container: GearHost) -> None:
    digest = container.json_file(f"{DIR}/spec.json")["image"]["digest"]
    manifest = f"/var/lib/gear/images/blobs/sha256/{digest[7:]}"
    container.sh(f"cp {manifest} /root/manifest && echo >> {manifest}")
    found = faults(container, "--repair")
    assert any(item["hint"] == "gear image pull hello:latest, or load it again" for item in found), found
    assert any(item["hint"] == f"gear image pull hello:latest@{digest}" for item in found), found
    container.gear("image", "load", "/root/hello")
    sound(container)


def test_links_of_boot_to_units_that_are_gone(host: GearHost) -> None:
    link = "/etc/systemd/system/container-active.target.wants/ctr-ghost.service"
    host.sh(f"mkdir -p $(dirname {link}); ln -s /usr/local/lib/systemd/system/ctr-ghost.service {link}")
    (found,) = faults(host, status=0)
    assert "starts a container that is not there" in str(found["what"]) and not found["damage"]
    faults(host, "--repair", status=0)
    assert host.run("test", "-L", link, check=False).returncode == 1
    sound(host)


SERVICE = "/etc/systemd/system/ctr-fscked.service.d/mine.conf"
GHOST = "# Rendered by gear from /var/lib/gear/containers/ghost/spec.json"


def test_links_without_which_nothing_starts_at_boot(container: GearHost) -> None:
    container.gear("start", "fscked")
    link = "/etc/systemd/system/multi-user.target.wants/container-active.target"
    container.sh(f"rm {link}")
    (found,) = faults(container)
    assert found["path"] == link and "so nothing of container-active.target starts at boot" in str(
        found["what"]
    )
    faults(container, "--repair", status=0)
    assert container.sh(f"readlink {link}") == "/usr/local/lib/systemd/system/container-active.target"
    ghosts = "/etc/systemd/system/container-sockets.target.wants/ctr-ghost.socket"
    container.sh(
        f"mkdir -p $(dirname {ghosts}); ln -s /usr/local/lib/systemd/system/ctr-ghost.socket {ghosts}"
    )
    assert [item["path"] for item in faults(container, "--repair", status=0)] == [ghosts]
    sound(container)


def test_what_runs_beside_what_is_installed(container: GearHost) -> None:
    container.gear("start", "fscked")
    pid = container.pid("fscked")
    container.write(SERVICE, b"[Service]\nNice=1\n")
    container.sh("systemctl daemon-reload")
    container.write(SERVICE, b"[Service]\nNice=2\n")
    (found,) = faults(container)
    assert found["path"] == "ctr-fscked.service" and "has changed since systemd read it" in str(found["what"])
    (found,) = faults(container, "--repair", status=0)
    assert found["mended"] and container.show("ctr-fscked", "Nice") == "2"
    # A drop-in is the administrator's own.
    assert container.sh(f"cat {SERVICE}") == "[Service]\nNice=2"
    container.sh(f"rm {SERVICE}; systemctl daemon-reload")
    sound(container)
    container.sh(f"mv {DIR} {UNIT} /root")
    found = next(item for item in faults(container, "--repair") if "no such container" in str(item["what"]))
    assert found["path"] == "ctr-fscked.service" and found["hint"] == "systemctl stop ctr-fscked.service"
    container.sh(f"mv /root/fscked {DIR}; mv /root/ctr-fscked.service {UNIT}")
    faults(container, "--repair", status=0)
    assert container.pid("fscked") == pid
    sound(container)


def test_user_ids_of_a_payload_that_another_has(container: GearHost) -> None:
    container.gear("start", "fscked")
    base = container.json_file(f"{DIR}/spec.json")["uid_base"]
    container.sh(f"ln -sfn thief /var/lib/gear/uids/{base}")
    found = faults(container)
    assert any(f"runs with the user ids {base} to {base + 65535}, which thief has" in str(item["what"])
               for item in found), found  # fmt: skip
    faults(container, "--repair", status=0)
    sound(container)


def test_what_systemd_remembers_of_containers_that_are_gone(host: GearHost) -> None:
    unit = f"{GHOST}\n[Service]\nExecStart=/bin/false /var/lib/gear/containers/ghost\n".encode()
    host.write("/run/systemd/system/ctr-ghost.service", unit)
    host.sh("systemctl start ctr-ghost.service || :")
    host.wait(lambda: host.show("ctr-ghost", "ActiveState") == "failed", "the failure")
    found = faults(host, status=0)
    assert [item["what"] for item in found] == [
        "is left over: a unit of a container that was run and is gone",
        "is remembered, and there is no such container",
    ]
    faults(host, "--repair", status=0)
    assert host.show("ctr-ghost", "ActiveState") == "inactive"
    sound(host)


def test_ports_that_two_publish_on_addresses_that_overlap(container: GearHost) -> None:
    container.gear("install", "hello", "narrow", "-p", "127.0.0.1:48111:8080")
    container.gear("install", "hello", "wide", "-p", "48112:8080")
    container.sh("sed -i s/48112/48111/ /var/lib/gear/containers/wide/spec.json")
    found = faults(container)
    assert any(
        "publishes 48111/tcp, which narrow publishes as well" in str(item["what"]) for item in found
    ), found
    container.gear("delete", "narrow", "wide")
    container.gear("clean")
    sound(container)


def test_networks_in_the_kernel_are_checked_too(container: GearHost) -> None:
    container.gear("start", "fscked")
    pid = container.pid("fscked")
    container.sh("nft flush ruleset")
    assert any("the table inet" in str(item["path"]) for item in faults(container))
    faults(container, "--repair", status=0)
    assert container.pid("fscked") == pid
    sound(container)


STATE = ("--state-dir", "/var/lib/gear-fsck")
GEAR = "gear --state-dir /var/lib/gear-fsck"
LISTING = "cd /var/lib/gear-fsck/images && find . | sort"
LOAD = f"rm -rf /var/lib/gear-fsck; {GEAR} image load /root/hello"


def no_damage(host: GearHost) -> None:
    """What a kill leaves may be left over, and is never damage; fsck takes it away."""
    after = json.loads(host.gear(*STATE, "fsck", "--quick", "--output", "json"))
    assert not any(item["damage"] for item in after), after


@pytest.mark.parametrize(
    ("before", "victim"),
    [
        ("rm -rf /var/lib/gear-fsck", ("image", "load", "/root/hello")),
        (f"{LOAD}; {GEAR} image tag hello a:1 b:1", ("image", "prune", "--all")),
        (LOAD, ("image", "tag", "hello", "killed:1", "killed:2")),
    ],
    ids=["load", "prune", "tag"],
)
def test_a_kill_at_any_step_leaves_nothing_damaged(
    host: GearHost, before: str, victim: tuple[str, ...]
) -> None:
    host.sh(before)
    steps, kills = host.steps(*STATE, *victim), 0
    expected = host.sh(LISTING)
    for number, step in enumerate(steps):
        host.sh(before)
        kills += host.killed(step, *STATE, *victim)
        no_damage(host)
        if number % 2:
            host.gear(*STATE, "fsck", "--repair")
            sound(host, *STATE)
        host.gear(*STATE, *victim)
        host.gear(*STATE, "image", "prune")
        assert host.sh(LISTING) == expected, f"after a kill at step {step}"
    sound(host, *STATE)
    host.sh("rm -rf /var/lib/gear-fsck")
    assert kills >= 3 and kills >= len(steps) - 3


@pytest.mark.parametrize(
    "damage",
    [
        "echo x > $(echo /var/lib/gear-fsck/images/layers/sha256/*/layer.json)",
        "rm /var/lib/gear-fsck/images/manifests/sha256/*; touch /var/lib/gear-fsck/images/blobs/sha256/.partial-x",
    ],
)
def test_a_repair_killed_anywhere_is_made_by_the_next(host: GearHost, damage: str) -> None:
    host.sh(f"{LOAD}; {damage}")
    steps = host.steps(*STATE, "fsck", "--repair")
    expected = host.sh(LISTING)
    for step in steps:
        host.sh(f"{LOAD}; {damage}")
        host.killed(step, *STATE, "fsck", "--repair")
        host.gear(*STATE, "fsck", "--repair")
        sound(host, *STATE)
        assert host.sh(LISTING) == expected
    host.sh("rm -rf /var/lib/gear-fsck")


def test_rm_killed_anywhere(host: GearHost) -> None:
    """rm can't simply be run again: the reference may be gone while the image is there; prune finishes it."""
    host.sh(LOAD)
    steps, kills = host.steps(*STATE, "image", "rm", "hello"), 0
    for step in steps:
        host.sh(LOAD)
        kills += host.killed(step, *STATE, "image", "rm", "hello")
        no_damage(host)
        host.run("gear", *STATE, "image", "rm", "hello", check=False)
        host.gear(*STATE, "image", "prune")
        assert host.sh("find /var/lib/gear-fsck/images -type f") == "/var/lib/gear-fsck/images/lock"
        sound(host, *STATE)
    host.sh("rm -rf /var/lib/gear-fsck")
    assert kills >= 3 and kills >= len(steps) - 3


def test_after_a_power_cut_there_is_nothing_to_repair(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A host that is switched off while it loads, installs and deletes."""
    from gearhost import start_host

    machine = start_host()
    try:
        machine.host.copy(demo_image(tmp_path_factory.mktemp("image")), "/root")
        machine.write(
            "/root/busy",
            b"while :; do gear image load /root/hello; gear install hello a -v d:/data; gear image tag hello b:1;"
            b" gear delete a; gear image rm hello b:1; gear image prune --all; done\n",
        )
        for _ in range(3):
            machine.run("systemd-run", "-q", "--unit=busy", "sh", "/root/busy")
            machine.wait(
                lambda: "/layers/" in machine.sh("find /var/lib/gear/images || :"), "the work to begin"
            )
            machine.host.reboot(hard=True)
            after = json.loads(machine.gear("fsck", "--output", "json"))
            # A change that was cut off is made whole by rendering; nothing of an image is damaged.
            assert not [item for item in after if item["damage"] and "/images/" in str(item["path"])], after
            machine.gear("fsck", "--repair")
            sound(machine)
    finally:
        machine.host.stop()
