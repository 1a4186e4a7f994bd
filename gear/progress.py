"""How far a transfer is, for people: bars on a terminal, plain lines anywhere else.  On standard error."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TextIO

from gear.records import dataclass, field

INTERVAL_S = 0.1


@dataclass
class _Bar:
    name: str
    size: int
    done: int = 0
    outcome: str = ""


@dataclass
class Lines:
    """A line for each blob when it is done."""

    out: TextIO | None  # None: nobody is told
    _sizes: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *details: object) -> None:
        pass

    def begin(self, name: str, size: int) -> None:
        with self._lock:
            self._sizes[name] = size

    def advance(self, name: str, count: int) -> None:
        """Nothing is said before the end."""

    def end(self, name: str, outcome: str) -> None:
        if self.out is None:
            return
        with self._lock:
            self.out.write(f"{short(name)}  {amount(self._sizes.get(name, 0)):>8}  {outcome}\n")
            self.out.flush()


class Bars:
    """A bar for each blob, and one line with all bytes and the rate, redrawn in place."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._bars: dict[str, _Bar] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._drawn = 0
        self._began = time.monotonic()
        self._moved = 0
        self._thread = threading.Thread(target=self._draw_often, name="progress", daemon=True)

    def __enter__(self) -> Bars:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._stop.set()
        self._thread.join()
        self._draw()

    def begin(self, name: str, size: int) -> None:
        with self._lock:
            self._bars[name] = _Bar(name, size)

    def advance(self, name: str, count: int) -> None:
        with self._lock:
            bar = self._bars[name]
            bar.done = min(bar.size, bar.done + count)
            self._moved += count

    def end(self, name: str, outcome: str) -> None:
        with self._lock:
            bar = self._bars[name]
            bar.outcome = outcome
            if outcome != "failed":
                bar.done = bar.size

    def _draw_often(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self._draw()

    def _draw(self) -> None:
        try:
            columns, rows = os.get_terminal_size(self._out.fileno())
        except (OSError, ValueError):
            columns, rows = 80, 24
        with self._lock:
            bars = list(self._bars.values())
            moved = self._moved
        if not bars:
            return
        # More lines than the terminal has could not be redrawn: those that move are shown then.
        room = max(1, rows - 2)
        shown = bars if len(bars) <= room else [bar for bar in bars if not bar.outcome][:room]
        lines = [line(bar.name, bar.done, bar.size, bar.outcome, columns) for bar in shown]
        lines.append(
            total(
                bars_done=sum(bar.done for bar in bars),
                size=sum(bar.size for bar in bars),
                rate=moved / max(0.001, time.monotonic() - self._began),
            )[: columns - 1]
        )
        back = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._out.write(back + "".join(f"\r\x1b[K{text}\n" for text in lines) + "\x1b[J")
        self._out.flush()
        self._drawn = len(lines)


def line(name: str, done: int, size: int, outcome: str, columns: int) -> str:
    """One blob as a line for a terminal of *columns*."""
    head, tail = f"{short(name)} ", f" {amount(done)}/{amount(size)}  {outcome}".rstrip()
    width = min(40, columns - 1 - len(head) - max(len(tail), 30) - 2)
    if width < 5:
        return (head + tail)[: columns - 1]
    full = width if size == 0 else width * done // size
    return f"{head}[{'=' * full}{' ' * (width - full)}]{tail}"[: columns - 1]


def total(*, bars_done: int, size: int, rate: float) -> str:
    """The line below the bars."""
    return f"{'total':<12} {amount(bars_done)}/{amount(size)}  {amount(int(rate))}/s"


def short(name: str) -> str:
    """Twelve digits of a digest."""
    return name.partition(":")[2][:12] or name[:12]


def amount(count: int) -> str:
    """Bytes for people, in powers of 1000."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def shown(*, quiet: bool = False) -> Lines | Bars:
    """What suits standard error."""
    if quiet or sys.stderr is None:
        return Lines(None)
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return Bars(sys.stderr)
    return Lines(sys.stderr)
