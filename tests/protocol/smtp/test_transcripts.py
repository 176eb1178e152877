"""Every transcript in transcripts/, line by line, whole, and byte by byte.

C: sends a line with CR LF, C> a Python expression of bytes as it stands, S: is a line the server says,
# a comment. The server says each S: before the next C: is sent.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .owner import Owner, converse

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


def _turns(path: Path) -> list[tuple[bytes, bytes]]:
    """(what the client sends, what the server says to it), beginning with the greeting to nothing."""
    turns: list[tuple[bytes, bytes]] = [(b"", b"")]
    for number, line in enumerate(path.read_text().splitlines(), 1):
        kind, _, text = line.partition(" ")
        if kind == "S:":
            sent, said = turns[-1]
            turns[-1] = (sent, said + text.encode() + b"\r\n")
        elif kind in ("C:", "C>"):
            data = text.encode() + b"\r\n" if kind == "C:" else eval(text, {"__builtins__": {}})
            turns.append((data, b""))
        else:
            assert not line or kind == "#", f"{path.name}:{number}: expected C:, C>, S: or #"
    return turns


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=[path.stem for path in TRANSCRIPTS])
def test_the_server_says_what_the_transcript_says(path: Path) -> None:
    (_, greeting), *turns = _turns(path)
    owner = Owner()
    assert owner.greeting() == greeting
    for sent, said in turns:
        assert owner.feed(sent).decode() == said.decode(), f"after {sent!r}"


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("path", TRANSCRIPTS, ids=[path.stem for path in TRANSCRIPTS])
def test_how_the_bytes_are_cut_changes_nothing(path: Path, step: int) -> None:
    turns = _turns(path)
    owner = converse(b"".join(sent for sent, _ in turns), step)
    assert owner.said.decode() == b"".join(said for _, said in turns).decode()


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 10
