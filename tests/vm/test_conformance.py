"""crun's test suite, by contrib/conformance, where control groups are of version 2 and systemd makes the scopes.

On the machine that runs the tests itself contrib/test runs all of it; what differs there is waived by its facts.  So
here are the files of it that control groups, systemd, devices and the kernel's filters make different.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from gearhost import EVERY, TOP, GearHost

FILES = ("delete", "devices", "exec", "limits", "pid", "resources", "seccomp", "start", "update")


def test_crun(machine: GearHost) -> None:
    program = TOP / "contrib/conformance"
    prepared = subprocess.run(
        [program, "--prepare"], check=True, capture_output=True, text=True
    ).stdout.strip()
    machine.sh("mkdir -p /opt/gear/contrib /opt/gear/tests")
    contrib = [TOP / "contrib" / name for name in ("gear-oci", "conformance", "conformancelib")]
    machine.host.copy(contrib, "/opt/gear/contrib")
    machine.host.copy([TOP / "tests/conformance"], "/opt/gear/tests")
    machine.host.copy([Path(prepared)], "/root/suite")
    # Everything is some twenty times slower there, and one of the tests makes five hundred calls.
    judged = ["/opt/gear/contrib/conformance", "--prepared", "/root/suite", "--patience", "300"]
    chosen = [] if EVERY else [f"{file}/*" for file in FILES]
    done = machine.host.run([*judged, *chosen], check=False, timeout=6000 if EVERY else 2400)
    assert done.returncode == 0, done.stdout.decode()[-4000:]
