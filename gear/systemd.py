"""The client of PID 1 on the system bus.

Not the text of units (gear/units.py).  The only module that imports pystemd, which is the fastest way to the bus
from a short-lived program; its known traps are kept inside `Manager`: no introspection, no `wait()` (it holds the
interpreter lock), callbacks kept alive, closed exactly once.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

from gear.errors import GearError, HostError
from gear.records import dataclass

_DESTINATION = b"org.freedesktop.systemd1"
_PATH = b"/org/freedesktop/systemd1"
_MANAGER = b"org.freedesktop.systemd1.Manager"
_UNIT = "org.freedesktop.systemd1.Unit"
# D-Bus types of the properties that transient units get (org.freedesktop.systemd1(5)); pystemd's own table lacks many.
_SIGNATURES = {
    name: signature
    for signature, names in {
        b"s": "CollectMode Description DevicePolicy KillMode ManagedOOMMemoryPressure Slice",
        b"u": "ManagedOOMMemoryPressureLimit",
        b"i": "KillSignal",
        b"b": "CPUAccounting DefaultDependencies Delegate IOAccounting MemoryAccounting TasksAccounting",
        b"t": (
            "BlockIOWeight CPUQuotaPerSecUSec CPUQuotaPeriodUSec CPUShares CPUWeight IOWeight MemoryHigh MemoryLimit "
            "MemoryLow MemoryMax MemoryMin MemorySwapMax TasksMax TimeoutStopUSec"
        ),
        b"au": "PIDs",
        b"ay": "AllowedCPUs AllowedMemoryNodes",
        b"a(st)": "IODeviceWeight IOReadBandwidthMax IOReadIOPSMax IOWriteBandwidthMax IOWriteIOPSMax",
        b"a(ss)": "DeviceAllow",
    }.items()
    for name in names.split()
}


# Calls wait for PID 1, which answers nobody while it reads units again: as long as systemctl(1) gives a daemon-reload.
_TIMEOUT = ("SYSTEMD_BUS_TIMEOUT", "3min")

# Where PID 1 writes properties that are set until the next boot (systemd.unit(5)).
_RUNTIME_SETTINGS = "/run/systemd/system.control"


class UnitError(GearError):
    """systemd refused a request about a unit."""


@dataclass(frozen=True)
class UnitState:
    """One row of ListUnitsByPatterns (org.freedesktop.systemd1(5))."""

    name: str
    load: str
    active: str
    sub: str


def booted() -> bool:
    """Whether systemd is PID 1 here: sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


