"""send's brain: handle(event, now) -> commands. Knows what is out and what waits; no sockets, no clock.

Every recipient of a job is in exactly one place: on its way into a lane, waiting in one, in one order, or answered
to the queue.
A job whose queue connection was lost is answered to nobody: what waits of it is dropped, what is in flight
is only recorded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from qmaild.control.settings import Settings
from qmaild.message import verp
from qmaild.policy import retry
from qmaild.policy.routes import LOCAL_LANE
from qmaild.protocol import frames
from qmaild.scheduler import answers, evidence, finish
from qmaild.scheduler.attempts import Attempt, Job, delivery
from qmaild.scheduler.lanes import Lanes
from qmaild.scheduler.moves import (
    NO_TOKEN,
    Arrived,
    Changed,
    Command,
    Committed,
    Continued,
    Event,
    Finished,
    Lost,
    More,
    Parting,
    Place,
    Release,
    Reported,
    Stopping,
)
from qmaild.scheduler.paces import Paces, Told
from qmaild.scheduler.routing import LOOK, MAX_PUT_OFF, PLACE, PUT_OFF, SLICE, Group, Routing, lane_of
from qmaild.scheduler.verdicts import Verdict, is_whole

MAX_SEALED = 320 << 10  # a message behind a descriptor up to this size may be in memory, a larger one is a file


class Brain:
    """chance() gives a number from 0 to 1 for each job: where its retries fall within their jitter."""

    def __init__(self, settings: Settings, chance: Callable[[], float]) -> None:
        self._settings = settings
        self._chance = chance
        self._lanes = Lanes(settings)
        self._jobs: set[Job] = set()
        self._routings: deque[Routing] = deque()
        self._is_more_said = False
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
            Parting: self._parting,
            Stopping: self._stopping,
            Continued: self._continued,
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
        return self._lanes.waiting + sum([routing.left for routing in self._routings])

    @property
    def paces(self) -> Paces:
        """What was learnt about destinations."""
        return self._lanes.paces

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
        if count == 1:
            self._place(None, job, Group(lane_of(job, 0, self._settings), [0]), now, commands)
            return
        routing = Routing(job, list(range(count)))
        self._advance(routing, SLICE, now, commands)  # what is routed in one go stands behind nothing
        if routing.left:
            self._routings.append(routing)
            self._say_more(commands)

    def _continued(self, event: Continued, now: int, commands: list[Command]) -> None:
        self._is_more_said = False
        self._route(now, commands)

    def _route(self, now: int, commands: list[Command]) -> None:
        """Let recipients find their lanes, as many as may be in one go; the jobs that are too large for that in turn."""
        room = SLICE
        while self._routings and room > 0:
            routing = self._routings.popleft()
            if not routing.job.is_lost:
                room = self._advance(routing, room, now, commands)
                if routing.left:
                    self._routings.append(routing)
        self._say_more(commands)

    def _say_more(self, commands: list[Command]) -> None:
        if self._routings and not self._is_more_said and not self._is_stopping:
            self._is_more_said = True
            commands.append(More())

    def _advance(self, routing: Routing, room: int, now: int, commands: list[Command]) -> int:
        """Work on one job; return how much room is left."""
        room -= routing.look(self._settings, room // LOOK) * LOOK
        while room > 0 and (group := routing.next_group()):
            room -= self._place(routing, routing.job, group, now, commands)
        return room

    def _place(self, routing: Routing | None, job: Job, group: Group, now: int, commands: list[Command]) -> int:
        """Let one lane's recipients wait there, or put them off; return what that cost. None: it is all of the job."""
        name, members = group
        frame = job.frame
        is_local = name == LOCAL_LANE
        is_last = retry.is_last(frame.birth, now, self._settings.queuelifetime)  # then the bounce tells of a real attempt
        if not is_last and self._lanes.paces.is_dead(name, now):
            if routing and len(members) > MAX_PUT_OFF:
                routing.put_back(Group(name, members[MAX_PUT_OFF:]))
                members = members[:MAX_PUT_OFF]
            due = retry.next_attempt(frame.birth, now, is_local, job.jitter)
            for position in members:
                commands.append(delivery(job, position, is_local, Verdict.AGAIN, answers.LATELY, now, 0, due))
            self._put_off(job, name, members, due, commands)
            return len(members) * PUT_OFF
        is_retry = retry.is_retry(frame.birth, now, is_local)
        if not self._lanes.add(name, job, members, job.is_verp, is_retry, _in_memory(frame)):
            later = retry.after_hold if self._lanes.is_held(name) else retry.after_crowd
            self._put_off(job, name, members, later(now, job.jitter), commands)
        return PLACE

    def _put_off(self, job: Job, lane: bytes, positions: list[int], due: int, commands: list[Command]) -> None:
        """These are not tried now."""
        indexes = [job.frame.indexes[position] for position in positions]
        commands.append(frames.Deferred(job.frame.number, lane, due, indexes))
        self._close(job, len(positions), commands)

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
            is_probe = lane.pace.is_probing or retry.is_last(birth, now, self._settings.queuelifetime)
            order = frames.Order(self._tag, number, birth, flags, lane.name, sender, indexes, recipients, size, content, rides,
                                 int(is_probe))  # fmt: skip
            commands.append(Place(order, job.token))

    def _reported(self, event: Reported, now: int, commands: list[Command]) -> None:
        attempt = self._attempts.pop(event.order)
        job, lane, positions, started = attempt
        waiting: list[tuple[Job, list[int]]] = []
        if event.report is None or not is_whole(event.report, len(positions)):
            answers.lost(attempt, now, commands)
        else:
            answers.told(attempt, event.report, now, self._settings.queuelifetime, commands)
            told = Told(evidence.of_report(event.report), now - started, event.report.texts[0])
            if self._lanes.learn(lane, told, event.order, self._tag, now):
                waiting = self._lanes.drain(lane)
        self._lanes.ended(lane, job, len(positions))
        self._close(job, len(positions), commands)
        if waiting:
            self._reroute(waiting, now, commands)

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
        before, self._settings = self._settings.smtproutes, event.settings
        after = event.settings.smtproutes
        for key in before.keys() | after.keys():
            if before.get(key) != after.get(key):
                self._lanes.paces.forget(b"remote:@" + key)
        for routing in self._routings:
            routing.begin_again()
        waiting = self._lanes.clear()
        self._lanes.limit(event.settings)
        self._reroute(waiting, now, commands)

    def _reroute(self, waiting: list[tuple[Job, list[int]]], now: int, commands: list[Command]) -> None:
        self._routings.extend([Routing(job, positions) for job, positions in waiting])
        self._route(now, commands)

    def _lost(self, event: Lost, now: int, commands: list[Command]) -> None:
        self._lanes.clear()
        self._routings.clear()
        for job in self._jobs:
            job.is_lost = True
            if job.token != NO_TOKEN:
                commands.append(Release(job.token))
        self._jobs.clear()
        self._bounces.clear()

    def _parting(self, event: Parting, now: int, commands: list[Command]) -> None:
        self._lanes.clear()
        self._routings.clear()

    def _stopping(self, event: Stopping, now: int, commands: list[Command]) -> None:
        self._is_stopping = True


def _in_memory(frame: frames.Job) -> int:
    """Return the bytes of memory that a waiting message holds, here or beside its frame."""
    if frame.descriptor and frame.size <= MAX_SEALED:
        return frame.size
    return len(frame.content)
