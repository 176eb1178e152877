"""qmailctl: look at the server and steer it. Knows the subcommands; the services know what they mean.

Exit status: 0 done, 1 not done (the text says why), 100 wrong call, 111 try again later.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from qmaild.commands import configuration, tracing
from qmaild.runtime import controls, paths, people, running
from qmaild.runtime.control_client import FORBIDDEN, MISSING, Reply, Unreachable, ask

PAGE = 1000  # messages in one answer of the queue service

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
    reload = add("reload", _reload, "Check all control files, then let the services read them.")
    reload.add_argument("service", nargs="?", choices=running.SERVICES, metavar="SERVICE")
    listen = add("listen", _listen, "Serve SMTP on all addresses, or on this host's own only.")
    listen.add_argument("where", choices=tuple(SMTP_SOCKETS))
    config = add("config", lambda options: configuration.show(options.json), "Show all settings and what is wrong in them.")
    config.add_argument("--json", action="store_true")
    trace = add("trace", lambda options: tracing.trace(options.number), "Print one message's life from the journal.")
    trace.add_argument("number", type=_number, metavar="NUMBER")
    add("aliases", _aliases, "Check the aliases file.")
    return parser


def _add_queue_commands(queue: Any) -> None:
    def add(name: str, run: Callable[[Any], int], text: str, numbers: str = "") -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = queue.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if numbers:
            kind = _number if numbers == "NUMBER" else _number_or_all
            command.add_argument("numbers", nargs="+", metavar=numbers, type=kind)
        return command

    listing = add("list", _queue_list, "List the messages in the queue.")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    show = add("show", _queue_show, "Show messages with all their recipients.", "NUMBER")
    show.add_argument("--json", action="store_true", help="one JSON object a line")
    add("retry", lambda options: _each("retry", options.numbers), "Try waiting recipients now.", "NUMBER|all")
    add("delete", lambda options: _each("delete", options.numbers),
        "Remove messages; no bounce is sent.", "NUMBER|all")  # fmt: skip


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


def _queue_list(options: Any) -> int:
    after, is_empty = "0", True
    form = ["json"] if options.json else []
    while True:
        reply = ask("queue", "list", after, str(PAGE), *form)
        lines = reply.text.splitlines()
        if reply.code or not lines:
            break
        is_empty = False
        print("\n".join(lines))
        after = str(json.loads(lines[-1])["number"]) if options.json else lines[-1].split(None, 1)[0]
    if is_empty and not reply.code and not options.json:
        print("The queue holds no messages.")
    return _print(reply) if reply.code else 0


def _queue_show(options: Any) -> int:
    form = ["json"] if options.json else []
    return max([_print(ask("queue", "show", number, *form)) for number in options.numbers])


def _each(verb: str, numbers: list[str]) -> int:
    return max([_print(ask("queue", verb, number)) for number in numbers])


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


def _aliases(options: Any) -> int:
    problems = people.read_aliases()
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
