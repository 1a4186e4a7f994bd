"""Regular expressions that are compiled when they are first used, in place of re.compile() at the top of a module.

A command imports dozens of modules for a few of their functions: compiling the expressions of all of them was a sixth
of the processor time of `gear run` and `gear install`, and few are ever asked.  For type checkers pattern() is
re.compile(); here it checks nothing, so a wrong expression is found by whoever uses it first.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    pattern = re.compile
else:

    class pattern:  # noqa: N801 (it stands for a function)
        """What re.compile() returns, later."""

        def __init__(self, text, flags=0):
            self.pattern, self._flags = text, flags

        def __getattr__(self, name):
            compiled = re.compile(self.pattern, self._flags)
            for method in ("fullmatch", "match", "search", "sub", "finditer", "findall", "split"):
                setattr(self, method, getattr(compiled, method))
            return getattr(compiled, name)
