"""The children that deliver: one for each uid, made by spawn, kept while there is work, bounded in number.

A child is hostile: it may say anything, stop, or die. Whatever was asked of a child that is lost is answered
None, which is temporary; one that stays silent for too long is given up.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from qmaild.protocol import frames
from qmaild.runtime import journal
from qmaild.runtime.channel import Channel
from qmaild.runtime.spawner import Spawner

MAX_CHILDREN = 64
IDLE_SECONDS = 30.0  # then a child is closed, so that everything can go to rest
SWEEP_SECONDS = 5.0
MAX_ANSWER = 8 << 20  # one frame of a child: the longest list of forwards
MAX_OUTSTANDING = 1000  # of one child
CROWDED_SECONDS = 60.0  # a question that its child has no room for is given up after this: others wait for its place

Answered = Callable[[Any], None]


class _Question(NamedTuple):
    """What is asked of a child, since when, and whether somebody still wants to know."""

    since: float
    done: Answered
    is_wanted: Callable[[], bool]
    frame: frames.Frame
    descriptor: int

    def drop(self) -> None:
        """It will not be asked."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.done(None)


def _always() -> bool:
    return True


def _is_kept(question: _Question) -> bool:
    """Return whether it is wanted; else it is dropped."""
    if not question.is_wanted():
        question.drop()
        return False
    return True


class _Child:
    __slots__ = ("channel", "crowded", "heard", "later", "uid", "waiting")

    def __init__(self, uid: int, now: float) -> None:
        self.uid = uid
        self.channel: Channel | None = None
        self.waiting: dict[int, _Question] = {}
        self.later: deque[_Question] = deque()
        self.crowded = 0.0  # until then it gets no more questions than it has room for
        self.heard = now  # when it last answered, or was last asked while it had nothing to do


