"""Modules that suites import and Debian does not have."""
