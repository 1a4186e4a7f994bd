"""Starting hosts, finding them again, and removing what dead ones left."""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import disks, images, needs, recipe, state, supervisor, trees
from .errors import ToolError, UsageError
from .host import BOOT_TIMEOUT_S, Host, discard, keepers, reap
from .places import Places, check_name
from .processes import Process

LAUNCHER = Path(__file__).resolve().parents[1] / "testhost"
HOST_MIB = 256


def boot(
    release: str,
    *,
    vm: bool = False,
    extra: str = "",
    name: str | None = None,
    owner: int | None = 0,
    binds: Sequence[tuple[str, str]] = (),
    memory: int = 2048,
    storage: str | os.PathLike[str] | None = None,
    logged: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    places: Places | None = None,
) -> Host:
    """Boot a host and return once it is up; builds and caches its tree or disk when that is not there.

    It is torn down when the owner ends: by default the calling process (0), otherwise a pid; None is nobody.
    EXTRA names a set of further packages, see recipe.py.  BINDS are pairs of a path here and one in a nested
    host.  STORAGE is a directory that keeps the host's changes when it is stopped.  LOGGED is the raw image of a
    second disk of a virtual machine, /dev/vdb there: all that is written to it, and each flush, is recorded beside
    it in LOGGED.log, in the format of the kernel's dm-log-writes.
    """
    places = places or Places.default()
    kind = "vm" if vm else "nested"
    needs.root()
    recipe.check_release(release)
    if vm:
        if binds:
            raise UsageError("a virtual machine has no binds", hint="use 'testhost copy'")
        needs.programs("qemu-system-x86_64", "qemu-img", "ssh")
        source = disks.build_disk(release, extra=extra, places=places)
    else:
        needs.programs("systemd-nspawn", "nsenter", "setpriv", "cp")
        source = trees.build_tree(release, extra=extra, places=places)
    sweep(places)
    needs.space(places.cache, HOST_MIB)
    request = state.Request(
        name=check_name(name) if name else f"{release}-{secrets.token_hex(3)}",
        kind=kind,
        release=release,
        source=os.path.relpath(source, places.cache),
        machine_id=secrets.token_hex(16),
        owner=find_owner(owner),
        binds=check_binds(binds),
        memory=memory,
        storage=claim_storage(storage, source.name),
        logged=check_logged(logged, vm),
    )
    claim(places, request)
    host = Host(request, places)
    timeout = BOOT_TIMEOUT_S[kind] if timeout is None else timeout
    deadline = time.monotonic() + timeout
    try:
        launch(host, timeout)
        host.settle(max(1.0, deadline - time.monotonic()))
    except BaseException:
        host.stop()
        raise
    return host


def find_owner(pid: int | None) -> Process | None:
    if pid is None:
        return None
    owner = Process.of(pid or os.getpid())
    if owner is None:
        raise UsageError(f"no such process to own the host: {pid}")
    return owner


