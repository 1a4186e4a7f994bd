"""man/gear.1 against the code, both ways: verbs, options, what they take, their defaults, and members of JSON.

Not a check of what the page says about them.
"""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import gear
from gear import cli, cli_lifecycle, events
from gear.command import Verb
from gear.model import Layout

ROOT = Path(gear.__file__).parent.parent
PAGE = ROOT / "man" / "gear.1"

# Requests of man(7) that set their arguments without blanks between them, each in another font.
_ALTERNATING = {"BI", "BR", "IB", "IR", "RB", "RI"}
_OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][A-Za-z0-9-]*")
# Shown in examples and belonging to programs other than gear.
_EXAMPLE = re.compile(r"^# gear (.*?)(?: -- .*)?$", re.MULTILINE)


def plain(source: str) -> str:
    """The text of *source* as a reader sees it, a line for each line; headings and tags keep their request."""
    lines = []
    for line in source.splitlines():
        if line.startswith('.\\"'):
            continue
        line = re.sub(r"\\f.", "", line)
        for escape, text in ((r"\-", "-"), (r"\(bu", "*"), (r"\.", "."), (r"\|", ""), (r"\&", "")):
            line = line.replace(escape, text)
        if line.startswith("."):
            request, *words = _words(line[1:])
            if request in ("SH", "SS", "TP", "PP", "IP"):
                line = f".{request} {' '.join(words)}".rstrip()
            elif request in _ALTERNATING:
                line = "".join(words)
            else:
                line = " ".join(words)
        lines.append(line)
    return "\n".join(lines)


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.commenters, lexer.quotes, lexer.escape = True, "", '"', ""
    return list(lexer)


TEXT = plain(PAGE.read_text(encoding="utf-8"))


