"""send's brain: handle(event, now) -> commands. Knows what is out and what waits; no sockets, no clock.

Every recipient of a job is in exactly one place: waiting in a lane, in one order, or answered to the queue.
A job whose queue connection was lost is answered to nobody: what waits of it is dropped, what is in flight
is only recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from qmaild.control.settings import Settings
from qmaild.message import bounce, verp
from qmaild.policy import retry, routes
from qmaild.policy.recipients import rewrite
from qmaild.protocol import frames
from qmaild.scheduler import finish
from qmaild.scheduler.attempts import Attempt, Job, delivery
from qmaild.scheduler.lanes import Lanes
from qmaild.scheduler.moves import (
    NO_TOKEN,
    Arrived,
    Changed,
    Command,
    Committed,
    Event,
    Finished,
    Lost,
    Place,
    Release,
    Reported,
    Stopping,
)
from qmaild.scheduler.verdicts import TOO_OLD_STATUS, TOO_OLD_TEXT, Verdict, is_whole, judge

MAX_SEALED = 320 << 10  # a message behind a descriptor up to this size may be in memory, a larger one is a file

SERVICE_LOST = b"A service of this host ended during the attempt."


class Brain:
    """chance() gives a number from 0 to 1 for each job: where its retries fall within their jitter."""

    def __init__(self, settings: Settings, chance: Callable[[], float]) -> None:
        self._settings = settings
        self._chance = chance
        self._lanes = Lanes(settings)
        self._jobs: set[Job] = set()
        self._attempts: dict[int, Attempt] = {}
        self._bounces: dict[int, finish.Told] = {}
        self._tag = 0
        self._is_stopping = False
        self._moves: dict[type, Callable[[Any, int, list[Command]], None]] = {
            Arrived: self._arrived,
            Reported: self._reported,
            Finished: self._finished,
            Committed: self._committed,
            Changed: self._changed,
            Lost: self._lost,
            Stopping: self._stopping,
        }

    def handle(self, event: Event, now: int) -> list[Command]:
        """Return what is to be done about the event; now is in microseconds since the epoch."""
        commands: list[Command] = []
        self._moves[type(event)](event, now, commands)
        if self._lanes.is_ready and not self._is_stopping:
            self._start(now, commands)
        return commands

    @property
    def in_flight(self) -> int:
        """Orders without a report."""
        return len(self._attempts)

    @property
    def jobs(self) -> int:
        """Jobs with a recipient that is not answered."""
        return len(self._jobs)

    @property
    def waiting(self) -> int:
        """Recipients that wait for their turn."""
        return self._lanes.waiting

    # --- events

    def _arrived(self, event: Arrived, now: int, commands: list[Command]) -> None:
        frame = event.job
        count = len(frame.recipients)
        if not count:
            if event.token != NO_TOKEN:
                commands.append(Release(event.token))
            return
        job = Job(frame, event.token, self._chance(), count, verp.is_verp(frame.sender), list(frame.recipients))
        self._jobs.add(job)
        self._route(job, range(count), now, commands)

    def _route(self, job: Job, positions: Iterable[int], now: int, commands: list[Command]) -> None:
        """Rule 12: where a recipient goes is decided now, from the settings of now."""
        lanes: dict[bytes, list[int]] = {}
        settings = self._settings
        for position in positions:
            target = rewrite(job.frame.recipients[position], settings)
            job.addresses[position] = target.address
            lanes.setdefault(routes.lane_of(target, settings.smtproutes), []).append(position)
        for name, members in lanes.items():
            if not self._lanes.add(name, job, members, job.is_verp, _in_memory(job.frame)):
                later = retry.after_hold if self._lanes.is_held(name) else retry.after_crowd
                due = later(now, job.jitter)
                indexes = [job.frame.indexes[position] for position in members]
                commands.append(frames.Deferred(job.frame.number, name, due, indexes))
                self._close(job, len(members), commands)

    def _close(self, job: Job, recipients: int, commands: list[Command]) -> None:
        """So many recipients of the job need nothing more; with the last one the job goes."""
        job.open -= recipients
        if not job.open and not job.is_lost:
            self._jobs.remove(job)
            if job.token != NO_TOKEN:
                commands.append(Release(job.token))

    def _start(self, now: int, commands: list[Command]) -> None:
        for lane, job, positions in self._lanes.take():
            self._tag += 1
            self._attempts[self._tag] = Attempt(job, lane, positions, now)
            number, birth, flags, _, sender, numbers, _, size, content, _ = job.frame
            recipients = [job.addresses[position] for position in positions]
            indexes = [numbers[position] for position in positions]
            if job.is_verp:
                sender = verp.expand(sender, recipients[0])
            rides = 1 if job.token != NO_TOKEN else 0
            order = frames.Order(self._tag, number, birth, flags, lane.name, sender, indexes, recipients, size, content, rides)
            commands.append(Place(order, job.token))

    def _reported(self, event: Reported, now: int, commands: list[Command]) -> None:
        attempt = self._attempts.pop(event.order)
        self._lanes.ended(attempt.lane, len(attempt.positions))
        if event.report is None or not is_whole(event.report, len(attempt.positions)):
            self._give_back(attempt, now, commands)
        else:
            self._answer(attempt, event.report, now, commands)
        self._close(attempt.job, len(attempt.positions), commands)

    def _answer(self, attempt: Attempt, report: frames.Report, now: int, commands: list[Command]) -> None:
        frame = attempt.job.frame
        is_local = attempt.lane.channel.is_local
        is_last = retry.is_last(frame.birth, attempt.started, self._settings.queuelifetime)
        served: list[int] = []
        again: list[int] = []
        due = 0
        for place, position in enumerate(attempt.positions):
            verdict = judge(report.outcomes[place : place + 1], is_last)
            code, status, text, peer = (
                report.codes[place],
                report.enhanced[place],
                report.texts[place],
                report.peers[place],
            )
            if verdict is Verdict.SERVED:
                served.append(frame.indexes[position])
            elif verdict is Verdict.AGAIN:
                again.append(frame.indexes[position])
                due = due or retry.next_attempt(frame.birth, now, is_local, attempt.job.jitter)
            else:
                if verdict is Verdict.EXPIRED:
                    status, text = TOO_OLD_STATUS, text.rstrip(b"\r\n") + b"\n" + TOO_OLD_TEXT
                if not attempt.job.is_lost:
                    note = bounce.note(status, 0, b"", text) if is_local else bounce.note(status, code, peer, text)
                    commands.append(frames.Failed(frame.number, frame.indexes[position], note))
            commands.append(delivery(attempt, position, verdict, code, status, text, peer, now, due))
        self._settle(attempt, served, again, due, commands)

    def _give_back(self, attempt: Attempt, now: int, commands: list[Command]) -> None:
        """The service was lost: nothing is known, so all is temporary, soon, and never the last attempt."""
        frame = attempt.job.frame
        due = retry.after_trouble(frame.birth, now, attempt.lane.channel.is_local, attempt.job.jitter)
        for position in attempt.positions:
            commands.append(delivery(attempt, position, Verdict.AGAIN, 0, b"4.3.0", SERVICE_LOST, b"", now, due))
        self._settle(attempt, [], [frame.indexes[position] for position in attempt.positions], due, commands)

    def _settle(self, attempt: Attempt, served: list[int], again: list[int], due: int, commands: list[Command]) -> None:
        if attempt.job.is_lost:
            return
        if served:
            commands.append(frames.Done(attempt.job.frame.number, served))
        if again:
            commands.append(frames.Deferred(attempt.job.frame.number, attempt.lane.name, due, again))

    def _finished(self, event: Finished, now: int, commands: list[Command]) -> None:
        answer = finish.decide(event, now, self._settings)
        if isinstance(answer, frames.Bounce):
            self._bounces[answer.number] = finish.Told(event.finish.sender, answer.recipients[0], len(event.finish.recipients))
        else:
            commands.append(finish.discarded(event.finish))
        commands.append(answer)

    def _committed(self, event: Committed, now: int, commands: list[Command]) -> None:
        told = self._bounces.pop(event.bounced.number, None)
        if told is not None:
            commands.append(finish.bounced(event.bounced, told))

    def _changed(self, event: Changed, now: int, commands: list[Command]) -> None:
        self._settings = event.settings
        waiting = self._lanes.clear()
        self._lanes.limit(event.settings)
        for job, positions in waiting:
            self._route(job, positions, now, commands)

    def _lost(self, event: Lost, now: int, commands: list[Command]) -> None:
        self._lanes.clear()
        for job in self._jobs:
            job.is_lost = True
            if job.token != NO_TOKEN:
                commands.append(Release(job.token))
        self._jobs.clear()
        self._bounces.clear()

    def _stopping(self, event: Stopping, now: int, commands: list[Command]) -> None:
        self._is_stopping = True


def _in_memory(frame: frames.Job) -> int:
    """Return the bytes of memory that a waiting message holds, here or beside its frame."""
    if frame.descriptor and frame.size <= MAX_SEALED:
        return frame.size
    return len(frame.content)
