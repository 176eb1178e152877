"""spawn and program: what they take, whom they become, and what the child is then."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from qmaild.protocol import frames, netstring
from tests.unit import processes
from tests.unit.local_house import MESSAGE, House, house
from tests.unit.peers import lingering
from tests.unit.processes import ROOT, SECONDS, Running

__all__ = ["house"]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming other users needs root")

SPAWN_UID, BOB, ALIAS, EVE = 54321, 12001, 990, 12002
PASSWD = f"""root:x:0:0:root:/root:/bin/sh
qmaild-local:x:0:0:the test asks as root:/nonexistent:/bin/false
daemon:x:1:1::/usr/sbin:/bin/false
qmaild-alias:x:{ALIAS}:{ALIAS}::/nonexistent:/bin/false
bob:x:{BOB}:{BOB}::/nonexistent:/bin/sh
eve:x:{EVE}:0:her group is the super-user's:/nonexistent:/bin/sh
nobody:x:65534:65534::/nonexistent:/bin/false
"""
GROUPS = f"root:x:0:\nbob:x:{BOB}:\nfriends:x:12345:bob,eve\n"


class Asked:
    """Our end of the pair whose other end was given away, or these others instead."""

    def __init__(self, path: Path, uid: int, version: int = 1, instead: Sequence[int] = ()) -> None:
        self.spawner = socket.socket(socket.AF_UNIX)
        self.spawner.settimeout(SECONDS)
        self.spawner.connect(str(path))
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(SECONDS)
        with theirs:
            socket.send_fds(self.spawner, [struct.pack("!II", version, uid)], list(instead) or [theirs.fileno()])

    def answer(self, frame: frames.Frame) -> frames.Frame:
        self.sock.sendall(frames.encode(frame))
        reader = netstring.Reader(frames.MAX_FRAME)
        while True:
            data = self.sock.recv(1 << 16)
            assert data, "the child ended"
            for payload in reader.feed(data):
                return frames.decode(payload)  # type: ignore[no-any-return]

    def is_refused(self) -> bool:
        return self.sock.recv(1) == b""

    def close(self) -> None:
        self.sock.close()
        self.spawner.close()


def deliver(home: Path, name: bytes = b"bob", instructions: bytes = b"./Maildir/\n", fixed: int = 0) -> frames.Deliver:
    return frames.Deliver(1, name, os.fsencode(home), name, b"", b"", b"h", b"s@x", instructions, fixed, len(MESSAGE), MESSAGE, 0)


class Unit:
    """spawn or program as its unit runs it: an ordinary uid with two capabilities, and accounts of this test's own."""

    def __init__(self, name: str, power: str = "+setuid,+setgid") -> None:
        self.top = Path(tempfile.mkdtemp(prefix="q"))
        self.top.chmod(0o755)
        self.path = self.top / f"{name}.sock"
        (self.top / "control").mkdir(mode=0o755)
        (self.top / "control/me").write_text("host.test\n")
        (self.top / "passwd").write_text(PASSWD)
        (self.top / "group").write_text(GROUPS)
        for path in (self.top / "control/me", self.top / "passwd", self.top / "group"):
            path.chmod(0o644)
        tree = self.top / "tree"
        shutil.copytree(ROOT / "qmaild", tree / "qmaild", ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(["chmod", "-R", "a+rX", tree], check=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.path))
            listener.listen(10)
            number = listener.fileno()
            become = (
                f'mount --bind {self.top}/passwd /etc/passwd && mount --bind {self.top}/group /etc/group && '
                f'exec setpriv --reuid {SPAWN_UID} --regid {SPAWN_UID} --clear-groups --no-new-privs --inh-caps=-all,{power} '
                f'--ambient-caps=-all,{power} --bounding-set=-all,{power} "$@"'
            )
            self.process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", become, "sh", sys.executable, "-c", processes._START, name, str(number)],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tree), "QMAILD_CONTROL": str(self.top / "control"),
                     "LISTEN_FDS": "1", "LISTEN_FDNAMES": name}, cwd=tree, pass_fds=[number],
            )  # fmt: skip

    def home(self, uid: int) -> Path:
        home = self.top / f"home{uid}"
        home.mkdir(mode=0o700, exist_ok=True)
        os.chown(home, uid, uid)
        return home

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(SECONDS)
        shutil.rmtree(self.top)


