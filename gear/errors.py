"""The errors gear raises on purpose.

Not for bugs: anything that is not a GearError shows a traceback.

    GearError            exit status 1: it was tried and failed, or can't be done now
    ├── UsageError       exit status 2: the request itself is wrong, nothing was tried
    ├── NotFoundError    exit status 1: a container or image by that name does not exist
    ├── IntegrityError   exit status 1: data does not match its digest, or is damaged
    ├── RemoteError      exit status 1: a registry can't be reached, fails, or refuses
    ├── RefusedError     exit status 1: the policy of this host does not take an image
    └── HostError        exit status 1: this machine lacks what the request needs

The message is one sentence: what failed, on what, and why.  Details are lines of evidence, such as the end of a
journal.  The hint, when there is one, says what to do about it and is shown on a line of its own.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class GearError(Exception):
    """An expected failure, told to the user without a traceback."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)


class UsageError(GearError):
    """The request is wrong: a bad name, option, or input file."""

    exit_status = 2


class NotFoundError(GearError):
    """No container or image goes by that name."""


class IntegrityError(GearError):
    """Stored or received data is not what its digest or format promises."""


class RemoteError(GearError):
    """A registry can't be reached, fails, or refuses."""


class RefusedError(GearError):
    """The policy about signatures does not take an image."""


class HostError(GearError):
    """The machine lacks a privilege, program, or kernel feature."""
