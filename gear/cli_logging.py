"""The options that say what becomes of a container's output, and what they mean."""

from __future__ import annotations

import argparse

from gear import journaling


def logging_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--log-driver",
        metavar="DRIVER",
        default=journaling.JOURNAL,
        help="where its output goes: journald (default) or none",
    )
    add("--log-namespace", metavar="NAMESPACE", help="keep its output in this journal of its own")
    add(
        "--log-rate-limit",
        metavar="LINES/TIME",
        help="the most lines that are kept within a time, for example 1000/30s, or off",
    )
    add("--log-level-max", metavar="LEVEL", help="drop what is less important, for example warning")


def logging_of(args: argparse.Namespace) -> journaling.Logging:
    """The logging that a command line asks for; raises UsageError."""
    return journaling.checked(
        journaling.Logging(
            journaling.driver(args.log_driver),
            None if args.log_namespace is None else journaling.namespace_name(args.log_namespace),
            None if args.log_rate_limit is None else journaling.parse_rate(args.log_rate_limit),
            None if args.log_level_max is None else journaling.level(args.log_level_max),
        )
    )
