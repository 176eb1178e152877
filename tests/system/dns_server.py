"""A DNS server for tests, over UDP and TCP. Knows records and ways to misbehave; caches and asks nobody.

    python3 dns_server.py ADDRESS...

Standard input is a line of JSON for each order, standard output a line for each answer:

    {"serve": {NAME: {TYPE: [RDATA, ...], ...}, ...}}   -> "serving"
    {"queries": true}                                   -> ["udp b.test. MX", ...]

A name is served as it stands; names above it exist, all others are NXDOMAIN. Beside its types a name may
have the keys "ttl" (seconds, 60 if absent), "ad" (true: answers carry the authentic-data bit) and "fault":

    "SERVFAIL", "REFUSED", "FORMERR"   that code is the answer
    "TIMEOUT"                          no answer at all
    "TRUNCATE"                         over UDP the answer is empty and truncated, over TCP it is whole
    "GARBAGE"                          bytes that are no DNS message

With dnspython, as the product; but for building answers only.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

UDP_ROOM = 512  # RFC 1035 4.2.1, when the question carries no EDNS size
MAX_CNAMES = 8  # a loop of aliases must end


class Zones:
    """All records, by lower-case name without the last dot."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, Any]] = {}
        self.queries: list[str] = []

    def serve(self, records: dict[str, dict[str, Any]]) -> None:
        self._names = {name.rstrip(".").lower(): entry for name, entry in records.items()}

    def answer(self, wire: bytes, over: str) -> bytes | None:
        """The answer to one message as bytes, or None where silence was ordered."""
        try:
            query = dns.message.from_wire(wire)
            question = query.question[0]
        except (dns.exception.DNSException, IndexError, ValueError):
            return None
        name = question.name.to_text(omit_final_dot=True).lower()
        self.queries.append(f"{over} {name}. {dns.rdatatype.to_text(question.rdtype)}")
        entry = self._names.get(name, {})
        fault = entry.get("fault")
        if fault == "TIMEOUT":
            return None
        if fault == "GARBAGE":
            return wire[:2] + b"\xff" * 20
        reply = dns.message.make_response(query, recursion_available=True, our_payload=1232)
        reply.flags |= dns.flags.AA
        if entry.get("ad"):
            reply.flags |= dns.flags.AD
        if fault == "TRUNCATE" and over == "udp":
            reply.flags |= dns.flags.TC
        elif fault not in (None, "TRUNCATE"):
            reply.set_rcode(dns.rcode.from_text(fault))
        else:
            self._fill(reply, name, question.rdtype)
        return self._fit(reply, query, over)

    def _fill(self, reply: dns.message.Message, name: str, rdtype: dns.rdatatype.RdataType) -> None:
        for _ in range(MAX_CNAMES):
            entry = self._names.get(name)
            if entry is None:
                below = any(other.endswith("." + name) for other in self._names)
                reply.set_rcode(dns.rcode.NOERROR if below else dns.rcode.NXDOMAIN)
                break
            kind = dns.rdatatype.to_text(rdtype)
            alias = entry.get("CNAME") if kind != "CNAME" else None
            values = alias or entry.get(kind, [])
            if values:
                kind = "CNAME" if alias else kind
                ttl = entry.get("ttl", 60)
                reply.answer.append(dns.rrset.from_text(name + ".", ttl, "IN", kind, *values))
            if not alias:
                break
            name = alias[0].rstrip(".").lower()
        if not reply.answer:
            # RFC 2308 3: the SOA says for how long "no" may be remembered.
            reply.authority.append(dns.rrset.from_text(".", 60, "IN", "SOA", "ns. root. 1 3600 600 86400 60"))

    @staticmethod
    def _fit(reply: dns.message.Message, query: dns.message.Message, over: str) -> bytes:
        room = 65535 if over == "tcp" else max(query.payload, UDP_ROOM)
        try:
            return bytes(reply.to_wire(max_size=room))
        except dns.exception.TooBig:
            cut = dns.message.make_response(query, recursion_available=True, our_payload=1232)
            cut.flags |= dns.flags.TC
            return bytes(cut.to_wire())


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, zones: Zones) -> None:
        self._zones = zones

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, wire: bytes, address: Any) -> None:
        reply = self._zones.answer(wire, "udp")
        if reply is not None:
            self._transport.sendto(reply, address)


async def serve_stream(zones: Zones, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            reply = zones.answer(await reader.readexactly(length), "tcp")
            if reply is not None:
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(addresses: list[str]) -> None:
    zones = Zones()
    loop = asyncio.get_running_loop()
    for address in addresses:
        await loop.create_datagram_endpoint(lambda: Datagrams(zones), local_addr=(address, 53))
        await asyncio.start_server(lambda r, w: serve_stream(zones, r, w), address, 53)
    orders = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        order = json.loads(line)
        answer: object = "serving"
        if "serve" in order:
            zones.serve(order["serve"])
        else:
            answer = zones.queries
        os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
