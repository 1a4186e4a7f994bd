"""Reading unit files the way systemd does, written from its manual and source, not from gear's writer.

Only what gear's own units need: config_parse() of src/shared/conf-parser.c for lines, extract_first_word() of
src/basic/extract-word.c for words, specifier_printf() for `%`, and replace_env_argv() for `$`.
"""

from __future__ import annotations

import re

_BLANK = " \t\n\r"
_ESCAPES = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "s": " ",
    "\\": "\\",
    '"': '"',
    "'": "'",
}


class Malformed(ValueError):
    """systemd would refuse or misread this."""


def _continues(line: str) -> bool:
    """Whether a line ends in a backslash that no other backslash escapes."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def parse(text: str) -> dict[str, list[tuple[str, str]]]:
    """The settings of a unit file by section, values as written."""
    sections: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] | None = None
    held = ""
    # read_line(): a line ends at any of these.
    for line in re.split("\r\n|\n\r|[\n\r\0]", text):
        if line.lstrip(_BLANK)[:1] in ("#", ";") and (held or line.lstrip(_BLANK)):
            continue
        line = held + line
        if _continues(line):
            held = line[:-1] + " "
            continue
        held = ""
        line = line.strip(_BLANK)
        if not line:
            continue
        if line.startswith("["):
            if not line.endswith("]"):
                raise Malformed(f"a section that does not end: {line!r}")
            current = sections.setdefault(line[1:-1], [])
            continue
        key, equals, value = line.partition("=")
        if not equals or current is None:
            raise Malformed(f"neither section nor setting: {line!r}")
        current.append((key.rstrip(_BLANK), value.lstrip(_BLANK)))
    if held:
        raise Malformed("the file ends inside a setting")
    return sections


def _unescape(text: str, at: int) -> tuple[str, int]:
    """cunescape_one(): the character that the escape at *at* (after the backslash) means, and where it ends."""
    kind = text[at : at + 1]
    if kind in _ESCAPES and kind:
        return _ESCAPES[kind], at + 1
    for letter, digits in (("x", 2), ("u", 4), ("U", 8)):
        if kind == letter:
            number = text[at + 1 : at + 1 + digits]
            if len(number) == digits and int(number, 16):
                return chr(int(number, 16)), at + 1 + digits
    raise Malformed(f"no escape: {text[at - 1 : at + 10]!r}")


def words(value: str, *, escapes: bool = True) -> list[str]:
    """The words of a value, unquoted; with *escapes* as in Exec lines (EXTRACT_CUNESCAPE), where a backslash
    otherwise only makes the next character literal, as in RequiresMountsFor=."""
    return [word for _, word in _split(value, escapes)]


def _split(value: str, escapes: bool) -> list[tuple[str, str]]:
    """Each word as it is written, blank after it included, and as it is meant."""
    result: list[tuple[str, str]] = []
    at = 0
    while at < len(value):
        if value[at] in _BLANK:
            at += 1
            continue
        word, quote, start = "", "", at
        while at < len(value):
            character = value[at]
            at += 1
            if character == "\\":
                character, at = _unescape(value, at) if escapes else (value[at : at + 1], at + 1)
                word += character
            elif quote:
                if character == quote:
                    quote = ""
                else:
                    word += character
            elif character in "'\"":
                quote = character
            elif character in _BLANK:
                break
            else:
                word += character
        if quote:
            raise Malformed(f"a quote that does not end: {value!r}")
        result.append((value[start:at], word))
    return result


def specifiers(text: str) -> str:
    """*text* with `%%` made `%`; every other specifier would put something of the host there."""
    result = re.sub("%(.?)", lambda match: "%" if match[1] == "%" else "\0", text, flags=re.DOTALL)
    if "\0" in result:
        raise Malformed(f"a specifier: {text!r}")
    return result


def command(value: str) -> list[str]:
    """The argv of an Exec line; a word that is one whole variable comes back as `$NAME`, other `$` are literal."""
    result = []
    for number, (written, meant) in enumerate(_split(value, True)):
        if written.strip(_BLANK) == ";":
            raise Malformed(f"several commands: {value!r}")
        word = specifiers(meant)
        if number == 0 and word[:1] in "-@:+!|":
            raise Malformed(f"a prefix with a meaning: {word!r}")
        if word.startswith("$") and word[1:2] not in ("{", "$"):
            result.append(word)
            continue
        if "${" in word.replace("$$", ""):
            raise Malformed(f"a variable: {word!r}")
        result.append(word.replace("$$", "$"))
    return result
