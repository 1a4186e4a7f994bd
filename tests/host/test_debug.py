"""gear debug: tools beside a container, in its namespaces, with nothing of the host but programs."""

from __future__ import annotations

from gearhost import GearHost


def test_tools_are_in_the_namespaces_with_a_root_of_their_own(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    before, pid = host.mount_table(), host.pid("web")
    script = "for kind in cgroup ipc net pid user uts mnt; do readlink /proc/self/ns/$kind; done"
    *shared, own = host.gear("debug", "web", "--", "sh", "-c", script).split()
    for kind, found in zip("cgroup ipc net pid user uts".split(), shared, strict=True):
        assert found == host.out("readlink", f"/proc/{pid}/ns/{kind}"), kind
    assert own not in (host.out("readlink", f"/proc/{pid}/ns/mnt"), host.out("readlink", "/proc/1/ns/mnt"))
    # Programs that the image does not have see its processes and its files.
    assert "/bin/busybox httpd" in host.gear("debug", "web", "--", "ps", "ax")
    assert host.gear("debug", "web", "--", "cat", "/container/www/index.html").startswith("<!DOCTYPE")
    assert host.gear("debug", "web", "hostname") == "web\n"
    assert host.run("gear", "debug", "web", input=b"exit 4\n", check=False).returncode == 4
    assert "status 5, steps left 0" in host.typed([["web# ", "exit 5\r"]], "debug", "web")
    assert host.mount_table() == before


def test_nothing_of_the_host_is_there(host: GearHost) -> None:
    host.sh("echo secret > /srv/secret; chmod 644 /srv/secret")
    host.gear("install", "hello", "web", "--start")
    listing = host.gear("debug", "web", "--", "sh", "-c", "ls -A / /etc")
    assert not {"srv", "var", "home", "boot", "shadow", "machine-id"} & set(listing.split())
    # Not by leaving a chroot either: the old root is gone.
    escape = (
        "import os\nos.mkdir('/tmp/x'); os.chroot('/tmp/x')\nfor _ in range(64): os.chdir('..')\nos.chroot('.')\n"
        "print(os.path.exists('/srv/secret'), os.path.exists('/usr/bin'))"
    )
    assert host.gear("debug", "web", "--", "/usr/bin/python3", "-c", escape) == "False True\n"
    for path in ("/usr/x", "/usr/bin/python3", "/etc/nsswitch.conf"):
        assert (
            host.run("gear", "debug", "web", "--", "sh", "-c", f"echo > {path}", check=False).returncode != 0
        )
    assert host.gear("debug", "web", "--", "sh", "-c", "cat /proc/self/uid_map").split()[1] != "0"


def test_tools_of_another_image(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    script = "ls -A /container/www; id -u; touch /bin/made && stat -c %u /bin/made; cat /proc/1/comm"
    out = host.gear("debug", "--image", "hello", "web", "--", "sh", "-c", script)
    assert out.split() == ["index.html", "0", "0", "busybox"]
    assert host.run("test", "-e", f"/proc/{host.pid('web')}/root/bin/made", check=False).returncode == 1
    assert host.fails(1, "debug", "--image", "nosuch", "web", "true")
    host.gear("stop", "web")
    assert "web is not running" in host.fails(1, "debug", "web", "true")
