"""The command line: what is understood, what is refused, and how gear ends."""

from __future__ import annotations

import argparse
import errno
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rendering

import gear
from gear import cli, cli_spec, host
from gear.budget import Budget
from gear.command import Context, Verb, add_output_option, for_each, table
from gear.errors import GearError, HostError, NotFoundError, UsageError
from gear.health import Health, Readiness
from gear.isolation import Isolation
from gear.journaling import Logging, Rate
from gear.model import Layout
from gear.mounting import Mount
from gear.naming import Naming
from gear.network import Interface, Network
from gear.records import fields, replace
from gear.restarts import Pace
from gear.spec import Spec
from gear.supplies import Config, Secret, Supplies

VERBS = [(f"gear {name}", cli.verbs_of(module)[name]) for name, module in cli.TABLE.items()] + [
    (f"gear {group} {name}", verb)
    for group, modules in cli.GROUPS.items()
    for name, verb in cli.verbs_of(*modules).items()
]

IMAGE_VERBS = (
    "gear image needs one of: load, import, list, inspect, rm, history, tag, prune, save, mount, unmount, verify, "
    "diff, export, pull, push, login, logout, search-tags, referrers, copy, serve, receive, sign."
)


class Probe:
    """A verb `probe` that keeps what it was called with."""

    def __init__(self) -> None:
        self.args: argparse.Namespace | None = None
        self.context: Context | None = None
        self.behave: Callable[[], int] = lambda: 0

    def verb(self, *, takes_command: bool) -> Verb:
        def arguments(parser: argparse.ArgumentParser) -> None:
            parser.add_argument("names", metavar="NAME", nargs="*")
            parser.add_argument("--flag", action="store_true")
            parser.add_argument("--value", metavar="X")
            add_output_option(parser)

        def run(args: argparse.Namespace, context: Context) -> int:
            self.args, self.context = args, context
            return self.behave()

        name = "probe" if takes_command else "plain"
        return Verb(name, "probe", "Probe.", arguments, run, takes_command=takes_command)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Probe:
    probe, module = Probe(), types.ModuleType("probe_verbs")
    vars(module)["VERBS"] = (probe.verb(takes_command=True), probe.verb(takes_command=False))
    monkeypatch.setitem(sys.modules, "probe_verbs", module)
    monkeypatch.setitem(cli.TABLE, "probe", "probe_verbs")
    monkeypatch.setitem(cli.TABLE, "plain", "probe_verbs")
    return probe


def refused(*words: str) -> tuple[str, str | None]:
    """Message and hint of the UsageError."""
    with pytest.raises(UsageError) as caught:
        cli.run(words)
    return caught.value.message, caught.value.hint


