"""`gear-oci`: the command line of the OCI runtime, as podman, containerd and buildah call runtimes.

One table of verbs with their options; each verb imports what it needs.  Errors are one line on standard error, and
one in the file of --log.  The exit status is 0, 1 for a failure, 2 for a wrong request; `run` and `exec` give the
process's own, and 255 when `exec` could not start one.
"""

from __future__ import annotations

import os
import sys

from gear import __version__
from gear.helper import interpreter
from gear.helper.failure import EXIT_EXEC, Failure
from gear.runtime.arguments import EXIT_USAGE, Option, Parsed, help_text, parse
from gear.runtime.report import Log
from gear.runtime.state import DEFAULT_ROOT, OCI_VERSION, check_id, load, names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gear.runtime.state import Container

_HELP = Option("help,h", "", "show this")
_FORCE = Option("force,f", "", "end it first if it runs; what does not exist is no error")
_DETACH = Option("detach,d", "", "don't wait for the process")
_CONSOLE = Option("console-socket", "SOCKET", "send the terminal's master to this socket")
_PID_FILE = Option("pid-file", "FILE", "write the process's pid there")
_KEEP_FDS = Option("preserve-fds", "N", "let the process have N descriptors from 3 up")

GLOBAL = (
    Option("root", "DIR", f"where the state is kept; {DEFAULT_ROOT} if not given"),
    Option("log", "FILE", "write errors and warnings there as well"),
    Option("log-format", "FORMAT", "text or json"),
    Option("log-level", "LEVEL", "debug, info, warning or error"),
    Option("debug", "", "--log-level debug"),
    Option("systemd-cgroup", "", "--cgroup-manager systemd"),
    Option("cgroup-manager", "NAME", "cgroupfs (the default), systemd or disabled"),
    Option("rootless", "WORD", "accepted, and has no effect"),
    Option("version,v", "", "show the version"),
    _HELP,
)
_CREATE = (
    Option("bundle,b", "DIR", "the bundle; the current directory if not given"),
    Option("config,f", "FILE", "another file than the bundle's config.json"),
    _CONSOLE,
    _PID_FILE,
    _KEEP_FDS,
    Option("no-pivot", "", "accepted, and has no effect: the root is always changed by pivot_root(2)"),
    Option("no-new-keyring", "", "stay in the caller's session keyring"),
)
_EXEC = (
    Option("process,p", "FILE", "the process object as JSON; no command then"),
    Option("tty,t", "", "give the process a terminal"),
    Option("cwd", "DIR", "its working directory"),
    Option("env,e", "K=V", "one more environment variable", many=True),
    Option("user,u", "UID[:GID]", "who it runs as"),
    Option("additional-gids,g", "GID", "one more group", many=True),
    Option("cap,c", "NAME", "one more capability", many=True),
    Option("no-new-privs", "", "execve(2) gives it no more rights"),
    Option("apparmor", "NAME", "its AppArmor profile"),
    Option("process-label", "LABEL", "its SELinux label"),
    _DETACH,
    _PID_FILE,
    _CONSOLE,
    _KEEP_FDS,
    Option("cgroup", "PATH", "a group below the container's"),
    Option("ignore-paused", "", "also in a container that is paused"),
)

# In the form that callers of crun look at.
_PARTS = "+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF"


class Call:
    """One call of the program: the options of the whole, those of the verb, and its words."""

    def __init__(self, whole: Parsed, options: Parsed, log: Log) -> None:
        self.options, self.words, self.log = options, options.words, log
        self.root = os.path.abspath(whole.get("root", DEFAULT_ROOT))
        self.manager = "systemd" if whole.flag("systemd-cgroup") else whole.get("cgroup-manager", "cgroupfs")
        if self.manager not in ("cgroupfs", "systemd", "disabled"):
            raise Failure(
                f"--cgroup-manager is cgroupfs, systemd or disabled, not {self.manager}", EXIT_USAGE
            )

    @property
    def name(self) -> str:
        """The container's id, which is the first word."""
        return check_id(self.words[0] if self.words else "")


def _create(call: Call) -> int:
    _make(call, detached=True)
    return 0


def _make(call: Call, *, detached: bool) -> int:
    from gear.runtime import execute, lifecycle, notify

    request = lifecycle.Request(call.root, call.name, call.options.get("bundle", "."), call.log)
    request.config, request.manager = call.options.get("config"), call.manager
    if lifecycle.shares_ids(request):
        interpreter.protect()
    request.pid_file, request.console_socket = (
        call.options.get("pid-file"),
        call.options.get("console-socket"),
    )
    request.keep_fds, request.detached = execute.kept(call.options), detached
    request.new_keyring = not call.options.flag("no-new-keyring")
    request.notify = notify.outside()
    _, master = lifecycle.create(request)
    return master


