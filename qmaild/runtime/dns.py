"""DNS questions and their answers, over UDP and TCP, with a small cache. The only importer of dnspython.

Asks the name servers of /etc/resolv.conf (QMAILD_RESOLV names another file; there `nameserver ADDRESS#PORT`
is understood). An answer that does not match its question is not seen; one that cannot be used is trouble.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from qmaild.policy.mailhosts import Answer, Status

RESOLV = os.environ.get("QMAILD_RESOLV", "/etc/resolv.conf")
MAX_SERVERS = 3  # as the C library
UDP_ROOM = 1232  # EDNS size that no path fragments (DNS flag day 2020)
ROUNDS = (2.0, 4.0)  # seconds to wait for each server, one round after the other
LIFETIME = 15.0  # of one question
MAX_CACHED = 10_000
MAX_TTL, MAX_NEGATIVE_TTL, TROUBLE_TTL = 3600, 300, 5
MAX_VALUES = 100  # records taken from one answer

_Server = tuple[str, int]  # address and port
_TROUBLE = Answer(Status.TROUBLE)
_ABSENT = Answer(Status.ABSENT)


class _Unusable(Exception):
    """This server's answer is of no use; another server may do better."""


def _name_of(domain: bytes) -> dns.name.Name | None:
    """Return the absolute name, internationalized labels encoded; None if no such name can exist."""
    try:
        labels = [
            label if label.isascii() else label.decode().encode("idna")
            for label in domain.removesuffix(b".").split(b".")
        ]
        return dns.name.Name([*labels, b""])
    except (dns.exception.DNSException, UnicodeError):
        return None


def _text_of(name: dns.name.Name) -> bytes:
    """Return a name's labels as they are, joined by dots; empty for the root."""
    return b".".join(label for label in name.labels if label)


