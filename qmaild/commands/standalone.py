"""`qmaild standalone DIR`: the whole server below one directory, as one ordinary user, without systemd.

For trying it, for tests, for containers. The programs and sockets are those of the unit files; the sandboxes
and the separate users are systemd's work and absent here.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pwd
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from qmaild.runtime import units
from qmaild.runtime.listening import Listener, StartError, listen
from qmaild.runtime.supervisor import Supervisor, python
from qmaild.runtime.units import SocketUnit, UnitError

TREE = Path(__file__).resolve().parents[2]  # what `import qmaild` finds
CLIENT = "build/sendmail"  # where a source tree has it built
UID = 65025  # Debian reserves 65000 to 65533: no account and no other service has it
HIGH_PORTS = {"smtp": 2525, "qmqp": 6280}
OTHER_PORT = 20000  # added to the packaged port of a socket that the table does not have
USERS = ("alice", "bob")
ALIASES = "postmaster: alice\nmailer-daemon: postmaster\nroot: postmaster\n"
PATH = "/usr/local/bin:/usr/bin:/bin"


class CannotStart(Exception):
    """Nothing was started; the text says why and what to do."""


def main(arguments: Sequence[str]) -> int:
    """Run the server until Ctrl-C. Exit status: 0, 100 for a wrong call, 111 when it cannot start."""
    options = _options(arguments)
    try:
        directory = options.directory.absolute()
        if os.geteuid() == 0:
            _give_up_root(directory, options)
        return run(directory, dict(options.port), options.demo)
    except (CannotStart, StartError, UnitError) as error:
        print(f"qmaild standalone: {error}", file=sys.stderr)
    except OSError as error:
        print(f"qmaild standalone: {error.filename or directory}: {error.strerror}", file=sys.stderr)
    return 111


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    ports = ", ".join(f"{name}={port}" for name, port in HIGH_PORTS.items())
    parser = argparse.ArgumentParser("qmaild standalone", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", metavar="DIR", type=Path, help="keeps everything; made if missing")
    parser.add_argument("--user", default=str(UID),
                        help="who to become when started by root: a name or a uid (default: %(default)s)")
    parser.add_argument("--port", action="append", default=[], type=_port, metavar="NAME=PORT",
                        help="where a socket listens on 127.0.0.1; 0 is any free port (default: "
                        f"{ports}, or any free port if that is taken)")
    parser.add_argument("--demo", choices=("once", "stay"), help="send two messages first; once: then stop")
    try:
        return parser.parse_args(arguments)
    except SystemExit as end:
        raise SystemExit(100 if end.code else 0) from None


def _port(text: str) -> tuple[str, int]:
    name, equals, number = text.partition("=")
    if not equals or not number.isdigit() or int(number) > 65535:
        raise argparse.ArgumentTypeError("expected NAME=PORT with a port between 0 and 65535")
    return name, int(number)


def run(directory: Path, ports: Mapping[str, int], demo: str | None) -> int:
    """Serve from `directory` as the current user until stopped."""
    sockets, programs = units.read(units.find(TREE))
    chosen = _choose_ports(sockets, ports)
    _make_tree(directory)
    lock = _lock(directory)
    listeners = listen(sockets, directory / "run", chosen)
    supervisor = Supervisor(TREE, programs, listeners, environment(directory), directory / "queue", _say)
    result = 0

    def shown(code: int) -> None:
        nonlocal result
        result = code
        if demo == "once" or code:
            supervisor.stop()

    def ready() -> None:
        port = _write_ports(directory, listeners)["smtp"]
        _say(f"serving below {directory}, SMTP at 127.0.0.1 port {port}; Ctrl-C ends it")
        _say("all parts run as one user and without a sandbox: for trying only")
        if demo:
            supervisor.add_guest(python(TREE, "qmaild.commands.demo", str(directory)), shown)

    supervisor.run(ready)
    os.close(lock)
    return result


def environment(directory: Path) -> dict[str, str]:
    """Return the variables by which every program finds its place below `directory`."""
    return {
        "PATH": PATH, "LANG": "C.UTF-8", "QMAILD_STANDALONE": str(directory),
        "QMAILD_CONTROL": f"{directory}/control", "QMAILD_RUN": f"{directory}/run",
        "QMAILD_ALIASES": f"{directory}/aliases",
    }  # fmt: skip


def _say(text: str) -> None:
    print(f"qmaild: {text}", file=sys.stderr, flush=True)


def _choose_ports(sockets: list[SocketUnit], wanted: Mapping[str, int]) -> dict[str, Sequence[int]]:
    """Return the ports to try for each name: the one asked for, else the usual one, else any that is free."""
    usual = {unit.name: HIGH_PORTS.get(unit.name, unit.port + OTHER_PORT) for unit in sockets if unit.port}
    for name in wanted:
        if name not in usual:
            raise CannotStart(f"--port {name}: expected one of {', '.join(sorted(usual))}")
    return {name: (wanted[name],) if name in wanted else (port, 0) for name, port in usual.items()}


def _write_ports(directory: Path, listeners: Mapping[str, list[Listener]]) -> dict[str, int]:
    """Write DIR/ports, `NAME PORT` lines, in one step: who waits for the file finds it whole."""
    every = [listener for found in listeners.values() for listener in found]
    ports = {name: sock.getsockname()[1] for name, sock in every if sock.family == socket.AF_INET}
    unfinished = directory / "ports.new"
    unfinished.write_text("".join(f"{name} {port}\n" for name, port in ports.items()))
    unfinished.rename(directory / "ports")
    return ports


def _lock(directory: Path) -> int:
    """Return a descriptor that holds the directory for this process: its sockets have one owner."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CannotStart(f"{directory} is in use by another qmaild standalone") from None
    return lock


