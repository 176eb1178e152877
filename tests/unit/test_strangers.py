"""Descriptors of strangers, closed behind the loop's back: by few threads, and nobody honest waits for them."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

import pytest

from qmaild.runtime import strangers

from .peers import lingering
from .processes import SECONDS

LINGERING = 12


def numbers(stack: contextlib.ExitStack, count: int) -> list[int]:
    """So many descriptors that nobody else has, and each of which keeps its closer for a minute, or until a signal."""
    return [stack.enter_context(lingering()).detach() for _ in range(count)]


def memory() -> int:
    return os.memfd_create("test")


def is_open(number: int) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")


def test_many_closes_that_take_long_take_few_threads_and_end_when_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "PATIENCE_SECONDS", 0.05)
    closers, threads = strangers._Closers(), threading.active_count()
    with contextlib.ExitStack() as stack:
        for number in numbers(stack, LINGERING):
            closers.close([number])
        assert threading.active_count() - threads <= strangers.THREADS
        last = memory()
        closers.close([last])
        deadline = time.monotonic() + SECONDS
        while is_open(last) or threading.active_count() > threads:  # it stood behind all of them, and no thread stays
            assert time.monotonic() < deadline
            closers.close([])
            time.sleep(0.01)


def test_a_peer_that_has_sent_no_descriptor_waits_for_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "_closers", strangers._Closers())
    monkeypatch.setattr(strangers, "PATIENCE_SECONDS", 2 * SECONDS)
    with contextlib.ExitStack() as stack:
        strangers.close(numbers(stack, strangers.THREADS))
        for number in numbers(stack, strangers.THREADS - 1):
            strangers.close([number])
        honest, theirs = socket.socketpair()
        stack.enter_context(theirs)
        theirs.sendall(bytes(100_000))
        number = honest.fileno()
        strangers.close_socket(honest)
        assert not is_open(number)


@pytest.mark.parametrize("before", [0, 5, 70_000])
def test_a_descriptor_is_found_wherever_it_stands_and_its_peer_hears_of_the_end_at_once(
    monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    monkeypatch.setattr(strangers, "_closers", strangers._Closers())
    monkeypatch.setattr(strangers, "THREADS", 0)  # all are held up
    hostile, theirs = socket.socketpair()
    with theirs, open(os.devnull) as file:
        theirs.sendall(bytes(before))
        socket.send_fds(theirs, [b"x"], [file.fileno()])
        theirs.sendall(b"more")
        number = hostile.fileno()
        strangers.close_socket(hostile)
        assert is_open(number), "kept, unread"
        theirs.settimeout(SECONDS)
        assert theirs.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            theirs.send(b"x")
    os.close(number)


def test_when_too_much_waits_for_threads_that_are_held_up_the_process_closes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "THREADS", 0)
    monkeypatch.setattr(strangers, "MAX_WAITING", 3)
    closers, kept = strangers._Closers(), [memory() for _ in range(3)]
    closers.close(kept)
    assert all(map(is_open, kept))
    last = memory()
    closers.close([last])
    assert not any(map(is_open, [*kept, last]))


@pytest.mark.parametrize("before", [b"", b"abc"])
def test_an_urgent_byte_that_no_reading_finds_keeps_nobody(before: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.send(before) if before else None
        theirs.send(b"x", socket.MSG_OOB)
        number = ours.fileno()
        strangers.close_socket(ours)
        deadline = time.monotonic() + SECONDS
        while is_open(number):
            assert time.monotonic() < deadline
            time.sleep(0.01)
