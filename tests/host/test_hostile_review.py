"""What a hostile image or payload does to those who run it, enter it or take it away."""

from __future__ import annotations

import shlex

from gearhost import GearHost

# Ways from a descriptor of a directory to the root above it.
_ABOVE = ("..", "../../../../..")


def _busybox_of_the_host(host: GearHost, directory: str) -> None:
    """A program that needs nothing of the container, outside of every container."""
    host.sh(
        f"mkdir -p {directory}; cp $(find /var/lib/gear/images -name busybox -type f | head -n 1) {directory}/sh"
    )


def test_no_program_of_the_host_is_found_by_a_descriptor(host: GearHost) -> None:
    """CVE-2024-21626 by the name of the program: execve(2) looks it up before close-on-exec closes anything."""
    _busybox_of_the_host(host, "/usr/local/victim")
    before = host.sh("sha256sum /usr/local/victim/sh")
    overwrite = "exec 9</proc/self/exe; exec /bin/busybox sh -c 'echo pwned > /proc/self/fd/9'"
    paths = [
        f"/proc/self/fd/{number}/{above}/usr/local/victim/sh" for number in range(3, 16) for above in _ABOVE
    ]
    try:
        for name, userns in (("own", "auto"), ("hosts", "host")):
            options = f"--userns {userns} --user 0"
            host.gear("install", "hello", name, *options.split(), "--start")
            for path in paths:
                exec_ = f"gear exec {name} -- {path} -c {shlex.quote(overwrite)}"
                run = f"gear run --rm {options} --entrypoint {path} hello -c {shlex.quote(overwrite)}"
                said = host.sh(f"{exec_} || echo exec $?; {run} || echo run $?", check=False)
                assert said.split("\n") == ["exec 127", "run 127"], (path, said)
        assert host.sh("sha256sum /usr/local/victim/sh") == before
    finally:
        host.sh("rm -r /usr/local/victim")


def test_the_hosts_null_device_keeps_its_mode(host: GearHost) -> None:
    """Masks and empty standard streams are /dev/null: of a container with the host's ids not the host's own node."""
    host.gear("install", "hello", "nodes", "--userns", "host", "--user", "0", "--start")
    change = (
        "for f in /proc/keys /proc/self/fd/0 /proc/self/fd/1; do chmod 600 $f; chown 1 $f; done 2>/dev/null"
    )
    try:
        host.gear("exec", "nodes", "--", "sh", "-c", f"{change}; echo x > /proc/keys; echo x > /dev/null")
        host.gear("exec", "-d", "nodes", "--", "sh", "-c", change)
        host.gear(
            "run", "--rm", "--userns", "host", "--user", "0", "--entrypoint", "sh", "hello", "-c", change
        )
        assert host.sh("stat -c '%a %u' /dev/null") == "666 0"
    finally:
        host.sh("chmod 666 /dev/null; chown 0 /dev/null")


