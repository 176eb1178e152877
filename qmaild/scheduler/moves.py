"""What goes into send's brain and comes out of it. A token is a descriptor that it only carries."""

from __future__ import annotations

from typing import Any, NamedTuple

from qmaild.control.events import Event as JournalEvent
from qmaild.control.settings import Settings
from qmaild.protocol import frames

NO_TOKEN = -1


# Events.
class Arrived(NamedTuple):
    """The queue hands over recipients of a message; token is NO_TOKEN if it rides inside its frame."""

    job: frames.Job
    token: int


class Reported(NamedTuple):
    """The answer to an order. report is None when the service was lost before it answered."""

    order: int
    report: frames.Report | None


class Finished(NamedTuple):
    """Nobody left to try. original: the message, or its header section alone when is_whole is false."""

    finish: frames.Finish
    original: bytes
    is_whole: bool


class Committed(NamedTuple):
    """The queue has made a bounce durable."""

    bounced: frames.Bounced


class Changed(NamedTuple):
    """The control files were read again."""

    settings: Settings


class Lost(NamedTuple):
    """The queue's connection has ended: it will hand out everything unanswered again."""


class Parting(NamedTuple):
    """The queue stops: nothing of what waits is wanted any more, the reports of what is in flight are."""


class Stopping(NamedTuple):
    """Start nothing more."""


class Continued(NamedTuple):
    """The answer to More: other events have had their turn."""


Event = Arrived | Reported | Finished | Committed | Changed | Lost | Parting | Stopping | Continued


# Commands. Answers to the queue are the frames Done, Failed, Deferred, Ended and Bounce themselves.
class Place(NamedTuple):
    """Give the order to its channel, with a duplicate of the token's descriptor. The tag is the brain's."""

    order: frames.Order
    token: int


class Release(NamedTuple):
    """No order will need this token any more."""

    token: int


class Record(NamedTuple):
    """Write this to the journal."""

    event: JournalEvent
    values: dict[str, Any]


class More(NamedTuple):
    """There is more to do than one event may take: say Continued soon."""


Command = Place | Release | Record | More | frames.Done | frames.Failed | frames.Deferred | frames.Ended | frames.Bounce
