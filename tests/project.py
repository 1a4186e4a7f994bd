"""The project's files, as the lint tests look at them."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
# Made by tools, and listed in .gitignore.
_MADE = {".git", "__pycache__", "build", "dist", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"}


@cache
def project_files() -> tuple[Path, ...]:
    """Every file of the checkout that somebody wrote."""
    return tuple(
        path
        for path in sorted(TOP.rglob("*"))
        if path.is_file()
        and not path.is_symlink()
        and not _MADE & set(path.relative_to(TOP).parts)
        and not any(part.endswith(".egg-info") for part in path.relative_to(TOP).parts)
    )


def first_line(path: Path) -> str:
    """The first line of a file, or nothing of it when it is no text."""
    with path.open("rb") as file:
        return file.readline(200).decode(errors="replace").rstrip("\n")


def shell_scripts() -> list[Path]:
    """Files whose first line asks for a shell."""
    shells = ("#!/bin/sh", "#!/bin/bash", "#!/usr/bin/env bash", "#!/usr/bin/env sh")
    return [path for path in project_files() if first_line(path).startswith(shells)]


def python_files() -> list[Path]:
    """Modules and Python programs."""
    return [path for path in project_files() if path.suffix == ".py" or "python3" in first_line(path)[:30]]


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse(path.read_bytes(), str(path))


def tool(name: str, package: str) -> str:
    """The path of a program; a missing one fails the test, with what to install."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is not installed: {package}"
    return found


def check(command: list[str]) -> None:
    """Run a linter at the top of the checkout; what it says is the failure."""
    done = subprocess.run(
        command, cwd=TOP, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{Path(command[0]).name} complains:\n{done.stdout}{done.stderr}"
