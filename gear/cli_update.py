"""The verb that changes some of what a container is, and keeps the rest: update."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from gear import effects, host, publishing, updating
from gear.cli_net import network_named
from gear.cli_plan import show
from gear.cli_resources import NONE, budget_of
from gear.cli_spec import fields_of, spec_options
from gear.command import Context, Verb, add_output_option
from gear.errors import GearError, IntegrityError, UsageError
from gear.model import container_name
from gear.spec import Spec
from gear.systemd import Manager

# How an option's value meets what is there: in its place, in its place unless it says nothing of it, an object's
# members, or one more; else items with a key.
IS, SAYS, MEMBERS, MORE = "is", "says", "members", "more"
# Option -> (member of spec.json, how); of a list of objects the name of the member that tells them apart.
_FIELDS: Mapping[str, tuple[str, str]] = {
    **{
        name: (name, IS)
        for name in (
            "entrypoint user workdir read_only hostname slice stop_signal stop_timeout ephemeral".split()
        )
    },
    "command": ("command", IS),
    "env": ("env", MEMBERS),
    "env_file": ("env", MEMBERS),
    "label": ("labels", MEMBERS),
    "volume": ("mounts", "destination"),
    "tmpfs": ("mounts", "destination"),
    "mount": ("mounts", "destination"),
    "env_set": ("supplies.env_sets", MORE),
    "secret": ("supplies.secrets", "name"),
    "config": ("supplies.configs", "target"),
    "reload_signal": ("supplies.reload_signal", IS),
    **{
        f"log_{option}": (f"logging.{member}", IS)
        for option, member in (("driver", "driver"), ("namespace", "namespace"), ("rate_limit", "rate"))
    },
    "log_level_max": ("logging.level", IS),
    # on-failure:MAX is a limit, too.
    "restart": ("restart pace.limit pace.window", SAYS),
    "restart_delay": ("pace.delay", IS),
    "restart_max_delay": ("pace.max_delay", IS),
    "restart_limit": ("pace.limit pace.window", IS),
    **{
        f"health_{member}": (f"health.{member}", IS)
        for member in "interval timeout retries start_period start_interval on_failure".split()
    },
    **dict.fromkeys(("health_cmd", "no_healthcheck"), ("health.test", IS)),
    "ready_when": ("health.ready_when", IS),
    "start_timeout": ("health.start_timeout", IS),
    "net": ("network.mode network.interfaces", IS),
    "publish": ("network.ports", MORE),
    "ports": ("network.ports", MORE),
    "on_demand": ("network.on_demand", IS),
    "idle_stop": ("network.idle_stop", IS),
    "net_links": ("network.links", MORE),
    **{
        option: (f"network.limits.{member}", how)
        for option, member, how in (
            ("net_priority", "priority", IS),
            ("net_connections", "connections", IS),
            ("ip_allow", "allow", MORE),
            ("ip_deny", "deny", MORE),
        )
    },
    **{
        f"net_{what}": (f"network.limits.{what}_in network.limits.{what}_out", IS)
        for what in ("rate", "burst")
    },
    "add_host": ("naming.hosts", "name"),
    "dns": ("naming.servers", MORE),
    "dns_search": ("naming.search", MORE),
    "dns_option": ("naming.options", MORE),
    **{
        name: (f"isolation.{name}", IS)
        for name in "privileged pid ipc uts cgroupns init shm_size umask timezone systemd oom_score_adj".split()
    },
    "security_opt": (
        "isolation.seccomp isolation.no_new_privileges isolation.apparmor isolation.label isolation.mask "
        "isolation.unmask",
        IS,
    ),
    **{name: (f"isolation.{name}", MORE) for name in ("cap_add", "cap_drop", "group_add")},
    "device": ("isolation.devices", "destination"),
    "sysctl": ("isolation.sysctl", MEMBERS),
    "ulimit": ("isolation.ulimits", MEMBERS),
}
# What can't be changed with the writable layer kept, or by this verb, and what does it.
_REFUSED = {
    "pull": "gear install with another IMAGE",
    "storage_driver": "gear delete, and gear install with --storage-driver",
    "userns": "gear delete, and gear install with --userns",
    "isolate": "gear install",
    **dict.fromkeys(("ip", "ip6", "mac", "network_alias"), "gear network connect"),
}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", metavar="NAME", nargs="+", help="an installed container; K=V sets a variable"
    )
    spec_options(parser)
    # What is not given is not to be changed, so nothing has a default here.
    parser.set_defaults(**dict.fromkeys(_defaults()))
    parser.add_argument(
        "--unset",
        metavar="OPTION[=ITEM]",
        action="append",
        default=[],
        help="have OPTION as if it had never been given, or one ITEM of what it lists: --unset env=K",
    )
    parser.add_argument(
        "--restart-now", action="store_true", help="restart those that need it for the change"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would change, as gear plan does")
    add_output_option(parser)


def _spare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    spec_options(parser)
    return parser


def _defaults() -> dict[str, Any]:
    """What each option of install is when it is not given."""
    return vars(_spare_parser().parse_args([]))


class _Request:
    """What a command line wants to be different."""

    def __init__(self, args: argparse.Namespace) -> None:
        defaults = _defaults()
        self.given = [name for name in defaults if getattr(args, name) is not None]
        values = {name: getattr(args, name) for name in self.given}
        self.names, self._asked = _documents(defaults | values, args.names, args.command)
        if args.command is not None:
            self.given.append("command")
        if any("=" in name for name in args.names):
            self.given.append("env")
        self._unset = [self._taken(text, defaults) for text in args.unset]
        self._resources = argparse.Namespace(**defaults | values)
        for name in {*self.given, *(name for name, _ in self._unset)}:
            if name in _REFUSED:
                raise UsageError(
                    f"--{name.replace('_', '-')} can't be changed by gear update.",
                    hint=f"Use {_REFUSED[name]}.",
                )
        if not self.given and not self._unset:
            raise UsageError("Nothing is to be changed.", hint="gear update --help lists what can be.")

    @staticmethod
    def _taken(text: str, defaults: Mapping[str, Any]) -> tuple[str, str | None]:
        """The option that --unset names, and the item of its list."""
        word, separator, item = text.partition("=")
        option = word.removeprefix("--")
        for action in _spare_parser()._actions:
            if f"--{option}" in action.option_strings or f"-{option}" in action.option_strings:
                name = action.dest
                break
        else:
            name = "command" if option == "command" else ""
        if not name or (separator and not isinstance(defaults.get(name), list)):
            raise UsageError(
                f"There is nothing to unset that is called {text[:80]!r}.", hint="gear install --help"
            )
        return name, item if separator else None

    def change(self, spec: Spec) -> Spec:
        """*spec* with what is wanted; raises UsageError for what can't be."""
        document = spec.to_mapping()
        _, nothing = _documents(_defaults(), ["x"], None)
        for name, item in self._unset:
            _unset(document, nothing, name, item)
        for name in self.given:
            for path in _FIELDS[name][0].split() if name in _FIELDS else ():
                _merge(document, self._asked, path, _FIELDS[name][1])
        document["resources"] = self._budget(spec)
        try:
            return Spec.from_mapping(document, spec.name)
        except IntegrityError as error:
            raise UsageError(f"{error.message.replace(' is damaged:', ' can not be so:')}") from error

    def _budget(self, spec: Spec) -> dict[str, Any]:
        namespace = argparse.Namespace(**vars(self._resources))
        for name, item in self._unset:
            if name in _FIELDS or name not in vars(namespace):
                continue
            if item is not None:
                setattr(namespace, name, [*getattr(namespace, name), f"{item}:{NONE}"])
            elif isinstance(getattr(namespace, name), list):
                raise UsageError(
                    f"--unset {name.replace('_', '-')} takes one of its items.", hint="--unset OPTION=ITEM"
                )
            else:
                setattr(namespace, name, NONE)
        return budget_of(namespace, spec.resources).to_mapping()


