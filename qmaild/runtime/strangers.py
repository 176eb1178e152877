"""Closing what strangers have sent: it may take as long as they like, and then a thread waits for it, not the service.

The last who closes a TCP socket waits for its peer if its owner has asked for that (SO_LINGER), and a file of a user's own
file system (FUSE) asks the user. What lies unread in a socket is closed by whoever closes that socket, or reads past it.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import socket
import termios
import threading
from collections.abc import Iterable


def close(descriptors: Iterable[int]) -> None:
    """Close these, whatever they are; return at once."""
    try:
        threading.Thread(target=_close, args=[list(descriptors)], daemon=True).start()
    except RuntimeError:  # there is no thread to be had: waiting is better than keeping them
        _close(descriptors)


def close_socket(sock: socket.socket) -> None:
    """Close a connection with all that its peer has sent, and nobody has read."""
    unread = array.array("i", [0])
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)  # nothing more comes
        fcntl.ioctl(sock, termios.FIONREAD, unread)
    number = sock.detach()
    if unread[0]:
        close([number])
    else:
        os.close(number)


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
