"""The prober of a container: says when it is ready, looks whether it is well, and has PID 1 act when it is not.

    health BUNDLE PID LISTENER

One small process in the unit's control group, only where start.json has a member `health`; without a check it ends
when the container is ready, unless the payload's notifications are passed on.  PID is the payload, LISTENER the socket
of its notifications or -1.  It ends with the payload.

It counts time only while it runs itself: a container that was paused, and this process with it, is neither late nor
unwell afterwards.  For the same reason PID 1 is told to act (WATCHDOG=trigger) and has no timer of its own, which would
go on meanwhile.
"""

from __future__ import annotations

import posix as os
from _signal import SIG_IGN, SIGKILL, SIGPIPE, SIGTERM, signal
from _socket import socket
from select import POLLIN, poll
from time import monotonic

from gear.helper import asking, probe, syscalls
from gear.helper.account import NOTICE, WARNING, Account
from gear.helper.bundle import load_json
from gear.helper.failure import Failure, Step
from gear.helper.notify import notify
from gear.helper.proxy import listening
from gear.helper.relay import BATCH, PAUSE_S, Relay
from gear.helper.start import read_filter

_PIECE_S = 1.0  # a probe's time is counted in pieces of this
_SLACK_S = 1.0  # later than this, somebody kept this process from running
_PORT_S = 0.1
_SPARED = -999  # proc_pid_oom_score_adj(5); the lowest would spare it where all of the unit is to end
_AGAIN_S = 2.0


def main(arguments: list[str]) -> int:
    """Look after one container; returns when it has ended."""
    bundle, pid, listener = arguments
    # What PID 1 sends to all when the unit stops is for the payload, which has to be looked after as long as it lives.
    signal(SIGTERM, SIG_IGN)
    signal(SIGPIPE, SIG_IGN)
    step = Step()
    try:
        try:
            prober = Prober(bundle, int(pid), int(listener), step)
            prober.run()
        except OSError as error:
            raise step.failure(error) from error
    except Failure as failure:
        os.write(2, f"<3>gear: nobody looks after this container: {failure.message}\n".encode())
        notify(f"STATUS=nobody looks after this container: {failure.message}")
        return failure.status
    return 0


