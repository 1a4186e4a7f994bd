"""gear exec: where a command lands, with which rights, and how its streams, signals and status behave."""

from __future__ import annotations

import subprocess

from gearhost import GearHost


def status_of(host: GearHost, *arguments: str) -> int:
    return host.run("gear", *arguments, check=False).returncode


def test_command_is_in_the_container(host: GearHost) -> None:
    host.gear("install", "hello", "web", "-e", "COLOUR=blue", "--start")
    pid = host.pid("web")
    script = "for kind in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$kind; done"
    for kind, inside in zip(
        "cgroup ipc mnt net pid user uts".split(),
        host.gear("exec", "web", "--", "sh", "-c", script).split(),
        strict=True,
    ):
        assert inside == host.out("readlink", f"/proc/{pid}/ns/{kind}"), kind
    environment = host.gear("exec", "web", "env").splitlines()
    assert (
        "COLOUR=blue" in environment and "container=gear" in environment and "HOME=/home/www" in environment
    )
    assert host.gear("exec", "web", "id", "-u") == "8080\n"
    # It is in the unit's control group: systemd sees it, and ends it with the container.
    host.gear("exec", "--detach", "web", "sleep", "1234")
    assert "sleep 1234" in host.out("systemctl", "status", "--no-pager", "ctr-web")
    assert [row["command"] for row in host.json("top", "web")][1:] == ["sleep 1234"]
    host.gear("stop", "web")
    assert host.run("pgrep", "-f", "sleep 1234", check=False).returncode == 1
    assert "web is not running" in host.fails(1, "exec", "web", "true")
    assert "There is no container nobody" in host.fails(1, "exec", "nobody", "true")
    assert "No command is given" in host.fails(2, "exec", "web", "--")


