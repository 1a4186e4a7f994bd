"""man/gear-oci.8 has what the tables of the command line have, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from project import TOP

import gear
from gear.runtime import cli
from gear.runtime.arguments import Option

PAGE = TOP / "man" / "gear-oci.8"


def sections(macro: str, text: str) -> dict[str, str]:
    """The parts of a page by their headings."""
    parts = re.split(rf"(?m)^\.{macro} (.*)\n", text)
    return {heading.strip('"'): body for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


WHOLE = sections("SH", PAGE.read_text(encoding="utf-8"))
VERBS = sections("SS", WHOLE["VERBS"])
CASES: list[tuple[str, tuple[Option, ...], str]] = [("", cli.GLOBAL, WHOLE["OPTIONS"])]
CASES += [
    (name, cli.options_of(name), VERBS.get(f"{name} {verb.words}".rstrip(), ""))
    for name, verb in cli.VERBS.items()
]


def test_page_has_every_verb_and_no_other() -> None:
    assert list(VERBS) == [f"{name} {verb.words}".rstrip() for name, verb in cli.VERBS.items()]


@pytest.mark.parametrize(("name", "options", "body"), CASES, ids=[case[0] or "gear-oci" for case in CASES])
def test_options_are_those_of_the_table(name: str, options: tuple[Option, ...], body: str) -> None:
    shown = [
        re.sub(r"\\f.", "", line).replace(r"\-", "-")
        for line in re.findall(r"^\.TP\n(.*)$", body, re.MULTILINE)
    ]
    assert shown == [option.shown for option in options]


def test_names_of_options_are_told_apart() -> None:
    for name, options, _ in CASES:
        names = [option.name for option in options] + [option.letter for option in options if option.letter]
        assert len(names) == len(set(names)), name


def test_page_names_the_version() -> None:
    assert f'"gear {gear.__version__}"' in PAGE.read_text(encoding="utf-8").split(".SH")[0]


def test_man_accepts_the_page() -> None:
    man = shutil.which("man")
    assert man, "The program man is not installed: apt-get install man-db"
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "100", "TERM": "dumb"}
    command = [man, "--warnings", "-E", "UTF-8", "-l", str(PAGE)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "GEAR-OCI(8)" in done.stdout
