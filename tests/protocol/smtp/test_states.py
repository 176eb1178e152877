"""Every command in every state: what it says, and where it leads."""

from __future__ import annotations

import itertools

import pytest

from qmaild.policy import smtp as policy
from qmaild.protocol.smtp import events, replies, session
from qmaild.protocol.smtp.replies import Reply
from qmaild.protocol.smtp.session import VERBS
from qmaild.protocol.smtp.states import MOVES, State

from .owner import PROFILE, Owner

# How to get there.
WAYS = {
    State.READY: b"",
    State.SENDER: b"MAIL FROM:<a@b.test>\r\n",
    State.RECIPIENTS: b"MAIL FROM:<a@b.test>\r\nRCPT TO:<bob@mx.test>\r\n",
    State.BODY: b"MAIL FROM:<a@b.test>\r\nRCPT TO:<bob@mx.test>\r\nDATA\r\n",
    State.CLOSED: b"QUIT\r\n",
}
COMMANDS = {
    b"HELO": b"HELO c\r\n", b"EHLO": b"EHLO c\r\n", b"MAIL": b"MAIL FROM:<x@b.test>\r\n",
    b"RCPT": b"RCPT TO:<carol@mx.test>\r\n", b"DATA": b"DATA\r\n", b"RSET": b"RSET\r\n", b"NOOP": b"NOOP\r\n",
    b"QUIT": b"QUIT\r\n", b"VRFY": b"VRFY bob\r\n", b"HELP": b"HELP\r\n",
}  # fmt: skip
SAME = None
# state: {verb: (code, next state)}; the commands not named do not depend on the state.
ALWAYS = {
    b"HELO": (250, State.READY), b"EHLO": (250, State.READY), b"RSET": (250, State.READY), b"NOOP": (250, SAME),
    b"VRFY": (252, SAME), b"HELP": (252, SAME), b"QUIT": (221, State.CLOSED),
}  # fmt: skip
EXPECTED = {
    State.READY: {b"MAIL": (250, State.SENDER), b"RCPT": (503, SAME), b"DATA": (503, SAME)},
    State.SENDER: {b"MAIL": (503, SAME), b"RCPT": (250, State.RECIPIENTS), b"DATA": (503, SAME)},
    State.RECIPIENTS: {b"MAIL": (503, SAME), b"RCPT": (250, SAME), b"DATA": (354, State.BODY)},
}


def _owner_in(state: State) -> Owner:
    owner = Owner()
    owner.greeting()
    owner.feed(WAYS[state])
    assert owner.grammar.state is state
    return owner


def test_the_table_of_commands_is_whole() -> None:
    assert set(COMMANDS) == VERBS
    assert set(State) == set(WAYS)


@pytest.mark.parametrize(("state", "verb"), itertools.product(EXPECTED, COMMANDS))
def test_a_command_between_messages(state: State, verb: bytes) -> None:
    owner = _owner_in(state)
    said = owner.feed(COMMANDS[verb])
    code, leads_to = (EXPECTED[state] | ALWAYS)[verb]
    assert int(said[:3]) == code
    assert owner.grammar.state is (state if leads_to is SAME else leads_to)


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_command_within_the_data_is_text(verb: bytes) -> None:
    owner = _owner_in(State.BODY)
    assert owner.feed(COMMANDS[verb]) == b""
    owner.feed(b".\r\n")
    assert owner.messages == [COMMANDS[verb].replace(b"\r\n", b"\n")]


@pytest.mark.parametrize("verb", COMMANDS)
def test_after_quit_nothing_is_heard(verb: bytes) -> None:
    owner = _owner_in(State.CLOSED)
    heard = len(owner.events)
    assert owner.feed(COMMANDS[verb]) == b""
    assert len(owner.events) == heard


@pytest.mark.parametrize(("verb", "state"), [(b"MAIL", State.READY), (b"RCPT", State.SENDER),
                                             (b"RCPT", State.RECIPIENTS), (b"DATA", State.RECIPIENTS)])  # fmt: skip
def test_a_refused_command_moves_nothing(verb: bytes, state: State) -> None:
    grammar = _owner_in(state).grammar
    grammar.feed(COMMANDS[verb])
    assert grammar.next_event() is not None
    grammar.answer(Reply(451, b"4.3.0", b"not now"))
    assert grammar.state is state


@pytest.mark.parametrize("code", [250, 451, 554])
def test_the_end_of_the_data_ends_the_transaction_whatever_is_answered(code: int) -> None:
    grammar = _owner_in(State.BODY).grammar
    grammar.feed(b"x\r\n.\r\n")
    assert isinstance(grammar.next_event(), events.EndOfData)
    grammar.answer(Reply(code, b"%d.0.0" % (code // 100), b"so"))
    assert grammar.state is State.READY


def test_no_state_but_those_of_the_table_is_reached() -> None:
    assert {state for state, _ in MOVES} | {State.CLOSED} == set(State)
    assert set(MOVES.values()) == set(State)


def test_nothing_is_read_beyond_a_question() -> None:
    grammar = _owner_in(State.READY).grammar
    grammar.feed(b"MAIL FROM:<a@b.test>\r\nNOOP\r\n")
    assert isinstance(grammar.next_event(), events.Sender)
    assert grammar.next_event() is None
    assert grammar.is_waiting
    assert grammar.buffered == len(b"NOOP\r\n")
    grammar.answer(replies.SENDER_OK)
    assert grammar.next_event() is None
    assert grammar.take_replies() == b"250 2.1.0 ok\r\n250 2.0.0 ok\r\n"


def test_closing_waits_for_the_end_of_a_message() -> None:
    owner = _owner_in(State.BODY)
    owner.grammar.close_soon(policy.SHUTTING_DOWN)
    assert owner.feed(b"text\r\n") == b""
    said = owner.feed(b".\r\nMAIL FROM:<a@b.test>\r\n")
    assert said.splitlines() == [b"250 2.0.0 stored", policy.SHUTTING_DOWN.encode().rstrip()]
    assert owner.grammar.state is State.CLOSED


def test_closing_waits_for_an_answer() -> None:
    grammar = _owner_in(State.READY).grammar
    grammar.feed(b"MAIL FROM:<a@b.test>\r\n")
    grammar.next_event()
    grammar.close_soon(policy.SHUTTING_DOWN)
    assert grammar.next_event() is None
    grammar.answer(replies.SENDER_OK)
    assert grammar.next_event() is None
    assert grammar.take_replies() == b"250 2.1.0 ok\r\n" + policy.SHUTTING_DOWN.encode()


def test_every_reply_line_is_short_and_has_the_enhanced_class_of_its_code() -> None:
    found = [each for module in (replies, policy) for each in vars(module).values() if isinstance(each, Reply)]
    assert len(found) > 25
    for reply in found:
        assert len(reply.encode()) <= 512
        if reply is not replies.GO_AHEAD:
            assert reply.enhanced.split(b".")[0] == b"%d" % (reply.code // 100)


def test_the_profile_without_a_limit_says_so() -> None:
    assert b"250-SIZE\r\n" in session.Profile(b"mx.test", b"mx.test", 0).reply_to_ehlo
    assert b"250-SIZE 1000\r\n" in PROFILE.reply_to_ehlo
