"""The programs that stand in dot-qmail lines: forward, condredirect, bouncesaying, except."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qmaild.protocol.frames import PERMANENT, SUCCESS
from tests.unit.processes import ROOT, SECONDS

from .host import Host
from .test_dot_qmail import ANN, home, reverse_path, write

__all__ = ["home"]

CONTENT = b"Subject: x\n\nhi\n"
DELIVERY = {"SENDER": "s@far.test", "NEWSENDER": "n@far.test", "DTLINE": "Delivered-To: ann@test.example\n"}


def run(host: Host, *words: str, variables: dict[str, str] = DELIVERY) -> subprocess.CompletedProcess[bytes]:
    """Run one of them as a delivery does, with the message as a file on standard input."""
    (host.top / "message").write_bytes(CONTENT)
    with open(host.top / "message", "rb") as message:
        return subprocess.run([sys.executable, "-m", "qmaild", *words], stdin=message, capture_output=True, timeout=SECONDS,
                              env={**surroundings(host), **variables})  # fmt: skip


def surroundings(host: Host) -> dict[str, str]:
    if not (host.top / "qmail-queue").exists():
        shutil.copy(ROOT / "build/client", host.top / "qmail-queue")
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "QMAILD_RUN": str(host.top / "run"),
            "QMAILQUEUE": str(host.top / "qmail-queue")}  # fmt: skip


def test_f116_forward_without_newsender_is_a_failure_and_with_it_queues(host: Host) -> None:
    for missing in ("NEWSENDER", "DTLINE"):
        done = run(host, "forward", "a@far.test", variables={k: v for k, v in DELIVERY.items() if k != missing})
        assert done.returncode == 100 and missing.encode() in done.stderr
    done = run(host, "forward", "a@far.test", "b@far.test")
    assert done.returncode == 0 and done.stderr.startswith(b"forward: qp ")
    seen = host.forwarded()
    assert (reverse_path(seen), seen.recipients) == ("n@far.test", ["a@far.test", "b@far.test"])
    assert seen.content.endswith(b"Delivered-To: ann@test.example\r\nSubject: x\r\n\r\nhi\r\n")


def test_f116_forward_in_a_dot_qmail_line_has_the_sender_of_forwards(host: Host, home: Path) -> None:
    set_up = " ".join(f"{name}='{value}'" for name, value in surroundings(host).items())
    write(home, ".qmail", f"|{set_up} {sys.executable} -m qmaild forward a@far.test\n")
    write(home, ".qmail-owner", "")
    delivery = host.deliver(ANN)
    assert delivery.outcome == SUCCESS and delivery.text.startswith(b"forward: qp ")
    seen = host.forwarded()
    assert (reverse_path(seen), seen.recipients) == ("ann-owner@test.example", ["a@far.test"])


@pytest.mark.parametrize(("program", "code"), [("cat >/dev/null; exit 0", 99), ("exit 111", 111), ("exit 1", 0), ("exit 100", 0),
                                               ("kill -9 $$", 111)])  # fmt: skip
def test_f117_condredirect_forwards_and_stops_if_the_program_says_so(host: Host, program: str, code: int) -> None:
    done = run(host, "condredirect", "a@far.test", "sh", "-c", program)
    assert done.returncode == code, done.stderr
    if code == 99:
        seen = host.forwarded()
        assert (reverse_path(seen), seen.recipients) == ("s@far.test", ["a@far.test"])
        assert seen.content.endswith(b"\r\nSubject: x\r\n\r\nhi\r\n")
    assert host.peer.messages.empty()


def test_f117_condredirect_without_a_program_is_a_wrong_call_and_one_that_is_missing_a_no(host: Host) -> None:
    assert run(host, "condredirect", "a@far.test").returncode == 100
    assert run(host, "condredirect", "a@far.test", "/no/such/program").returncode == 0


def test_f118_bouncesaying_fails_with_its_text_if_there_is_no_program_or_it_says_so(host: Host, home: Path) -> None:
    for words in (("no thanks",), ("no thanks", "true")):
        done = run(host, "bouncesaying", *words)
        assert (done.returncode, done.stderr) == (100, b"no thanks\n")
    assert run(host, "bouncesaying", "no thanks", "false").returncode == 0
    assert run(host, "bouncesaying", "no thanks", "sh", "-c", "exit 111").returncode == 111
    assert run(host, "bouncesaying").returncode == 100
    set_up = f"PYTHONPATH={ROOT} {sys.executable}"
    write(home, ".qmail", f"|{set_up} -m qmaild bouncesaying 'no thanks'\n./Maildir/\n")
    assert host.deliver(ANN)[::2] == (PERMANENT, b"no thanks")


def test_f119_except_says_the_opposite(host: Host) -> None:
    assert run(host, "except", "true").returncode == 100
    assert run(host, "except", "false").returncode == 0
    assert run(host, "except", "sh", "-c", "exit 111").returncode == 111
    assert run(host, "except").returncode == 100
