"""What the payload sees and may do, and what the host sees of it."""

from __future__ import annotations

import pytest
from gearhost import GearHost

# Docker's default set as a mask (capability.h): 14 capabilities.
DEFAULT_CAPABILITIES = "00000000a80425fb"


def look(host: GearHost, name: str, script: str, *options: str) -> list[str]:
    """Run *script* as the root of a container, and return what it prints."""
    arguments = ("--user", "0", "--entrypoint", "/bin/sh", "--restart", "no", "--start", *options)
    host.gear("install", "hello", name, *arguments, "--", "-c", f"{script}; echo the-end; exec sleep 1000")
    host.wait(lambda: "the-end" in host.gear("logs", "-i", name).split("\n"), "the script")
    lines = host.gear("logs", "-i", name).splitlines()
    return lines[: lines.index("the-end")]


def test_user_ids_are_a_range_of_its_own(host: GearHost) -> None:
    host.gear("install", "hello", "a", "b", "--start")
    states = host.json("status", "a", "b")
    first, second = (state["uid_range"] for state in states)
    assert abs(first["base"] - second["base"]) >= first["size"] == second["size"] == 65536
    for state in states:
        base = state["uid_range"]["base"]
        uids = host.sh(f"sed -n 's/^Uid:\\t//p' /proc/{state['main_pid']}/status").split()
        assert uids == [str(base + 8080)] * 4
        assert host.sh(f"cat /proc/{state['main_pid']}/uid_map").split() == ["0", str(base), "65536"]
    # The image's layers are shared, not copied or changed.
    assert host.sh("find /var/lib/gear/images/layers -uid +65535 | head") == ""
    assert host.sh("ls -d /var/lib/gear/images/layers/sha256/* | wc -l") == "1"


def test_the_host_sees_no_mount_and_no_process_of_ours(host: GearHost) -> None:
    before = host.mount_table()
    host.gear("install", "hello", "a", "b", "-v", "data:/data", "--start")
    assert host.mount_table() == before
    assert host.sh("pgrep -f '[/]var/lib/gear/helper' || :") == ""
    host.gear("stop", "a", "b")
    assert host.mount_table() == before


def test_every_namespace_is_its_own(host: GearHost) -> None:
    host.gear("install", "hello", "a", "--start")
    host.gear("install", "hello", "b", "--net", "host", "--start")
    for kind in ("mnt", "pid", "ipc", "uts", "user", "cgroup", "net"):
        mine, a, b = (
            host.out("readlink", f"/proc/{pid}/ns/{kind}") for pid in (1, host.pid("a"), host.pid("b"))
        )
        assert a not in (mine, b), kind
        assert (b == mine) == (kind == "net"), kind


def test_root_inside_has_dockers_capabilities_and_others_none(host: GearHost) -> None:
    lines = look(
        host, "caps", "grep Cap /proc/self/status; grep -E 'NoNewPrivs|Seccomp:|Groups' /proc/self/status"
    )
    caps = dict(line.split(":\t") for line in lines[:5])
    assert caps == {"CapInh": "0" * 16, "CapPrm": DEFAULT_CAPABILITIES, "CapEff": DEFAULT_CAPABILITIES,
                    "CapBnd": DEFAULT_CAPABILITIES, "CapAmb": "0" * 16}  # fmt: skip
    host.gear("install", "hello", "www", "--start")
    status = host.sh(f"grep Cap /proc/{host.pid('www')}/status").split()
    assert status[1::2] == ["0" * 16, "0" * 16, "0" * 16, DEFAULT_CAPABILITIES, "0" * 16]


