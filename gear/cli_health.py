"""The options about health, readiness and restarts, and the verb that waits for containers.

The options are part of those of gear/cli_spec.py.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from gear import durations, health, host, restarts
from gear.command import Context, Verb, warn
from gear.errors import GearError, UsageError
from gear.health import Health
from gear.model import container_name
from gear.records import replace
from gear.restarts import Pace

# RestartSteps= and RestartMaxDelaySec=.
_GROWS_SINCE = 254


def health_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--restart",
        metavar="POLICY",
        default="on-failure",
        help="when PID 1 starts it again: no, on-failure[:MAX] (default), always and others",
    )
    add("--restart-delay", metavar="TIME", help="how long PID 1 waits before it starts it again (100ms)")
    add("--restart-max-delay", metavar="TIME", help="the delay grows to this with each restart (systemd 254)")
    add("--restart-limit", metavar="MAX/TIME", help="with more restarts in this time it has failed (4/10s)")
    add("--health-cmd", metavar="COMMAND", help='what tells whether it is well: a script, or ["WORD", ...]')
    add("--no-healthcheck", action="store_true", help="no health check, whatever the image says")
    add("--health-interval", metavar="TIME", help="the time between two probes (30s)")
    add("--health-timeout", metavar="TIME", help="how long a probe may take (30s)")
    add("--health-retries", metavar="NUMBER", help="so many failing probes in a row are unhealthy (3)")
    add(
        "--health-start-period",
        metavar="TIME",
        help="how much longer it may take to get healthy at first (0)",
    )
    add(
        "--health-start-interval", metavar="TIME", help="the time between two probes until it is healthy (1s)"
    )
    add("--health-on-failure", metavar="ACTION", help="when unhealthy: restart (default), stop, kill, none")
    add(
        "--ready-when",
        metavar="WHAT",
        help="what a start waits for: started, healthy, port[:NUMBER], log:REGEX, notify",
    )
    add("--start-timeout", metavar="TIME", help="how long a start may take until it is ready (90s)")


def health_of(args: argparse.Namespace) -> Health:
    """What a command line asks for of health and readiness; raises UsageError."""
    if args.no_healthcheck and args.health_cmd is not None:
        raise UsageError("--health-cmd and --no-healthcheck exclude each other.")
    test: tuple[str, ...] | None = ("NONE",) if args.no_healthcheck else None
    if args.health_cmd is not None:
        test = health.parse_command(args.health_cmd)
    return Health(
        test=test,
        interval=_time(args.health_interval, health.duration),
        timeout=_time(args.health_timeout, health.duration),
        retries=None if args.health_retries is None else health.retries(_number(args.health_retries)),
        start_period=_time(args.health_start_period, health.period),
        start_interval=_time(args.health_start_interval, health.duration),
        on_failure=None if args.health_on_failure is None else health.on_failure(args.health_on_failure),
        ready=None if args.ready_when is None else health.Readiness.parse(args.ready_when),
        start_timeout=_time(args.start_timeout, health.period),
    )


def restart_of(args: argparse.Namespace) -> tuple[str, Pace]:
    """The restart policy and its pace; raises UsageError."""
    policy, most = restarts.parse_policy(args.restart)
    limit = (None, None) if most is None else (most, restarts.DAY)
    if args.restart_limit is not None:
        if most is not None:
            raise UsageError("on-failure:MAX and --restart-limit exclude each other.")
        limit = restarts.parse_limit(args.restart_limit)
    pace = Pace(
        _time(args.restart_delay, restarts.delay), _time(args.restart_max_delay, restarts.delay), *limit
    )
    pace.require_consistent()
    if pace.max_delay is not None and host.systemd_version() < _GROWS_SINCE:
        # PID 1 would complain of unknown settings at each reload.
        warn("systemd before 254 has no growing delay: each restart waits as long as the first one")
        pace = replace(pace, max_delay=None)
    if pace != Pace() and policy == "no":
        raise UsageError("What is not restarted has no delay or limit of restarts.")
    return policy, pace


def _time(text: str | None, check: Any) -> float | None:
    return None if text is None else check(durations.parse(text))


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text


_CONDITIONS = {
    "running": "until it runs, and is ready",
    "healthy": "until its health check finds it well",
    "stopped": "until it does not run, and PID 1 will not start it again",
    "exit": "until its payload has ended, and print how (default)",
}


def _wait_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", metavar="NAME", nargs="+", type=container_name, help="an installed container"
    )
    choice = parser.add_mutually_exclusive_group()
    for condition, text in _CONDITIONS.items():
        choice.add_argument(
            f"--{condition}", dest="condition", action="store_const", const=condition, help=text
        )
    parser.add_argument("--timeout", metavar="TIME", help="give up after this, with status 124")


def _run_wait(args: argparse.Namespace, context: Context) -> int:
    # Imported here: each install reads this module for its options.
    from gear import waiting
    from gear.systemd import Manager

    host.require_root("wait for containers")
    deadline = None
    if args.timeout is not None:
        deadline = time.monotonic() + durations.parse(args.timeout)
    status, condition = 0, args.condition or "exit"
    with Manager() as manager:
        for name in args.names:
            try:
                ended = waiting.until(manager, context.layout, name, condition, deadline)
            except GearError as error:
                context.fail(error)
                status = max(status, error.exit_status)
                continue
            context.report(str(ended) if condition == "exit" else f"{name} is {condition}")
    return status


VERBS = (
    Verb(
        "wait",
        "wait until containers are running, healthy or over",
        "Wait for containers, one after the other.  Without a condition, wait until each payload has ended and print "
        "its exit status, 128 and the number for a signal; for one that does not run, how it ended last.  Ends with "
        "status 1 when a container has failed that was to run, and with 124 when the time is over.",
        _wait_arguments,
        _run_wait,
    ),
)
