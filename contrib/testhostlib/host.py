"""A running host, and what can be done with it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from . import cgroups, machine, nested, state, supervisor, transfer
from .errors import CommandError, ToolError
from .places import Places
from .processes import Entered, Process

RUN_TIMEOUT_S = {"nested": 180.0, "vm": 600.0}
BOOT_TIMEOUT_S = {"nested": 60.0, "vm": 300.0}
STOP_TIMEOUT_S = 30.0
POLL_S = 0.01


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Look again and again until the condition holds; False when the time is over first."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


class Host:
    """A host that was booted, by this process or another; boot() and find() make one.

    As a context manager it is stopped at the end.
    """

    def __init__(self, request: state.Request, places: Places) -> None:
        self.name = request.name
        self.kind = request.kind
        self.release = request.release
        self.cgroup = "v2" if request.kind == "vm" else cgroups.version()
        self.places = places
        self.request = request

    def __repr__(self) -> str:
        return f"<Host {self.name}: {self.kind} {self.release}>"

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def directory(self) -> Path:
        return self.places.host(self.name)

    @property
    def state(self) -> state.State:
        """As it is now; raises when the host is gone."""
        now = state.load_state(self.directory)
        if now is None:
            raise ToolError(f"no such host: {self.name!r}", hint="testhost list")
        return now

    @property
    def leader(self) -> int:
        """The pid here of the host's PID 1, or of qemu; raises when it is off.

        A nested host's namespaces are in /proc/PID/ns.
        """
        return self._leader().pid

    @property
    def console(self) -> str:
        """What has been written to the console since the first boot."""
        return supervisor.tail(self.directory / "console.log", 1 << 24)

    def _leader(self) -> Process:
        now = self.state
        if now.leader is None or not now.leader.alive():
            raise ToolError(
                f"{self.name} is not running",
                hint=f"testhost reboot {self.name}, or testhost journal {self.name}",
            )
        return now.leader

    def command(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        tty: bool = False,
        timeout: float | None = None,
    ) -> tuple[list[str], dict[str, str]]:
        """The command of this machine, and its environment, that runs ARGV in the host."""
        leader = self._leader()
        environment = nested.environment(env)
        if self.kind == "vm":
            port = self.state.port
            if port is None:
                raise ToolError(f"{self.name} is not up yet")
            return machine.ssh(self.places, self.request, port, argv, environment, tty=tty, timeout_s=timeout)
        return nested.enter(leader, argv, tty=tty), environment

    def popen(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        tty: bool = False,
        timeout: float | None = None,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Start a command in the host, in / with a clean environment and ENV; OPTIONS are Popen's.

        The command is killed when the returned process is; in a virtual machine only at the end of the
        timeout, which nothing else here waits for.
        """
        command, environment = self.command(argv, env=env, tty=tty, timeout=timeout)
        kind = subprocess.Popen if self.kind == "vm" else Entered
        return kind(command, env=environment, **options)

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes | None = None,
        check: bool = True,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command in the host and collect its output.

        Raises CommandError when it does not end in time and, with check, when its status is not 0.  A signal
        that ended it is told as 128 + its number, for both kinds of host.
        """
        timeout = RUN_TIMEOUT_S[self.kind] if timeout is None else timeout
        stdin: int | IO[bytes] = subprocess.DEVNULL if input is None else subprocess.PIPE
        process = self.popen(
            argv, env=env, timeout=timeout, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with process:
            try:
                stdout, stderr = process.communicate(input, timeout)
            except subprocess.TimeoutExpired as err:
                process.kill()
                stderr = process.communicate()[1]
                raise CommandError(self.name, argv, None, stderr, timeout=timeout) from err
            except BaseException:
                process.kill()
                raise
        status = shell_status(process.returncode)
        if check and status != 0:
            raise CommandError(self.name, argv, status, stderr)
        return subprocess.CompletedProcess(list(argv), status, stdout, stderr)

    def copy(self, src: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], dst: str) -> None:
        """Copy files and directories into the host, as 'cp -r' would, without __pycache__ and .git."""
        sources = [src] if isinstance(src, (str, os.PathLike)) else list(src)
        transfer.send(self, [Path(source) for source in sources], dst)

    def fetch(self, src: str, dst: str | os.PathLike[str]) -> None:
        """Copy a file or directory out of the host, as 'cp -r' would."""
        transfer.receive(self, src, Path(dst))

    def journal(self, *args: str) -> str:
        """journalctl's output with these arguments; works when the host is off, too.

        Of a virtual machine that is off only its console is left.
        """
        if self.kind == "vm":
            now = self.state
            if now.leader is None or not now.leader.alive():
                return self.console
            return self.run(["journalctl", "--no-pager", *args]).stdout.decode(errors="replace")
        self.flush_journal()
        result = subprocess.run(self.journal_command(args), stdin=subprocess.DEVNULL, capture_output=True)
        if result.returncode != 0 and result.stderr:
            raise CommandError(self.name, ["journalctl", *args], result.returncode, result.stderr)
        return result.stdout.decode(errors="replace")

    def flush_journal(self) -> None:
        """Have journald write what it has, if it runs."""
        now = self.state
        if now.leader is not None and now.leader.alive():
            self.run(["journalctl", "--sync"], check=False, timeout=20)

    def journal_command(self, args: Sequence[str]) -> list[str]:
        """The journalctl of this machine on the files of a nested host."""
        storage = Path(self.request.storage or self.directory)
        return ["journalctl", "--no-pager", "-D", str(storage / "var/log/journal"), *args]

    def settle(self, timeout: float | None = None) -> str:
        """Wait for the end of the boot: 'running', or 'degraded' when a unit has failed; raises otherwise."""
        result = self.run(["systemctl", "is-system-running", "--wait"], check=False, timeout=timeout)
        word = result.stdout.decode().strip()
        if word not in ("running", "degraded"):
            raise ToolError(
                f"{self.name} has not booted: systemd says {word or result.stderr.decode().strip()!r}"
            )
        return word

    def reboot(self, *, hard: bool = False, timeout: float | None = None) -> None:
        """Reboot in order, or as after a power cut; switch on a host that is off.  Returns once it is up."""
        timeout = BOOT_TIMEOUT_S[self.kind] if timeout is None else timeout
        deadline = time.monotonic() + timeout
        before = self.state
        running = before.leader is not None and before.leader.alive()
        if running and not hard:
            self.run(["systemctl", "reboot"], check=False, timeout=timeout)
        elif before.supervisor is None or not before.supervisor.signal(signal.SIGUSR1):
            raise ToolError(f"{self.name} has lost its supervisor", hint=f"testhost stop {self.name}")

        def up() -> bool:
            now = self.state
            return now.boots > before.boots and now.phase == "running"

        if not wait_for(up, timeout):
            raise ToolError(f"{self.name} was not up again within {timeout:g} s: {self.console[-1000:]}")
        self.settle(max(1.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """Take the host down at once, with all that belongs to it; nothing to do when it is gone."""
        now = state.load_state(self.directory)
        if now is None:
            return
        if now.keeper is not None:
            now.keeper.signal(signal.SIGTERM)
            if not now.keeper.wait(STOP_TIMEOUT_S):
                now.keeper.signal(signal.SIGKILL)
                now.keeper.wait(STOP_TIMEOUT_S)
        discard(self.places, self.name)
        reap()


# The keepers that are children of this process; kept, because they have to be waited for.
keepers: list[subprocess.Popen[bytes]] = []


def reap() -> None:
    """Wait for those of them that have ended."""
    keepers[:] = [keeper for keeper in keepers if keeper.poll() is None]


def discard(places: Places, name: str) -> None:
    """Remove what is left of a host whose keeper has ended."""
    now = state.load_state(places.host(name))
    if now is not None and now.supervisor is not None:
        now.supervisor.signal(signal.SIGKILL)
        now.supervisor.wait(STOP_TIMEOUT_S)
    supervisor.tear_down(places, name, [Path(path) for path in now.cgroups] if now else [])


def shell_status(returncode: int) -> int:
    """Popen's -N for a signal as the shell's 128 + N."""
    return 128 - returncode if returncode < 0 else returncode
