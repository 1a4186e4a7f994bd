"""The verb that shows what install or a changed specification would do: plan; and `install --dry-run`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gear import composing, containers, effects, host, install
from gear.cli_spec import options_of, spec_options
from gear.command import Context, Verb, add_output_option, write_output
from gear.effects import LIVE, RELOAD, RESTART, Change
from gear.errors import GearError, UsageError
from gear.model import container_name


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image", metavar="IMAGE|NAME", help="an image, or with nothing else an installed container"
    )
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help="what the container would be called; K=V sets a variable"
    )
    spec_options(parser)
    add_output_option(parser)


def _run_plan(args: argparse.Namespace, context: Context) -> int:
    if not args.names:
        _refuse_options(args)
        host.require_root("read the specifications of containers")
        wanted = containers.get(context.layout, container_name(args.image))
        image = composing.image_of(context.layout, wanted)
        show(context, args, [(wanted.name, install.preview(context.layout, wanted, image), ())])
        return 0
    names, options = options_of(args, args.command)
    return show_plans(context, args, names, options)


def _refuse_options(args: argparse.Namespace) -> None:
    """Raise UsageError for options beside the name of an installed container, whose spec says everything."""
    parser = argparse.ArgumentParser(add_help=False)
    spec_options(parser)
    given = [name for name, default in vars(parser.parse_args([])).items() if getattr(args, name) != default]
    if given or args.command is not None:
        raise UsageError(
            f"gear plan {args.image} shows what the spec of {args.image} asks for, and takes no other options.",
            hint="To see what install would do: gear plan IMAGE NAME [OPTION...]",
        )


def show_plans(
    context: Context, args: argparse.Namespace, names: Sequence[str], options: dict[str, Any]
) -> int:
    host.require_root("read the specifications of containers")
    status, plans = 0, []
    for name in names:
        try:
            image = composing.resolve(context.layout, args.image)
            wanted = install.request(context.layout, container_name(name), image, options)
            host.require_controllers(wanted)
            old = containers.existing(context.layout, name)
            changes = effects.between(old, install.settled(context.layout, wanted, old)) if old else []
            plans.append((name, install.preview(context.layout, wanted, image), changes))
        except GearError as error:
            context.fail(error)
            status = max(status, error.exit_status)
    show(context, args, plans)
    return status


Plan = tuple[str, dict[Path, tuple[bytes | None, bytes]], Sequence[Change]]


def show(context: Context, args: argparse.Namespace, plans: Sequence[Plan]) -> None:
    """Print what would change: files, and for a container that is there the members and their classes."""
    if args.output == "json":
        context.report_json(
            [
                {
                    "name": name,
                    "changes": [
                        {
                            "path": str(path),
                            "action": "create" if found is None else "replace",
                            "diff": diff(path, found, new),
                        }
                        for path, (found, new) in changed.items()
                    ],
                    "members": [{"member": change.member, "effect": change.effect} for change in members],
                }
                for name, changed, members in plans
            ]
        )
        return
    for name, changed, members in plans:
        if not changed:
            context.report(f"{name}: nothing would change")
        for path, (found, new) in changed.items():
            write_output(diff(path, found, new))
        for change in members:
            context.report(f"{name}: {change.member} is {_WHEN[change.effect]}")


_WHEN = {
    LIVE: "changed at once (live)",
    RELOAD: "changed by a reload of the payload",
    RESTART: "changed by a restart",
}


def diff(path: Path, found: bytes | None, new: bytes) -> str:
    """A unified diff, which patch(1) understands."""
    source = "/dev/null" if found is None else str(path)
    if path.suffix == ".bpf":
        return f"Binary files {source} and {path} differ\n"
    before = (found or b"").decode(errors="replace").splitlines(keepends=True)
    after = new.decode(errors="replace").splitlines(keepends=True)
    import difflib

    return "".join(difflib.unified_diff(before, after, source, str(path)))


VERBS = (
    Verb(
        "plan",
        "show what install would change, as a diff",
        "With the arguments of install, show every file that it would write or change, and write nothing.  With just "
        "the name of an installed container, show how its files differ from what its spec.json asks for.",
        _plan_arguments,
        _run_plan,
        takes_command=True,
    ),
)
