"""What only a whole machine shows: limits that act, a real web server and database, and a reboot."""

from __future__ import annotations

import json

from gearhost import RELEASE, GearHost
from testhostlib import build_image


def test_limits_act_on_the_payload(machine: GearHost) -> None:
    assert machine.host.cgroup == "v2"
    machine.gear(
        "install", "hello", "limited", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "20", "--start"
    )
    group = "/sys/fs/cgroup" + machine.show("ctr-limited", "ControlGroup")
    assert machine.sh(f"cat {group}/memory.max {group}/pids.max {group}/cpu.max").split() == [
        str(64 << 20), "20", "50000", "100000"]  # fmt: skip
    assert machine.sh(f"cat {group}/cgroup.procs").split() == [str(machine.pid("limited"))]
    (document,) = json.loads(machine.gear("inspect", "limited"))
    assert document["systemd"]["MemoryMax"] == 64 << 20 and document["systemd"]["TasksMax"] == 20
    # More memory than allowed ends the payload, and the end has a name.
    hog = "x=0123456789abcdef; while :; do x=$x$x; done"
    machine.gear("install", "hello", "hog", "--memory", "16m", "--restart", "no", "--start", "--entrypoint", "/bin/sh",
                 "--", "-c", hog)  # fmt: skip
    machine.wait(lambda: machine.show("ctr-hog", "ActiveState") == "failed", "the end of memory")
    assert machine.show("ctr-hog", "Result") == "oom-kill"
    machine.gear("delete", "limited", "hog")


def test_the_payload_sees_its_own_control_group_and_devices_are_closed(machine: GearHost) -> None:
    script = (
        "cat /proc/1/cgroup; cd /sys/fs/cgroup; ls | grep -c cgroup.procs; mkdir x; echo the-end; sleep 9999"
    )
    machine.gear(
        "install", "hello", "seen", "--user", "0", "--start", "--entrypoint", "/bin/sh", "--", "-c", script
    )
    machine.wait(lambda: "the-end" in machine.gear("logs", "seen"), "the script")
    assert machine.gear("logs", "seen").splitlines() == [
        "0::/",
        "1",
        "mkdir: can't create directory 'x': Read-only file system",
        "the-end",
    ]
    # The kernel's own filter, whatever node there is: the host's disk can't be opened even where its node is.
    options = ("--user", "0", "-v", "/dev/vda:/disk", "--start", "--entrypoint", "/bin/sh")
    machine.gear(
        "install", "hello", "seen", *options, "--", "-c", "head -c 1 /disk; echo the-end; exec sleep 9999"
    )
    machine.wait(lambda: "the-end" in machine.gear("logs", "-i", "seen"), "the script")
    assert machine.gear("logs", "-i", "seen").splitlines()[0] in (
        "head: /disk: Permission denied",
        "head: /disk: Operation not permitted",
    )
    machine.gear("delete", "seen")