def _make_tree(directory: Path) -> None:
    """Make what is missing below `directory`; what is there stays as it is."""
    for name, mode in (
        ("", 0o755), ("control", 0o755), ("run", 0o755), ("queue", 0o700), ("home", 0o755), ("alias", 0o755)
    ):
        (directory / name).mkdir(mode=mode, exist_ok=True)
    for file, text in (("users", "".join(f"{name}\n" for name in USERS)), ("aliases", ALIASES)):
        with contextlib.suppress(FileExistsError), (directory / file).open("x") as made:
            made.write(text)
    for name in (directory / "users").read_text().split():
        (directory / "home" / name).mkdir(mode=0o755, exist_ok=True)


def _give_up_root(directory: Path, options: argparse.Namespace) -> None:
    """Become --user and begin again from a copy of the program below `directory`, readable for that user."""
    uid, gid = _account(options.user)
    directory.mkdir(mode=0o755, exist_ok=True)
    program = directory / "program"
    with _opened(directory) as opened:
        if os.fstat(opened).st_uid not in (0, uid):
            raise CannotStart(f"{directory} belongs to somebody else: choose another directory")
        lock = _lock(directory)  # held until the other self begins
        # Root's alone while root works in it: its user could put a link where root is about to write.
        os.fchown(opened, 0, 0)
        try:
            os.fchmod(opened, 0o755)
            if program.is_symlink():
                raise CannotStart(f"{program} is a symbolic link: remove it")
            if os.fstat(lock).st_nlink != 1:
                raise CannotStart(f"{directory / 'lock'} has another name too: remove it")
            os.fchown(lock, uid, gid)
            shutil.rmtree(program, ignore_errors=True)
            _copy_program(program)
        finally:
            os.fchown(opened, uid, gid)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    os.chdir("/")
    os.umask(0o022)
    if not os.access(program, os.R_OK | os.X_OK):
        raise CannotStart(f"uid {uid} may not reach {directory}: choose a directory that everybody may enter")
    again = [str(directory), *(f"--port={name}={number}" for name, number in options.port)]
    again += [f"--demo={options.demo}"] if options.demo else []
    argv = python(program, "qmaild", "standalone", *again)
    os.execve(argv[0], argv, {"PATH": PATH, "LANG": "C.UTF-8"})


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    try:
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise CannotStart(f"{directory} is not a directory") from None
    try:
        yield opened
    finally:
        os.close(opened)


def _account(user: str) -> tuple[int, int]:
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        uid, gid = entry.pw_uid, entry.pw_gid
    except KeyError:
        if not user.isdigit():
            raise CannotStart(f"--user {user}: there is no such user") from None
        uid = gid = int(user)
    if uid == 0:
        raise CannotStart("--user: nothing of qmaild runs as root")
    return uid, gid


def _copy_program(program: Path) -> None:
    program.mkdir(mode=0o755)
    shutil.copytree(TREE / "qmaild", program / "qmaild")
    with contextlib.suppress(UnitError):
        shutil.copytree(units.find(TREE), program / "systemd", ignore=_all_but_ours)
    if (TREE / CLIENT).exists():
        (program / CLIENT).parent.mkdir()
        shutil.copy2(TREE / CLIENT, program / CLIENT)
    for path in (program, *program.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _all_but_ours(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("qmaild")]
