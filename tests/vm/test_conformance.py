"""crun's test suite, by contrib/conformance, where control groups are of version 2 and systemd makes the scopes.

On the machine that runs the tests itself contrib/test runs it directly; what differs there is waived by its facts.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from gearhost import TOP, GearHost


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
    done = machine.host.run(judged, check=False, timeout=1500)
    assert done.returncode == 0, done.stdout.decode()[-4000:]
