"""The project as a whole: one version, a complete package, nothing of anybody's machine."""

from __future__ import annotations

import configparser
import os
import re
import stat
from pathlib import Path

import pytest
from project import TOP, first_line, project_files, tree_of

import gear

SETUP = configparser.ConfigParser()
SETUP.read(TOP / "setup.cfg")


def texts() -> list[tuple[Path, str]]:
    """Every text file with its content."""
    found = []
    for path in project_files():
        try:
            found.append((path, path.read_text("utf-8")))
        except UnicodeDecodeError:
            continue
    return found


def test_version_is_in_one_place() -> None:
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+(\.dev[0-9]+)?", gear.__version__)
    assert SETUP["metadata"]["version"] == "attr: gear.__version__"
    assigned = re.compile(rf"(?m)^\s*_*version_*\s*[=:]\s*[\"']?{re.escape(gear.__version__)}", re.IGNORECASE)
    places = [str(path.relative_to(TOP)) for path, text in texts() if assigned.search(text)]
    assert places == ["gear/__init__.py"]


def test_every_module_is_in_the_wheel() -> None:
    packages = SETUP["options"]["packages"].split()
    directories = {
        path.parent.relative_to(TOP)
        for path in (TOP / "gear").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert {".".join(directory.parts) for directory in directories} | {"gear.static_units"} == set(packages)
    assert all((TOP / directory / "__init__.py").exists() for directory in directories)
    # Everything beside the modules has to be named, or only a checkout has it.
    data = {name: value.split() for name, value in SETUP["options.package_data"].items()}
    for directory in directories:
        package = ".".join(directory.parts)
        for path in (TOP / directory).iterdir():
            if path.is_file() and path.suffix != ".py":
                assert any(path.match(pattern) for pattern in data.get(package, [])), (
                    f"{path.name} of {package}"
                )


def test_every_static_unit_is_in_the_wheel() -> None:
    patterns = SETUP["options.package_data"]["gear.static_units"].split()
    named = {path.name for pattern in patterns for path in (TOP / "units").glob(pattern)}
    assert {path.name for path in (TOP / "units").iterdir()} == named


def test_data_files_are_there() -> None:
    for files in SETUP["options.data_files"].values():
        for name in files.split():
            assert (TOP / name).is_file(), name


def test_entry_point_is_there() -> None:
    assert SETUP["options.entry_points"]["console_scripts"].split("\n")[1:] == [
        "gear = gear.cli:program",
        "gear-oci = gear.runtime.cli:main",
    ]


def test_third_party_packages_are_named_with_their_bounds() -> None:
    for line in SETUP["options"]["install_requires"].strip().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9-]+ >= [0-9.]+, < [0-9.]+", line), line


# Put together here, so that this file does not hold what it looks for.
FORBIDDEN = {
    "a path of somebody's machine": re.compile(
        r"(?<![\w.])/(?:work|wt|home/[a-z]+|Users/[A-Za-z]+)/(?!www\b)[a-z]"
    ),
    "a temporary path of somebody's machine": re.compile("/tmp/" + r"(?:wt|lint|bash_jobs)\b"),
    "a conflict": re.compile("(?m)^(?:<{7}|>{7}|={7})(?: |$)"),
    "a key": re.compile("-----BEGIN " + r"[A-Z ]*PRIVATE KEY"),
    "a proxy's address": re.compile(r"https?://[^\s/\"']*:[^\s/@\"']+@"),
    "an unfinished note": re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    found = [
        f"{path.relative_to(TOP)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for path, text in texts()
        for match in FORBIDDEN[what].finditer(text)
    ]
    assert not found, f"{what} in\n" + "\n".join(found)


def test_programs_say_what_runs_them() -> None:
    for path in project_files():
        executable = bool(path.stat().st_mode & stat.S_IXUSR)
        if executable:
            assert first_line(path).startswith("#!/"), f"{path.relative_to(TOP)} is executable without #!"
        elif first_line(path).startswith("#!") and path.parent != TOP / "gear" / "helper":
            pytest.fail(f"{path.relative_to(TOP)} has #! and is not executable")


def test_programs_use_the_systems_interpreter() -> None:
    # Without `site` starts the runtime, which clients call often.
    interpreters = ("#!/usr/bin/python3", "#!/usr/bin/python3 -IS", "#!/bin/sh", "#!/bin/bash")
    for path in (TOP / "contrib").iterdir():
        if path.is_file() and os.access(path, os.X_OK):
            assert first_line(path) in interpreters, path.name


def test_every_module_says_what_it_is_for() -> None:
    for path in project_files():
        if path.suffix == ".py" and path.stat().st_size:
            body = tree_of(path).body
            value = getattr(body[0], "value", None) if body else None
            assert isinstance(getattr(value, "value", None), str), f"{path.relative_to(TOP)} has no docstring"


def test_texts_end_in_one_newline_and_have_no_trailing_blanks() -> None:
    for path, text in texts():
        if text and path.suffix not in (".patch",):
            assert text.endswith("\n") and not text.endswith("\n\n"), path.relative_to(TOP)
            assert not re.search(r"[ \t]+$", text, re.MULTILINE) or path.suffix == ".md", path.relative_to(
                TOP
            )


def test_cases_are_complete() -> None:
    cases = TOP / "tests" / "cases"
    stems = {path.stem for path in cases.glob("*.json")}
    assert stems
    for path in cases.iterdir():
        assert path.suffix in (".json", ".service", ".config") and path.stem in stems, path.name