def test_nginx_and_redis_survive_a_reboot_with_their_data(machine: GearHost) -> None:
    for name in ("nginx", "redis"):
        machine.host.copy(build_image(name, release=RELEASE), f"/root/{name}.tar")
    machine.gear("image", "import", "/root/nginx.tar", "nginx", "--cmd", '["nginx", "-g", "daemon off;"]',
                 "--stop-signal", "SIGQUIT", "--expose", "80")  # fmt: skip
    machine.gear("image", "import", "/root/redis.tar", "redis", "--entrypoint", '["redis-server"]', "--user", "redis",
                 "--volume", "/var/lib/redis", "--workdir", "/var/lib/redis")  # fmt: skip
    machine.gear("install", "nginx", "web", "--net", "host", "-v", "site:/var/www/html", "--start")
    machine.gear(
        "install",
        "redis",
        "db",
        "--net",
        "host",
        "--start",
        "--",
        "--appendonly",
        "yes",
        "--dir",
        "/var/lib/redis",
    )
    # Their main processes are theirs, and the only ones of ours are none.
    for name, program in (("web", "nginx"), ("db", "redis-server")):
        assert machine.sh(f"cat /proc/{machine.pid(name)}/comm") == program
    page = "curl -sS --retry 100 --retry-connrefused --retry-delay 1 http://127.0.0.1/"
    assert "Welcome to nginx!" in machine.sh(page)
    machine.sh("echo changed > /var/lib/gear/volumes/site/data/index.html")
    ask = 'exec 3<>/dev/tcp/127.0.0.1/6379; printf \'%s\\r\\n\' "$0" >&3; head -n "$1" <&3'
    machine.wait(lambda: "PONG" in machine.out("bash", "-c", f"{ask} || :", "PING", "1"), "redis")
    assert "+OK" in machine.out("bash", "-c", ask, "SET greeting kept", "1")

    machine.host.reboot()

    machine.wait(lambda: machine.show("ctr-db", "ActiveState") == "active", "the database after the boot")
    assert machine.sh(page) == "changed"
    machine.wait(
        lambda: "PONG" in machine.out("bash", "-c", f"{ask} || :", "PING", "1"), "redis after the boot"
    )
    assert "kept" in machine.out("bash", "-c", ask, "GET greeting", "2")
    assert machine.run("systemctl", "is-failed", "ctr-web", "ctr-db", check=False).returncode != 0

    # What is stopped stays off over a reboot; what is started comes back.
    machine.gear("stop", "web")
    assert machine.show("ctr-web", "Result") == "success"  # nginx heard SIGQUIT
    machine.host.reboot(hard=True)
    machine.wait(lambda: machine.show("ctr-db", "ActiveState") == "active", "the database after a power cut")
    machine.wait(
        lambda: "PONG" in machine.out("bash", "-c", f"{ask} || :", "PING", "1"), "redis after the power cut"
    )
    assert "kept" in machine.out("bash", "-c", ask, "GET greeting", "2")
    assert machine.show("ctr-web", "ActiveState") == "inactive"
    assert machine.leftovers() == []
    machine.gear("delete", "--volumes", "web", "db")


def test_switched_off_user_namespaces_are_named(machine: GearHost) -> None:
    machine.gear("install", "hello", "ns")
    machine.sh("sysctl -q -w user.max_user_namespaces=0")
    try:
        assert "User namespaces are switched off on this machine" in machine.fails(
            1, "install", "hello", "ns2"
        )
        error = machine.fails(1, "start", "ns")
        assert "user.max_user_namespaces" in error, error
    finally:
        machine.sh("sysctl -q -w user.max_user_namespaces=10000")
    # Debian's switch is for those without rights, whom gear is not: the namespace belongs to the container's root only.
    machine.sh("sysctl -q -w kernel.unprivileged_userns_clone=0")
    machine.gear("start", "ns")
    machine.sh("sysctl -q -w kernel.unprivileged_userns_clone=1")
    machine.gear("delete", "ns")


def test_a_failed_upgrade_takes_back_image_and_data(machine: GearHost) -> None:
    idle = "trap exit TERM; while :; do sleep 1 & wait $!; done"
    for version in ("one", "bad"):
        machine.gear("install", "hello", "upmake", "-u", "0", "--start", "--", "/bin/sh", "-c", idle)
        machine.gear("exec", "upmake", "sh", "-c", f"echo {version} > /version")
        machine.gear("commit", "upmake", f"upapp:{version}")
        machine.gear("delete", "upmake")
    machine.gear("image", "tag", "upapp:one", "upapp:latest")
    start = f"cat /version >> /data/log; [ $(cat /version) != bad ] || exit 3; {idle}"
    machine.gear(
        "install", "upapp", "up", "-u", "0", "-v", "up:/data", "--start", "--", "/bin/sh", "-c", start
    )
    one = machine.json("status", "up")[0]["image"]["digest"]
    machine.gear("image", "tag", "upapp:bad", "upapp:latest")
    error = machine.fails(1, "upgrade", "up", "--no-pull", "--snapshot-volumes")
    assert "up is not upgraded, and is again what it was before" in error and "status" in error
    machine.wait(lambda: machine.show("ctr-up", "ActiveState") == "active", "it to run")
    assert machine.json("status", "up")[0]["image"]["digest"] == one
    assert machine.sh("cat /var/lib/gear/volumes/up/data/log").split() == ["one", "one"]
    machine.gear("delete", "--volumes", "up")
    machine.gear("image", "rm", "upapp:one", "upapp:bad", "upapp:latest")