@pytest.fixture
def spawn() -> Iterator[Unit]:
    unit = Unit("spawn")
    yield unit
    unit.close()


@pytest.fixture
def program() -> Iterator[Unit]:
    unit = Unit("program")
    yield unit
    unit.close()


@needs_root
def test_the_child_is_the_recipient_and_holds_no_power(spawn: Unit) -> None:
    asked = Asked(spawn.path, BOB)
    home = spawn.home(BOB)
    answer = asked.answer(deliver(home))
    assert answer == frames.Delivered(1, b"K", b"2.0.0", b"did 1+0+0", b"", [])
    message = next((home / "Maildir/new").iterdir())
    assert (message.stat().st_uid, message.stat().st_gid, message.stat().st_mode & 0o777) == (BOB, BOB, 0o600)
    child = int(Path(f"/proc/{spawn.process.pid}/task/{spawn.process.pid}/children").read_text())
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines() if ":\t" in line)
    assert status["Uid"].split() == [str(BOB)] * 4 and status["Gid"].split() == [str(BOB)] * 4
    assert status["Groups"].split() == [str(BOB), "12345"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name], 16) == 0, name
    null = os.stat("/dev/null").st_rdev  # by number: in a chroot its name may be a longer one
    opened = {int(path.name): path.stat() for path in Path(f"/proc/{child}/fd").iterdir()}
    assert sorted(opened) == [0, 1, 2, 3]
    assert all(stat.S_ISCHR(opened[number].st_mode) and opened[number].st_rdev == null for number in (0, 1, 2))
    assert stat.S_ISSOCK(opened[3].st_mode)
    asked.close()


@needs_root
@pytest.mark.parametrize("uid", [0, 1, 65534, 77777, SPAWN_UID, 0xFFFFFFFF, EVE])
def test_root_system_accounts_strangers_and_the_root_group_are_refused(spawn: Unit, uid: int) -> None:
    asked = Asked(spawn.path, uid)
    assert asked.is_refused()
    asked.close()


@needs_root
def test_a_system_account_that_is_listed_is_not_refused(spawn: Unit) -> None:
    asked = Asked(spawn.path, ALIAS)
    home = spawn.home(ALIAS)
    assert asked.answer(deliver(home, b"qmaild-alias"))[1] == b"K"
    asked.close()


@needs_root
def test_a_home_of_another_user_is_not_delivered_to(spawn: Unit) -> None:
    asked = Asked(spawn.path, BOB)
    assert asked.answer(deliver(spawn.home(EVE)))[1:3] == (b"Z", b"4.7.0")
    asked.close()


@needs_root
def test_with_more_or_less_power_than_its_own_a_unit_does_not_serve() -> None:
    for power in ("+setuid", "+setuid,+setgid,+chown"):
        unit = Unit("spawn", power)
        assert unit.process.wait(SECONDS) == 111
        shutil.rmtree(unit.top)


HOSTILE = r"""
import ctypes, os, signal, sys
def tried(name, *arguments):
    try:
        getattr(os, name)(*arguments)
    except OSError as error:
        print(name, error.errno)
    else:
        print(name, "DONE")
tried("setresuid", 0, 0, 0)
tried("setresuid", %(eve)d, %(eve)d, %(eve)d)
tried("setgroups", [0])
tried("kill", %(spawn)d, signal.SIGKILL)
tried("open", "%(secret)s", os.O_RDONLY)
libc = ctypes.CDLL(None, use_errno=True)
print("ptrace", libc.ptrace(16, %(spawn)d, 0, 0), ctypes.get_errno())
print(sorted(os.listdir("/proc/self/fd")))
print("CAPS", [line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapPrm", "CapEff", "CapAmb"))])
"""


