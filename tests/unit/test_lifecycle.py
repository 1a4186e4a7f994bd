"""Why a container did not start, by what PID 1 and the journal say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import rendering

from gear import journal, lifecycle
from gear.network import Interface, Network


class Told:
    """What PID 1 says of units: state by name, and of the service."""

    def __init__(self, states: dict[str, str], **service: Any) -> None:
        self._states, self._service = states, service

    def get(self, unit: str, *_: Any) -> str:
        return self._states[unit]

    def properties(self, _: str, interface: str = "Unit") -> dict[str, Any]:
        return self._service if interface == "Service" else {}


def why(manager: Any, job: str = "failed") -> lifecycle.StartError:
    on = Network("bridge", (Interface("a", "eth0"), Interface("b", "eth1")))
    return lifecycle.why(manager, replace(rendering.make_spec(), network=on), job)


@pytest.fixture(autouse=True)
def _journal(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"gear-network@b.service": "can't make the bridge gear-b: File exists"}
    monkeypatch.setattr(journal, "last_words", lambda unit: said.get(unit, ""))
    monkeypatch.setattr(journal, "tail", lambda *_: ["a line"])


A, B = "gear-network@a.service", "gear-network@b.service"


@pytest.mark.parametrize("state", ["failed", "activating", "inactive"])
def test_a_network_that_failed_is_named(state: str) -> None:
    error = why(Told({A: "active", B: state}, Result="success"))
    assert error.message == (
        "web did not start: the unit gear-network@b.service of its network failed:"
        " can't make the bridge gear-b: File exists (result failed)."
    )
    assert error.hint == "The whole story: journalctl -u gear-network@b"
    silent = why(Told({A: state, B: "active"}, Result="success"))
    assert (
        silent.message
        == "web did not start: the unit gear-network@a.service of its network failed (result failed)."
    )


def test_what_the_helper_says_comes_first() -> None:
    error = why(Told({A: "failed", B: "failed"}, Result="exit-code", StatusText="no such program: /x"))
    assert error.message == "web did not start: no such program: /x (result exit-code)."
    assert error.hint == "The whole story: journalctl -u gear-network@a"


def test_networks_that_are_up_are_not_blamed() -> None:
    error = why(Told({A: "active", B: "reloading"}, Result="success"))
    assert error.message == "web did not start: systemd says failed (result failed)."
    assert error.hint == "The whole story: journalctl -u ctr-web.service" and list(error.details) == [
        "a line"
    ]