# ---- help, version, verbs


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"], ["--state-dir", "/x"]])
def test_help_names_every_verb_alias_and_option(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    for name, verb in VERBS:
        assert f"  {name.removeprefix('gear ')} " in out and verb.summary in out
    for word in (
        "ps ",
        "version ",
        "--state-dir DIR",
        "--unit-dir DIR",
    ):
        assert f"  {word}" in out
    assert all(len(line) <= 100 for line in out.splitlines())


@pytest.mark.parametrize(("name", "verb"), VERBS, ids=[name for name, _ in VERBS])
def test_every_verb_has_help(name: str, verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--help", "-h"):
        with pytest.raises(SystemExit) as caught:
            cli.main([*name.split()[1:], option])
        assert caught.value.code == 0
        out = capsys.readouterr().out
        assert out.startswith(f"usage: {name} [-h]")
        assert verb.description.split(".")[0].split()[0] in out


@pytest.mark.parametrize(("name", "verb"), VERBS, ids=[name for name, _ in VERBS])
def test_every_verb_says_what_it_is(name: str, verb: Verb) -> None:
    assert verb.name == name.split()[-1]
    assert verb.summary and not verb.summary.endswith(".") and verb.summary[0].islower()
    assert verb.description.endswith(".")
    parser = cli.verb_parser(verb, name)
    for action in parser._actions:
        assert action.help, f"{action.dest} of {name} has no help"


@pytest.mark.parametrize("words", [["version"], ["--version"]])
def test_version(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    assert capsys.readouterr().out == f"gear {gear.__version__}\n"


def test_aliases_are_verbs() -> None:
    assert cli.ALIASES == {"ps": "list-units", "switchns": "exec"}
    assert set(cli.ALIASES.values()) <= set(cli.TABLE)


def test_alias_is_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["ps", "--help"])
    assert capsys.readouterr().out.startswith("usage: gear list-units")


def test_modules_of_groups_have_the_verbs_that_the_table_says() -> None:
    for modules in cli.GROUPS.values():
        for module, names in modules.items():
            assert list(cli.verbs_of(module)) == names.split()


def test_group_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["image", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"image {verb} " in out for verb in ("load", "import", "list", "inspect", "rm"))


# ---- usage errors


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["frobnicate"], "There is no verb 'frobnicate'.", "gear --help lists them."),
        (["--frobnicate"], "There is no option --frobnicate.", "gear --help lists them."),
        (["Start", "x"], "There is no verb 'Start'.", "gear --help lists them."),
        (["start"], "The following arguments are required: NAME.", "gear start --help"),
        (["ps", "x"], "Unrecognized arguments: x.", "gear list-units --help"),
        (["start", "--sta", "x"], "Unrecognized arguments: --sta.", "gear start --help"),
        (["start", "web", "--x=../y"], "Unrecognized arguments: --x=../y.", "gear start --help"),
        (["install"], "The following arguments are required: IMAGE, NAME.", "gear install --help"),
        (["install", "img"], "The following arguments are required: NAME.", "gear install --help"),
        (["install", "img", "A=1"], "No container is named.", "gear install IMAGE NAME..."),
        (
            ["install", "img", "web", "--memory"],
            "Argument -m/--memory/--memory-max: expected one argument.",
            "gear install --help",
        ),
        (
            ["status", "web", "--output", "yaml"],
            "Argument --output: invalid choice: 'yaml' (choose from 'table', 'json').",
            "gear status --help",
        ),
        (["start", "web", "--", "sh"], "gear start takes no command after --.", "gear start --help"),
        (["start", "web", "--"], "gear start takes no command after --.", "gear start --help"),
        (
            ["image"],
            IMAGE_VERBS,
            "gear image --help",
        ),
        (
            ["image", "frob"],
            IMAGE_VERBS.replace("needs one of", "has no verb 'frob'; there are"),
            "gear image --help",
        ),
        (["--state-dir"], "--state-dir needs a directory.", "gear --help"),
        (["--state-dir", "x", "version"], "--state-dir must be an absolute path, not 'x'.", None),
        (["--unit-dir=", "version"], "--unit-dir must be an absolute path, not ''.", None),
        (
            ["start", "../x"],
            "'../x' can't name a container.",
            "Use 1 to 63 letters, digits, '_', '.' or '-', and begin with a letter or digit.",
        ),
    ],
)
def test_usage_error(
    words: list[str], message: str, hint: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(*words) == (message, hint)
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {message}\n" + (f"hint: {hint}\n" if hint else "")


# ---- the layout


def test_layout_options_and_environment(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEAR_STATE_DIR", "/env/state")
    monkeypatch.setenv("GEAR_UNIT_DIR", "/env/units")
    assert cli.run(["--state-dir", "/opt/../state", "probe"]) == 0
    assert probe.context is not None
    assert probe.context.layout == Layout(state=Path("/state"), units=Path("/env/units"))


def test_last_layout_option_counts(probe: Probe) -> None:
    cli.run(["--unit-dir=/a", "--unit-dir", "/b=c", "probe"])
    assert probe.context is not None and probe.context.layout.units == Path("/b=c")


def test_layout_options_come_before_the_verb() -> None:
    assert refused("start", "web", "--state-dir=/x")[0] == "Unrecognized arguments: --state-dir=/x."


def test_bad_environment_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEAR_UNIT_DIR", "etc")
    assert cli.main(["version"]) == 2
    assert capsys.readouterr().err == "error: GEAR_UNIT_DIR must be an absolute path, not 'etc'.\n"


# ---- the payload's command


@pytest.mark.parametrize(
    ("words", "command", "names"),
    [
        ([], None, []),
        (["a", "b"], None, ["a", "b"]),
        (["a", "--"], (), ["a"]),
        (["a", "--", "sh", "-c", "x"], ("sh", "-c", "x"), ["a"]),
        (["a", "--", "--flag", "--output", "json", "-h"], ("--flag", "--output", "json", "-h"), ["a"]),
        (["a", "--", "x", "--", "y"], ("x", "--", "y"), ["a"]),
        (["a", "--", "A=B", "", "\n", "ä\udcff"], ("A=B", "", "\n", "ä\udcff"), ["a"]),
        (["--", "--help"], ("--help",), []),
    ],
)
def test_command_passes_untouched(
    probe: Probe, words: list[str], command: tuple[str, ...] | None, names: list[str]
) -> None:
    assert cli.run(["probe", *words]) == 0
    assert probe.args is not None
    assert (probe.args.command, probe.args.names) == (command, names)
    assert probe.args.flag is False and probe.args.output == "table"


def test_options_and_names_mix(probe: Probe) -> None:
    cli.run(["probe", "a", "--flag", "b", "--value=--x", "c"])
    assert probe.args is not None
    assert (probe.args.names, probe.args.flag, probe.args.value) == (["a", "b", "c"], True, "--x")


# ---- the options of install


def parsed(*words: str) -> tuple[list[str], dict[str, Any]]:
    """Names and fields of Spec of a command line of install."""
    rest, command = list(words), None
    if "--" in rest:
        rest, command = rest[: rest.index("--")], tuple(rest[rest.index("--") + 1 :])
    verb = cli.verbs_of("gear.cli_install")["install"]
    args = cli.verb_parser(verb, "gear install").parse_intermixed_args(["img", *rest])
    return cli_spec.options_of(args, command)


NULL = replace(host.devices("/dev/null", "/dev/x", "r")[0], kind="c", major=1, minor=3)
DEFAULTS: dict[str, Any] = {
    "health": Health(),
    "pace": Pace(),
    "entrypoint": None,
    "command": None,
    "env": {},
    "user": None,
    "workdir": None,
    "mounts": (),
    "read_only": False,
    "hostname": None,
    "labels": {},
    "slice": "container.slice",
    "resources": Budget(),
    "restart": "on-failure",
    "stop_signal": None,
    "stop_timeout": None,
    "network": Network("bridge", (Interface("default"),)),
    "naming": Naming(),
    "ephemeral": False,
    "storage": None,
    "isolation": Isolation(),
    "supplies": Supplies(),
    "logging": Logging(),
}


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ([], {}),
        (["--isolate"], {}),
        (["--entrypoint", "/x y"], {"entrypoint": ("/x y",)}),
        (["--entrypoint="], {"entrypoint": ()}),
        (["--", "sh", "-c", ""], {"command": ("sh", "-c", "")}),
        (["--"], {"command": ()}),
        (["-u", "www:1"], {"user": "www:1"}),
        (["--user="], {"user": ""}),
        (["-w", "/a/../b"], {"workdir": "/b"}),
        (["-e", "A=1", "--env", "B=", "--env=A=2=3"], {"env": {"A": "2=3", "B": ""}}),
        (["A=1", "B=x y", "A=2"], {"env": {"A": "2", "B": "x y"}}),
        (["-e", "A=1", "A=2"], {"env": {"A": "2"}}),
        (
            ["-v", "/a:/b:ro", "--volume", "d:/d"],
            {"mounts": (Mount("bind", "/a", "/b", ("ro",)), Mount("volume", "d", "/d"))},
        ),
        (["--tmpfs", "/tmp:size=1m"], {"mounts": (Mount("tmpfs", "", "/tmp", ("size=1m",)),)}),
        (["--read-only"], {"read_only": True}),
        (["--hostname", "db"], {"hostname": "db"}),
        (["-l", "a=b=c", "--label", "d"], {"labels": {"a": "b=c", "d": ""}}),
        (["--slice", "container-small"], {"slice": "container-small.slice"}),
        (["-m", "512m"], {"resources": Budget(memory_max=512 << 20)}),
        (["--cpus", "0.5"], {"resources": Budget(cpu_quota=0.5)}),
        (["--pids-limit", "7"], {"resources": Budget(tasks_max=7)}),
        (["--log-driver", "none"], {"logging": Logging("none")}),
        (
            ["--log-namespace", "shop", "--log-rate-limit", "9/2min", "--log-level-max=err"],
            {"logging": Logging(namespace="shop", rate=Rate(9, 120), level="err")},
        ),
        (["--restart", "no"], {"restart": "no"}),
        (["--stop-signal", "quit"], {"stop_signal": "quit"}),
        (["--stop-timeout", "0"], {"stop_timeout": 0.0}),
        (["--net", "host"], {"network": Network("host")}),
        (
            ["-m", "1m", "--memory-swap=-1", "--cpu-shares", "512", "--cpuset-cpus", "0-3,7"],
            {"resources": Budget(memory_max=1 << 20, memory_swap_max=-1, cpu_weight=59, cpus="0-3,7")},
        ),
        (
            ["-m", "1m", "--memory-swap", "3m"],
            {"resources": Budget(memory_max=1 << 20, memory_swap_max=2 << 20)},
        ),
        (["--memory-swap-max", "0"], {"resources": Budget(memory_swap_max=0)}),
        (
            ["--cpu-quota", "5000", "--cpu-period", "10000"],
            {"resources": Budget(cpu_quota=0.5, cpu_period=10000)},
        ),
        (["--memory", "none", "--cpu-weight", "7", "--cpu-shares", "2"], {"resources": Budget(cpu_weight=7)}),
        (
            ["--memory-reservation", "1m", "--memory-high", "2m", "--memory-min", "1", "--cpuset-mems", "0"],
            {"resources": Budget(memory_low=1 << 20, memory_high=2 << 20, memory_min=1, memory_nodes="0")},
        ),
        (
            ["--blkio-weight", "500", "--device-read-bps", "/dev/a:1m", "--device-write-iops", "/dev/b:9"],
            {
                "resources": Budget(
                    io_weight=4950,
                    io_read_bandwidth_max=(("/dev/a", 1 << 20),),
                    io_write_iops_max=(("/dev/b", 9),),
                )
            },
        ),
        (
            [
                "--io-device-weight",
                "/dev/a:5",
                "--hugepages",
                "2M:64m",
                "--io-weight",
                "3",
                "--oom-policy",
                "kill",
            ],
            {
                "resources": Budget(
                    io_device_weight=(("/dev/a", 5),),
                    hugepages=(("2MB", 64 << 20),),
                    io_weight=3,
                    oom_policy="kill",
                )
            },
        ),
        (
            ["--memory-pressure", "kill", "--memory-pressure-limit", "60%"],
            {"resources": Budget(memory_pressure="kill", memory_pressure_limit=60)},
        ),
        (["--ephemeral"], {"ephemeral": True}),
        (
            [
                "--env-set",
                "a",
                "--env-id",
                "b",
                "--secret",
                "s",
                "--config",
                "c:/etc/c",
                "--reload-signal",
                "HUP",
            ],
            {"supplies": Supplies(("a", "b"), (Secret("s", target="s"),), (Config("c", "/etc/c"),), "HUP")},
        ),
        (["--storage-driver", "vfs"], {"storage": "vfs"}),
        (
            ["--cap-add", "net_admin,SYS_TIME", "--cap-add=NET_ADMIN", "--cap-drop", "all"],
            {"isolation": Isolation(cap_add=("CAP_NET_ADMIN", "CAP_SYS_TIME"), cap_drop=("ALL",))},
        ),
        (
            ["--security-opt", "seccomp=unconfined", "--security-opt=no-new-privileges"],
            {"isolation": Isolation(seccomp="unconfined", no_new_privileges=True)},
        ),
        (
            [
                "--pid",
                "host",
                "--ipc=host",
                "--uts=host",
                "--cgroupns",
                "host",
                "--userns",
                "host",
                "--privileged",
            ],
            {
                "isolation": Isolation(
                    pid="host", ipc="host", uts="host", cgroupns="host", userns="host", privileged=True
                )
            },
        ),
        (
            ["--sysctl", "net.core.somaxconn=a=b", "--ulimit", "nofile=1:2", "--shm-size", "1m"],
            {
                "isolation": Isolation(
                    sysctl={"net.core.somaxconn": "a=b"}, ulimits={"nofile": "1:2"}, shm_size=1 << 20
                )
            },
        ),
        (
            [
                "--group-add",
                "adm",
                "--umask",
                "27",
                "--tz",
                "UTC",
                "--systemd=false",
                "--oom-score-adj",
                "-5",
            ],
            {
                "isolation": Isolation(
                    group_add=("adm",), umask="0027", timezone="UTC", systemd="false", oom_score_adj=-5
                )
            },
        ),
        (["--device", "/dev/null:/dev/x:r"], {"isolation": Isolation(devices=(NULL,))}),
        (
            ["--net", "default", "--add-host", "a:192.0.2.1", "--add-host", "a:[::2]", "--dns", "192.0.2.53"]
            + ["--dns-search", "a.example", "--dns-search=b.example", "--dns-option", "ndots:2"],
            {
                "network": Network("bridge", (Interface("default"),)),
                "naming": Naming(
                    (("a", "192.0.2.1"), ("a", "::2")),
                    ("192.0.2.53",),
                    ("a.example", "b.example"),
                    ("ndots:2",),
                ),
            },
        ),
        (
            ["--net", "a:alias=db", "--net", "b", "--network-alias", "Web", "--network-alias=db"],
            {
                "network": Network(
                    "bridge", (Interface("a", aliases=("db", "web")), Interface("b", aliases=("web", "db")))
                )
            },
        ),
        (["--net=host", "--start", "--dry-run", "--output=json"], {"network": Network("host")}),
        (["--restart=on-failure:5"], {"pace": Pace(limit=5, window=86400.0)}),
        (
            ["--restart=always", "--restart-limit=3/10m"],
            {"restart": "always", "pace": Pace(limit=3, window=600.0)},
        ),
        (["--restart-delay=2"], {"pace": Pace(delay=2.0)}),
        (["--no-healthcheck"], {"health": Health(test=("NONE",))}),
        (["--health-cmd=none"], {"health": Health(test=("NONE",))}),
        (
            ["--health-cmd=curl -f localhost || exit 1"],
            {"health": Health(test=("CMD-SHELL", "curl -f localhost || exit 1"))},
        ),
        (
            ['--health-cmd=["pg_isready", "-q"]', "--ready-when=log:^up$", "--start-timeout=0"],
            {
                "health": Health(
                    ("CMD", "pg_isready", "-q"), ready=Readiness("log", pattern="^up$"), start_timeout=0.0
                )
            },
        ),
        (
            [
                "--health-interval=1m30s",
                "--health-timeout=500ms",
                "--health-retries=2",
                "--health-start-period=2h",
                "--health-start-interval=0.5",
                "--health-on-failure=stop",
                "--ready-when=port:80",
            ],
            {"health": Health(None, 90.0, 0.5, 2, 7200.0, 0.5, "stop", Readiness("port", 80))},
        ),
    ],
)
def test_install_options(words: list[str], changed: dict[str, Any]) -> None:
    assert parsed("web", *words) == (["web"], DEFAULTS | changed)


