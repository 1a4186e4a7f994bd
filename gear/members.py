"""Reading the members of spec.json: each by its type, or TypeError or ValueError that says what is wrong.

Only types; what a member may mean is decided beside the class that holds it (gear/spec.py, gear/isolation.py).
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Container
from typing import Any

from gear.errors import UsageError

Reader = Callable[[Any], Any]


def text(value: Any) -> str:
    """A string without NUL."""
    if not isinstance(value, str):
        raise TypeError(f"a string is wanted, not {value!r}")
    if "\0" in value:
        raise ValueError("it holds a NUL byte")
    return value


def array(value: Any) -> list[Any]:
    """An array."""
    if not isinstance(value, list):
        raise TypeError(f"an array is wanted, not {value!r}")
    return value


def mapping(value: Any) -> dict[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise TypeError(f"an object is wanted, not {value!r}")
    return value


def number(value: Any) -> int | float:
    """A number, and no boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a number is wanted, not {value!r}")
    return value


def integer(value: Any) -> int:
    """A whole number, and no boolean."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a whole number is wanted, not {value!r}")
    return value


def boolean(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise TypeError(f"true or false is wanted, not {value!r}")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """An array of strings."""
    return tuple(text(item) for item in array(value))


def text_mapping(value: Any) -> dict[str, str]:
    """An object whose members are strings."""
    return {text(name): text(content) for name, content in mapping(value).items()}


def optional(reader: Reader) -> Reader:
    """What *reader* takes, or null."""
    return lambda value: None if value is None else reader(value)


def shown(member: str) -> str:
    """The name of a member as it may stand in a sentence."""
    return member[:80] if member.isprintable() else repr(member[:80])


def read(
    document: dict[str, Any], readers: dict[str, Reader], where: str, required: Container[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """The members of *document*, read, and a sentence for each fault; *where* is the JSON pointer of the document."""
    faults = [f"{where}/{shown(member)}: no such member" for member in sorted(set(document) - set(readers))]
    values = {}
    for member, reader in readers.items():
        if member in document:
            try:
                values[member] = reader(document[member])
            except UsageError as error:
                faults.append(f"{where}/{member}: {error.message.removesuffix('.')}")
            except (TypeError, ValueError, KeyError) as error:
                faults.append(f"{where}/{member}: not as expected ({error})")
        elif member in required:
            faults.append(f"{where}/{member}: missing")
    return values, faults


def container_path(path: str, what: str) -> str:
    """*path* as an absolute, normal path inside a container; raises UsageError naming *what*."""
    if not path.startswith("/") or "\0" in path:
        raise UsageError(f"{what} must be an absolute path in the container, not {path[:200]!r}.")
    normal = posixpath.normpath(path)
    return normal[1:] if normal.startswith("//") else normal
