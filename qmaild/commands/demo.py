"""The demonstration of `qmaild standalone`: one message in by SMTP, one by sendmail, both seen in a Maildir.

It is a stranger to the server: it knows what any user knows, the port, the sendmail program and the Maildir.
"""

from __future__ import annotations

import json
import os
import smtplib
import subprocess
import sys
import time
from email.message import EmailMessage
from pathlib import Path

from qmaild.commands.standalone import CLIENT, TREE
from qmaild.runtime.supervisor import python

SENDER, RECIPIENT = "alice@localhost", "bob@localhost"
PATIENCE_SECONDS = 30.0
LOOK_SECONDS = 0.1
NEXT = """
Both messages are in {maildir}. How to send the next one:

  printf 'Subject: hello\\n\\nIt is me.\\n' | QMAILD_RUN={run} {sendmail} -f {sender} {recipient}
  printf 'Subject: hello\\n\\nIt is me.\\n' | curl smtp://127.0.0.1:{port} --mail-from {sender} \\
      --mail-rcpt {recipient} -T -
"""


class NotArrived(Exception):
    """The demonstration failed; the text says at which step."""


def main(arguments: list[str]) -> int:
    """Show both ways in. Exit status: 0 if both messages arrived, 1 if not."""
    directory = Path(arguments[0])
    try:
        by_smtp(directory)
        by_sendmail(directory)
    except NotArrived as error:
        print(f"\nqmaild: the demonstration failed: {error}", file=sys.stderr)
        return 1
    print(NEXT.format(maildir=_maildir(directory), run=directory / "run", sendmail=TREE / CLIENT,
                      port=_port(directory), sender=SENDER, recipient=RECIPIENT), flush=True)  # fmt: skip
    return 0


def by_smtp(directory: Path) -> None:
    """Send one message to the SMTP port and show it arrive."""
    message = _message("A message by SMTP")
    try:
        with smtplib.SMTP("127.0.0.1", _port(directory), timeout=PATIENCE_SECONDS) as server:
            server.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        raise NotArrived(f"SMTP to 127.0.0.1 port {_port(directory)}: {error}") from None
    _show(directory, message)


def by_sendmail(directory: Path) -> None:
    """Give one message to sendmail and show it arrive."""
    message = _message("A message by sendmail")
    client = TREE / CLIENT
    if not client.exists():
        raise NotArrived(f"{client} is not there: `make build` makes it")
    argv = [str(client), "-i", "-t", "-f", SENDER]
    done = subprocess.run(argv, input=message.as_bytes(), capture_output=True)
    if done.returncode:
        raise NotArrived(f"sendmail: exit {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
    _show(directory, message)


def _message(subject: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = SENDER, RECIPIENT, subject
    message["Message-ID"] = f"<{time.time_ns()}.{os.getpid()}@localhost>"
    message.set_content("Accepted when it was on disk, delivered by a process with one user's rights.\n")
    return message


def _port(directory: Path) -> int:
    return int(dict(line.split() for line in (directory / "ports").read_text().splitlines())["smtp"])


def _maildir(directory: Path) -> Path:
    return directory / "home" / RECIPIENT.partition("@")[0] / "Maildir"


def _show(directory: Path, message: EmailMessage) -> None:
    wanted = message["Message-ID"].encode()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for path in (_maildir(directory) / "new").glob("*"):
            content = path.read_bytes()
            if wanted in content:
                print(f"\n=== {message['Subject']}, in {path}\n\n{content.decode(errors='replace')}")
                _trace(directory)
                return
        time.sleep(LOOK_SECONDS)  # a Maildir has no other way to say that something came
    raise NotArrived(f"{message['Subject']!r} is not in {_maildir(directory)} after {PATIENCE_SECONDS:g} s")


def _trace(directory: Path) -> None:
    """Print what the journal has about the message that arrived last."""
    number = _number(directory)
    print(f"=== qmailctl trace {number}\n", flush=True)
    done = subprocess.run(python(TREE, "qmaild", "ctl", "trace", number))
    if done.returncode:
        raise NotArrived(f"qmailctl trace {number}: exit {done.returncode}")


def _number(directory: Path) -> str:
    """Wait for the record of the delivery that was last; return its message's number."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        records = [json.loads(line) for line in (directory / "journal").read_text().splitlines()]
        known = [(record.get("QMAILD_EVENT"), record.get("QMAILD_MESSAGE", "")) for record in records]
        accepted = [number for event, number in known if event == "accepted"]
        if accepted and ("delivery", accepted[-1]) in known:
            return str(accepted[-1])
        time.sleep(LOOK_SECONDS)
    raise NotArrived(f"{directory}/journal has no record of the delivery after {PATIENCE_SECONDS:g} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
