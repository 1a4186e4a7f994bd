"""Options of `mounts` entries (config.md, "Linux mount options"), sorted by what takes them."""

from __future__ import annotations

from gear.helper import syscalls

# Option -> (flag to set, flag to clear) for mount(2); what is in no table goes to the file system as data.
FLAGS = {
    "acl": (syscalls.MS_POSIXACL, 0),
    "noacl": (0, syscalls.MS_POSIXACL),
    "async": (0, syscalls.MS_SYNCHRONOUS),
    "sync": (syscalls.MS_SYNCHRONOUS, 0),
    "atime": (0, syscalls.MS_NOATIME),
    "noatime": (syscalls.MS_NOATIME, 0),
    "dev": (0, syscalls.MS_NODEV),
    "nodev": (syscalls.MS_NODEV, 0),
    "diratime": (0, syscalls.MS_NODIRATIME),
    "nodiratime": (syscalls.MS_NODIRATIME, 0),
    "dirsync": (syscalls.MS_DIRSYNC, 0),
    "exec": (0, syscalls.MS_NOEXEC),
    "noexec": (syscalls.MS_NOEXEC, 0),
    "iversion": (syscalls.MS_I_VERSION, 0),
    "noiversion": (0, syscalls.MS_I_VERSION),
    "lazytime": (syscalls.MS_LAZYTIME, 0),
    "nolazytime": (0, syscalls.MS_LAZYTIME),
    "loud": (0, syscalls.MS_SILENT),
    "silent": (syscalls.MS_SILENT, 0),
    "mand": (syscalls.MS_MANDLOCK, 0),
    "nomand": (0, syscalls.MS_MANDLOCK),
    "nosymfollow": (syscalls.MS_NOSYMFOLLOW, 0),
    "symfollow": (0, syscalls.MS_NOSYMFOLLOW),
    "relatime": (syscalls.MS_RELATIME, 0),
    "norelatime": (0, syscalls.MS_RELATIME),
    "remount": (syscalls.MS_REMOUNT, 0),
    "ro": (syscalls.MS_RDONLY, 0),
    "rw": (0, syscalls.MS_RDONLY),
    "strictatime": (syscalls.MS_STRICTATIME, 0),
    "nostrictatime": (0, syscalls.MS_STRICTATIME),
    "suid": (0, syscalls.MS_NOSUID),
    "nosuid": (syscalls.MS_NOSUID, 0),
}
# Option -> (attribute to set, attribute to clear) for mount_setattr(2); with an `r` before it, of the whole tree.
ATTRIBUTES = {
    "ro": (syscalls.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, syscalls.MOUNT_ATTR_RDONLY),
    "nosuid": (syscalls.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, syscalls.MOUNT_ATTR_NOSUID),
    "nodev": (syscalls.MOUNT_ATTR_NODEV, 0),
    "dev": (0, syscalls.MOUNT_ATTR_NODEV),
    "noexec": (syscalls.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, syscalls.MOUNT_ATTR_NOEXEC),
    "nodiratime": (syscalls.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, syscalls.MOUNT_ATTR_NODIRATIME),
    "relatime": (syscalls.MOUNT_ATTR_RELATIME, syscalls.MOUNT_ATTR__ATIME),
    "norelatime": (syscalls.MOUNT_ATTR_STRICTATIME, syscalls.MOUNT_ATTR__ATIME),
    "noatime": (syscalls.MOUNT_ATTR_NOATIME, syscalls.MOUNT_ATTR__ATIME),
    "atime": (syscalls.MOUNT_ATTR_RELATIME, syscalls.MOUNT_ATTR__ATIME),
    "strictatime": (syscalls.MOUNT_ATTR_STRICTATIME, syscalls.MOUNT_ATTR__ATIME),
    "nostrictatime": (syscalls.MOUNT_ATTR_RELATIME, syscalls.MOUNT_ATTR__ATIME),
    "nosymfollow": (syscalls.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, syscalls.MOUNT_ATTR_NOSYMFOLLOW),
}
PROPAGATION = {
    "private": syscalls.MS_PRIVATE,
    "shared": syscalls.MS_SHARED,
    "slave": syscalls.MS_SLAVE,
    "unbindable": syscalls.MS_UNBINDABLE,
    "rprivate": syscalls.MS_PRIVATE | syscalls.MS_REC,
    "rshared": syscalls.MS_SHARED | syscalls.MS_REC,
    "rslave": syscalls.MS_SLAVE | syscalls.MS_REC,
    "runbindable": syscalls.MS_UNBINDABLE | syscalls.MS_REC,
}
# Dealt with elsewhere, or nothing to do.
_OTHER = frozenset(("defaults", "bind", "rbind", "idmap", "ridmap", "tmpcopyup", "copy-symlink"))


class Options:
    """The options of one `mounts` entry, sorted by what takes them."""

    def __init__(self, words: list[str] | tuple[str, ...]) -> None:
        self.flags = 0
        self.data: list[str] = []
        self.attributes = (0, 0)  # to set, to clear
        self.recursive_attributes = (0, 0)
        self.propagation: list[int] = []
        for word in words:
            if word in PROPAGATION:
                self.propagation.append(PROPAGATION[word])
            elif word in FLAGS:
                to_set, to_clear = FLAGS[word]
                self.flags = (self.flags | to_set) & ~to_clear
                if word in ATTRIBUTES:
                    self.attributes = _merge(self.attributes, ATTRIBUTES[word])
            elif word[:1] == "r" and word[1:] in ATTRIBUTES:
                self.recursive_attributes = _merge(self.recursive_attributes, ATTRIBUTES[word[1:]])
            elif word not in _OTHER:
                self.data.append(word)


def _merge(before: tuple[int, int], now: tuple[int, int]) -> tuple[int, int]:
    """The later option counts."""
    to_set, to_clear = now
    return (before[0] & ~to_clear | to_set, before[1] & ~to_set | to_clear)
