"""Depth: /usr/bin/python3 -m tests.bench.depth [options]. What a queue of a million deferred messages costs everybody else.

Two servers of this tree share the disk: one with the backlog, one without. Whatever is compared, they take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.system.roots import CACHE

from . import results as report
from . import turns
from .backlog import HANGING, REFUSING, Backlog, fill, make_due
from .house import OWNER, USER, Asked, Batch, House, hanging_port
from .load import LOCAL_DOMAIN, SINK_DOMAIN, LoadError, Sink, compile_program
from .measure import percentile
from .peer import free_port
from .results import Line

RESIDENT_MB = 250
RESTART_SECONDS = 10
RATE_SHARE = 0.9
LIST_SECONDS = 2
STATUS_SECONDS = 1  # "at once": nearly all of it is the start of the program that asks
LATE_MS = 1000  # a new message is not held up by more than this, and by what an empty server beside it takes
STOP_SECONDS = 10  # systemd gives it 15
CHECKPOINT_MS = 5  # of the loop's time for a piece of it
TURN_MS = 20  # of the loop's time for a piece of anything
WRITING_SHARE = 0.25  # of the accept rate, while a checkpoint is written: it goes on
PARTS = ("turns", "restart", "rate", "refused", "hanging", "all")
EVERY = 100_000  # microseconds between lone messages
AHEAD = 3
SESSIONS = 20
HANGING_HOST = "127.0.0.3"
CLOSED_PORT = 9  # discard: nobody serves that any more
WAIT_SECONDS = 60  # until the first attempts at a dead domain are seen


def options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="depth", description="a queue of deferred messages, and what it costs the others")
    parser.add_argument("--messages", type=int, default=1_000_000, help="in the queue; a tenth for each dead domain (1000000)")
    parser.add_argument("--domains", type=int, default=10_000, help="destinations of them (10000)")
    parser.add_argument("--bytes", type=int, default=4096, help="of each (4096)")
    parser.add_argument("--runs", type=int, default=3, help="of each side, for the accept rate (3)")
    parser.add_argument("--accept", type=int, default=3000, help="messages in each of those (3000)")
    parser.add_argument("--lone", type=int, default=60, help="new messages to each place while others are being tried (60)")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help=",".join(PARTS))
    parser.add_argument(
        "--cold", action=argparse.BooleanOptionalAction, default=True,
        help="root also measures a restart with an empty page cache, which slows down everybody (yes)",
    )
    parser.add_argument("--results", type=Path, nargs="?", const=report.FILE, help="also write the section of RESULTS.md")
    parser.add_argument("--folder", type=Path, default=CACHE / "bench", help="where to work")
    given = parser.parse_args(argv)
    if given.messages < 10 or given.domains < 3 or given.runs < 1:
        parser.error("at least ten messages, three domains and one run")
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return given


class Depth:
    """The measurements, in order. Each adds its lines."""

    def __init__(self, given: argparse.Namespace, folder: Path, sink: Sink, sender: Path, hanging: int) -> None:
        self.lines: list[Line] = []
        self.raw: list[str] = []
        self._given = given
        self._backlog = Backlog(given.messages, given.domains, given.bytes)
        self._sink = sink
        # Each has an address of its own: a host that is dead is left alone, whatever domain it serves.
        relays = {SINK_DOMAIN: f"127.0.0.1:{sink.port}"}
        relays |= {REFUSING: f"127.0.0.2:{CLOSED_PORT}", HANGING: f"{HANGING_HOST}:{hanging}"}
        for n, domain in enumerate(self._backlog.living_domains()):
            relays[domain] = f"127.{1 + (n >> 16)}.{n >> 8 & 255}.{n & 255}:{CLOSED_PORT}"
        routes = "\n".join(f"{domain}:{relay}" for domain, relay in relays.items())
        # Short names: paths of sockets end at 107 bytes.
        self.full = House(folder / "f", sender, {"smtproutes": routes})
        self.empty = House(folder / "e", sender, {"smtproutes": routes})

    def stop(self) -> None:
        for house in (self.full, self.empty):
            house.stop()

    def run(self) -> None:
        self._fill()
        parts = {
            "turns": self._turns, "restart": self._restarts, "rate": self._rates,
            "refused": lambda: self._dead(REFUSING, "refuses connections"),
            "hanging": lambda: self._dead(HANGING, "never answers"), "all": self._all_due,
        }  # fmt: skip
        for name in self._given.parts:
            parts[name]()
            self.stop()

    def _say(self, line: Line) -> None:
        self.lines.append(line)
        print(line.line(), flush=True)

    def _tell(self, text: str) -> None:
        self.raw.append(text)
        print(text, flush=True)

    def _fill(self) -> None:
        begun = time.monotonic()
        self._waiting = fill(self.full.queue, OWNER, self._backlog)
        size = sum(path.stat().st_size for path in self.full.queue.rglob("*") if path.is_file())
        self._tell(f"filled: {self._backlog.messages} messages of {self._backlog.body_bytes} bytes to {self._backlog.domains} "
                   f"domains in {time.monotonic() - begun:.0f} s, {size / 1e9:.2f} GB of disk")  # fmt: skip

    def _turns(self) -> None:
        """What the queue's loop is held for, measured without a server: nothing else has a part in it."""
        place = self.full.queue, OWNER
        found = turns.listed(*place, REFUSING)
        self._held(f"listing {found.about} messages, {sum(found.seconds):.2f} s in all", found, TURN_MS)
        found = turns.all_made_due(*place)
        self._held(f"making {found.about} messages due", found, TURN_MS)
        count = max(self._given.accept, self._given.messages // 50)  # so many that checkpoints come to their end meanwhile
        beside = turns.checkpoints(*place, count, self._given.bytes, self._given.runs)
        self._held(f"writing {beside.turns.about} checkpoints while messages come in", beside.turns, CHECKPOINT_MS)
        for name, rates in (("no checkpoint", beside.plain), ("checkpoints without a pause", beside.writing)):
            self._tell(f"the store alone, {name}: {', '.join(f'{rate:.0f}' for rate in rates)} /s")
        self._say(Line("accept rate of the store while checkpoints are written, of that without", f"{beside.share:.0%}",
                       f">= {WRITING_SHARE:.0%}", beside.share >= WRITING_SHARE))  # fmt: skip

    def _held(self, what: str, found: turns.Turns, limit: float) -> None:
        self._say(Line(f"the loop's CPU, {what}", str(found), f"max <= {limit} ms", max(found.seconds) * 1000 <= limit))

    def _restarts(self) -> None:
        """From the start of the server, or from the death of its queue, to the first 250."""
        self._took("first start", self.full.start())
        time.sleep(1)
        self._memory("at rest", self.full.resident())
        self._took("restart after kill -9 of the queue", self.full.kill("queue"))
        self._took("the same once more", self.full.kill("queue"))
        self._asked("status", STATUS_SECONDS, self.full.ctl("status"))
        for domain in ("d0.test", REFUSING):
            self._asked(f"queue list --domain {domain}", LIST_SECONDS, self.full.ctl("queue", "list", "--domain", domain))
        self._stopped()
        self._took("restart after an orderly stop", self.full.start())
        if self._given.cold and os.geteuid() == 0:
            self._stopped()
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3\n")
            self._took("restart with nothing in the page cache", self.full.start())

    def _stopped(self) -> None:
        begun = time.monotonic()
        self.full.stop()
        seconds = time.monotonic() - begun
        self._say(Line("an orderly stop", f"{seconds:.2f} s", f"<= {STOP_SECONDS} s", seconds <= STOP_SECONDS))

    def _took(self, what: str, seconds: float) -> None:
        self._say(Line(f"{what}, to the first 250", f"{seconds:.2f} s", f"<= {RESTART_SECONDS} s", seconds <= RESTART_SECONDS))

    def _memory(self, when: str, megabytes: float) -> None:
        what = f"memory of queue and send, {when}"
        self._say(Line(what, f"{megabytes:.0f} MB", f"<= {RESIDENT_MB} MB", megabytes <= RESIDENT_MB))

    def _asked(self, what: str, limit: float, asked: Asked) -> None:
        found = f"{asked.seconds:.2f} s, {len(asked.lines)} lines"
        if asked.code:
            found = f"exit {asked.code}: {asked.error.strip().splitlines()[-1] if asked.error.strip() else ''}"
        self._say(Line(f"qmailctl {what}", found, f"< {limit} s", not asked.code and asked.seconds < limit))

    def _rates(self) -> None:
        """Accepting, with nothing else to do: both hold what comes in."""
        houses = {"backlog": self.full, "empty": self.empty}
        for house in houses.values():
            house.settings["queueonly"] = "1"
            house.start()
            self._accept(house)
        rates: dict[str, list[float]] = {name: [] for name in houses}
        for _ in range(self._given.runs):
            for name, house in houses.items():
                rates[name].append(self._accept(house).rate)
        for house in houses.values():  # what they hold goes now, so that it is not in the way of what comes next
            del house.settings["queueonly"]
            house.reload()
        await_quiet_sink(self._sink)
        self._lone("with an empty queue", self.empty)
        for name, found in rates.items():
            self._tell(f"accept rate, {name}: {', '.join(f'{rate:.0f}' for rate in found)} /s")
        share = statistics.median(rates["backlog"]) / statistics.median(rates["empty"])
        self._say(Line(f"accept rate with the backlog, {SESSIONS} sessions, of the empty one", f"{share:.0%}",
                       f">= {RATE_SHARE:.0%}", share >= RATE_SHARE))  # fmt: skip

    def _accept(self, house: House) -> Batch:
        batch = house.send(self._given.accept, "accept", f"user@{SINK_DOMAIN}", sessions=SESSIONS)
        if batch.codes != {250}:
            raise LoadError(f"not all were accepted: {batch.codes}")
        return batch

    def _lone(self, when: str, house: House) -> None:
        """New messages to a local user and to another domain at the same time, while the house is as it is.

        As many go to a local user of the empty house: what they take is the machine's, and no fault of the backlog.
        A few go ahead of them: the services that deliver may have to start.
        """
        places = {
            "a local user": (house, f"{USER}@{LOCAL_DOMAIN}", house.new),
            "another domain": (house, f"user@{SINK_DOMAIN}", self._sink.file),
            "": (self.empty, f"{USER}@{LOCAL_DOMAIN}", self.empty.new),
        }
        if house is self.empty:
            del places[""]
        self.empty.start()
        found: dict[str, Batch] = {}

        def send(to: str) -> None:
            at, path, place = places[to]
            for count in (AHEAD, self._given.lone):
                found[to] = at.send(count, f"lone{count}", path, every=EVERY, place=place)

        threads = [threading.Thread(target=send, args=(to,), daemon=True) for to in places]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        beside = found.pop("", None)
        if beside:
            self._tell(f"a new message to a local user, empty server beside it, {when}: {_spread(beside.placed)}")
        limit = LATE_MS + (max(beside.placed) if beside else 0)
        for to in sorted(found, reverse=True):
            self._late(f"a new message to {to}, {when}", found[to], limit)

    def _late(self, what: str, batch: Batch, limit: float) -> None:
        if batch.codes != {250} or not all(batch.placed):
            self._say(Line(what, "not delivered", f"max <= {limit:.0f} ms", False))
            return
        self._say(Line(what, _spread(batch.placed), f"max <= {limit:.0f} ms", max(batch.placed) <= limit))

    def _dead(self, domain: str, how: str) -> None:
        """All messages of one dead domain are due. They are tried while new ones come in."""
        count = len(self._waiting[domain])
        make_due(self.full.queue, OWNER, domain, self._waiting[domain])
        before = self.full.records_about(domain)
        self.full.start()
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.full.out() and self.full.records_about(domain) == before:
            if time.monotonic() > deadline:
                raise LoadError(f"nothing is sent to {domain}")
            time.sleep(0.2)
        with self.full.watched() as watch:
            self._lone(f"{count} due to a domain that {how}", self.full)
        tried = self.full.records_about(domain) - before
        self._tell(f"{domain}: {tried} of {count} tried until then, {self.full.out()} under way")
        self._memory(f"{count} due to a domain that {how}", watch.most)

    def _all_due(self) -> None:
        """Everything is due at once, and nothing can be delivered."""
        self.full.start()
        with self.full.watched() as watch:
            asked = self.full.ctl("queue", "retry", "all")
            self._tell(f"retry all: exit {asked.code} after {asked.seconds:.2f} s")
            time.sleep(1)
            self._lone("everything due at once", self.full)
        self._memory("everything due at once", watch.most)
        self._asked("status, everything due at once", STATUS_SECONDS, self.full.ctl("status"))


def _spread(milliseconds: list[float]) -> str:
    p50, p99, most = (percentile(milliseconds, share) for share in (0.5, 0.99, 1.0))
    return f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {most:.0f} ms"


def await_quiet_sink(sink: Sink) -> None:
    """What was held before arrives first: the sink's counter must tell of our messages only."""
    before = -1
    while (now := sink.recipients()) != before:
        before = now
        time.sleep(1)


@contextlib.contextmanager
def parts(given: argparse.Namespace) -> Iterator[Depth]:
    """A place to work, which is gone afterwards: it takes gigabytes."""
    given.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="d", dir=given.folder))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        sink = Sink(compile_program("sink", folder), free_port(), folder)
        stack.callback(sink.stop)
        depth = Depth(given, folder, sink, compile_program("sender", folder), stack.enter_context(hanging_port(HANGING_HOST)))
        stack.callback(depth.stop)
        yield depth


def main(argv: list[str]) -> int:
    given = options(argv)
    try:
        with parts(given) as depth:
            depth.run()
            if given.results:
                text = [*report.facts(given.folder, {}), "", *report.table(depth.lines), "", "```", *depth.raw, "```"]
                report.write_section("Depth", text, given.results)
    except LoadError as error:
        print(f"depth: {error}", file=sys.stderr)
        return 111
    return 0 if all(line.is_met for line in depth.lines) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
