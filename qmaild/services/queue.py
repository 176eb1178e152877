"""qmaild-queue: the durable store, its intake, its manager, and the administrator's view of it."""

from __future__ import annotations

import os
import time
from typing import Any

from qmaild.control import events
from qmaild.policy.recipients import rewrite
from qmaild.protocol import frames
from qmaild.queue import listing
from qmaild.queue.administration import Administration
from qmaild.queue.commits import Commits
from qmaild.queue.intake import Intake
from qmaild.queue.manager import Manager
from qmaild.queue.store import Store
from qmaild.queue.values import StoreError
from qmaild.runtime import journal, paths, system
from qmaild.runtime.channel import Channel
from qmaild.runtime.clock import JUMP, Clock
from qmaild.runtime.service import Service, run

TROUBLE_SECONDS = 30.0  # one record of storage trouble in this time; clients hear of each refusal
LIST_LIMIT = 1000  # messages looked at for one answer to inject, which asks again


def newest_change(directory: str) -> int:
    """Return when a segment of the queue was last written, in microseconds since the epoch; 0 if there is none."""
    try:
        with os.scandir(os.path.join(directory, "segments")) as entries:
            return max((entry.stat().st_mtime_ns // 1000 for entry in entries), default=0)
    except OSError:
        return 0  # the store itself says what is wrong


def uid_of(service: str) -> int:
    """Return the uid that a service's connections come from."""
    if paths.STANDALONE:
        return os.geteuid()
    answer = system.account_by_name(b"qmaild-" + service.encode())
    if not isinstance(answer, system.Found):
        raise ValueError(f"the account qmaild-{service} cannot be found")
    return answer.account.uid


class Queue:
    """The parts of the service, wired."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._clock = Clock()
        was_later = newest_change(paths.queue_directory()) > self._clock.now() + JUMP
        self._store = store = Store.open(paths.queue_directory())
        self._commits = commits = Commits(service.loop, store)
        now = self._clock.now
        self._manager = Manager(service.loop, store, commits, now, paths.socket_of("manage"), self._clock.believed)
        self._clock.on_jump = self._jumped
        self._manager.on_trouble = self._handing_out
        # Only local may say which delivery a forward finishes; only inject may ask what a user has queued.
        self._inject_uid = uid_of("inject")
        self._intake = Intake(store, commits, now, uid_of("local"), self._is_local, lambda: service.settings.databytes,
                              self._trouble)  # fmt: skip
        self._quiet_until = 0.0
        self._manager.is_held = lambda: bool(service.settings.queueonly)
        service.on_reload = self._manager.wake
        commits.on_durable = self._manager.wake
        commits.on_failure = lambda: self._trouble("a write to the queue failed")
        service.serve("intake", self._intake_frame, self._intake.closed, self._intake.opened, takes_descriptors=True,
                      says_leaving=True)  # fmt: skip
        self._administration = Administration(service.loop, store, commits, self._manager.wake)
        service.commands |= self._administration.commands
        service.status = self._status
        service.is_busy = lambda: bool(store.counts().messages or commits.is_waiting)
        service.is_unfinished = lambda: commits.is_waiting or self._manager.is_parting
        service.on_stop = lambda: self._manager.close(int(service.stop_seconds))
        service.on_exit = store.close
        self._report_damage()
        if was_later:
            self._jumped(-JUMP)
        self._manager.wake()

    def _is_local(self, address: bytes) -> bool:
        return rewrite(address, self._service.settings).is_local

    def _report_damage(self) -> None:
        counts = self._store.counts()
        if counts.damaged:
            journal.record(events.DAMAGED, text=f"{counts.damaged} skipped on opening")

    def _may_speak(self) -> bool:
        if time.monotonic() < self._quiet_until:
            return False
        self._quiet_until = time.monotonic() + TROUBLE_SECONDS
        return True

    def _trouble(self, text: str) -> None:
        if self._may_speak():
            journal.record(events.STORAGE, text=text)

    def _handing_out(self, text: str) -> None:
        if self._may_speak():
            journal.note(journal.WARNING, text)

    def _jumped(self, jump: int) -> None:
        """The clock was set. Due times are of the clock as it was: after a step back they might be far away."""
        journal.note(journal.WARNING, f"the clock was set {'back' if jump < 0 else 'forward'}")
        if jump < 0:
            self._service.loop.call_soon(self._administration.retry_all)
        self._service.loop.call_soon(self._manager.wake)

    def _status(self) -> str:
        counts = self._store.counts()
        held = "; nothing is delivered (queueonly)" if self._service.settings.queueonly else ""
        return (f"{counts.messages} messages: {counts.new} new, {counts.waiting} waiting and {counts.out} out recipients; "
                f"{counts.bytes_living} bytes living on {counts.bytes_disk} of disk{held}")  # fmt: skip

    def _intake_frame(self, channel: Channel, frame: Any, descriptor: int) -> None:
        if not isinstance(frame, frames.List):
            self._intake.frame(channel, frame, descriptor)
        elif channel.peer.uid != self._inject_uid:
            channel.close()
        else:
            found, last = self._store.briefs(frame.after, min(frame.limit, LIST_LIMIT), frame.origin)
            text = "".join([listing.line(each) + "\n" for each in found])
            channel.send(frames.Listed(frame.tag, last, text.encode()))


def build(service: Service) -> None:
    """Open the store and serve it. ValueError names what is wrong with the directory."""
    try:
        Queue(service)
    except StoreError as error:
        raise ValueError(str(error)) from error


if __name__ == "__main__":
    run("queue", build)
