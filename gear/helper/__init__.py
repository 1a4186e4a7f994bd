"""The helper: runs when a container starts, enters its namespaces, and is gone.

Only the standard library, and as little of it as can be: it runs as `python3 -I -S` on every start, so what it
imports is paid for in start time.  It imports nothing of gear outside this package.
"""
