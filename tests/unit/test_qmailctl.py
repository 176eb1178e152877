"""qmailctl against a real queue service, real control files and a journal file; systemd's programs by stand-ins."""

from __future__ import annotations

import json
import os
import pwd
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmaild.commands import configuration, qmailctl, tracing
from qmaild.protocol import frames
from qmaild.queue.administration import SLICE_RECIPIENTS
from qmaild.queue.intake import MAX_TRACE
from qmaild.runtime import paths, running
from tests.unit.processes import Running

MANY = 2100  # more than two answers of the queue service hold


class Server:
    """A queue service below a directory, and qmailctl run against it."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str], service: Running) -> None:
        self.directory = directory
        self.service = service
        self._capsys = capsys

    def ctl(self, *words: str) -> tuple[int, str, str]:
        """Run qmailctl. Returns exit status, standard output, standard error."""
        self._capsys.readouterr()
        try:
            code = qmailctl.main(words)
        except SystemExit as end:
            code = int(end.code or 0)
        printed = self._capsys.readouterr()
        return code, printed.out, printed.err

    def accept(self, count: int) -> list[int]:
        """Put messages in the queue and return their numbers."""
        client = self.service.client("intake")
        for tag in range(count):
            client.send(frames.Message(tag, 0, b"uid 1", b"s@x.example", [b"r%d@y.example" % tag], b"\nx\n", 0, 0))
        numbers = []
        for _ in range(count):
            answer, _ = client.receive()
            assert isinstance(answer, frames.Accepted)
            numbers.append(answer.number)
        client.close()
        return sorted(numbers)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Server]:
    monkeypatch.setenv("QMAILD_STANDALONE", str(tmp_path))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "queue"))
    for name in ("STANDALONE", "RUN", "CONTROL", "ALIASES"):
        monkeypatch.setattr(paths, name, getattr(paths, name))  # main() changes them: put back afterwards
    with Running("queue", ["intake", "control"], tmp_path) as service:
        (tmp_path / "control").symlink_to(service.control)
        yield Server(tmp_path, capsys, service)


def test_an_empty_queue_is_said_to_be_empty(server: Server) -> None:
    assert server.ctl("queue", "list") == (0, "The queue holds no messages.\n", "")
    assert server.ctl("queue", "list", "--json") == (0, "", "")


def test_a_message_is_listed_shown_retried_and_deleted(server: Server) -> None:
    (number,) = server.accept(1)
    code, out, _ = server.ctl("queue", "list")
    assert code == 0
    assert out.startswith(f"{number}  ")
    assert "<s@x.example>  r0@y.example" in out
    code, out, _ = server.ctl("queue", "show", str(number))
    assert code == 0
    assert "reverse-path <s@x.example>" in out
    code, out, _ = server.ctl("queue", "show", "--json", str(number))
    assert json.loads(out)["recipients"][0]["address"] == "r0@y.example"
    assert server.ctl("queue", "retry", str(number))[0] == 0
    assert server.ctl("queue", "retry", "all")[0] == 0
    assert server.ctl("queue", "delete", str(number))[0] == 0
    assert server.ctl("queue", "list")[1] == "The queue holds no messages.\n"


def test_a_long_queue_is_listed_whole_and_once(server: Server) -> None:
    numbers = server.accept(MANY)
    _, out, _ = server.ctl("queue", "list")
    assert [int(line.split()[0]) for line in out.splitlines()] == numbers
    _, out, _ = server.ctl("queue", "list", "--json")
    assert [json.loads(line)["number"] for line in out.splitlines()] == numbers


@pytest.mark.parametrize("count", [2 * SLICE_RECIPIENTS, 2 * SLICE_RECIPIENTS + 1])
def test_a_message_with_many_recipients_is_shown_whole(server: Server, count: int) -> None:
    recipients = [b"r%d@y.example" % index for index in range(count)]
    client = server.service.client("intake")
    client.send(frames.Message(1, 0, b"uid 1", b"s@x.example", recipients, b"\nx\n", 0, 0))
    number = client.receive()[0].number
    server.accept(1)
    _, out, _ = server.ctl("queue", "show", str(number))
    assert [line.split() for line in out.splitlines()[2:]] == [["new", each.decode()] for each in recipients]
    _, out, _ = server.ctl("queue", "show", "--json", str(number))
    assert [each["address"].encode() for each in json.loads(out)["recipients"]] == recipients
    _, out, _ = server.ctl("queue", "list", "--json")
    assert [len(json.loads(line)["recipients"]) for line in out.splitlines()] == [count, 1]


def test_a_domain_is_listed_retried_and_deleted(server: Server) -> None:
    (number,) = server.accept(1)
    code, out, _ = server.ctl("queue", "list", "--domain", "Y.example")
    assert code == 0 and out.startswith(f"{number}  ")
    _, out, _ = server.ctl("queue", "list", "--json", "--domain", "y.example")
    assert json.loads(out)["number"] == number
    assert server.ctl("queue", "list", "--domain", "z.example") == (0, "The queue holds no messages for z.example.\n", "")
    assert server.ctl("queue", "retry", "--domain", "y.example") == (
        0, "1 messages with recipients at y.example: due now\n", "")  # fmt: skip
    assert server.ctl("queue", "delete", "--domain", "z.example")[1].startswith("0 messages")
    assert server.ctl("queue", "delete", "--domain", "y.example") == (
        0, "1 messages with recipients at y.example: deleted\n", "")  # fmt: skip
    assert server.ctl("queue", "list")[1] == "The queue holds no messages.\n"


def test_a_retry_lets_go_of_what_was_learnt_about_hosts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    (number,) = server.accept(1)
    asked: list[tuple[str, ...]] = []
    ask = qmailctl.ask

    def listening(service: str, *words: str) -> Any:
        asked.append((service, *words))
        return ask(service, *words)  # send and dial are not there: that keeps nothing from being due

    monkeypatch.setattr(qmailctl, "ask", listening)
    assert server.ctl("queue", "retry", str(number))[0] == 0
    assert asked == [("send", "revive"), ("dial", "tcpok"), ("queue", "retry", str(number))]


def test_everything_is_deleted(server: Server) -> None:
    server.accept(MANY)
    assert server.ctl("queue", "delete", "all") == (0, f"{MANY} messages: deleted\n", "")
    assert server.ctl("queue", "list")[1] == "The queue holds no messages.\n"


def test_a_sound_queue_is_verified(server: Server) -> None:
    server.accept(MANY)
    assert server.ctl("queue", "verify") == (0, f"{MANY} messages read, 0 damaged\n", "")
    code, out, _ = server.ctl("queue", "dump")  # beside the running service
    assert code == 0 and out.endswith(f"{MANY} messages live; 0 places are damaged\n")


def test_damaged_records_are_named_by_the_service_and_by_the_dump_and_the_rest_is_served(server: Server) -> None:
    numbers = server.accept(49) + server.accept(1)  # the last is a batch of its own, and says that those before were durable
    lines = [json.loads(line) for line in server.ctl("queue", "dump", "--json")[1].splitlines()]
    places = {line["number"]: line for line in lines if line.get("kind") == "message"}
    assert sorted(places) == numbers
    hurt = [numbers[7], numbers[40]]
    for number in hurt:
        place = places[number]
        with open(server.directory / "queue" / "segments" / place["segment"], "r+b") as file:
            file.seek(place["offset"] + place["length"] - 12)
            file.write(b"?")
    code, out, _ = server.ctl("queue", "verify")
    assert code == 1
    assert out.splitlines() == [
        *[f"message {number}: segment {places[number]['segment']} at {places[number]['offset']}: "
          f"the record of message {number} is damaged" for number in hurt],
        "50 messages read, 2 damaged",
    ]  # fmt: skip
    code, out, _ = server.ctl("queue", "dump")
    assert code == 1 and out.count("DAMAGED") == 2
    for number in hurt:
        assert f"at {places[number]['offset']}, {places[number]['length']} bytes" in out
    listed = server.ctl("queue", "list")[1].splitlines()
    assert [int(line.split()[0]) for line in listed] == [each for each in numbers if each not in hurt]


def test_a_large_message_whose_file_was_cut_is_named(server: Server) -> None:
    client = server.service.client("intake")
    client.send(frames.Open(1))
    for _ in range(10):
        assert client.piece(1, b"large\n" * 9000) == frames.Taken(1, 54_000)
    client.send(frames.End(1, 0, b"uid 1", b"s@x.example", [b"r@y.example"], b"", 0, 0))
    answer, _ = client.receive()
    assert isinstance(answer, frames.Accepted)
    (path,) = (server.directory / "queue" / "large").iterdir()
    assert server.ctl("queue", "verify")[0] == 0
    os.truncate(path, 1000)
    code, out, _ = server.ctl("queue", "verify")
    assert code == 1 and f"message {answer.number}: large/{path.name} at 1000: expected 540000 bytes" in out


@pytest.mark.parametrize("verb", ["show", "retry", "delete"])
def test_a_message_that_is_not_there_is_an_error(server: Server, verb: str) -> None:
    code, out, err = server.ctl("queue", verb, "999")
    assert (code, out) == (1, "")
    assert "999" in err


@pytest.mark.parametrize(
    "words",
    [[], ["nonsense"], ["queue", "show"], ["queue", "show", "x"], ["queue", "show", "all"], ["queue", "delete", "-1"],
     ["queue", "retry"], ["queue", "delete", "7", "--domain", "a.test"], ["queue", "list", "--domain", "u@a.test"],
     ["queue", "retry", "--domain", ""],
     ["trace"], ["trace", "1;2"], ["reload", "nobody"], ["listen"], ["listen", "everywhere"]],
)  # fmt: skip
def test_a_wrong_call_exits_100(server: Server, words: list[str]) -> None:
    code, out, err = server.ctl(*words)
    assert (code, out) == (100, "")
    assert "usage: qmailctl" in err


def test_status_tells_running_from_resting(server: Server) -> None:
    server.accept(1)
    code, out, _ = server.ctl("status")
    states = {line.split()[0]: line.split(None, 2)[1:] for line in out.splitlines()}
    assert code == 0
    assert states["queue"][0] == "running"
    assert "1 messages" in states["queue"][1]
    assert states["send"][0] == "resting"
    assert set(states) == set(running.SERVICES)


def test_a_reload_with_an_error_names_file_and_line_and_changes_nothing(server: Server) -> None:
    (server.directory / "control" / "databytes").write_text("ten\n")
    (server.directory / "control" / "virtualdomains").write_text("# a comment\nno colon\n")
    code, out, err = server.ctl("reload")
    control = server.directory / "control"
    assert (code, out) == (1, "")
    assert f"{control}/databytes:1: expected a whole number\n" in err
    assert f"{control}/virtualdomains:2: expected key:value\n" in err


@pytest.mark.parametrize("words", [["reload"], ["reload", "queue"]])
def test_a_reload_reaches_the_running_services(server: Server, words: list[str]) -> None:
    """The new limit holds for the next message: the service has read the file."""
    (server.directory / "control" / "databytes").write_text("100\n")
    code, _, err = server.ctl(*words)
    assert (code, err) == (0, "")
    client = server.service.client("intake")
    client.send(frames.Open(1))
    answer = client.piece(1, bytes(101 + MAX_TRACE))
    client.close()
    assert isinstance(answer, frames.Refused)
    assert answer.outcome == frames.PERMANENT


def test_a_service_whose_socket_is_missing_is_told(server: Server) -> None:
    (server.directory / "run" / "control" / "queue.sock").unlink()
    code, _, err = server.ctl("queue", "list")
    assert code == 1
    assert "nothing listens at" in err


def test_listen_is_refused_without_systemd(server: Server) -> None:
    code, _, err = server.ctl("listen", "public")
    assert code == 1
    assert "--port" in err


# --- systemd's side: what is asked of systemctl and journalctl


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """systemctl and journalctl that write down their arguments; a file ANSWER is what they print, FAIL makes them fail."""
    monkeypatch.setattr(paths, "STANDALONE", "")
    monkeypatch.delenv("QMAILD_STANDALONE", raising=False)
    for name in ("systemctl", "journalctl"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\ncat {tmp_path}/ANSWER 2>/dev/null\n'
            f'if grep -qxF -- "$*" {tmp_path}/FAIL 2>/dev/null; then echo "it failed" >&2; exit 1; fi\n'
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(running, "has_systemd", lambda: True)
    return tmp_path


def asked(directory: Path) -> list[str]:
    return (directory / "asked").read_text().splitlines()


def test_listen_stops_the_service_before_it_swaps_the_sockets(stand_in: Path) -> None:
    (stand_in / "ANSWER").write_text("loaded\n")
    assert qmailctl.main(["listen", "public"]) == 0
    assert [line for line in asked(stand_in) if not line.startswith("show ")] == [
        "stop qmaild-smtpd.service",
        "disable --now qmaild-smtpd-loopback.socket",
        "enable --now qmaild-smtpd.socket",
        "start qmaild-smtpd.service",
    ]


def test_listen_puts_the_old_socket_back_when_the_new_one_fails(
    stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stand_in / "ANSWER").write_text("loaded\n")
    (stand_in / "FAIL").write_text("enable --now qmaild-smtpd-loopback.socket\n")
    assert qmailctl.main(["listen", "loopback"]) == 1
    assert asked(stand_in)[-2:] == ["disable qmaild-smtpd-loopback.socket", "enable --now qmaild-smtpd.socket"]
    assert "it failed" in capsys.readouterr().err


def test_listen_changes_nothing_for_a_socket_that_is_not_installed(
    stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stand_in / "ANSWER").write_text("not-found\n")
    assert qmailctl.main(["listen", "loopback"]) == 1
    assert all(line.startswith("show ") for line in asked(stand_in))
    assert "qmaild-mta" in capsys.readouterr().err


def test_a_failed_service_is_seen_in_systemctls_answer(stand_in: Path) -> None:
    def block(name: str, state: str, text: str) -> str:
        return f"Id={name}\nActiveState={state}\nStatusText={text}\n"

    states = {"queue": ("failed", "cannot serve: another owner"), "send": ("active", "3 messages"), "dial": ("inactive", "")}
    services = [block(name, *states.get(name, ("active", ""))) for name in running.SERVICES]
    (stand_in / "ANSWER").write_text("\n".join(services))
    assert [unit.name for unit in running.services() if unit.active == "failed"] == ["queue"]
    units = {unit.name: unit for unit in running.services()}
    assert units["queue"].text == "cannot serve: another owner"
    assert not units["dial"].is_running


def test_a_trace_asks_for_records_of_our_accounts_only(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracing, "our_uids", lambda: [901, 902])
    (stand_in / "ANSWER").write_text(
        json.dumps({"__REALTIME_TIMESTAMP": "1000000", "SYSLOG_IDENTIFIER": "qmaild-queue", "MESSAGE": [104, 105, 27]}) + "\n"
    )
    assert qmailctl.main(["trace", "7"]) == 0
    assert asked(stand_in) == ["--output=json --all --no-pager --quiet QMAILD_MESSAGE=7 _UID=901 _UID=902"]
    assert capsys.readouterr().out.rstrip().endswith("queue   hi?")


def test_a_trace_without_our_accounts_says_so(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracing, "our_uids", lambda: [])
    assert qmailctl.main(["trace", "7"]) == 111
    assert "accounts" in capsys.readouterr().err


# --- trace and config on files


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standalone tree without services."""
    for name in ("STANDALONE", "RUN", "CONTROL", "ALIASES"):
        monkeypatch.setattr(paths, name, getattr(paths, name))
    (tmp_path / "control").mkdir()
    return tmp_path


