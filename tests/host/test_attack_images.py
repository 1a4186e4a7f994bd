"""Hostile images on a whole host: accounts that are no files, texts that want to be settings, bombs, names."""

from __future__ import annotations

import gzip
import json
import tarfile
import time

import archives
import pytest
from attacking import Attacker, command

# What may be where an image's accounts are: (members, what the refusal says or None where it is no refusal).
ACCOUNTS = {
    "device": (
        [archives.entry("etc/passwd", type=tarfile.CHRTYPE, devmajor=1, devminor=5)],
        "not a regular file",
    ),
    "link to a device": ([archives.symlink("etc/passwd", "/dev/zero")], None),
    "fifo": ([archives.entry("etc/passwd", type=tarfile.FIFOTYPE)], "not a regular file"),
    "directory": ([archives.directory("etc/passwd")], "not a regular file"),
    "huge": ([archives.entry("etc/passwd", b"a:x:1:1::/:/bin/sh\n" * 300_000)], "larger than"),
    "loop": ([archives.symlink("etc/passwd", "group"), archives.symlink("etc/group", "passwd")], "symlinks"),
    "shadow of the host": ([archives.symlink("etc/passwd", "../../../../../../../etc/shadow")], None),
    "by procfs": ([archives.symlink("etc/passwd", "/proc/1/root/etc/shadow")], None),
}


@pytest.mark.parametrize("name", ACCOUNTS)
def test_accounts_of_an_image_are_read_safely(attacker: Attacker, name: str) -> None:
    """CVE-2024-9676: no device, FIFO, huge file or file of the host is read for an image's user."""
    host, (members, message) = attacker.host, ACCOUNTS[name]
    secret = host.read("/etc/shadow")
    host.write("/etc/shadow", secret + b"swordfish:x:4242:4242::/:/bin/sh\n", mode="640")
    image = f"accounts-{list(ACCOUNTS).index(name)}"
    try:
        attacker.image(image, *members)
        begin = time.monotonic()
        error = host.fails(1 if message else 2, "install", image, "accounts", "--user", "swordfish")
        assert time.monotonic() - begin < 5
        assert (message or "no user 'swordfish'") in error, error
    finally:
        host.write("/etc/shadow", secret, mode="640")


def test_texts_of_an_image_are_no_settings(attacker: Attacker) -> None:
    """A unit is the same whatever an image says; what it says arrives inside, byte for byte."""
    host = attacker.host
    evil = ["\n[Service]\nExecStartPre=/bin/touch /evil\n", "%h %i %%", "${HOME} $PATH", "a\\", "'\"", "-@:+!", ";", "",
            " ", "\\x0a[Install]", "{}", "é\u2028ü", "\t\x7f"]  # fmt: skip
    variables = [f"V{number}={text}" for number, text in enumerate(evil)]
    labels = {f"org.systemd.property.{name}": "'x'" for name in ("ExecStartPre", "Slice")} | {
        "run.oci.hooks.stdout": "/evil", "io.podman.annotations.privileged": "true", "\nUser": "root\nGroup=root",
    }  # fmt: skip
    layer = archives.tar(archives.entry("bin/probe", attacker.probe, mode=0o755), archives.directory("proc"),
                         archives.directory("sys"), archives.directory("dev"), archives.directory("etc"))  # fmt: skip

    def unit(name: str, **members: object) -> str:
        layout = archives.OciLayout()
        layout.image(layer, name=f"{name}:latest", document=archives.config(layer, **members))
        host.write(f"/var/lib/t/{name}.tar", layout.archive())
        host.gear("image", "load", f"/var/lib/t/{name}.tar")
        attacker.images.append(name)
        host.gear("install", name, name, "--restart", "no", "--start")
        text = host.read(f"/usr/local/lib/systemd/system/ctr-{name}.service").decode()
        digest: str = host.json("inspect", name)[0]["spec"]["image"]["digest"]
        return text.replace(name, "NAME").replace(digest, "DIGEST")

    probe = ["/bin/probe", "descriptors"]
    plain = unit("plain", Cmd=probe)
    hostile = unit("texts", Entrypoint=probe, Cmd=evil, Env=variables, Labels=labels, User="0:0", StopSignal="15",
                   ExposedPorts={"80/tcp": {}})  # fmt: skip
    assert hostile == plain
    # A check is run inside, by a prober whose lines of the unit are the same for all checks.
    times = {"Interval": 10**9, "Timeout": 10**9}
    checks = [unit(f"check{number}", Cmd=probe, Healthcheck={"Test": test, **times})
              for number, test in enumerate((["CMD", *probe], ["CMD", *probe, *evil]))]  # fmt: skip
    assert checks[0] == checks[1] != plain
    attacker.result("texts")
    pid = host.pid("texts")
    assert host.read(f"/proc/{pid}/cmdline").split(b"\0")[2:-1] == [text.encode() for text in evil]
    assert {text.encode() for text in variables} <= set(host.read(f"/proc/{pid}/environ").split(b"\0"))
    for name in ("ExecStartPre", "ExecStartPost", "ExecReload", "EnvironmentFiles", "User", "Group"):
        assert host.show("ctr-texts", name) == host.show("ctr-plain", name)
    assert host.run("test", "-e", "/evil", check=False).returncode == 1
    spec = json.loads(host.read("/var/lib/gear/containers/texts/config.json"))
    assert not any("systemd" in key or "oci" in key for key in spec.get("annotations", {}))
    assert host.sh("systemd-analyze verify ctr-texts.service 2>&1 || :") == ""


