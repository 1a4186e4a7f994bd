"""The options that say what a container is, and what they mean: shared by install and plan."""

from __future__ import annotations

import argparse
from typing import Any

from gear import composing, mount_words, mounting, outline, signals, spec
from gear.cli_health import health_of, health_options, restart_of
from gear.cli_isolation import isolation_of, isolation_options
from gear.cli_logging import logging_of, logging_options
from gear.cli_net import naming_of, network_of, network_options
from gear.cli_resources import budget_of, resource_options
from gear.cli_supplies import supplies_of, supply_options
from gear.command import Context, environment_options, labels_of
from gear.errors import NotFoundError, UsageError
from gear.members import container_path
from gear.variables import environment


def spec_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--pull",
        choices=("missing", "always", "never", "newer"),
        default="missing",
        help="when the image is pulled from its registry; gear plan never does",
    )
    add("--entrypoint", metavar="COMMAND", help="run this instead of the image's entrypoint; empty for none")
    add("-u", "--user", metavar="USER[:GROUP]", help="run as this user of the image, by name or number")
    add("-w", "--workdir", metavar="DIRECTORY", help="start in this directory of the container")
    environment_options(parser)
    supply_options(parser)
    add(
        "-v",
        "--volume",
        metavar="SOURCE:DIRECTORY[:OPTIONS]",
        action="append",
        default=[],
        help="mount a host path, or the named volume SOURCE",
    )
    add(
        "--mount",
        metavar="type=KIND,...",
        action="append",
        default=[],
        help="mount as docker run --mount does: type=bind|volume|tmpfs,source=...,target=...",
    )
    add(
        "--tmpfs",
        metavar="DIRECTORY[:OPTIONS]",
        action="append",
        default=[],
        help="mount an empty file system in memory",
    )
    add("--ephemeral", action="store_true", help="keep in memory what it writes; gone when it stops")
    add(
        "--storage-driver",
        metavar="DRIVER",
        help="how its root is made of the image: overlay (default), btrfs or vfs",
    )
    add("--read-only", action="store_true", help="make the container's root read-only")
    add("--hostname", metavar="NAME", help="the host name inside; the container's name if not given")
    add(
        "-l",
        "--label",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="a note of your own, shown by gear inspect",
    )
    add(
        "--slice",
        metavar="SLICE",
        default="container.slice",
        help="the slice it runs in, for example container-small",
    )
    resource_options(parser)
    add(
        "--stop-signal",
        metavar="SIGNAL",
        help="what asks it to stop; the image's signal or SIGTERM if not given",
    )
    add("--stop-timeout", metavar="SECONDS", help="how long it may take to stop (10, a system 90)")
    network_options(parser)
    add(
        "--isolate",
        action="store_true",
        help="geard's word for user ids of its own, which every container has now",
    )
    isolation_options(parser)
    health_options(parser)
    logging_options(parser)


def have_image(args: argparse.Namespace, context: Context) -> str:
    """What to call the image that the command line names, after pulling it where --pull wants that."""
    if args.pull in ("missing", "never"):
        try:
            composing.resolve(context.layout, args.image)
            return str(args.image)
        except NotFoundError:
            if args.pull == "never":
                raise
    # Imported here: what is not pulled need not pay for the network's modules.
    from gear import progress, pulling

    with progress.shown() as shown:
        name = pulling.ensure(context.layout, args.image, args.pull, progress=shown, warn=context.warn)
    return name


def options_of(args: argparse.Namespace, command: tuple[str, ...] | None) -> tuple[list[str], dict[str, Any]]:
    """The container names and the fields of Spec that a command line asks for; raises UsageError."""
    names, found = fields_of(args, command)
    return names, found | {"network": network_of(args), "resources": budget_of(args)}


def fields_of(args: argparse.Namespace, command: tuple[str, ...] | None) -> tuple[list[str], dict[str, Any]]:
    """The same but for the network and the resources, whose options have to go together; raises UsageError."""
    names, env = [], environment(args.env, args.env_file)
    for item in args.names:
        name, separator, value = item.partition("=")
        if separator:
            env[spec.environment_name(name)] = value
        else:
            names.append(item)
    if not names:
        raise UsageError("No container is named.", hint="gear install IMAGE NAME...")
    mounts = [
        *map(mounting.parse_volume, args.volume),
        *map(mount_words.parse, args.mount),
        *map(mounting.parse_tmpfs, args.tmpfs),
    ]
    destinations = [mount.destination for mount in mounts]
    for destination in destinations:
        if destinations.count(destination) > 1:
            raise UsageError(f"Two mounts are asked for on {destination}.")
    if args.stop_signal is not None:
        signals.signal_number(args.stop_signal)
    policy, pace = restart_of(args)
    return names, {
        "entrypoint": None if args.entrypoint is None else ((args.entrypoint,) if args.entrypoint else ()),
        "command": command,
        "env": env,
        "user": args.user,
        "workdir": None if args.workdir is None else container_path(args.workdir, "The working directory"),
        "mounts": tuple(mounts),
        "read_only": args.read_only,
        "hostname": None if args.hostname is None else spec.host_name(args.hostname),
        "labels": labels_of(args.label),
        "slice": outline.slice_name(args.slice),
        "restart": policy,
        "pace": pace,
        "health": health_of(args),
        "stop_signal": args.stop_signal,
        "stop_timeout": None if args.stop_timeout is None else spec.stop_timeout(args.stop_timeout),
        "naming": naming_of(args),
        "ephemeral": args.ephemeral,
        "storage": None if args.storage_driver is None else spec.storage_driver(args.storage_driver),
        "isolation": isolation_of(args),
        "supplies": supplies_of(args),
        "logging": logging_of(args),
    }
