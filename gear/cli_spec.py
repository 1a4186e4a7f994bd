"""The options that say what a container is, and what they mean: shared by install and plan."""

from __future__ import annotations

import argparse
import codecs
import os
from collections.abc import Sequence
from typing import Any

from gear import containers, files, mounting, spec
from gear.cli_health import health_of, health_options, restart_of
from gear.cli_isolation import isolation_of, isolation_options
from gear.cli_net import naming_of, network_of, network_options
from gear.command import Context, environment_options
from gear.errors import NotFoundError, UsageError
from gear.members import container_path

_ENV_FILE_LIMIT = 1 << 20  # bytes


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
    add(
        "-v",
        "--volume",
        metavar="SOURCE:DIRECTORY[:OPTIONS]",
        action="append",
        default=[],
        help="mount a host path, or the named volume SOURCE",
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
    add("-m", "--memory", metavar="SIZE", help="the most memory it may use, for example 512m")
    add("--cpus", metavar="NUMBER", help="the most processor time it may use, for example 0.5")
    add("--memory-swap", metavar="SIZE", help="the most memory and swap together; -1 for no limit of swap")
    add("--cpu-shares", metavar="NUMBER", help="its weight when processors are busy; 1024 is usual")
    add("--cpuset-cpus", metavar="LIST", help="the processors it may use, for example 0-3,7")
    add("--pids-limit", metavar="NUMBER", help="the most processes and threads it may have (2048)")
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


def have_image(args: argparse.Namespace, context: Context) -> str:
    """What to call the image that the command line names, after pulling it where --pull wants that."""
    if args.pull in ("missing", "never"):
        try:
            containers.resolve(context.layout, args.image)
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
    names, env = [], environment(args.env, args.env_file)
    for item in args.names:
        name, separator, value = item.partition("=")
        if separator:
            env[spec.environment_name(name)] = value
        else:
            names.append(item)
    if not names:
        raise UsageError("No container is named.", hint="gear install IMAGE NAME...")
    mounts = [mounting.parse_volume(text) for text in args.volume] + [
        mounting.parse_tmpfs(text) for text in args.tmpfs
    ]
    destinations = [mount.destination for mount in mounts]
    for destination in destinations:
        if destinations.count(destination) > 1:
            raise UsageError(f"Two mounts are asked for on {destination}.")
    if args.stop_signal is not None:
        spec.signal_number(args.stop_signal)
    labels = dict(_pair(text) for text in args.label)
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
        "labels": labels,
        "slice": spec.slice_name(args.slice),
        "memory": None if args.memory is None else spec.memory_limit(spec.parse_size(args.memory)),
        "cpus": None if args.cpus is None else spec.cpu_limit(args.cpus),
        "pids_limit": None if args.pids_limit is None else spec.pids_limit(_number(args.pids_limit)),
        "memory_swap": None if args.memory_swap is None else _swap(args.memory_swap),
        "cpu_shares": None if args.cpu_shares is None else spec.cpu_shares(_number(args.cpu_shares)),
        "cpuset_cpus": None if args.cpuset_cpus is None else spec.cpu_list(args.cpuset_cpus),
        "restart": policy,
        "pace": pace,
        "health": health_of(args),
        "stop_signal": args.stop_signal,
        "stop_timeout": None if args.stop_timeout is None else spec.stop_timeout(args.stop_timeout),
        "network": network_of(args),
        "naming": naming_of(args),
        "ephemeral": args.ephemeral,
        "storage": None if args.storage_driver is None else spec.storage_driver(args.storage_driver),
        "isolation": isolation_of(args),
    }


def environment(entries: Sequence[str], paths: Sequence[str]) -> dict[str, str]:
    """The variables of --env and --env-file, the former counting more; raises UsageError."""
    env = _env_files(paths)
    for entry in entries:
        name, separator, value = entry.partition("=")
        spec.environment_name(name)
        if separator:
            env[name] = value
        elif name in os.environ:
            env[name] = os.environ[name]
        else:
            raise UsageError(f"The variable {name} is not set here, so its value can't be passed on.")
    return env


def _swap(text: str) -> int:
    return -1 if text in ("-1", "unlimited") else spec.swap_limit(spec.parse_size(text))


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name:
        raise UsageError(f"{text!r} is no label.", hint="Write NAME=VALUE.")
    return name, value


def _env_files(paths: Sequence[str]) -> dict[str, str]:
    """The variables in files of NAME=VALUE lines, as Docker reads them: nothing is unquoted or expanded, and a byte
    order mark at the beginning is none of the name."""
    env: dict[str, str] = {}
    for path in paths:
        # A pipe of the shell or /dev/null is as good as a file.
        try:
            with open(path, "rb") as file:
                data = file.read(_ENV_FILE_LIMIT + 1)
        except FileNotFoundError as error:
            raise UsageError(f"There is no file {path} to read variables from.") from error
        except OSError as error:
            raise files.explain(error, f"read variables from {path}") from error
        if len(data) > _ENV_FILE_LIMIT:
            raise UsageError(f"{path} is larger than the {_ENV_FILE_LIMIT} bytes that such a file may have.")
        for number, line in enumerate(os.fsdecode(data.removeprefix(codecs.BOM_UTF8)).split("\n"), 1):
            text = line.removesuffix("\r").lstrip()
            if not text or text.startswith("#"):
                continue
            name, separator, value = text.partition("=")
            if not name or any(character.isspace() for character in name) or "\0" in text:
                raise UsageError(f"Line {number} of {path} is not NAME=VALUE.")
            if separator:
                env[name] = value
            elif name in os.environ:
                env[name] = os.environ[name]
    return env