def sections(kind: str, text: str = TEXT) -> dict[str, str]:
    """The sections under .SH or .SS, by heading."""
    parts = re.split(rf"^\.{kind} (.*)$", text, flags=re.MULTILINE)
    ends = r"^\.SH " if kind == "SS" else r"\Z"
    return {
        heading: re.split(ends, body, maxsplit=1, flags=re.MULTILINE)[0]
        for heading, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def verbs() -> dict[str, Verb]:
    """Every verb by what is typed for it."""
    found = {name: cli.verbs_of(module)[name] for name, module in cli.TABLE.items()}
    for group, modules in cli.GROUPS.items():
        found |= {f"{group} {name}": verb for name, verb in cli.verbs_of(*modules).items()}
    return found


VERBS = verbs()


def described() -> dict[str, tuple[str, str]]:
    """What the page has under VERBS: heading and text by verb."""
    found = {}
    for heading, body in sections("SS", sections("SH")["VERBS"]).items():
        words = heading.split()
        found[" ".join(words[:2]) if words[0] in cli.GROUPS else words[0]] = (heading, body)
    return found


DESCRIBED = described()


def actions(name: str) -> list[argparse.Action]:
    """What the parser of a verb takes, without its --help, which the page describes once."""
    parser = cli.verb_parser(VERBS[name], f"gear {name}")
    return [action for action in parser._actions if action.dest != "help"]


def argument(action: argparse.Action) -> str:
    """What the page shows behind an option."""
    if action.nargs == 0:
        return ""
    return "|".join(action.choices) if action.choices else str(action.metavar)


def options() -> Iterator[tuple[str, argparse.Action]]:
    for name in VERBS:
        for action in actions(name):
            if action.option_strings:
                yield name, action


OPTIONS = list(options())
OPTION_IDS = [f"{name} {action.option_strings[-1]}" for name, action in OPTIONS]


def test_page_has_every_verb_and_no_other() -> None:
    assert set(DESCRIBED) == {*VERBS, "version"}


@pytest.mark.parametrize("alias", cli.ALIASES)
def test_page_has_alias_in_section_of_its_verb(alias: str) -> None:
    assert f"The alias is\n{alias}." in DESCRIBED[cli.ALIASES[alias]][1]


@pytest.mark.parametrize("name", VERBS)
def test_heading_has_positional_arguments(name: str) -> None:
    wanted = name
    for action in actions(name):
        if not action.option_strings:
            text = str(action.metavar)
            if action.nargs == argparse.REMAINDER:
                text = f"[--] {text}..."
            elif action.nargs == "+":
                text += "..."
            elif action.nargs in ("?", "*"):
                text = f"[{text}...]" if action.nargs == "*" else f"[{text}]"
            wanted += f" {text}"
    if VERBS[name].takes_command:
        wanted += " [K=V...] [-- COMMAND...]"
    assert DESCRIBED[name][0] == wanted


# Verbs whose section refers to another verb's for the options they share.
SHARED = {"run": "install", "update": "install"}


@pytest.mark.parametrize(("name", "action"), OPTIONS, ids=OPTION_IDS)
def test_section_has_option(name: str, action: argparse.Action) -> None:
    if name in SHARED:
        other = SHARED[name]
        assert f"all options of\ngear {other}," in DESCRIBED[name][1]
        if action.option_strings in [shared.option_strings for shared in actions(other)]:
            return
    body = DESCRIBED[name][1]
    shown = ", ".join(action.option_strings) + f" {argument(action)}".rstrip()
    # At the beginning of a line, and not as the beginning of a longer option or argument.
    found = re.search(rf"^{re.escape(shown)}(?=[,.]?$)", body, re.MULTILINE)
    assert found, f"{PAGE.name} does not show `{shown}` under {name}"
    if isinstance(action.default, str):
        paragraph = body[found.start() :].split("\n.TP")[0]
        assert action.default in paragraph.removeprefix(shown), f"the default {action.default} is missing"


@pytest.mark.parametrize("name", [*VERBS, "version"])
def test_section_has_no_other_option(name: str) -> None:
    known = {"-h", "--help"}
    if name in VERBS:
        known |= {string for action in actions(name) for string in action.option_strings}
    if name in SHARED:
        known |= {string for action in actions(SHARED[name]) for string in action.option_strings}
    assert set(_OPTION.findall(DESCRIBED[name][1])) - known == set()


def test_rest_of_page_has_only_options_that_exist() -> None:
    known = {"-h", "--help", *cli._LAYOUT_OPTIONS}
    known |= {string for _, action in OPTIONS for string in action.option_strings}
    rest = "".join(body for heading, body in sections("SH").items() if heading not in ("VERBS", "EXAMPLES"))
    assert set(_OPTION.findall(rest)) - known == set()


def test_own_options_are_under_options() -> None:
    body = sections("SH")["OPTIONS"]
    for option in cli._LAYOUT_OPTIONS:
        assert f"\n{option} DIR\n" in body
    assert set(_OPTION.findall(body)) == {*cli._LAYOUT_OPTIONS, "-h", "--help"}


def test_page_has_environment_and_default_directories() -> None:
    layout = Layout()
    for field, variable in Layout.ENVIRONMENT.items():
        assert variable in sections("SH")["ENVIRONMENT"]
        assert f"{getattr(layout, field)}." in sections("SH")["OPTIONS"]


def test_examples_are_accepted_by_the_parser() -> None:
    examples = _EXAMPLE.findall(sections("SH")["EXAMPLES"])
    assert len(examples) > 5
    for example in examples:
        words = shlex.split(example)
        name = " ".join(words[:2]) if words[0] in cli.GROUPS else words[0]
        parser = cli.verb_parser(VERBS[name], name)
        parse = parser.parse_args if VERBS[name].command_last else parser.parse_intermixed_args
        parse(words[len(name.split()) :])


# Section of the page -> the function whose one dictionary display is the object that is printed.
JSON = {
    "install and apply": ("cli_install", "_report"),
    "plan": ("cli_plan", "show"),
    "update": ("cli_update", "_report"),
    "slice create": ("cli_slice", "_run_create"),
    "slice list": ("slices", "summary"),
    "slice inspect": ("slices", "details"),
    "status": ("status", "state"),
    "list-units": ("cli_list", "_list"),
    "ports": ("exposure", "of_container"),
    "link": ("linking", "listed"),
    "network create": ("cli_network", "_created"),
    "network plan": ("cli_network", "_planned"),
    "network list": ("networks", "summary"),
    "network inspect": ("networks", "details"),
    "top": ("top", "table"),
    "stats": ("watching", "document"),
    "events": ("events", "event"),
    "log-namespace list": ("cli_log_namespace", "_run_list"),
    "inspect": ("cli_lifecycle", "_run_inspect"),
    "spec.json": ("spec", "to_mapping"),
    "volume list": ("volumes", "details"),
    "volume snapshot": ("volume_copies", "document"),
    "df": ("disk_use", "document"),
    "clean": ("cli_remove", "_run_clean"),
    "fsck": ("mending", "document"),
    "image history": ("history", "document"),
    "image prune": ("pruning", "document"),
    "image mount": ("cli_store", "_mounts"),
    "image verify": ("verifying", "document"),
    "diff": ("cli_changes", "report_changes"),
    "commit": ("cli_changes", "_run_commit"),
    "snapshot": ("snapshots", "document"),
    "upgrade": ("cli_upgrade", "_candidate"),
    "rollback and upgrade --history": ("upgrade_record", "document"),
    "image load and import": ("cli_image", "_report"),
    "image pull": ("cli_registry", "_pull"),
    "image push": ("cli_registry", "_push"),
    "image search-tags": ("cli_registry", "_tags"),
    "image referrers": ("cli_registry", "_referrers"),
    "image copy": ("cli_send", "_report"),
    "image list": ("images", "document"),
    "image inspect": ("images", "inspect"),
}
# Members that another function adds: _start() of cli_install, _done() of cli_snapshot, connection() of
# containers, state() of cli_upgrade_state; and what an event has depends on its kind.
_CONNECTION = {"net", "address", "addresses", "ports", "on_demand", "idle_stop", "limits"}
ADDED = {
    "install and apply": {"restarted"},
    "snapshot": {"action"},
    "status": _CONNECTION | {"previous", "schedule"},
    "rollback and upgrade --history": {"name"},
    "list-units": _CONNECTION,
    "events": {"event", "name", "exit_code", "exit_status", *events._ATTRIBUTES},
    # Only where they were asked for.
    "spec.json": {"health", "pace"},
}


def members(module: str, function: str) -> set[str]:
    """The members of the objects that *function* makes, as `a.b` and `a[].b`."""
    tree = ast.parse((ROOT / "gear" / f"{module}.py").read_text(encoding="utf-8"))
    (node,) = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function]
    return set(_members(node, ""))


