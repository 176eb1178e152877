"""A real store on a real disk, and what its loop would do."""

from __future__ import annotations

import pathlib
import select

from qmaild.queue.store import FRESH, RETRY, Staged, Store
from qmaild.queue.values import Job

SEGMENT = 64 << 10
FOREVER = 1 << 60
PATIENCE = 30  # seconds until a test gives up on the disk


class Client:
    """A store and what its loop would do: commit, wait on the eventfd, collect."""

    def __init__(self, directory: pathlib.Path, **options: int) -> None:
        self.directory = str(directory)
        self.options: dict[str, int] = {"segment_bytes": SEGMENT, **options}
        self.failed: list[int] = []
        self.store = Store.open(self.directory, **self.options)  # type: ignore[arg-type]

    def wait_for(self, staged: Staged) -> None:
        """Wait until this file is synced."""
        while staged.number not in self.store.collect().staged:
            assert select.select([self.store.eventfd], [], [], PATIENCE)[0], "nothing was decided"

    def holder(self, content: bytes) -> pathlib.Path:
        """The segment where that stands; there may be a spare beside it."""
        segments = pathlib.Path(self.directory, "segments").iterdir()
        return next(segment for segment in segments if content in segment.read_bytes())

    def settle(self) -> None:
        """Commit, and wait until it is decided."""
        ticket = self.store.commit()
        while True:
            collected = self.store.collect()
            self.failed += collected.failed
            if collected.durable >= ticket:
                return
            assert select.select([self.store.eventfd], [], [], PATIENCE)[0], "nothing was decided"

    def add(self, content: bytes = b"content", recipients: tuple[bytes, ...] = (b"to@example",), **more: object) -> int:
        arguments: dict[str, object] = {
            "birth": 1_000_000, "flags": 0, "origin": b"test", "sender": b"from@example", "recipients": recipients,
            "content": content, **more,
        }  # fmt: skip
        return self.store.add(**arguments)  # type: ignore[arg-type]

    def due(self, now: int = FOREVER, limit: int = 1000, classes: tuple[int, ...] = (FRESH, RETRY)) -> list[Job]:
        """Up to limit messages of these classes, one class after the other."""
        jobs: list[Job] = []
        for which in classes:
            while len(jobs) < limit and (job := self.store.due(now, which)):
                jobs.append(job)
        return jobs

    def next_due(self) -> int | None:
        return min([due for which in (FRESH, RETRY) if (due := self.store.next_due(which)) is not None], default=None)

    def reopen(self) -> None:
        self.store.close()
        self.store = Store.open(self.directory, **self.options)  # type: ignore[arg-type]