class Children:
    """The children of one unit, whose spawner listens at path. patience: seconds until a silent child is given up.

    window: questions that one child has at a time. One that takes them slowly, or not at all, must not hold the
    places of everybody else's deliveries: what waits behind them is soon answered None, with nothing done.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, path: str, patience: float, limit: int = MAX_CHILDREN,
        window: int = MAX_OUTSTANDING,
    ) -> None:  # fmt: skip
        self._loop = loop
        self._patience = patience
        self._limit = limit
        self._window = window
        self._children: dict[int, _Child] = {}  # least recently used first
        self._held: deque[tuple[int, _Question]] = deque()  # for uids that have to wait for a place
        self._spawner = Spawner(loop, path)
        self._tag = 0
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def outstanding(self) -> int:
        return sum([len(child.waiting) + len(child.later) for child in self._children.values()]) + len(self._held)

    @property
    def count(self) -> int:
        return len(self._children)

    def ask(
        self, uid: int, done: Answered, kind: Callable[..., Any], *fields: Any, descriptor: int = -1,
        is_wanted: Callable[[], bool] = _always,
    ) -> None:  # fmt: skip
        """Send kind(tag, *fields) to the child of uid; done gets its answer or None, once. The descriptor is ours from here.

        is_wanted: asked again before the child is; once it is false nothing is to be begun for this question.
        """
        self._tag += 1
        question = _Question(self._loop.time(), done, is_wanted, kind(self._tag, *fields), descriptor)
        # While some wait for a place all stand in line: else busy children would keep theirs for ever.
        child = None if self._held else self._children.get(uid) or self._make(uid)
        if child is None:
            self._held.append((uid, question))
        else:
            self._put(child, question)

    def drop_unwanted(self) -> None:
        """Begin nothing of what nobody wants any more. A child with nothing else to do is closed: it may not have read it."""
        self._held = deque([each for each in self._held if _is_kept(each[1])])
        for child in list(self._children.values()):
            child.later = deque([each for each in child.later if _is_kept(each)])
            has_other = child.later or any(each.is_wanted() for each in child.waiting.values())
            if child.waiting and not has_other and child.channel:
                child.channel.close()

    def close(self) -> None:
        """Close all children; what was asked is answered None."""
        held, self._held = self._held, deque()
        for _, question in held:
            question.drop()
        for child in list(self._children.values()):
            if child.channel:
                child.channel.close()
        self._spawner.close()
        if self._sweeper:
            self._sweeper.cancel()
            self._sweeper = None

    def _put(self, child: _Child, question: _Question) -> None:
        if self._must_refuse(child):
            self._loop.call_soon(question.drop)
        elif len(child.waiting) >= self._window:
            child.later.append(question._replace(since=self._loop.time()))
        else:
            self._give(child, question)

    def _must_refuse(self, child: _Child) -> bool:
        if child.channel is None or not child.channel.is_open:
            return True
        now = self._loop.time()
        is_stuck = now < child.crowded or now - child.heard >= CROWDED_SECONDS
        return len(child.waiting) + len(child.later) >= (self._window if is_stuck else MAX_OUTSTANDING)

    def _give(self, child: _Child, question: _Question) -> None:
        assert child.channel is not None  # _put has looked
        if not child.waiting:
            child.heard = self._loop.time()
        child.waiting[question.frame[0]] = question
        self._children[child.uid] = self._children.pop(child.uid)
        child.channel.send(question.frame, question.descriptor)

    def _make(self, uid: int) -> _Child | None:
        """Return a new child for uid, or None if every place is taken by one that works."""
        if len(self._children) >= self._limit:
            idle = next((child for child in self._children.values() if not child.waiting), None)
            if idle is None:
                return None
            if idle.channel:
                idle.channel.close()
        child = _Child(uid, self._loop.time())
        self._children[uid] = child
        child.channel = self._connect(uid)
        if child.channel:
            child.channel.state = child
        else:
            self._loop.call_soon(self._forget, child)
        if not self._sweeper:
            self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        return child

    def _connect(self, uid: int) -> Channel | None:
        """Return our end of a connection to a new child, or None if spawn or a free descriptor is missing."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            journal.note(journal.WARNING, f"no deliverer for uid {uid}: {error.strerror}")
            return None
        with theirs:
            if self._spawner.request(uid, theirs):
                return Channel(self._loop, ours, self._answer, self._lost, MAX_ANSWER)
        ours.close()
        return None

    def _answer(self, channel: Channel, frame: Any, descriptor: int) -> None:
        child: _Child = channel.state
        question = child.waiting.pop(frame[0], None)
        if question is None:
            channel.close()
            return
        child.heard = self._loop.time()
        if child.later:
            self._give(child, child.later.popleft())
        question.done(frame)
        if self._held and not child.waiting:
            self._next_held()

    def _lost(self, channel: Channel) -> None:
        child: _Child = channel.state
        self._forget(child)

    def _forget(self, child: _Child) -> None:
        if self._children.get(child.uid) is child:
            del self._children[child.uid]
        waiting, child.waiting = child.waiting, {}
        for question in waiting.values():
            question.done(None)
        self._give_up(child, self._loop.time())
        if self._held:
            self._loop.call_soon(self._next_held)

    def _give_up(self, child: _Child, since: float) -> None:
        """Answer what the child has had no room for since then."""
        while child.later and child.later[0].since <= since:
            child.crowded = self._loop.time() + CROWDED_SECONDS
            child.later.popleft().drop()

    def _next_held(self) -> None:
        """Give places to those that wait for one, as far as there are any."""
        for _ in range(len(self._held)):
            uid, question = self._held.popleft()
            child = self._children.get(uid) or self._make(uid)
            if child is None:
                self._held.appendleft((uid, question))
                return
            self._put(child, question)

    def _sweep(self) -> None:
        """Close what is idle and give up what is silent; the timer rests while there is no child."""
        now = self._loop.time()
        for child in list(self._children.values()):
            silent = now - child.heard
            self._give_up(child, now - CROWDED_SECONDS)
            if child.channel and silent >= (self._patience if child.waiting else IDLE_SECONDS):
                child.channel.close()
        self._spawner.rest()
        busy = self._children or self._spawner.is_connected
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep) if busy else None
