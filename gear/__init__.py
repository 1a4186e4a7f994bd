"""gear runs OCI container images as ordinary systemd services."""

__version__ = "0.1.0"