class Resolver:
    """Answers about MX, A and AAAA. The same question asked twice at a time is asked once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str = RESOLV) -> None:
        self._loop = loop
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._servers: list[_Server] = []
        self._cache: dict[tuple[bytes, str], tuple[float, Answer]] = {}
        self._asking: dict[tuple[bytes, str], asyncio.Task[Answer]] = {}

    @property
    def is_busy(self) -> bool:
        return bool(self._asking)

    async def ask(self, domain: bytes, kind: str) -> Answer:
        """Return the answer to domain's records of kind "MX", "A" or "AAAA"; never raises."""
        key = (domain.lower(), kind)
        cached = self._cache.get(key)
        if cached and cached[0] > time.monotonic():
            return cached[1]
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = self._loop.create_task(self._look_up(key))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)  # who gives up waiting does not take the answer from the others

    def give_up(self) -> None:
        """End all questions; who waits for one is cancelled."""
        for task in list(self._asking.values()):
            task.cancel()

    def forget_all(self) -> None:
        self._cache.clear()

    async def _look_up(self, key: tuple[bytes, str]) -> Answer:
        name = _name_of(key[0])
        if name is None:
            return _ABSENT
        try:
            async with asyncio.timeout(LIFETIME):
                answer, ttl = await self._ask_servers(name, dns.rdatatype.from_text(key[1]))
        except TimeoutError:
            answer, ttl = _TROUBLE, TROUBLE_TTL
        if ttl > 0:
            if len(self._cache) >= MAX_CACHED:
                del self._cache[next(iter(self._cache))]
            self._cache.pop(key, None)
            self._cache[key] = (time.monotonic() + ttl, answer)
        return answer

    async def _ask_servers(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> tuple[Answer, int]:
        self._read_servers()
        for seconds in ROUNDS:
            for server in self._servers:
                try:
                    async with asyncio.timeout(seconds):
                        return _read(await self._exchange(server, name, kind), name, kind)
                except (OSError, TimeoutError, _Unusable):
                    continue  # the next server, the next round
        return _TROUBLE, TROUBLE_TTL

    async def _exchange(self, server: _Server, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> Any:
        query = dns.message.make_query(name, kind, use_edns=0, payload=UDP_ROOM)
        reply = await self._over_udp(server, query)
        if reply.rcode() == dns.rcode.FORMERR:  # RFC 6891 7: a server from before EDNS
            query = dns.message.make_query(name, kind, use_edns=False)
            reply = await self._over_udp(server, query)
        if reply.flags & dns.flags.TC:
            reply = await self._over_tcp(server, query)
        return reply

    async def _over_udp(self, server: _Server, query: Any) -> Any:
        with _socket(server, socket.SOCK_DGRAM) as sock:
            sock.connect(server)  # only this server's datagrams come in, from a port of our own each time
            await self._loop.sock_sendall(sock, query.to_wire())
            while True:
                wire = await self._loop.sock_recv(sock, 65535)
                if wire[:2] == struct.pack("!H", query.id):  # others are late or forged: keep waiting
                    return _parse(wire, query)

    async def _over_tcp(self, server: _Server, query: Any) -> Any:
        with _socket(server, socket.SOCK_STREAM) as sock:
            await self._loop.sock_connect(sock, server)
            wire = query.to_wire()
            await self._loop.sock_sendall(sock, struct.pack("!H", len(wire)) + wire)
            (length,) = struct.unpack("!H", await self._read_exactly(sock, 2))
            return _parse(await self._read_exactly(sock, length), query)

    async def _read_exactly(self, sock: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await self._loop.sock_recv(sock, size - len(data))
            if not more:
                raise _Unusable("the server closed the connection")
            data += more
        return data

    def _read_servers(self) -> None:
        """Read the resolver's file again if it has changed."""
        try:
            status = os.stat(self._path)
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp == self._stamp:
                return
            with open(self._path, encoding="ascii", errors="replace") as file:
                self._servers = _servers(file.read(64 << 10))
            self._stamp = stamp
        except OSError:
            self._servers, self._stamp = _servers(""), None


def _servers(text: str) -> list[_Server]:
    found = []
    for line in text.split("\n"):
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            address, _, port = words[1].partition("#")
            found.append((address, int(port) if port.isdigit() else 53))
    return found[:MAX_SERVERS] or [("127.0.0.1", 53)]  # resolv.conf(5): without one, the local server


def _socket(server: _Server, kind: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    return socket.socket(family, kind | socket.SOCK_NONBLOCK)


def _parse(wire: bytes, query: Any) -> Any:
    try:
        reply = dns.message.from_wire(wire)
    except (dns.exception.DNSException, ValueError) as error:
        raise _Unusable(str(error)) from None
    except Exception as error:  # rule 4: whatever a parser of foreign bytes raises is that server's failure
        raise _Unusable(repr(error)) from None
    if not query.is_response(reply) and reply.rcode() != dns.rcode.FORMERR:
        raise _Unusable("an answer to something else")
    return reply


def _read(reply: Any, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> tuple[Answer, int]:
    """Return the answer in a reply and how many seconds it may be kept."""
    if reply.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise _Unusable(dns.rcode.to_text(reply.rcode()))
    try:
        chain = reply.resolve_chaining()  # follows CNAMEs inside the answer
    except dns.exception.DNSException as error:
        raise _Unusable(str(error)) from None
    if reply.rcode() == dns.rcode.NXDOMAIN:
        return _ABSENT, min(int(chain.minimum_ttl), MAX_NEGATIVE_TTL)
    if chain.answer is None:
        return Answer(Status.EMPTY), min(int(chain.minimum_ttl), MAX_NEGATIVE_TTL)
    records = list(chain.answer)[:MAX_VALUES]
    ttl = min(int(chain.minimum_ttl), MAX_TTL)
    if kind == dns.rdatatype.MX:
        hosts = tuple((each.preference, _text_of(each.exchange)) for each in records)
        return Answer(Status.FOUND, hosts), ttl
    return Answer(Status.FOUND, tuple(each.address.encode() for each in records)), ttl
