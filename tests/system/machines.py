"""Test machines: Debian roots booted with their own PID 1, journal and network. Root only.

    with Network() as net, Machine("a", "trixie", net) as a, Machine("b", "bookworm", net) as b:
        net.dns({"b.test": {"MX": ["10 b.test."], "A": [b.place.ipv4]}})
        a.install(debs)
        a.boot()
        a.run("echo hi | mail -s x joe@b.test")

A machine is a systemd-nspawn container. run() works before boot() too (in the root, without a running
systemd). Whatever happens, its processes, mounts and namespaces are gone when the run ends, or are cleared
away by the next run if this one is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from . import own_root
from .cgroups import ControlGroup
from .network import Network, Place, remove_dead_runs, wait_until
from .roots import MACHINE_PACKAGES, RELEASES, RootCopy, base_root, command

__all__ = ["RELEASES", "CommandFailed", "Machine", "Network", "end", "missing_tools", "unavailable"]

BOOT_SECONDS = 60  # takes 1 to 3 on an idle machine; CI has seen ten times that
STOP_SECONDS = 60
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb", "DEBIAN_FRONTEND": "noninteractive",
}  # fmt: skip
# Become a user as a login would, but for PAM: every group, and an environment of its own.
AS_USER = (
    'exec setpriv --pdeathsig KILL --reuid="$0" --regid="$(id -g "$0")" --init-groups --reset-env -- "$@"'
)

TOOLS = {
    "systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap", "ip": "iproute2", "git": "git",
    "nsenter": "util-linux", "unshare": "util-linux", "mount": "mount", "losetup": "mount", "mkfs.ext4": "e2fsprogs",
}  # fmt: skip

T = TypeVar("T")


def missing_tools() -> list[str]:
    """The Debian packages whose programs machines need and this host lacks."""
    return sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})


def unavailable() -> str | None:
    """Why machines cannot be booted here, in words for the last lines of a test run; None if they can."""
    if os.geteuid() != 0:
        return "machines can be booted by root only"
    if missing := missing_tools():
        return f"packages are missing: apt-get install {' '.join(missing)}"
    tried = subprocess.run(["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "true"],
                           capture_output=True, text=True)  # fmt: skip
    if tried.returncode != 0:
        return f"no namespaces here: {tried.stderr.strip()}"
    return None


class CommandFailed(AssertionError):
    """A command in a machine failed; the text has what it printed."""


class Machine:
    """One machine on a network. A context manager; close() is what its end calls."""

    def __init__(
        self, name: str, release: str, network: Network, packages: Sequence[str] = MACHINE_PACKAGES
    ) -> None:
        self.name = name
        self.release = release
        self.network = network
        self.place: Place = network.plug(name)
        self.root = RootCopy(base_root(release, packages), f"{network.name}.{name}")
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._pid1 = 0
        self._console = self.root.folder / "console"
        self._cgroup = ControlGroup(f"{network.name}.{name}")
        etc = self.root.path / "etc"
        (etc / "hostname").write_text(name + "\n")
        (etc / "mailname").write_text(f"{name}.{network.domain}\n")
        (etc / "hosts").write_text(network.hosts_file(self.place))
        (etc / "resolv.conf").unlink(missing_ok=True)
        (etc / "resolv.conf").write_text(network.resolv_conf())
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:  # fmt: skip
        self.close()

    # Power

    @property
    def is_running(self) -> bool:
        return self._nspawn is not None and self._nspawn.poll() is None

    @property
    def pid1(self) -> int:
        """The machine's PID 1 as the host counts; 0 while it does not run."""
        return self._pid1

    def boot(self) -> None:
        """Start PID 1 and wait until it has started everything it should."""
        assert not self.is_running, f"{self.name} runs already"
        (self.root.path / "etc/hosts").write_text(self.network.hosts_file(self.place))
        with self._readiness() as (path, ready):
            with self._console.open("ab") as console:
                words = ["--console=pipe", "--notify-ready=yes", "--link-journal=no", "--boot"]
                self._nspawn = subprocess.Popen(
                    self._cgroup.argv([*self._nspawn_argv(), *words]),
                    stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                    env={**os.environ, "NOTIFY_SOCKET": path},
                )  # fmt: skip
            self._await_ready(ready)

    @contextlib.contextmanager
    def _readiness(self) -> Iterator[tuple[str, socket.socket]]:
        path = self.root.folder / "notify"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(path))
            yield str(path), ready

    def _await_ready(self, ready: socket.socket) -> None:
        assert self._nspawn is not None
        deadline = time.monotonic() + BOOT_SECONDS
        gone = os.pidfd_open(self._nspawn.pid)
        try:
            while (left := deadline - time.monotonic()) > 0:
                readable, _, _ = select.select([ready.fileno(), gone], [], [], left)
                if gone in readable:
                    break
                for line in ready.recv(4096).decode(errors="replace").splitlines() if readable else ():
                    key, _, value = line.partition("=")
                    if key == "X_NSPAWN_LEADER_PID":
                        self._pid1 = int(value)
                    if (key, value) == ("READY", "1"):
                        return
        finally:
            os.close(gone)
        shown = self._console.read_text(errors="replace")[-3000:]
        self._end_nspawn(BOOT_SECONDS, signal.SIGKILL)
        raise RuntimeError(f"{self.name} ({self.release}) did not boot:\n{shown}")

    def _nspawn_argv(self) -> list[str]:
        words = [
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--settings=no", "--resolv-conf=off",
            "--timezone=off", f"--directory={self.root.path}", f"--machine={self.name}",
            f"--network-namespace-path={self.place.namespace.path}",
            # A machine owns its network. Without this, systemd 257 ignores PrivateNetwork=yes of its units.
            "--capability=CAP_NET_ADMIN",
        ]  # fmt: skip
        return own_root.argv(words)

    def poweroff(self) -> None:
        """Shut down as an administrator does, and wait for the end."""
        self.run("systemctl poweroff", check=False)
        self._end_nspawn(STOP_SECONDS)

    def reboot(self) -> None:
        """Shut down and boot again; the file system and the addresses stay."""
        self.run("systemctl reboot", check=False)
        self._end_nspawn(STOP_SECONDS)
        self.boot()

    def kill(self) -> None:
        """A crash: SIGKILL for PID 1 and with it everything. What was written stays, synced or not."""
        assert self.is_running, f"{self.name} does not run"
        os.kill(self._pid1, signal.SIGKILL)
        self._end_nspawn(STOP_SECONDS)

    def _end_nspawn(self, seconds: float, with_signal: int | None = None) -> None:
        if self._nspawn is None:
            return
        if with_signal is not None:
            for pid in (self._pid1, self._nspawn.pid):
                with contextlib.suppress(ProcessLookupError):
                    if pid and self._nspawn.poll() is None:
                        os.kill(pid, with_signal)
        try:
            self._nspawn.wait(seconds)
        finally:
            if self._nspawn.poll() is None:
                self._nspawn.kill()
                self._nspawn.wait()
            self._nspawn, self._pid1 = None, 0

    def close(self) -> None:
        """End it, whatever state it is in, and remove its disk. Twice is once."""
        atexit.unregister(self.close)
        self._end_nspawn(STOP_SECONDS, signal.SIGKILL)
        self.place.namespace.delete()
        self._cgroup.remove()
        self.root.remove()

    # Commands and files

    def argv(
        self, argv: Sequence[str] | str, user: str | None = None, env: dict[str, str] | None = None
    ) -> list[str]:
        """The host's command that runs `argv` inside (a string goes to sh), as root or as `user`."""
        words = ["/bin/sh", "-c", argv] if isinstance(argv, str) else list(argv)
        given = [f"{name}={value}" for name, value in (env or {}).items()]
        if user is not None:
            words = ["/bin/sh", "-c", AS_USER, user, "env", *given, *words]
        inside = ["env", "-i", *(f"{name}={value}" for name, value in ENVIRONMENT.items()), *given, *words]
        if self.is_running:
            # --root: where the tests themselves run in a chroot, the root of the mount namespace is not the
            # machine's. nsenter forks: without a death signal, ending it would leave the command behind.
            enter = ["nsenter", f"--target={self._pid1}", "--all", "--root", "--wd", "--"]
            return [*enter, "setpriv", "--pdeathsig", "KILL", *inside]
        return [*self._nspawn_argv(), "--pipe", "--as-pid2", "--", *inside]

    def run(
        self,
        argv: Sequence[str] | str,
        user: str | None = None,
        check: bool = True,
        input: str | bytes = b"",
        env: dict[str, str] | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. CommandFailed if it exits with other than 0, unless check is False."""
        fed = input.encode() if isinstance(input, str) else input
        done = subprocess.run(self.argv(argv, user, env), input=fed, capture_output=True, timeout=timeout)
        stdout, stderr = (part.decode(errors="surrogateescape") for part in (done.stdout, done.stderr))
        if check and done.returncode != 0:
            raise CommandFailed(f"{self.name}: {argv!r}: exit {done.returncode}\n{stdout}{stderr}")
        return subprocess.CompletedProcess(argv, done.returncode, stdout, stderr)

    def popen(self, argv: Sequence[str] | str, user: str | None = None, **how: Any) -> subprocess.Popen[Any]:
        """Start a command inside and return at once; end() ends it, or the machine's end does."""
        return subprocess.Popen(self.argv(argv, user), **how)

    def write(self, path: str, content: str | bytes, owner: str = "root", mode: int = 0o644) -> None:
        """Make a file with its folders; an existing one is replaced."""
        group = self.run(["id", "-gn", owner]).stdout.strip()
        self.run(
            ["install", "-D", "-m", f"{mode:o}", "-o", owner, "-g", group, "/dev/stdin", path], input=content
        )

    def read(self, path: str) -> str:
        return self.run(["cat", path]).stdout

    def install(self, debs: Iterable[Path], check: bool = True) -> subprocess.CompletedProcess[str]:
        """Install packages by apt, as an administrator would; all they depend on is in the root already."""
        folder = self.root.path / "root/debs"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        names = []
        for deb in debs:
            shutil.copy(deb, folder)
            names.append(f"/root/debs/{deb.name}")
        return self.run(["apt-get", "install", "-y", *names], check=check, timeout=600)

    def mount_disk(self, path: str, mebibytes: int, owner: str, *options: str) -> None:
        """Mount a new ext4 of its own at an existing folder. It goes with the machine, or when it is unmounted."""
        image = self.root.folder / "disk"
        with image.open("wb") as file:
            file.truncate(mebibytes << 20)
        numbers = self.run(f"id -u {owner}; id -g {owner}").stdout.split()
        command(["mkfs.ext4", "-q", "-m", "0", "-E", f"root_owner={':'.join(numbers)}", *options, image], "mkfs.ext4")
        device = command(["losetup", "--find", "--show", image], "losetup").strip()
        try:
            number = os.stat(device).st_rdev
            self.run(["mknod", "/root/disk", "b", str(os.major(number)), str(os.minor(number))])
            self.run(["mount", "-t", "ext4", "/root/disk", path])
            self.run(["chmod", "700", path])
        finally:
            command(["losetup", "--detach", device], "losetup")  # from now on the mount alone keeps it
            self.run(["rm", "-f", "/root/disk"])
            image.unlink()

    # The journal

    def journal(self, *match: str) -> list[dict[str, Any]]:
        """Every record of all boots, or those with all fields in `match` (`_UID=0`), oldest first."""
        printed = self.run(["journalctl", "--all", "--output=json", "--no-pager", *match], check=False).stdout
        return [json.loads(line) for line in printed.splitlines()]

    def wait_for_record(
        self, *match: str, where: Callable[[dict[str, Any]], bool] = lambda record: True, timeout: float = 30
    ) -> dict[str, Any]:
        """The first record, old or yet to come, that has all fields in `match` and pleases `where`."""
        follow = ["journalctl", "--follow", "--lines=all", "--all", "--output=json", *match]
        deadline = time.monotonic() + timeout
        with self.popen(follow, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                for line in _lines_until(process.stdout.fileno(), deadline):
                    record: dict[str, Any] = json.loads(line)
                    if where(record):
                        return record
            finally:
                end(process)
        raise TimeoutError(f"{self.name}: no such record within {timeout:g} s: {' '.join(match)}")

    def wait_for(self, ready: Callable[[], T], timeout: float = 30, what: str = "") -> T:
        """Ask `ready` until its answer is true; for facts that no journal record announces."""
        answer: T = wait_until(ready, timeout, f"{self.name}: {what or ready}")
        return answer


def end(process: subprocess.Popen[Any], with_signal: int = signal.SIGTERM) -> int:
    """End what Machine.popen() started and return its exit status.

    The signal goes to the command itself: nsenter then reaps it and leaves. With nsenter gone first, the
    command stays as a zombie until the host's init looks after it, and a shutdown waits 10 s for that.
    """
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in children.read_text().split():
            os.kill(int(child), with_signal)
    return process.wait(STOP_SECONDS)


def _lines_until(fd: int, deadline: float) -> Iterator[bytes]:
    rest = b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([fd], [], [], left)[0]:
            return
        read = os.read(fd, 1 << 16)
        if not read:
            return
        *lines, rest = (rest + read).split(b"\n")
        yield from lines


def prepare() -> None:
    """Once per run, before the first machine: clear away what killed runs have left."""
    remove_dead_runs()
