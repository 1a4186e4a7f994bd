"""JSON in and out through the C halves of the `json` module; importing all of it takes longer than `state` does.

Not for documents of unbounded size: the files are a client's, who may start containers as root.
"""

from __future__ import annotations

from gear.helper.bundle import load_json
from gear.helper.failure import Failure

TYPE_CHECKING = False  # importing `typing` for it would take longer than all else

if TYPE_CHECKING:
    from typing import Any

__all__ = ["dumps", "load_json", "loads", "pretty"]


def dumps(document: Any) -> str:
    """One line of JSON, ASCII only."""
    try:
        from _json import encode_basestring_ascii, make_encoder

        encode = make_encoder(None, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, False)
        return "".join(encode(document, 0))
    except (ImportError, TypeError):
        import json

        return json.dumps(document)


def _refuse(value: object) -> object:
    raise Failure(f"{value!r} has no form in JSON")


def pretty(document: Any) -> str:
    """Indented JSON for people."""
    import json

    return json.dumps(document, indent=2)


def loads(text: str, what: str) -> dict[str, Any]:
    """The JSON object in *text*; *what* it is, for the error."""
    import json

    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Failure(f"{what} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise Failure(f"{what} is not one JSON object")
    return document
