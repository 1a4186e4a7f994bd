"""What is typed and copied between a caller and a process: detach keys, and streams to a plain child."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gear import terminal
from gear.errors import UsageError


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("ctrl-a,d", b"\x01d"),
        ("ctrl-@", b"\0"),
        ("ctrl-_", b"\x1f"),
        ("", b""),
    ],
)
def test_keys_by_their_names(text: str, keys: bytes) -> None:
    assert terminal.detach_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-1", "ctrl-", "up", "a,,b", ",", "é"])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(UsageError, match="is no key"):
        terminal.detach_keys(text)


@pytest.mark.parametrize(
    ("typed", "passed", "detached"),
    [
        ([b"abc"], b"abc", False),
        ([b"ab\x10\x11cd"], b"ab", True),
        ([b"ab\x10", b"\x11"], b"ab", True),
        ([b"\x10x\x10\x10y"], b"\x10x\x10\x10y", False),
        ([b"\x10\x10\x11"], b"\x10", True),
        ([b"\x11\x10"], b"\x11", False),
    ],
)
def test_keys_are_found_and_the_rest_is_passed_on(typed: list[bytes], passed: bytes, detached: bool) -> None:
    keys = terminal.Keys(b"\x10\x11")
    found = [keys.filter(part) for part in typed]
    assert b"".join(part for part, _ in found) == passed
    assert found[-1][1] is detached


def test_without_keys_nothing_is_kept_back() -> None:
    assert terminal.Keys(b"").filter(b"\x10\x11") == (b"\x10\x11", False)


PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[1])
from gear.terminal import Streams, exit_status
streams = Streams(interactive=sys.argv[2] == "i", terminal=False)
with streams.in_place():
    pid = os.fork()
    if pid == 0:
        os.execvp(sys.argv[3], sys.argv[3:])
sys.exit(exit_status(streams.relay(pid, b"")))
"""


def relayed(*command: str, interactive: bool = True, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    top = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    argv = [sys.executable, "-c", PROGRAM, top, "i" if interactive else "n", *command]
    return subprocess.run(argv, input=data, capture_output=True, check=False, timeout=60)


@pytest.mark.spawns
def test_streams_pass_everything() -> None:
    data = os.urandom(3_000_000)
    done = relayed("cat", data=data)
    assert (done.returncode, done.stdout, done.stderr) == (0, data, b"")
    assert relayed("cat", interactive=False, data=b"x").stdout == b""
    done = relayed("sh", "-c", "cat; echo end; echo error >&2; exit 3", data=b"half")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"halfend\n", b"error\n")
    assert relayed("head", "-c", "1", data=data).stdout == data[:1]
    assert relayed("sh", "-c", "kill -TERM $$").returncode == 143


@pytest.mark.spawns
def test_who_stays_behind_with_a_stream_keeps_nobody_waiting() -> None:
    done = relayed("sh", "-c", "sleep 300 & echo $!")
    os.kill(int(done.stdout), 9)
    assert done.returncode == 0