def test_streams_that_are_closed_are_empty(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    script = "'echo out; cat; echo err >&2; exit 3'"
    for verb in (f"exec -i web -- sh -c {script}", f"run --rm -i --entrypoint sh hello -c {script}"):
        for closed, expected in (
            ("<&-", "out\nerr"),
            ("<&- >&-", "err"),
            ("<&- 2>&-", "out"),
            ("<&- >&- 2>&-", ""),
        ):
            said = host.sh(f"(gear {verb} {closed} || echo $? > /root/ended-with) 2>&1; cat /root/ended-with")
            assert said.strip().split("\n") == [*expected.split(), "3"], (verb, closed, said)


def test_nothing_of_a_run_outlives_it(host: GearHost) -> None:
    """With the host's processes in view the payload's end ends no other; their user ids are given back."""
    script = "sleep 3141 & exit 7"
    words = ("run", "--rm", "--pid", "host", "--entrypoint", "sh", "hello", "-c", script)
    assert host.run("gear", *words, check=False).returncode == 7
    assert host.run("pgrep", "-f", "sleep 3141", check=False).returncode == 1


def test_a_run_in_the_terminal_has_what_its_options_say(host: GearHost) -> None:
    """A scope has no settings for limits; the service of `run --detach` has."""
    options = ("--ulimit", "nofile=100:200", "--oom-score-adj", "321", "--entrypoint", "sh", "hello", "-c")
    script = "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj"
    assert host.gear("run", "--rm", *options, script).split() == ["100", "200", "321"]
    host.gear("run", "-d", "--rm", "--name", "limits", *options, "sleep 1000")
    assert host.gear("exec", "limits", "--", "sh", "-c", script).split() == ["100", "200", "321"]
    host.gear("kill", "-s", "KILL", "limits")
    group = "cd /sys/fs/cgroup; mkdir below && echo made; (echo max > memory.max; echo max > pids.max) 2>/dev/null || :"
    system = ("--systemd", "always", "--user", "0", "--entrypoint", "sh", "hello", "-c")
    assert host.gear("run", "--rm", *system, group + "; stat -c %u cgroup.max.depth") == "made\n65534\n"


def test_who_is_interrupted_while_it_starts_leaves_nothing(host: GearHost) -> None:
    """At many moments of `gear run`; a payload that runs already gets the signal and acts on it."""
    script = (
        "import signal, subprocess, sys, time\n"
        "for step in range(30):\n"
        "    words = ['gear', 'run', '--rm', '--name', f'cut-{step}', '--entrypoint', 'sh', 'hello', '-c',\n"
        "             'trap \"exit 0\" INT TERM; sleep 2718 & wait']\n"
        "    process = subprocess.Popen(words, stderr=subprocess.DEVNULL,\n"
        "        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))\n"
        "    time.sleep(0.05 + step * 0.008)\n"
        "    while process.poll() is None:\n"
        "        process.send_signal((signal.SIGINT, signal.SIGTERM)[step % 2])\n"
        "        time.sleep(0.3)\n"
    )
    host.run("python3", "-c", script)
    assert host.sh("systemctl list-units 'ctr-cut-*' --no-legend; pgrep -f '[s]leep 2718' || :") == ""
    # Who is interrupted twice, in the middle of removing it, leaves a directory that is found again.
    host.gear("clean")
    assert host.leftovers() == []
    assert host.sh("ls /var/lib/gear/containers /var/lib/gear/uids | grep cut || :") == ""


def test_a_run_removes_no_volume_that_was_there(host: GearHost) -> None:
    """What gear delete keeps, or another container uses, is not taken away by a run of the same name."""
    _busybox_of_the_host(host, "/root/keeps/bin")
    host.gear("image", "import", "/root/keeps", "keeps", "--volume", "/data", "--cmd", '["/bin/sh"]')
    volumes = "ls /var/lib/gear/volumes"
    write = ("keeps", "sh", "-c", "echo precious > /data/file")
    try:
        host.gear("run", "--name", "db", "--user", "0", *write)
        host.gear("delete", "db")
        assert host.sh(volumes) == "db.data"
        read = (
            "--rm",
            "--name",
            "db",
            "--user",
            "0",
            "keeps",
            "sh",
            "-c",
            "read line < /data/file; echo $line",
        )
        assert host.gear("run", *read) == "precious\n"
        host.gear("run", "-d", *read)
        host.wait(lambda: "db" not in host.sh("ls /var/lib/gear/containers"), "the removal")
        assert host.sh(volumes) == "db.data"
        # One that was made for the run goes with it, but not from under another container.
        host.gear("run", "--rm", "--name", "new", "--user", "0", *write)
        assert host.sh(volumes) == "db.data"
        host.gear(
            "run", "-d", "--rm", "--name", "new", "--user", "0", "keeps", "sh", "-c", "sleep 1000 & wait"
        )
        host.gear("install", "hello", "reader", "-v", "new.data:/data")
        host.gear("kill", "-s", "KILL", "new")
        host.wait(lambda: "new" not in host.sh("ls /var/lib/gear/containers"), "the removal")
        assert host.sh(volumes).split() == ["db.data", "new.data"]
    finally:
        host.gear("delete", "--volumes", "reader")
        host.gear("clean", "--volumes")
        host.gear("image", "rm", "keeps")
        host.sh("rm -r /root/keeps")


def test_output_that_can_not_be_written_is_told(host: GearHost) -> None:
    host.gear("install", "hello", "web", "--start")
    for verb in (
        "exec web -- sh -c 'echo out; exit 3'",
        "run --rm --entrypoint sh hello -c 'echo out; exit 3'",
    ):
        done = host.run("sh", "-c", f"gear {verb} > /dev/full", check=False)
        assert done.returncode == 1 and b"Traceback" not in done.stderr
        assert b"Not all that was written could be passed on: No space left on device." in done.stderr
    assert host.sh("ls /var/lib/gear/containers") == "web"


def test_a_hook_that_reads_nothing_is_ended_in_time(host: GearHost) -> None:
    """A state that no pipe holds, of a bundle with long annotations."""
    script = (
        "import sys; sys.path.insert(0, '/opt/gear')\n"
        "from gear.helper import hooks\n"
        "from gear.helper.failure import Failure\n"
        "state = b'x' * 300000\n"
        "hooks.run({'path': '/bin/sh', 'args': ['sh', '-c', 'test $(wc -c) = 300000']}, state)\n"
        "try:\n"
        "    hooks.run({'path': '/bin/sleep', 'args': ['sleep', '1000'], 'timeout': 1}, state)\n"
        "except Failure as failure:\n"
        "    print(failure.message)\n"
    )
    assert "did not end within 1 s" in host.out("timeout", "20", "/usr/bin/python3", "-c", script)


def test_layers_are_not_mounted_twice_by_a_copy(host: GearHost) -> None:
    """A copy into a container that does not run, while it is started or while another copy goes on."""
    host.gear("install", "hello", "still")
    place = "/var/lib/gear/containers/still/rootfs"
    done = host.run("flock", place, "gear", "cp", "/etc/hostname", "still:/tmp", check=False)
    assert (
        done.returncode == 1 and b"still is being started, or somebody else copies its files" in done.stderr
    )
    host.gear("cp", "/etc/hostname", "still:/tmp")
    host.gear("cp", "still:/etc", "still:/tmp")
    script = (
        f"exec 9<{place}; flock 9; gear start still 9<&- & "
        'until [ "$(systemctl is-active ctr-still)" = activating ]; do :; done; echo held; exec 9<&-; wait'
    )
    assert "held\nstill is running" in host.sh(script)
    assert host.gear("exec", "still", "ls", "/tmp").split() == ["etc", "hostname"]
