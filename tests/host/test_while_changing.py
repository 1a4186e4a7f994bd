"""What the kernel tells while it changes: who asks for all elements of a map, or for all links, gets all that stay."""

from __future__ import annotations

import json
from typing import Any

from gearhost import GearHost

# In a network namespace of its own: forty elements stay, a thousand others come and go, by which the kernel's hash
# table grows and shrinks all the time.  Prints what was missing, and how many answers were not whole.
ELEMENTS = b"""
import json, os, signal, subprocess, sys, time
sys.path.insert(0, "/opt/gear")
from gear.helper import ruleset
from gear.helper.nftables import Element, Maps, elements

def element(number, owner):
    port = {"table": "gear-x", "protocol": "tcp", "address": "", "port": number, "target": 80, "to": ["10.0.0.1"]}
    return elements(port, owner)[0]

subprocess.run(["nft", "-f", "-"], input=f"table inet gear-x {{ {ruleset._maps([])} }}".encode(), check=True)
maps, stay = Maps(), [element(number, f"stay{number}") for number in range(40)]
maps.add(stay)
others = [[element(number, str(begin)) for number in range(begin, begin + 20)] for begin in range(1000, 2000, 20)]
child = os.fork()
if not child:
    parent, maps = os.getppid(), Maps()
    while os.getppid() == parent:
        for some in others:
            maps.add(some)
        for some in others:
            maps.remove_of("gear-x", some[0].owner)
    os._exit(0)

asked = maps._attempt
def attempt(*words):
    global torn
    found = asked(*words)
    torn += found is None
    return found

maps._attempt, torn, missing, deadline = attempt, 0, 0, time.monotonic() + 120
while torn < 100 and time.monotonic() < deadline:
    found = maps.content("gear-x", "any4")
    missing += sum(item.key() not in found for item in stay)
os.kill(child, signal.SIGKILL)
_, status = os.waitpid(child, 0)
print(json.dumps({"missing": missing, "torn": torn, "others": status}))
"""

# One process makes links and takes them away without end, until a question has been asked a second time.
LINKS = b"""
import json, os, signal, subprocess, sys, time
sys.path.insert(0, "/opt/gear")
from gear import interfaces

for number in range(60):
    name = f"stay{number}"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    subprocess.run(["ip", "address", "add", f"10.0.{number}.1/24", "dev", name], check=True)
child = os.fork()
if not child:
    parent = os.getppid()
    lines = [line for n in range(50) for line in (f"add new{n} type bridge", f"delete new{n}")]
    while os.getppid() == parent:
        subprocess.run(["ip", "-batch", "-"], input="".join(f"link {line}\\n" for line in lines).encode(), check=True)
    os._exit(0)

class Counted:
    def __init__(self, asked):
        self.asked, self.times = asked, 0
    def __enter__(self):
        self.asked.__enter__()
        return self
    def __exit__(self, *why):
        return self.asked.__exit__(*why)
    def get_links(self):
        global again
        self.times += 1
        if self.times == 2:
            again = True
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        return self.asked.get_links()
    def __getattr__(self, name):
        return getattr(self.asked, name)

real = interfaces._rtnetlink
interfaces._rtnetlink = lambda: Counted(real())
again, deadline = False, time.monotonic() + 120
while not again and time.monotonic() < deadline:
    found = interfaces.links()
print(json.dumps({"again": again, "links": {name: sorted(item.addresses) for name, item in found.items()}}))
interfaces._rtnetlink = real
interfaces.delete("stay1")
interfaces.delete("stay1")
"""


def run(host: GearHost, script: bytes) -> dict[str, Any]:
    host.write("/root/changing.py", script)
    told: dict[str, Any] = json.loads(host.out("unshare", "--net", "python3", "-B", "/root/changing.py"))
    return told


def test_no_published_port_is_missed_while_others_come_and_go(host: GearHost) -> None:
    found = run(host, ELEMENTS)
    assert found["missing"] == 0 and found["others"] == 9, found
    assert found["torn"] >= 100  # the kernel did give answers that were not whole


def test_links_are_read_again_when_some_came_or_went_meanwhile(host: GearHost) -> None:
    found = run(host, LINKS)
    assert found["again"]
    links = {name: addresses for name, addresses in found["links"].items() if name.startswith("stay")}
    assert links == {f"stay{number}": [f"10.0.{number}.1/24"] for number in range(60)}
