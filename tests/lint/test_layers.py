"""The shape of the package: imports point down only, one door to each foreign package, nothing too long.

Walks the syntax trees; nothing of gear is imported.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from project import TOP, tree_of

PACKAGE = TOP / "gear"

# Every module, by layer; a module may import those of its own layer (without going round) and of layers before it.
LAYERS = {
    "words": (
        "__init__ errors patterns records findings model document changes accounts members durations tunables "
        "isolation inet link limits network naming underlay definition mounting health restarts journaling "
        "mount_words supplies signals outline spec volume_record oci reference settings claims weights budget effects"
    ),
    "pure": (
        "forwarding unitfile device_rules resources limiting confinement attachment activation provision units "
        "bundle bpf seccomp_profile seccomp_form openmetrics schedule prober"
    ),
    "host": (
        "files bytecode boot process systemd journal host uids growing compression tarstream tree layer merged pack "
        "changed view store sources garbage duplicate subvolumes removal storage quotas footprint volumestore indexes "
        "leases unpacked treediff checking record_check imagemounts yamlfile addresses netfailure registries "
        "registry_auth dialing transport piping registry upload incoming signature_record policy cosign openpgp "
        "lookaside attached seccomp inroot reports stacking groups terminal notices definitions allocation "
        "hostsfile interfaces packetfilter objects envsets credentials variables download"
    ),
    "operations": (
        "sockets probed containers composing status waiting signatures signature_files images loading fetching pulling "
        "pushing signing referrers offering sending publishing replacing connecting neighbours install lifecycle "
        "defining network_plan networks live linking exposure leftovers remove inside top attach copying transfer "
        "joining running debugging history pruning saving verifying network_check network_state network_strays "
        "mending hindrances network_repair usage watching metrics events log_namespaces volumes volume_copies "
        "volume_archive volume_check container_check running_check fsck updating effective slices disk_use "
        "switching contents pausing snapshots restoring cloning committing unfinished upgrade_record upgrading "
        "draining scheduling locking supplying"
    ),
    "front ends": (
        "command progress cli cli_changes cli_snapshot cli_image_files cli_copy cli_debug cli_exec cli_health "
        "cli_image cli_inside cli_install cli_isolation cli_lifecycle cli_list cli_logging cli_logs "
        "cli_log_namespace cli_stats cli_events cli_net cli_network cli_network_check cli_findings cli_resources "
        "cli_slice cli_update cli_link cli_fsck cli_plan cli_ports cli_registry cli_remove cli_run cli_send "
        "cli_signatures cli_spec cli_store cli_volume cli_volume_copies cli_df cli_supplies cli_secret cli_config "
        "cli_env cli_upgrade cli_upgrade_state __main__"
    ),
}
# What points up all the same, and why.
UPWARD = {
    (
        "bundle",
        "files",
    ): "dump_json, the one form of JSON files, is pure; it is kept with the reading of them",
}
# Who may import modules of the helper, which otherwise is run by units only, and why.
HELPER_USERS = {
    "inroot": "openat2(2), which the standard library has no wrapper for",
    "stacking": "the layers of a container that does not run are stacked as its start does it",
    "sockets": "who has a port that is taken, looked up and said as a start does it",
    "reports": "what the helper's modules fail with",
    "joining": "the engine that joins a container's namespaces, with no other program in between",
    "running": "the engine that makes a container, for those in the caller's terminal",
    "debugging": "the calls that put together a root of tools in a container's namespaces",
    "imagemounts": "mount(2), which the standard library has no wrapper for",
    "network_state": "what the helper makes of a network is worked out as it does it",
    "network_strays": "what is the helper's is known by the names and shapes that it gives",
    "linking": "where links lead to is found as it is found when they are made",
    "notices": "entries of the journal, which the prober makes as well",
    "draining": "pidfd_getfd(2), and where proxies look whether they are to wait",
    "copying": "setns(2) into the container's user namespace",
}
# The only module that imports each package that is not the standard library's.
DOORS = {
    "pystemd": {"systemd"},
    "dbus_next": set(),
    "pyroute2": {"runtime.netdevices", "interfaces"},
    "yaml": {"yamlfile"},
    "cryptography": {"cosign"},
    "nacl": {"cosign"},
    "isal": {"compression"},
    "zstandard": {"compression"},
    "pyzstd": {"compression"},
    # Two packages for one library, libseccomp.
    "seccomp": {"seccomp"},
    "pyseccomp": {"seccomp"},
}
# The only module that imports each of these of the standard library's.
GUARDED = {
    "dataclasses": {"records", "tarstream", "openmetrics"},
    "subprocess": {"process", "compression"},
    "ctypes": {"files", "quotas"},
    "asyncio": set(),
}
# What the helper may import: built in, or C halves of modules whose Python halves cost too much at every start.
HELPER_ALLOWED = {
    "__future__",
    "_ctypes",
    "_json",
    "_signal",
    "_socket",
    "_stat",
    "fcntl",
    "marshal",
    "posix",
    "sys",
    # Inside functions, where a hook has a time limit.
    "select",
    "time",
    # Inside functions that run only when something has gone wrong, or under TYPE_CHECKING.
    "json",
    "typing",
    "collections.abc",
}
# What the OCI command line may import of gear outside its package and the helper, and only where it is needed:
# clients call it several times for each container.
RUNTIME_ALLOWED = {"errors", "resources", "seccomp", "systemd"}
# What takes longer to import than `gear-oci state` may take.
COSTLY = {
    "argparse",
    "ctypes",
    "dataclasses",
    "enum",
    "functools",
    "json",
    "pathlib",
    "re",
    "shutil",
    "socket",
}
COSTLY |= {"signal", "subprocess", "tempfile", "typing", "contextlib", "collections"}
MOST_LINES = 400
MOST_FUNCTION_LINES = 60
# What may be longer, and why.
LONG_MODULES: dict[str, str] = {}
LONG_FUNCTIONS = {
    ("cli_spec", "spec_options"): "a table of options",
}
FORBIDDEN_NAMES = ("util", "utils", "helpers", "common", "misc", "manager", "base", "core")


def modules() -> dict[str, Path]:
    """The modules of the package itself, by name."""
    return {path.stem: path for path in sorted(PACKAGE.glob("*.py"))}


def helper_modules() -> dict[str, Path]:
    """The modules of the helper, by name."""
    return {path.stem: path for path in sorted((PACKAGE / "helper").glob("*.py"))}


def runtime_modules() -> dict[str, Path]:
    """The modules of the OCI command line, by name."""
    return {path.stem: path for path in sorted((PACKAGE / "runtime").glob("*.py"))}


def imports(path: Path) -> set[str]:
    """The full names of what a module imports, wherever in it."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            # `from gear import files` means the module gear.files.
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names}
                if node.module
                in (
                    "gear",
                    "gear.helper",
                    "gear.runtime",
                )
                else {node.module or ""}
            )
    return found


