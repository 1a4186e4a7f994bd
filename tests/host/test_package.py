"""The wheel, installed into a virtual environment: complete, and not needed by what it installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gearhost import TOP, GearHost


def test_containers_outlive_the_virtual_environment(host: GearHost, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    source = tmp_path / "source"
    subprocess.run(["git", "-C", str(TOP), "checkout-index", "--all", f"--prefix={source}/"], check=True)
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("gear-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)], check=True)
    # Debian's own modules serve beside it, as with `python3 -m venv --system-site-packages`.
    host.sh("rm -rf /opt/venv && python3 -m venv --without-pip --system-site-packages /opt/venv")
    packages = host.sh("ls -d /opt/venv/lib/python3.*/site-packages")
    host.host.copy(sorted((tmp_path / "site").iterdir()), packages)
    script = b"#!/opt/venv/bin/python3\nimport sys\nfrom gear.cli import program\nsys.exit(program())\n"
    host.write("/opt/venv/bin/gear", script, mode="755")

    assert "/opt/venv/" in host.sh("cd / && /opt/venv/bin/python3 -c 'import gear; print(gear.__file__)'")
    state = ("--state-dir", "/var/lib/gear-venv")
    try:
        gear = ("/opt/venv/bin/gear", *state)
        host.run(*gear, "image", "load", "/root/hello")
        host.run(*gear, "install", "hello", "fromvenv", "--start")
        unit = host.read("/usr/local/lib/systemd/system/ctr-fromvenv.service").decode()
        assert "/opt/" not in unit
        first = host.pid("fromvenv")
        host.sh("rm -rf /opt/venv")
        host.sh("systemctl restart ctr-fromvenv")
        assert host.pid("fromvenv") not in (0, first)
    finally:
        host.run("gear", *state, "delete", "fromvenv", check=False)
        host.sh("rm -rf /var/lib/gear-venv /opt/venv")