def _documents(
    values: Mapping[str, Any], words: Sequence[str], command: tuple[str, ...] | None
) -> tuple[list[str], dict[str, Any]]:
    """The containers that are named, and what the options say as members of spec.json."""
    args = argparse.Namespace(**values, names=list(words))
    names, fields = fields_of(args, command)
    named = network_named(args)
    network = named.to_mapping() | {"limits": named.limits.to_mapping()}
    document = {
        name: value.to_mapping() if name in effects.NESTED else value
        for name, value in fields.items()
        if name != "mounts"
    }
    document["labels"], document["env"] = dict(fields["labels"]), dict(fields["env"])
    for name in ("entrypoint", "command"):
        document[name] = None if fields[name] is None else list(fields[name])
    document["mounts"] = [
        {"kind": m.kind, "source": m.source, "destination": m.destination, "options": list(m.options)}
        for m in fields["mounts"]
    ]
    return names, document | {"network": network}


def _place(document: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The object that holds the member *path*, and its last name."""
    *above, last = path.split(".")
    for name in above:
        document = document.setdefault(name, {})
    return document, last


def _merge(document: dict[str, Any], asked: dict[str, Any], path: str, how: str) -> None:
    there, name = _place(document, path)
    new, old = _place(asked, path)[0].get(name), there.get(name)
    if how == IS:
        there.pop(name, None)
        if new is not None:
            there[name] = new
    elif new is not None and how == SAYS:
        there[name] = new
    elif new is not None and how == MEMBERS:
        there[name] = {**(old or {}), **new}
    elif new is not None and how == MORE:
        there[name] = [*(old or []), *(item for item in new if item not in (old or []))]
    elif new is not None:
        keys = [item[how] for item in new]
        there[name] = [*(item for item in old or [] if item[how] not in keys), *new]


def _is_like(have: Any, named: Any) -> bool:
    """Whether *have* is what *named* says, which may leave members open: a port of the host that gear has chosen."""
    if isinstance(have, dict) and isinstance(named, dict):
        return all(have.get(key) == value for key, value in named.items() if value not in (0, None, ""))
    return bool(have == named)


def _unset(document: dict[str, Any], nothing: dict[str, Any], name: str, item: str | None) -> None:
    """Take away from *document* what the option *name* says, or just *item*; *nothing* is what it is without."""
    if name not in _FIELDS:
        return
    paths, how = _FIELDS[name]
    for path in paths.split():
        there, last = _place(document, path)
        if item is None:
            _merge(document, nothing, path, IS)
            continue
        had: Any = there.get(last) or ({} if how == MEMBERS else [])
        if how == MEMBERS:
            left: Any = {key: value for key, value in had.items() if key != item}
        elif how == MORE:
            gone = _place(_documents(_defaults() | {name: [item]}, ["x"], None)[1], path)[0].get(last) or []
            left = [each for each in had if not any(_is_like(each, item) for item in gone)]
        else:
            # A config goes by its name as well as by where it is.
            left = [each for each in had if item not in (each[how], each.get("name"))]
        if len(left) == len(had):
            raise UsageError(f"There is no {item[:80]!r} among what --{name.replace('_', '-')} lists.")
        there[last] = left


def _run(args: argparse.Namespace, context: Context) -> int:
    request = _Request(args)
    host.require_root("change containers")
    if args.dry_run:
        plans = []
        for name in request.names:
            changes, changed = updating.plan(context.layout, container_name(name), request.change)
            plans.append((name, changed, changes))
        show(context, args, plans)
        return 0
    status, reports = 0, []
    with Manager() as manager:
        publishing.require_unit_directory(manager, context.layout)
        for name in request.names:
            try:
                done = updating.update(manager, context.layout, container_name(name), request.change)
                reports.append(_report(manager, context, done, again=args.restart_now))
            except GearError as error:
                context.fail(error)
                status = max(status, error.exit_status)
    if args.output == "json":
        context.report_json(reports)
    else:
        for report in reports:
            context.report(_sentence(report))
    return status


def _report(manager: Manager, context: Context, done: updating.Updated, *, again: bool) -> dict[str, Any]:
    from gear import lifecycle

    restarted = False
    if done.running and done.restart and again:
        error = lifecycle.start(manager, context.layout, [done.spec.name], again=True)[done.spec.name]
        if error is not None:
            raise error
        restarted = True
    return {
        "name": done.spec.name,
        "changes": [{"member": change.member, "effect": change.effect} for change in done.changes],
        "running": done.running,
        "restart_needed": done.restart and not restarted,
        "restarted": restarted,
    }


def _sentence(report: Mapping[str, Any]) -> str:
    name = report["name"]
    if not report["changes"]:
        what = f"{name} is as it was"
    else:
        parts = []
        for effect in effects.CLASSES:
            names = [change["member"] for change in report["changes"] if change["effect"] == effect]
            if names:
                parts.append(f"{', '.join(names)} ({effect})")
        what = f"{name} is changed: {'; '.join(parts)}"
    if report["restarted"]:
        return f"{what}; restarted"
    if report["restart_needed"]:
        return f"{what}; it runs with what was before until: gear restart {name}"
    return what


VERBS = (
    Verb(
        "update",
        "change some of what a container is, at once where that can be",
        "Change what is named of installed containers, and keep all the rest and what they have written.  Limits, the "
        "restart policy, stop signal and timeout, labels, links, networks and their limits are in force at once "
        "(live); other changes when the container is restarted.  Options that can be repeated add or set what is named "
        "and leave other items: --env K=V sets K, --volume the mount on its directory.  --unset env=K takes one item "
        "away, --unset memory a limit; so does a value of none for limits.",
        _arguments,
        _run,
        takes_command=True,
    ),
)
