"""What local users hand in: header sections, address lists, arguments and variables, and what qmail-inject's rules make of them.

The first byte of an input chooses the reader: its letter in READERS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qmaild.message import addresslist, fields, inject, invocation
from qmaild.message.address import MAX_ADDRESS
from qmaild.message.addresslist import Address, AddressError, Hosts

HOSTS = Hosts(b"default.test", b"domain.test", b"plus.test", frozenset((b"localhost", b"mx")))
WHERE = inject.Where(HOSTS, b"id.test", 100)
WHEN = inject.When(1795424707, 4711, b"joe")


def _fed(reader: fields.SectionReader, data: bytes, step: int) -> tuple[list[bytes], bytes] | None:
    for place in range(0, len(data), step):
        body = reader.feed(data[place : place + step])
        if body is not None:
            return reader.fields, body + data[place + step :]
    body = reader.finish()
    return reader.fields, body


def section(data: bytes) -> None:
    """A header section, at once and byte by byte. Nothing of the message is lost."""
    whole = _fed(fields.SectionReader(), data, max(len(data), 1))
    assert _fed(fields.SectionReader(), data, 1) == whole
    found, body = whole or ([], b"")
    text = b"".join(found).replace(b"MBOX-Line: From ", b"From ")
    read = data.replace(b"MBOX-Line: From ", b"From ")
    assert read.startswith(text) or (read + b"\n").startswith(text)
    assert len(text) + len(body) + 2 >= len(read)
    for field in found:
        assert fields.name_of(field) and field.endswith(b"\n")


def line_ends(data: bytes) -> None:
    at_once, piecewise = fields.LineEnds(), fields.LineEnds()
    whole = at_once.feed(data) + at_once.finish()
    pieces = [piecewise.feed(data[place : place + 1]) for place in range(len(data))]
    assert b"".join([*pieces, piecewise.finish()]) == whole == data.replace(b"\r\n", b"\n")


def _paths(items: list[addresslist.Item]) -> list[bytes]:
    return [item.path for item in items if isinstance(item, Address)]


def _whole(items: list[addresslist.Item]) -> list[addresslist.Item]:
    return [item.completed(HOSTS) if isinstance(item, Address) else item for item in items]


def address_list(data: bytes) -> None:
    """What is written of a list is read as the same addresses, and written again the same."""
    try:
        items = _whole(addresslist.parse(data))
    except AddressError:
        return
    for path in _paths(items):
        assert b"\n" not in path and b"\r" not in path and b"\0" not in path
        if len(path) > MAX_ADDRESS:
            return  # the host that was put behind it made it too long, and it is sent to nobody
    written = addresslist.render(b"To", items)
    assert fields.name_of(written) == b"to"
    again = _whole(addresslist.parse(fields.value_of(written)))
    assert _paths(again) == _paths(items), written
    assert [type(item) for item in again] == [type(item) for item in items], written
    assert addresslist.render(b"To", again) == written


def argument(data: bytes) -> None:
    try:
        found = addresslist.one(data)
    except AddressError:
        return
    assert b"\n" not in found.path and b"\0" not in found.path
    found.completed(HOSTS)


def called(data: bytes) -> None:
    """NUL between words: program, then arguments; those with = after an empty one are the environment."""
    program, *words = data.split(b"\0")
    place = words.index(b"") if b"" in words else len(words)
    try:
        found = invocation.parse(program, words[:place], words[place + 1 :])
    except invocation.UsageError as error:
        assert len(str(error)) < 200
        return
    assert found.program in invocation.EXIT_CODES
    assert all(len(value) <= invocation.MAX_VARIABLE for name, value in found.variables.items() if name != "QMAILMFTFILE")


def message(data: bytes) -> None:
    """The call, a blank line, the header section: composed by qmail-inject's rules, and read again."""
    call, _, text = data.partition(b"\n\n")
    words = call.split(b"\n")
    place = words.index(b"-") if b"-" in words else len(words)
    reader = fields.SectionReader()
    body = reader.feed(text)
    if body is None:
        reader.finish()
    try:
        request = invocation.parse(words[0], words[1:place], words[place + 1 :])
        made = inject.compose(reader.fields, request, inject.where(request, HOSTS, WHERE.idhost, 100), WHEN)
    except (invocation.UsageError, inject.Unacceptable):
        return
    for path in (made.sender, *made.recipients):
        assert b"\n" not in path and b"\r" not in path and b"\0" not in path
    _read_again(made)


def _read_again(made: inject.Composed) -> None:
    """The section is one, ends where it says, shows no blind recipient, and is taken again as it is."""
    again = fields.SectionReader()
    assert again.feed(made.section + b"body\n") == b"body\n", made.section
    names = [fields.name_of(field) for field in again.fields]
    assert b"bcc" not in names and b"resent-bcc" not in names and b"return-path" not in names
    request = invocation.Invocation("sendmail", invocation.Kind.MESSAGE, (b"x@y.test",))
    try:
        twice = inject.compose(again.fields, request, WHERE, WHEN)
    except inject.Unacceptable as error:
        assert "hops" in str(error) or "longer" in str(error) or "more" in str(error), made.section
        return
    third = inject.compose(_fields_of(twice.section), request, WHERE, WHEN)
    assert third.section == twice.section


def _fields_of(text: bytes) -> list[bytes]:
    reader = fields.SectionReader()
    reader.feed(text)
    return reader.fields


READERS: dict[bytes, Callable[[bytes], Any]] = {
    b"s": section, b"l": line_ends, b"a": address_list, b"o": argument, b"c": called, b"m": message,
}  # fmt: skip


def one_input(data: bytes) -> None:
    READERS.get(data[:1], address_list)(data[1:])


def _section_in_pieces(data: bytes) -> None:
    _fed(fields.SectionReader(), data, 64)


def _composed(data: bytes) -> None:
    message(b"sendmail\n-t\n\nTo: " + data + b"\n")


def _many_fields(data: bytes) -> None:
    message(b"sendmail\n-t\n\n" + b"Cc: a@b\nX: y\n" * (len(data) // 256))


def _one_field(data: bytes) -> None:
    _fed(fields.SectionReader(), b"To: " + data[: fields.MAX_SECTION - 100], 16)


GROWTH = {
    "section": _section_in_pieces, "line ends": line_ends, "list": address_list, "argument": argument,
    "message": _composed,
}  # fmt: skip
DRIBBLE = {"many fields": _many_fields, "one field": _one_field}
