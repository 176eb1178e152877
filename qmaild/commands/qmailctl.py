"""qmailctl: look at the server and steer it. Knows the subcommands; the services know what they mean.

Exit status: 0 done, 1 not done (the text says why), 100 wrong call, 111 try again later.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from qmaild.commands import configuration, dumping, tracing
from qmaild.queue.listing import whole_json
from qmaild.runtime import controls, paths, people, running
from qmaild.runtime.control_client import FORBIDDEN, MISSING, Reply, Unreachable, ask

SMTP_SOCKETS = {"public": "qmaild-smtpd.socket", "loopback": "qmaild-smtpd-loopback.socket"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status."""
    options = _parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    if options.standalone:
        paths.use_standalone(os.path.abspath(options.standalone))
    try:
        code: int = options.run(options)
    except Unreachable as error:
        print(f"qmailctl: {error}", file=sys.stderr)
        return 1 if error.reason in (MISSING, FORBIDDEN) else 111
    except running.SystemctlError as error:
        print(f"qmailctl: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    return code


class _Parser(argparse.ArgumentParser):
    """An argument parser whose usage errors exit 100, as everywhere in qmail."""

    def error(self, message: str) -> Any:
        self.print_usage(sys.stderr)
        self.exit(100, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("qmailctl", description="Look at the mail server and steer it.")
    parser.add_argument("--standalone", metavar="DIR", default=os.environ.get("QMAILD_STANDALONE", ""),
                        help="the server is the one of `qmaild standalone DIR`")  # fmt: skip
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    add("status", _status, "Show which services run and what they do.")
    queue = add("queue", _queue_list, "Look at the queue and steer it.")
    _add_queue_commands(queue.add_subparsers(metavar="COMMAND", required=True))
    add("destinations", lambda options: _print(ask("send", "destinations")),
        "Show the destinations that take little mail, and why.")  # fmt: skip
    reload = add("reload", _reload, "Check all control files, then let the services read them.")
    reload.add_argument("service", nargs="?", choices=running.SERVICES, metavar="SERVICE")
    listen = add("listen", _listen, "Serve SMTP on all addresses, or on this host's own only.")
    listen.add_argument("where", choices=tuple(SMTP_SOCKETS))
    config = add("config", lambda options: configuration.show(options.json), "Show all settings and what is wrong in them.")
    config.add_argument("--json", action="store_true")
    trace = add("trace", lambda options: tracing.trace(options.number), "Print one message's life from the journal.")
    trace.add_argument("number", type=_number, metavar="NUMBER")
    add("aliases", _aliases, "Check the aliases file.")
    explain = add("explain", _explain, "Tell what would become of a message to an address. Nothing is delivered.")
    explain.add_argument("-n", dest="form", action="store_const", const="lines", default="full",
                         help="only the instructions, as qmail-local -n prints them")  # fmt: skip
    explain.add_argument("--sender", default="sender@invalid", help="the reverse-path; <> is the null one")
    explain.add_argument("address", metavar="ADDRESS")
    return parser


def _add_queue_commands(queue: Any) -> None:
    def add(name: str, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = queue.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    add("verify", _queue_verify, "Read every message's record, and name the damaged ones.")
    dump = add("dump", dumping.run, "Print what stands in the queue's segments, without the service.")
    dump.add_argument("directory", nargs="?", metavar="DIR", default="", help="the queue; the server's own by default")
    dump.add_argument("--json", action="store_true", help="one JSON object a line")
    dump.add_argument("--content", metavar="NUMBER", type=_number, help="write this message's content and nothing else")
    listing = add("list", _queue_list, "List the messages in the queue.")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.add_argument("--domain", metavar="DOMAIN", type=_domain,
                         help="only those with recipients there that are left")  # fmt: skip
    show = add("show", _queue_show, "Show messages with all their recipients.")
    show.add_argument("--json", action="store_true", help="one JSON object a line")
    show.add_argument("numbers", nargs="+", metavar="NUMBER", type=_number)
    for name, text, where in (
        ("retry", "Try waiting recipients now.", "try what waits for recipients there"),
        ("delete", "Remove messages; no bounce is sent.", "remove the recipients there, and messages with no others left"),
    ):  # fmt: skip
        command = add(name, _queue_steer, text)
        command.set_defaults(verb=name, wrong=command.error)
        command.add_argument("numbers", nargs="*", metavar="NUMBER|all", type=_number_or_all)
        command.add_argument("--domain", metavar="DOMAIN", type=_domain, help=where)


def _domain(text: str) -> str:
    if not text or "@" in text:
        raise argparse.ArgumentTypeError("expected a domain")
    return text


def _number(text: str) -> str:
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise argparse.ArgumentTypeError("expected a message number")
    return text


def _number_or_all(text: str) -> str:
    return text if text == "all" else _number(text)


def _print(reply: Reply) -> int:
    """Print an answer where it belongs and return its code."""
    if reply.text:
        print(reply.text.rstrip("\n"), file=sys.stderr if reply.code else sys.stdout)
    return reply.code


def _status(options: Any) -> int:
    is_failed = False
    for unit in running.services():
        text, word = unit.text, "running" if unit.is_running else unit.active
        if unit.active == "inactive":
            word, text = "resting", "starts when it is needed"
        elif paths.STANDALONE:
            text = ask(unit.name, "status").text
        is_failed = is_failed or unit.active == "failed"
        print(f"{unit.name:8} {word:10} {text}".rstrip())
    if not paths.STANDALONE:
        for where, unit in zip(SMTP_SOCKETS, running.units(SMTP_SOCKETS.values()), strict=True):
            print(f"port 25  {'open' if unit.is_running else 'closed':10} {where}")
    return 1 if is_failed else 0


def _sweep(verb: str, domain: str | None) -> Iterator[tuple[int, str]]:
    """Ask for one slice of the queue after the other: how many messages it was about, the lines about them."""
    after = "0"
    while True:
        reply = ask("queue", "sweep", verb, after, *([domain] if domain else []))
        if reply.code:
            raise Unreachable("queue", reply.text)
        head, _, lines = reply.text.partition("\n")
        after, _, count = head.partition(" ")
        yield int(count), lines
        if after == "0":
            return


def _queue_verify(options: Any) -> int:
    count = damaged = 0
    for read, lines in _sweep("verify", None):
        count += read
        damaged += len(lines.splitlines())
        if lines:
            print(lines.rstrip("\n"))
    print(f"{count} messages read, {damaged} damaged")
    return 1 if damaged else 0


def _queue_list(options: Any) -> int:
    found = 0
    for count, lines in _sweep("json" if options.json else "list", options.domain):
        found += count
        for line in lines.split("\n") if lines else ():
            _print_listed(line)
    if not found and not options.json:
        where = f" for {options.domain}" if options.domain else ""
        print(f"The queue holds no messages{where}.")
    return 0


def _print_listed(line: str) -> None:
    if not line.isdigit():
        print(line)
    elif not (reply := _shown(line, True)).code:  # else it has just ended
        print(reply.text)


def _queue_show(options: Any) -> int:
    return max([_print(_shown(number, options.json)) for number in options.numbers])


def _shown(number: str, is_json: bool) -> Reply:
    """Ask for one slice of a message's recipients after the other."""
    lines: list[str] = []
    following = "0"
    while not lines or following != "0":
        reply = ask("queue", "show", number, following, *(["json"] if is_json else []))
        if reply.code:
            return reply
        following, *more = reply.text.split("\n")
        lines += more
    return Reply(0, whole_json(lines[0], lines[1:]) if is_json else "\n".join(lines))


def _queue_steer(options: Any) -> int:
    if bool(options.numbers) == bool(options.domain):
        options.wrong("expected message numbers, all, or --domain")
    if options.verb == "retry":  # what was asked for is really tried, whatever was learnt of its hosts
        for service, command in (("send", "revive"), ("dial", "tcpok")):
            with contextlib.suppress(Unreachable):  # the queue's answer is what counts
                ask(service, command)
    if not options.domain and (options.verb == "retry" or "all" not in options.numbers):
        return max([_print(ask("queue", options.verb, number)) for number in options.numbers])
    count = sum([count for count, _ in _sweep(options.verb, options.domain)])
    done = {"retry": "due now", "delete": "deleted"}[options.verb]
    where = f" with recipients at {options.domain}" if options.domain else ""
    print(f"{count} messages{where}: {done}")
    return 0


def _reload(options: Any) -> int:
    """All files are checked before any service hears of them: a reload is for all of them or for none."""
    try:
        controls.read()
    except controls.ControlError as error:
        for problem in error.problems:
            print(f"{paths.CONTROL}/{problem}", file=sys.stderr)
        return 1
    names = [options.service] if options.service else [unit.name for unit in running.services() if unit.is_running]
    code = 0
    for name in names:
        try:
            reply = ask(name, "reload")
        except Unreachable as error:
            reply = Reply(1 if error.reason else 111, str(error))
        code = max(code, _print(reply))
    if not code and not options.service:
        print(f"reloaded: {' '.join(names) or 'nothing runs; services read their files when they start'}")
    return code


def _listen(options: Any) -> int:
    if paths.STANDALONE or not running.has_systemd():
        print("qmailctl: listen swaps systemd's sockets, and there are none here; "
              "`qmaild standalone` has --port", file=sys.stderr)  # fmt: skip
        return 1
    chosen = SMTP_SOCKETS[options.where]
    if not running.is_installed(chosen):
        print(f"qmailctl: {chosen} is not installed; it comes with the package qmaild-mta", file=sys.stderr)
        return 1
    other = next(name for name in SMTP_SOCKETS.values() if name != chosen)
    # A socket cannot be opened while its service holds the other one's descriptors (the port would close).
    running.systemctl("stop", "qmaild-smtpd.service")
    has_other = running.is_installed(other)  # the loopback socket comes with qmaild-mta
    if has_other:
        running.systemctl("disable", "--now", other)
    try:
        running.systemctl("enable", "--now", chosen)
    except running.SystemctlError:
        running.systemctl("disable", chosen)
        if has_other:
            running.systemctl("enable", "--now", other)
        raise
    running.systemctl("start", "qmaild-smtpd.service")
    print(f"SMTP is served on port 25 of {'all addresses' if options.where == 'public' else 'this host only'}")
    return 0


def _explain(options: Any) -> int:
    """What keeps a message from delivery is an answer like any other, and stands where the rest of it does."""
    sender = "" if options.sender == "<>" else options.sender
    reply = ask("local", "explain", options.form, sender, options.address)
    if reply.code in (0, 1, 111) and options.form == "full":
        print(reply.text)
        return reply.code
    return _print(reply)


def _aliases(options: Any) -> int:
    problems = people.read_aliases()
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
