"""Loading readable rules with nft(8), for what is not done at every start.

Not for elements of maps, which containers add at their start; see gear/helper/nftables.py.
"""

from __future__ import annotations

import posix as os

from gear.helper.failure import Failure, Step

_NFT = ("/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft")


def load(rules: str, step: Step) -> None:
    """Have nft(8) load *rules*, all or nothing, into the network namespace of the calling process."""
    for program in _NFT:
        if os.access(program, os.X_OK):
            break
    else:
        raise Failure(f"can't {step.doing}: nft is not there; apt-get install nftables")
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.posix_spawn(
        program, [program, "-f", "-"], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0)]
    )
    os.close(reading)
    view = memoryview(rules.encode())
    try:
        while view:
            view = view[os.write(writing, view) :]
    except BrokenPipeError:
        pass  # it has ended, and says why
    os.close(writing)
    if os.waitpid(pid, 0)[1]:
        raise Failure(f"can't {step.doing}: nft has refused them, see above")