def check_binds(binds: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    for source, target in binds:
        if not os.path.exists(source):
            raise UsageError(f"can't bind {source}: no such file or directory")
        if not target.startswith("/"):
            raise UsageError(f"can't bind to {target!r}: not an absolute path")
    return tuple((os.path.abspath(source), target) for source, target in binds)


def check_logged(image: str | os.PathLike[str] | None, vm: bool) -> str | None:
    if image is None:
        return None
    if not vm:
        raise UsageError("a nested host has no disk of its own", hint="use a virtual machine")
    if not os.path.isfile(image):
        raise UsageError(f"can't have {os.fspath(image)} as a disk: there is no such file")
    Path(f"{os.path.abspath(image)}.log").touch(mode=0o600)
    return os.path.abspath(image)


def claim_storage(storage: str | os.PathLike[str] | None, source: str) -> str | None:
    """The storage directory, made now if need be; it belongs to one tree, on which its changes make sense."""
    if storage is None:
        return None
    path = Path(os.path.abspath(storage))
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    mark = path / "made-for"
    if not mark.exists():
        if any(path.iterdir()):
            raise UsageError(f"{path} can't be a host's storage: it is not empty, and no host made it")
        mark.write_text(source + "\n")
    if mark.read_text().strip() != source:
        raise UsageError(
            f"{path} holds changes to {mark.read_text().strip()}, not to {source}",
            hint="name an empty directory",
        )
    return str(path)


def claim(places: Places, request: state.Request) -> None:
    """Make the host's directory, which makes the name taken; only one host may use a storage at a time."""
    with places.hosts_lock():
        for other in hosts(places):
            if request.storage is not None and other.request.storage == request.storage:
                raise UsageError(f"{request.storage} is in use by {other.name}")
        directory = places.host(request.name)
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError as err:
            raise UsageError(f"there is a host {request.name} already", hint="testhost list") from err
        state.save_state(directory, state.State("booting", keeper=Process.current()))
        state.save_request(directory, request)


def launch(host: Host, timeout_s: float) -> None:
    """Start the supervisor and wait for its answer, which is the end of the boot or the reason why not."""
    environment = {"PATH": needs.SEARCH_PATH, "GEAR_TESTHOST_CACHE": str(host.places.cache)}
    if "GEAR_TESTHOST_ACCEL" in os.environ:
        environment["GEAR_TESTHOST_ACCEL"] = os.environ["GEAR_TESTHOST_ACCEL"]
    answer_in, answer_out = os.pipe()
    log = host.directory / "supervisor.log"
    try:
        with open(log, "ab") as output:
            argv = [sys.executable, "-I", *(["-B"] if sys.dont_write_bytecode else []), str(LAUNCHER)]
            argv += ["supervise", host.name, str(answer_out)]
            process = subprocess.Popen(
                scope(host.name) + argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[answer_out],
                start_new_session=True,
                env=environment,
            )
    finally:
        os.close(answer_out)
    reap()
    keepers.append(process)
    with open(answer_in, "rb", buffering=0) as answers:
        ready, _, _ = select.select([answers], [], [], timeout_s)
        if not ready:
            console = supervisor.tail(host.directory / "console.log")
            raise ToolError(f"{host.name} was not up within {timeout_s:g} s; its console ends: {console}")
        text = answers.read(1 << 16) or b""
    if not text:
        raise ToolError(f"the supervisor of {host.name} has ended: {supervisor.tail(log)}")
    reply = json.loads(text)
    if "error" in reply:
        raise ToolError(f"{host.name} could not be booted: {reply['error']}\n{reply['console']}".strip())


def scope(name: str) -> list[str]:
    """Where PID 1 is systemd, ask it for a cgroup that is ours to divide."""
    if not os.path.isdir("/run/systemd/system"):
        return []
    unit = f"--unit=gear-testhost-{name}"
    return ["systemd-run", "--quiet", "--collect", "--scope", unit, "--property=Delegate=yes", "--"]


def hosts(places: Places | None = None) -> list[Host]:
    """The hosts there are, by name."""
    places = places or Places.default()
    if not places.hosts.is_dir():
        return []
    found = []
    for path in sorted(places.hosts.iterdir()):
        if not path.name.startswith(".") and (request := state.load_request(path)) is not None:
            found.append(Host(request, places))
    return found


def find(name: str, *, places: Places | None = None) -> Host:
    """The host of that name, booted by whomever."""
    places = places or Places.default()
    request = state.load_request(places.host(name))
    if request is None:
        raise ToolError(f"no such host: {name!r}", hint="testhost list")
    return Host(request, places)


def sweep(places: Places | None = None) -> list[str]:
    """Remove what is left of hosts whose keeper was killed; returns their names."""
    places = places or Places.default()
    swept = []
    if not places.hosts.is_dir():
        return []
    with places.hosts_lock():
        names = [path.name for path in places.hosts.iterdir() if path.name != ".lock"]
        dead = [name for name in names if is_dead(places.hosts / name)]
    for name in dead:
        if name.startswith("."):
            shutil.rmtree(places.hosts / name, ignore_errors=True)
        else:
            discard(places, name)
            swept.append(name)
    return swept


def is_dead(directory: Path) -> bool:
    """Whether nobody is in charge of the directory any more; asked with the lock of hosts/ held."""
    now = state.load_state(directory)
    if now is None or directory.name.startswith("."):
        return True
    return now.keeper is None or not now.keeper.alive()


def clean(places: Places, *, everything: bool) -> list[Path]:
    """Remove unfinished builds, and trees, disks and images that are out of date, or all; returns what went.

    What a host uses stays.
    """
    used = {places.cache / host.request.source for host in hosts(places)}
    if everything and used:
        raise UsageError("the cache is in use by hosts", hint="testhost stop --all")
    made = [(release, extra) for release in recipe.RELEASES for extra in ("", *recipe.EXTRAS)]
    current = {trees.tree_path(places, release, extra) for release, extra in made}
    current |= {
        images.image_path(places, name, release) for name in images.NAMES for release in recipe.RELEASES
    }
    if (places.ssh / "id_ed25519.pub").exists():
        public = disks.public_key(places)
        current |= {disks.disk_path(places, release, public, extra) for release, extra in made}
    removed = []
    for path in sorted(path for top in (places.trees, places.disks, places.images) for path in top.iterdir()):
        if path in used or (path in current and not everything):
            continue
        with places.lock(path.name.removeprefix(".new-")):
            trees.remove(path)
        removed.append(path)
    return removed
