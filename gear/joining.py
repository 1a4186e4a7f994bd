"""A further process in a container that runs: what gear exec asks the engine for (gear/helper/enter.py).

Everything is paid for at each gear exec, so nothing is imported here that it does not need; PID 1 is asked only when
the control groups don't tell which process the container is.
"""

from __future__ import annotations

import resource
import sys
from contextlib import contextmanager

from gear import groups
from gear.errors import GearError, NotFoundError, UsageError
from gear.helper import enter, interpreter, rights
from gear.helper import tasks as _tasks  # noqa: F401 (the engine imports it later, when that is too late)
from gear.helper.bundle import Filter, load_json
from gear.helper.failure import EXIT_CHDIR, EXIT_EXEC, Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from gear.accounts import Identity
    from gear.model import Layout
    from gear.terminal import Streams

CANNOT_RUN = 126  # as a shell and docker exec say it
NOT_FOUND = 127
_INFINITY = (1 << 64) - 1
_LIMITS = [name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"]


class Wanted:
    """What is to be run, and what differs from the container's own program; None: nothing differs."""

    def __init__(
        self,
        arguments: Sequence[str],
        user: str | None,
        workdir: str | None,
        env: Mapping[str, str],
        privileged: bool,
    ) -> None:
        self.arguments = arguments
        self.user = user
        self.workdir = workdir
        self.env = env
        self.privileged = privileged


class Target:
    """The container as it was found: its payload, and what it was started with."""

    def __init__(
        self, name: str, pid: int, group: str, config: dict[str, Any], start: dict[str, Any]
    ) -> None:
        self.name = name
        self.pid = pid
        self.group = group  # the control group of its unit
        self.config = config
        self.start = start


def find(layout: Layout, name: str) -> Target:
    """The running container *name*; raises GearError when it does not run."""
    directory = layout.container(name)
    try:
        spec = load_json(f"{directory}/spec.json")
    except FileNotFoundError:
        raise NotFoundError(
            f"There is no container {name}.", hint="gear list-units --all shows what is installed."
        ) from None
    except (OSError, Failure) as error:
        raise GearError(f"The specification of {name} can't be read: {error}.") from error
    parent = groups.slice_path(str(spec.get("slice", "container.slice")))
    pid = None
    for kind in ("service", "scope"):
        group = f"{parent}/ctr-{name}.{kind}"
        pid = groups.payload(group)
        if pid is not None:
            break
    if pid is None:
        pid, group = _ask_systemd(layout, name)
    if groups.is_frozen(group):
        raise GearError(f"{name} is paused, so nothing would run in it.", hint=f"gear resume {name}")
    try:
        config, start = load_json(f"{directory}/config.json"), load_json(f"{directory}/start.json")
    except (OSError, Failure) as error:
        raise GearError(f"The files of {name} can't be read: {error}.", hint=f"gear apply {name}") from error
    return Target(name, pid, group, config, start)


def confirm(target: Target) -> None:
    """Raise Failure when the payload has ended: its number may be that of a process of the host by now."""
    if not groups.contains(target.pid, target.group):
        raise Failure(f"{target.name} has ended meanwhile")


def membership_of(target: Target) -> groups.Membership:
    """The control groups of the payload; raises GearError when it has ended."""
    try:
        return groups.Membership(target.pid)
    except OSError:
        raise GearError(f"{target.name} has ended meanwhile.") from None


def _ask_systemd(layout: Layout, name: str) -> tuple[int, str]:
    from gear import inside
    from gear.systemd import Manager

    with Manager() as manager:
        found = inside.running(manager, layout, name)
        return found.pid, found.group


def process(target: Target, wanted: Wanted, *, terminal: bool) -> tuple[dict[str, Any], Identity | None]:
    """The OCI process object for *wanted*, and who it is when that is not the container's own user."""
    own = target.config["process"]
    result = {key: own[key] for key in ("noNewPrivileges", "apparmorProfile", "selinuxLabel") if key in own}
    result |= {"args": list(wanted.arguments), "cwd": wanted.workdir or own["cwd"], "user": own["user"]}
    result["terminal"] = terminal
    if terminal:
        from gear.terminal import console_size

        result["consoleSize"] = console_size()
    environment = dict(entry.partition("=")[::2] for entry in own.get("env", ()))
    if terminal:
        environment["TERM"] = "xterm"
    capabilities, identity = own.get("capabilities", {}), None
    if wanted.user is not None:
        identity = _identity(target, wanted.user)
        result["user"] = {
            "uid": identity.uid, "gid": identity.gid, "additionalGids": list(identity.groups),
            **{key: own["user"][key] for key in ("umask",) if key in own["user"]},
        }  # fmt: skip
        environment["HOME"] = identity.home
    if wanted.privileged:
        every = [f"CAP_{name}" for name in rights.CAPABILITIES]
        capabilities = {kind: every for kind in ("bounding", "effective", "permitted")}
    elif wanted.user is not None:
        # Docker's rule: only root holds capabilities; nobody gets more than the container has.
        held = capabilities.get("bounding", []) if result["user"]["uid"] == 0 else []
        capabilities = {"bounding": capabilities.get("bounding", []), "effective": held, "permitted": held}
    result["capabilities"] = capabilities
    result["rlimits"] = _limits(target.pid)
    if (score := _oom_score(target.pid)) != _oom_score("self"):
        result["oomScoreAdj"] = score
    environment.update(wanted.env)
    result["env"] = [f"{key}={value}" for key, value in environment.items()]
    return result, identity


def _identity(target: Target, user: str) -> Identity:
    """Who *user* is, by the container's own files as they are now."""
    from gear import accounts, inroot

    try:
        with inroot.opened(inroot.root_of(target.pid)) as root:
            return accounts.lookup(lambda path: _accounts_file(root, path, user), user, "container")
    except FileNotFoundError:
        raise GearError(f"{target.name} is not running.", hint=f"gear start {target.name}") from None


def _accounts_file(root: int, path: str, user: str) -> bytes | None:
    """A file of accounts; for numbers, which are valid without, none that can't be used."""
    from gear import inroot

    try:
        return inroot.read_file(root, path)
    except GearError:
        if not user.replace(":", "").isdigit():
            raise
        return None


def _oom_score(process: int | str) -> int:
    with open(f"/proc/{process}/oom_score_adj", encoding="ascii") as file:
        return int(file.read())


def _limits(pid: int) -> list[dict[str, Any]]:
    """The resource limits of the container's program that are not this process's own (/proc/PID/limits).

    Not by prlimit(2), for which a root without CAP_SYS_RESOURCE has no right.
    """
    found = []
    with open(f"/proc/{pid}/limits", encoding="ascii") as file:
        # A heading, then a line for each limit in the order of their numbers; names are 26 characters wide.
        lines = file.read().splitlines()[1:]
    for name in _LIMITS:
        kind = getattr(resource, name)
        soft, hard = (
            _INFINITY if word == "unlimited" else int(word) for word in lines[kind][26:].split()[:2]
        )
        ours = [_INFINITY if value == resource.RLIM_INFINITY else value for value in resource.getrlimit(kind)]
        if [soft, hard] != ours:
            found.append({"type": name, "soft": soft, "hard": hard})
    return found


def protect(target: Target) -> None:
    """Keep the interpreter from a container whose root is the host's; may start this program again."""
    try:
        shared = interpreter.shares_ids_with(target.pid)
    except OSError:  # it has ended, which is told later
        return
    if shared:
        interpreter.protect()


def run(target: Target, wanted: Wanted, streams: Streams) -> int:
    """Make the process and return its pid, a child of ours, once it has executed its program; raises GearError."""
    try:
        document, _ = process(target, wanted, terminal=streams.terminal)
    except (FileNotFoundError, ProcessLookupError):
        raise GearError(f"{target.name} has ended meanwhile.") from None
    filter_ = None if wanted.privileged else _filter(target)
    membership = membership_of(target)
    uid, gid = (
        _outside(target, document["user"][key], kind) for key, kind in (("uid", "uid"), ("gid", "gid"))
    )
    streams.give_to(uid, gid)
    entry = enter.Entry(
        filter_=filter_,
        membership=membership,
        terminal=streams.take_master,
        confirm=lambda: confirm(target),
    )
    try:
        with streams.in_place(), no_imports(terminal=streams.terminal):
            return enter.enter(target.pid, document, entry)
    except Failure as failure:
        error = GearError(f"In {target.name}: {failure.message}.")
        if failure.status == EXIT_EXEC:
            missing = "no such program" in failure.message or "there is no such file" in failure.message
            error.exit_status = NOT_FOUND if missing else CANNOT_RUN
            if wanted.arguments[0].startswith("-"):
                error.hint = f"Options stand before {target.name}."
        elif failure.status == EXIT_CHDIR:
            error.exit_status = CANNOT_RUN
        raise error from failure


@contextmanager
def no_imports(*, terminal: bool) -> Iterator[None]:
    """While a process of this program is in the container's mount namespace, no module may be looked for: it would be
    found in the container's files, and run with the host's rights (CVE-2019-14271)."""
    if terminal:
        import gear.helper.terminal  # noqa: F401 (so that the engine has it)
    finders = sys.meta_path[:]
    sys.meta_path.clear()
    try:
        yield
    finally:
        sys.meta_path[:] = finders


def _outside(target: Target, number: int, kind: str) -> int:
    """An id of the container as the host has it."""
    for entry in target.config["linux"].get(f"{kind}Mappings", ()):
        if entry["containerID"] <= number < entry["containerID"] + entry["size"]:
            return int(entry["hostID"] + number - entry["containerID"])
    return number


def _filter(target: Target) -> Filter | None:
    path = target.start.get("seccomp")
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            program = file.read()
    except OSError as error:
        raise GearError(f"The seccomp filter of {target.name} can't be read: {error.strerror}.") from error
    if not program or len(program) % 8:
        raise GearError(f"The seccomp filter {path} is damaged.", hint=f"gear apply {target.name}")
    return Filter(program)


def working_directory(text: str) -> str:
    """*text* as a directory to start in; raises UsageError."""
    if not text.startswith("/") or "\0" in text:
        raise UsageError(
            f"The working directory must be an absolute path in the container, not {text[:200]!r}."
        )
    return text
