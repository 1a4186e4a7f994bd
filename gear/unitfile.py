"""The syntax of systemd's unit files: the only place that escapes for it.

Pure, and knows nothing of containers.  The rules are those of systemd.syntax(7), of systemd.unit(5) for
specifiers, and of systemd.service(5), "Command lines", for the words of a command.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gear.errors import UsageError

# What systemd's C-style unescaping reads back (systemd.syntax(7), "Quoting").
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def specifiers(text: str) -> str:
    """*text* with `%` doubled, so that no specifier of systemd is found in it."""
    return text.replace("%", "%%")


def value(text: str) -> str:
    """*text* for a setting that takes the rest of the line; raises UsageError for what a line can't hold."""
    if any(character < " " or character == "\x7f" for character in text):
        raise UsageError(f"A unit file can't hold {text!r}: it has control characters.")
    _require_text(text)
    # A backslash at the end of a line would join the next line to it.
    return specifiers(text).strip().rstrip("\\ ")


def _require_text(text: str) -> None:
    # Bytes of file names that are not UTF-8 arrive here as surrogates; systemd ignores lines with such bytes.
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError(f"A unit file can't hold {text!r}: it is not valid Unicode.")


def word(text: str) -> str:
    """*text* as one word where systemd splits words and expands specifiers; raises UsageError for what is no text."""
    _require_text(text)
    plain = specifiers(text)
    safe = text.isascii() and all(c.isalnum() or c in "/._-+=:,@%" for c in text)
    if text and safe:
        return plain
    quoted = []
    for character in plain:
        if character in _ESCAPES:
            quoted.append(_ESCAPES[character])
        elif character < " " or character == "\x7f":
            quoted.append(f"\\x{ord(character):02x}")
        else:
            quoted.append(character)
    return f'"{"".join(quoted)}"'


def command(words: Iterable[str]) -> str:
    """A command line; `$` is doubled as well, so that nothing is taken from the environment."""
    return " ".join(word(item).replace("$", "$$") for item in words)


def device_unit(interface: str) -> str:
    """The unit that stands for the network interface *interface* (systemd.unit(5), "String escaping for inclusion in
    unit names"), as settings that list units take it: they keep backslashes."""
    escaped = [
        character
        if character.isascii() and (character.isalnum() or character in ":_.")
        else f"\\x{ord(character):02x}"
        for character in interface
    ]
    return f"sys-subsystem-net-devices-{''.join(escaped)}.device"


def render(header: Sequence[str], sections: Iterable[tuple[str, Iterable[tuple[str, str]]]]) -> str:
    """A whole unit file: comment lines, then sections of settings whose values are already escaped."""
    parts = ["".join(f"# {line}\n" for line in header)]
    for name, settings in sections:
        lines = "".join(f"{key}={content}\n" for key, content in settings)
        parts.append(f"[{name}]\n{lines}")
    return "\n".join(parts)
