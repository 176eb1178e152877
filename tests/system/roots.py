"""Debian roots for test machines. Knows how a root is made, kept, copied and removed; not how one is booted.

A base root is made once by mmdebstrap, named after its release and a hash of its packages, and never
changed afterwards: every copy is an overlay above it (or a plain copy where overlays do not work).
Everything of one test run lies in one folder that its process keeps locked, so that a later run can
tell a dead run from a living one and clear it away.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

RELEASES = ("trixie", "bookworm")
CACHE = Path(os.environ.get("QMAILD_TEST_CACHE", "/var/cache/qmaild-test"))

# What a machine needs beside the package under test: its run-time dependencies (machines have no way out
# to an archive), and what the tests themselves call inside.
MACHINE_PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "udev", "iproute2", "ca-certificates", "procps", "strace",
    "python3", "python3-cffi-backend", "python3-aiosmtpd", "python3-dnspython", "python3-systemd",
    "mailutils", "libcap2-bin", "ucf",
)  # fmt: skip

# A root is prepared once so that every boot of a copy is short, quiet and keeps its journal: no first-boot
# presets, no hardware or link cache to build, no timer that would look for a network.
PREPARE = """
set -eu
touch "$1/etc/.updated" "$1/var/.updated"
mkdir -p "$1/var/log/journal" "$1/etc/systemd/journald.conf.d"
printf '[Journal]\\nStorage=persistent\\nForwardToSyslog=no\\nSyncIntervalSec=1s\\n' \
    >"$1/etc/systemd/journald.conf.d/test.conf"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
    e2scrub_reap.service systemd-networkd.service systemd-timesyncd.service console-getty.service \
    man-db.timer logrotate.timer systemd-firstboot.service
do ln -sf /dev/null "$1/etc/systemd/system/$unit"; done
chroot "$1" ldconfig
"""


class RootError(RuntimeError):
    """A root could not be made; the text says which step failed and what it printed."""


def command(argv: Sequence[str | Path], what: str) -> str:
    """Run a program of the host and return what it printed; RootError with its output if it fails."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise RootError(f"{what}: exit {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`: two runs must not make the same thing at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def base_root(
    release: str, packages: Sequence[str] = MACHINE_PACKAGES, purpose: str = "machine", hook: str = ""
) -> Path:
    """The folder of an untouched root of `release` with `packages`, made when it is not there yet.

    `hook` is shell text that finishes a new root (its path is $1).
    """
    wanted = sorted(set(packages))
    key = hashlib.sha256(json.dumps([release, wanted, PREPARE, hook]).encode()).hexdigest()[:12]
    root = CACHE / "roots" / f"{purpose}-{release}-{key}"
    with locked(root.with_name(root.name + ".lock")):
        if not root.exists():
            _make_root(release, wanted, root, hook)
    return root


def _make_root(release: str, packages: Sequence[str], root: Path, hook: str) -> None:
    unfinished = root.with_name(root.name + ".new")
    _remove_tree(unfinished)
    script = root.with_name(root.name + ".hook")
    script.write_text("#!/bin/sh\n" + PREPARE + hook)
    script.chmod(0o755)
    command(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}",
         f"--customize-hook={script}", release, unfinished],
        f"mmdebstrap {release}",
    )  # fmt: skip
    script.unlink()
    unfinished.rename(root)


def _remove_tree(path: Path) -> None:
    # Never into a mount: a folder of the host might be mounted below.
    if path.exists():
        command(["rm", "-rf", "--one-file-system", path], f"removing {path}")


class RootCopy:
    """A root of one machine's own, cheap to make: what it writes stays in its own folder."""

    def __init__(self, base: Path, name: str) -> None:
        self.folder = run_folder() / name
        self.path = self.folder / "root"
        self.path.mkdir(parents=True)
        upper, work = self.folder / "upper", self.folder / "work"
        upper.mkdir()
        work.mkdir()
        upper.chmod(0o755)
        options = f"lowerdir={base},upperdir={upper},workdir={work}"
        mounted = subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", options, str(self.path)], capture_output=True
        )
        if mounted.returncode != 0:
            command(["cp", "-a", "--reflink=auto", f"{base}/.", self.path], f"copying {base}")
        (self.path / "etc/machine-id").write_text(os.urandom(16).hex() + "\n")

    def remove(self) -> None:
        _remove_copy(self.folder)


def _remove_copy(folder: Path) -> None:
    root = folder / "root"
    if os.path.ismount(root):
        command(["umount", "--lazy", root], f"unmounting {root}")
    _remove_tree(folder)


_own_run: Path | None = None


def run_folder() -> Path:
    """The folder of this test run, made at the first call and removed when the process ends."""
    global _own_run
    if _own_run is None:
        folder = CACHE / "run" / str(os.getpid())
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        _own_run = folder
        atexit.register(_remove_run, folder)
    return _own_run


def _remove_run(folder: Path) -> None:
    for part in sorted(folder.iterdir()):
        if part.is_dir():
            _remove_copy(part)
    shutil.rmtree(folder, ignore_errors=True)


def dead_runs() -> Iterator[Path]:
    """The folders of runs whose process is gone, each removed after its caller has ended what still runs."""
    own = run_folder()
    for folder in sorted(own.parent.iterdir()):
        if folder == own:
            continue
        with contextlib.suppress(OSError), (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
            _remove_run(folder)
