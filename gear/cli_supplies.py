"""The options that give a container secrets, configs and environment sets; part of those of gear/cli_spec.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from gear import host, signals, supplies, supplying
from gear.command import Context, for_each
from gear.supplies import Supplies
from gear.supplying import Effect


def supply_options(parser: argparse.ArgumentParser) -> None:
    for names, metavar, text in (
        (
            ("--env-set", "--env-id"),
            "ID",
            "the variables of gear set-env ID, before its own; later sets count more",
        ),
        (("--secret",), "NAME[,OPTION=VALUE...]", "a secret as the file /run/secrets/NAME; see gear secret"),
        (("--config",), "NAME:PATH[,OPTION=VALUE...]", "a config as the file PATH; see gear config"),
    ):
        parser.add_argument(*names, metavar=metavar, action="append", default=[], help=text)
    parser.add_argument(
        "--reload-signal",
        metavar="SIGNAL",
        help="what has its program read its configs again, for example HUP",
    )


def supplies_of(args: argparse.Namespace) -> Supplies:
    """What a command line asks for; raises UsageError."""
    if args.reload_signal is not None:
        signals.signal_number(supplies.reload_signal(args.reload_signal))
    return supplies.checked(
        Supplies(
            tuple(supplies.object_name(name) for name in args.env_set),
            tuple(supplies.parse_secret(text) for text in args.secret),
            tuple(supplies.parse_config(text) for text in args.config),
            args.reload_signal,
        )
    )


def warn(context: Context, asked: Supplies) -> None:
    """Say what is less safe than it could be."""
    for secret in asked.secrets:
        if secret.kind == supplies.ENV:
            context.warn(
                f"the secret {secret.name} will be in the environment, which is handed on to every program that the "
                "payload starts; a file is safer"
            )


def remover(kind: str) -> Callable[[argparse.Namespace, Context], int]:
    """What runs the verb that removes the objects *names* of one kind."""
    what = supplies.KINDS[kind][0]

    def run(args: argparse.Namespace, context: Context) -> int:
        host.require_root(f"remove {what}s")

        def one(name: str) -> None:
            supplying.remove(context.layout, kind, name)
            context.report(f"the {what} {name} is removed")

        return for_each(args.names, one, context)

    return run


def tell(context: Context, effects: Sequence[Effect]) -> int:
    """Say who has a change by now and who must be restarted; returns the exit status."""
    for effect in effects:
        if effect.outcome == "reloaded":
            context.report(f"{effect.name} is reloaded")
        elif effect.outcome == "end":
            context.report(f"{effect.name} runs with what was before until it ends")
        elif effect.outcome == "restart" and effect.error is None:
            context.report(f"{effect.name} runs with what was before until: gear restart {effect.name}")
    return failures(context, effects)


def failures(context: Context, effects: Sequence[Effect]) -> int:
    """Say what went wrong; returns the exit status."""
    for effect in effects:
        if effect.error is not None:
            context.fail(effect.error)
    return max((effect.error.exit_status for effect in effects if effect.error is not None), default=0)


def documents(effects: Sequence[Effect]) -> list[dict[str, Any]]:
    """The same in JSON: members `name` and `outcome`."""
    return [{"name": effect.name, "outcome": effect.outcome} for effect in effects]