def _start(call: Call) -> int:
    _begin(call, load(call.root, call.name), detached=True)
    return 0


def _begin(call: Call, container: Container, *, detached: bool) -> None:
    """Start a container, and tell the caller when it is ready if that is wanted: at once, or while it runs."""
    from gear.runtime import lifecycle, notify

    readiness = lifecycle.start(container, call.log)
    path = notify.outside()
    if readiness is None or not path:
        return
    if detached:
        notify.forward(readiness, path, call.log)
    elif os.fork() == 0:
        try:
            notify.forward(readiness, path, call.log)
        finally:
            os._exit(0)


def _run(call: Call) -> int:
    from gear.runtime import execute, lifecycle

    detached = call.options.flag("detach")
    master = _make(call, detached=detached)
    container = load(call.root, call.name)
    try:
        _begin(call, container, detached=detached)
    except Failure:
        lifecycle.delete(call.root, call.name, call.log, force=True)
        raise
    if detached:
        return 0
    try:
        return execute.wait(container.data["pid"], master)
    finally:
        if not call.options.flag("keep"):
            lifecycle.delete(call.root, call.name, call.log, force=True)


def _state(call: Call) -> int:
    from gear.runtime import show

    print(show.state(load(call.root, call.name)))
    return 0


def _kill(call: Call) -> int:
    from gear.runtime import lifecycle

    number = _signal_number(call.words[1] if len(call.words) > 1 else "TERM")
    for name in _matching(call):
        lifecycle.kill(load(call.root, name), number, everything=call.options.flag("all"))
    return 0


