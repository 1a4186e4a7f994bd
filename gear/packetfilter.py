"""The rules of nftables that this machine has, and what the text of rules comes to when it is loaded.

nft(8) lists rules in other words than they were written in, and each version in its own.  So what should be there is
loaded into a network namespace made for it, where it sees no packet, and listed from there by the same program.
"""

from __future__ import annotations

import json
from typing import Any

from gear import process
from gear.errors import HostError

_PATIENCE_S = 30.0
# Without the elements of sets and maps, which may be many.
_LIST = ("--terse", "--json", "list")


def ruleset() -> list[dict[str, Any]]:
    """All rules of this machine as nft(8) lists them (libnftables-json(5)); raises GearError."""
    text = process.output(["nft", *_LIST, "ruleset"])
    return _objects(text)


def loaded(rules: str) -> list[dict[str, Any]]:
    """What *rules* are listed as once they are loaded; raises HostError."""
    nft = process.find("nft")
    script = f"{nft} -f - && {nft} {' '.join(_LIST)} ruleset"
    status, answer = process.exchange(["unshare", "--net", "sh", "-c", script], rules.encode(), _PATIENCE_S)
    if status:
        raise HostError(f"nft could not load rules into a network namespace made for it (status {status}).")
    return _objects(answer.decode(errors="replace"))


def _objects(text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)["nftables"]
    except (ValueError, KeyError, TypeError) as error:
        raise HostError(f"nft has listed rules in another form than expected: {error}.") from error
    return [item for item in found if isinstance(item, dict)]


def of_table(objects: list[dict[str, Any]], table: str) -> dict[str, list[Any]]:
    """What is in the table inet *table*: each chain and map with its rules in order; empty if there is no such table.

    Without handles and counters, which tell when and how often, and not what.
    """
    found: dict[str, list[Any]] = {}
    for item in objects:
        for kind, body in item.items():
            if not isinstance(body, dict) or body.get("family") != "inet":
                continue
            if kind == "table" and body.get("name") == table:
                found.setdefault("", []).append({"table": table, "flags": body.get("flags")})
            elif body.get("table") == table:
                name = body.get("chain") if kind == "rule" else body.get("name")
                found.setdefault(str(name), []).append({kind: _timeless(body)})
    return found


def _timeless(body: Any) -> Any:
    if isinstance(body, dict):
        return {key: _timeless(value) for key, value in body.items() if key not in ("handle", "elem")}
    return [_timeless(item) for item in body] if isinstance(body, list) else body


def tables(objects: list[dict[str, Any]]) -> list[str]:
    """The names of all tables of the family inet."""
    bodies = [item["table"] for item in objects if isinstance(item.get("table"), dict)]
    return sorted(body["name"] for body in bodies if body.get("family") == "inet")


def delete_table(table: str) -> None:
    """Remove the table inet *table*; raises GearError."""
    process.output(["nft", "delete", "table", "inet", table])
