"""The arguments of journalctl."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from gear import journal, process
from gear.errors import GearError, HostError
from gear.journal import Query

BASE = ["journalctl", "--quiet", "--no-pager", "--output=cat", "--all"]
UNIT = "_SYSTEMD_UNIT=ctr-web.service"
PAYLOAD = [UNIT, "_TRANSPORT=stdout"]


def test_the_last_words_of_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def output(words: list[str], **_: object) -> str:
        ran.append(words)
        return "gear: can't do it.\n"

    monkeypatch.setattr(process, "output", output)
    assert journal.last_words("gear-network@a.service") == "can't do it"
    assert ran[-1][-3:] == ["--lines=1", "_SYSTEMD_UNIT=gear-network@a.service", "_TRANSPORT=stdout"]


@pytest.mark.spawns
def test_a_program_of_gears_own_gets_what_no_argument_could_hold() -> None:
    program = "import sys; data = sys.stdin.read(); sys.exit('gear: got %d of %s.' % (len(data), data[:1]))"
    with pytest.raises(GearError, match=r"^Got 1000000 of x\.$"):
        process.call([sys.executable, "-c", program], b"x" * 1_000_000)
    with pytest.raises(GearError, match=r"^Got 0 of \.$"):
        process.call([sys.executable, "-c", program])


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        (Query(), [*BASE, "--lines=all", *PAYLOAD]),
        (Query(lines=5), [*BASE, "--lines=5", *PAYLOAD]),
        (Query(lines=0), [*BASE, "--lines=0", *PAYLOAD]),
        (Query(follow=True), [*BASE, "--lines=all", "--follow", *PAYLOAD]),
        (Query(lines=5, follow=True), [*BASE, "--lines=5", "--follow", *PAYLOAD]),
        (
            Query(since="-1h", until="2024-01-01 00:00"),
            [*BASE, "--lines=all", "--since=-1h", "--until=2024-01-01 00:00", *PAYLOAD],
        ),
        (Query(since=""), [*BASE, "--lines=all", "--since=", *PAYLOAD]),
        (Query(this_boot=True), [*BASE, "--lines=all", "--boot", *PAYLOAD]),
        (
            Query(invocations=("ab" * 16,)),
            [*BASE, "--lines=all", *PAYLOAD, f"_SYSTEMD_INVOCATION_ID={'ab' * 16}"],
        ),
        (Query(whole=True), [*BASE, "--lines=all", "--unit=ctr-web.service"]),
        (
            Query(whole=True, invocations=("ab",)),
            [*BASE, "--lines=all", UNIT, "_SYSTEMD_INVOCATION_ID=ab", "+", "UNIT=ctr-web.service"]
            + ["INVOCATION_ID=ab"],
        ),
        (
            Query(output="json"),
            ["journalctl", "--quiet", "--no-pager", "--output=json", "--all", "--lines=all", *PAYLOAD],
        ),
    ],
)
def test_arguments(query: Query, arguments: list[str]) -> None:
    assert journal.arguments(["web"], query) == arguments


def test_several_containers_are_alternatives() -> None:
    other = "_SYSTEMD_UNIT=ctr-db.service"
    query = Query(invocations=("ab", "cd"), grep="-x", priority="err")
    assert journal.arguments(["web", "db"], query) == [
        *BASE, "--lines=all", "--grep=-x", "--priority=err", UNIT, other, "_TRANSPORT=stdout",
        "_SYSTEMD_INVOCATION_ID=ab", "_SYSTEMD_INVOCATION_ID=cd",
    ]  # fmt: skip
    whole = journal.arguments(["web", "db"], Query(whole=True))
    assert whole[-2:] == ["--unit=ctr-web.service", "--unit=ctr-db.service"]


@pytest.mark.parametrize(
    ("namespaces", "whole", "option"),
    [
        ({None}, False, None),
        ({"shop"}, False, "--namespace=shop"),
        ({"shop"}, True, "--namespace=+shop"),
        ({"shop", None}, False, "--namespace=+shop"),
        ({"shop", "db"}, False, "--namespace=*"),
        ({"shop", "db", None}, True, "--namespace=*"),
    ],
)
def test_namespaces(namespaces: set[str | None], whole: bool, option: str | None) -> None:
    found = journal.arguments(["web"], Query(whole=whole, namespaces=frozenset(namespaces)))
    assert [word for word in found if word.startswith("--namespace")] == ([option] if option else [])


def test_option_like_times_stay_values() -> None:
    arguments = journal.arguments(["web"], Query(since="--vacuum-size=1", until="--flush"))
    assert "--since=--vacuum-size=1" in arguments and "--until=--flush" in arguments


# ---- the door to other programs


def test_missing_program_names_its_package() -> None:
    with pytest.raises(HostError) as caught:
        process.find("no-such-program")
    assert (caught.value.message, caught.value.hint) == (
        "The program no-such-program is not installed.",
        "apt-get install no-such-program",
    )


@pytest.mark.spawns
def test_output_of_a_program() -> None:
    assert process.output(["sh", "-c", "echo a; cat; echo b >&2"]) == "a\n"
    assert process.output(["sh", "-c", "printf '\\377'; exit 3"], accept=(0, 3)) == "\ufffd"


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo first >&2; echo last >&2; exit 3", "sh -c {script} failed with status 3: last."),
        ("exit 1", "sh -c {script} failed with status 1: it said nothing."),
    ],
)
def test_failed_program(script: str, message: str) -> None:
    with pytest.raises(GearError) as caught:
        process.output(["sh", "-c", script])
    assert caught.value.message == message.format(script=script)


@pytest.mark.spawns
def test_shown_program_has_the_standard_output_of_gear(capfd: pytest.CaptureFixture[str]) -> None:
    assert process.show(["sh", "-c", "echo shown; exit 4"]) == 4
    assert capfd.readouterr().out == "shown\n"


def test_a_namespace_that_nobody_listens_for_has_written_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "socket"
    assert not journal._listens(str(place))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        assert journal._listens(str(place))
    assert not journal._listens(str(place))

    def fail(*_: object) -> str:
        raise GearError("no")

    monkeypatch.setattr(process, "output", fail)
    journal.synchronize("gear-test-none")
    with pytest.raises(GearError):
        journal.synchronize()