def test_an_image_that_asks_for_a_signal_or_path_that_is_a_setting_is_refused(attacker: Attacker) -> None:
    host = attacker.host
    for number, (option, text) in enumerate(
        (("--stop-signal", "TERM\nUser=root"), ("--workdir", "/a\nb\n[Service]"))
    ):
        name = f"setting-{number}"
        host.write("/var/lib/t/s.tar", archives.tar(archives.entry("bin/probe", attacker.probe, mode=0o755)))
        done = host.run(
            "gear",
            "image",
            "import",
            "/var/lib/t/s.tar",
            name,
            *command("/bin/probe"),
            option,
            text,
            check=False,
        )
        if done.returncode == 0:
            attacker.images.append(name)
            done = host.run("gear", "install", name, "setting", "--restart", "no", check=False)
        if done.returncode == 0:
            assert "\nb" not in host.sh("cat /usr/local/lib/systemd/system/ctr-setting.service")
            host.gear("delete", "setting")
        assert b"Traceback" not in done.stderr


NAMES = (
    "../x", "a/b", "-h", "--", ".", "..", ".hidden", "a b", "a\nb", "a%i", "a@b", "x" * 64, "x" * 300, "\u0430bc",
    "a\u202eb", "ctr\\x2da", "a;b", "$(id)", "a\0b".replace("\0", "\\0"), "A" * 255 + "/",
    "", "a.service/../b", "*",
    "~root",
)  # fmt: skip


def test_names_are_checked_before_any_path(attacker: Attacker) -> None:
    host = attacker.host
    before = host.sh("find /var/lib/gear /usr/local/lib/systemd /etc/systemd -printf '%p\\n' | sort")
    for name in NAMES:
        for words in (
            ("install", "attack", "--", name) if name.startswith("-") else ("install", "attack", name),
        ):
            done = host.run("gear", *words, check=False)
            assert done.returncode == 2 and b"Traceback" not in done.stderr, (name, done.stderr)
    assert host.sh("find /var/lib/gear /usr/local/lib/systemd /etc/systemd -printf '%p\\n' | sort") == before


def test_a_bomb_takes_neither_memory_nor_disk(attacker: Attacker) -> None:
    """A file of four gigabytes of nothing in four megabytes; each bound has its test in tests/unit/test_layer.py."""
    host = attacker.host
    info = tarfile.TarInfo("zeros")
    info.size = 4 << 30
    piece = gzip.compress(bytes(64 << 20))
    host.write("/var/lib/t/bomb.tar.gz", gzip.compress(info.tobuf(tarfile.GNU_FORMAT)) + 64 * piece)
    free = "df --output=avail -k /var/lib | tail -1"
    before = int(host.sh(free))
    begin = time.monotonic()
    script = "ulimit -v 1000000; exec gear image import /var/lib/t/bomb.tar.gz bomb --cmd x"
    done = host.run("sh", "-c", script, check=False)
    assert done.returncode == 1 and b"grows more than 500 times" in done.stderr, done.stderr
    assert time.monotonic() - begin < 30
    host.sh("rm /var/lib/t/bomb.tar.gz")
    assert before - int(host.sh(free)) < 500_000
