"""A name server on loopback for tests: real UDP and TCP, answers and misbehaviour by a function of the test."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

# Gets the query and "udp" or "tcp"; returns datagrams (TCP sends the first), or nothing to stay silent.
Answers = Callable[[Any, str], list[bytes]]


def _pair() -> tuple[socket.socket, socket.socket]:
    """A UDP and a listening TCP socket on the same free port."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        try:
            return udp, socket.create_server(udp.getsockname(), backlog=10)
        except OSError as error:  # somebody else has the TCP port of this number: try another
            udp.close()
            if error.errno != errno.EADDRINUSE:
                raise


class NameServer:
    """Serves until the with-statement ends. asked: "udp name TYPE" for each question, in order."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.asked: list[str] = []
        self._udp, self._tcp = _pair()
        self.port = self._udp.getsockname()[1]
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._serve_udp, self._serve_tcp)]

    def line(self) -> str:
        return f"nameserver 127.0.0.1#{self.port}\n"

    def __enter__(self) -> NameServer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for sock in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in it
        for thread in self._threads:
            thread.join(10)
        self._udp.close()
        self._tcp.close()

    def _answer(self, wire: bytes, over: str) -> list[bytes]:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        self.asked.append(f"{over} {name} {dns.rdatatype.to_text(question.rdtype)}")
        return self._answers(query, over)

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                wire, address = self._udp.recvfrom(65535)
                if not wire:
                    return
                for each in self._answer(wire, "udp"):
                    self._udp.sendto(each, address)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._tcp.accept()
                with sock:
                    wire = sock.recv(65535)
                    for each in self._answer(wire[2:], "tcp")[:1]:
                        sock.sendall(struct.pack("!H", len(each)) + each)


def reply(query: Any, *records: str, rcode: str = "NOERROR", authority: str = "", truncated: bool = False) -> bytes:
    """The bytes of an answer with these records ("name ttl IN TYPE data")."""
    message = dns.message.make_response(query, recursion_available=True)
    message.set_rcode(dns.rcode.from_text(rcode))
    for section, lines in ((message.answer, records), (message.authority, (authority,) if authority else ())):
        for line in lines:
            name, ttl, *rest = line.split(" ", 4)
            section.append(dns.rrset.from_text(name + ".", int(ttl), *rest))
    if truncated:
        message.flags |= dns.flags.TC
    return bytes(message.to_wire(max_size=65535))


def zone(records: dict[str, list[str]]) -> Answers:
    """Serve {name: ["TYPE data", ...]} with a TTL of 60; names that are not there are NXDOMAIN."""

    def answers(query: Any, over: str) -> list[bytes]:
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        if name not in records:
            return [reply(query, rcode="NXDOMAIN")]
        kind = dns.rdatatype.to_text(question.rdtype)
        return [reply(query, *[f"{name} 60 IN {each}" for each in records[name] if each.split()[0] == kind])]

    return answers
