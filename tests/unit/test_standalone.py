"""Standalone: what is read from the unit files, and processes that come and go by demand."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmaild.commands import standalone as standalone_module
from qmaild.runtime import listening, supervisor, units
from qmaild.runtime.units import Program, SocketUnit, UnitError

TREE = Path(__file__).resolve().parents[2]

# A service in few lines: answers each connection with its pid, then does what the connection says.
SERVICE = """
import os, socket, sys
from systemd import daemon
names = daemon.listen_fds_with_names()
listener = socket.socket(fileno=next(number for number, name in names.items() if name == "door"))
while True:
    sock, _ = listener.accept()
    with sock:
        sock.sendall(b"%d %s %s" % (os.getpid(), os.environ.get("STATE_DIRECTORY", "-").encode(),
                                    ",".join(sorted(names.values())).encode()))
        word = sock.recv(10)
    if word == b"leave":
        sys.exit(0)
    if word == b"fail":
        sys.exit(111)
    if word == b"crash":
        os.kill(os.getpid(), 9)
"""


class Running:
    """A supervisor over the service `echo`, in a process of its own as in life."""

    def __init__(self, folder: Path, is_wanted: bool = False, service: str = SERVICE) -> None:
        self.folder = folder
        (folder / "tree").mkdir()
        (folder / "tree/echo_service.py").write_text(service)
        self.path = folder / "run/door.sock"
        self.said = folder / "said"
        self.said.touch()
        ready, told = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                self._serve(is_wanted, told)
            finally:
                os._exit(0)
        os.close(told)
        assert os.read(ready, 1) == b"r"
        os.close(ready)

    def _serve(self, is_wanted: bool, told: int) -> None:
        sockets = [SocketUnit("door", "echo", 0, "door.sock", 0o600, 10),
                   SocketUnit("other", "echo", 0, "control/other.sock", 0o660, 10)]  # fmt: skip
        program = Program("echo", "echo_service", 0.05, 5.0, True, 1024, is_wanted)

        def say(text: str) -> None:
            with self.said.open("a") as file:
                file.write(text + "\n")

        boss = supervisor.Supervisor(
            self.folder / "tree", [program], listening.listen(sockets, self.folder / "run", {}),
            {"PATH": "/usr/bin:/bin"}, self.folder / "state", say,
        )  # fmt: skip

        def ready() -> None:
            os.write(told, b"r")

        boss.run(ready)

    def ask(self, word: bytes) -> list[bytes]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(self.path))
            answer = sock.recv(200)
            sock.sendall(word)
            return answer.split()

    def children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def stop(self) -> int:
        """Returns the exit status; the process is gone afterwards."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    server = Running(tmp_path)
    yield server
    if server.pid:
        os.kill(server.pid, signal.SIGKILL)
        server.wait()


def test_a_connection_starts_the_service_with_its_sockets_by_name(running: Running) -> None:
    assert running.children() == []
    pid, state, names = running.ask(b"stay")
    assert running.children() == [int(pid)]
    assert state == str(running.folder / "state").encode()
    assert names == b"door,other"


def test_one_process_serves_until_it_leaves_and_the_next_connection_starts_another(running: Running) -> None:
    first = running.ask(b"stay")[0]
    assert running.ask(b"leave")[0] == first
    second = running.ask(b"stay")[0]
    assert second != first
    assert running.said.read_text() == ""


@pytest.mark.parametrize(("word", "how"), [(b"fail", "exit 111"), (b"crash", "SIGKILL")])
def test_a_service_that_fails_starts_again_and_it_is_said(running: Running, word: bytes, how: str) -> None:
    first = running.ask(word)[0]
    assert running.ask(b"stay")[0] != first
    assert running.said.read_text() == f"echo ended ({how}); it starts again\n"


FORKS = """    if word == b"fork" and not os.fork():
        signal.pause()
"""


def test_a_stop_ends_the_service_and_what_it_has_forked(tmp_path: Path) -> None:
    running = Running(tmp_path, service="import signal\n" + SERVICE + FORKS)
    pid = int(running.ask(b"fork")[0])
    assert int(running.ask(b"stay")[0]) == pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    gone = os.pidfd_open(int(child))
    assert running.stop() == 0
    assert not Path(f"/proc/{pid}").exists()
    assert select.select([gone], [], [], 10)[0], "the service's own child outlived it"
    os.close(gone)


def test_a_wanted_service_starts_without_a_connection(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "began")
    tells = f"open({str(tmp_path / 'began')!r}, 'w').write('began')\n"
    running = Running(tmp_path, is_wanted=True, service=tells + SERVICE)
    assert (tmp_path / "began").read_text() == "began"
    assert running.stop() == 0


def test_a_socket_path_that_is_too_long_is_refused_with_its_limit(tmp_path: Path) -> None:
    with pytest.raises(listening.StartError, match="107 bytes"):
        listening.listen([SocketUnit("door", "echo", 0, "x" * 110, 0o600, 1)], tmp_path, {})


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(listening.StartError, match=f"smtp at 127.0.0.1 port {port}: Address already"):
            listening.listen([SocketUnit("smtp", "smtpd", 25, "", 0o666, 1)], tmp_path, {"smtp": (port,)})


