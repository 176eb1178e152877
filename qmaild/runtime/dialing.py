"""Opening connections: finds a domain's hosts, races their addresses, remembers the dead. Knows no SMTP.

Purposes, not addresses: for "mx" only port 25 of an address found here, never a loopback address or one of
this host's; for "route" only what the administrator's own smtproutes names.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import random
import socket
from collections.abc import Callable
from typing import NamedTuple

from qmaild.control.settings import Settings
from qmaild.policy import mailhosts
from qmaild.policy.deadhosts import DeadHosts
from qmaild.policy.mailhosts import Address, Candidate, Search, Target, Verdict
from qmaild.protocol.frames import TEMPORARY
from qmaild.runtime.dns import Resolver

HEAD_START = 0.25  # RFC 8305 5: before the other address family is tried beside
PATIENCE = 10.0  # before a second address of the same family is tried beside
MAX_AT_ONCE = 3
TIMEOUTS_IN_ALL = 2  # whatever the number of addresses, it is over after so many times timeoutconnect


class Reached(NamedTuple):
    """A connected socket and whose it is."""

    sock: socket.socket
    protocol: bytes
    host: bytes
    address: bytes
    port: int
    more: bool


class _Wish(NamedTuple):
    """What of the question holds for every address: those not to try, whether the dead are to be, and until when."""

    skip: frozenset[bytes]
    is_probe: bool
    deadline: float


def is_own(address: Address) -> bool:
    """Return whether a connection to this address would come back to this host."""
    if mailhosts.is_never_mail(address):
        return True
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # This sends nothing; to an address of ours the kernel picks that very address as source.
            probe.connect((str(address), mailhosts.SMTP_PORT))
            return bool(ipaddress.ip_address(probe.getsockname()[0]) == address)
    except OSError:
        return False  # no way leads there, or this kind of address is not used here


_Running = dict[asyncio.Task[socket.socket | None], Candidate]


class Dialer:
    """Connections by purpose. connect() never raises what a network can cause."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, resolver: Resolver, settings: Callable[[], Settings]
    ) -> None:
        self._loop = loop
        self._resolver = resolver
        self._settings = settings
        self.dead = DeadHosts()

    async def connect(self, purpose: bytes, name: bytes, skip: frozenset[bytes], is_probe: bool = False) -> Reached | Verdict:
        """Return a connection for this purpose to an address that is not in skip, or why there is none.

        is_probe: addresses that timed out lately are not left out but tried last. Whoever asks so leaves a dead
        destination alone for a time of its own, and wants to know whether it is back.
        """
        wish = _Wish(skip, is_probe, self._loop.time() + self._settings().timeoutconnect * TIMEOUTS_IN_ALL)
        if purpose == b"mx":
            return await self._to_domain(name, wish)
        if purpose == b"route":
            return await self._by_route(name, wish)
        return Verdict(TEMPORARY, b"4.3.5", b"There is no such purpose of a connection.")

    async def _to_domain(self, domain: bytes, wish: _Wish) -> Reached | Verdict:
        search = Search(domain)
        address = mailhosts.literal(domain)
        if address:
            candidates = search.usable([], [Candidate(domain, address)], is_own)
            reached = await self._race(candidates, mailhosts.SMTP_PORT, b"smtp", wish, False)
            return reached or search.verdict()
        groups = mailhosts.hosts_of(domain, await self._resolver.ask(domain, "MX"), random.shuffle)
        if isinstance(groups, Verdict):
            return groups
        for number, group in enumerate(groups, 1):
            answers = await self._addresses([host.name for host in group])
            candidates = search.usable(answers, mailhosts.candidates_of(answers, random.shuffle), is_own)
            if search.is_over:
                break
            is_last = number == len(groups)
            reached = await self._race(candidates, mailhosts.SMTP_PORT, b"smtp", wish, not is_last)
            if reached:
                return reached
        return search.verdict()

    async def _by_route(self, key: bytes, wish: _Wish) -> Reached | Verdict:
        target = mailhosts.target_of(self._settings().smtproutes.get(key.lower(), b""))
        if target is None:  # send has read another smtproutes than we
            return Verdict(TEMPORARY, b"4.3.5", b"smtproutes has no route of that name.")
        if target.path:
            return await self._to_path(target)
        address = mailhosts.literal(target.host) or _address(target.host)
        if address:
            candidates = [Candidate(target.host, address)]
        else:
            answers = await self._addresses([target.host])
            candidates = mailhosts.candidates_of(answers, random.shuffle)
            if not candidates:
                # Differs: permanent in qmail. Such a relay is a mistake of ours: no message bounces for it.
                text = b"I could not find the address of the relay %b." % mailhosts.shown(target.host)
                return Verdict(TEMPORARY, b"4.1.2", text)
        reached = await self._race(candidates, target.port, target.protocol, wish, False)
        text = b"I could not establish a connection to the relay %b." % mailhosts.shown(target.host)
        return reached or Verdict(TEMPORARY, b"4.4.1", text)

    async def _to_path(self, target: Target) -> Reached | Verdict:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        code = sock.connect_ex(target.path)
        if code:
            sock.close()
            reason = errno.errorcode.get(code, str(code)).encode()
            text = b"I could not connect to %b (%b)." % (mailhosts.shown(target.path), reason)
            return Verdict(TEMPORARY, b"4.4.1", text)
        return Reached(sock, target.protocol, b"localhost", target.path, 0, False)

    async def _addresses(self, names: list[bytes]) -> list[tuple[bytes, mailhosts.Answer]]:
        """Return the AAAA and A answers of each name, names in order."""
        questions = []
        for name in names:
            questions += [(name, "AAAA"), (name, "A")]
        answers = await asyncio.gather(*[self._resolver.ask(name, kind) for name, kind in questions])
        return [(name, answer) for (name, _), answer in zip(questions, answers, strict=True)]

    async def _race(
        self, candidates: list[Candidate], port: int, protocol: bytes, wish: _Wish, more: bool
    ) -> Reached | None:
        """Connect to the first candidate that answers; a slow one gets a rival after a while."""
        waiting = self._worth_trying(candidates, port, wish)
        running: _Running = {}
        try:
            while (waiting or running) and self._loop.time() < wish.deadline:
                if waiting and len(running) < MAX_AT_ONCE:
                    candidate = waiting.pop(0)
                    limit = min(self._settings().timeoutconnect, wish.deadline - self._loop.time())
                    running[self._loop.create_task(self._attempt(candidate, port, limit))] = candidate
                done, _ = await asyncio.wait(
                    running, timeout=self._wait_for(waiting, running), return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    candidate = running.pop(task)
                    sock = task.result()
                    if sock:
                        left = more or bool(waiting or running)
                        return Reached(sock, protocol, candidate.host, candidate.shown, port, left)
            return None
        finally:
            await _cancel(list(running))

    def _worth_trying(self, candidates: list[Candidate], port: int, wish: _Wish) -> list[Candidate]:
        now = self._loop.time()
        found: list[Candidate] = []
        dead: list[Candidate] = []
        for each in candidates:
            if each.shown not in wish.skip:
                (dead if self.dead.is_dead(_door(each, port), now) else found).append(each)
        return found + dead if wish.is_probe else found

    def _wait_for(self, waiting: list[Candidate], running: _Running) -> float | None:
        if not waiting or len(running) >= MAX_AT_ONCE:
            return None  # each attempt has a limit of its own
        families = {candidate.address.version for candidate in running.values()}
        return PATIENCE if waiting[0].address.version in families else HEAD_START

    async def _attempt(self, candidate: Candidate, port: int, limit: float) -> socket.socket | None:
        family = socket.AF_INET6 if candidate.address.version == 6 else socket.AF_INET
        door = _door(candidate, port)
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(limit):
                await self._loop.sock_connect(sock, (str(candidate.address), port))
        except TimeoutError:
            self.dead.timed_out(door, self._loop.time())
        except OSError:
            self.dead.answered(door)
        except asyncio.CancelledError:
            if sock:
                sock.close()
            raise
        else:
            self.dead.answered(door)
            return sock
        if sock:
            sock.close()
        return None


def _door(candidate: Candidate, port: int) -> bytes:
    """Return the name under which an address and port are remembered: the address alone for that of all mail hosts."""
    if port == mailhosts.SMTP_PORT:
        return candidate.shown
    return b"%b:%d" % (b"[%b]" % candidate.shown if candidate.address.version == 6 else candidate.shown, port)


def _address(name: bytes) -> Address | None:
    """Return an address written without brackets, IPv6 included, or with a zone: a route may have it so."""
    try:
        return mailhosts.plain(ipaddress.ip_address(name.strip(b"[]").decode("ascii")))
    except ValueError:
        return None


async def _cancel(tasks: list[asyncio.Task[socket.socket | None]]) -> None:
    """End attempts that are not needed any more, and close what they may have reached meanwhile."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            sock = await task
            if sock:
                sock.close()
