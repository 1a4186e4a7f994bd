"""What a verb of the command line is, and how it reports.

Not the table of verbs (gear/cli.py) and not what they do (gear/containers.py, gear/images.py).
"""

from __future__ import annotations

import os
import sys

from gear.errors import GearError, UsageError

# What every verb imports is paid for by every verb: for types alone, nothing is imported.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from gear.model import Layout


class Context:
    """What every verb gets: where gear's files are, and how to report."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def report_json(self, document: Any) -> None:
        """Print *document* as JSON on standard output."""
        import json

        write_output(json.dumps(document, indent=2, sort_keys=True) + "\n")

    def report(self, line: str) -> None:
        """Print one line of outcome on standard output."""
        write_output(f"{line}\n")

    def warn(self, line: str) -> None:
        """Print one line on standard error that is no failure."""
        warn(line)

    def fail(self, error: GearError) -> None:
        """Print *error* on standard error: the sentence, the evidence, then the hint on its own line."""
        print(f"error: {printable(error.message)}", file=sys.stderr)
        for line in error.details:
            print(f"  {printable(line)}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.stderr.flush()


def warn(line: str) -> None:
    """Print one line on standard error that is no failure."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """What an image or a payload says, without what would steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def labels_of(texts: Iterable[str]) -> dict[str, str]:
    """The labels that `--label NAME[=VALUE]` gives; raises UsageError."""
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name:
            raise UsageError(f"{text!r} is no label.", hint="Write NAME=VALUE.")
        found[name] = value
    return found


def label_filters(texts: Iterable[str]) -> list[tuple[str, str | None]]:
    """The labels that `--label NAME[=VALUE]` asks for; None is any value."""
    pairs = [text.partition("=") for text in texts]
    return [(name, value if equals else None) for name, equals, value in pairs]


def write_output(text: str = "") -> None:
    """Write *text* and what was printed before on standard output.

    Raises GearError when that fails, and BrokenPipeError when nobody reads it any more.
    """
    if sys.stdout is None:  # closed by whoever started gear
        return
    # Names of files may be no text, and a terminal may not know every character.
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output()
        raise GearError(f"Can't write the output: {os.strerror(error.errno or 0)}.") from error


def discard_output() -> None:
    """Let what can't be written go nowhere, or the interpreter tries again when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


class Verb:
    """One verb: its name, what it says of itself, its arguments, and the function that runs it.

    *run* returns the exit status; it raises GearError for what stops the whole verb.
    """

    def __init__(
        self,
        name: str,
        summary: str,
        description: str,
        arguments: Callable[[argparse.ArgumentParser], None],
        run: Callable[[argparse.Namespace, Context], int],
        *,
        takes_command: bool = False,
        command_last: bool = False,
    ) -> None:
        self.name = name
        self.summary = summary
        self.description = description
        self.arguments = arguments
        self.run = run
        self.takes_command = takes_command  # whether `-- COMMAND...` may follow
        # Whether everything after the first argument that is no option is the command's, with -- or without.
        self.command_last = command_last


def add_output_option(parser: argparse.ArgumentParser) -> None:
    """The option of every verb that reports: `--output table|json`."""
    parser.add_argument(
        "--output",
        choices=("table", "json"),
        default="table",
        help="a table for people (default), or JSON with the members named in gear(1)",
    )


def for_each(items: Iterable[str], work: Callable[[str], None], context: Context) -> int:
    """Do *work* for every item; a failure is told and does not stop the others.

    Returns the exit status: that of the worst failure, 0 when there was none.
    """
    status = 0
    for item in items:
        try:
            work(item)
        except GearError as error:
            context.fail(error)
            status = max(status, error.exit_status)
    return status


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Left-aligned columns, two spaces between, no trailing blanks."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def agreed(question: str) -> bool:
    """Whether the person at the terminal says yes."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def environment_options(parser: argparse.ArgumentParser) -> None:
    """--env and --env-file, the same for every verb that runs something."""
    add = parser.add_argument
    add(
        "-e",
        "--env",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="set a variable; NAME alone takes gear's own value",
    )
    add(
        "--env-file",
        metavar="FILE",
        action="append",
        default=[],
        help="set the variables in FILE, one NAME=VALUE a line",
    )
