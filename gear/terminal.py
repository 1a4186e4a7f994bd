"""Between the caller's standard streams and those of a process in a container: pipes, or a terminal of its own.

The container never gets a descriptor of the caller's: from a terminal it could type commands into it, and a file it
could open again (CVE-2016-9962, TIOCSTI).  So everything is copied, as `docker exec` and `podman exec` do it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import stat
import sys
from contextlib import contextmanager, suppress

from gear.errors import GearError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_CHUNK = 1 << 16
# asm-generic/ioctls.h; nothing is imported while a process is being made (gear/joining.py).
_TIOCGWINSZ = 0x5413
_TIOCSWINSZ = 0x5414
# What is passed on to the process instead of ending gear.
_FORWARDED = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


def detach_keys(text: str) -> bytes:
    """The bytes of keys in Docker's notation, as in `ctrl-p,ctrl-q`; none for an empty text."""
    keys = bytearray()
    for key in text.split(",") if text else ():
        letter = key.removeprefix("ctrl-")
        if len(letter) != 1 or not letter.isascii() or not letter.isprintable():
            raise UsageError(f"{key!r} is no key.", hint="Write for example ctrl-p,ctrl-q or ctrl-a,d.")
        if letter == key:
            keys += letter.encode()
        elif letter.lower() in "abcdefghijklmnopqrstuvwxyz@[\\]^_":
            keys.append(ord(letter.upper()) & 0x1F)
        else:
            raise UsageError(f"{key!r} is no key.", hint="ctrl- goes with a letter or one of @[\\]^_.")
    return bytes(keys)


