"""Environment variables as people give them: NAME=VALUE, and files of such lines.

Values are data: nothing is unquoted or expanded.  Not where sets of them are kept (gear/envsets.py).
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Sequence

from gear import files, spec
from gear.errors import UsageError

FILE_LIMIT = 1 << 20  # bytes


def environment(entries: Sequence[str], paths: Sequence[str]) -> dict[str, str]:
    """The variables of --env and --env-file, the former counting more; raises UsageError."""
    env = read_files(paths)
    for entry in entries:
        name, separator, value = entry.partition("=")
        spec.environment_name(name)
        if separator:
            env[name] = value
        elif name in os.environ:
            env[name] = os.environ[name]
        else:
            raise UsageError(f"The variable {name} is not set here, so its value can't be passed on.")
    return env


def read_files(paths: Sequence[str]) -> dict[str, str]:
    """The variables in files of NAME=VALUE lines; raises UsageError."""
    env: dict[str, str] = {}
    for path in paths:
        # A pipe of the shell or /dev/null is as good as a file.
        try:
            with open(path, "rb") as file:
                data = file.read(FILE_LIMIT + 1)
        except FileNotFoundError as error:
            raise UsageError(f"There is no file {path} to read variables from.") from error
        except OSError as error:
            raise files.explain(error, f"read variables from {path}") from error
        if len(data) > FILE_LIMIT:
            raise UsageError(f"{path} is larger than the {FILE_LIMIT} bytes that such a file may have.")
        env |= parse(data, path)
    return env


def parse(data: bytes, where: str, *, inherit: bool = True) -> dict[str, str]:
    """The variables in NAME=VALUE lines, as Docker reads them: a byte order mark at the beginning is none of the name,
    and a NAME alone takes gear's own value unless *inherit* is False; raises UsageError naming *where*."""
    env: dict[str, str] = {}
    for number, line in enumerate(os.fsdecode(data.removeprefix(codecs.BOM_UTF8)).split("\n"), 1):
        text = line.removesuffix("\r").lstrip()
        if not text or text.startswith("#"):
            continue
        name, separator, value = text.partition("=")
        alone = not separator and not inherit
        if not name or any(character.isspace() for character in name) or "\0" in text or alone:
            raise UsageError(f"Line {number} of {where} is not NAME=VALUE.")
        if separator:
            env[name] = value
        elif name in os.environ:
            env[name] = os.environ[name]
    return env
