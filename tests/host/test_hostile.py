"""What hostile images and payloads try, carried out; and what clumsy administrators do."""

from __future__ import annotations

import json

from gearhost import GearHost


def make_image(host: GearHost, name: str, script: str, *options: str) -> None:
    """An image of busybox and what *script* makes in its root directory."""
    place = f"/var/lib/t/{name}"
    host.sh(f"rm -rf {place}; mkdir -p {place}/bin; cp /bin/busybox {place}/bin/sh; cd {place}; {script}")
    host.gear("image", "import", place, name, *(options or ("--cmd", '["sh"]')))


def remove_image(host: GearHost, name: str) -> None:
    host.gear("delete", "--volumes", name)
    host.gear("image", "rm", name)


def test_an_image_cannot_speak_to_the_service_manager(host: GearHost) -> None:
    host.sh("systemd-run -q --unit=victim sleep 10000")
    victim = host.show("victim", "MainPID")
    word = f"/nope\nMAINPID={victim}\nREADY=1\rSTATUS=fine\x1b]0;title\x07\nX="
    make_image(host, "liar", ":", "--entrypoint", json.dumps([word]))
    host.gear("install", "liar", "liar")
    error = host.fails(1, "start", "liar")
    assert f"/nope?MAINPID={victim}?READY=1?STATUS=fine?]0;title??X=: there is no such file" in error
    assert "\x1b" not in error and host.show("ctr-liar", "MainPID") == "0"
    host.gear("install", "liar", "liar", "--workdir", f"/etc/hostname/x\nMAINPID={victim}\nREADY=1\nX=")
    assert "can't change to the working directory" in host.fails(1, "start", "liar")
    host.gear("stop", "liar")
    assert host.out("systemctl", "is-active", "victim") == "active"
    assert host.show("victim", "MainPID") == victim
    host.sh("systemctl stop victim")
    # A sentence that no datagram would hold is cut, not lost.
    host.gear("install", "liar", "liar", "--entrypoint", "/" + "x" * 60000)
    assert "did not start: can't run /xxxxxxxx" in host.fails(1, "start", "liar")
    remove_image(host, "liar")


def test_a_volume_is_not_led_onto_the_kernels_file_systems(host: GearHost) -> None:
    for target in ("proc", "sys", "dev", "proc/sys", "."):
        script = f"ln -s {target} trap; mkdir -p proc/sys/net/ipv4; mkfifo proc/sys/net/ipv4/ping_group_range"
        make_image(host, "trap", script, "--volume", "/trap", "--cmd", '["sh"]')
        host.gear("install", "trap", "trap", "--restart", "no")
        error = host.fails(1, "start", "trap")
        assert "on /trap: a link of the image leads it" in error, (target, error)
        remove_image(host, "trap")


def test_files_where_kernel_file_systems_belong_are_named(host: GearHost) -> None:
    for place in ("proc", "sys", "dev"):
        make_image(host, "blocked", f"touch {place}")
        host.gear("install", "blocked", "blocked", "--restart", "no")
        assert "the image has a file" in host.fails(1, "start", "blocked")
        remove_image(host, "blocked")


def test_no_descriptor_leads_out_by_the_working_directory(host: GearHost) -> None:
    host.gear("install", "hello", "cwd", "--restart", "no")
    for number in range(3, 12):
        host.gear("install", "hello", "cwd", "--restart", "no", "--workdir", f"/proc/self/fd/{number}")
        error = host.fails(1, "start", "cwd")
        assert f"can't change to the working directory /proc/self/fd/{number}" in error


def test_the_images_environment_does_not_reach_the_helper(host: GearHost) -> None:
    variables = (
        "LD_PRELOAD=/evil.so",
        "PYTHONPATH=/evil",
        "PYTHONHOME=/evil",
        "GCONV_PATH=/evil",
        "LC_ALL=evil",
    )
    options = [word for variable in variables for word in ("--env", variable)]
    make_image(host, "env", ":", "--cmd", '["sh", "-c", "sleep 1000; :"]', *options)
    host.gear("install", "env", "env", "--start")
    environ = host.read(f"/proc/{host.pid('env')}/environ").decode().split("\0")
    assert set(variables) <= set(environ)
    assert not set(variables) & set(host.show("ctr-env", "Environment").split())
    remove_image(host, "env")


def test_other_users_of_the_host_read_nothing(host: GearHost) -> None:
    host.gear("install", "hello", "secret", "-e", "PASSWORD=swordfish", "-v", "secret:/data")
    as_nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    for place in ("containers", "images", "volumes", "uids"):
        assert host.run(*as_nobody, "ls", f"/var/lib/gear/{place}", check=False).returncode != 0
    found = host.run(
        *as_nobody, "grep", "-rs", "swordfish", "/var/lib/gear", "/usr/local/lib/systemd", check=False
    )
    assert found.stdout == b""


