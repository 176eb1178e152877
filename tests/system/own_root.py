"""Run a program in a mount namespace whose root is the caller's root: python3 own_root.py COMMAND...

Tests may run in a chroot. A container started there is chrooted in its mount namespace as well, and the kernel
makes no user namespace for a chrooted process: every unit with PrivateUsers=yes would fail to start.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys

CLONE_NEWNS = 0x00020000
MNT_DETACH = 2
MS_REC, MS_PRIVATE = 0x4000, 0x40000


@functools.cache
def is_needed() -> bool:
    """Whether root may make no user namespace here: so a chroot shows. Process 1 may be in one as well."""
    tried = subprocess.run(["unshare", "--user", "true"], capture_output=True)
    return tried.returncode != 0


def argv(words: list[str]) -> list[str]:
    """The command to run for `words`: itself, or by this program where that is needed."""
    return [sys.executable, "-I", __file__, *words] if is_needed() else words


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def main(words: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # A mount point is needed, and this descriptor is the only way back to it.
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    _check(libc.setns(namespace, CLONE_NEWNS), "setns")  # leaves the chroot
    os.fchdir(root)
    _check(libc.unshare(CLONE_NEWNS), "unshare")
    _check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "making mounts private")
    _check(libc.pivot_root(b".", b"."), "pivot_root (the chroot must be a mount point)")
    _check(libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")
    os.execvp(words[0], words)


if __name__ == "__main__":
    main(sys.argv[1:])