@needs_root
def test_a_hostile_program_stays_who_it_is(program: Unit) -> None:
    home = program.home(BOB)
    secret = program.home(EVE) / "secret"
    secret.write_text("x")
    script = home / "hostile.py"
    script.write_text(HOSTILE % {"eve": EVE, "spawn": program.process.pid, "secret": secret})
    script.chmod(0o644)
    asked = Asked(program.path, BOB)
    answer = asked.answer(deliver(home, instructions=b"|id -u; /usr/bin/python3 hostile.py 2>&1", fixed=1))
    assert isinstance(answer, frames.Delivered) and answer.outcome == b"K", answer
    assert answer.text.decode().splitlines() == [
        str(BOB), "setresuid 1", "setresuid 1", "setgroups 1", "kill 1", "open 13", "ptrace -1 1",
        "['0', '1', '2', '3']", f"CAPS {['0' * 16] * 3}", "did 0+0+1"]  # fmt: skip
    asked.close()


@pytest.mark.parametrize("what", ["version", "descriptor", "length", "two", "network", "file"])
def test_a_request_that_is_none_ends_the_connection_and_nothing_else(house: House, what: str) -> None:
    house.user("bob")
    with Running("spawn", ["spawn"], house.top) as spawn, lingering() as stranger, open(os.devnull) as file:
        path = house.top / "run/spawn.sock"
        others = {"two": [stranger.fileno(), file.fileno()], "network": [stranger.fileno()], "file": [file.fileno()]}
        if what in others:
            assert Asked(path, os.geteuid(), version=2).is_refused()  # it serves
            spawn.process.send_signal(signal.SIGSTOP)
            bad = Asked(path, os.geteuid(), instead=others[what])
            if what != "file":
                stranger.close()  # whoever closes it after us waits for a minute
            spawn.process.send_signal(signal.SIGCONT)
        elif what == "version":
            bad = Asked(path, os.geteuid(), version=2)
            assert bad.is_refused()
        else:
            bad = Asked(path, 1)
            bad.spawner.sendall(struct.pack("!II", 1, os.geteuid())[: 8 if what == "descriptor" else 5])
        while bad.spawner.recv(1):
            raise AssertionError("spawn says nothing")
        bad.close()
        good = Asked(path, os.geteuid())
        assert good.answer(deliver(house.top / "home/bob"))[1] == b"K"
        good.close()


def test_a_child_that_is_spoken_to_out_of_step_ends(house: House) -> None:
    house.user("bob")
    with Running("spawn", ["spawn"], house.top):
        for nonsense in (b"xxx", frames.encode(frames.Command(1, [])), frames.encode(deliver(house.top)._replace(descriptor=1))):
            asked = Asked(house.top / "run/spawn.sock", os.geteuid())
            asked.sock.sendall(nonsense)
            assert asked.is_refused()
            asked.close()


def test_children_end_with_their_socket_and_a_stop_is_quick(house: House) -> None:
    home = house.user("bob")
    with Running("spawn", ["spawn"], house.top) as spawn:
        first, second = (Asked(house.top / "run/spawn.sock", os.geteuid()) for _ in range(2))
        for asked in (first, second):
            assert asked.answer(deliver(home))[1] == b"K"
        children = Path(f"/proc/{spawn.process.pid}/task/{spawn.process.pid}/children")
        watcher = os.pidfd_open(int(children.read_text().split()[0]))
        first.close()
        with os.fdopen(watcher) as gone:
            assert select.select([gone], [], [], SECONDS)[0]
        spawn.process.send_signal(signal.SIGTERM)
        assert second.is_refused()  # it rests: it ends at once
        assert spawn.process.wait(4) == 0
        second.close()
