"""The queue in words: one message's states as lines for people or as JSON. Knows summaries, not the store.

A message in words is a head and parts, one for each recipient, so that one with very many can be told in slices.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable

from qmaild.message.dates import field_date
from qmaild.queue.values import Brief, Part, Summary


def shown(value: bytes) -> str:
    """Return bytes from outside as text that cannot steer a terminal."""
    text = value.decode("utf-8", "replace")
    return text if text.isprintable() else "".join([char if char.isprintable() else "?" for char in text])


def as_json(summary: Summary) -> str:
    """One message as one line of JSON."""
    return whole_json(json_head(summary), map(json_part, summary.recipients))


def json_head(summary: Summary) -> str:
    """One message without its recipients."""
    return json.dumps({
        "number": summary.number, "birth": summary.birth / 1e6, "bytes": summary.size, "origin": shown(summary.origin),
        "sender": shown(summary.sender),
    })  # fmt: skip


def json_part(part: Part) -> str:
    """One recipient of a message."""
    return json.dumps({
        "index": part.index, "address": shown(part.address), "state": part.state, "lane": shown(part.lane),
        "due": part.due / 1e6 if part.due > 0 else None, "note": shown(part.note),
    })  # fmt: skip


def whole_json(head: str, parts: Iterable[str]) -> str:
    """Put together what json_head and json_part made of one message."""
    return f'{head[:-1]}, "recipients": [{", ".join(parts)}]}}'


def line(brief: Brief) -> str:
    """One message as one line: number, when, size, reverse-path, who is left."""
    number, birth, size, sender, left, left_count = brief
    more = left_count - len(left)
    some = ", ".join([shown(address) for address in left]) + (f" and {more} more" if more else "")
    return f"{number}  {_when(birth)}  {size}  <{shown(sender)}>  {some or 'nobody left'}"


def head(summary: Summary) -> str:
    """One message without its recipients, as lines."""
    return (f"message {summary.number}, {summary.size} bytes, accepted {_when(summary.birth)} ({shown(summary.origin)})\n"
            f"reverse-path <{shown(summary.sender)}>")  # fmt: skip


def part_line(part: Part) -> str:
    """One recipient of a message and its state, as one line."""
    where = f" in {shown(part.lane)}" if part.lane else ""
    due = f", next attempt {_when(part.due)}" if part.state == "waiting" and part.due > 0 else ""
    note = f": {shown(part.note)}" if part.note else ""
    return f"  {part.state:8} {shown(part.address)}{where}{due}{note}"


def _when(microseconds: int) -> str:
    return _second(max(0, microseconds) // 1_000_000)


@functools.lru_cache(maxsize=256)  # what stands side by side in a long queue often came in the same second
def _second(seconds: int) -> str:
    return field_date(seconds).decode()