def test_nothing_of_the_host_leaks_in(host: GearHost) -> None:
    # 0, 1, 2 and the one that ls itself has open.
    assert look(host, "fds", "ls /proc/self/fd") == ["0", "1", "2", "3"]
    variables = {line.split("=")[0] for line in look(host, "env", "env")}
    assert variables == {"PATH", "HOME", "HOSTNAME", "container", "SHLVL", "PWD"}
    processes = look(host, "ps", "ps -o pid,comm")
    assert [line.split()[0] for line in processes[1:]] == ["1", processes[-1].split()[0]]
    assert look(host, "misc", "umask; cut -d ' ' -f 6 /proc/1/stat; ls /var/lib /var/lib/gear 2>&1") == [
        "0022",
        "1",  # the payload leads a session of its own
        "ls: /var/lib: No such file or directory",
        "ls: /var/lib/gear: No such file or directory",
    ]
    if host.host.cgroup == "v2":
        assert look(host, "cgroup", "cat /proc/1/cgroup") == ["0::/"]


def test_network_none_is_loopback_only_and_low_ports_are_free(host: GearHost) -> None:
    host.gear(
        "install", "hello", "low", "--net", "none", "--start", "--", "httpd", "-f", "-p", "80", "-h", "/www"
    )
    get = "curl -sS --retry 50 --retry-connrefused --retry-delay 1"
    assert "It works" in host.inside("low", f"{get} http://127.0.0.1/")
    assert "It works" in host.inside("low", f"{get} 'http://[::1]/'")
    assert host.inside("low", "ip -o link | wc -l") == "1"


def test_ports_below_1024_on_the_hosts_network_are_this_containers_alone(host: GearHost) -> None:
    host.gear(
        "install", "hello", "low", "--net", "host", "--start", "--", "httpd", "-f", "-p", "81", "-h", "/www"
    )
    get = "curl -sS --retry 50 --retry-connrefused --retry-delay 1"
    assert "It works" in host.sh(f"{get} http://127.0.0.1:81/") and "It works" in host.sh(
        f"{get} 'http://[::1]:81/'"
    )
    # The same user outside of the container may not.
    base = host.json("status", "low")[0]["uid_range"]["base"]
    done = host.run(
        "setpriv",
        "--reuid",
        str(base + 8080),
        "--clear-groups",
        "busybox",
        "httpd",
        "-f",
        "-p",
        "82",
        check=False,
    )
    assert done.returncode == 1 and b"Permission denied" in done.stderr


def test_kernel_interfaces_are_masked_or_read_only(host: GearHost) -> None:
    files = "/proc/kcore /proc/keys /proc/timer_list"
    masked = f"for f in {files}; do [ ! -e $f ] || wc -c < $f; done; ls /sys/firmware /proc/acpi"
    assert set(look(host, "masked", masked)) <= {"0", "/sys/firmware:", "/proc/acpi:", ""}
    writes = ("echo 1 > /proc/sys/kernel/panic; echo b > /proc/sysrq-trigger; mkdir /sys/x; mkdir /sys/fs/cgroup/x;"
              " echo 1 > /proc/irq/default_smp_affinity; mknod /disk b 8 0; mount -t tmpfs t /tmp; hostname evil;"
              " dd if=/dev/kmsg count=1; chroot / true")  # fmt: skip
    lines = look(host, "writes", f"exec 2>&1; for c in 1; do {writes}; done")
    refused = [line for line in lines if "denied" in line or "not permitted" in line or "Read-only" in line]
    assert (
        len([line for line in lines if "nonexistent" in line or "No such" in line or line in refused]) == 9
    ), lines


