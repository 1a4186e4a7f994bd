"""`exec`: one more process in a container that runs, and waiting for processes in the caller's place.

Joining the namespaces is gear/helper/enter.py's.
"""

from __future__ import annotations

import os
from _signal import SIGCHLD, SIGCONT, SIGKILL, SIGSTOP, SIGURG, SIGWINCH, signal

from gear.helper import interpreter
from gear.helper.failure import Failure
from gear.runtime import cgroups, lifecycle, validate
from gear.runtime.document import load_json
from gear.runtime.state import Container, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gear.runtime.arguments import Parsed
    from gear.runtime.report import Log

_NOT_FORWARDED = {SIGKILL, SIGSTOP, SIGCHLD, SIGURG, SIGWINCH, SIGCONT, 32, 33}  # 32, 33: libc's own


def process_of(options: Parsed, command: list[str], config: dict[str, Any]) -> dict[str, Any]:
    """The process object: a file's, or the container's own with what the options change."""
    if path := options.get("process"):
        try:
            process = load_json(path)
        except OSError as error:
            raise Failure(f"can't read {path}: {error.strerror}") from error
    else:
        process = dict(config.get("process") or {"user": {"uid": 0, "gid": 0}, "cwd": "/"})
        if not command:
            raise Failure("exec needs a command, or --process FILE", 2)
        process["args"] = command
        process["terminal"] = options.flag("tty")
        process.pop("consoleSize", None)
        _change(process, options)
    validate.check_process(process)
    process["user"] = {"uid": 0, "gid": 0, **(process.get("user") or {})}
    return process


def _change(process: dict[str, Any], options: Parsed) -> None:
    if options.get("cwd"):
        process["cwd"] = options.get("cwd")
    if options.lists["env"]:
        process["env"] = [*(process.get("env") or ()), *options.lists["env"]]
    user = dict(process.get("user") or {"uid": 0, "gid": 0})
    if text := options.get("user"):
        uid, _, gid = text.partition(":")
        if not uid.isdigit() or (gid and not gid.isdigit()):
            raise Failure(f"--user takes numbers as UID[:GID], not {text}", 2)
        user["uid"], user["gid"] = int(uid), int(gid or user.get("gid", 0))
    if options.lists["additional-gids"]:
        user["additionalGids"] = [
            int(gid) for text in options.lists["additional-gids"] for gid in text.split(",")
        ]
    process["user"] = user
    if options.lists["cap"]:
        sets = process.get("capabilities") or {}
        process["capabilities"] = {
            name: list(dict.fromkeys([*(sets.get(name) or ()), *map(_capability, options.lists["cap"])]))
            for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
            if name in ("bounding", "effective", "permitted") or sets.get(name)
        }
    if options.flag("no-new-privs"):
        process["noNewPrivileges"] = True
    for option, member in (("apparmor", "apparmorProfile"), ("process-label", "selinuxLabel")):
        if options.get(option):
            process[member] = options.get(option)


def _capability(name: str) -> str:
    return name if name.upper().startswith("CAP_") else f"CAP_{name.upper()}"


def protect(container: Container) -> None:
    """Keep this program's interpreter from a container whose root is the host's."""
    try:
        shared = interpreter.shares_ids_with(container.pid)
    except OSError:  # it has ended, which is told later
        return
    if shared:
        interpreter.protect()


def execute(container: Container, options: Parsed, command: list[str], log: Log) -> int:
    """Run a process in a container; returns its exit status, or 0 at once when it is detached."""
    from gear.helper import enter as engine
    from gear.runtime import console
    from gear.runtime.events import Creation

    status = lifecycle.status(container)
    if status == "paused" and not options.flag("ignore-paused"):
        raise Failure(f"container {container.name} is paused: resume it, or use --ignore-paused")
    if status not in ("running", "created", "paused"):
        raise Failure(f"container {container.name} is not running: it is {status}")
    config = container.config()
    process = process_of(options, command, config)
    console_socket, detached = options.get("console-socket"), options.flag("detach")
    if process.get("terminal") and detached and not console_socket:
        raise Failure("a terminal needs --console-socket here, since nobody else would have it")
    if process.get("terminal") and not console_socket:
        process["consoleSize"] = console.size() or process.get("consoleSize")
    masters: list[int] = []

    def terminal(descriptor: int) -> None:
        if console_socket:
            console.send(console_socket, descriptor)
        else:
            masters.append(os.dup(descriptor))

    first = container.pidfd()  # also: it is still the container's, and no other process of that number
    entry = engine.Entry(
        filter_=lifecycle.seccomp(config, os.path.dirname(container.directory)),
        keep=kept(options),
        membership=cgroups.Membership(below(container.data.get("group") or {}, options.get("cgroup"))),
        terminal=terminal,
        listener=Creation(container, config, "", log).listener,
    )
    child = engine.enter(container.pid, process, entry)
    os.close(first)
    if path := options.get("pid-file"):
        replace(os.path.abspath(path), str(child).encode())
        os.chmod(path, 0o644)
    return 0 if detached else wait(child, masters[0] if masters else -1)


def below(group: dict[str, Any], path: str) -> dict[str, Any]:
    """The group *path* inside *group*, for exec --cgroup."""
    path = path.strip("/")
    if not path:
        return group
    if ".." in path.split("/"):
        raise Failure(f"--cgroup can't be {path}: it leads out of the container's group")
    inner: dict[str, Any] = {}
    if group.get("unified"):
        inner["unified"] = f"{group['unified']}/{path}"
    if group.get("controllers"):
        inner["controllers"] = {name: f"{place}/{path}" for name, place in group["controllers"].items()}
    for directory in cgroups.directories(inner):
        if not os.path.isdir(directory):
            raise Failure(f"the container has no control group {path}")
    return inner


def kept(options: Parsed) -> int:
    """How many descriptors from 3 up the process keeps: those of --preserve-fds and of socket activation."""
    count = options.number("preserve-fds")
    listening = os.environ.get("LISTEN_FDS", "")
    if listening.isdigit():
        count += int(listening)
    return count


def wait(child: int, master: int) -> int:
    """Wait for a child, hand on the signals that come meanwhile, and serve its terminal; its exit status as a
    shell tells it."""
    ended = False

    def forward(number: int, _: object) -> None:
        if not ended:
            os.kill(child, number)

    for number in range(1, 65):
        if number not in _NOT_FORWARDED:
            signal(number, forward)
    if master >= 0:
        from gear.runtime.console import Proxy

        proxy = Proxy(master)
        descriptor = os.pidfd_open(child)
        proxy.start()
        try:
            proxy.serve(descriptor)
        finally:
            proxy.stop()
            os.close(descriptor)
    _, status = os.waitpid(child, 0)
    ended = True
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
