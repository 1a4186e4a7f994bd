"""The command line: the table of verbs, the parser, and the one place where gear exits.

Not what verbs do: each lives in a module of its own that is imported when the verb is used, because a start of the
interpreter should not pay for verbs that nobody asked for.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from gear import __version__
from gear.command import Context, Verb, discard_output, write_output
from gear.errors import GearError, UsageError
from gear.model import Layout, absolute_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

# Verb -> module that has it in VERBS, in the order of the help.  GROUPS are verbs of two words: their modules, and what
# each of these has.
TABLE = {
    "install": "gear.cli_install",
    "start": "gear.cli_lifecycle",
    "stop": "gear.cli_lifecycle",
    "restart": "gear.cli_lifecycle",
    "wait": "gear.cli_health",
    "status": "gear.cli_lifecycle",
    "logs": "gear.cli_logs",
    "list-units": "gear.cli_list",
    "inspect": "gear.cli_lifecycle",
    "reload": "gear.cli_env",
    "ports": "gear.cli_ports",
    "link": "gear.cli_link",
    "kill": "gear.cli_inside",
    "pause": "gear.cli_inside",
    "resume": "gear.cli_inside",
    "top": "gear.cli_inside",
    "stats": "gear.cli_stats",
    "metrics": "gear.cli_stats",
    "events": "gear.cli_events",
    "attach": "gear.cli_inside",
    "run": "gear.cli_run",
    "exec": "gear.cli_exec",
    "debug": "gear.cli_debug",
    "cp": "gear.cli_copy",
    "diff": "gear.cli_changes",
    "commit": "gear.cli_changes",
    "export": "gear.cli_changes",
    "clone": "gear.cli_changes",
    "snapshot": "gear.cli_snapshot",
    "set-env": "gear.cli_env",
    "env": "gear.cli_env",
    "upgrade": "gear.cli_upgrade",
    "rollback": "gear.cli_upgrade",
    "lock": "gear.cli_upgrade",
    "plan": "gear.cli_plan",
    "update": "gear.cli_update",
    "apply": "gear.cli_install",
    "delete": "gear.cli_remove",
    "purge": "gear.cli_remove",
    "clean": "gear.cli_remove",
    "df": "gear.cli_df",
    "fsck": "gear.cli_fsck",
}
GROUPS = {
    "image": {
        "gear.cli_image": "load import list inspect rm",
        "gear.cli_store": "history tag prune save mount unmount verify",
        "gear.cli_image_files": "diff export",
        "gear.cli_registry": "pull push login logout search-tags referrers",
        "gear.cli_send": "copy serve receive",
        "gear.cli_signatures": "sign",
    },
    "network": {
        "gear.cli_network": "create plan list inspect rm connect disconnect",
        "gear.cli_network_check": "check",
    },
    "volume": {
        "gear.cli_volume": "create list inspect resize rm prune",
        "gear.cli_volume_copies": "snapshot restore clone backup import",
    },
    "secret": {"gear.cli_secret": "create list inspect rm"},
    "config": {"gear.cli_config": "create list cat rm"},
    "log-namespace": {"gear.cli_log_namespace": "create list rm"},
    "slice": {"gear.cli_slice": "create list inspect rm"},
}
ALIASES = {"ps": "list-units", "switchns": "exec"}

_LAYOUT_OPTIONS = {
    "--state-dir": ("state", "where containers, volumes and images are kept"),
    "--unit-dir": ("units", "where unit files are written; systemd must search it"),
    "--config-dir": ("config", "where registries.yaml, policy.yaml, storage.yaml and network.yaml are"),
}


class _Parser(argparse.ArgumentParser):
    """An argparse parser whose complaints end as every other error does."""

    def error(self, message: str) -> NoReturn:
        sentence = message[:1].upper() + message[1:].removesuffix(".")
        raise UsageError(f"{sentence}.", hint=f"{self.prog} --help")


def verbs_of(*modules: str) -> dict[str, Verb]:
    """The verbs that *modules* bring, by name."""
    return {verb.name: verb for name in modules for verb in import_module(name).VERBS}


def _of_group(group: str, name: str) -> Verb | None:
    """The verb *name* of *group*, for which one module is imported, or None when there is none."""
    for module, names in GROUPS[group].items():
        if name in names.split():
            return verbs_of(module)[name]
    return None


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=32, width=100)


def verb_parser(verb: Verb, prog: str) -> argparse.ArgumentParser:
    """The parser of one verb."""
    parser = _Parser(prog=prog, description=verb.description, formatter_class=_formatter, allow_abbrev=False)
    verb.arguments(parser)
    if verb.takes_command:
        parser.usage = parser.format_usage().removeprefix("usage: ").rstrip() + " [-- COMMAND [ARGUMENT ...]]"
    return parser


def usage() -> str:
    """The help of gear itself."""
    lines = [
        "usage: gear [OPTION...] VERB [ARGUMENT...]",
        "",
        "Containers that are ordinary systemd services.",
        "",
        "Verbs:",
    ]
    for name, module in TABLE.items():
        lines.append(f"  {name:<22}{verbs_of(module)[name].summary}")
    for group, modules in GROUPS.items():
        for name, verb in verbs_of(*modules).items():
            lines.append(f"  {group + ' ' + name:<22}{verb.summary}")
    lines.append(f"  {'version':<22}print the version of gear")
    lines += [f"  {alias:<22}the same as {name}" for alias, name in ALIASES.items()]
    lines += ["", "Options:"]
    lines += [f"  {option + ' DIR':<22}{text}" for option, (_, text) in _LAYOUT_OPTIONS.items()]
    lines += ["", "gear VERB --help shows the arguments of a verb; gear(1) describes everything."]
    return "\n".join(lines)


def _layout(words: list[str]) -> Layout:
    """Take gear's own options off the front of *words*."""
    moved = Layout.from_environment(os.environ)
    while words and words[0].startswith("--"):
        if words[0] in ("--help", "--version"):
            break
        option, separator, value = words.pop(0).partition("=")
        if option not in _LAYOUT_OPTIONS:
            raise UsageError(f"There is no option {option}.", hint="gear --help lists them.")
        if not separator:
            if not words:
                raise UsageError(f"{option} needs a directory.", hint="gear --help")
            value = words.pop(0)
        moved = moved.moved(_LAYOUT_OPTIONS[option][0], absolute_path(value, option))
    return moved


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; raises GearError."""
    words = list(arguments)
    context = Context(_layout(words))
    if not words or words[0] in ("--help", "-h", "help"):
        print(usage())
        return 0
    if words[0] in ("version", "--version"):
        if words[1:]:
            raise UsageError(f"gear {words[0]} takes no arguments.")
        print(f"gear {__version__}")
        return 0
    name = ALIASES.get(words[0], words[0])
    rest = words[1:]
    if name in GROUPS:
        if rest and rest[0] in ("--help", "-h"):
            verbs = verbs_of(*GROUPS[name])
            width = max(map(len, verbs))
            print("\n".join(f"  {name} {verb.name:<{width}}  {verb.summary}" for verb in verbs.values()))
            return 0
        asked = _of_group(name, rest[0]) if rest else None
        if asked is None:
            wrong = f"has no verb {rest[0]!r}; there are" if rest else "needs one of"
            known = ", ".join(" ".join(GROUPS[name].values()).split())
            raise UsageError(f"gear {name} {wrong}: {known}.", hint=f"gear {name} --help")
        verb, prog, rest = asked, f"gear {name} {rest[0]}", rest[1:]
    elif name in TABLE:
        verb, prog = verbs_of(TABLE[name])[name], f"gear {name}"
    else:
        raise UsageError(f"There is no verb {words[0]!r}.", hint="gear --help lists them.")
    # The payload's own command may hold anything, so it never passes through the parser.
    command = None
    if verb.command_last:
        return verb.run(verb_parser(verb, prog).parse_args(rest), context)
    if "--" in rest:
        at = rest.index("--")
        rest, command = rest[:at], tuple(rest[at + 1 :])
    args = verb_parser(verb, prog).parse_intermixed_args(rest)
    if command is not None and not verb.takes_command:
        raise UsageError(f"{prog} takes no command after --.", hint=f"{prog} --help")
    args.command = command
    return verb.run(args, context)


def _standard_streams() -> None:
    """Have something open as 0, 1 and 2: what is opened next would be taken for a standard stream."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free, so this one
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def main(arguments: Sequence[str] | None = None) -> int:
    """Run gear and return the exit status: 0 done, 1 failed, 2 wrong request, 130 interrupted."""
    _standard_streams()
    try:
        try:
            return run(sys.argv[1:] if arguments is None else arguments)
        finally:
            write_output()
    except GearError as error:
        Context(Layout()).fail(error)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone; nothing is left to tell.
        discard_output()
        return 1


def program() -> NoReturn:
    """Run gear as a program."""
    status = main()
    # main() has written all output.  Without the interpreter's own farewell, which takes up to a fifth of gear exec;
    # nothing of gear waits for it.
    if sys.stderr is not None:
        sys.stderr.flush()
    os._exit(status)
