"""What the queue is told and the journal keeps of an order that has ended. Knows verdicts and retry times."""

from __future__ import annotations

from qmaild.message import bounce
from qmaild.policy import retry
from qmaild.protocol import frames
from qmaild.scheduler.attempts import Attempt, Said, delivery
from qmaild.scheduler.moves import Command
from qmaild.scheduler.verdicts import TOO_OLD_STATUS, TOO_OLD_TEXT, Verdict, judge

SERVICE_LOST = Said(0, b"4.3.0", b"A service of this host ended during the attempt.", b"")
LATELY = Said(0, b"4.4.1", b"The destination could not be reached lately; it is left alone for a while. (#4.4.1)", b"")


def told(attempt: Attempt, report: frames.Report, now: int, lifetime: int, commands: list[Command]) -> None:
    """Answer each recipient of an order by its report, which is whole."""
    job, lane, positions, started = attempt
    frame, is_local = job.frame, lane.channel.is_local
    is_last = retry.is_last(frame.birth, started, lifetime)
    served: list[int] = []
    again: list[int] = []
    due = 0
    for place, position in enumerate(positions):
        verdict = judge(report.outcomes[place : place + 1], is_last)
        said = Said(report.codes[place], report.enhanced[place], report.texts[place], report.peers[place])
        if verdict is Verdict.SERVED:
            served.append(frame.indexes[position])
        elif verdict is Verdict.AGAIN:
            again.append(frame.indexes[position])
            due = due or retry.next_attempt(frame.birth, now, is_local, job.jitter)
        else:
            if verdict is Verdict.EXPIRED:
                said = said._replace(status=TOO_OLD_STATUS, text=said.text.rstrip(b"\r\n") + b"\n" + TOO_OLD_TEXT)
            if not job.is_lost:
                commands.append(frames.Failed(frame.number, frame.indexes[position], _note(said, is_local)))
        commands.append(delivery(job, position, is_local, verdict, said, now, now - started, due))
    _settle(attempt, served, again, due, commands)


def lost(attempt: Attempt, now: int, commands: list[Command]) -> None:
    """The service was lost: nothing is known, so all is temporary, soon, and never the last attempt."""
    job, lane, positions, started = attempt
    frame, is_local = job.frame, lane.channel.is_local
    due = retry.after_trouble(frame.birth, now, is_local, job.jitter)
    for position in positions:
        commands.append(delivery(job, position, is_local, Verdict.AGAIN, SERVICE_LOST, now, now - started, due))
    _settle(attempt, [], [frame.indexes[position] for position in positions], due, commands)


def _settle(attempt: Attempt, served: list[int], again: list[int], due: int, commands: list[Command]) -> None:
    job = attempt.job
    if job.is_lost:
        return
    if served:
        commands.append(frames.Done(job.frame.number, served))
    if again:
        commands.append(frames.Deferred(job.frame.number, attempt.lane.name, due, again))


def _note(said: Said, is_local: bool) -> bytes:
    """Return what the bounce will say; no server is named for a local failure."""
    if is_local:
        return bounce.note(said.status, 0, b"", said.text)
    return bounce.note(said.status, said.code, said.peer, said.text)