def test_every_option_is_a_field_of_the_spec() -> None:
    made = {field.name for field in fields(Spec)} - {"name", "image", "uid_base"}
    assert set(parsed("web")[1]) == made == set(DEFAULTS)


def test_many_names() -> None:
    names, options = parsed("a", "A=1", "b", "--read-only", "c")
    assert names == ["a", "b", "c"]
    assert options["env"] == {"A": "1"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-e", "=x"], "'' can't name an environment variable."),
        (["=x"], "'' can't name an environment variable."),
        (
            ["-e", "NOT_SET_HERE"],
            "The variable NOT_SET_HERE is not set here, so its value can't be passed on.",
        ),
        (["-l", "=x"], "'=x' is no label."),
        (["--restart", "always:3"], "'always:3' is no restart policy."),
        (["--restart", "on-failure:x"], "'on-failure:x' is no restart policy."),
        (
            ["--restart", "no", "--restart-delay", "1s"],
            "What is not restarted has no delay or limit of restarts.",
        ),
        (
            ["--restart", "on-failure:3", "--restart-limit", "3/1m"],
            "on-failure:MAX and --restart-limit exclude each other.",
        ),
        (["--restart-limit", "3"], "'3' is no limit of restarts."),
        (["--restart-delay", "1.2.3s"], "'1.2.3s' is no time."),
        (["--restart-delay", "2d"], "172800.0 seconds are no delay of a restart."),
        (["--restart-max-delay", "1s"], "The longest delay of a restart takes a first one that is shorter."),
        (["--health-cmd", "x", "--no-healthcheck"], "--health-cmd and --no-healthcheck exclude each other."),
        (["--health-cmd", ""], "['CMD-SHELL', ''] is no health check."),
        (["--health-retries", "0"], "0 is no number of retries."),
        (["--health-interval", "0"], "0 seconds are no time of a health check."),
        (["--health-on-failure", "panic"], "'panic' is nothing to do with an unhealthy container."),
        (["--ready-when", "port:0"], "'port:0' is nothing to wait for."),
        (["--ready-when", "log:"], "'log:' is nothing to wait for."),
        (
            ["--ready-when", "log:("],
            "'(' is no regular expression: missing ), unterminated subpattern at position 0.",
        ),
        (["-v", "/a:/b", "-v", "/c:/b/"], "Two mounts are asked for on /b."),
        (["-v", "/a:/b", "--tmpfs", "/b"], "Two mounts are asked for on /b."),
        (["--stop-signal", "x"], "'x' is no signal."),
        (["--storage-driver", "x"], "There is no storage driver 'x'."),
        (["--stop-timeout", "x"], "'x' is no time to wait for a stop."),
        (["--pids-limit", "x"], "'x' is no limit of processes."),
        (["--pids-limit", "-1"], "'-1' is no limit of processes."),
        (["--pids-limit", "9" * 5000], f"'{'9' * 5000}' is no limit of processes."),
        (["-m", "12"], "A memory limit of 12 bytes can't work."),
        (["-m", "9" * 400], f"'{'9' * 400}' is no size."),
        (["--cpus", "0"], "'0' is no number of processors."),
        (["--memory-swap", "2m"], "2m of memory and swap can't be: that includes memory."),
        (
            ["--memory-swappiness", "9"],
            "--memory-swappiness is no limit of control groups of version 2: the kernel swaps all of them alike.",
        ),
        (
            ["--cpus", "1", "--cpu-quota", "5000"],
            "--cpus and --cpu-quota say the same, so only one of them can be given.",
        ),
        (["--device-read-bps", "1m"], "'1m' limits nothing."),
        (["--device-read-bps", "sda:1m"], "'sda' names no device."),
        (["-w", "x"], "The working directory must be an absolute path in the container, not 'x'."),
        (["--hostname", "a b"], "'a b' can't be a host name."),
        (["--slice", "-"], "'-' can't name a slice."),
        (["--restart", "x"], "'x' is no restart policy."),
        (["--net", "bridge"], "'bridge' can't name a network."),
        (["--net", "../x"], "'../x' can't name a network."),
        (["--net", "host", "--net", "a"], "--net host goes with no other network."),
        (["--net", "a", "--net", "a"], "A container can't have the network a twice."),
        (["--net", "host", "-p", "80"], "With --net host no port can be published in the mode nat."),
        (["--net", "none", "--ip", "10.0.0.2"], "--ip, --ip6 and --mac are for a container on one network."),
        (
            ["--net", "a", "--net", "b", "--mac", "02:0:0:0:0:1"],
            "--ip, --ip6 and --mac are for a container on one network.",
        ),
        (["--net", "container:../x"], "'../x' can't name a container."),
        (["--net", "a:ip=::1"], "'::1' is no IPv4 address."),
        (["--net", "a:speed=1"], "'speed=1' says nothing about an interface."),
        (["--ip", "10.0.0.256"], "'10.0.0.256' is no IPv4 address."),
        (["--ip6", "fe80::1%eth0"], "'fe80::1%eth0' is no IPv6 address."),
        (["--mac", "01:00:00:00:00:01"], "'01:00:00:00:00:01' is no MAC address of an interface."),
        (["-p", "x"], "'x' publishes no port."),
        (["-p", "0:0"], "0 is no port."),
        (["-p", "70000:80"], "70000 is no port."),
        (["-p", "80-90:1-2"], "'80-90:1-2' does not fit: 80-90 and 1-2 are not of one length."),
        (["-p", "9-8:80"], "9-8 is no range of ports: it ends before it begins."),
        (["-p", "80:80/sctp"], "'sctp' is no protocol of a published port."),
        (["-p", "80:80,magic"], "'magic' is no mode of a published port."),
        (
            ["-p", "80:80", "-p", "127.0.0.1:80:81"],
            "The port 80/tcp is published twice: 80:80/tcp and 127.0.0.1:80:81/tcp.",
        ),
        (["--ports", "80"], "'80' publishes no port."),
    ],
)
def test_bad_install_options(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed("web", *words)
    assert caught.value.message == message


def test_variable_without_a_value_takes_gears_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FROM_HERE", "x\udcff=y")
    monkeypatch.delenv("NOT_HERE", raising=False)
    (tmp_path / "env").write_text("FROM_HERE\nNOT_HERE\n")
    assert parsed("web", "-e", "FROM_HERE")[1]["env"] == {"FROM_HERE": "x\udcff=y"}
    assert parsed("web", "--env-file", str(tmp_path / "env"))[1]["env"] == {"FROM_HERE": "x\udcff=y"}


# ---- files of variables


def env_file(path: Path, content: bytes) -> dict[str, str]:
    path.write_bytes(content)
    env: dict[str, str] = parsed("web", "--env-file", str(path))[1]["env"]
    return env


@pytest.mark.parametrize(
    ("content", "env"),
    [
        (b"", {}),
        (b"A=1\nB=2", {"A": "1", "B": "2"}),
        (b"A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        (b"# comment\n\n   # another\n \t\nA=1 # kept\n", {"A": "1 # kept"}),
        (b"  A=1  \n", {"A": "1  "}),
        (b"A='1'\nB=\"2\"\nC=$A\nD=\\n\n", {"A": "'1'", "B": '"2"', "C": "$A", "D": "\\n"}),
        (b"A==\nB=\n", {"A": "=", "B": ""}),
        (b"A=1\nA=2\n", {"A": "2"}),
        (b"A=\xff\xfe\n\xc3\xa4=\xc3\xbc\n", {"A": "\udcff\udcfe", "ä": "ü"}),
        (b"A=a\x0bb\x0cc\xc2\x85d\xe2\x80\xa8e\n", {"A": "a\x0bb\x0cc\x85d\u2028e"}),
        (b"\xef\xbb\xbfA=1\n", {"A": "1"}),
        (b"export=1\na.b-c=2\n", {"export": "1", "a.b-c": "2"}),
    ],
)
def test_env_file(tmp_path: Path, content: bytes, env: dict[str, str]) -> None:
    assert env_file(tmp_path / "env", content) == env


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"=x\n", 1),
        (b"A=1\nA B=2\n", 2),
        (b"export A=1\n", 1),
        (b"A=1\n\n#\nA=\0\n", 4),
        (b"A =1\n", 1),
        (b"A B\n", 1),
    ],
)
def test_damaged_env_file(tmp_path: Path, content: bytes, line: int) -> None:
    with pytest.raises(UsageError) as caught:
        env_file(tmp_path / "env", content)
    assert caught.value.message == f"Line {line} of {tmp_path / 'env'} is not NAME=VALUE."