def _signal_number(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < 65:
        return int(text)
    import _signal

    name = text.upper().removeprefix("SIG")
    base, plus, offset = name.partition("+")
    found = getattr(_signal, f"SIG{base}", None)
    if isinstance(found, int) and base.isalnum() and (not plus or (base == "RTMIN" and offset.isdigit())):
        return int(found) + int(offset or 0)
    raise Failure(f"there is no signal {text}", EXIT_USAGE)


def _matching(call: Call) -> list[str]:
    """The container that was named, or with --regex all whose id the expression matches."""
    if not call.options.flag("regex"):
        return [call.name]
    import re

    try:
        pattern = re.compile(call.words[0] if call.words else "")
    except re.error as error:
        raise Failure(f"{call.words[0]} is not a regular expression: {error}", EXIT_USAGE) from error
    return [name for name in names(call.root) if pattern.search(name)]


def _delete(call: Call) -> int:
    from gear.runtime import lifecycle

    for name in _matching(call):
        lifecycle.delete(call.root, name, call.log, force=call.options.flag("force"))
    return 0


def _exec(call: Call) -> int:
    from gear.runtime import execute

    words = call.words[2:] if call.words[1:2] == ["--"] else call.words[1:]
    try:
        container = load(call.root, call.name)
        execute.protect(container)
        return execute.execute(container, call.options, words, call.log)
    except Failure as failure:
        if failure.status != EXIT_USAGE:
            failure.status = 255
        raise


def _list(call: Call) -> int:
    from gear.runtime import show

    print(show.listing(call.root, _form(call, "table"), quiet=call.options.flag("quiet")))
    return 0


def _form(call: Call, default: str) -> str:
    form = call.options.get("format", default)
    if form not in ("table", "json"):
        raise Failure(f"--format is table or json, not {form}", EXIT_USAGE)
    return form


def _ps(call: Call) -> int:
    from gear.runtime import show

    print(show.processes(load(call.root, call.name), _form(call, "table")))
    return 0


def _pause(call: Call) -> int:
    return _freeze(call, True)


def _resume(call: Call) -> int:
    return _freeze(call, False)


def _freeze(call: Call, frozen: bool) -> int:
    from gear.runtime import lifecycle

    lifecycle.freeze(load(call.root, call.name), frozen)
    return 0


def _update(call: Call) -> int:
    from gear.runtime import lifecycle, updates

    lifecycle.update(load(call.root, call.name), updates.resources(call.options))
    return 0


def _features(call: Call) -> int:
    from gear.runtime import document, show

    print(document.pretty(show.features()))
    return 0


def _spec(call: Call) -> int:
    from gear.runtime import document, show

    path = os.path.join(call.options.get("bundle", "."), "config.json")
    text = document.pretty(show.template(rootless=call.options.flag("rootless"))) + "\n"
    try:
        with open(path, "x", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise Failure(f"can't write {path}: {error.strerror}") from error
    return 0


class Verb:
    """One verb: its words, what it is for, its options, what it does."""

    def __init__(
        self, words: str, purpose: str, run: Callable[[Call], int], options: tuple[Option, ...] = ()
    ) -> None:
        self.words, self.purpose, self.run, self.options = words, purpose, run, (*options, _HELP)


def _update_options() -> tuple[Option, ...]:
    from gear.runtime.updates import OPTIONS

    return OPTIONS


_ALL = Option("all,a", "", "every process of the container, by its control group")
_REGEX = Option("regex,r", "", "ID is a regular expression: every container that it matches")
_FORMAT = Option("format,f", "FORMAT", "table or json")

VERBS = {
    "create": Verb("ID", "make a container that waits for start", _create, _CREATE),
    "start": Verb("ID", "let a created container run", _start),
    "run": Verb(
        "ID", "create, start, wait, delete; the exit status is the process's", _run,
        (*_CREATE, _DETACH, Option("keep", "", "don't delete the container at the end")),
    ),
    "state": Verb("ID", "show the state as JSON", _state),
    "kill": Verb("ID [SIGNAL]", "send a signal, SIGTERM if not given", _kill, (_ALL, _REGEX)),
    "delete": Verb("ID", "remove a container that is stopped", _delete, (_FORCE, _REGEX)),
    "exec": Verb("ID [COMMAND...]", "run one more process in a container", _exec, _EXEC),
    "list": Verb("", "show all containers", _list, (_FORMAT, Option("quiet,q", "", "ids only"))),
    "ps": Verb("ID", "show the processes of a container", _ps, (_FORMAT,)),
    "pause": Verb("ID", "freeze all processes of a container", _pause),
    "resume": Verb("ID", "let them go on", _resume),
    "update": Verb("ID", "change the limits of a container", _update),
    "features": Verb("", "show what this runtime can do, as JSON", _features),
    "spec": Verb(
        "", "write a config.json to begin with", _spec,
        (Option("bundle,b", "DIR", "where; the current directory if not given"),
         Option("rootless", "", "with a user namespace of one id")),
    ),
}  # fmt: skip


def options_of(name: str) -> tuple[Option, ...]:
    """All options of a verb; those of update are a table of their own."""
    return (*_update_options(), _HELP) if name == "update" else VERBS[name].options


def main(arguments: list[str] | None = None) -> int:
    """The program: returns its exit status."""
    log = Log()
    try:
        whole = parse(list(sys.argv[1:] if arguments is None else arguments), GLOBAL, words_before_rest=1)
        if whole.flag("version"):
            print(f"gear-oci version {__version__}\nspec: {OCI_VERSION}\n{_PARTS}")
            return 0
        name = whole.words[0] if whole.words else ""
        if whole.flag("help") or name in ("", "help"):
            verbs = {known: verb.purpose for known, verb in VERBS.items()}
            print(help_text("gear-oci [OPTIONS] VERB ...", "An OCI runtime.", GLOBAL, verbs))
            return 0 if name or whole.flag("help") else EXIT_USAGE
        level = "debug" if whole.flag("debug") else whole.get("log-level", "warning")
        log = Log(whole.get("log"), whole.get("log-format", "text"), level)
        return _dispatch(name, whole, log)
    except Failure as failure:
        log.write("error", _told(failure))
        return failure.status if failure.status in (EXIT_USAGE, 255) else 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if type(error).__module__ == "gear.errors":
            log.write("error", str(error).rstrip("."))
            return 1
        if log.verbose:
            raise
        log.write("error", f"gear-oci failed, which is a fault of its own: {error!r}; --debug shows where")
        return 1


def _dispatch(name: str, whole: Parsed, log: Log) -> int:
    if name not in VERBS:
        raise Failure(f"there is no verb {name}: {', '.join(VERBS)}", EXIT_USAGE)
    verb = VERBS[name]
    rest = 1 if name == "exec" else -1
    options = parse(whole.words[1:], options_of(name), words_before_rest=rest)
    if options.flag("help"):
        print(
            help_text(f"gear-oci {name} [OPTIONS] {verb.words}".rstrip(), verb.purpose, options_of(name), {})
        )
        return 0
    most = {"": 0, "ID": 1, "ID [SIGNAL]": 2}.get(verb.words, len(options.words))
    if len(options.words) > most:
        raise Failure(f"{name} does not take the word {options.words[most]}", EXIT_USAGE)
    return verb.run(Call(whole, options, log))


def _told(failure: Failure) -> str:
    """The sentence, with the words by which podman knows why a program could not be run."""
    known = ("permission denied", "no such file", "executable file not found")
    if failure.status in (EXIT_EXEC, 255) and not any(word in failure.message.lower() for word in known):
        if "there is no such file" in failure.message or "no such program" in failure.message:
            return f"{failure.message}: executable file not found in $PATH"
    return failure.message
