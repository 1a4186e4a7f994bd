"""The options of the command line: tables, their parser, and the text of --help.

Not argparse: it takes longer to import than a container takes to start.  Accepted are `--name VALUE`, `--name=VALUE`,
`-n VALUE`, `-nVALUE`, several flags behind one dash, and `--flag=true|false`, as clients of runc and crun write them.
"""

from __future__ import annotations

from gear.helper.failure import Failure

EXIT_USAGE = 2


class Option:
    """One option: its name, a letter, what its value is called (`` for a flag), what it is for."""

    def __init__(self, name: str, value: str, purpose: str, *, many: bool = False) -> None:
        self.name, _, self.letter = name.partition(",")
        self.value = value
        self.purpose = purpose
        self.many = many

    @property
    def shown(self) -> str:
        """As in the page and in --help: `--bundle, -b DIR`."""
        return f"--{self.name}{', -' + self.letter if self.letter else ''} {self.value}".rstrip()


class Parsed:
    """What was given: values by name, and the words that are no options."""

    def __init__(self, options: tuple[Option, ...]) -> None:
        self.values: dict[str, str] = {}
        self.lists: dict[str, list[str]] = {option.name: [] for option in options if option.many}
        self.flags: dict[str, bool] = {}
        self.words: list[str] = []

    def get(self, name: str, default: str = "") -> str:
        """The value of an option."""
        return self.values.get(name, default)

    def flag(self, name: str) -> bool:
        """Whether a flag was given."""
        return self.flags.get(name, False)

    def number(self, name: str, default: int = 0) -> int:
        """The value of an option that is a whole number of zero or more."""
        text = self.values.get(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit():
            raise Failure(f"--{name} takes a number, not {text}", EXIT_USAGE)
        return int(text)


def parse(words: list[str], options: tuple[Option, ...], *, words_before_rest: int = -1) -> Parsed:
    """Sort *words* into options and the rest.

    After *words_before_rest* words that are no options everything belongs to the rest, however it looks: the verb ends
    the options of the whole program, and the command of `exec` is its own affair.  `--` ends options as well.
    """
    by_name = {option.name: option for option in options}
    by_letter = {option.letter: option for option in options if option.letter}
    parsed, rest = Parsed(options), list(words)
    while rest:
        if len(parsed.words) == words_before_rest:
            break
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            name, separator, value = word[2:].partition("=")
            if name not in by_name:
                raise Failure(f"there is no option --{name}", EXIT_USAGE)
            _take(parsed, by_name[name], value if separator else None, rest)
        elif word.startswith("-") and word != "-":
            _take_letters(parsed, word, by_name, by_letter, rest)
        else:
            parsed.words.append(word)
    parsed.words += rest
    return parsed


def _take_letters(
    parsed: Parsed, word: str, by_name: dict[str, Option], by_letter: dict[str, Option], rest: list[str]
) -> None:
    name, separator, value = word[1:].partition("=")
    if len(name) > 1 and name in by_name:  # -bundle, as Go's flag package allows it
        _take(parsed, by_name[name], value if separator else None, rest)
        return
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        option = by_letter.get(letter)
        if option is None:
            raise Failure(f"there is no option -{letter}", EXIT_USAGE)
        if option.value and letters:
            _take(parsed, option, letters.removeprefix("="), rest)
            return
        _take(parsed, option, None, rest)


def _take(parsed: Parsed, option: Option, value: str | None, rest: list[str]) -> None:
    if not option.value:
        if value not in (None, "true", "false"):
            raise Failure(f"--{option.name} takes no value", EXIT_USAGE)
        parsed.flags[option.name] = value != "false"
        return
    if value is None:
        if not rest:
            raise Failure(f"--{option.name} needs a value", EXIT_USAGE)
        value = rest.pop(0)
    if option.many:
        parsed.lists[option.name].append(value)
    else:
        parsed.values[option.name] = value


def help_text(usage: str, purpose: str, options: tuple[Option, ...], verbs: dict[str, str]) -> str:
    """The text of --help."""
    lines = [f"Usage: {usage}", "", purpose]
    for title, rows in (
        ("Verbs", list(verbs.items())),
        ("Options", [(option.shown, option.purpose) for option in options]),
    ):
        if rows:
            width = max(len(left) for left, _ in rows)
            lines += ["", f"{title}:", *(f"  {left:<{width}}  {right}" for left, right in rows)]
    return "\n".join(lines)