def test_rights_are_those_of_the_container(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    wanted = "sed -n -e 's/^\\(Cap...\\|NoNewPrivs\\|Seccomp\\):\\t//p' /proc/{}/status"
    root = host.gear("exec", "-u", "root", "web", "--", "sh", "-c", wanted.format("self")).split()
    assert root[0] == "0" * 16 and root[1] == root[2] == root[3] == "00000000a80425fb"
    plain = host.gear("exec", "web", "--", "sh", "-c", wanted.format("self")).split()
    payload = host.sh(wanted.format(host.pid("web"))).split()
    # Without the last: what boots the test host filters its services, too.
    assert plain[:-1] == payload[:-1]
    all_of_them = host.gear(
        "exec", "--privileged", "-u", "0", "web", "--", "sh", "-c", wanted.format("self")
    ).split()
    assert int(all_of_them[2], 16) > int(root[2], 16)
    # Three descriptors, none of them the host's.
    fds = host.gear("exec", "web", "--", "sh", "-c", "ls /proc/self/fd; readlink /proc/self/fd/1").split()
    assert fds[:3] == ["0", "1", "2"] and fds[4].startswith("pipe:") and len(fds) == 5  # 3 is ls's own


def test_users_directories_and_variables(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    assert (
        host.gear("exec", "-u", "root", "web", "--", "sh", "-c", "id -u; echo $HOME; id -G")
        == "0\n/root\n0\n"
    )
    assert (
        host.gear("exec", "--user", "1234:55", "web", "--", "sh", "-c", "id -u; id -g; echo $HOME")
        == "1234\n55\n/\n"
    )
    assert (
        host.gear("exec", "-w", "/tmp", "-e", "A=b c", "web", "--", "sh", "-c", 'pwd; echo "$A"')
        == "/tmp\nb c\n"
    )
    assert "no user 'nobody2'" in host.fails(2, "exec", "-u", "nobody2", "web", "id")
    assert "working directory /missing" in host.fails(126, "exec", "-w", "/missing", "web", "pwd")
    for number in (3, 7, 99):
        assert host.fails(126, "exec", "-w", f"/proc/self/fd/{number}", "web", "pwd")


def test_statuses(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    assert status_of(host, "exec", "web", "true") == 0
    assert status_of(host, "exec", "web", "--", "sh", "-c", "exit 42") == 42
    assert status_of(host, "exec", "web", "--", "sh", "-c", "kill -9 $$") == 137
    assert "no such program" in host.fails(127, "exec", "web", "missing")
    assert "no such file" in host.fails(127, "exec", "web", "/missing")
    assert "not executable" in host.fails(126, "exec", "web", "/etc/passwd")
    # What is the command's goes to the command, with -- or without.
    assert host.gear("switchns", "web", "echo", "-u", "--", "x") == "-u -- x\n"


def test_many_in_a_row_and_at_once(host: GearHost) -> None:
    """The engine's processes tell their parent things in any order."""
    host.gear("install", "hello", "web", "--start")
    assert host.sh("n=0; while [ $n -lt 60 ]; do n=$((n+1)); gear exec web -- true || echo bad; done") == ""
    out = host.sh("for n in 1 2 3 4 5 6 7 8 9 10; do gear exec web -- echo $n & done; wait")
    assert sorted(map(int, out.split())) == list(range(1, 11))


def test_pipes(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    data = bytes(range(256)) * 20000
    assert host.run("gear", "exec", "-i", "web", "cat", input=data).stdout == data
    assert host.run("gear", "exec", "web", "cat", input=data).stdout == b""
    assert host.sh("gear exec web -- sh -c 'echo out; echo err >&2' 2>/dev/null") == "out"
    assert host.sh("gear exec web -- yes | head -n 1") == "y"
    assert host.sh("head -c 100000000 /dev/zero | gear exec -i web -- head -c 5 | wc -c") == "5"
    # Half-closed: the command answers after the end of its input.
    assert host.sh("printf abc | gear exec -i web -- sh -c 'cat; echo; echo done'") == "abc\ndone"
    # A process that is left behind and holds the pipe keeps nobody waiting.
    assert host.sh("timeout 20 gear exec web -- sh -c 'sleep 1000 & echo gone'") == "gone"


def test_signals_reach_the_command(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    for number, name in ((2, "INT"), (15, "TERM"), (1, "HUP")):
        script = f"trap 'echo got; exit {number}' {name}; echo ready; while :; do sleep 0.05; done"
        process = host.host.popen(
            ["sh", "-c", 'echo $$; exec env --default-signal=INT gear exec web -- sh -c "$0"', script],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert process.stdout.readline() == b"ready\n"
        host.sh(f"kill -{name} {pid}")
        out, _ = process.communicate(timeout=host.patience_s)
        assert out == b"got\n" and process.returncode == number


def test_signals_that_the_caller_ignores_are_not_ignored_inside(host: GearHost) -> None:
    """A shell ignores SIGINT and SIGQUIT for what it runs in the background."""
    host.gear("install", "hello", "web", "--start")
    look = "grep SigIgn /proc/self/status"
    for verb in (f"exec web -- {look}", f"run --rm --entrypoint grep hello {look.removeprefix('grep ')}"):
        said = host.sh(f"trap '' INT QUIT HUP TERM USR1; gear {verb}")
        assert said.split() == ["SigIgn:", "0" * 16], verb


def test_terminal(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    script = "tty; stty size; echo one; read x; stty size; echo two; read x; exit 9"
    steps = [["one", "resize 44"], ["one", "\r"], ["two", "\r"]]
    shown = host.typed(steps, "exec", "-it", "web", "sh", "-c", script)
    assert (
        "/dev/pts/0" in shown and "33 77" in shown and "44 77" in shown and "status 9, steps left 0" in shown
    )
    assert "TERM=xterm" in host.typed([], "exec", "-t", "web", "env")
    # Ctrl-C goes to the command's own terminal.
    script = "trap 'echo caught; exit 4' INT; echo ready; while :; do sleep 0.05; done"
    assert "caught" in host.typed([["ready", "\x03"]], "exec", "-it", "web", "sh", "-c", script)
    assert "needs a terminal" in host.fails(2, "exec", "-it", "web", "sh")


def test_detach_keys_leave_the_command_running(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    script = "echo ready; while :; do echo tick; sleep 0.1; done"
    shown = host.typed([["ready", "\x10\x11"]], "exec", "-it", "web", "sh", "-c", script)
    assert "detached; the command goes on" in shown and "status 0" in shown
    assert any("tick" in row["command"] for row in host.json("top", "web"))
    other = host.typed(
        [["ready", "\x01d"]], "exec", "-it", "--detach-keys", "ctrl-a,d", "web", "sh", "-c", script
    )
    assert "detached" in other
    # The first key alone is the command's.
    passed = host.typed(
        [["ready", "\x10x\r"]],
        "exec",
        "-it",
        "web",
        "sh",
        "-c",
        "echo ready; read x; echo got:$x | cat -v",
    )
    assert "got:^Px" in passed
    assert "is no key" in host.fails(2, "exec", "--detach-keys", "ctrl-1", "web", "true")


def test_hostile_accounts_and_modules_are_not_used(host: GearHost) -> None:
    """/etc/passwd that is a link to the host's, or a device; and modules where the interpreter would look for them."""
    host.sh("echo hostuser:x:4242:4242::/:/bin/sh >> /etc/passwd")
    script = (
        "rm /etc/passwd; ln -s /proc/1/root/etc/passwd /etc/passwd; ln -s /dev/zero /etc/group;"
        " mkdir -p /opt/gear/gear/helper /usr/lib/python3.11;"
        ' for m in terminal tasks rights; do echo \'open("/run/owned", "w")\' > /opt/gear/gear/helper/$m.py; done;'
        " exec sleep 10000"
    )
    host.gear("install", "hello", "evil", "-u", "0", "--start", "--", "/bin/sh", "-c", script)
    host.wait(lambda: "sleep 10000" in host.gear("top", "evil"), "the payload")
    assert (
        host.run("timeout", "20", "gear", "exec", "-u", "hostuser", "evil", "id", check=False).returncode == 1
    )
    assert (
        host.run("timeout", "20", "gear", "exec", "-u", "0:staff", "evil", "id", check=False).returncode == 1
    )
    assert "/dev/pts/0" in host.typed([], "exec", "-t", "-u", "0", "evil", "tty")
    assert host.run("test", "-e", f"/proc/{host.pid('evil')}/root/run/owned", check=False).returncode == 1
    host.sh("sed -i /^hostuser/d /etc/passwd")
