"""qmaild-spawn: becomes the recipient. Takes a uid and a socket from local, forks, and the child gives everything up.

It parses eight bytes and nothing else; addresses and messages go from local to the child directly. The
program unit is the same code in a looser sandbox.
"""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket
import struct

from qmaild.delivery import child
from qmaild.policy import users
from qmaild.runtime import journal, paths, service, strangers, system
from qmaild.runtime.channel import peer_of

REQUEST = struct.Struct("!II")  # version, uid
VERSION = 1
MAX_CHILDREN = 256  # local keeps fewer; a local gone wild finds an end here
ORDERER = b"qmaild-local"  # the one account that may ask
POWER = 1 << 6 | 1 << 7  # CAP_SETGID, CAP_SETUID

_ANCILLARY = socket.CMSG_SPACE(4)


class Spawner:
    """All children of one unit. has_programs: whether they run program lines."""

    def __init__(self, unit: service.Service, has_programs: bool) -> None:
        self._unit = unit
        self._has_programs = has_programs
        self._children: set[int] = set()
        self._orderers: set[socket.socket] = set()
        self._clients = _clients()
        unit.accept(unit.name, self.connected)
        unit.is_busy = lambda: bool(self._children)
        unit.on_stop = self.stop
        unit.status = lambda: f"{len(self._children)} deliverers"
        unit.loop.add_signal_handler(signal.SIGCHLD, self.reap)

    def connected(self, sock: socket.socket) -> None:
        if peer_of(sock).uid not in self._clients:
            sock.close()
            return
        sock.setblocking(False)
        self._unit.connections += 1
        self._orderers.add(sock)
        self._unit.loop.add_reader(sock.fileno(), self._readable, sock)

    def _readable(self, sock: socket.socket) -> None:
        try:
            data, ancillary, flags, _ = sock.recvmsg(REQUEST.size, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, ancillary, flags = b"", [], 0
        received = array.array("i")
        for _, _, content in ancillary:
            received.frombytes(content[: len(content) - len(content) % received.itemsize])
        version, uid = REQUEST.unpack(data) if len(data) == REQUEST.size else (0, 0)
        if version != VERSION or len(received) != 1 or flags & socket.MSG_CTRUNC or not _is_end_of_pair(received[0]):
            self._drop(sock)
            strangers.close(received)
        elif len(self._children) < MAX_CHILDREN and self._fork(uid, received[0]):
            os.close(received[0])  # the child has it: this close is not the last, so it waits for nobody
        else:
            strangers.close(received)

    def _drop(self, sock: socket.socket) -> None:
        self._unit.loop.remove_reader(sock.fileno())
        self._unit.connections -= 1
        self._orderers.discard(sock)
        sock.close()

    def _fork(self, uid: int, end: int) -> bool:
        try:
            process = os.fork()
        except OSError as error:
            journal.note(journal.WARNING, f"cannot fork: {error.strerror}")
            return False
        if process == 0:
            # Whatever happens, the child never comes back into the loop, and never logs: local sees its end.
            try:
                self._become(uid, end)
            finally:
                os._exit(111)
        self._children.add(process)
        self._unit.touch()
        return True

    def _become(self, uid: int, end: int) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        sock = _only(end)
        # The account is asked for here and not before the fork: a directory that is slow costs one recipient's
        # mail its time and stops nobody else's.
        if not (paths.STANDALONE and uid == os.geteuid()):
            answer = system.account_by_uid(uid)
            if not isinstance(answer, system.Found):
                return
            account = answer.account
            if not users.may_receive(account.name, account.uid, self._unit.settings.systemusers) or account.uid != uid:
                return
            system.become(account.uid, account.gid, system.groups_of(account.name, account.gid))
        sock = _only(sock.detach())  # what asking for the account has opened
        os.umask(0o077)
        os.chdir("/")
        child.serve(sock, self._unit.settings.me, self._has_programs)
        os._exit(0)

    def stop(self) -> None:
        """Take no more orders and ask the children to end between deliveries. Those of other uids systemd signals: we may not."""
        for sock in list(self._orderers):
            self._drop(sock)
        for process in self._children:
            with contextlib.suppress(PermissionError, ProcessLookupError):
                os.kill(process, signal.SIGTERM)

    def reap(self) -> None:
        while self._children:
            try:
                process, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._children.clear()
                return
            if not process:
                return
            self._children.discard(process)
            self._unit.touch()


def _clients() -> set[int]:
    """Return the uids that may ask: local's, and our own (who already has this power)."""
    found = {os.geteuid()}
    answer = system.account_by_name(ORDERER)
    if isinstance(answer, system.Found):
        found.add(answer.account.uid)
    elif not paths.STANDALONE and isinstance(answer, system.Trouble):
        raise OSError(f"cannot look up the account {ORDERER.decode()}")
    return found


def _is_end_of_pair(descriptor: int) -> bool:
    """Return whether this is what a child can speak over. A file is not even looked at: its file system may be a user's."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        return False
    is_end = (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
    sock.detach()
    return is_end


def _only(descriptor: int) -> socket.socket:
    """Close every descriptor but this one, which becomes 3; 0 to 2 lead nowhere: a user must not write to our journal."""
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    if descriptor != 3:
        os.dup2(descriptor, 3, inheritable=False)
    os.closerange(4, 1 << 20)
    return socket.socket(fileno=3)


def check_power() -> None:
    """Raise ValueError unless we hold the two capabilities of the unit and no other: more is a danger, less is of no use."""
    with open("/proc/self/status", "rb") as file:
        lines = file.read().splitlines()
    for line in lines:
        name, _, value = line.partition(b":")
        if name in (b"CapPrm", b"CapEff") and int(value, 16) != POWER:
            shown = line.decode().replace("\t", " ")
            raise ValueError(f"{shown}: expected CAP_SETGID and CAP_SETUID alone ({POWER:016x})")


def build(unit: service.Service, has_programs: bool = False) -> None:
    if not paths.STANDALONE:
        check_power()
    Spawner(unit, has_programs)


if __name__ == "__main__":
    service.run("spawn", build)
