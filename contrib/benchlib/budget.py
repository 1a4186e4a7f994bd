"""What the time of a start goes to, from the helper's first instruction on: phases, told apart by system calls.

strace(1) stops the helper at some fifty calls only (--seccomp-bpf), which makes it a little slower than it is.  What
PID 1 does before and after is in no phase: the bare service has the same.
"""

from __future__ import annotations

from . import peers
from .measures import PORTS
from .running import Run, Step

NAME = "budget"
# Starts the container whose bundle the argument is, without PID 1, and prints the seconds of each phase in JSON.
PROGRAM = r"""
import json, os, re, signal, socket, subprocess, sys, tempfile, time
bundle, interpreter = sys.argv[1], ["/usr/bin/python3", "-I", "-S"]
helper = "/var/lib/gear/helper/current"
began = time.monotonic()
subprocess.run([*interpreter, "-c", "import posix; posix._exit(0)"], env={"LC_ALL": "C"}, check=True)
bare = time.monotonic() - began
with tempfile.TemporaryDirectory() as place:
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(f"{place}/notify")
    calls = "execve,openat,clone,unshare,sendmsg,recvmsg,move_mount,pivot_root,seccomp,sendto"
    trace = ["strace", "-f", "--seccomp-bpf", "-ttt", "-T", "-e", "signal=none"]
    trace += ["-e", f"trace={calls}", "-o", f"{place}/trace"]
    environment = {"LC_ALL": "C", "PATH": os.environ["PATH"], "NOTIFY_SOCKET": f"{place}/notify"}
    traced = subprocess.Popen([*trace, *interpreter, f"{helper}/start", bundle], env=environment)
    told.settimeout(60)
    pid = None
    while pid is None:
        pid = re.search(rb"MAINPID=([0-9]+)", told.recv(65536))
    os.kill(int(pid[1]), signal.SIGKILL)
    traced.wait()
    lines = open(f"{place}/trace", errors="replace").read().splitlines()
subprocess.run([*interpreter, f"{helper}/network", "unpublish", bundle], check=True)
calls = [(int(pid), float(when), call) for pid, when, call in (line.split(None, 2) for line in lines)]
first = calls[0][0]
def at(pattern, *, inside, after=0.0):
    # When the first such call after that moment is, of the helper or of the container's first process.
    for pid, when, call in calls:
        if (pid != first) == inside and when > after and re.match(pattern, call):
            return when
    raise SystemExit(f"the trace has no {pattern}")
begin = at("execve", inside=False)
packed = at(r'openat.*/bytecode-', inside=False)
clone = at("clone", inside=False, after=packed)
made = at("clone.* = [0-9]|<... clone resumed", inside=False, after=packed)
if made == clone:  # not interrupted by the new process: when it began, and how long it took
    made += next(float(call[:-1].rpartition("<")[2]) for _, when, call in calls if when == clone)
alone = at("unshare", inside=False, after=made)
sent = at("sendmsg", inside=False, after=alone)
moved = at("move_mount", inside=True, after=sent)
changed = at("pivot_root", inside=True, after=moved)
filtered = at("seccomp", inside=True, after=changed)
become = at("execve", inside=True, after=filtered)
notified = at("sendto.*MAINPID", inside=False, after=become)
print(json.dumps({
    "interpreter-alone": bare,
    "interpreter": packed - begin, "imports": clone - packed, "clone": made - clone, "ids": alone - made,
    "layers": sent - alone, "identity": moved - sent, "mounts": changed - moved, "rights": filtered - changed,
    "seccomp": become - filtered, "execve": notified - become, "all": notified - begin,
}))
"""


