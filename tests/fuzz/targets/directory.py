"""The directories of the target `segments`, written by its own steps (native/segments.c): the same inputs serve both."""

from __future__ import annotations

import struct

from qmaild.queue.core import checksum

SIZE, START, HEAD, MESSAGE_HEAD = 64 << 10, 4096, 40, 104
SEAL_HEADS, SEAL_RECORDS, NO_FORMAT, ONE_HEAD = 1, 2, 4, 8
MOST_SEGMENTS, MOST_FILES = 6, 16


class Writer:
    """Takes an input apart. files: path below the queue to content."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0
        self.files: dict[str, bytes] = {}
        self._count = 0
        self._size = 0
        self._used = 0
        self._head: dict[str, int] = {}
        self._image = bytearray()
        self._marks = self._take(1)
        self._write()

    def _take(self, count: int) -> int:
        found = self._data[self._place : self._place + count].ljust(count, b"\0")
        self._place += count
        return int.from_bytes(found, "big")

    def _run(self, most: int) -> bytes:
        length = min(self._take(2), most)
        found = self._data[self._place : self._place + length]
        self._place += len(found)
        return found

    def _write(self) -> None:
        content, files = b"qmaild queue 1\n", 0
        while self._place < len(self._data):
            step = bytes([self._take(1)])
            if step == b".":
                break
            match step:
                case b"G":
                    self._segment()
                case b"R":
                    self._record()
                case b"B":
                    self._bytes()
                case b"S" if self._size:
                    self._used = (self._used + self._take(2) + 7) & ~7
                case b"T" if self._size:
                    self._size = self._take(2)
                case b"F":
                    content = self._run(4096)
                case b"C":
                    self._checkpoint()
                case b"L" if (files := files + 1) <= MOST_FILES:
                    self._file()
            self._used = min(self._used, SIZE - 16384)
        self._end()
        if not self._marks & NO_FORMAT:
            self.files["format"] = content

    def _segment(self) -> None:
        last = self._used
        self._end()
        count = self._count
        self._head = {"generation": count + 1, "stamp": 0x1234 + count, "size": SIZE, "previous": count, "end": last,
                      "oldest": 1, "next": 100}  # fmt: skip
        self._image, self._used, self._size = bytearray(SIZE), START, SIZE
        match self._take(1):
            case 0:
                pass
            case 1:
                self._head["generation"] = self._take(1)
            case 2:
                self._head["previous"] = self._take(1)
            case 3:
                self._head["end"] = self._take(2)
            case 4:
                self._head["oldest"] = self._take(1)
            case 5:
                self._head["next"] = self._take(4) << 30
            case 6:
                self._head["size"] = self._take(3)
            case 7:
                self._head["generation"] = self._take(4) << 30
            case _:
                self._head["stamp"] = self._take(1)

    def _end(self) -> None:
        if not self._size or self._count == MOST_SEGMENTS:
            return
        self._count += 1
        if self._marks & SEAL_HEADS:
            head = bytearray(struct.pack("<8sII7Q", b"qmaildsg", 1, 0, *self._head.values()).ljust(96, b"\0"))
            head[12:16] = struct.pack("<I", checksum(bytes(head[16:]), checksum(bytes(head[:12]))))
            self._image[:96] = head
            if not self._marks & ONE_HEAD:
                self._image[SIZE - START : SIZE - START + 96] = head
        self.files[f"segments/{self._count:08x}"] = bytes(self._image[: self._size])

    def _record(self) -> None:
        kind, marks, number = self._take(1), self._take(1), self._take(1)
        if not self._size or self._used + 8192 > SIZE - START:
            return
        if kind & 128:
            count, birth, flags = self._take(1), self._take(2), self._take(1)
            ends, serves, index, large = self._take(1), self._take(1), self._take(1), self._take(1)
            parts = [self._run(1500) for _ in range(4)]
            body = struct.pack("<qII4IQQIIQ", birth, flags, count, *map(len, parts), ends, serves, index, 0, large)
            body += b"".join(parts)
        else:
            body = self._run(8000 - HEAD)
        body += bytes(-len(body) % 8)
        head = struct.pack("<QQQIHH", self._head["generation"], self._head["stamp"], 1 << 61 if number == 255 else number,
                           HEAD + len(body), kind & 127, marks)  # fmt: skip
        sealed = bool(self._marks & SEAL_RECORDS)
        if not sealed:
            head = bytes(16) + head[16:]
        record = b"QMR1" + struct.pack("<I", checksum(head + body) if sealed else 0) + head + body
        self._image[self._used : self._used + len(record)] = record
        self._used += len(record)

    def _checkpoint(self) -> None:
        generation, offset, chunks = self._take(1), self._take(2), self._take(1) % 4
        sealed = bool(self._marks & SEAL_RECORDS)
        oldest, following = self._take(1), self._take(1)
        head = struct.pack("<6Q", 77, generation, 0x1234 + generation - 1, START + offset * 8, oldest, following) + bytes(8)
        start = struct.pack("<8sI", b"qmaildcp", 1)
        found = start + struct.pack("<I", checksum(head, checksum(start)) if self._marks & SEAL_HEADS else 0) + head
        for kind in (*[1] * chunks, 2):
            body = self._run(3000) if kind == 1 else struct.pack("<2Q", self._take(1), self._take(1))
            chunk = struct.pack("<QQII", 77, len(found), 32 + len(body), kind) + body
            found += b"QMC1" + struct.pack("<I", checksum(chunk) if sealed else 0) + chunk
        self.files["checkpoint"] = found

    def _bytes(self) -> None:
        place = self._take(2)
        run = self._run(4096)
        if self._size and place + len(run) <= SIZE:
            self._image[place : place + len(run)] = run

    def _file(self) -> None:
        folder = self._take(1) % 4
        if folder == 3:
            path = f"large/{self._take(1):016x}"
        else:
            name = self._run(31)
            if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
                return
            path = ("segments/", "large/", "")[folder] + name.decode("latin-1")
            if path in ("segments", "large"):
                return
        self.files[path] = self._run(4096)
