"""Attacks on gear-oci by root file systems, bundles, hooks and names, without a user namespace of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from attacking import Attacker, gained, parse

PLACE = "/var/lib/t/oci"
RUN = ("python3", "-IS", "/opt/gear/contrib/gear-oci", "--root", "/run/attack-oci")
PATH = "PATH=/bin"
PYTHON = "/usr/bin/python3"


def config(*words: str, **members: Any) -> dict[str, Any]:
    """An ordinary bundle of a root without user namespace, as Podman's defaults make it."""
    capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE", "CAP_SYS_CHROOT"]
    kinds = ("pid", "mount", "ipc", "uts", "network", "cgroup")
    sets = {name: capabilities for name in ("bounding", "effective", "permitted")}
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {
            "destination": "/sys",
            "type": "sysfs",
            "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        },
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(words),
            "env": [PATH],
            "cwd": "/",
            "capabilities": sets,
        },
        "root": {"path": "rootfs"},
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": kind} for kind in kinds],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger", "/proc/bus", "/proc/fs", "/proc/irq"],
        },
        **members,
    }


class Bundle:
    """One bundle on the host, run by gear-oci."""

    def __init__(self, attacker: Attacker) -> None:
        self.host = attacker.host
        self.fresh()

    def fresh(self, script: str = ":") -> None:
        """The root file system anew: the probe, and what *script* makes in it."""
        self.host.sh(f"rm -rf {PLACE}; mkdir -p {PLACE}/rootfs/bin {PLACE}/rootfs/tmp; cd {PLACE}/rootfs;"
                     f" cp /root/attacks/probe bin/; cp /bin/busybox bin/sh; {script}")  # fmt: skip

    def run(self, document: dict[str, Any], name: str = "attack") -> tuple[int, dict[str, str], str]:
        """Exit status, what the probe said, and standard error."""
        self.host.write(f"{PLACE}/config.json", json.dumps(document).encode())
        done = self.host.run(*RUN, "run", "--bundle", PLACE, name, check=False)
        self.host.run(*RUN, "delete", "--force", name, check=False)
        error = done.stderr.decode(errors="replace")
        assert "Traceback" not in error, error
        return done.returncode, parse(done.stdout.decode(errors="replace").split("\n")), error


def probe(*words: str) -> tuple[str, ...]:
    """A command line whose first process is a shell, since the probe stays as PID 1."""
    return ("/bin/sh", "-c", f"/bin/probe {' '.join(words)}; exit 0")


@pytest.fixture
def bundle(attacker: Attacker) -> Iterator[Bundle]:
    attacker.host.sh("mkdir -p /opt/gear")
    attacker.host.host.copy([_top() / "contrib"], "/opt/gear")
    made = Bundle(attacker)
    yield made
    attacker.host.sh(f"rm -rf {PLACE} /run/attack-oci")


def _top() -> Any:
    from gearhost import TOP

    return TOP


def test_what_a_bundle_starts_holds_nothing_of_the_host(bundle: Bundle) -> None:
    status, result, error = bundle.run(config(*probe("descriptors")))
    assert status == 0, error
    assert {name for name in result if name.startswith("fd-")} <= {"fd-0", "fd-1", "fd-2"}, result
    assert result["above-the-root"] == "ENOENT"
    for directory in (*(f"/proc/self/fd/{number}" for number in range(3, 12)), "/proc/1/root/../.."):
        document = config(*probe("descriptors"))
        document["process"]["cwd"] = directory
        status, result, error = bundle.run(document)
        assert status != 0 or (result["above-the-root"] == "ENOENT" and result["cwd"].startswith("/")), (
            directory,
            error,
        )


def test_the_runtimes_interpreter_is_not_written_to(bundle: Bundle) -> None:
    """CVE-2019-5736 where root inside has the host's ids: not by the first process, and not by one that joins."""
    host = bundle.host
    before = host.sh(f"sha256sum {PYTHON}; stat -Lc '%a %u %g' {PYTHON}")
    loaders = "lib64/ld-linux-x86-64.so.2 lib/ld-linux-aarch64.so.1"
    bundle.fresh(f"mkdir lib64 lib; for f in {loaders}; do cp /root/attacks/interp $f; done")
    ran = 0
    for program in ("/proc/self/exe", "/proc/1/exe"):
        host.write(f"{PLACE}/config.json", json.dumps(config(program)).encode())
        start = f"{' '.join(RUN)} run --detach --bundle {PLACE} attack </dev/null >{PLACE}/out 2>&1"
        if host.run("sh", "-c", start, check=False).returncode == 0:
            host.wait(lambda: "the-end" in host.sh(f"cat {PLACE}/out"), "the end of the attack")
            result = parse(host.sh(f"cat {PLACE}/out").split("\n"))
            assert gained(result) == ["held"], (program, result)
            ran += 1
        host.run(*RUN, "delete", "--force", "attack", check=False)
        assert host.sh(f"sha256sum {PYTHON}; stat -Lc '%a %u %g' {PYTHON}") == before
    assert ran, host.sh(f"cat {PLACE}/out")
    host.write(
        f"{PLACE}/config.json", json.dumps(config("/bin/sh", "-c", "while :; do sleep 9; done")).encode()
    )
    host.sh(f"{' '.join(RUN)} run --detach --bundle {PLACE} attack </dev/null >/dev/null 2>&1")
    done = host.run(*RUN, "exec", "attack", "/proc/self/exe", check=False)
    host.run(*RUN, "delete", "--force", "attack", check=False)
    assert set(gained(parse(done.stdout.decode(errors="replace").split("\n")))) <= {"held"}, done.stdout
    assert host.sh(f"sha256sum {PYTHON}; stat -Lc '%a %u %g' {PYTHON}") == before