class Manager:
    """A connection to PID 1; use it as a context manager."""

    def __init__(self) -> None:
        if not booted():
            raise HostError(
                "systemd is not running on this machine, so there is nobody to run containers.",
                hint="Try gear on a test host: contrib/testhost boot bookworm",
            )
        try:
            DBus, apply_signature, path_encode = _binding()
        except ImportError as error:
            raise HostError(
                f"The Python module pystemd can't be loaded: {error}.", hint="apt-get install python3-pystemd"
            ) from error
        self._apply_signature = apply_signature
        self._path_encode = path_encode
        self._results: dict[str, str] = {}
        self._bus = DBus()
        try:
            _open(self._bus)
        except Exception as error:
            raise HostError(
                f"The system bus can't be reached: {_reason(error)}.", hint="systemctl status dbus.socket"
            ) from error
        self._open = True
        self._subscribed = False

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            self._open = False
            self._bus.close()

    def _call(self, method: str, signature: str = "", *arguments: Any, unit: str = "") -> Any:
        """Call a method of the manager; raises UnitError with systemd's own words."""
        encoded = self._apply_signature(signature.encode(), list(arguments)) if signature else []
        try:
            return self._bus.call_method(_DESTINATION, _PATH, _MANAGER, method.encode(), encoded).body
        except Exception as error:
            what = f"{method} of {unit}" if unit else method
            raise UnitError(f"systemd refused {what}: {_reason(error)}.") from error

    def reload(self) -> None:
        """Read all unit files again: `systemctl daemon-reload`."""
        self._call("Reload")

    def start(self, units: Iterable[str]) -> dict[str, str]:
        """Start *units* at once and wait; the result of each job by unit: `done`, `failed`, `timeout` and so on."""
        return self._jobs("StartUnit", units)

    def stop(self, units: Iterable[str]) -> dict[str, str]:
        """Stop *units* at once and wait; the result of each job by unit."""
        return self._jobs("StopUnit", self._thawed(units))

    def stop_alone(self, units: Iterable[str]) -> dict[str, str]:
        """Stop *units* and nothing that depends on them, as the sockets on which PID 1 listens for them do."""
        return self._jobs("StopUnit", self._thawed(units), mode="ignore-dependencies")

    def restart(self, units: Iterable[str]) -> dict[str, str]:
        """Restart *units* at once and wait; the result of each job by unit."""
        return self._jobs("RestartUnit", self._thawed(units))

    def reload_units(self, units: Iterable[str]) -> dict[str, str]:
        """Have *units* read their configuration again, and wait; the result of each job by unit."""
        return self._jobs("ReloadUnit", units)

    def reload_or_restart(self, units: Iterable[str]) -> dict[str, str]:
        """Reload *units* at once, start those that are not active, and wait; the result of each job by unit."""
        return self._jobs("ReloadOrRestartUnit", units)

    def _thawed(self, units: Iterable[str]) -> list[str]:
        """*units*, none of them frozen any more: systemd refuses to stop those (252 and 257)."""
        wanted = list(units)
        for unit in wanted:
            with suppress(UnitError):
                if self.is_frozen(unit):
                    self.thaw(unit)
        return wanted

    def _jobs(self, method: str, units: Iterable[str], *, mode: str = "replace") -> dict[str, str]:
        self._subscribe()
        jobs: dict[str, str] = {}
        outcome: dict[str, str] = {}
        for unit in units:
            try:
                jobs[unit] = _string(self._call(method, "ss", unit.encode(), mode.encode(), unit=unit))
            except UnitError as error:
                outcome[unit] = error.message
        for unit, job in jobs.items():
            outcome[unit] = self._wait(job)
        return outcome

    def _subscribe(self) -> None:
        if self._subscribed:
            return
        results = self._results

        def job_removed(message: Any, error: Any = None, userdata: Any = None) -> None:
            message.process_reply(True)
            _, job, _, result = message.body
            results[_string(job)] = _string(result)

        # pystemd does not keep the callback alive; an attribute of this object does.
        self._callback = job_removed
        self._bus.match_signal(_DESTINATION, _PATH, _MANAGER, b"JobRemoved", job_removed)
        self._call("Subscribe")
        self._subscribed = True

    def _wait(self, job: str) -> str:
        """Wait for the end of *job*.  systemd bounds every job by the unit's own timeouts, so there is no other
        deadline; the bus going away ends the wait with an error."""
        while job not in self._results:
            if not self._bus.process().is_empty():
                continue
            # Signals that came in meanwhile are queued in the library, not in the socket: drained above first.
            select.select([self._bus.get_fd()], [], [], 5.0)
        return self._results.pop(job)

    def start_transient(self, unit: str, properties: Sequence[tuple[str, Any]]) -> None:
        """Make and start a unit that exists only while it is used; raises UnitError unless its job is done."""
        self._subscribe()
        arguments = [(ord("s"), unit.encode()), (ord("s"), b"fail"), *self._variants(properties)]
        arguments += [(ord("a"), b"(sa(sv))"), (-1, None)]
        try:
            reply = self._bus.call_method(_DESTINATION, _PATH, _MANAGER, b"StartTransientUnit", arguments)
        except Exception as error:
            raise UnitError(f"systemd refused to make {unit}: {_reason(error)}.") from error
        result = self._wait(_string(reply.body))
        if result != "done":
            raise UnitError(f"systemd could not start {unit}: the job's result is {result}.")

    def set_properties(self, unit: str, properties: Sequence[tuple[str, Any]]) -> None:
        """Change properties of a unit that runs, until it is gone."""
        arguments = [(ord("s"), unit.encode()), (ord("b"), True), *self._variants(properties)]
        try:
            self._bus.call_method(_DESTINATION, _PATH, _MANAGER, b"SetUnitProperties", arguments)
        except Exception as error:
            raise UnitError(f"systemd refused to change {unit}: {_reason(error)}.") from error

    def apply_limits(self, unit: str) -> None:
        """Have what runs of *unit* get the limits of its unit file; for files that reload() has read.

        systemd 252 does so in reload() itself; 257 keeps what was in force until a property is set (systemd's pull
        request 38190), and applies all of them then.  So one is set to what it is, which writes a drop-in, and that
        goes again.  When gear is killed meanwhile, it stays until the next boot or change, and says nothing new.
        """
        if self.get(unit, "ActiveState", "s") in ("inactive", "failed"):
            return
        directory = f"{_RUNTIME_SETTINGS}/{unit}.d"
        value = self.get(unit, "TasksAccounting", "b", _interface_of(unit))
        try:
            self.set_properties(unit, [("TasksAccounting", bool(value))])
        finally:
            with suppress(OSError):  # not there, or others have something beside it
                os.unlink(f"{directory}/50-TasksAccounting.conf")
                os.rmdir(directory)
                os.rmdir(_RUNTIME_SETTINGS)
        self.reload()

    def _variants(self, properties: Sequence[tuple[str, Any]]) -> list[tuple[int, Any]]:
        """An array of (name, variant) as pystemd's marshalling wants it."""
        words: list[tuple[int, Any]] = [(ord("a"), b"(sv)")]
        for name, value in properties:
            signature = _SIGNATURES[name]
            words += [(ord("r"), b"sv"), (ord("s"), name.encode()), (ord("v"), signature)]
            words += self._apply_signature(signature, [_encoded(value)])
            words += [(-1, None), (-1, None)]
        return [*words, (-1, None)]

    def list_units(self, patterns: Sequence[str]) -> list[UnitState]:
        """The loaded units that match one of *patterns* (glob(7))."""
        rows = self._call("ListUnitsByPatterns", "asas", [], [pattern.encode() for pattern in patterns])
        return [UnitState(_string(row[0]), *(_string(item) for item in row[2:5])) for row in rows or []]

    def load(self, unit: str) -> str:
        """The object path of *unit*, which is loaded if it was not."""
        return _string(self._call("LoadUnit", "s", unit.encode(), unit=unit))

    def properties(self, unit: str, interface: str = "Unit") -> dict[str, Any]:
        """All properties of *unit* on one interface, `Unit` or `Service`; strings decoded."""
        return self._get_all(
            self._path_encode(_PATH + b"/unit", unit.encode()), f"org.freedesktop.systemd1.{interface}"
        )

    def look(self, unit: str) -> tuple[dict[str, Any], str]:
        """All properties of *unit* whatever their interface, as properties() gives them, and its file_state().

        PID 1 forgets a unit that nobody needs as soon as it has answered, so each further call has it read files again.
        And what the file's state is takes it longest, so that is asked for alone only of a unit that PID 1 had loaded:
        then the property is as old as that.
        """
        loaded = self.list_units([unit])
        found = self._get_all(self._path_encode(_PATH + b"/unit", unit.encode()), "")
        return found, self.file_state(unit) if loaded else str(found.get("UnitFileState", ""))

    def _get_all(self, path: bytes, interface: str) -> dict[str, Any]:
        arguments = self._apply_signature(b"s", [interface.encode()])
        try:
            reply = self._bus.call_method(
                _DESTINATION, path, b"org.freedesktop.DBus.Properties", b"GetAll", arguments
            )
        except Exception as error:
            raise UnitError(f"systemd gives no properties of {path.decode()}: {_reason(error)}.") from error
        body = _decoded(reply.body)
        return body if isinstance(body, dict) else {}

    def get(self, unit: str, name: str, signature: str, interface: str = _UNIT) -> Any:
        """One property of *unit*."""
        path = self._path_encode(_PATH + b"/unit", unit.encode())
        try:
            value = self._bus.get_property(
                _DESTINATION, path, interface.encode(), name.encode(), signature.encode()
            )
        except Exception as error:
            raise UnitError(f"systemd gives no property {name} of {unit}: {_reason(error)}.") from error
        return _decoded(value)

    def own(self, unit: str, name: str, signature: str) -> Any:
        """One property that only units of its type have."""
        return self.get(unit, name, signature, _interface_of(unit))

    def file_state(self, unit: str) -> str:
        """`enabled`, `disabled`, `masked` and so on, as `systemctl is-enabled` says; `` when there is no file."""
        try:
            return _string(self._call("GetUnitFileState", "s", unit.encode(), unit=unit))
        except UnitError:
            return ""

    def reset_failed(self, unit: str) -> None:
        """Forget that *unit* failed, and how often it was started; also of one that is not loaded."""
        with suppress(UnitError):
            self._call("ResetFailedUnit", "s", unit.encode(), unit=unit)

    def kill(self, unit: str, signal: int, who: str = "main") -> None:
        """Send *signal* to the main process of *unit*, or to `all` of them."""
        self._call("KillUnit", "ssi", unit.encode(), who.encode(), signal, unit=unit)

    def freeze(self, unit: str) -> None:
        """Stop every process of *unit* from running until thaw(); returns once they stand still."""
        self._call("FreezeUnit", "s", unit.encode(), unit=unit)

    def thaw(self, unit: str) -> None:
        """Let a frozen unit run again."""
        self._call("ThawUnit", "s", unit.encode(), unit=unit)

    def is_frozen(self, unit: str) -> bool:
        """Whether *unit* was frozen, or is about to be."""
        return str(self.get(unit, "FreezerState", "s")) in ("frozen", "freezing")

    def search_path(self) -> list[str]:
        """The directories in which PID 1 looks for unit files."""
        value = self._bus.get_property(_DESTINATION, _PATH, _MANAGER, b"UnitPath", b"as")
        found = _decoded(value)
        return [found] if isinstance(found, str) else list(found or [])


