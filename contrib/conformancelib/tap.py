"""Running a program that reports in TAP, the Test Anything Protocol, and clearing up after it.

The program gets a terminal, which some tests look for.  What it leaves running is killed: this process is made the
parent of orphans, so nothing that a test has started can get away from it, and only that is touched.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
RESULT = re.compile(r"^(ok|not ok)\b *(\d+)? *-? *(.*?) *(?:# *(skip|todo)\b.*)?$", re.IGNORECASE)
CGROUPS = Path("/sys/fs/cgroup")


def adopt_orphans() -> None:
    """Become the parent of whatever a test leaves behind."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def result(line: str) -> tuple[str, str] | None:
    """Name and outcome that a line of TAP tells, None when it tells none."""
    match = RESULT.match(line)
    if match is None:
        return None
    word, number, name, directive = match.groups()
    if (directive or "").lower() == "skip":
        outcome = "skipped"
    else:
        outcome = "passed" if word.lower() == "ok" else "failed"
    return name or number or "", outcome


def run(
    argv: list[str], env: Mapping[str, str], cwd: Path, patience_s: float, note: Callable[[str], None]
) -> bool:
    """Run a program, telling *note* each line it prints; returns whether it ended by itself.

    It is killed when it prints nothing for *patience_s*.  Standard error is a terminal of its own: half a line
    there must not spoil a line of TAP.
    """
    pairs = [pty.openpty(), pty.openpty()]
    for _, slave in pairs:
        tty.setraw(slave)
    (out, theirs), (err, theirs_err) = pairs
    process = subprocess.Popen(
        argv, env=dict(env), cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs_err, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    os.close(theirs_err)
    try:
        for line in lines([out, err], patience_s, process):
            note(line)
        process.wait(patience_s)
        return True
    except (TimeoutError, subprocess.TimeoutExpired):
        return False
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(out)
        os.close(err)


def lines(fds: list[int], patience_s: float, process: subprocess.Popen[bytes]) -> Iterator[str]:
    """The lines that come from terminals until the process has ended and they are empty, or TimeoutError."""
    rest = dict.fromkeys(fds, b"")
    heard = time.monotonic()
    while rest:
        ended = process.poll() is not None
        ready = select.select(list(rest), [], [], 0 if ended else min(patience_s, 1))[0]
        if ready:
            heard = time.monotonic()
        elif ended:
            break
        elif time.monotonic() - heard > patience_s:
            raise TimeoutError
        for fd in ready:
            try:
                data = os.read(fd, 65536)
            except OSError:  # EIO: nobody has the terminal open any more
                data = b""
            if not data:
                yield from (text.decode(errors="replace") for text in [rest.pop(fd)] if text)
                continue
            *whole, rest[fd] = (rest[fd] + data).split(b"\n")
            yield from (line.decode(errors="replace").rstrip("\r") for line in whole)
    yield from (text.decode(errors="replace") for text in rest.values() if text)


def children() -> list[int]:
    """This process's children, and theirs, those first that are nearest."""
    found = [os.getpid()]
    for pid in found:
        try:
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            found += [int(word) for task in tasks for word in (task / "children").read_text().split()]
        except OSError:
            continue
    return found[1:]


def thaw(pid: int) -> None:
    """Let a frozen process go on, so that it can die."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return
    for number, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "freezer" and path != "/":
            wake(CGROUPS / "freezer" / path.lstrip("/") / "freezer.state", "THAWED")
        elif number == "0" and path != "/":
            wake(CGROUPS / path.lstrip("/") / "cgroup.freeze", "0")


def wake(file: Path, word: str) -> None:
    try:
        file.write_text(word)
    except OSError:
        return  # of another hierarchy's layout, or gone meanwhile


def kill_leftovers(timeout_s: float = 30) -> int:
    """Kill every process the tests have left; returns how many there were."""
    deadline = time.monotonic() + timeout_s
    seen: set[int] = set()
    while pids := children():
        for pid in pids:
            if pid not in seen:
                seen.add(pid)
                thaw(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            break
        if time.monotonic() > deadline:
            raise TimeoutError(f"these processes of a test can't be killed: {pids}")
        select.select([], [], [], 0.01)
    return len(seen)


def remove_cgroups(before: set[Path], pattern: str) -> None:
    """Remove control groups with names like *pattern* that were not there before and hold no process."""
    for top in sorted(cgroups(pattern) - before):
        for path, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                continue


def cgroups(pattern: str) -> set[Path]:
    """The control groups at the top of each hierarchy, or one below, with such a name."""
    return {path for level in ("", "*/") for path in CGROUPS.glob(level + pattern) if path.is_dir()}


def unmount_below(top: Path) -> None:
    """Detach every mount that a test has left in its directory."""
    table = Path("/proc/self/mounts").read_text().splitlines()
    for place in reversed([line.split()[1] for line in table]):
        if place.startswith(f"{top}/"):
            subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)
