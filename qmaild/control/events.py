"""The one table of journal events: name, MESSAGE_ID, priority, text, fields, catalog explanation.

The journal catalog, the manual page and `qmailctl trace` come from it. Every record carries QMAILD_EVENT and,
where a message is concerned, QMAILD_MESSAGE (its number).
"""

from __future__ import annotations

import dataclasses

ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6  # syslog priorities

FIELDS = {
    "message": "QMAILD_MESSAGE",  # message number
    "bounce": "QMAILD_BOUNCE",  # number of the bounce about it
    "sender": "QMAILD_SENDER",  # reverse-path
    "recipient": "QMAILD_RECIPIENT",  # one forward-path
    "recipients": "QMAILD_RECIPIENTS",  # how many
    "bytes": "QMAILD_BYTES",  # size of the message
    "peer": "QMAILD_PEER",  # address of the other end, uid N for a local sender, message N for a forward
    "helo": "QMAILD_HELO",
    "protocol": "QMAILD_PROTOCOL",  # smtp, esmtp, qmqp, local, forward
    "channel": "QMAILD_CHANNEL",  # local or remote
    "outcome": "QMAILD_OUTCOME",  # success, temporary, permanent
    "code": "QMAILD_CODE",  # SMTP reply code
    "enhanced": "QMAILD_ENHANCED",  # enhanced status code
    "text": "QMAILD_TEXT",  # what the other end or the deliverer said
    "delay": "QMAILD_DELAY",  # seconds since the message was accepted
    "took": "QMAILD_TOOK",  # seconds this step took
    "due": "QMAILD_DUE",  # when the next attempt is, seconds since the epoch
    "command": "QMAILD_COMMAND",  # the SMTP command that was refused
}


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """text is formatted with the record's fields; explanation is the catalog's."""

    name: str
    message_id: str
    priority: int
    text: str
    fields: tuple[str, ...]
    explanation: str


def _event(name: str, message_id: str, priority: int, text: str, fields: str, explanation: str) -> Event:
    return Event(name, message_id, priority, text, tuple(fields.split()), explanation)


ACCEPTED = _event("accepted", "34e2303bf4034ccc8f527e073071e385", INFO,
    "{message}: accepted from {sender} by {protocol} from {peer}, {recipients} recipients, {bytes} bytes",
    "message sender recipients bytes peer helo protocol took",
    "A message was accepted: it is on disk, and the sender was told so.")  # fmt: skip
REFUSED = _event("refused", "d51b2b5cc9744e538d0943056d42de1e", INFO,
    "refused {command} from {peer}: {code} {enhanced} {text}",
    "sender recipient peer helo protocol command code enhanced text",
    "A client asked for something that was refused. The code and text are what it was told.")  # fmt: skip
DELIVERY = _event("delivery", "f88080b5d64c4703a7e48cceccc69a2c", INFO,
    "{message}: {outcome} for {recipient} ({channel} {peer}): {code} {enhanced} {text}",
    "message sender recipient channel outcome code enhanced text peer delay took due",
    "One attempt to deliver a message to one recipient ended. success: the other end has taken it over. temporary: "
    "it is tried again at the time in QMAILD_DUE. permanent: the sender is told by a bounce.")  # fmt: skip
BOUNCED = _event("bounced", "a6735b645b3549cfb317275192d8ffdb", INFO,
    "{message}: bounced to {recipient} as {bounce}", "message bounce sender recipient recipients",
    "A message could not be delivered to some recipients; its sender is told by the message QMAILD_BOUNCE. A double "
    "bounce (about a bounce that bounced) goes to the postmaster.")  # fmt: skip
DISCARDED = _event("discarded", "7f7deb1b221d4f28953d277115332d94", WARNING,
    "{message}: a double bounce that bounced was discarded", "message sender recipients text",
    "A double bounce could not be delivered either: see that the postmaster address of this host works.")  # fmt: skip
ENDED = _event("ended", "983a57d05be14ae7b08d1b745783f4fb", INFO,
    "{message}: removed from the queue by an administrator", "message sender",
    "An administrator deleted this message from the queue; no bounce was sent.")  # fmt: skip
REMOVED = _event("removed", "9f36d1b6e41e4bb3adac0567f2c81dda", INFO,
    "{message}: {recipients} recipients at {text} removed by an administrator", "message sender recipients text",
    "An administrator deleted all recipients at this domain from the queue; no bounce was sent to the sender. The "
    "other recipients of the message are not concerned.")  # fmt: skip
DAMAGED = _event("damaged", "f818d438a0cf4a46965ac56427768b08", ERROR,
    "the queue held damaged records: {text}", "text",
    "Records in the queue's segments did not match their checksums. They were skipped and cost only themselves; "
    "the disk or the memory of this machine deserves a look.")  # fmt: skip
STORAGE = _event("storage", "c576dd02997c45f0bdc1574dcb862346", ERROR,
    "the queue cannot take messages: {text}", "text",
    "Writing to the queue failed (full disk or an error of the disk). Clients are told to try again later; "
    "nothing that was accepted is lost. Intake resumes by itself when writing works again.")  # fmt: skip

EVENTS: dict[str, Event] = {
    event.name: event
    for event in (ACCEPTED, REFUSED, DELIVERY, BOUNCED, DISCARDED, ENDED, REMOVED, DAMAGED, STORAGE)
}  # fmt: skip
