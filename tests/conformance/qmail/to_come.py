"""The facts that have neither a test here nor a line under "Differs from qmail" yet. This list only shrinks."""

from __future__ import annotations

TO_COME = {
    "qmail-queue": range(1, 23),
    "qmail-send: schedule and life": range(36, 55),
    "logs": range(55, 62),
    "bounces": range(62, 75),
    "the SMTP server: RELAYCLIENT=@suffix, by rules of clients": [156],
    "QMTP, QMQP, POP3": range(189, 202),
}
