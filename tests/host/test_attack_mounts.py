"""Attacks on mounts: links and racers at destinations, kernel file systems, control groups, devices."""

from __future__ import annotations

import json
import re

import archives
import pytest
from attacking import REFUSED, Attacker, command, gained

# What a racer swaps a directory for: paths that lead to the host, were they looked up there.
TARGETS = (
    "/",
    "/srv",
    "../../../../../../../../srv",
    "/proc/1/root/srv",
    "/proc/self/fd",
    "/proc/sys",
    "/dev",
    "nowhere",
)
# Files of procfs that tell about the host or change it; absent ones are fine.
SECRET = (
    "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi/scsi", "/proc/acpi/wakeup",
    "/proc/latency_stats", "/proc/interrupts", "/proc/kmsg", "/sys/firmware/dmi/tables/DMI", "/proc/kpagecount",
    "/sys/devices/virtual/powercap/intel-rapl/enabled", "/sys/kernel/debug/sched/debug", "/proc/kpageflags",
    "/proc/sys/kernel/usermodehelper/bset", "/proc/iomem",
)  # fmt: skip
# Everyone may set a trigger for pressure stall information; it is the payload's own and costs the host little.
WRITABLE = re.compile(r"/proc/pressure/(cpu|io|memory|irq)")


def tree(attacker: Attacker) -> str:
    """Places of the host where a mount point, file or directory could have landed."""
    return attacker.host.sh(
        "find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/lib/gear "
        "-o -path /var/log -o -path /var/lib/t -o -path /etc/systemd -o -path /usr/local/lib/systemd "
        "-o -name __pycache__ \\) -prune -o -printf '%p %y %i\\n' | sort; ls /srv /run /tmp"
    )


def test_racers_at_mount_destinations_gain_nothing(attacker: Attacker) -> None:
    """CVE-2021-30465: one container swaps a directory of a shared volume for links while another one starts."""
    host = attacker.host
    host.sh("mkdir -p /srv/keep; touch /srv/keep/file")
    before, mounts = tree(attacker), host.mount_table()
    attacker.start("racer", "race", "600", "/shared", "x", *TARGETS, options=("-v", "shared:/shared"))
    host.wait(lambda: "racing now" in attacker.log("racer"), "the racer")
    words = (
        "-v",
        "shared:/shared",
        "-v",
        "inner:/shared/x/a/b",
        "--tmpfs",
        "/shared/x/t",
        "-v",
        "/etc/os-release:/shared/x/f:ro",
    )
    host.gear("install", "attack", "victim", "--user", "0", "--restart", "no", *words, "--entrypoint", "/bin/probe",
              "--", "descriptors")  # fmt: skip
    # Each outcome is fine, started or refused, as long as nothing reaches the host; both must have been seen.
    script = (
        "good=0 bad=0; for i in $(seq 60); do if systemctl start ctr-victim 2>/dev/null; then good=$((good+1));"
        " cat /proc/$(systemctl show -p MainPID --value ctr-victim)/mountinfo >>/var/lib/t/mountinfo;"
        " else bad=$((bad+1)); fi; systemctl kill -s KILL ctr-victim 2>/dev/null; systemctl stop ctr-victim;"
        " systemctl reset-failed ctr-victim 2>/dev/null; done;"
        " echo $good $bad"
    )
    good, bad = map(int, host.sh(f"rm -f /var/lib/t/mountinfo; {script}").split()[-2:])
    assert good + bad == 60 and good and bad, (good, bad)
    # Inside, no mount has landed on a file system of the kernel's or over the root.
    ours = {"/", "/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/shared"}
    for line in host.read("/var/lib/t/mountinfo").decode().splitlines():
        source, place = line.split()[3:5]
        if "/volumes/inner" in source or source == "/usr/lib/os-release":
            assert not place.startswith(("/proc", "/sys", "/dev")) and place not in ours, line
    assert tree(attacker) == before and host.mount_table() == mounts
    assert host.sh("ls /var/lib/gear/volumes/inner/data; cat /srv/keep/file") == ""
    host.gear("delete", "--volumes", "victim", "racer")
    host.sh("rm -r /srv/keep")


def test_kernel_file_systems_are_never_the_images(attacker: Attacker) -> None:
    """CVE-2019-16884, CVE-2023-27561: volumes, links and files where /proc, /sys and /dev belong."""
    host = attacker.host
    for place in (
        "/proc",
        "/sys",
        "/dev",
        "/proc/sys",
        "/proc/self",
        "/sys/fs/cgroup",
        "/dev/pts",
        "/dev/shm/../../proc",
    ):
        done = host.run(
            "gear",
            "install",
            "attack",
            "own",
            "-v",
            f"own:{place}",
            "--restart",
            "no",
            "--start",
            check=False,
        )
        assert done.returncode in (1, 2) and b"error: " in done.stderr, (place, done.stdout)
        host.run("gear", "delete", "--volumes", "own", check=False)
    # A VOLUME of an image is no volume there: procfs is procfs.
    volumes = [
        word for place in ("/proc", "/sys", "/dev", "/proc/sys/kernel") for word in ("--volume", place)
    ]
    attacker.image(
        "kernel",
        options=(*command("/bin/probe", "files", "/proc/self/stat", "/sys/kernel/uevent_seqnum"), *volumes),
    )
    done = host.run(
        "gear", "install", "kernel", "kernel", "--user", "0", "--restart", "no", "--start", check=False
    )
    if done.returncode == 0:
        result = attacker.result("kernel")
        assert int(result["/proc/self/stat"]) > 50 and int(result["/sys/kernel/uevent_seqnum"]) > 0
        lines = [line.split() for line in host.sh(f"cat /proc/{host.pid('kernel')}/mountinfo").splitlines()]
        kinds = [line[line.index("-") + 1] for line in lines if line[4] == "/proc"]
        assert kinds == ["proc"]