def test_a_change_of_boot_leaves_other_units_alone(host: GearHost) -> None:
    host.sh("systemctl daemon-reload")
    host.gear("install", "hello", "quiet", "--start")
    host.gear("stop", "quiet")
    assert host.show("dbus.service", "NeedDaemonReload") == "no"
    assert "disabled" in host.run("systemctl", "status", "ctr-quiet", check=False).stdout.decode()


def test_starting_and_restarting_by_hand_is_never_too_often(host: GearHost) -> None:
    host.gear("install", "hello", "often", "--start")
    for _ in range(8):
        host.gear("restart", "often")
    for _ in range(8):
        host.gear("stop", "often")
        host.gear("start", "often")
    assert host.out("systemctl", "is-active", "ctr-often") == "active"


def test_a_mended_container_starts_out_of_its_crash_loop(host: GearHost) -> None:
    loop = ("--restart", "always", "--entrypoint", "/bin/busybox", "--", "false")
    host.write("/etc/systemd/system/ctr-loop.service.d/slow.conf", b"[Service]\nRestartSec=3600\n")
    host.sh("systemctl daemon-reload")
    host.gear("install", "hello", "loop", *loop)
    host.run("gear", "start", "loop", check=False)
    host.wait(lambda: host.show("ctr-loop", "SubState") == "auto-restart", "the pause between two tries")
    assert "running" in host.gear("install", "hello", "loop", "--start")
    assert host.out("systemctl", "is-active", "ctr-loop") == "active"
    host.gear("delete", "loop")
    host.sh("rm -r /etc/systemd/system/ctr-loop.service.d; systemctl daemon-reload")


def test_a_unit_that_somebody_removed_is_no_obstacle(host: GearHost) -> None:
    host.gear("install", "hello", "gone", "--start")
    host.sh("rm /usr/local/lib/systemd/system/ctr-gone.service")
    assert host.gear("delete", "gone") == "gone is deleted\n"
    assert host.sh("find /etc/systemd/system -name '*gone*'") == ""


def test_a_damaged_specification_harms_nobody_else(host: GearHost) -> None:
    host.gear("install", "hello", "fine", "broken", "--start")
    host.write("/var/lib/gear/containers/broken/spec.json", b"{", mode="600")
    # What needs to know what the broken one uses refuses, and leaves everything running.
    assert "broken/spec.json is not valid JSON" in host.fails(1, "delete", "--volumes", "fine")
    assert host.pid("fine")
    assert "broken/spec.json" in host.fails(1, "clean", "--dry-run")
    done = host.run("gear", "image", "list", check=False)
    assert done.returncode == 1 and b"hello:latest" in done.stdout and b"broken/spec.json" in done.stderr
    # Everything else goes on.
    assert host.gear("delete", "fine") == "fine is deleted\n"
    assert host.gear("stop", "broken") == "broken is stopped\n"
    host.gear("install", "hello", "broken")
    assert host.gear("plan", "broken") == "broken: nothing would change\n"


def test_a_unit_directory_that_systemd_does_not_search_is_refused(host: GearHost) -> None:
    error = host.fails(2, "--unit-dir", "/root/units", "install", "hello", "lost")
    assert error.startswith("error: systemd does not look for units in /root/units") and "hint: " in error
    assert host.run("test", "-e", "/var/lib/gear/containers/lost", check=False).returncode == 1


def test_a_volume_on_etc_keeps_the_containers_own_files(host: GearHost) -> None:
    script = "cat /etc/hostname; grep -cw etc1 /etc/hosts; echo the-end; sleep 1000"
    host.gear(
        "install",
        "hello",
        "etc1",
        "-v",
        "etc1:/etc",
        "--start",
        "--entrypoint",
        "/bin/sh",
        "--",
        "-c",
        script,
    )
    host.wait(lambda: "the-end" in host.gear("logs", "etc1"), "the script")
    assert host.gear("logs", "etc1").split() == ["etc1", "2", "the-end"]


def test_recursive_binds_are_mapped_as_a_whole(host: GearHost) -> None:
    host.sh(
        "rm -rf /var/lib/t/rb; mkdir -p /var/lib/t/rb/sub; cd /var/lib/t/rb; mount -t tmpfs none sub; touch sub/f"
    )
    try:
        script = "stat -c %u /m /m/sub /m/sub/f; echo the-end; sleep 1000"
        host.gear("install", "hello", "rb", "-v", "/var/lib/t/rb:/m:rbind,idmap", "--start", "--entrypoint", "/bin/sh",
                  "--", "-c", script)  # fmt: skip
        host.wait(lambda: "the-end" in host.gear("logs", "rb"), "the script")
        assert host.gear("logs", "rb").split() == ["0", "0", "0", "the-end"]
        host.gear("delete", "rb")
    finally:
        host.sh("umount /var/lib/t/rb/sub")
