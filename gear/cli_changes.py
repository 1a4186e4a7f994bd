"""The verbs about what a container has changed: diff, commit, export, clone."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gear import (
    changed,
    cloning,
    committing,
    composing,
    containers,
    contents,
    files,
    host,
    lifecycle,
    pack,
    publishing,
)
from gear.changed import Change
from gear.command import Context, Verb, add_output_option, printable
from gear.errors import UsageError
from gear.model import container_name
from gear.systemd import Manager


def pause_option(parser: argparse.ArgumentParser) -> None:
    """--no-pause, for every verb that copies what a container writes."""
    parser.add_argument(
        "--no-pause",
        action="store_true",
        help="let a container that runs go on meanwhile; what it writes may be half in the copy",
    )


def output_option(parser: argparse.ArgumentParser) -> None:
    """-o, for every verb that writes an archive."""
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write the archive there, and not on standard output"
    )


def _diff_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", type=container_name, help="a container, running or not")
    add_output_option(parser)


def _run_diff(args: argparse.Namespace, context: Context) -> int:
    host.require_root("look into containers")
    spec = containers.get(context.layout, args.name)
    image = composing.image_of(context.layout, spec)
    old, new = contents.below(context.layout, image), contents.whole(context.layout, spec, image)
    ignored = contents.made_for_mounts(context.layout, args.name)
    report_changes(changed.changes(old, new, args.name, ignored), args.output, context)
    return 0


def report_changes(found: Sequence[Change], output: str, context: Context) -> None:
    """A line for each change, or JSON."""
    if output == "json":
        context.report_json([{"kind": change.kind, "path": change.path} for change in found])
    else:
        for change in found:
            context.report(f"{change.kind} {printable(change.path)}")


def _commit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c",
        "--change",
        action="append",
        default=[],
        metavar="INSTRUCTION",
        help="an instruction as in a Dockerfile, such as 'ENV A=1' or 'CMD [\"top\"]'",
    )
    parser.add_argument("-a", "--author", default="", metavar="TEXT", help="who made the image")
    parser.add_argument("-m", "--message", default="", metavar="TEXT", help="what it is for")
    pause_option(parser)
    parser.add_argument("name", metavar="NAME", type=container_name, help="a container, running or not")
    parser.add_argument("reference", metavar="IMAGE", help="what to call the new image")
    add_output_option(parser)


def _run_commit(args: argparse.Namespace, context: Context) -> int:
    host.require_root("commit containers")
    wishes = committing.Wishes(tuple(args.change), args.author, args.message)
    with Manager() as manager:
        image = committing.commit(
            manager,
            context.layout,
            args.name,
            args.reference,
            wishes,
            pause=not args.no_pause,
            warn=context.warn,
        )
    if args.output == "json":
        context.report_json({"reference": image.reference, "digest": image.digest})
    else:
        context.report(f"{image.reference} {image.digest}")
    return 0


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    output_option(parser)
    parser.add_argument("name", metavar="NAME", type=container_name, help="a container, running or not")


def _run_export(args: argparse.Namespace, context: Context) -> int:
    host.require_root("export containers")
    spec = containers.get(context.layout, args.name)
    image = composing.image_of(context.layout, spec)
    writer = pack.Writer(args.name, layer=False, torn=context.warn)
    write_archive(pack.tree(contents.whole(context.layout, spec, image), writer), args.output)
    return 0


def write_archive(pieces: Iterable[bytes], output: str | None) -> None:
    """Write *pieces* to the file *output*, which appears whole, or on standard output; raises GearError."""
    with _opened(output) as descriptor:
        for piece in pieces:
            try:
                files.write_all(descriptor, piece)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise files.explain(error, f"write the archive to {output or 'standard output'}") from error


@contextmanager
def _opened(output: str | None) -> Iterator[int]:
    if output is None or output == "-":
        if os.isatty(1):
            raise UsageError(
                "An archive is not written on a terminal.", hint="Name a file with -o, or pipe it on."
            )
        yield 1
        return
    path = Path(output)
    if path.exists() and not path.is_file():
        with files.explained(f"write {path}"), open(path, "wb", buffering=0) as file:
            yield file.fileno()
        return
    partial = files.partial_name(path)
    with files.explained(f"write {path}"):
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
        with files.explained(f"write {path}"):
            os.fsync(descriptor)
            os.rename(partial, path)
    finally:
        os.close(descriptor)
        files.remove_file(partial)


def _clone_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--volumes", action="store_true", help="copy the data of its named volumes as well")
    parser.add_argument("--start", action="store_true", help="start the new one, now and at every boot")
    pause_option(parser)
    parser.add_argument("name", metavar="NAME", type=container_name, help="a container, running or not")
    parser.add_argument("new", metavar="NEW", type=container_name, help="what to call the second one")


def _run_clone(args: argparse.Namespace, context: Context) -> int:
    host.require_root("clone containers")
    host.require_isolation()
    with Manager() as manager:
        publishing.require_unit_directory(manager, context.layout)
        done = cloning.clone(
            manager, context.layout, args.name, args.new, volumes=args.volumes, pause=not args.no_pause
        )
        publishing.acquaint(manager, context.layout, [args.new])
        context.report(f"{args.new} is a clone of {args.name}, installed as {done.spec.unit}")
        if args.start:
            error = lifecycle.start(manager, context.layout, [args.new])[args.new]
            if error is not None:
                raise error
    return 0


VERBS = (
    Verb(
        "diff",
        "list what a container has changed of its image",
        "List the files that were added (A), changed (C) or deleted (D) since the container was made of its image.  "
        "What is in volumes does not count.",
        _diff_arguments,
        _run_diff,
    ),
    Verb(
        "commit",
        "make an image of a container",
        "Make an image of a container: the layers of its image, one more with what it has changed, and how it was "
        "asked to run, environment included.  What is in volumes is not part of it.  A container that runs is paused "
        "meanwhile.  The same content gives the same digest.",
        _commit_arguments,
        _run_commit,
    ),
    Verb(
        "export",
        "write a container's files as a tar archive",
        "Write all files of a container, those of its image and its own, as a tar archive with the ids that the "
        "container sees.  Volumes are not part of it.",
        _export_arguments,
        _run_export,
    ),
    Verb(
        "clone",
        "make a second container like one that is there",
        "Install NEW like NAME, with everything that NAME has written, and with user ids, a name and named volumes of "
        "its own.  The volumes hold what the image has in them, or with --volumes what those of NAME hold; binds stay "
        "the same.  A container that runs is paused meanwhile.",
        _clone_arguments,
        _run_clone,
    ),
)
