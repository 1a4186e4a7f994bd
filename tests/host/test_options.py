"""Every option of isolation, looked at from inside a container that runs with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gearhost import GearHost

DEFAULT_CAPABILITIES = 0x00000000A80425FB
ALL_CAPABILITIES = (1 << 41) - 1
SYS_TIME, NET_BIND_SERVICE, CHOWN = 1 << 25, 1 << 10, 1 << 0


def look(
    host: GearHost, name: str, script: str, *options: str, image: str = "hello", user: str = "0"
) -> list[str]:
    """Run *script* in a container with *options*, and return what it prints."""
    arguments = ("--user", user, "--entrypoint", "/bin/sh", "--restart", "no", "--start", *options)
    host.gear(
        "install", image, name, *arguments, "--", "-c", f"exec 2>&1; {script}; echo the-end; exec sleep 1000"
    )
    host.wait(lambda: "the-end" in host.gear("logs", "-i", name).split("\n"), "the script")
    lines = host.gear("logs", "-i", name).splitlines()
    return lines[: lines.index("the-end")]


# How many filters a process has; those of the test host itself are among them.
FILTERS = "grep Seccomp_filters /proc/self/status"


def filters_of_host(host: GearHost) -> int:
    return int(host.sh("sed -n 's/^Seccomp_filters:\\t//p' /proc/1/status"))


def capabilities(host: GearHost, name: str, *options: str, user: str = "0") -> list[int]:
    """The five sets: inheritable, permitted, effective, bounding, ambient."""
    lines = look(host, name, "grep Cap /proc/self/status", *options, user=user)
    return [int(line.split()[1], 16) for line in lines]


def test_capabilities_are_added_and_dropped(host: GearHost) -> None:
    found = capabilities(host, "caps", "--cap-add", "sys_time", "--cap-drop", "CAP_CHOWN")
    wanted = (DEFAULT_CAPABILITIES | SYS_TIME) & ~CHOWN
    assert found == [0, wanted, wanted, wanted, 0]
    low = NET_BIND_SERVICE
    found = capabilities(host, "caps", "--cap-drop", "all", "--cap-add", "NET_BIND_SERVICE")
    assert found == [0, low, low, low, 0]
    assert capabilities(host, "caps", "--cap-add", "ALL")[2] == ALL_CAPABILITIES
    # Another user holds what was asked for by name, also in what it executes.
    found = capabilities(host, "caps", "--cap-add", "NET_BIND_SERVICE", user="www")
    assert found == [low, low, low, DEFAULT_CAPABILITIES, low]


def test_privileged_is_everything_within_its_user_namespace(host: GearHost) -> None:
    lines = look(
        host, "priv",
        f"grep CapEff /proc/self/status; {FILTERS}; mount -t tmpfs t /mnt && echo mounted;"
        " mkdir -p /sys/fs/cgroup/inner && echo grouped; echo 1 > /proc/sys/net/ipv4/ip_forward && echo forwards;"
        " ls /dev/kmsg; mknod /tmp/kmsg c 1 11; echo 77 > /proc/sys/kernel/panic",
        "--privileged", "--tmpfs", "/tmp", "--tmpfs", "/mnt",
    )  # fmt: skip
    assert lines[:3] == [
        f"CapEff:\t{ALL_CAPABILITIES:016x}",
        f"Seccomp_filters:\t{filters_of_host(host)}",
        "mounted",
    ]
    assert "forwards" in lines
    if host.host.cgroup == "v2":
        assert "grouped" in lines
    assert any("mknod" in line and "not permitted" in line for line in lines)
    assert any("/dev/kmsg" in line and "No such file" in line for line in lines)
    assert host.read("/proc/sys/kernel/panic") != b"77\n"


def test_seccomp_is_on_unless_it_is_switched_off(host: GearHost) -> None:
    none = f"Seccomp_filters:\t{filters_of_host(host)}"
    one = f"Seccomp_filters:\t{filters_of_host(host) + 1}"
    script = f"{FILTERS}; unshare -U true && echo allowed; mkdir /tmp/x && echo made"
    assert look(host, "filter", script, "--tmpfs", "/tmp")[0] == one
    assert "allowed" not in look(host, "filter", script, "--tmpfs", "/tmp")
    lines = look(host, "filter", script, "--tmpfs", "/tmp", "--security-opt", "seccomp=unconfined")
    assert lines == [none, "allowed", "made"]
    host.write(
        "/root/no-mkdir.json",
        b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"],'
        b' "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}',
    )
    lines = look(host, "filter", script, "--tmpfs", "/tmp", "--security-opt", "seccomp=/root/no-mkdir.json")
    assert lines[:2] == [one, "allowed"] and "Operation not supported" in lines[2]
    # The profile is in the specification: its file is needed no more.
    host.sh("rm /root/no-mkdir.json")
    assert host.gear("plan", "filter") == "filter: nothing would change\n"
    host.sh("cd /var/lib/gear/containers/filter && printf x >> seccomp.bpf")
    assert "seccomp.bpf differ" in host.gear("plan", "filter")
    host.gear("apply", "filter")
    assert host.gear("plan", "filter") == "filter: nothing would change\n"


def test_no_new_privileges(host: GearHost) -> None:
    script = "grep NoNewPrivs /proc/self/status"
    assert look(host, "nnp", script, "--security-opt", "no-new-privileges") == ["NoNewPrivs:\t1"]
    assert look(host, "nnp", script) == ["NoNewPrivs:\t0"]


def test_paths_are_masked_and_unmasked(host: GearHost) -> None:
    script = "wc -c < /proc/cpuinfo; wc -c < /proc/timer_list; echo 5 > /proc/sys/net/core/somaxconn && echo written"
    lines = look(host, "mask", script)
    assert lines[0] != "0" and lines[1] == "0" and "Read-only" in lines[2]
    lines = look(
        host,
        "mask",
        script,
        "--security-opt",
        "mask=/proc/cpuinfo",
        "--security-opt",
        "unmask=/proc/sys",
        "--cap-add",
        "NET_ADMIN",
    )
    assert lines == ["0", "0", "written"]


def test_security_modules_that_are_off_are_said_to_be(host: GearHost) -> None:
    for option, module in (("apparmor=x", "AppArmor"), ("label=type:x", "SELinux")):
        enabled = host.sh("cat /sys/module/apparmor/parameters/enabled || :")
        if module == "SELinux" or enabled != "Y":
            error = host.fails(1, "install", "hello", "lsm", "--security-opt", option)
            assert f"{module} is off" in error
    host.gear(
        "install", "hello", "lsm", "--security-opt", "apparmor=unconfined", "--security-opt", "label=disable"
    )


def test_device_is_usable_by_root_of_the_container_and_others_are_not(host: GearHost) -> None:
    host.sh("[ -e /dev/test-kmsg ] || mknod -m 660 /dev/test-kmsg c 1 11 && chgrp 44 /dev/test-kmsg")
    script = "stat -c '%t:%T %a %u:%g' /dev/log/kmsg; dd if=/dev/log/kmsg of=/dev/null count=1 bs=8192; ls /dev/kmsg"
    lines = look(host, "dev", script, "--device", "/dev/test-kmsg:/dev/log/kmsg:r")
    assert lines[0] == "1:b 660 0:44"
    assert any("/dev/kmsg" in line and "No such file" in line for line in lines)
    if host.host.cgroup == "v2":
        assert host.show("ctr-dev.service", "DeviceAllow").split("\n")[-1] == "/dev/char/1:11 r"
    error = host.fails(2, "install", "hello", "dev", "--device", "/dev/no-such")
    assert "/dev/no-such" in error
    assert "is no device" in host.fails(2, "install", "hello", "dev", "--device", "/etc/passwd")
    host.sh("rm /dev/test-kmsg")


def test_user_ids_by_number(host: GearHost) -> None:
    host.gear("install", "hello", "ids", "--userns", "3000000:70000", "--start")
    state = host.json("status", "ids")[0]
    assert state["uid_range"] == {"base": 3000000, "size": 70000}
    assert host.sh(f"cat /proc/{state['main_pid']}/uid_map").split() == ["0", "3000000", "70000"]
    error = host.fails(2, "install", "hello", "other", "--userns", "3060000")
    assert "3000000 to 3069999 are those of ids" in error
    error = host.fails(2, "install", "hello", "few", "--userns", "4000000:100", "--user", "8080")
    assert "8080" in error
    # Back to a range of gear's choice: another writable layer, and the numbers are free when the container is deleted.
    host.gear("stop", "ids")
    host.gear("install", "hello", "ids")
    assert host.json("status", "ids")[0]["uid_range"]["size"] == 65536
    assert {item["what"] for item in host.leftovers()} == {
        "a writable layer of an earlier image or storage driver"
    }
    host.gear("clean")
    host.gear("delete", "ids")
    host.gear("install", "hello", "other", "--userns", "3060000", "--start")


def test_the_hosts_user_ids(host: GearHost) -> None:
    before = host.sh("sha256sum /usr/bin/python3")
    script = (
        "cat /proc/self/uid_map; echo x > /data/file; ls -ln /data/file | cut -d ' ' -f 5-12;"
        " mknod /mem c 1 1; head -c 1 /mem; echo 1 > /proc/sys/kernel/panic"
    )
    lines = look(host, "hostids", script, "--userns", "host", "-v", "hostids:/data")
    assert lines[0].split() == ["0", "0", "4294967295"]
    assert host.json("status", "hostids")[0]["uid_range"] is None
    assert host.sh("stat -c %u /var/lib/gear/volumes/hostids/data/file") == "0"
    assert host.out("readlink", f"/proc/{host.pid('hostids')}/ns/user") == host.out(
        "readlink", "/proc/1/ns/user"
    )
    assert any("Read-only" in line for line in lines)
    assert any("head" in line and ("not permitted" in line or "ermission denied" in line) for line in lines)
    assert host.show("ctr-hostids.service", "ReadOnlyPaths") == "/usr/bin/python3"
    assert host.sh("sha256sum /usr/bin/python3") == before
    assert "User ids: the host's own" in host.gear("status", "hostids")


@pytest.mark.parametrize("kind", ["pid", "ipc", "uts", "cgroup"])
def test_namespaces_of_the_host(host: GearHost, kind: str) -> None:
    option = "--cgroupns" if kind == "cgroup" else f"--{kind}"
    script = {
        "pid": "ls -d /proc/1 && cat /proc/1/comm",
        "ipc": "ls /dev/shm; ls -d /dev/mqueue",
        "uts": "hostname; cat /etc/hostname",
        "cgroup": "grep -o 'ctr-ns.service' /proc/self/cgroup | sort -u; ls -d /sys/fs/cgroup; mkdir /sys/fs/cgroup/x",
    }[kind]
    host.sh("touch /dev/shm/of-the-host")
    lines = look(host, "ns", script, option, "host")
    pid = host.pid("ns")
    names = {each: host.out("readlink", f"/proc/{pid}/ns/{each}") for each in ("pid", "ipc", "uts", "cgroup")}
    hosts = {each: host.out("readlink", f"/proc/1/ns/{each}") for each in names}
    assert {each for each in names if names[each] == hosts[each]} == {kind}
    match kind:
        case "pid":
            assert lines == ["/proc/1", "systemd"]
        case "ipc":
            assert "of-the-host" in lines
        case "uts":
            assert lines[0] == host.out("hostname") and lines[1] == host.sh("cat /etc/hostname")
        case "cgroup":
            assert lines[0] == "ctr-ns.service" and "Read-only" in lines[-1]
    host.sh("rm /dev/shm/of-the-host")


def test_pid_host_stops_and_leaves_nothing(host: GearHost) -> None:
    look(host, "ns", "(sleep 1001 &); (sleep 1002 &)", "--pid", "host")
    host.gear("stop", "ns")
    assert host.sh("pgrep -f 'sleep 100[012]' || :") == ""


def test_kernel_parameters_of_its_own_namespaces(host: GearHost) -> None:
    options = [
        "net.core.somaxconn=77",
        "kernel.msgmax=1234",
        "fs.mqueue.msg_max=9",
        "user.max_pid_namespaces=3",
    ]
    script = "cd /proc/sys; cat net/core/somaxconn kernel/msgmax fs/mqueue/msg_max user/max_pid_namespaces"
    before = host.sh(script)
    assert look(host, "sysctl", script, *(f"--sysctl={option}" for option in options)) == [
        "77",
        "1234",
        "9",
        "3",
    ]
    assert host.sh(script) == before
    for wrong in ("vm.swappiness=1", "kernel.panic=1", "kernel.core_pattern=|/x"):
        assert "whole machine" in host.fails(2, "install", "hello", "sysctl", "--sysctl", wrong)
    assert "--net host" in host.fails(2, "install", "hello", "sysctl", "--net=host", f"--sysctl={options[0]}")


def test_resource_limits_and_oom_score(host: GearHost) -> None:
    script = "ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj"
    options = ("--ulimit", "nofile=100:200", "--ulimit", "core=0", "--oom-score-adj", "300")
    assert look(host, "ulimit", script, *options) == ["100", "200", "0", "300"]


def test_shm_size_umask_and_groups(host: GearHost) -> None:
    script = "df -k /dev/shm | awk 'END { print $2 }'; umask; id -G"
    group = host.sh("cd /var/lib/gear/images/layers/sha256/*/root && tail -n 1 etc/group").split(":")
    options = ("--shm-size", "3m", "--umask", "27", "--group-add", "4711", "--group-add", group[0])
    lines = look(host, "misc", script, *options)
    assert lines[:2] == ["3072", "0027"]
    assert {"0", "4711", group[2]} <= set(lines[2].split())
    assert "no group 'nosuch'" in host.fails(2, "install", "hello", "misc", "--group-add", "nosuch")


def test_time_zones(host: GearHost) -> None:
    # The demo image has no zones: they are the host's files, in whichever place the image keeps its own.
    host.sh("mkdir -p /usr/share/zoneinfo/Test && printf 'TZif2' > /usr/share/zoneinfo/Test/Bad")
    host.write("/usr/share/zoneinfo/Test/Plus3", ZONE)
    assert look(host, "zone", "date +%z%Z", "--timezone", "Test/Plus3") == ["+0300TST"]
    host.sh("ln -sf /usr/share/zoneinfo/Test/Plus3 /etc/localtime")
    assert look(host, "zone", "date +%z%Z", "--tz", "local") == ["+0300TST"]
    assert look(host, "zone", "date +%z%Z") == ["+0000UTC"]
    error = host.fails(1, "install", "hello", "zone", "--timezone", "No/Where")
    assert "no time zone No/Where" in error and "tzdata" in error
    host.sh("rm -r /usr/share/zoneinfo/Test; ln -sf /usr/share/zoneinfo/Etc/UTC /etc/localtime")


# tzfile(5): version 2, one type of time, three hours east of Greenwich, called TST, and the same as a TZ string.
_BLOCK = b"TZif2" + bytes(15) + b"".join(n.to_bytes(4, "big") for n in (0, 0, 0, 0, 1, 4))
_BODY = (10800).to_bytes(4, "big") + b"\0\0TST\0"
ZONE = (_BLOCK + _BODY) * 2 + b"\nTST-3\n"


def test_ephemeral_writes_are_gone_with_the_container(host: GearHost) -> None:
    script = "ls /; echo x > /written; cat /written"
    lines = look(host, "eph", script, "--ephemeral")
    assert "written" not in lines[:-1] and lines[-1] == "x"
    assert host.sh("ls /var/lib/gear/containers/eph").split() == [
        "config.json", "hostname", "resolv.conf", "rootfs", "seccomp.bpf", "spec.json", "start.json",
    ]  # fmt: skip
    host.gear("restart", "eph")
    host.wait(lambda: host.gear("logs", "-i", "eph").count("the-end"), "the script")
    assert "written" not in host.gear("logs", "-i", "eph").splitlines()[:-2]


@pytest.fixture
def tree(host: GearHost) -> Iterator[str]:
    """A directory of the host to be a root."""
    host.sh("mkdir -p /var/lib/t/tree/bin /var/lib/t/tree/etc && cd /var/lib/t/tree && cp /bin/busybox bin"
            " && for name in sh cat sleep stat; do ln -s busybox bin/$name; done"
            " && echo from-the-host > etc/file")  # fmt: skip
    yield "/var/lib/t/tree"
    host.sh("rm -r /var/lib/t/tree")


def test_root_that_is_a_directory_of_the_host(host: GearHost, tree: str) -> None:
    listing = f"find {tree} -printf '%p %i %T@ %U\\n' | sort"
    before = host.sh(listing)
    script = "cat /etc/file; stat -c %u /etc/file; echo changed > /etc/file; cat /etc/file"
    assert look(host, "over", script, image=f"host:{tree}") == ["from-the-host", "0", "changed"]
    assert host.sh(listing) == before
    host.gear("restart", "over")
    host.wait(lambda: "the-end" in host.gear("logs", "-i", "over").split(), "the script")
    assert host.gear("logs", "-i", "over").split() == ["changed", "0", "changed", "the-end"]
    assert f"host:{tree} (a directory of this host)" in host.gear("status", "over")
    assert host.gear("plan", "over") == "over: nothing would change\n"
    assert "has nothing to run" in host.fails(2, "install", f"host:{tree}", "over")
    assert "no such directory" in host.fails(1, "install", "host:/nowhere", "over2", "--", "x")


@pytest.mark.parametrize("options", [(), ("--ephemeral",), ("--userns", "host")], ids=" ".join)
def test_root_that_is_the_hosts_own(host: GearHost, options: tuple[str, ...]) -> None:
    script = "grep ^ID= /etc/os-release; echo evil > /etc/evil; ls /etc/evil; rm /etc/debian_version"
    if host.out("stat", "-f", "-c", "%T", "/") == "overlayfs" and "--userns" not in options:
        # What a nested host has can't be mapped.
        host.gear("install", "host:/", "self", *options, "--", "sleep", "1")
        assert "has no idmapped mounts" in host.fails(1, "start", "self")
        return
    assert look(host, "self", script, *options, image="host:/") == ["ID=debian", "/etc/evil"]
    assert host.sh("ls /etc/evil 2> /dev/null || ls /etc/debian_version") == "/etc/debian_version"


def test_reaper_is_process_one_when_it_is_asked_for(host: GearHost) -> None:
    if host.run("test", "-x", "/usr/bin/catatonit", check=False).returncode:
        error = host.fails(1, "install", "hello", "init", "--init")
        assert "no reaper" in error and "catatonit" in error
        # A reaper is any static program: here one that only starts another.
        host.sh("mkdir -p /usr/libexec/podman && cp /bin/busybox /usr/libexec/podman/catatonit")
        host.gear("install", "hello", "init", "--init", "--", "true")
        host.sh("rm -r /usr/libexec/podman")
        args = host.json_file("/var/lib/gear/containers/init/config.json")["process"]["args"]
        assert args[:2] == ["/run/gear/init", "--"]
        assert "not on this machine" in host.fails(1, "apply", "init")
        return
    lines = look(host, "init", "cat /proc/1/comm; (sleep 0 &); echo $$ > /tmp/pid; [ $$ != 1 ] && echo child",
                 "--init", "--tmpfs", "/tmp")  # fmt: skip
    assert lines == ["init", "child"]
    host.gear("stop", "init")
