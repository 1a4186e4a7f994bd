"""Write the bytecode of the helper into one file; run as a program by the interpreter that will run the helper.

    python3 -I bytecode.py DIRECTORY FINAL

DIRECTORY has the package `gear`; FINAL is where it will be, for tracebacks.  Only the standard library: the interpreter
need not be the one that runs gear.
"""

from __future__ import annotations
import __future__

import importlib.util
import marshal
import sys
from pathlib import Path
from types import CodeType

# What runs before there is a finder.
FINDER = "gear.helper.modules"


def compiled(path: Path, shown: str) -> CodeType:
    """The code of a module without docstrings, and without the import of `__future__`: its effect is on the compiler
    alone, and the import costs as much as one of ours."""
    import ast  # here, since gear imports this module at each install to know where it is

    tree = ast.parse(path.read_bytes(), shown)
    future = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    tree.body = [node for node in tree.body if node not in future]
    flags = 0
    for name in (alias.name for node in future for alias in node.names):
        flags |= getattr(__future__, name).compiler_flag
    code: CodeType = compile(tree, shown, "exec", flags=flags, dont_inherit=True, optimize=2)
    return code


def packed(top: Path, final: str) -> bytes:
    """The file's content: the finder and an index, marshalled, and then the code of each module."""
    index: dict[str, tuple[bool, int]] = {}
    content = b""
    # The last comes first, since places are counted from the end.
    for path in sorted(top.glob("gear/**/*.py"), reverse=True):
        within = path.relative_to(top)
        package = path.stem == "__init__"
        name = ".".join(within.parent.parts if package else within.with_suffix("").parts)
        content = marshal.dumps(compiled(path, f"{final}/{within}")) + content
        index[name] = (package, -len(content))
    finder = compiled(top / (FINDER.replace(".", "/") + ".py"), FINDER)
    return marshal.dumps((finder, index)) + content


def main(arguments: list[str]) -> int:
    """Write the file that the launcher looks for."""
    top, final = arguments
    magic = importlib.util.MAGIC_NUMBER.hex()
    (Path(top) / f"bytecode-{magic}").write_bytes(packed(Path(top), final))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
