"""One `qmaild standalone` that stops, dies and comes back in the same folder. Knows its processes and its control files."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from .load import LOCAL_DOMAIN, LoadError, SenderCall, send_marked
from .peer import free_port
from .peer_qmaild import MAILDIR, TREE, UID, start_argv
from .proof import Sent
from .tracing import processes_of

USER, OTHER = "u1", "u2"  # the other receives what only asks whether a server is up
PATIENCE = 300  # seconds in which a start or a stop must succeed
OWNER = UID if os.geteuid() == 0 else os.geteuid()


class House:
    """A server in `folder`. settings: control files, over those that every house has; they count from the next start."""

    def __init__(self, folder: Path, sender: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self.settings = {"me": "depth.test", "locals": LOCAL_DOMAIN, "idleexit": "0", **settings}
        self.port = free_port()
        self._sender = sender
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "control").mkdir(parents=True)
        (folder / "queue").mkdir(mode=0o700)
        (folder / "users").write_text(f"{USER}\n{OTHER}\n")
        for user in (USER, OTHER):
            for part in MAILDIR:
                (folder / "home" / user / part).mkdir(parents=True, exist_ok=True)
        for path in (folder, folder / "queue", *(folder / "home").rglob("*")):
            os.chown(path, OWNER, OWNER)

    @property
    def queue(self) -> Path:
        return self.folder / "queue"

    @property
    def new(self) -> Path:
        return self.folder / "home" / USER / "Maildir/new"

    def start(self) -> float:
        """Start it, unless it runs; seconds until a message had its 250."""
        if self._process is not None:
            return 0.0
        self._configure()
        begun = time.monotonic()
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(start_argv(self.folder, self.port), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                             start_new_session=True)  # fmt: skip
        return self.await_accepting() - begun

    def _configure(self) -> None:
        for path in (self.folder / "control").iterdir():
            path.unlink()
        for name, value in self.settings.items():
            (self.folder / "control" / name).write_text(value + "\n")

    def reload(self) -> None:
        """Let the services read changed settings."""
        self._configure()
        asked = self.ctl("reload")
        if asked.code:
            raise LoadError(f"reload: {asked.error}")

    def await_accepting(self) -> float:
        """Send one message again and again until it is accepted; when that was (monotonic)."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            if self.send(1, "first", f"{OTHER}@{LOCAL_DOMAIN}").codes == {250}:
                return time.monotonic()
            time.sleep(0.02)
        raise LoadError(f"no 250 in {PATIENCE} s:\n{(self.folder / 'server.log').read_text()[-2000:]}")

    def send(self, messages: int, name: str, forward_path: str, *, sessions: int = 1, every: int = 0,
             place: Path | str = "-") -> Batch:  # fmt: skip
        call = SenderCall(self._sender, self.port, messages, forward_path, name, sessions, every=every, place=place)
        return Batch(send_marked(call))

    def stop(self) -> None:
        """An orderly stop, as systemd's."""
        if self._process is None:
            return
        left = self._children()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            for pid in (*left, self._process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise LoadError(f"it did not stop in {PATIENCE} s") from None
        finally:
            self._process.wait()
            self._process = None

    def kill(self, service: str) -> float:
        """SIGKILL to one service; seconds until a message had its 250 again."""
        (pid,) = processes_of(self._children(), service)[:1]
        begun = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        return self.await_accepting() - begun

    def _children(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        with contextlib.suppress(OSError):  # it may have ended
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def resident(self) -> float:
        """MB that queue and send have in memory together, shared pages included."""
        total = 0
        for pid in processes_of(self._children(), "queue", "send"):
            with contextlib.suppress(OSError):
                found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
                total += int(found[1]) if found else 0
        return total * 1024 / 1e6

    @contextlib.contextmanager
    def watched(self) -> Iterator[Watch]:
        """What queue and send have in memory while the block runs."""
        watch = Watch(self)
        watch.start()
        try:
            yield watch
        finally:
            watch.done.set()
            watch.join()

    def ctl(self, *words: str) -> Asked:
        """Ask qmailctl, as an administrator would."""
        begun = time.monotonic()
        start = f"import sys; sys.path.insert(0, {str(TREE)!r}); import qmaild.commands.qmailctl as q; sys.exit(q.main())"
        done = subprocess.run([sys.executable, "-I", "-c", start, f"--standalone={self.folder}", *words],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)  # fmt: skip
        return Asked(done.returncode, done.stdout.splitlines(), done.stderr, time.monotonic() - begun)

    def out(self) -> int:
        """Recipients that the queue has handed to send and not heard of again."""
        found = re.search(r"(\d+) out recipients", "\n".join(self.ctl("status").lines))
        return int(found[1]) if found else 0

    def records_about(self, domain: str) -> int:
        """How many deliveries of this domain the journal tells of."""
        if not (self.folder / "journal").exists():
            return 0
        with (self.folder / "journal").open(errors="replace") as lines:
            return sum(f"@{domain}" in line for line in lines)


class Watch(threading.Thread):
    """Looks at the memory of a house twice a second."""

    def __init__(self, house: House) -> None:
        super().__init__(daemon=True)
        self._house = house
        self.done = threading.Event()
        self.most = house.resident()

    def run(self) -> None:
        while not self.done.wait(0.5):
            with contextlib.suppress(OSError):
                self.most = max(self.most, self._house.resident())


class Asked:
    """What qmailctl answered, and in how long."""

    def __init__(self, code: int, lines: list[str], error: str, seconds: float) -> None:
        self.code = code
        self.lines = lines
        self.error = error
        self.seconds = seconds


class Batch:
    """What became of the messages of one call of sender.c."""

    def __init__(self, sent: list[Sent]) -> None:
        self.codes = {each.code for each in sent}
        self.placed = [each.placed / 1000 for each in sent]  # milliseconds; 0 did not arrive
        self.seconds = max(each.begun + each.replied for each in sent) / 1e6
        self.rate = len(sent) / self.seconds


@contextlib.contextmanager
def hanging_port(address: str) -> Iterator[int]:
    """A port of this address where connections neither open nor fail: a listener that never accepts, its queue full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((address, 0))
        listener.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
