"""Which command may come when, and where it leads: the one table that moves a session."""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """READY: no transaction. SENDER: MAIL was accepted. RECIPIENTS: and RCPT. BODY: after 354. CLOSED: end."""

    READY = 0
    SENDER = 1
    RECIPIENTS = 2
    BODY = 3
    CLOSED = 4


END = b"."  # the end of the data, as a move
_COMMANDS = (State.READY, State.SENDER, State.RECIPIENTS)

# The only way from state to state: what may come when, and where it leads when it succeeds.
# Differs from RFC 5321 4.1.4 as qmail does: MAIL needs no HELO before it.
MOVES: dict[tuple[State, bytes], State] = {
    (State.READY, b"MAIL"): State.SENDER,
    (State.SENDER, b"RCPT"): State.RECIPIENTS,
    (State.RECIPIENTS, b"RCPT"): State.RECIPIENTS,
    (State.RECIPIENTS, b"DATA"): State.BODY,
    (State.BODY, END): State.READY,
    **{(state, verb): State.READY for state in _COMMANDS for verb in (b"HELO", b"EHLO", b"RSET")},
    **{(state, verb): state for state in _COMMANDS for verb in (b"NOOP", b"VRFY", b"HELP")},
    **{(state, b"QUIT"): State.CLOSED for state in _COMMANDS},
}