def test_links_of_a_root_file_system_lead_no_mount_out(bundle: Bundle) -> None:
    """CVE-2019-16884, CVE-2021-30465, CVE-2025-31133: links at destinations, masks, and for the console."""
    host = bundle.host
    snapshot = (
        "find /srv /etc /opt -xdev -not -path '/etc/systemd*' -printf '%p %y %i %T@\\n'; cat /proc/1/mounts"
    )
    before = host.sh(snapshot)
    scripts = (
        "ln -s /tmp proc", "ln -s ../../../../../srv proc", "ln -s proc sys", "ln -s /proc dev",
        "mkdir proc; ln -s /srv data",
        "mkdir data; ln -s ../../../../../../etc data/x", "ln -s /proc/self/fd data", "ln -s / data",
    )  # fmt: skip
    for script in scripts:
        bundle.fresh(script)
        document = config(*probe("files", "/proc/self/stat"))
        document["mounts"].append(
            {"destination": "/data/x/y", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}
        )
        status, result, error = bundle.run(document)
        if status == 0:
            assert result["/proc/self/stat"].isdigit(), (script, result)
        else:
            assert error, script
        assert host.sh(snapshot) == before, script


def test_masks_and_read_only_paths_hold_against_the_hosts_own_root(bundle: Bundle) -> None:
    """Root inside is root's id on the host here: masks, read-only mounts and capabilities are what holds."""
    _, result, error = bundle.run(config(*probe("files", "/proc/keys", "/proc/timer_list", "/proc/kcore")))
    assert set(result.values()) <= {"0", "ENOENT"} and result, error
    _, result, _ = bundle.run(
        config(*probe("writable", "/proc/sys", "/proc/bus", "/proc/fs", "/proc/irq", "/sys"))
    )
    assert result["writable"] == "0", result
    _, result, _ = bundle.run(config(*probe("mounts")))
    assert gained(result) == [], result
    _, result, _ = bundle.run(config(*probe("cgroups")))
    assert [name for name in gained(result) if not name.startswith("given-")] == [], result


def test_hooks_get_an_empty_environment(bundle: Bundle) -> None:
    """CVE-2025-23266: nothing of the payload's environment reaches programs that run with the host's rights."""
    host = bundle.host
    host.write(
        "/root/hook",
        b"#!/bin/sh\n/usr/bin/env > /var/lib/t/hook-$1; ls /proc/self/fd >> /var/lib/t/hook-$1\n",
        mode="755",
    )
    kinds = ("prestart", "createRuntime", "poststart", "poststop")
    document = config(
        *probe("descriptors"),
        hooks={kind: [{"path": "/root/hook", "args": ["hook", kind]}] for kind in kinds},
    )
    document["process"]["env"] += [
        "LD_PRELOAD=/evil.so",
        "PYTHONPATH=/evil",
        "GCONV_PATH=/evil",
        "BASH_ENV=/evil",
    ]
    status, _, error = bundle.run(document)
    assert status == 0, error
    for kind in kinds:
        said = host.sh(f"cat /var/lib/t/hook-{kind}")
        assert "evil" not in said and "LD_" not in said, (kind, said)
    host.sh("rm /root/hook /var/lib/t/hook-*")


def test_names_of_bundles_are_checked_before_any_path(bundle: Bundle) -> None:
    host = bundle.host
    bundle.run(config(*probe("descriptors")))
    before = host.sh("find /run /var/lib/gear -maxdepth 2 | sort")
    for name in ("../x", "a/b", ".", "..", "a b", "a\nb", "", "x" * 3000, "\u0430", "$(id)", "a%s"):
        for verb in (("run", "--bundle", PLACE), ("delete", "--force"), ("state",), ("kill",)):
            done = host.run(*RUN, *verb, "--", name, check=False)
            assert done.returncode != 0 or verb[0] == "delete", (verb, name)
            assert b"Traceback" not in done.stderr, (verb, name, done.stderr)
    assert host.sh("find /run /var/lib/gear -maxdepth 2 | sort") == before
