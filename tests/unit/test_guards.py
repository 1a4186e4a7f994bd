"""The guards of the tests themselves: no process by accident, and no skip where skips are outlawed."""

from __future__ import annotations

import os
import posix
import subprocess
import sys
from pathlib import Path

import pytest
import rendering

TESTS = rendering.TOP / "tests"


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: subprocess.run(["true"]),
        lambda: os.system("true"),
        lambda: os.fork(),
        lambda: posix.fork(),
        lambda: os.posix_spawn("/bin/true", ["true"], {}),
        lambda: os.execv("/bin/true", ["true"]),
        lambda: os.popen("true"),
    ],
    ids=["run", "system", "fork", "posix.fork", "posix_spawn", "execv", "popen"],
)
def test_unit_test_starts_no_process(attempt: object) -> None:
    assert callable(attempt)
    with pytest.raises(BaseException, match="mark the test `spawns`") as caught:
        attempt()
    assert not isinstance(caught.value, Exception)


@pytest.mark.spawns
def test_unit_test_that_is_marked_may() -> None:
    assert subprocess.run(["true"], check=True).returncode == 0


def test_environment_is_clean() -> None:
    assert not [name for name in os.environ if name.startswith("GEAR_") and not name.startswith("GEAR_TEST")]


SKIPPED = """
import os
import pytest

def test_skipped():
    pytest.skip("there is no moon")

@pytest.mark.skipif(True, reason="never")
def test_marked():
    pass

@pytest.mark.xfail(reason="known", strict=True)
def test_expected():
    assert False

def test_clean():
    assert "GEAR_STATE_DIR" not in os.environ
    assert os.environ["GEAR_TEST_KEPT"] == "1"
"""


def pytest_run(directory: Path, must_run: str) -> subprocess.CompletedProcess[str]:
    environ = {
        "PATH": os.environ["PATH"],
        "GEAR_TESTS_MUST_RUN": must_run,
        "GEAR_STATE_DIR": "/x",
        "GEAR_TEST_KEPT": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rA",
        "--continue-on-collection-errors",
        "-p",
        "no:cacheprovider",
        str(directory),
    ]
    return subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.spawns
def test_skips_can_be_outlawed(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_bytes((TESTS / "conftest.py").read_bytes())
    (tmp_path / "test_skipped.py").write_text(SKIPPED)
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    lenient = pytest_run(tmp_path, "0")
    assert lenient.returncode == 0, lenient.stdout
    assert "1 passed, 3 skipped, 1 xfailed" in lenient.stdout
    strict = pytest_run(tmp_path, "1")
    assert strict.returncode != 0
    assert "GEAR_TESTS_MUST_RUN is 1, so this must not be skipped: Skipped: there is no moon" in strict.stdout
    assert "this must not be skipped: Skipped: could not import 'no_such_module'" in strict.stdout
    assert "skipped" not in strict.stdout.splitlines()[-1] and "error" in strict.stdout.splitlines()[-1]
