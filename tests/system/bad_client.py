"""Clients nobody wants: they stall, babble, drip, break off and guess. Knows SMTP well enough to break it.

    python3 -I bad_client.py ADDRESS SECONDS_BETWEEN

Each does one bad thing to port 25 and is gone or stays for a while; they come until TERM. Standard library alone, so
that it runs as a file in a namespace.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

STAYS = 20.0  # seconds at most, of those that stall or drip
BEGIN = b"EHLO bad\r\nMAIL FROM:<bad@bad.test>\r\nRCPT TO:<joe@one.test>\r\n"


def stall(sock: socket.socket, rng: random.Random) -> None:
    sock.sendall(rng.choice([b"", b"EHLO bad\r\n", BEGIN, BEGIN + b"DATA\r\nSubject: x\r\n", b"MAIL FR"]))
    time.sleep(rng.uniform(0, STAYS))


def drip(sock: socket.socket, rng: random.Random) -> None:
    sock.sendall(rng.choice([b"", BEGIN + b"DATA\r\n"]))
    for _ in range(int(STAYS)):
        sock.sendall(rng.choice([b"N", b" ", b"x", b"\r\n"]))
        time.sleep(1)


def babble(sock: socket.socket, rng: random.Random) -> None:
    for _ in range(60):
        sock.sendall(rng.choice([rng.randbytes(200), b"\r\n" * 50, b"GET / HTTP/1.1\r\n", b"x" * 5000, b"NOOP\r\n"]))


def guess(sock: socket.socket, rng: random.Random) -> None:
    sock.sendall(b"EHLO bad\r\nMAIL FROM:<bad@bad.test>\r\n")
    for number in range(150):
        sock.sendall(b"RCPT TO:<guess%d@one.test>\r\n" % (number if rng.random() < 0.5 else rng.getrandbits(40)))


def relay(sock: socket.socket, rng: random.Random) -> None:
    sock.sendall(b"EHLO bad\r\nMAIL FROM:<bad@bad.test>\r\nRCPT TO:<x@far.test>\r\nDATA\r\nQUIT\r\n")
    sock.recv(4096)


def reset(sock: socket.socket, rng: random.Random) -> None:
    sock.sendall(rng.choice([b"EHLO bad\r\n", BEGIN, BEGIN + b"DATA\r\n" + b"x" * rng.randrange(600_000)]))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def never_read(sock: socket.socket, rng: random.Random) -> None:
    sock.settimeout(STAYS)
    while True:
        sock.sendall(b"EHLO bad\r\n" * 1000)


WAYS: list[Callable[[socket.socket, random.Random], None]] = [stall, drip, babble, guess, relay, reset, never_read]


def visit(address: str, way: Callable[[socket.socket, random.Random], None], seed: int) -> None:
    with contextlib.suppress(OSError), socket.create_connection((address, 25), STAYS) as sock:
        way(sock, random.Random(seed))


def main(address: str, pause: float) -> None:
    for number in itertools.count():
        threading.Thread(target=visit, args=(address, WAYS[number % len(WAYS)], number), daemon=True).start()
        time.sleep(pause)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
