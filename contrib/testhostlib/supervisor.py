"""The process that holds a host.

Two processes, so that neither needs the other to tidy up.  The supervisor proper is PID 1 of a pid namespace
and owner of a mount namespace: when it dies, by SIGKILL too, the kernel kills all that ran there, and the
last of them takes the mounts along.  Its parent, the keeper, outlives it to remove cgroups and directories;
the supervisor dies with the keeper, and then the next call of testhost removes the rest.

    SIGTERM to the keeper        the host is torn down
    SIGUSR1 to the supervisor    power cut, then power on
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import shutil
import signal
import traceback
from pathlib import Path
from types import FrameType

from . import cgroups, kernel, state
from .guest import Guest, News
from .machine import Machine
from .nested import Nested
from .places import Places
from .processes import Process, start_time

CONSOLE_TAIL = 2000


def keep(places: Places, name: str, answer_fd: int) -> int:
    """Hold the host until it is stopped or its owner ends; answers once it is up or has failed to come up."""
    directory = places.host(name)
    request = state.load_request(directory)
    assert request is not None
    os.chdir("/")
    with places.hosts_lock():
        groups = cgroups.make(name)
    now = state.State("booting", keeper=Process.current(), cgroups=tuple(map(str, groups)))
    state.save_state(directory, now)
    owner_fd = request.owner.open() if request.owner else None
    if request.owner is None or owner_fd is not None:
        outer_proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        kernel.unshare(kernel.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            kind = Machine if request.kind == "vm" else Nested
            guest: Guest = kind(places, request, groups)
            os._exit(Supervisor(guest, now, owner_fd, outer_proc, answer_fd).main())

        def end(number: int, frame: FrameType | None) -> None:
            os.kill(pid, signal.SIGKILL)

        signal.signal(signal.SIGTERM, end)
        os.close(answer_fd)
        os.waitpid(pid, 0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cgroups.leave()
    tear_down(places, name, groups)
    return 0


def tear_down(places: Places, name: str, groups: list[Path]) -> None:
    """Remove what a host leaves behind whose processes have ended."""
    with places.hosts_lock():
        cgroups.remove(groups)
        # Another name first: a directory in hosts/ is a host, or it is not there.
        gone = places.hosts / f".gone-{name}-{os.getpid()}"
        try:
            places.host(name).rename(gone)
        except FileNotFoundError:
            return
    shutil.rmtree(gone, ignore_errors=True)  # another one may sweep it up at the same time


class Supervisor:
    def __init__(
        self, guest: Guest, now: state.State, owner_fd: int | None, outer_proc: int, answer_fd: int
    ) -> None:
        self.guest = guest
        self.now = now
        self.owner_fd = owner_fd
        self.outer_proc = outer_proc
        self.answer_fd: int | None = answer_fd
        self.asked = False  # to be started again, by SIGUSR1

    def main(self) -> int:
        try:
            kernel.die_with_parent()
            kernel.private_mounts()
            pid = int(os.readlink("self", dir_fd=self.outer_proc))
            self.save(supervisor=self.outer(pid))
            flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
            kernel.mount("proc", "/proc", "proc", flags)
            self.guest.prepare()
            self.loop()
        except Exception as err:
            traceback.print_exc()
            self.answer(error=f"{type(err).__name__}: {err}")
            return 1
        return 0

    def outer(self, pid: int) -> Process | None:
        """A process by its number outside."""
        start = start_time(pid, Path(f"/proc/self/fd/{self.outer_proc}"))
        return None if start is None else Process(pid, start)

    def outer_pid(self, pid: int) -> int:
        """The number outside of a process known by its number in here: fdinfo shows it, see pidfd_open(2)."""
        pidfd = os.pidfd_open(pid)
        try:
            with open(os.open(f"self/fdinfo/{pidfd}", os.O_RDONLY, dir_fd=self.outer_proc)) as file:
                return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
        finally:
            os.close(pidfd)

    def save(self, **changes: object) -> None:
        self.now = dataclasses.replace(self.now, **changes)  # type: ignore[arg-type]
        state.save_state(self.guest.directory, self.now)

    def answer(self, *, error: str | None = None) -> None:
        if self.answer_fd is not None:
            reply: dict[str, str] = {}
            if error is not None:
                reply = {"error": error, "console": tail(self.guest.directory / "console.log")}
            try:
                os.write(self.answer_fd, json.dumps(reply).encode() + b"\n")
            except BrokenPipeError:
                pass  # the caller gave up; whether the host stays is its owner's matter
            os.close(self.answer_fd)
            self.answer_fd = None

    def loop(self) -> None:
        wake_in, wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_out, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGUSR1, self.power_cycle)
        self.start()
        while True:
            poll = select.poll()
            poll.register(wake_in, select.POLLIN)
            if self.owner_fd is not None:
                poll.register(self.owner_fd, select.POLLIN)
            sources = {source.fileno(): source for source in self.guest.watched()}
            for fd in sources:
                poll.register(fd, select.POLLIN)
            ready = [fd for fd, _ in poll.poll()]
            if self.owner_fd in ready:
                return
            for fd in ready:
                if fd in sources and (news := self.guest.heard(sources[fd])):
                    self.note(news)
            if wake_in in ready:
                os.read(wake_in, 4096)
            if not self.reap():
                return

    def power_cycle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self.guest.cut_power()

    def start(self) -> None:
        self.asked = False
        self.guest.start()
        self.save(phase="booting", boots=self.now.boots + 1, leader=None)

    def note(self, news: News) -> None:
        if news.leader is not None:
            try:
                self.save(leader=self.outer(self.outer_pid(news.leader)))
            except ProcessLookupError:
                return  # it ended meanwhile; that its parent ends too is the next news
        if news.port is not None:
            self.save(port=news.port)
        if news.ready:
            self.save(phase="running")
            self.answer()

    def reap(self) -> bool:
        """Take note of children that ended; False when the host never came up, and so there is none."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid = 0
            if pid == 0:
                break
            if pid == self.guest.child:
                again = self.guest.ended(status)
                if self.answer_fd is not None and not again:
                    code = os.waitstatus_to_exitcode(status)
                    self.answer(error=f"it ended with status {code} before it was up")
                    return False
                self.save(phase="off", leader=None)
                self.asked = self.asked or again
            elif news := self.guest.helper_ended(pid, status):
                self.note(news)
        if self.asked and self.guest.child is None:
            self.start()
        return True


def tail(path: Path, size: int = CONSOLE_TAIL) -> str:
    """The end of a log, for a message."""
    try:
        return path.read_bytes()[-size:].decode(errors="replace").strip()
    except FileNotFoundError:
        return ""