class Prober:
    """One container that is looked after."""

    def __init__(self, bundle: str, pid: int, listener: int, step: Step) -> None:
        step.doing = f"look after process {pid}"
        self._pid = pid
        self._ended = syscalls.pidfd_open(pid)
        self._group = _group_of("self")
        self._confirm()
        step.doing = f"read the bundle {bundle}"
        start = load_json(f"{bundle}/start.json")
        self._asked = start["health"]
        self._check = self._asked.get("check")
        self._unit = self._asked["unit"]
        self._account = Account(bundle, self._unit)
        self._filter = read_filter(start, step)
        config = load_json(f"{bundle}/config.json")
        self._owner = _outside(config)
        self._process = {**config["process"], "terminal": False}
        if self._check:
            self._process["args"] = self._check["command"]
        self._process.setdefault("oomScoreAdj", _be_spared())
        self._relay = None if listener < 0 else Relay(socket(fileno=listener))
        self._rest = 0.0  # so long nobody is heard
        self._search: asking.Program | None = None
        self._search_again = 0.0
        self._probe: probe.Probe | None = None
        self._spent = 0.0  # by the probe that runs
        self._disturbed = False
        self._next = 0.0  # until the next probe
        self._age = 0.0  # of the container
        self._failing = 0
        self._state = "starting"
        self._shown = self._why = ""
        self._said_all = False  # the probe that runs: nothing more will come
        self._ready = self._asked["ready"] == "started"
        self._poll = poll()
        self._poll.register(self._ended, POLLIN)

    def _confirm(self) -> None:
        """Raise Failure when the payload has ended: its number may be another's by now."""
        group = _group_of(self._pid)
        own = self._group.removesuffix("/prober")
        if not f"{group}/".startswith(f"{own}/"):
            raise Failure("the payload has ended")

    def run(self) -> None:
        """Until the payload has ended, or there is nothing more to do."""
        self._show()
        if self._check:
            self._account.record(self._state, self._failing, None)
        while not self._wait():
            if self._relay is not None:
                self._hear()
            if not self._ready:
                self._look_for_readiness()
            if self._check:
                self._look_after()
            elif self._ready and self._relay is None:
                return

    def _wait(self) -> bool:
        """Until something is to be done; returns whether the payload has ended.  Counts the time."""
        most = self._patience()
        hear = self._relay is not None and self._rest <= 0
        for descriptor, wanted in self._descriptors(hear):
            if wanted:
                self._poll.register(descriptor, POLLIN)
        before = monotonic()
        found = {descriptor for descriptor, _ in self._poll.poll(max(most, 0.0) * 1000 + 1)}
        passed = monotonic() - before
        for descriptor, wanted in self._descriptors(hear):
            if wanted:
                self._poll.unregister(descriptor)
        if passed > most + _SLACK_S:
            self._disturbed = True
            passed = most
        self._age += passed
        self._next -= passed
        self._spent += passed
        self._rest -= passed
        self._search_again -= passed
        if self._ended in found:
            if self._probe is not None:
                probe.kill_strays(self._probe.pid)
            return True
        if self._probe is not None and self._probe.reader in found and not self._probe.read():
            self._said_all = True
        return False

    def _descriptors(self, hear: bool) -> list[tuple[int, bool]]:
        found = []
        if self._relay is not None:
            found.append((self._relay.listener.fileno(), hear))
        if self._search is not None:
            found.append((self._search.reader, True))
        if self._probe is not None:
            found.append((self._probe.ended, True))
            found.append((self._probe.reader, not self._said_all))
        return found

    def _patience(self) -> float:
        """How long there is nothing to do unless something happens."""
        times = [3600.0]
        if self._check:
            left = self._check["timeout"] - self._spent
            times.append(min(left, _PIECE_S) if self._probe is not None else self._next)
        if not self._ready and self._asked["ready"] == "port":
            times.append(_PORT_S)
        if not self._ready and self._asked["ready"] == "log" and self._search is None:
            times.append(self._search_again)
        if self._relay is not None and self._rest > 0:
            times.append(self._rest)
        return max(min(times), 0.0)

    # What a start waits for.

    def _hear(self) -> None:
        relay = self._relay
        assert relay is not None
        if self._rest > 0:
            return
        for _ in range(BATCH):
            lines = relay.receive()
            if lines is None:
                break
            # While the unit stops, more time for a start would be more time for the stop.
            if any([line.startswith("EXTEND_") for line in lines]) and not asking.is_up(self._unit):
                continue
            self._ready = self._ready or relay.ready
            if lines:
                notify("\n".join(lines))
        else:
            self._rest = PAUSE_S
        self._show()

    def _look_for_readiness(self) -> None:
        kind = self._asked["ready"]
        if (kind == "port" and listening(self._pid, self._asked["port"])) or (
            kind == "log" and self._found()
        ):
            self._tell_ready()

    def _tell_ready(self) -> None:
        self._ready = True
        notify("READY=1")
        self._show()

    def _found(self) -> bool:
        """Whether the payload has written what is waited for."""
        if self._search is None:
            if self._search_again > 0:
                return False
            invocation = os.environ.get(b"INVOCATION_ID", b"").decode()
            namespace = self._asked.get("namespace")
            self._search = asking.search_log(self._unit, invocation, self._asked["pattern"], namespace)
            return False
        waiting = poll()
        waiting.register(self._search.reader, POLLIN)
        if not waiting.poll(0):
            return False
        found = bool(self._search.read())
        self._search.close()
        self._search = None
        if not found:
            self._search_again = _AGAIN_S
        return found

    # Whether it is well.

    def _look_after(self) -> None:
        check = self._check
        if self._probe is None:
            if self._next <= 0:
                self._begin()
            return
        waiting = poll()
        waiting.register(self._probe.ended, POLLIN)
        late = ""
        if not waiting.poll(0):
            if self._spent < check["timeout"]:
                return
            late = f"it took longer than {check['timeout']:g} s"
        running, self._probe = self._probe, None
        self._judge(running.finish(late, self._search))

    def _begin(self) -> None:
        self._spent, self._disturbed, self._said_all = 0.0, False, False
        timeout = self._check["timeout"]
        try:
            self._probe = probe.Probe(
                self._pid, self._process, self._filter, self._owner, timeout, self._confirm, self._search
            )
        except Failure as failure:
            self._judge(probe.start_failure(failure))
        except probe.TooLate:
            self._judge(probe.Result(None, f"it took longer than {timeout:g} s", b""))
        except OSError as error:  # no more processes or memory for the container
            self._judge(probe.Result(None, f"it can't be started: {error.strerror}", b""))

    def _judge(self, result: probe.Result) -> None:
        check = self._check
        gone = poll()
        gone.register(self._ended, POLLIN)
        if gone.poll(0):
            return  # how the payload ended is the result, and not that nobody answers any more
        if result.status == 0:
            self._next = check["interval"]
            self._is_healthy(result)
            return
        starting = self._state == "starting"
        self._next = check["start_interval" if starting else "interval"]
        if self._disturbed:
            return  # it stood still in the middle, and what it waited for had no time either
        self._failing += 1
        if starting and self._age < check["patience"]:
            self._account.record(self._state, self._failing, result)
        elif starting or self._failing >= check["retries"]:
            self._next = check["interval"]
            self._is_unhealthy(result)
        else:
            self._account.record(self._state, self._failing, result)

    def _is_healthy(self, result: probe.Result) -> None:
        before, self._state = self._state, "healthy"
        after_failures, self._failing = self._failing, 0
        if before != "healthy":
            self._account.state(NOTICE, "healthy")
        if before != "healthy" or after_failures:
            self._account.record(self._state, self._failing, result)
        if not self._ready and self._asked["ready"] == "healthy":
            self._tell_ready()
        self._show()

    def _is_unhealthy(self, result: probe.Result) -> None:
        before, self._state = self._state, "unhealthy"
        self._why = result.words()
        if before != "unhealthy":
            self._account.state(WARNING, "unhealthy", self._why)
        self._account.record(self._state, self._failing, result)
        self._show()
        self._failing = 0 if self._check["on_failure"] != "none" else self._failing
        self._act()

    def _act(self) -> None:
        action = self._check["on_failure"]
        # A payload that is on its way out need not be well, and must not be hurried.
        if action == "none" or not asking.is_up(self._unit):
            return
        if action == "stop":
            asking.stop(self._unit)
            return
        notify("WATCHDOG=trigger")
        # PID 1 sends the stop signal now, which the first process of a pid namespace may not even get.
        if action == "kill" or not self._can_hear(self._check["signal"]):
            syscalls.pidfd_send_signal(self._ended, SIGKILL)

    def _can_hear(self, number: int) -> bool:
        with open(f"/proc/{self._pid}/status", "rb", buffering=0) as file:
            lines = file.read().split(b"\n")
        masks = [int(line[7:], 16) for line in lines if line.startswith((b"SigCgt:", b"SigBlk:"))]
        return any([mask >> (number - 1) & 1 for mask in masks])

    # What is told.

    def _show(self) -> None:
        """Keep STATUS= current."""
        if self._check:
            text = f"unhealthy: {self._why}" if self._state == "unhealthy" else self._state
        else:
            text = "" if self._ready else "starting"
        if self._relay is not None and self._relay.status:
            text = f"{text}; {self._relay.status}" if text else self._relay.status
        if text != self._shown:
            self._shown = text
            notify(f"STATUS={text}")


def _be_spared() -> int:
    """Have the kernel end anybody else of the container first when memory runs out: nobody would notice that this
    process is gone.  Returns what holds for others, who would inherit it."""
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        before = int(file.read())
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(_SPARED))
    except PermissionError:
        pass  # a machine that is a container itself may not
    return before


def _group_of(process: int | str) -> str:
    """The control group of a process, by systemd's own hierarchy where there are several."""
    with open(f"/proc/{process}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        lines = dict([line.rstrip("\n").split(":", 2)[1:] for line in file])
    return lines.get("", lines.get("name=systemd", "")) or "/"


def _outside(config: dict) -> tuple[int, int]:  # type: ignore[type-arg]
    """The ids that the payload's user has on the host."""
    user, found = config["process"]["user"], []
    for key, kind in (("uid", "uidMappings"), ("gid", "gidMappings")):
        number = user[key]
        for entry in config["linux"].get(kind, ()):
            if entry["containerID"] <= number < entry["containerID"] + entry["size"]:
                number = entry["hostID"] + number - entry["containerID"]
                break
        found.append(number)
    return found[0], found[1]
