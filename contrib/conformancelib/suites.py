"""The suites: where each comes from, what of it has to be built, and how one part of it is run."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from . import fetch, tap
from .fetch import Unfit

# Modules that the suites import and Debian does not have.
STANDINS = Path(__file__).resolve().parent / "standins"

Tell = Callable[[str], None]


class Suite(ABC):
    """One suite, below *top* once it is prepared."""

    name: str
    package: str  # Debian's source package
    release: str  # the Debian release whose version the waivers are for
    wanted: str  # the directory of the source that holds the tests
    groups: str  # what the control groups are called that its containers get

    def __init__(self, top: Path) -> None:
        self.top = top

    def fetch(self, release: str) -> None:
        """Fetch and build, unless that was done already; done is what bears the mark."""
        if not (self.top / ".prepared").exists():
            self.top.parent.mkdir(parents=True, exist_ok=True)
            fetch.source(self.package, release, self.top, self.wanted)
            self.build()
            (self.top / ".prepared").touch()

    @abstractmethod
    def build(self) -> None:
        """Build what is not ready to run."""

    @abstractmethod
    def tests(self) -> list[str]:
        """The names of all tests, as waivers spell them."""

    @abstractmethod
    def run(
        self, runtime: Path, names: list[str], patience_s: float, tell: Tell
    ) -> Iterator[tuple[str, str]]:
        """Run the named tests; yields name and outcome of each."""


def compile_static(source: Path, target: Path, *options: str) -> None:
    argv = ["gcc", "-static", "-O1", "-w", *options, "-o", str(target), str(source)]
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True)
    except FileNotFoundError as err:
        raise Unfit(
            "there is no gcc to build the suite's helper with: apt-get install gcc libc6-dev"
        ) from err
    except subprocess.CalledProcessError as err:
        raise Unfit(f"{source.name} can't be built: {err.stderr.strip()[-300:]}") from err


class Crun(Suite):
    """crun's own tests in Python: a file is a program, its tests are the keys of a dictionary in it."""

    name, package, release, wanted, groups = "crun", "crun", "trixie", "tests/", "*test-tmp*"

    def build(self) -> None:
        (self.top / "config.h").write_text("#define HAVE_LINUX_IOPRIO_H 1\n#define HAVE_ERROR_H 1\n")
        options = ["-U_GNU_SOURCE", f"-I{self.top}"]
        if os.path.exists("/usr/include/seccomp.h"):
            options.append("-DHAVE_SECCOMP=1")
        compile_static(self.top / "tests/init.c", self.top / "tests/init", *options)

    def tests(self) -> list[str]:
        found = []
        for path in sorted((self.top / "tests").glob("test_*.py")):
            found += [f"{path.stem.removeprefix('test_')}/{name}" for name in dictionary(path, "all_tests")]
        return found

    def run(
        self, runtime: Path, names: list[str], patience_s: float, tell: Tell
    ) -> Iterator[tuple[str, str]]:
        for file in dict.fromkeys(name.partition("/")[0] for name in names):
            rest = [name.partition("/")[2] for name in names if name.partition("/")[0] == file]
            while rest:
                before = len(rest)
                for name, outcome in self.run_file(runtime, file, rest, patience_s, tell):
                    if name in rest:
                        rest.remove(name)
                        yield f"{file}/{name}", outcome
                if rest:  # the next one hung, or took the program with it; go on behind it
                    tell(f"# {file}/{rest[0]} did not end within {patience_s:g} s, or ended the program")
                    yield f"{file}/{rest.pop(0)}", "failed"
                assert len(rest) < before

    def run_file(
        self, runtime: Path, file: str, names: list[str], patience_s: float, tell: Tell
    ) -> list[tuple[str, str]]:
        results: list[tuple[str, str]] = []

        def note(line: str) -> None:
            tell(line)
            if (found := tap.result(line)) is not None:
                results.append(found)

        environment = os.environ | {
            "OCI_RUNTIME": str(runtime),
            "INIT": str(self.top / "tests/init"),
            "RUN_TESTS": " ".join(names),
            # Like no default of any shell's, so that it shows whether a hook has inherited it.
            "PATH": f"{os.environ.get('PATH', os.defpath)}:/conformance",
            "PYTHONPATH": str(STANDINS),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        groups = tap.cgroups(self.groups)
        # Below a directory that others may pass: some tests map root to somebody else.
        scratch = Path(tempfile.mkdtemp(prefix="conformance-"))
        scratch.chmod(0o755)
        try:
            program = str(self.top / "tests" / f"test_{file}.py")
            tap.run(["/usr/bin/python3", program], environment, scratch, patience_s, note)
        finally:
            tap.kill_leftovers()
            tap.unmount_below(scratch)
            tap.remove_cgroups(groups, self.groups)
            shutil.rmtree(scratch, ignore_errors=True)
        return results


def dictionary(path: Path, name: str) -> list[str]:
    """The keys of the dictionary that a Python file assigns to *name*."""
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            if any(isinstance(target, ast.Name) and target.id == name for target in node.targets):
                return [str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)]
    return []


def chosen(names: list[str], patterns: list[str]) -> list[str]:
    """Those of the names that one of the patterns matches, all without patterns."""
    found = [name for name in names if not patterns or any(fnmatchcase(name, p) for p in patterns)]
    if not found:
        raise Unfit(f"the suite has no test {' or '.join(patterns)}; --list names them")
    return found


SUITES: dict[str, type[Suite]] = {suite.name: suite for suite in (Crun,)}
