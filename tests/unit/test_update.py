"""gear update: what becomes of a specification by the options of a command line."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import pytest
import rendering

from gear import cli, cli_resources, cli_update
from gear.errors import UsageError
from gear.spec import Spec
from gear.supplies import CONFIG, Config, Supplies

BEFORE = rendering.make_spec(
    env={"A": "1", "B": "2"},
    labels={"team": "web"},
    mounts=[{"kind": "volume", "source": "data", "destination": "/data", "options": []}],
    restart="always",
    resources={"memory_max": 1 << 30, "io_read_iops_max": {"/dev/a": 1, "/dev/b": 2}},
    network={
        "mode": "bridge",
        "interfaces": [
            {
                "network": "default",
                "interface": "eth0",
                "ip": "10.0.0.2",
                "ip6": "fd00::2",
                "mac": "02:00:00:00:00:01",
                "aliases": [],
            }
        ],
        "ports": [
            {"address": "", "external": 20000, "internal": 8080, "mode": "nat", "protocol": "tcp"},
            {"address": "", "external": 81, "internal": 80, "mode": "nat", "protocol": "tcp"},
        ],
        "on_demand": True,
        "limits": {"rate_in": 8000, "allow": ["any"]},
    },
    naming={"hosts": [{"name": "db", "address": "192.0.2.1"}], "servers": ["192.0.2.2"]},
    isolation={"cap_add": ["CAP_NET_ADMIN"], "sysctl": {"net.a": "1"}, "umask": "0027", "privileged": True},
)


def updated(*words: str, command: tuple[str, ...] | None = None, spec: Spec = BEFORE) -> Spec:
    verb = cli.verbs_of("gear.cli_update")["update"]
    args = cli.verb_parser(verb, "gear update").parse_intermixed_args(["web", *words])
    args.command = command
    request = cli_update._Request(args)
    assert request.names == ["web"]
    return request.change(spec)


def differences(new: Spec) -> dict[str, Any]:
    before, after = BEFORE.to_mapping(), new.to_mapping()
    return {name: after[name] for name in after if before[name] != after[name]}


def part(name: str, **changes: Any) -> dict[str, Any]:
    """A member that is an object, with some of it changed; None for what is not there."""
    found = BEFORE.to_mapping()[name] | changes
    return {name: {key: value for key, value in found.items() if name == "network" or value is not None}}


PORTS = BEFORE.to_mapping()["network"]["ports"]


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (["--restart", "on-failure"], {"restart": "on-failure"}),
        (["--restart", "always"], {}),
        (["--unset", "restart"], {"restart": "on-failure"}),
        (["--env", "B=3", "C=4"], {"env": {"A": "1", "B": "3", "C": "4"}}),
        (["--unset", "env=A", "-e", "D="], {"env": {"B": "2", "D": ""}}),
        (["--unset=--env"], {"env": {}}),
        (["-l", "x"], {"labels": {"team": "web", "x": ""}}),
        (["--unset", "l=team"], {"labels": {}}),
        (["--read-only"], {"read_only": True}),
        (
            ["-v", "/a:/data", "--tmpfs", "/t"],
            {
                "mounts": [
                    {"kind": "bind", "source": "/a", "destination": "/data", "options": []},
                    {"kind": "tmpfs", "source": "", "destination": "/t", "options": []},
                ]
            },
        ),
        (["--unset", "volume=/data"], {"mounts": []}),
        (["-m", "2g"], part("resources", memory_max=2 << 30)),
        (["--unset", "memory"], part("resources", memory_max=None)),
        (["--memory=none", "--cpus=2"], part("resources", memory_max=None, cpu_quota=2.0)),
        (["--unset", "device-read-iops=/dev/a"], part("resources", io_read_iops_max={"/dev/b": 2})),
        (["--device-read-iops", "/dev/a:9"], part("resources", io_read_iops_max={"/dev/a": 9, "/dev/b": 2})),
        (["-p", "81:80"], {}),
        (
            ["-p", "82:82"],
            part("network", ports=[*PORTS, PORTS[1] | {"external": 82, "internal": 82}]),
        ),
        (["--unset", "publish=8080"], part("network", ports=PORTS[1:])),
        (["--unset", "on-demand"], part("network", on_demand=False)),
        (
            ["--ip-allow", "localhost"],
            part("network", limits={"rate_in": 8000, "allow": ["any", "localhost"]}),
        ),
        (["--unset", "ip-allow=any"], part("network", limits={"rate_in": 8000})),
        (
            ["--net-rate", "16kbit"],
            part("network", limits={"rate_in": 16000, "rate_out": 16000, "allow": ["any"]}),
        ),
        (["--unset", "net-rate"], part("network", limits={"allow": ["any"]})),
        (
            ["--add-host", "db:192.0.2.9"],
            part("naming", hosts=[{"name": "db", "address": "192.0.2.9"}]),
        ),
        (["--unset", "dns=192.0.2.2"], part("naming", servers=[])),
        (["--cap-add", "SYS_TIME"], part("isolation", cap_add=["CAP_NET_ADMIN", "CAP_SYS_TIME"])),
        (["--unset", "cap-add=net_admin"], part("isolation", cap_add=None)),
        (["--unset", "privileged", "--unset", "umask"], part("isolation", privileged=None, umask=None)),
        (["--sysctl", "net.b=2"], part("isolation", sysctl={"net.a": "1", "net.b": "2"})),
    ],
)
def test_changes_what_is_named_and_nothing_else(words: list[str], changed: dict[str, Any]) -> None:
    assert differences(updated(*words)) == changed


def test_a_config_goes_by_its_name_or_its_place() -> None:
    spec = replace(BEFORE, supplies=Supplies(configs=(Config("a", "/etc/a"), Config("b", "/etc/b"))))
    for item in ("a", "/etc/a"):
        assert updated("--unset", f"config={item}", spec=spec).supplies.names(CONFIG) == ("b",)


def test_command_stands_behind() -> None:
    assert differences(updated(command=("sh",))) == {"command": ["sh"]}
    assert updated("--unset", "command").command is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Nothing is to be changed."),
        (["--userns", "host"], "--userns can't be changed by gear update."),
        (["--unset", "storage-driver"], "--storage-driver can't be changed by gear update."),
        (["--ip", "10.0.0.3"], "--ip can't be changed by gear update."),
        (["--unset", "env=X"], "There is no 'X' among what --env lists."),
        (["--unset", "ulimit=core"], "There is no 'core' among what --ulimit lists."),
        (["--unset", "memory=1g"], "There is nothing to unset that is called 'memory=1g'."),
        (["--unset", "device-read-iops"], "--unset device-read-iops takes one of its items."),
        (["--net-burst", "64k", "--unset", "net-rate"], "can not be so: /network"),
        (["--unset", "publish"], "can not be so: /network"),
        (["--memory-high", "3g"], "--memory-high can't be more than --memory"),
    ],
)
def test_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        updated(*words)
    assert message in caught.value.message


def test_every_option_of_install_is_known() -> None:
    """One that was not would be taken and forgotten."""
    parser = argparse.ArgumentParser()
    cli_resources.resource_options(parser)
    resources = set(vars(parser.parse_args([])))
    known = {*cli_update._FIELDS, *cli_update._REFUSED, *resources}
    assert known - {"command"} == set(cli_update._defaults())
