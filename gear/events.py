"""What has happened to containers, read from the journal: what PID 1 did with their units, and what gear did.

From the journal and not from signals on the bus: signals are heard only by who listens at the moment, and the journal
has the past as well, in the same order and in the same words.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from gear import notices
from gear.model import NAME
from gear.records import dataclass, field

# systemd's sd-messages.h, stable ids of the journal's catalog.
_DIED, _FAILED, _ENDED = (
    "98e322203f7a4ed290d09fe03c09fe15",
    "d9b373ed55a64feb8242e02dbe79a49c",
    "7ad2d189f7e94e70a38c781354912448",
)
_MESSAGES = {
    "7d4958e842da4a758f6c1cdc7b36dcc5": "starting",
    "39f53479d3a045ac8e11786248231fbf": "start",
    "be02cf6855d2428ba40df7e9d022f03d": "start-failed",
    "de5b426a63be47a7b6ac3eaac82e2f6f": "stopping",
    "9d1aaa27d60140bd96365438aad20286": "stop",
    "5eb03494b6584870a536b337290809b3": "restart",
    "fe6faa94e7774663a0da52717891d8ef": "oom",
    _FAILED: "die",
    _ENDED: "die",
}
# With what gear says itself.
KINDS = tuple(dict.fromkeys([*_MESSAGES.values(), *notices.KINDS]))
# Fields of the journal by what they are called here.
_ATTRIBUTES = {
    "unit": "UNIT",
    "image": "IMAGE_NAME",
    "digest": "IMAGE_DIGEST",
    "app": "GEAR_APP",
    "result": "UNIT_RESULT",
    "restarts": "N_RESTARTS",
    "health": "GEAR_HEALTH",
    "label": "GEAR_SNAPSHOT",
    "signal": "GEAR_SIGNAL",
}
_WANTED = (
    "MESSAGE_ID",
    "JOB_RESULT",
    "EXIT_CODE",
    "EXIT_STATUS",
    "INVOCATION_ID",
    "GEAR_EVENT",
    "CONTAINER_NAME",
)
# Ends whose exit status was told and whose result was not: more are not remembered.
_MOST_ENDS = 1000


def arguments(*, since: str | None, until: str | None, follow: bool) -> list[str]:
    """The command line of journalctl that prints the entries which events are made of, as JSON."""
    command = ["journalctl", "--quiet", "--no-pager", "--output=json", "--all", "--lines=all"]
    # Also those of log namespaces: what probes a container writes where the container does.
    command += ["--namespace=*", f"--output-fields={','.join([*_WANTED, *_ATTRIBUTES.values()])}"]
    command += ["--follow"] if follow else []
    command += [] if since is None else [f"--since={since}"]
    command += [] if until is None else [f"--until={until}"]
    # Of root only: nobody else may say what gear did, or PID 1.
    command += ["_PID=1", *(f"MESSAGE_ID={number}" for number in [*_MESSAGES, _DIED])]
    return [*command, "+", "_UID=0", *(f"GEAR_EVENT={kind}" for kind in notices.KINDS)]


@dataclass
class Reader:
    """Makes events of entries; *filters* are the values wanted by attribute, any of each."""

    filters: Mapping[str, Iterable[str]] = field(default_factory=dict)
    # How the main process of an invocation ended, until PID 1 says what that means.
    _ends: dict[str, tuple[str, str]] = field(default_factory=dict)

    def event(self, record: bytes) -> dict[str, Any] | None:
        """The members of `gear events --output json`, described in gear(1); None for what is none, or not wanted."""
        entry = {key: _text(value) for key, value in json.loads(record).items()}
        found = self._of_gear(entry) if "GEAR_EVENT" in entry else self._of_systemd(entry)
        if found is None:
            return None
        found = {"time": int(entry["__REALTIME_TIMESTAMP"]) / 1e6, **found}
        for name, key in _ATTRIBUTES.items():
            if key in entry and name not in found:
                found[name] = entry[key]
        wanted = all(str(found.get(name)) in values for name, values in self.filters.items())
        return found if wanted else None

    def _of_gear(self, entry: dict[str, str]) -> dict[str, Any] | None:
        kind = entry["GEAR_EVENT"]
        return {"event": kind, "name": entry.get("CONTAINER_NAME")} if kind in notices.KINDS else None

    def _of_systemd(self, entry: dict[str, str]) -> dict[str, Any] | None:
        name, invocation = _container(entry.get("UNIT", "")), entry.get("INVOCATION_ID", "")
        message = entry.get("MESSAGE_ID", "")
        if name is None:
            return None
        if message == _DIED:
            while len(self._ends) >= _MOST_ENDS:
                del self._ends[next(iter(self._ends))]
            self._ends[invocation] = (entry.get("EXIT_CODE", ""), entry.get("EXIT_STATUS", ""))
            return None
        kind = _MESSAGES.get(message)
        if kind is None:
            return None
        found: dict[str, Any] = {"event": kind, "name": name}
        if kind == "die":
            # systemd says nothing about the status of a main process that ended as it should.
            how, status = self._ends.pop(invocation, ("", ""))
            found["exit_code"] = how or None
            found["exit_status"] = int(status) if status.isdigit() else None
            found["result"] = entry.get("UNIT_RESULT", "success")
        return found


def _container(unit: str) -> str | None:
    """The container of a service or scope; None for any other unit, its sockets as well."""
    stem, _, kind = unit.rpartition(".")
    name = stem.removeprefix("ctr-")
    if not stem.startswith("ctr-") or kind not in ("service", "scope") or not NAME.fullmatch(name):
        return None
    return name


def _text(value: Any) -> str:
    """The value of a field: a string, bytes that are no text, or several of these."""
    if isinstance(value, list):
        return (
            bytes(value).decode(errors="replace")
            if all(isinstance(v, int) for v in value)
            else _text(value[0])
        )
    return "" if value is None else str(value)