def test_masks_can_not_be_led_astray_by_an_image(attacker: Attacker) -> None:
    """CVE-2025-31133: what masks are made of comes from the host, whatever the image has at /dev/null."""
    members = [
        archives.symlink("dev/null", "/proc/sysrq-trigger"), archives.symlink("dev/console", "/proc/sys/kernel/panic"),
        archives.symlink("dev/pts", "/proc/sys"), archives.symlink("dev/shm", "/proc"), archives.directory("dev/tty"),
    ]  # fmt: skip
    attacker.image("masks", *members)
    result = attacker.attack("files", "/proc/keys", "/proc/timer_list", "/dev/null", image="masks")
    assert set(result.values()) <= {"0", "ENOENT"}, result


def test_kernel_interfaces_show_and_take_nothing(attacker: Attacker) -> None:
    result = attacker.attack("writable", "/proc", "/sys")
    assert int(result.pop("seen")) > 1000 and int(result.pop("writable")) < 10
    assert [name for name in result if not WRITABLE.fullmatch(name)] == []
    result = attacker.attack("files", *SECRET)
    readable = {name for name, outcome in result.items() if outcome.isdigit() and outcome != "0"}
    # Without the addresses, which need CAP_SYSLOG and CAP_SYS_ADMIN on the host, /proc/iomem is a list of zeros.
    assert readable <= {"/proc/iomem"}, readable
    # The search finds what can be written to, where there is something.
    assert int(attacker.control("writable", "/var/lib/t")["writable"]) > 0


def test_mounting_is_refused(attacker: Attacker) -> None:
    result = attacker.attack("mounts")
    assert gained(result) == [] and set(result.values()) <= REFUSED | {"ENOENT"}, result
    assert len(result) > 60
    assert "mount-tmpfs" in gained(attacker.control("mounts", wrapper=("unshare", "--mount")))


def test_a_user_namespace_of_its_own_gives_a_payload_no_rights(attacker: Attacker) -> None:
    """CVE-2022-0185 and its kind start with the capabilities of a nested user namespace."""
    for attack in ("mounts", "cgroups"):
        assert attacker.attack(attack, "nested") == {"nest": "EPERM"}


def test_control_groups_can_not_be_changed(attacker: Attacker) -> None:
    """CVE-2022-0492: the steps of the published exploit by release_agent, and those of cgroup v2."""
    result = attacker.attack("cgroups")
    assert gained(result) == [] and set(result.values()) <= REFUSED, result
    # Without the filter a nested user namespace may mount hierarchies; there it is the kernel that keeps their files.
    result = attacker.attack("cgroups", "nested", options=("--security-opt", "seccomp=unconfined"))
    assert result["nest"] == "ok"
    assert [name for name in gained(result) if name != "nest" and not name.startswith("mount-")] == []


def test_devices_can_neither_be_made_nor_opened(attacker: Attacker) -> None:
    host = attacker.host
    # The host's root puts nodes into a directory that is bound: nodev stands in the way, where mknod(2) does not.
    host.sh(
        "mkdir -p /var/lib/t/nodes; cd /var/lib/t/nodes; mknod -m 666 attack-null c 1 3; mknod -m 666 attack-mem c 1 1"
    )
    options = ("-v", "/var/lib/t/nodes:/nodes:idmap", "--tmpfs", "/scratch")
    result = attacker.attack("devices", "/tmp", "/dev", "/scratch", "/nodes", options=options)
    assert gained(result) == [], result
    assert result["open-/nodes/attack-null"] == result["open-/nodes/attack-mem"] == "EACCES"
    assert {result[f"mknod-{place}/attack-mem"] for place in ("/tmp", "/dev", "/scratch")} <= REFUSED
    assert set(gained(attacker.control("devices", "/root"))) >= {
        "mknod-/root/attack-null",
        "open-/root/attack-null",
    }


@pytest.mark.parametrize("name", ["data", "data/deep/er"])
def test_links_of_an_image_at_a_volume(attacker: Attacker, name: str) -> None:
    """CVE-2024-45310: missing directories are made where the link leads inside the root, never on the host."""
    before = tree(attacker)
    top = name.split("/")[0]
    attacker.image(
        f"links-{len(name)}",
        archives.symlink(top, "../../../../srv/made"),
        options=command("/bin/probe", "descriptors"),
    )
    attacker.attack(
        "descriptors", image=f"links-{len(name)}", options=("-v", f"v:/{name}", "--tmpfs", f"/{name}/t")
    )
    assert tree(attacker) == before


def test_propagation_leads_neither_in_nor_out(attacker: Attacker) -> None:
    """What the host mounts later below a bound directory stays outside, and no mount of the container is shared."""
    host = attacker.host
    host.sh("mkdir -p /var/lib/t/prop/below")
    attacker.start("prop", "descriptors", options=("-v", "/var/lib/t/prop:/prop:rbind"))
    attacker.result("prop")
    table = host.sh(f"cat /proc/{host.pid('prop')}/mountinfo")
    host.sh("mount -t tmpfs late /var/lib/t/prop/below; mount --make-rshared /var/lib/t/prop/below")
    try:
        after = host.sh(f"cat /proc/{host.pid('prop')}/mountinfo")
        assert after == table and json.dumps(table).count(" shared:") == 0
    finally:
        host.sh("umount /var/lib/t/prop/below")
