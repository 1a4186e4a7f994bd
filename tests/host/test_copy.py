"""gear cp: both ways, running and stopped, and against a container that wants out."""

from __future__ import annotations

import io
import tarfile

from gearhost import GearHost


def tree(host: GearHost) -> None:
    """A directory with one of each kind in /root/tree."""
    host.sh("rm -rf /root/tree /root/out; mkdir -p /root/tree/sub /root/out; cd /root/tree; echo one > one;"
            " ln -s /etc/passwd link; chmod 750 sub; echo deep > sub/deep; chown 5:6 sub/deep; mkfifo pipe;"
            " touch -d @1000000000 one; head -c 3000000 /dev/urandom > big; chmod 4755 one")  # fmt: skip


def test_there_and_back(host: GearHost) -> None:
    tree(host)
    host.gear("install", "hello", "web", "--start")
    done = host.run("gear", "cp", "/root/tree", "web:/tmp")
    assert done.stderr == b"warning: tree/pipe is left out: it is a pipe\n"
    host.gear("cp", "web:/tmp/tree", "/root/out")
    host.sh("cd /root; rm tree/pipe; diff -r --no-dereference tree out/tree")
    assert (
        host.out("stat", "-c", "%Y %a %u", "/root/out/tree/one") == "1000000000 755 0"
    )  # no set-user-ID here
    assert host.out("stat", "-c", "%a", "/root/out/tree/sub") == "750"
    root = f"/proc/{host.pid('web')}/root/tmp/tree"
    assert host.out("stat", "-c", "%u %a", f"{root}/sub/deep") == "524288 644"
    host.gear("cp", "--archive", "/root/tree", "web:/tmp/kept")
    assert (
        host.out("stat", "-c", "%u %g", f"/proc/{host.pid('web')}/root/tmp/kept/sub/deep") == "524293 524294"
    )
    host.gear("cp", "-a", "web:/tmp/kept/sub/deep", "/root/out")
    assert host.out("stat", "-c", "%u %g", "/root/out/deep") == "5 6"


def test_names_are_decided_as_docker_does(host: GearHost) -> None:
    tree(host)
    host.gear("install", "hello", "web", "--start")
    root = f"/proc/{host.pid('web')}/root/tmp"
    host.gear("cp", "/root/tree/one", "web:/tmp/renamed")
    host.gear("cp", "/root/tree/sub", "web:/tmp/newdir")
    host.gear("cp", "/root/tree/sub", "web:/tmp/newdir")
    host.gear("cp", "/root/tree/sub/.", "web:/tmp/content")
    host.gear("cp", "/root/tree/sub/.", "web:/tmp/content")
    assert host.sh(f"cd {root}; find . -type f | sort").split() == [
        "./content/deep", "./newdir/deep", "./newdir/sub/deep", "./renamed",
    ]  # fmt: skip
    host.gear("cp", "/root/tree/sub/deep", "web:/tmp/renamed")
    assert host.read(f"{root}/renamed") == b"deep\n"
    assert "there is no such directory in web" in host.fails(1, "cp", "/root/tree/one", "web:/nowhere/x")
    assert "a directory that does not exist" in host.fails(1, "cp", "/root/tree/one", "web:/tmp/missing/")
    assert "A directory can't be copied over the file" in host.fails(
        1, "cp", "/root/tree/sub", "web:/tmp/renamed"
    )
    assert "no such file or directory in web" in host.fails(1, "cp", "web:/missing", "/root/out")
    assert "Neither path is in a container" in host.fails(2, "cp", "/root/tree", "/root/out")
    assert "There is no container nobody" in host.fails(1, "cp", "nobody:/x", "/root/out")
    assert "read-only" in host.fails(1, "cp", "/root/tree/one", "web:/etc/hosts")
    host.gear("cp", "web:/bin/sh", "/root/out/link")
    assert host.run("test", "-L", "/root/out/link", check=False).returncode == 0
    host.gear("cp", "-L", "web:/bin/sh", "/root/out/program")
    assert host.read("/root/out/program").startswith(b"\x7fELF")


