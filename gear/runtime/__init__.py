"""The OCI runtime: the operations of the runtime specification on bundles, and their command line `gear-oci`.

Not for installed containers, which systemd starts through gear/helper/start.py without any of this.  Podman, containerd
and buildah call a runtime several times for each container, so what is imported is what a verb uses.
"""