def _members(node: ast.AST, prefix: str) -> Iterator[str]:
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield prefix + key.value
                array = isinstance(value, (ast.List, ast.ListComp))
                yield from _members(value, f"{prefix}{key.value}{'[].' if array else '.'}")
    else:
        for child in ast.iter_child_nodes(node):
            yield from _members(child, prefix)


@pytest.mark.parametrize("what", JSON)
def test_members_of_json(what: str) -> None:
    body = sections("SS", sections("SH")["JSON OUTPUT"])[f"JSON of {what}"]
    listed = re.findall(r"^\.TP\n(.*)$", body, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == members(*JSON[what]) | ADDED.get(what, set())


def test_every_json_section_is_checked() -> None:
    assert set(sections("SS", sections("SH")["JSON OUTPUT"])) == {f"JSON of {what}" for what in JSON}


def test_properties_of_systemd_in_inspect() -> None:
    body = sections("SS", sections("SH")["JSON OUTPUT"])["JSON of inspect"]
    named = set(re.findall(r"^([A-Z]\w+)[,.]$", body, re.MULTILINE))
    assert named == set(cli_lifecycle._IN_FORCE)


def test_page_names_the_version() -> None:
    assert f'"gear {gear.__version__}"' in PAGE.read_text(encoding="utf-8").split(".SH")[0]


def test_man_accepts_the_page() -> None:
    man = shutil.which("man")
    assert man, "The program man is not installed: apt-get install man-db"
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "100", "TERM": "dumb"}
    command = [man, "--warnings", "-E", "UTF-8", "-l", str(PAGE)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "GEAR(1)" in done.stdout
