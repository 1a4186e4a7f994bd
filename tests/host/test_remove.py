"""delete, clean and purge take what they say, and nothing else."""

from __future__ import annotations

from gearhost import GearHost


def test_delete_takes_one_container_and_nothing_else(host: GearHost) -> None:
    host.gear("install", "hello", "web", "web2", "web.old", "we", "-v", "shared:/data", "--start")
    before = host.sh(
        "cd /var/lib/gear && find containers/we containers/web2 containers/web.old volumes images | sort"
    )
    pids = [host.pid(name) for name in ("web2", "web.old", "we")]
    assert host.gear("delete", "web") == "web is deleted\n"
    assert (
        host.sh(
            "cd /var/lib/gear && find containers/we containers/web2 containers/web.old volumes images | sort"
        )
        == before
    )
    assert [host.pid(name) for name in ("web2", "web.old", "we")] == pids
    assert host.show("ctr-web", "LoadState") == "not-found"
    assert host.run("systemctl", "status", "ctr-web", check=False).returncode == 4
    # Again is no error, and neither is one that never was.
    assert host.gear("delete", "web", "never") == (
        "web is not installed, so nothing was deleted\nnever is not installed, so nothing was deleted\n"
    )
    # Not a volume that others use either, even when asked.
    host.gear("delete", "--volumes", "we")
    assert host.run("test", "-d", "/var/lib/gear/volumes/shared/data", check=False).returncode == 0


def test_user_id_ranges_are_given_back(host: GearHost) -> None:
    host.gear("install", "hello", "a", "b", "c")
    bases = [state["uid_range"]["base"] for state in host.json("status", "a", "b", "c")]
    assert len(set(bases)) == 3
    host.gear("delete", "b")
    host.gear("install", "hello", "d")
    assert host.json("status", "d")[0]["uid_range"]["base"] == bases[1]


def test_clean_lists_and_removes_what_nothing_refers_to(host: GearHost) -> None:
    host.gear("install", "hello", "web", "-v", "used:/data")
    host.sh("mkdir -p /var/lib/gear/containers/orphan/layer-x /var/lib/gear/containers/.partial-x-1"
            " /var/lib/gear/volumes/unused/data && ln -s orphan /var/lib/gear/uids/600047616")  # fmt: skip
    mine = (
        "# Rendered by gear from /var/lib/gear/containers/orphan/spec.json\n[Service]\nExecStart=/bin/true\n"
    )
    host.write("/usr/local/lib/systemd/system/ctr-orphan.service", mine.encode())
    host.write("/usr/local/lib/systemd/system/ctr-foreign.service", b"[Service]\nExecStart=/bin/true\n")
    expected = {
        "/var/lib/gear/containers/orphan",
        "/var/lib/gear/containers/.partial-x-1",
        "/usr/local/lib/systemd/system/ctr-orphan.service",
        "/var/lib/gear/uids/600047616",
    }
    assert {item["path"] for item in host.leftovers()} == expected
    assert {item["path"] for item in host.json("clean", "--volumes", "--dry-run")} - expected == {
        "/var/lib/gear/volumes/unused"
    }
    host.gear("clean", "--volumes")
    assert host.gear("clean") == "there is nothing to clean\n"
    assert host.run("test", "-d", "/var/lib/gear/volumes/used", check=False).returncode == 0
    host.sh("rm /usr/local/lib/systemd/system/ctr-foreign.service")


def test_another_image_gets_a_fresh_writable_layer(host: GearHost) -> None:
    host.sh(
        "rm -rf /var/lib/t/v2 && mkdir -p /var/lib/t/v2/bin /var/lib/t/v2/root && cp /bin/busybox /var/lib/t/v2/bin/sh"
    )
    host.gear("image", "import", "/var/lib/t/v2", "v2", "--cmd", '["sh", "-c", "exec sleep 1000"]')
    touch = (
        "--user",
        "0",
        "--entrypoint",
        "/bin/sh",
        "--",
        "-c",
        "echo kept >> /root/log; cat /root/log; exec sleep 1000",
    )
    host.gear("install", "hello", "app", "--start", *touch)
    host.gear("restart", "app")
    host.wait(
        lambda: host.gear("logs", "-i", "app").split() == ["kept", "kept"], "the layer surviving a restart"
    )
    old = host.sh("ls -d /var/lib/gear/containers/app/layer-*")
    out = host.gear("install", "v2", "app", *touch)
    assert out.startswith("app is changed: image")
    # While it runs on the old layer, that is not taken from under it.
    assert host.leftovers() == []
    host.gear("restart", "app")
    host.wait(lambda: host.gear("logs", "-i", "app").split() == ["kept"], "a fresh layer")
    host.gear("stop", "app")
    assert [item["path"] for item in host.leftovers()] == [old]
    host.gear("clean")
    assert host.run("gear", "image", "rm", "v2", check=False).returncode == 1  # in use
    host.gear("delete", "app")
    host.gear("image", "rm", "v2")


def test_purge_leaves_nothing_but_volumes(host: GearHost) -> None:
    host.gear("install", "hello", "a", "b", "-v", "precious:/data", "--start")
    host.gear("slice", "create", "container-rest")
    host.gear("slice", "create", "container-rest-inner")
    out = host.gear("purge")
    assert "a is deleted\nb is deleted\n" in out and "what is kept in /var/lib/gear: volumes" in out
    assert host.sh("ls /var/lib/gear") == "lock\nvolumes"
    assert (
        host.sh("ls /usr/local/lib/systemd/system; ls -d /etc/systemd/system/container* 2>/dev/null || :")
        == ""
    )
    assert host.sh("systemctl list-units --all --no-legend 'ctr-*' 'container*'") == ""
    # And everything can begin again.
    host.gear("image", "load", "/root/hello")
    host.gear("install", "hello", "a", "-v", "precious:/data", "--start")
    host.gear("delete", "--volumes", "a")
