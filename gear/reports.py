"""Child processes of gear's own that do one piece of work with fewer rights, and what they report.

Not other programs (gear/process.py): a child is a fork of this interpreter that ends with its work.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence

from gear.errors import GearError
from gear.helper.failure import Failure
from gear.records import dataclass


@dataclass(frozen=True)
class Child:
    """A running child and the file in memory that its report goes to."""

    pid: int
    report: int


def fork(work: Callable[[Callable[[str], None]], None]) -> Child:
    """Run *work* in a child; it gets a function for warnings.  Errors come out of collect()."""
    report = os.memfd_create("report", os.MFD_CLOEXEC)
    pid = os.fork()
    if pid:
        return Child(pid, report)
    status = 1
    try:
        # Ctrl-C reaches the parent as well, which ends this process.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

        def tell(warning: str) -> None:
            os.write(report, json.dumps({"warning": warning}).encode() + b"\n")

        document: dict[str, object] = {}
        try:
            work(tell)
            status = 0
        except BrokenPipeError:
            document = {"error": "", "status": 1}
        except GearError as error:
            document = {"error": error.message, "hint": error.hint, "status": error.exit_status}
        except Failure as error:
            document = {
                "error": f"{error.message[:1].upper()}{error.message[1:]}.",
                "hint": None,
                "status": 1,
            }
        except BaseException as error:  # a bug: told all the same, since nobody sees this process
            document = {"error": f"gear failed in a child process: {error!r}", "hint": None, "status": 1}
        if document:
            os.write(report, json.dumps(document).encode() + b"\n")
    finally:
        os._exit(status)


def collect(children: Sequence[Child], warn: Callable[[str], None]) -> list[GearError]:
    """Wait for *children* and pass on what they warn of; returns those of their errors that say something."""
    errors: list[GearError] = []
    for child in children:
        _, status = os.waitpid(child.pid, 0)
        with open(child.report, "rb") as file:
            file.seek(0)
            documents = [json.loads(line) for line in file]
        for document in documents:
            if "warning" in document:
                warn(document["warning"])
            elif document["error"]:
                errors.append(GearError(document["error"], hint=document["hint"]))
        if os.WIFSIGNALED(status):
            errors.append(GearError("A child process of gear was killed, so the work is not complete."))
    return errors