def own_imports(path: Path) -> set[str]:
    """The modules of gear that a module imports; `from gear import __version__` is the package itself."""
    known = modules()
    found = set()
    for name in imports(path):
        if name == "gear":
            found.add("__init__")
        elif name.startswith("gear."):
            part = name.split(".")[1]
            found.add(part if part in known or part == "helper" else "__init__")
    return found


RANK = {module: rank for rank, names in enumerate(LAYERS.values()) for module in names.split()}


def test_every_module_has_a_layer() -> None:
    assert set(modules()) == set(RANK)
    assert sum(len(names.split()) for names in LAYERS.values()) == len(RANK)


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module: str) -> None:
    for imported in own_imports(modules()[module]):
        if imported == "helper":
            assert module in HELPER_USERS, f"{module} imports the helper, which units run"
            continue
        if RANK[imported] > RANK[module]:
            assert (module, imported) in UPWARD, f"{module} imports {imported}, which is above it"


def test_exceptions_are_still_needed() -> None:
    for module, imported in UPWARD:
        assert imported in own_imports(modules()[module]), f"{module} no longer imports {imported}: strike it"


def test_users_of_the_helper_still_are() -> None:
    for module in HELPER_USERS:
        assert "helper" in own_imports(modules()[module]), f"{module} no longer imports the helper: strike it"