def record(number: int, at: int, text: str, **more: str) -> str:
    return json.dumps({"QMAILD_MESSAGE": str(number), "__REALTIME_TIMESTAMP": str(at), "MESSAGE": text,
                       "SYSLOG_IDENTIFIER": "qmaild-send", **more}) + "\n"  # fmt: skip


def test_a_trace_is_in_order_and_follows_bounces(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "journal").write_text(
        record(8, 4_000_000, "the bounce") + record(7, 3_500_000, "bounced", QMAILD_BOUNCE="8")
        + record(7, 1_000_000, "accepted") + "cut short {\n" + record(17, 1, "another") + record(7, 2_250_000, "tried")
    )  # fmt: skip
    assert qmailctl.main(["--standalone", str(tree), "trace", "7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2:] for line in lines[:3]] == [
        ["+0.000", "send", "accepted"], ["+1.250", "send", "tried"], ["+2.500", "send", "bounced"],
    ]  # fmt: skip
    assert lines[3:5] == ["", "bounce 8"]
    assert lines[5].endswith("the bounce")


def test_a_trace_follows_forwards_of_this_host_only(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = {"QMAILD_OUTCOME": "success", "QMAILD_TEXT": "did 0+1+0 qp 6"}
    (tree / "journal").write_text(
        record(5, 1, "forwarded", QMAILD_CHANNEL="local", **done) + record(6, 2, "the forward")
        + record(6, 3, "sent on", QMAILD_CHANNEL="remote", **{**done, "QMAILD_TEXT": "ok 1 qp 7"}) + record(7, 4, "not it")
    )  # fmt: skip
    assert qmailctl.main(["--standalone", str(tree), "trace", "5"]) == 0
    out = capsys.readouterr().out
    assert "\n\nforward 6\n" in out
    assert "not it" not in out


def test_bounces_that_name_each_other_end(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "journal").write_text(record(1, 1, "a", QMAILD_BOUNCE="2") + record(2, 2, "b", QMAILD_BOUNCE="1"))
    assert qmailctl.main(["--standalone", str(tree), "trace", "1"]) == 0
    assert capsys.readouterr().out.count("bounce") == 1


def test_an_unknown_message_has_no_trace(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert qmailctl.main(["--standalone", str(tree), "trace", "5"]) == 1
    assert "no records of message 5" in capsys.readouterr().err


def test_config_shows_values_and_where_they_are_from(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "control" / "me").write_text("host.example\n")
    (tree / "control" / "virtualdomains").write_text("v.example:joe\n.w.example:ann\n")
    assert qmailctl.main(["--standalone", str(tree), "config"]) == 0
    lines = {line.split()[0]: line.split(None, 2)[1:] for line in capsys.readouterr().out.splitlines()}
    assert lines["me"] == ["file", "host.example"]
    assert lines["locals"] == ["default", "host.example localhost"]
    assert lines["virtualdomains"] == ["file", ".w.example:ann v.example:joe"]
    assert lines["rcpthosts"] == ["default", "(none)"]


def test_config_names_errors_and_unknown_files(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "control" / "relayclients").write_text("10.0.0.0/8\n10.0.0.256\n")
    (tree / "control" / "rcpthost").write_text("x\n")
    assert qmailctl.main(["--standalone", str(tree), "config"]) == 1
    err = capsys.readouterr().err
    assert f"{tree}/control/relayclients:2: expected an address or network" in err
    assert f"{tree}/control/rcpthost: warning" in err


def test_config_as_json_has_it_all(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "control" / "databytes").write_text("x\n")
    assert qmailctl.main(["--standalone", str(tree), "config", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["databytes"]["from"] == "error"
    assert found["settings"]["relayclients"] == {"value": ["127.0.0.0/8", "::1/128"], "from": "default"}
    assert found["errors"] == [
        {"file": f"{tree}/control/databytes", "line": 1, "expected": "a whole number"},
    ]  # fmt: skip


def test_homes_that_deliveries_may_not_write_are_found() -> None:
    def account(name: str, uid: int, home: str) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", uid, uid, "", home, "/bin/sh"))

    accounts = [account("root", 0, "/root"), account("ann", 1000, "/home/ann"), account("bob", 1001, "/srv/bob"),
                account("nobody", 65534, "/nonexistent"), account("eve", 1002, "/homeless")]  # fmt: skip
    assert configuration.outside(accounts) == [("bob", "/srv/bob"), ("eve", "/homeless")]


def test_aliases_are_checked(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "aliases").write_text("root: joe\n")
    assert qmailctl.main(["--standalone", str(tree), "aliases"]) == 0
    (tree / "aliases").write_text("\n\nbroken\n")
    assert qmailctl.main(["--standalone", str(tree), "aliases"]) == 1
    assert f"{tree}/aliases:3: expected" in capsys.readouterr().err


def test_no_answer_of_a_service_steers_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setattr(paths, "control_socket_of", lambda service: str(tmp_path / "control"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control"))
        listener.listen()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(frames.encode(frames.Answer(1, 0, b"gone\x1b[2J\xc2\x9b7m\r\nnext")))
                sock.recv(1000)

        server = threading.Thread(target=serve)
        server.start()
        assert qmailctl.main(["queue", "delete", "7"]) == 0
        server.join()
    assert capsys.readouterr().out == "gone?[2J?7m?\nnext\n"
