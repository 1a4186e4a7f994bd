"""Events: what is made of entries of the journal, and what gear writes there."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from strategies import HOSTILE

from gear import events, notices
from gear.helper import entries

STARTED, DIED, FAILED, ENDED, OOM = (
    "39f53479d3a045ac8e11786248231fbf",
    "98e322203f7a4ed290d09fe03c09fe15",
    "d9b373ed55a64feb8242e02dbe79a49c",
    "7ad2d189f7e94e70a38c781354912448",
    "fe6faa94e7774663a0da52717891d8ef",
)


def entry(**fields: Any) -> bytes:
    """A record of journalctl."""
    return json.dumps({"__REALTIME_TIMESTAMP": "1500000", **fields}).encode()


def of_unit(message: str, unit: str = "ctr-web.service", **fields: Any) -> bytes:
    return entry(MESSAGE_ID=message, UNIT=unit, INVOCATION_ID="ab", **fields)


def test_what_pid_1_says() -> None:
    reader = events.Reader()
    assert reader.event(of_unit(STARTED, IMAGE_NAME="nginx", JOB_RESULT="done")) == {
        "time": 1.5,
        "event": "start",
        "name": "web",
        "unit": "ctr-web.service",
        "image": "nginx",
    }
    found = reader.event(of_unit(OOM, "ctr-a.b.scope"))
    assert found and (found["event"], found["name"]) == ("oom", "a.b")
    for unit in ("ssh.service", "ctr-web.socket", "ctr-web@80.service", "ctr-.service", "ctr-a b.service"):
        assert reader.event(of_unit(STARTED, unit)) is None


def test_an_end_has_the_status_of_the_same_invocation() -> None:
    reader = events.Reader()
    assert reader.event(of_unit(DIED, EXIT_CODE="exited", EXIT_STATUS="3")) is None
    found = reader.event(of_unit(FAILED, UNIT_RESULT="exit-code"))
    assert found and {key: found[key] for key in ("event", "exit_code", "exit_status", "result")} == {
        "event": "die",
        "exit_code": "exited",
        "exit_status": 3,
        "result": "exit-code",
    }
    found = reader.event(of_unit(ENDED))
    assert found and (found["exit_status"], found["result"]) == (None, "success")


def test_ends_that_nothing_follows_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_MOST_ENDS", 2)
    reader = events.Reader()
    for number in range(5):
        reader.event(entry(MESSAGE_ID=DIED, UNIT="ctr-web.service", INVOCATION_ID=str(number)))
    assert list(reader._ends) == ["3", "4"]


def test_filters_of_one_key_are_alternatives() -> None:
    reader = events.Reader({"name": ["web", "db"], "event": ["start"]})
    assert reader.event(of_unit(STARTED)) is not None
    assert reader.event(of_unit(STARTED, "ctr-x.service")) is None
    assert reader.event(of_unit(OOM)) is None


def test_what_gear_says() -> None:
    found = events.Reader().event(entry(GEAR_EVENT="pull", IMAGE_NAME=[110, 255]))
    assert found == {"time": 1.5, "event": "pull", "name": None, "image": "n\ufffd"}
    found = events.Reader().event(
        entry(GEAR_EVENT="health", CONTAINER_NAME=["web", "web"], GEAR_HEALTH="healthy")
    )
    assert found == {"time": 1.5, "event": "health", "name": "web", "health": "healthy"}
    assert events.Reader().event(entry(GEAR_EVENT="nothing")) is None


def test_every_kind_can_be_found_again() -> None:
    wanted = events.arguments(since=None, until=None, follow=False)
    assert {f"GEAR_EVENT={kind}" for kind in notices.KINDS} < set(wanted)
    assert wanted.index("_UID=0") > wanted.index("+") > wanted.index("_PID=1")
    assert "--since=--x" in events.arguments(since="--x", until=None, follow=True)


@given(HOSTILE)
def test_a_datagram_holds_any_value(text: str) -> None:
    data, found = entries.datagram({"A": text, "B": "b"}), []
    while data:
        name, _, rest = data.partition(b"\n")
        size = int.from_bytes(rest[:8], "little")
        found.append((name, rest[8 : 8 + size].decode()))
        assert rest[8 + size : 9 + size] == b"\n"
        data = rest[9 + size :]
    assert found == [(b"A", text), (b"B", "b")]


def test_a_note_reaches_journald_and_does_not_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices.note("delete", CONTAINER_NAME="web")
    monkeypatch.setattr(notices, "SOCKET", str(tmp_path / "socket"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(notices.SOCKET)
        notices.note("delete", CONTAINER_NAME="web")
        data = journald.recv(65536)
    assert b"web was deleted\n" in data and b"GEAR_EVENT\n\x06\0\0\0\0\0\0\0delete\n" in data
