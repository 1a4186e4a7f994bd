"""Other projects' conformance suites, run against any OCI runtime; nothing of theirs is kept in this project."""