class Keys:
    """Finds the detach keys in what is typed."""

    def __init__(self, keys: bytes) -> None:
        self._keys, self._seen = keys, 0

    def filter(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on of *data*, and whether the keys are complete."""
        if not self._keys:
            return data, False
        passed = bytearray()
        for byte in data:
            if byte == self._keys[self._seen]:
                self._seen += 1
                if self._seen == len(self._keys):
                    return bytes(passed), True
                continue
            # What looked like the keys so far was meant for the program; this byte may begin them again.
            passed += self._keys[: self._seen]
            self._seen = 0
            if byte == self._keys[0]:
                self._seen = 1
            else:
                passed.append(byte)
        return bytes(passed), False


def console_size() -> dict[str, int]:
    """The size of the terminal here as `process.consoleSize`: the program inside may ask at once."""
    try:
        size = fcntl.ioctl(0, _TIOCGWINSZ, bytes(8))
    except OSError:
        return {}
    return {
        "height": int.from_bytes(size[:2], sys.byteorder),
        "width": int.from_bytes(size[2:4], sys.byteorder),
    }


class Streams:
    """The three streams of a process that is about to be made, and this program's ends of them."""

    def __init__(self, *, interactive: bool, terminal: bool, discard: bool = False) -> None:
        """*discard*: nobody will read what the process writes."""
        self.interactive, self.terminal = interactive, terminal
        self.master = -1
        self.input = self.output = self.error = -1
        self._theirs: list[int] = []
        if terminal or discard:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            self._theirs = [null, null, null]
            return
        if interactive:
            stdin, self.input = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self.input, False)
        else:
            stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.output, stdout = os.pipe2(os.O_CLOEXEC)
        self.error, stderr = os.pipe2(os.O_CLOEXEC)
        self._theirs = [stdin, stdout, stderr]

    def give_to(self, uid: int, gid: int) -> None:
        """Make the pipes the user's, who may open /dev/stdout again."""
        for descriptor in self._theirs:
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                os.fchown(descriptor, uid, gid)

    def take_master(self, descriptor: int) -> None:
        """The master of the process's terminal, which the caller closes afterwards."""
        self.master = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
        os.set_blocking(self.master, False)
        self.resize()

    def resize(self, *_: object) -> None:
        """Give the terminal inside the size of the one here."""
        with suppress(OSError):
            size = fcntl.ioctl(0, _TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self.master, _TIOCSWINSZ, size)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the process's ends as this program's own 0, 1 and 2 while the process is made."""
        saved = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10) for number in range(3)]
        try:
            for number, descriptor in enumerate(self._theirs):
                os.dup2(descriptor, number)
            for descriptor in set(self._theirs):
                os.close(descriptor)
            yield
        finally:
            for number, descriptor in enumerate(saved):
                os.dup2(descriptor, number)
                os.close(descriptor)

    def relay(self, pid: int, keys: bytes) -> int | None:
        """Copy until the process *pid*, a child of ours, has ended; its wait status.  None: the keys were typed."""
        pidfd = os.pidfd_open(pid)
        try:
            with _forwarding(pidfd, self), _raw(self.terminal and self.interactive):
                relay = _Relay(self, pidfd, keys)
                if not relay.run():
                    return None
            status = os.waitpid(pid, 0)[1]
        finally:
            os.close(pidfd)
        if relay.loss is not None:
            raise GearError(f"Not all that was written could be passed on: {relay.loss.strerror}.")
        return status


class _Relay:
    def __init__(self, streams: Streams, pidfd: int, keys: bytes) -> None:
        self._pidfd, self._keys = pidfd, Keys(keys if streams.terminal else b"")
        self._to = streams.master if streams.terminal else streams.input
        self._from = {streams.master: 1} if streams.terminal else {streams.output: 1, streams.error: 2}
        self._half_close = not streams.terminal
        self._reading = streams.interactive
        self._pending = b""
        self.loss: OSError | None = None  # why a standard stream could not be written to

    def run(self) -> bool:
        """Copy until the process has ended; False when the detach keys were typed."""
        ended = False
        while not ended:
            poll = select.poll()
            events: dict[int, int] = {self._pidfd: select.POLLIN}
            for descriptor in self._from:
                events[descriptor] = select.POLLIN
            if self._pending:
                events[self._to] = events.get(self._to, 0) | select.POLLOUT
            elif self._reading:
                events[0] = select.POLLIN
            for descriptor, wanted in events.items():
                poll.register(descriptor, wanted)
            ready = dict(poll.poll())
            # The rest of what a process has written comes with its end, and is read in this round.
            ended = self._pidfd in ready
            for descriptor in [item for item in self._from if item in ready or ended]:
                self._copy(descriptor, to_end=ended)
            if self._pending and self._to in ready:
                self._write()
            elif 0 in ready and 0 in events and not self._read():
                return False
        return True

    def _copy(self, descriptor: int, *, to_end: bool) -> None:
        """What can be read of a stream of the process; with *to_end* all that is there."""
        os.set_blocking(descriptor, False)
        while True:
            try:
                data = os.read(descriptor, _CHUNK)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.EIO:  # nobody has the terminal open any more
                    raise
                data = b""
            if not data:
                self._forget(descriptor)
                return
            try:
                _write_all(self._from[descriptor], data)
            except OSError as error:  # the process has to hear that nobody reads
                if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: a terminal that is gone
                    self.loss = error
                self._forget(descriptor)
                return
            if not to_end:
                return

    def _forget(self, descriptor: int) -> None:
        del self._from[descriptor]
        if descriptor != self._to:
            os.close(descriptor)
        else:
            self._reading, self._pending = False, b""

    def _read(self) -> bool:
        """Take something from standard input; False when that was the detach keys."""
        try:
            data = os.read(0, _CHUNK)
        except OSError:  # a terminal that is gone
            data = b""
        if not data:
            self._reading = False
            self._close_input()
            return True
        self._pending, detach = self._keys.filter(data)
        if self._pending:
            self._write()
        return not detach

    def _write(self) -> None:
        try:
            self._pending = self._pending[os.write(self._to, self._pending) :]
        except BlockingIOError:
            pass
        except OSError:  # the process does not read any more
            self._pending, self._reading = b"", False
            self._close_input()

    def _close_input(self) -> None:
        if self._half_close and self._to >= 0:
            os.close(self._to)
            self._to = -1


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # a standard stream that somebody has made so
            select.select([], [descriptor], [])


@contextmanager
def _forwarding(pidfd: int, streams: Streams) -> Iterator[None]:
    def forward(number: int, _: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    if streams.terminal:
        before[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, streams.resize)
        streams.resize()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _raw(wanted: bool) -> Iterator[None]:
    """Have the terminal pass every key on, as cfmakeraw(3) does."""
    if not wanted or not os.isatty(0):
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSANOW)
        yield
    finally:
        with suppress(termios.error):  # it is gone
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def drain(master: int) -> None:
    """Keep a terminal for its process after everybody has left it: a child of ours reads what is written there.

    Without a reader the process would be hung up, which is not what detaching means.
    """
    # The end of this program, if it leads the session, hangs up all that is in it; the child is at first.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if os.fork():
        return
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        # Whoever waits for the end of something that gear has inherited is not to wait for the container's.
        os.closerange(3, master)
        os.closerange(master + 1, os.sysconf("SC_OPEN_MAX"))
        os.set_blocking(master, True)
        with suppress(OSError):
            while os.read(master, _CHUNK):
                pass
    finally:
        os._exit(0)


def exit_status(status: int) -> int:
    """A wait status as a shell tells it."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