def test_nothing_goes_round() -> None:
    graph = {name: own_imports(path) for name, path in modules().items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " imports ".join((*way, name))
        if name not in done:
            for imported in graph.get(name, ()):
                visit(imported, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_siblings_on_the_host_use_only_files_and_process() -> None:
    """systemd, journal and the like know nothing of each other; the image store is one thing in several modules."""
    # Registries likewise, and where both meet is gear/incoming.py.
    registry = {
        "yamlfile",
        "addresses",
        "registries",
        "registry_auth",
        "netfailure",
        "dialing",
        "transport",
        "piping",
        "registry",
        "upload",
        "download",
    }
    store = {
        "compression",
        "growing",
        "tarstream",
        "tree",
        "layer",
        "merged",
        "pack",
        "changed",
        "view",
        "store",
        "sources",
        "indexes",
        "garbage",
        "leases",
        "unpacked",
        "treediff",
        "checking",
        "record_check",
        "signature_record",
        "duplicate",
        "subvolumes",
        "removal",
        "storage",
        "quotas",
        "volumestore",
    }
    # Named things of gear's own.
    named = {"objects", "envsets", "credentials"}
    # What signatures are, and where they are found.
    signature = {"policy", "cosign", "openpgp", "lookaside", "attached"}
    host = set(LAYERS["host"].split())
    for module in host:
        siblings = own_imports(modules()[module]) & host - {"files", "process"}
        if module == "incoming":
            allowed = store | registry
        elif module in signature:
            allowed = signature | registry
        else:
            allowed = next((g for g in (store, registry, named) if module in g), set())
        if module == "storage":
            allowed = allowed | {"yamlfile"}
        assert siblings <= allowed, f"{module} imports {siblings}"
    assert not own_imports(modules()["files"]) & host and not own_imports(modules()["process"]) & host


def test_pure_modules_touch_nothing() -> None:
    allowed = {
        "__future__", "collections.abc", "csv", "dataclasses", "errno", "fnmatch", "hashlib", "ipaddress", "itertools",
        "json", "math", "os", "pathlib", "posixpath", "re", "shlex", "signal", "struct", "typing",
    }  # fmt: skip
    for module in (LAYERS["words"] + " " + LAYERS["pure"]).split():
        foreign = {name for name in imports(modules()[module]) if not name.startswith("gear")}
        assert foreign <= allowed, f"{module} imports {foreign - allowed}"
        used = {
            node.attr
            for node in ast.walk(tree_of(modules()[module]))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
        }
        assert used <= {"path", "fspath"}, f"{module} uses os.{used}"


def top_level(path: Path) -> set[str]:
    """The first parts of what a module imports."""
    return {name.partition(".")[0] for name in imports(path)}


def test_each_foreign_package_has_one_door() -> None:
    for module, path in modules().items():
        for name in top_level(path) - {"gear"}:
            if name in DOORS or name not in sys.stdlib_module_names:
                assert module in DOORS.get(name, set()), f"{module} imports {name}"
            assert name not in GUARDED or module in GUARDED[name], f"{module} imports {name}"


@pytest.mark.parametrize("module", helper_modules())
def test_helper_stands_alone(module: str) -> None:
    for name in imports(helper_modules()[module]):
        if name.startswith("gear"):
            assert name.startswith("gear.helper."), f"helper/{module} imports {name}"
        else:
            assert name in HELPER_ALLOWED, f"helper/{module} imports {name}"


def test_helper_imports_what_is_costly_only_where_it_is_not_run() -> None:
    for path in helper_modules().values():
        for node in tree_of(path).body:
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
            assert not names & {"json", "typing", "os"}, f"helper/{path.name} imports {names}"


@pytest.mark.parametrize("module", runtime_modules())
def test_runtime_imports_the_helper_and_little_else(module: str) -> None:
    for name in imports(runtime_modules()[module]):
        first, _, rest = name.partition(".")
        if first == "gear":
            part = rest.partition(".")[0]
            assert part in {"helper", "runtime", "__version__", *RUNTIME_ALLOWED}, (
                f"runtime/{module} imports {name}"
            )
        elif first not in sys.stdlib_module_names and not first.startswith("_"):
            assert f"runtime.{module}" in DOORS.get(first, set()), f"runtime/{module} imports {name}"
        assert first not in GUARDED, f"runtime/{module} imports {name}"


@pytest.mark.parametrize("module", runtime_modules())
def test_runtime_imports_what_is_costly_only_where_it_is_needed(module: str) -> None:
    for node in tree_of(runtime_modules()[module]).body:
        names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        if isinstance(node, ast.ImportFrom):
            names = {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        assert not {name.partition(".")[0] for name in names} & COSTLY, f"runtime/{module} imports {names}"
        assert not names & {f"gear.{name}" for name in RUNTIME_ALLOWED}, f"runtime/{module} imports {names}"


def test_helper_does_not_import_the_runtime() -> None:
    for module, path in helper_modules().items():
        assert not any(name.startswith("gear.runtime") for name in imports(path)), (
            f"{module} imports the runtime"
        )


def test_launcher_is_short() -> None:
    source = (PACKAGE / "helper" / "launcher").read_text()
    tree = ast.parse(source)
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    assert len(statements) <= 15, "the main script is compiled at every start"
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names <= {"marshal", "posix", "sys", "gear.helper.payload", "gear.helper.rootfs"}


def functions(tree: ast.Module) -> list[tuple[str, int]]:
    """Each function and how many lines it has, without its docstring."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start, first = node.lineno, node.body[0]
            if ast.get_docstring(node) is not None:
                start += (first.end_lineno or 0) - first.lineno + 1
            found.append((node.name, (node.end_lineno or 0) - start + 1))
    return found


@pytest.mark.parametrize(
    "path",
    [*modules().values(), *helper_modules().values(), *runtime_modules().values()],
    ids=lambda path: f"{path.parent.name}.{path.stem}",
)
def test_nothing_is_too_long(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES or LONG_MODULES.get(path.stem), f"{path.name} has {lines} lines: split it"
    for name, length in functions(tree_of(path)):
        assert length <= MOST_FUNCTION_LINES or LONG_FUNCTIONS.get((path.stem, name)), (
            f"{name}() of {path.name} has {length} lines: split it"
        )


def test_what_may_be_long_is() -> None:
    for module in LONG_MODULES:
        assert len(modules()[module].read_text().splitlines()) > MOST_LINES, (
            f"{module} is short now: strike it"
        )
    for module, function in LONG_FUNCTIONS:
        length = dict(functions(tree_of(modules()[module])))[function]
        assert length > MOST_FUNCTION_LINES, f"{function}() of {module} is short now: strike it"


def test_no_module_is_a_drawer() -> None:
    for module in [*modules(), *helper_modules(), *runtime_modules()]:
        assert module not in FORBIDDEN_NAMES, f"{module} says nothing of what is in it"
