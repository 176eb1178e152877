"""One order to a remote host on its way: its transactions, its results, its report. Knows no connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from qmaild.delivery.smtp import Content
from qmaild.protocol import frames
from qmaild.protocol.smtp_transaction import Result, Transaction

RECIPIENTS = 100  # of one transaction: the least that every server must take (RFC 5321 4.5.3.1.8)
REPORT_BYTES = 4 << 20  # of texts in one report: peers that talk much about many recipients are cut short

Report = Callable[[frames.Report], None]

_TOO_MANY = ((452, b"4.5.3"), (452, b"4.0.0"))
_UNKNOWN = Result(frames.TEMPORARY, 0, b"4.3.0", b"The delivery ended without a result.")


class Work:
    """One order under way. pending: places of recipients not yet in a transaction that ended."""

    __slots__ = (
        "_batch", "asker", "content", "order", "peers", "pending", "place", "refusal", "report", "results",
        "skip",
    )  # fmt: skip

    def __init__(self, asker: Any, order: frames.Order, content: Content, report: Report) -> None:
        self.asker = asker
        self.order = order
        self.content = content
        self.report: Report | None = report
        self.results: list[Result | None] = [None] * len(order.recipients)
        self.peers: list[bytes] = [b""] * len(order.recipients)
        self.pending: deque[int] = deque(range(len(order.recipients)))
        self.skip: list[bytes] = []  # addresses whose greeting was a refusal
        self._batch: list[int] = []  # places of the recipients of the transaction under way
        self.refusal: tuple[Result, bytes] | None = None  # what the last of those said, and which it was
        self.place: Any = None  # the owner's: which connection has it

    def give_up(self, result: Result, peer: bytes = b"") -> None:
        """Everything still pending ends in this result."""
        for place in self.pending:
            self.results[place] = result
            self.peers[place] = peer
        self.pending.clear()

    def next_transaction(self) -> Transaction:
        """Return a transaction for the next recipients."""
        order, content, pending = self.order, self.content, self.pending
        self._batch = [pending.popleft() for _ in range(min(RECIPIENTS, len(pending)))]
        recipients = [order.recipients[each] for each in self._batch]
        is_8bit = content.is_8bit or bool(order.flags & frames.FLAG_8BIT)
        is_utf8 = bool(order.flags & frames.FLAG_UTF8)
        return Transaction(order.sender, recipients, content.size, is_8bit, is_utf8)

    def take_back(self) -> None:
        """The server never saw the transaction: its recipients are pending again."""
        self.pending.extendleft(reversed(self._batch))

    def note(self, transaction: Transaction, peer: bytes) -> None:
        """Keep the results of a transaction that ended."""
        too_many: list[int] = []
        for index, result in zip(self._batch, transaction.results, strict=True):
            # RFC 5321 4.5.3.1.10: the rest of the recipients goes in a transaction of its own.
            if transaction.accepted and result and (result.code, result.enhanced) in _TOO_MANY:
                too_many.append(index)
            else:
                self.results[index] = result
                self.peers[index] = peer
        self.pending.extendleft(reversed(too_many))

    def answer(self) -> frames.Report:
        results = [each or _UNKNOWN for each in self.results]
        if sum([len(each.text) for each in results]) > REPORT_BYTES:
            room = REPORT_BYTES // len(results)
            results = [each._replace(text=each.text[:room]) for each in results]
        return frames.Report(
            self.order.tag, b"".join([each.outcome for each in results]), [each.code for each in results],
            [each.enhanced for each in results], [each.text for each in results], self.peers,
        )  # fmt: skip
