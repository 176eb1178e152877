"""Closing what strangers have sent: it may take as long as they like, and then a thread waits for it, not the service.

The last who closes a TCP socket waits for its peer if its owner has asked for that (SO_LINGER), until a signal comes; a
file of a user's own file system (FUSE) asks the user, and no signal helps. What lies unread in a socket is closed by
whoever closes that socket, or reads past it. So nobody who has sent no descriptor ever stands in this queue, those in it
wait only for one another, and a signal ends every wait that one can end. Nothing else does: when all threads are held
up, connections are kept as they are, shut down and unread, and beyond MAX_WAITING this process waits itself until its
watchdog ends it. A successor begins with none.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import signal
import socket
import termios
import threading
import time
from collections import deque
from collections.abc import Iterable

THREADS = 4
PATIENCE_SECONDS = 1.0  # for one close, while others wait
MAX_WAITING = 10_000  # far below LimitNOFILE=: honest peers need descriptors too
_WAKE = signal.SIGURG  # nobody else's, and harmless to who does not expect it
_LOOK = int(socket.MSG_PEEK)
_LOOK_BYTES = 64 << 10


class _Closers:
    """What waits to be closed, and the threads that do it: as many as there is work for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[int] = deque()
        self._threads = 0
        self._since: dict[int, float] = {}  # by thread: when the close began that it is at

    def close(self, descriptors: Iterable[int]) -> None:
        with self._lock:
            self._waiting.extend(descriptors)
            must_wait = len(self._waiting) > MAX_WAITING
            is_short = bool(self._waiting) and self._threads < THREADS
            self._threads += is_short
            if not is_short:
                self._hurry()
        if is_short:
            try:
                signal.signal(_WAKE, _woken)
                threading.Thread(target=self._work, args=[1], daemon=True).start()
            except RuntimeError:  # there is no thread to be had: waiting is better than keeping them
                self._work(1)
        elif must_wait:
            self._work(0)

    def _hurry(self) -> None:
        """Interrupt those that are at one close for too long: SO_LINGER ends with that."""
        oldest = time.monotonic() - PATIENCE_SECONDS
        for thread, since in self._since.items():
            if since < oldest:
                signal.pthread_kill(thread, _WAKE)

    def _work(self, threads: int) -> None:
        """Close until nothing waits, as so many of the threads."""
        me = threading.get_ident()
        while True:
            with self._lock:
                if not self._waiting:
                    self._since.pop(me, None)  # nobody signals a thread that has ended
                    self._threads -= threads
                    return
                descriptor = self._waiting.popleft()
                self._since[me] = time.monotonic()
            with contextlib.suppress(OSError):
                os.close(descriptor)


_closers = _Closers()


def close(descriptors: Iterable[int]) -> None:
    """Close these, whatever they are; return at once."""
    _closers.close(descriptors)


def close_socket(sock: socket.socket) -> None:
    """Close a connection with all that its peer has sent, and nobody has read."""
    has_more = False
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)  # nothing more comes
        has_more = _has_descriptors(sock)
    number = sock.detach()
    if has_more:
        close([number])
    else:
        os.close(number)


def _has_descriptors(sock: socket.socket) -> bool:
    """Return whether any lie unread in this connection that is shut down; what stands before them is read."""
    unread = array.array("i", [0])
    while True:
        fcntl.ioctl(sock, termios.FIONREAD, unread)
        if not unread[0]:
            return False
        data, _, flags, _ = sock.recvmsg(_LOOK_BYTES, 0, _LOOK)
        if flags & socket.MSG_CTRUNC or not data:  # urgent bytes count as unread, and are not to be read like others
            return True
        sock.recv(len(data))


def _woken(number: int, frame: object) -> None:
    """The signal has done its work by coming."""
