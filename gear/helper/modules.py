"""The helper's modules out of one file of bytecode: what gear/bytecode.py writes and the launcher reads.

The interpreter's own search asks for a dozen files and directories for each module, half of what importing the helper
costs.
"""

from __future__ import annotations

import sys
from marshal import loads

# What importlib.machinery calls ModuleSpec; that would be imports more than this saves.
_Spec: type = type(sys.__spec__)


class Modules:
    """Finder and loader (importlib.abc) of the modules that *index* has.

    By name: whether it is a package, and where in *content* its marshalled code begins, counted from the end.
    """

    def __init__(self, content: bytes, index: dict[str, tuple[bool, int]], top: str) -> None:
        self._content = memoryview(content)
        self._index = index
        self._top = top

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """The module's spec; None for modules of others."""
        if name not in self._index:
            return None
        spec = _Spec(name, self, is_package=self._index[name][0])
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(f"{self._top}/{name.replace('.', '/')}")
        return spec

    def create_module(self, spec: object) -> None:
        """None: an ordinary module."""

    def exec_module(self, module) -> None:  # type: ignore[no-untyped-def]
        """Run the module's code; what follows it in the file is not read."""
        exec(loads(self._content[self._index[module.__name__][1] :]), module.__dict__)