def test_env_files_and_options_in_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("A=a\nB=a\nC=a\nD=a\n")
    (tmp_path / "b").write_text("B=b\nC=b\nD=b\n")
    files = ["--env-file", str(tmp_path / "a"), "--env-file", str(tmp_path / "b")]
    assert parsed("-e", "C=e", *files, "web", "D=kv")[1]["env"] == {"A": "a", "B": "b", "C": "e", "D": "kv"}


def test_env_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        parsed("web", "--env-file", str(tmp_path / "none"))
    assert caught.value.message == f"There is no file {tmp_path / 'none'} to read variables from."
    with pytest.raises(GearError, match="Is a directory"):
        parsed("web", "--env-file", str(tmp_path))


# ---- how gear ends


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (GearError("It failed."), 1, "error: It failed.\n"),
        (UsageError("Wrong.", hint="Right."), 2, "error: Wrong.\nhint: Right.\n"),
        (NotFoundError("Gone."), 1, "error: Gone.\n"),
        (
            HostError("No.", details=["line 1", "line 2"], hint="Yes."),
            1,
            "error: No.\n  line 1\n  line 2\nhint: Yes.\n",
        ),
    ],
)
def test_expected_failures_end_in_a_sentence(
    probe: Probe, error: GearError, status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    probe.behave = fail
    assert cli.main(["probe"]) == status
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", text)


@pytest.mark.parametrize("kind", [GearError, UsageError, NotFoundError, HostError])
def test_every_kind_of_error_says_its_status(kind: type[GearError]) -> None:
    assert kind("x").exit_status == (2 if kind is UsageError else 1)
    assert str(kind("x")) == "x" and kind("x").hint is None and kind("x").details == ()


def test_bugs_show_a_traceback(probe: Probe) -> None:
    def fail() -> int:
        raise ZeroDivisionError

    probe.behave = fail
    with pytest.raises(ZeroDivisionError):
        cli.main(["probe"])


def test_interrupted(probe: Probe) -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    probe.behave = interrupt
    assert cli.main(["probe"]) == 130


def test_status_of_the_verb_is_that_of_gear(probe: Probe) -> None:
    probe.behave = lambda: 1
    assert cli.main(["probe"]) == 1


@pytest.mark.parametrize("verb", ["start", "stop", "restart", "status", "logs", "inspect", "delete", "apply"])
def test_without_root_nothing_is_tried(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main([f"--state-dir={tmp_path / 'state'}", verb, "web"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: Only root can ")
    assert captured.err.endswith("hint: Run the same command with sudo.\n")
    assert os.listdir(tmp_path) == []


def gear_process(*words: str, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """gear as people start it, from a checkout."""
    return subprocess.run(
        [sys.executable, "-m", "gear", *words],
        cwd=rendering.TOP,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"},
    )


@pytest.mark.spawns
def test_from_a_checkout() -> None:
    done = gear_process("version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"gear {gear.__version__}\n", "")
    done = gear_process("frobnicate")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: There is no verb 'frobnicate'.\nhint: gear --help lists them.\n"


@pytest.mark.spawns
@pytest.mark.parametrize("words", [["--help"], ["install", "--help"], ["version"]])
def test_reader_that_goes_away_ends_gear_quietly(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = gear_process(*words, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.spawns
def test_output_that_can_not_be_written_is_told() -> None:
    with open("/dev/full", "wb") as full:
        done = gear_process("--help", stdout=full)
    reason = os.strerror(errno.ENOSPC)
    assert (done.returncode, done.stderr) == (1, f"error: Can't write the output: {reason}.\n")


# ---- reporting


def test_table() -> None:
    assert table(("A", "LONG"), [("xxx", "1"), ("y", "")]) == "A    LONG\nxxx  1\ny"
    assert table(("A", "B"), []) == "A  B"


def test_for_each_goes_on_and_keeps_the_worst(capsys: pytest.CaptureFixture[str]) -> None:
    done = []

    def work(item: str) -> None:
        if item == "usage":
            raise UsageError("Wrong.")
        if item == "fail":
            raise GearError("Failed.")
        done.append(item)

    assert for_each(["a", "usage", "fail", "b"], work, Context(Layout())) == 2
    assert for_each(["fail", "c"], work, Context(Layout())) == 1
    assert for_each(["d"], work, Context(Layout())) == 0
    assert done == ["a", "b", "c", "d"]
    assert capsys.readouterr().err == "error: Wrong.\nerror: Failed.\nerror: Failed.\n"


def test_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    Context(Layout()).report_json([{"b": "ä\udcff\x1b", "a": 1}])
    out = capsys.readouterr().out
    assert out.isascii() and "\x1b" not in out
    assert json.loads(out) == [{"a": 1, "b": "ä\udcff\x1b"}]


def test_names_that_are_no_text_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    Context(Layout()).report("removed /x/\udcff")
    assert capsys.readouterr().out == "removed /x/\\udcff\n"


def test_closed_output_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["version"]) == 0
    Context(Layout()).report("x")
