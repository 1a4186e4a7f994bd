"""The linters, as tests: each must be installed, and must have nothing to say."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path

import pytest
from project import TOP, check, python_files, shell_scripts, tool

PYPI = "pip install -e '.[test]', or contrib/test lint"


def test_ruff() -> None:
    check([tool("ruff", PYPI), "check", "--no-cache", "--output-format=concise", "."])


def test_format() -> None:
    check([tool("ruff", PYPI), "format", "--no-cache", "--check", "."])


def test_programs_without_a_suffix_are_linted_too() -> None:
    programs = [str(path.relative_to(TOP)) for path in python_files() if path.suffix != ".py"]
    check([tool("ruff", PYPI), "check", "--no-cache", "--output-format=concise", *programs])
    check([tool("ruff", PYPI), "format", "--no-cache", "--check", *programs])


def test_types(tmp_path: Path) -> None:
    check([tool("mypy", PYPI), "--no-error-summary", f"--cache-dir={tmp_path}"])


def test_spelling() -> None:
    check([tool("codespell", PYPI)])


def test_shell() -> None:
    scripts = shell_scripts()
    assert TOP / "gear" / "helper" / "stop" in scripts
    check([tool("shellcheck", "apt-get install shellcheck"), *map(str, scripts)])


@pytest.mark.parametrize("path", shell_scripts(), ids=lambda path: str(path.relative_to(TOP)))
def test_shell_scripts_parse_with_their_own_shell(path: Path) -> None:
    shell = path.read_text().splitlines()[0].removeprefix("#!").strip().split()
    check([*shell, "-n", str(path)])


def test_missing_linter_is_a_failure_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(AssertionError, match="no-such-linter is not installed: apt-get install it"):
        tool("no-such-linter", "apt-get install it")


def test_complaint_of_a_linter_is_shown(tmp_path: Path) -> None:
    bad = tmp_path / "bad.sh"
    bad.write_text("#!/bin/sh\nrm -rf $1/*\n")
    with pytest.raises(AssertionError, match=r"(?s)shellcheck complains:.*SC2086"):
        check([tool("shellcheck", "apt-get install shellcheck"), str(bad)])


def test_every_module_parses_with_the_oldest_python() -> None:
    for path in python_files():
        ast.parse(path.read_bytes(), str(path), feature_version=(3, 11))


# What takes longer to import than all of the work of a start or of gear exec.
COSTLY = {
    "ctypes",
    "dataclasses",
    "inspect",
    "json",
    "pathlib",
    "socket",
    "struct",
    "subprocess",
    "typing",
}
# What gear exec may import of gear.
EXEC = {
    f"gear.{name}"
    for name in (
        "cli cli_exec command errors groups joining model patterns terminal helper helper.below helper.bundle "
        "helper.channel helper.container helper.enter helper.execute helper.failure helper.interpreter helper.mounts "
        "helper.options helper.payload helper.rights helper.syscalls helper.tasks"
    ).split()
}


def loaded(program: str) -> set[str]:
    """The modules that the system's interpreter has loaded after *program*."""
    python = (
        "/usr/bin/python3"
        if os.path.exists("/usr/bin/python3")
        else tool("python3", "apt-get install python3")
    )
    program = f"import sys; sys.path.insert(0, sys.argv[1]); {program}; print(*sorted(sys.modules))"
    done = subprocess.run(
        [python, "-I", "-S", "-B", "-c", program, str(TOP)], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_helper_is_as_small_as_it_claims() -> None:
    costly = COSTLY | {"re", "enum", "functools", "argparse"}
    assert not loaded("import gear.helper.start, gear.helper.payload, gear.helper.rootfs") & costly


def test_helper_imports_little_before_the_clone() -> None:
    modules = {name for name in loaded("import gear.helper.start") if name.startswith("gear.helper.")}
    assert modules == {
        f"gear.helper.{name}"
        for name in ("bundle", "channel", "container", "failure", "notify", "start", "syscalls")
    }


def test_exec_imports_nothing_that_it_does_not_need() -> None:
    modules = loaded(
        "from gear import cli; verb = cli.verbs_of('gear.cli_exec')['exec']; "
        "cli.verb_parser(verb, 'gear exec').parse_args(['-u', 'www', 'web', 'id', '-u'])"
    )
    assert {name for name in modules if name.startswith("gear.")} == EXEC
    assert not modules & COSTLY


# What none of the verbs that do little but ask PID 1 comes by; tests/host/test_verbs_speed.py has whole runs of them.
NEEDLESS = set("ctypes dataclasses hashlib inspect random shutil socket subprocess".split())


@pytest.mark.parametrize("module", ("cli_lifecycle", "cli_list", "cli_inside", "cli_logs", "cli_health"))
def test_verbs_of_pid_1_import_nothing_needless(module: str) -> None:
    assert not loaded(f"from gear import cli; cli.verbs_of('gear.{module}')") & NEEDLESS