def test_devices_are_the_usual_ones_and_an_images_nodes_are_dead(host: GearHost) -> None:
    names = look(
        host,
        "dev",
        "ls /dev; echo x > /dev/null && head -c 4 /dev/zero | wc -c; head -c 2 /dev/urandom | wc -c",
    )
    assert names == ["fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
                     "tty", "urandom", "zero", "4", "2"]  # fmt: skip
    # A node for the memory device that came with an image can't be opened.
    host.sh("rm -rf /var/lib/t/node && mkdir -p /var/lib/t/node/bin && cp /bin/busybox /var/lib/t/node/bin/sh"
            " && mknod -m 666 /var/lib/t/node/mem c 1 1 && mknod -m 666 /var/lib/t/node/null c 1 3")  # fmt: skip
    host.gear("image", "import", "/var/lib/t/node", "node", "--cmd", '["sh"]')
    script = "read x < /mem; read x < /null; echo the-end"
    host.gear(
        "install", "node", "node", "--restart", "no", "--start", "--", "/bin/sh", "-c", f"({script}) 2>&1; :"
    )
    host.wait(lambda: "the-end" in host.gear("logs", "node"), "the script")
    assert host.gear("logs", "node").count("Permission denied") == 2
    host.gear("delete", "node")
    host.gear("image", "rm", "node")


def test_user_of_the_image_by_name_is_looked_up_in_the_image(host: GearHost) -> None:
    lines = look(host, "user", "id; echo $HOME; cat /etc/passwd | cut -d: -f1")
    assert lines[0].startswith("uid=0(root) gid=0(root)") and lines[1] == "/root"
    host.gear("install", "hello", "named", "--user", "www", "--start")
    base = host.json("status", "named")[0]["uid_range"]["base"]
    assert (
        host.sh(f"sed -n 's/^[UG]id:\\t//p' /proc/{host.pid('named')}/status").split()
        == [str(base + 8080)] * 8
    )
    error = host.fails(2, "install", "hello", "named", "--user", "nobody-of-that-name")
    assert "nobody-of-that-name" in error and "hint: " in error
    # The failed change left what was there.
    assert host.gear("plan", "named") == "named: nothing would change\n"


@pytest.mark.parametrize(
    ("place", "network"),
    [("proc", "none"), ("sys", "none"), ("sys", "host"), ("dev", "none"), ("dev", "host")],
)
def test_an_image_that_makes_a_kernel_file_system_a_link_is_refused(
    host: GearHost, place: str, network: str
) -> None:
    for target in ("/tmp/x", "/proc", "nowhere"):
        host.sh("rm -rf /var/lib/t/link && mkdir -p /var/lib/t/link/bin /var/lib/t/link/tmp/x"
                f" && cp /bin/busybox /var/lib/t/link/bin/sh && ln -s {target} /var/lib/t/link/{place}")  # fmt: skip
        host.gear("image", "import", "/var/lib/t/link", "link", "--cmd", '["sh"]')
        host.gear("install", "link", "link", "--net", network, "--restart", "no")
        assert f"the image makes /{place} a symbolic link" in host.fails(1, "start", "link")
        host.gear("delete", "link")
        host.gear("image", "rm", "link")


def test_links_in_an_image_do_not_lead_mounts_out(host: GearHost) -> None:
    # Both links leave the image; inside the container's root they stay in it.
    host.sh("rm -rf /var/lib/t/out && mkdir -p /var/lib/t/out/bin && cp /bin/busybox /var/lib/t/out/bin/sh"
            " && ln -s ../../../../srv/inner /var/lib/t/out/data && ln -s /etc/shadow /var/lib/t/out/file")  # fmt: skip
    host.gear("image", "import", "/var/lib/t/out", "out", "--cmd", '["sh"]')
    host.gear("install", "out", "out", "-v", "out:/data", "-v", "/etc/os-release:/file:ro", "--restart", "no")
    before = host.sh("find /srv /etc -not -path '/etc/systemd*' -printf '%p %i %T@\\n' | sort")
    host.gear("start", "out")
    assert host.sh("find /srv /etc -not -path '/etc/systemd*' -printf '%p %i %T@\\n' | sort") == before
    upper = "/var/lib/gear/containers/out/layer-*/upper"
    assert host.sh(f"cd {upper} && find srv etc | sort").split() == [
        "etc", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/shadow", "srv", "srv/inner"
    ]  # fmt: skip
    host.gear("delete", "--volumes", "out")
    host.gear("image", "rm", "out")