def test_of_several_ports_the_first_that_is_free_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        unit = SocketUnit("smtp", "smtpd", 25, "", 0o666, 1)
        ((listener,),) = listening.listen([unit], tmp_path, {"smtp": (port, 0)}).values()
        with listener.sock:
            assert listener.sock.getsockname()[1] not in (0, port)


def test_a_killed_supervisor_leaves_no_service_behind(running: Running) -> None:
    gone = os.pidfd_open(int(running.ask(b"stay")[0]))
    os.kill(running.pid, signal.SIGKILL)
    assert select.select([gone], [], [], 10)[0], "the service outlived its supervisor"
    os.close(gone)


def test_the_units_of_the_tree_give_every_service_and_its_sockets() -> None:
    sockets, programs = units.read(TREE / "systemd")
    assert {program.name for program in programs} == {
        "smtpd", "qmqpd", "inject", "queue", "send", "remote", "dial", "local", "spawn", "program",
    }  # fmt: skip
    named = {(unit.service, unit.name): unit for unit in sockets}
    assert len(named) == len(sockets)
    assert {name for service, name in named if name != "control"} == {
        "smtp", "qmqp", "inject", "intake", "manage", "remote", "dial", "local", "lookup", "spawn", "program",
    }  # fmt: skip
    assert {service for service, name in named if name == "control"} == {program.name for program in programs}
    assert named["smtpd", "smtp"].port == 25
    assert named["queue", "intake"].path == "intake.sock" and named["queue", "intake"].mode == 0o660
    assert named["queue", "control"].path == "control/queue.sock"


def test_only_the_queue_has_state_and_starts_by_itself() -> None:
    _, programs = units.read(TREE / "systemd")
    assert [program.name for program in programs if program.has_state] == ["queue"]
    assert [program.name for program in programs if program.is_wanted] == ["queue"]
    assert all(program.restart_seconds == 0.3 and program.files == 65536 for program in programs)


@pytest.mark.parametrize(("service", "expected"), [
    ("ExecStart=/bin/sh", "expected ExecStart="),
    ("ExecStart=/usr/bin/python3 -I -m x\nRestartSec=soon", "expected RestartSec="),
    ("nonsense", "a.service:2: expected KEY=VALUE"),
])  # fmt: skip
def test_a_unit_that_standalone_cannot_run_is_named(tmp_path: Path, service: str, expected: str) -> None:
    (tmp_path / "qmaild.target").write_text("")
    (tmp_path / "qmaild-a.service").write_text(f"[Service]\n{service}\n")
    with pytest.raises(UnitError, match=expected):
        units.read(tmp_path)


def standalone(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "qmaild", "standalone", *arguments], cwd=TREE,
                          capture_output=True, text=True, timeout=60)  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "text"), [
    ([], 100, "the following arguments are required: DIR"),
    (["x", "--port", "smtp"], 100, "expected NAME=PORT"),
    (["x", "--port", "smtp=70000"], 100, "expected NAME=PORT"),
])  # fmt: skip
def test_a_wrong_call_exits_100_with_what_was_expected(arguments: list[str], code: int, text: str) -> None:
    done = standalone(*arguments)
    assert done.returncode == code
    assert text in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody")
def test_root_never_serves_as_root(tmp_path: Path) -> None:
    done = standalone(str(tmp_path / "x"), "--user", "root")
    assert done.returncode == 111
    assert "nothing of qmaild runs as root" in done.stderr


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path an ordinary user may walk, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="qmaild-test-", dir="/tmp"))
    yield folder / "server"
    shutil.rmtree(folder)


def test_standalone_makes_its_tree_says_where_it_listens_and_ends_by_ctrl_c(place: Path) -> None:
    place.parent.chmod(0o755)
    argv = [sys.executable, "-m", "qmaild", "standalone", str(place), "--port=smtp=0", "--port=qmqp=0"]
    with subprocess.Popen(argv, cwd=TREE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        ports = dict(entry.split() for entry in (place / "ports").read_text().splitlines())
        second = standalone(str(place), "--port=smtp=0", "--port=qmqp=0")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert f"127.0.0.1 port {ports['smtp']}" in line
    assert sorted(ports) == ["qmqp", "smtp"]
    assert second.returncode == 111 and "in use by another" in second.stderr
    assert (place / "users").read_text() == "alice\nbob\n"
    assert (place / "run/control/queue.sock").is_socket()
    assert (place / "queue").stat().st_mode & 0o777 == 0o700
    assert (place / "run").stat().st_uid != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_a_directory_that_the_user_cannot_enter_is_refused(place: Path) -> None:
    done = standalone(str(place))
    assert done.returncode == 111
    assert "choose a directory that everybody may enter" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_root_gives_nothing_away_through_a_lock_with_another_name(place: Path) -> None:
    place.parent.chmod(0o755)
    place.mkdir()
    secret = place.parent / "secret"
    secret.touch()
    (place / "lock").hardlink_to(secret)
    os.chown(place, standalone_module.UID, standalone_module.UID)
    done = standalone(str(place))
    assert done.returncode == 111 and "has another name" in done.stderr
    assert secret.stat().st_uid == 0
    assert place.stat().st_uid == standalone_module.UID, "what was its user's stays so"
