"""Containers with ports of all modes on a test host, and real connections to them."""

from __future__ import annotations

from collections.abc import Sequence

from gearhost import GearHost

# Answers each connection and datagram with its name, the port's, and what was said.  Words after the name: tPORT
# listens, fd takes what systemd passes, waitSECONDS comes before what follows it, fail ends at once, once ends after
# the first answer.  Whoever says `stay` is kept until he goes.
SERVE = """
import os, select, socket, sys, time
name, waiting = sys.argv[1], {}
for word in sys.argv[2:]:
    if word.startswith("wait"):
        time.sleep(float(word[4:]))
    elif word == "fail":
        sys.exit("this payload fails")
    elif word == "fd":
        assert os.environ["LISTEN_PID"] == str(os.getpid())
        names = os.environ["LISTEN_FDNAMES"].split(":")
        assert len(names) == int(os.environ["LISTEN_FDS"])
        waiting |= {socket.socket(fileno=number): called for number, called in enumerate(names, 3)}
        print("open:", " ".join(sorted(os.listdir("/proc/self/fd"), key=int)), os.getpid(), flush=True)
    elif word[0] == "t":
        made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(("::", int(word[1:])))
        made.listen(512)
        waiting[made] = word
stayed = []
while True:
    for made in select.select(list(waiting), [], [])[0]:
        if made.type == socket.SOCK_STREAM:
            connection, peer = made.accept()
            text = connection.recv(512).decode()
            connection.sendall(f"{name} {waiting[made]} {text}".encode())
            if text == "stay":
                stayed.append(connection)
            else:
                connection.close()
        else:
            text, peer = made.recvfrom(512)
            made.sendto(f"{name} {waiting[made]} {text.decode()}".encode(), peer)
        if "once" in sys.argv:
            sys.exit(0)
"""

# Connects at once to what the arguments name, as tcp/HOST/PORT/TEXT, and prints an answer on each line.  With a first
# argument `stay` it keeps the connections open.
ASK = """
import concurrent.futures, socket, sys, time

def ask(word):
    kind, host, port, text = word.split("/")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    made.settimeout(25)
    try:
        made.connect((host, int(port)))
        made.send(text.encode())
        answer = made.recv(512).decode() or "closed"
    except ConnectionResetError:
        answer = "closed"  # with what was said not read
    except OSError as error:
        answer = type(error).__name__
    if text == "stay":
        print(answer, flush=True)
        time.sleep(1000)
    made.close()
    return answer

with concurrent.futures.ThreadPoolExecutor(64) as pool:
    print("\\n".join(pool.map(ask, sys.argv[1:])))
"""
# The root of the containers: the host's Python and what it needs.
ROOT = "/var/lib/serving"
_MAKE_ROOT = f"""
mkdir -p {ROOT}/usr/lib/x86_64-linux-gnu; cd {ROOT}; mkdir usr/bin usr/lib64 proc dev sys tmp etc
cp -L /usr/bin/python3 {ROOT}/usr/bin
cp -a /usr/lib/python3.* {ROOT}/usr/lib
cp -L /usr/lib/x86_64-linux-gnu/lib*.so.* {ROOT}/usr/lib/x86_64-linux-gnu
cp -L /lib64/ld-linux-x86-64.so.2 {ROOT}/usr/lib64
ln -s usr/lib usr/lib64 usr/bin {ROOT}
"""


class ServingHost:
    """A host on which containers serve ports."""

    def __init__(self, host: GearHost) -> None:
        self.host = host
        host.sh(f"[ -e {ROOT} ] || {{ {_MAKE_ROOT} }}")
        host.write(f"{ROOT}/serve.py", SERVE.encode())
        host.write("/root/connect.py", ASK.encode())

    def install(self, name: str, options: Sequence[str], *words: str) -> None:
        """Install and start a container whose payload does what *words* say."""
        command = ("/usr/bin/python3", "/serve.py", name, *words)
        self.host.gear("install", f"host:{ROOT}", name, *options, "--start", "--", *command)

    def ask(self, *words: str) -> list[str]:
        """What is answered to each of *words*, asked at once."""
        return self.host.out("python3", "/root/connect.py", *words).split("\n")

    def state(self, unit: str) -> str:
        """ActiveState of a unit."""
        return self.host.show(unit, "ActiveState")