def test_streams(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("a/b/file")
        member.size, member.uid, member.gid = 3, 7, 8
        tar.addfile(member, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("a/hard")
        link.type, link.linkname = tarfile.LNKTYPE, "a/b/file"
        tar.addfile(link)
    host.run("gear", "cp", "-", "web:/tmp", input=archive.getvalue())
    root = f"/proc/{host.pid('web')}/root/tmp"
    assert host.out("stat", "-c", "%u %g %h", f"{root}/a/b/file") == "524295 524296 2"
    with tarfile.open(fileobj=io.BytesIO(host.run("gear", "cp", "web:/tmp/a", "-").stdout)) as tar:
        assert sorted(tar.getnames()) == ["a", "a/b", "a/b/file", "a/hard"]
        assert tar.getmember("a/b/file").uid == 7
    broken = host.run("gear", "cp", "-", "web:/tmp", input=archive.getvalue()[:700], check=False)
    assert broken.returncode == 1 and b"the archive on standard input is cut off" in broken.stderr


def test_stopped_container_with_its_volumes(host: GearHost) -> None:
    tree(host)
    host.gear("install", "hello", "off", "-v", "data:/data")
    before = host.mount_table()
    host.gear("cp", "/root/tree/one", "off:/data/one")
    host.gear("cp", "/root/tree/sub", "off:/")
    host.gear("cp", "off:/data/one", "/root/out/")
    host.gear("cp", "off:/sub/deep", "/root/out/")
    assert host.read("/root/out/one") == b"one\n" and host.read("/root/out/deep") == b"deep\n"
    assert host.out("stat", "-c", "%u", "/var/lib/gear/volumes/data/data/one") == "0"
    assert host.mount_table() == before
    host.gear("start", "off")
    assert host.read(f"/proc/{host.pid('off')}/root/data/one") == b"one\n"
    assert host.out("stat", "-c", "%u", f"/proc/{host.pid('off')}/root/sub") == "524288"
    # From one container into another.
    host.gear("install", "hello", "other")
    host.gear("cp", "off:/data", "other:/srv")
    host.gear("cp", "other:/srv", "/root/out/")
    assert host.read("/root/out/srv/one") == b"one\n"


def test_links_of_a_container_lead_nowhere_but_into_it(host: GearHost) -> None:
    host.sh(
        "rm -rf /srv/host; mkdir -p /srv/host; echo secret > /srv/host/secret; rm -rf /root/out; mkdir /root/out"
    )
    script = "ln -s /srv/host /tmp/away; ln -s ../../../../../../srv/host /tmp/up; ln -s /proc/self/fd /tmp/magic; " \
             "ln -s /proc/1/root/srv/host /tmp/root; exec sleep 10000"  # fmt: skip
    host.gear("install", "hello", "trap", "-u", "0", "--start", "--", "/bin/sh", "-c", script)
    root = f"/proc/{host.pid('trap')}/root"
    host.wait(lambda: host.run("test", "-L", f"{root}/tmp/root", check=False).returncode == 0, "the links")
    host.write("/root/file", b"from the host\n")
    for way in ("away", "up", "root", "magic/3", "magic/255"):
        assert host.run("gear", "cp", f"trap:/tmp/{way}/secret", "/root/out", check=False).returncode == 1
        assert host.run("gear", "cp", "/root/file", f"trap:/tmp/{way}/", check=False).returncode == 1
    assert host.sh("ls -A /root/out /srv/host") == "/root/out:\n\n/srv/host:\nsecret"
    # A tree that is copied out keeps its links; a second copy does not write through them on the host.
    host.gear("cp", "trap:/tmp/.", "/root/out")
    assert host.out("readlink", "/root/out/away") == "/srv/host"
    archive = "mkdir -p away && echo gotcha > away/secret2"
    host.sh(f"rm -rf /root/in; mkdir /root/in; cd /root/in; {archive}")
    host.gear("install", "hello", "second", "--start")
    host.gear("cp", "/root/in/.", "second:/tmp")
    assert host.run("gear", "cp", "second:/tmp/.", "/root/out", check=False).returncode == 1
    assert host.sh("ls -A /srv/host") == "secret"


def test_racer_gets_nothing_written_or_read_outside(host: GearHost) -> None:
    """A payload that exchanges a directory for a link to a place of the host, as fast as it can (CVE-2018-15664)."""
    host.sh(
        "rm -rf /srv/victim; mkdir -p /srv/victim/sub; echo secret > /srv/victim/sub/file; rm -rf /root/out"
    )
    script = (
        "mkdir -p /tmp/real/sub; echo mine > /tmp/real/sub/file; ln -s /srv/victim /tmp/link;"
        " while :; do mv /tmp/real /tmp/x; mv /tmp/link /tmp/real; mv /tmp/x /tmp/link;"
        " mv /tmp/real /tmp/x; mv /tmp/link /tmp/real; mv /tmp/x /tmp/link; done"
    )
    host.gear("install", "hello", "racer", "-u", "0", "--start", "--", "/bin/sh", "-c", script)
    host.write("/root/in/planted", b"planted\n")
    host.sh("mkdir -p /root/out; n=0; while [ $n -lt 60 ]; do n=$((n+1));"
            " gear cp racer:/tmp/real/sub /root/out/$n 2>/dev/null || :;"
            " gear cp racer:/tmp/real /root/out/r$n 2>/dev/null || :;"
            " gear cp /root/in racer:/tmp/real/sub 2>/dev/null || :; done")  # fmt: skip
    assert host.sh("find /srv/victim | sort").split() == [
        "/srv/victim",
        "/srv/victim/sub",
        "/srv/victim/sub/file",
    ]
    copied = host.sh("find /root/out -type f -name file -exec cat {} + | sort -u")
    assert copied in ("", "mine")
