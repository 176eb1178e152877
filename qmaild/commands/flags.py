"""Command lines as qmail's programs take them: letters in a row, a value behind some of them, -- before the rest."""

from __future__ import annotations

from collections.abc import Sequence


class Usage(ValueError):
    """The program was called wrongly; the text says what is wrong with it."""


def parse(words: Sequence[str], plain: str, valued: str = "") -> tuple[list[tuple[str, str]], list[str]]:
    """Return (letter, value) for each flag in order, and the words behind them. Usage: a letter is of neither kind."""
    found: list[tuple[str, str]] = []
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        for place, letter in enumerate(word[1:], 2):
            if letter in valued:
                if not word[place:] and not rest:
                    raise Usage(f"-{letter} needs a value")
                found.append((letter, word[place:] or rest.pop(0)))
                break
            if letter not in plain:
                raise Usage(f"there is no -{letter}")
            found.append((letter, ""))
    return found, rest