def _interface_of(unit: str) -> str:
    """The interface of what only units of its type have."""
    return f"org.freedesktop.systemd1.{unit.rpartition('.')[2].capitalize()}"


def _binding() -> tuple[Any, Any, Any]:
    """What of pystemd talks to the bus: its class DBus, and two functions; raises ImportError.

    That is a module in C.  The package around it imports lxml, to read introspection, and it imports pprint, for the
    message of one error: 25 ms, which is half of what a verb may take.  So it finds an empty package, and no pprint.
    """
    stand_ins = {"pprint": ModuleType("pprint"), "pystemd": ModuleType("pystemd")}
    vars(stand_ins["pprint"])["pformat"] = repr
    found = PathFinder.find_spec("pystemd")
    stand_ins["pystemd"].__path__ = list(found.submodule_search_locations or ()) if found else []
    put = {name for name, module in stand_ins.items() if sys.modules.setdefault(name, module) is module}
    try:
        from pystemd.dbuslib import DBus, apply_signature, path_encode
    finally:
        for name in put:
            del sys.modules[name]
    return DBus, apply_signature, path_encode


def _open(bus: Any) -> None:
    """Connect, with _TIMEOUT for each call unless the caller's environment has another.

    pystemd has no word for it.  The library reads the variable with the connection's first call, in open(), and keeps
    it (sd_bus_get_method_call_timeout(3)); so no program that is started later sees it.
    """
    name, value = _TIMEOUT
    missing = name not in os.environ
    if missing:
        os.environ[name] = value
    try:
        bus.open()
    finally:
        if missing:
            del os.environ[name]


def _encoded(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="surrogateescape")
    if isinstance(value, (list, tuple)):
        return type(value)(_encoded(item) for item in value)
    return value


def _string(value: Any) -> str:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return _string(value)
    if isinstance(value, dict):
        return {_decoded(key): _decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_decoded(item) for item in value)
    return value


def _reason(error: Exception) -> str:
    """systemd's own words in an exception of pystemd."""
    message = getattr(error, "err_message", "") or str(error)
    return _string(message).strip().rstrip(".")
