"""A mail server of somebody else that takes everything and writes down what it took. Knows SMTP, and load_client's fields.

    python3 -I sink.py ADDRESS >taken

Uses the standard library alone, so that it runs as a file in a namespace. A line on standard output for each recipient
of each message, before its 250 is sent, so that whatever was taken is written:

    TIME ID RECIPIENT whole|damaged REVERSE-PATH

ID is the message's Load-Id field, or `-`; a bounce has an empty reverse-path, and what it is about in its recipient.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sys
import time
from typing import Any

EXTENSIONS = b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 0\r\n"
END = b"\r\n.\r\n"
FIELD = re.compile(rb"^Load-(Id|Digest): *(\S+)\r?$", re.M | re.I)
ADDRESS = re.compile(rb"<([^>]*)>")


def facts(header: bytes, body: bytes) -> tuple[str, bool]:
    """The id in a header section, and whether the body (LF line ends) is what the sender gave away."""
    fields = {name.lower(): value for name, value in FIELD.findall(header)}
    own = fields.get(b"id", b"-").decode("ascii", "replace")
    return own, hashlib.sha256(body).hexdigest().encode() == fields.get(b"digest")


class Session(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: Any = None
        self.buffer = bytearray()
        self.seen = 0  # of a message, searched for its end already
        self.is_in_data = False
        self.sender = b""
        self.recipients: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while self.message() if self.is_in_data else self.command():
            pass

    def command(self) -> bool:
        end = self.buffer.find(b"\r\n")
        if end < 0:
            return False
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 2]
        verb = line[:4].upper()
        found = ADDRESS.search(line)
        reply = b"250 ok\r\n"
        if verb == b"EHLO":
            reply = EXTENSIONS
        elif verb == b"MAIL":
            self.sender, self.recipients = found[1] if found else b"", []
        elif verb == b"RCPT":
            self.recipients.append(found[1] if found else b"")
        elif verb == b"DATA":
            reply, self.is_in_data, self.seen = b"354 go ahead\r\n", True, 0
            self.buffer[:0] = b"\r\n"  # so that a lone dot ends a message of nothing as well
        elif verb == b"QUIT":
            self.transport.write(b"221 bye\r\n")
            self.transport.close()
            return False
        self.transport.write(reply)
        return True

    def message(self) -> bool:
        end = self.buffer.find(END, max(0, self.seen - len(END)))
        if end < 0:
            self.seen = len(self.buffer)
            return False
        text = bytes(self.buffer[2 : end + 2])
        del self.buffer[: end + len(END)]
        self.is_in_data = False
        header, _, body = text.partition(b"\r\n\r\n")
        plain = (b"\n" + body.replace(b"\r\n", b"\n")).replace(b"\n.", b"\n")[1:]
        own, is_whole = facts(header, plain)
        sender = self.sender.decode("ascii", "replace")
        lines = [f"{time.time():.4f}\t{own}\t{each.decode('ascii', 'replace')}\t{'whole' if is_whole else 'damaged'}\t{sender}\n"
                 for each in self.recipients]  # fmt: skip
        os.write(1, "".join(lines).encode())
        self.transport.write(b"250 taken\r\n")
        return True


async def main(address: str) -> None:
    server = await asyncio.get_running_loop().create_server(Session, address, 25, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