def budget(run: Run) -> None:
    """Phases of a start inside gear's helper: interpreter, imports, clone, layers, mounts, seccomp and the rest."""
    gear = run.tool("gear")
    if gear is None:
        return
    run.host.write(f"{peers.TOP}/budget.py", PROGRAM.encode())
    for case, port in (("--net none", None), ("bridge and one port", PORTS["gear"] + 50)):
        if not run.made("budget", case, gear, [NAME], port=port):
            continue
        if port is not None:
            # As a start by PID 1 would.
            run.host.sh("systemctl start gear-network@default.service")
        argv = ["python3", f"{peers.TOP}/budget.py", f"/var/lib/gear/containers/{NAME}"]
        steps: list[Step] = [{"argv": argv, "metric": "budget", "numbers": True}]
        run.series("budget", case, {gear.name: steps})
        run.remove(gear, [NAME])


# A start that does nothing but what any start in Python does.
NOTIFIER = """
import posix
from _socket import AF_UNIX, SOCK_DGRAM, socket
socket(AF_UNIX, SOCK_DGRAM).sendto(b"READY=1", posix.environ[b"NOTIFY_SOCKET"])
posix.execv("/bin/busybox", ["sh", "/mark/payload"])
"""
# What PID 1 can do for a service by itself, each with all before it.  None of it gives a container a range of user ids.
DIRECTIVES = {
    "root": f"RootDirectory={peers.ROOT}\nMountAPIVFS=yes\nBindPaths={peers.TOP}/mark:/mark\n",
    "namespaces": "PrivateNetwork=yes\nPrivateIPC=yes\nPrivateDevices=yes\nProtectHostname=yes\n",
    "pids": "PrivatePIDs=yes\n",
    "users": "PrivateUsers=identity\n",
    "all": "NoNewPrivileges=yes\nProtectKernelTunables=yes\nProtectKernelModules=yes\nProtectKernelLogs=yes\n"
    "ProtectClock=yes\nProtectControlGroups=yes\nRestrictSUIDSGID=yes\nSystemCallFilter=@system-service\n"
    "CapabilityBoundingSet=CAP_CHOWN CAP_SETUID CAP_SETGID CAP_NET_BIND_SERVICE CAP_KILL\n",
}


def variants(run: Run) -> None:
    """Starts and stops of services that do less, and of units whose own directives do the isolation (systemd 257)."""
    name = "variant"
    texts = {
        "notify": f"Type=notify\nExecStart=/usr/bin/python3 -I -S {peers.TOP}/notify.py\n",
        "ExecStop": "Type=exec\nExecStart=/bin/busybox sh /mark/payload\nExecStop=/bin/true\n",
    }
    directives = ""
    for what, lines in DIRECTIVES.items():
        directives += lines
        texts[f"+{what}"] = f"Type=exec\nExecStart=/bin/sh /mark/payload\n{directives}"
    units = {f"{name}-{number}": text for number, text in enumerate(texts.values())}
    run.host.write(f"{peers.TOP}/notify.py", NOTIFIER.encode())
    run.script(
        "".join(
            peers.script_unit(unit, f"[Unit]\nStartLimitIntervalSec=0\n[Service]\n{text}")
            for unit, text in units.items()
        )
        + "systemctl daemon-reload\n"
    )
    made = [tool for tool in run.tools if tool.name in ("bare", "gear")]
    made = [tool for tool in made if run.made("variants", "", tool, [f"{tool.name}-{name}"])]
    started = {tool.name: f"{tool.unit(f'{tool.name}-{name}')}" for tool in made}
    started |= {what: f"{unit}.service" for what, unit in zip(texts, units, strict=True)}
    cases: dict[str, list[Step]] = {
        what: [
            {"argv": ["systemctl", "start", unit], "metric": "start", "marks": 1, "unit": unit},
            {"argv": ["systemctl", "stop", unit], "metric": "stop"},
        ]
        for what, unit in started.items()
    }
    run.series("variants", "", cases)
    for tool in made:
        run.remove(tool, [f"{tool.name}-{name}"])
    run.script("".join(f"rm {peers.UNITS}/{unit}.service\n" for unit in units) + "systemctl daemon-reload\n")
