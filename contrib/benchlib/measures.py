"""What is measured of one container at a time: starts and stops, commands in it, making it, and looking at it."""

from __future__ import annotations

from .running import Run, Step

# One container of each tool.
NAME = "one"
# The ports of the tools that publish one, apart from each other.
PORTS = {"bare": 18000, "gear": 18100, "podman": 18200, "docker": 18300}


def lifecycle(run: Run, *, restarts: bool = True) -> None:
    """Start to `active` and to the payload's first instruction, restart, stop; alone, and with a published port."""
    for case, bridge in (("--net none", False), ("bridge and one port", True)):
        cases: dict[str, list[Step]] = {}
        made = []
        for tool in run.tools:
            name = f"{tool.name}-{NAME}"
            port = PORTS.get(tool.name, 0) if bridge else None
            if not run.made("start", case, tool, [name], port=port):
                continue
            made.append((tool, name))
            start: Step = {"argv": tool.start(name), "metric": "start", "marks": 1}
            unit = tool.unit(name)
            if unit and tool.ready:
                start["unit"] = unit
            again: list[Step] = [{"argv": tool.restart(name), "metric": "restart", "marks": 1}]
            stop: Step = {"argv": tool.stop(name), "metric": "stop"}
            cases[tool.name] = [start, *(again if restarts else []), stop]
        run.series("start", case, cases)
        for tool, name in made:
            run.remove(tool, [name])


def execute(run: Run) -> None:
    """A command in a running container."""
    cases: dict[str, list[Step]] = {}
    made = []
    for tool in run.tools:
        name = f"{tool.name}-{NAME}"
        argv = tool.execute(name)
        if argv is None:
            if tool.name != "bare":
                run.lacking("exec", "", tool.name, tool.lacks("exec"))
            continue
        if run.made("exec", "", tool, [name]):
            made.append((tool, name))
            run.series(
                "exec start", "", {tool.name: [{"argv": tool.start(name), "marks": 1}]}, rounds=1, warmup=0
            )
            cases[tool.name] = [{"argv": argv, "metric": "exec"}]
    run.series("exec", "", cases)
    for tool, name in made:
        run.host.run(*tool.stop(name), check=False)
        run.remove(tool, [name])


def once(run: Run) -> None:
    """A container of an image for one command, gone afterwards."""
    cases: dict[str, list[Step]] = {}
    for tool in run.tools:
        argv = tool.once()
        if argv is not None:
            cases[tool.name] = [{"argv": argv, "metric": "run"}]
        elif tool.name != "bare":
            run.lacking("run", "--rm --net none", tool.name, tool.lacks("run"))
    run.series("run", "--rm --net none", cases)


def install(run: Run) -> None:
    """Making a container that can be started, and removing it."""
    cases: dict[str, list[Step]] = {}
    for tool in run.tools:
        name = f"{tool.name}-new"
        create = tool.create(name)
        if create is None:
            if tool.name != "bare":
                run.lacking("install", "", tool.name, tool.lacks("install"))
            continue
        steps: list[Step] = [{"argv": argv, "metric": "install"} for argv in create]
        cases[tool.name] = steps + [{"argv": argv, "metric": "delete"} for argv in tool.delete(name)]
    run.series("install", "", cases)


# What gear has a verb for that does little but talk to systemd, beside systemctl's own; NAME is a running container.
VERBS = {
    "status": (("gear", "status", "NAME"), ("systemctl", "status", "-n", "0", "ctr-NAME.service")),
    "ps": (("gear", "ps"), ("systemctl", "list-units", "ctr-*.service")),
    "list-units": (("gear", "list-units"), ("systemctl", "list-units", "ctr-*.service")),
    "inspect": (("gear", "inspect", "NAME"), ("systemctl", "show", "ctr-NAME.service")),
    "kill": (("gear", "kill", "-s", "CONT", "NAME"), ("systemctl", "kill", "-s", "CONT", "ctr-NAME.service")),
    "start and stop": (("gear", "stop", "NAME"), ("systemctl", "stop", "ctr-NAME.service")),
    "image list": (("gear", "image", "list"), ("systemctl", "list-units", "ctr-*.service")),
}


def verbs(run: Run, chosen: tuple[str, ...] = tuple(VERBS)) -> None:
    """Verbs that only talk to systemd, beside systemctl."""
    gear = run.tool("gear")
    name = "gear-verbs"
    if gear is None or not run.made("verbs", "", gear, [name]):
        return
    run.host.run(*gear.start(name))
    for verb in chosen:
        cases: dict[str, list[Step]] = {}
        for argv in VERBS[verb]:
            words = [word.replace("NAME", name) for word in argv]
            steps: list[Step] = [{"argv": words, "metric": "verb", "cpu": True}]
            if verb == "start and stop":
                start = ["gear", "start", name] if words[0] == "gear" else gear.start(name)
                steps = [
                    {"argv": gear.stop(name)},
                    {"argv": start, "metric": "start"},
                    steps[0] | {"metric": "stop"},
                ]
            cases[words[0]] = steps
        run.series("verbs", verb, cases)
    run.host.run("gear", "stop", name)
    run.remove(gear, [name])
