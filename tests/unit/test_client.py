"""sendmail, qmail-inject, qmail-queue, mailq and newaliases against the real services, and what they do without them."""

from __future__ import annotations

import os
import resource
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmaild.protocol import frames, netstring
from qmaild.runtime.injection import MAX_ACTIVE, MAX_CONNECTIONS
from tests.unit.peers import Peer, knowing
from tests.unit.processes import ROOT, Running

PROGRAMS = ("sendmail", "mailq", "newaliases", "qmail-inject", "qmail-queue")
SECONDS = 20
CPU_SECONDS = 0.002


def build(directory: Path, *flags: str) -> Path:
    """Compile the client with these flags and give it all its names."""
    directory.mkdir()
    subprocess.run(
        ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-std=c11", *flags, "-o", directory / "client",
         ROOT / "native" / "client.c"], check=True)  # fmt: skip
    for name in PROGRAMS:
        (directory / name).symlink_to("client")
    return directory


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client with every check that the compiler can build in."""
    return build(
        tmp_path_factory.mktemp("client") / "checked", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    )


class House:
    """A queue and its door, and the programs that use them."""

    def __init__(self, programs: Path, directory: Path) -> None:
        self.programs = programs
        self.directory = directory
        self.environment = {"QMAILD_RUN": str(directory / "run"), "USER": "joe", "PATH": os.environ["PATH"]}

    def run(self, name: str, *arguments: str, message: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self.programs / name, *arguments], input=message, capture_output=True, timeout=SECONDS, check=False,
            env={**self.environment, **variables})  # fmt: skip

    def qmail_queue(self, message: bytes, envelope: bytes) -> int:
        """Run qmail-queue as its callers do: two pipes, the second read from descriptor 1."""
        read, write = os.pipe()
        with subprocess.Popen(
            [self.programs / "qmail-queue"], stdin=subprocess.PIPE, stdout=read, stderr=subprocess.PIPE,
            env=self.environment) as process:  # fmt: skip
            os.close(read)
            assert process.stdin and process.stderr
            process.stdin.write(message)
            process.stdin.close()
            with os.fdopen(write, "wb") as pipe:
                pipe.write(envelope)
            assert process.stderr.read() == b""
            return process.wait(SECONDS)

    def listed(self) -> list[str]:
        return self.run("mailq").stdout.decode().splitlines()


@pytest.fixture(scope="module")
def house(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory = tmp_path_factory.mktemp("house")
    (directory / "aliases").write_text("root: joe\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QMAILD_STANDALONE", str(directory))
        patch.setenv("QMAILD_ALIASES", str(directory / "aliases"))
        patch.setenv("STATE_DIRECTORY", str(directory / "queue"))
        with Running("queue", ["intake", "control"], directory), Running("inject", ["inject"], directory, databytes="2000000"):
            yield House(programs, directory)


def test_sendmail_queues_a_message(house: House) -> None:
    done = house.run("sendmail", "-f", "a@b.example", "r@plain.example", message=b"Subject: x\n\nbody\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert any("<a@b.example>  r@plain.example" in line for line in house.listed())


def test_a_lone_dot_does_not_end_the_message(house: House) -> None:
    done = house.run("qmail-inject", "-n", "-a", "r@x.example", message=b"To: x@x.x\n\none\n.\ntwo\n")
    assert done.stdout.endswith(b"\n\none\n.\ntwo\n")


def test_qmail_inject_n_prints_what_would_go(house: House) -> None:
    done = house.run("qmail-inject", "-n", message=b"To: a b\r\nBcc: c\r\n\r\nbody without end", NAME="Joe J.")
    text = done.stdout.decode()
    assert done.returncode == 0
    assert text.startswith("Return-Path: <joe@host.test>\nDate: ")
    assert '\nFrom: "Joe J." <joe@host.test>\nTo: a@host.test, b@host.test\n\nbody without end\n' in text


def test_a_large_message_streams_through(house: House) -> None:
    body = b"0123456789abcde\n" * 100_000
    done = house.run("sendmail", "-t", message=b"To: large@x.example\n\n" + body)
    assert done.returncode == 0
    (line,) = [line for line in house.listed() if "large@x.example" in line]
    assert int(line.split()[6]) > len(body)


def test_a_large_message_is_printed_whole(house: House) -> None:
    body = b"0123456789abcde\n" * 100_000
    done = house.run("qmail-inject", "-n", message=b"To: large@x.example\n\n" + body)
    assert done.stdout.endswith(b"\n\n" + body)


@pytest.mark.parametrize(("program", "code"), [("sendmail", 65), ("qmail-inject", 100)])
def test_a_message_over_databytes_is_refused_for_good(house: House, program: str, code: int) -> None:
    done = house.run(program, "toolarge@x.example", message=b"\n" + b"x" * 2_000_001)
    assert done.returncode == code
    assert b"larger than 2000000 bytes" in done.stderr
    assert not any("toolarge@x.example" in line for line in house.listed())


@pytest.mark.parametrize(
    ("program", "arguments", "message", "code"),
    [
        ("sendmail", ["-bd"], b"", 64),
        ("sendmail", [], b"", 64),
        ("sendmail", ["-t"], b"Subject: nobody\n\n", 65),
        ("sendmail", ["-t"], b"From: (x\nTo: a\n\n", 65),
        ("sendmail", ["-q"], b"", 0),
        ("qmail-inject", ["-Z"], b"", 100),
        ("qmail-inject", [], b"To: (x\n\n", 100),
        ("qmail-inject", [], b"Subject: nobody\n\n", 0),
        ("newaliases", [], b"", 0),
        ("sendmail", ["-bi"], b"", 0),
    ],
)
def test_exit_codes(house: House, program: str, arguments: list[str], message: bytes, code: int) -> None:
    done = house.run(program, *arguments, message=message)
    assert done.returncode == code
    assert bool(done.stderr) == bool(code)


@pytest.mark.parametrize(
    ("envelope", "code"),
    [
        (b"Fs@x\0Tqq@x.example\0\0", 0), (b"F\0\0", 0), (b"Fs@x\0Tr@x\0", 54), (b"", 54), (b"Xs\0", 91), (b"Fs\0Xr\0\0", 91),
        (b"F" + b"s" * 1003 + b"\0Tr\0\0", 11),
    ],
)  # fmt: skip
def test_qmail_queue_codes(house: House, envelope: bytes, code: int) -> None:
    assert house.qmail_queue(b"Subject: x\n\nno end", envelope) == code


def test_qmail_queue_takes_a_message_larger_than_any_buffer(house: House) -> None:
    assert house.qmail_queue(b"A: b\n\n" + b"x" * 1_500_000, b"Fs@x\0Tqqlarge@x.example\0\0") == 0
    assert any("qqlarge@x.example" in line for line in house.listed())


def test_qmail_queue_refuses_a_loop(house: House) -> None:
    assert house.qmail_queue(b"Received: x\n" * 101 + b"\n", b"F\0Tr@x\0\0") == 31


def test_bs_speaks_smtp(house: House) -> None:
    """A dialogue: each reply is there before the next command is written."""
    with subprocess.Popen([house.programs / "sendmail", "-bs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=house.environment) as process:  # fmt: skip
        assert process.stdin and process.stdout

        def say(text: bytes) -> bytes:
            assert process.stdin and process.stdout
            process.stdin.write(text)
            process.stdin.flush()
            while (line := process.stdout.readline())[3:4] == b"-":
                pass
            return line[:3]

        assert process.stdout.readline().startswith(b"220 ")
        assert say(b"EHLO me\r\n") == b"250"
        for number in range(2):
            assert say(b"MAIL FROM:<bs@x.example>\n") == b"250"  # LF alone: written by hand
            assert say(b"RCPT TO:<bs%d@elsewhere.example>\r\n" % number) == b"250"
            assert say(b"DATA\r\n") == b"354"
            assert say(b"Subject: x\r\n\r\n..dot\r\n.\r\n") == b"250"
        assert say(b"VRFY somebody\r\n") == b"252"
        assert say(b"RCPT TO:<early@x.example>\r\n") == b"503"
        assert say(b"QUIT\r\n") == b"221"
        assert process.wait(SECONDS) == 0
    listed = house.listed()
    assert all(any(f"bs{number}@elsewhere.example" in line for line in listed) for number in range(2))


def test_bs_that_ends_in_the_message_sends_nothing(house: House) -> None:
    done = house.run("sendmail", "-bs", message=b"MAIL FROM:<>\r\nRCPT TO:<cut@x.example>\r\nDATA\r\nhalf a li")
    assert done.returncode == 75
    assert not any("cut@x.example" in line for line in house.listed())


def test_newaliases_tells_file_and_line(house: House) -> None:
    aliases = house.directory / "aliases"
    aliases.write_text("root: joe\nno colon\n")
    done = house.run("newaliases")
    aliases.write_text("root: joe\n")
    assert done.returncode == 65
    assert f"{aliases}:2: expected".encode() in done.stderr


def test_a_list_file_is_read_where_the_caller_stands(house: House) -> None:
    (house.directory / "lists").write_text("list@x.example\n")
    done = house.run("qmail-inject", "-n", message=b"To: list@x.example\n\n", QMAILMFTFILE=str(house.directory / "lists"))
    assert b"\nMail-Followup-To: list@x.example\n" in done.stdout
    assert house.run("qmail-inject", "-n", message=b"\n", QMAILMFTFILE="/nonexistent").returncode == 0
    assert house.run("qmail-inject", "-n", message=b"\n", QMAILMFTFILE="/").returncode == 111


def test_arguments_that_are_too_long_are_refused_with_a_hint(house: House) -> None:
    done = house.run("sendmail", *(["x" * 100_000] * 11))
    assert done.returncode == 64
    assert b"-t" in done.stderr


def test_thousands_of_recipients_fit(house: House) -> None:
    done = house.run("sendmail", "-f", "many@x.example", *(f"r{n}@x.example" for n in range(10_000)), message=b"\n")
    assert (done.returncode, done.stderr) == (0, b"")
    assert any("<many@x.example>" in line and "and 9997 more" in line for line in house.listed())


def test_closed_descriptors_do_no_harm(house: House) -> None:
    command = f'exec "{house.programs}/sendmail" closed@x.example <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", command], env=house.environment, timeout=SECONDS, check=False)
    assert done.returncode == 0
    assert any("closed@x.example" in line for line in house.listed())
    command = f'exec "{house.programs}/qmail-queue" <&-'
    assert subprocess.run(["sh", "-c", command], env=house.environment, timeout=SECONDS, check=False).returncode == 54


def test_input_that_cannot_be_read_sends_nothing(house: House) -> None:
    with open("/proc/self/mem", "rb") as unreadable:  # reading at offset 0 is an error
        done = subprocess.run([house.programs / "sendmail", "broken@x.example"], stdin=unreadable, env=house.environment,
                              capture_output=True, timeout=SECONDS, check=False)  # fmt: skip
    assert done.returncode == 75
    assert not any("broken@x.example" in line for line in house.listed())


def test_a_caller_that_dies_in_the_middle_sends_nothing(house: House) -> None:
    with subprocess.Popen([house.programs / "sendmail", "killed@x.example"], stdin=subprocess.PIPE,
                          env=house.environment) as process:  # fmt: skip
        assert process.stdin
        process.stdin.write(b"To: x\n\n" + b"x" * 1_000_000)  # more than is held: the service has a part of it
        process.stdin.flush()
        process.kill()
        process.wait(SECONDS)
    assert house.run("sendmail", "afterwards@x.example", message=b"\n").returncode == 0
    listed = house.listed()
    assert any("afterwards@x.example" in line for line in listed)
    assert not any("killed@x.example" in line for line in listed)


def test_more_callers_than_turns_are_all_served(house: House) -> None:
    callers = [
        subprocess.Popen([house.programs / "sendmail", f"turn{n}@x.example"], stdin=subprocess.PIPE, env=house.environment)
        for n in range(40)
    ]
    for caller in callers:  # all are connected before the first has its end
        assert caller.stdin
        caller.stdin.write(b"\n" + b"x" * 300_000)
        caller.stdin.flush()
    for caller in callers:
        caller.communicate(timeout=SECONDS)
    assert [caller.returncode for caller in callers] == [0] * 40
    listed = house.listed()
    assert all(any(f"turn{n}@x.example" in line for line in listed) for n in range(40))


def connected(house: House) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(house.directory / "run" / "inject.sock"))  # waits while the backlog is full
    sock.settimeout(SECONDS)
    return sock


def test_silent_clients_hold_up_their_own_uid_only_until_they_go(house: House) -> None:
    silent = [connected(house) for _ in range(MAX_ACTIVE)]
    with subprocess.Popen([house.programs / "sendmail", "patient@x.example"], stdin=subprocess.DEVNULL,
                          env=house.environment) as waiting, connected(house) as next_one:  # fmt: skip
        hello = frames.encode(frames.Hello(frames.VERSION, b"inject"))
        assert next_one.recv(100) == hello, "who waits for a turn knows that somebody serves"
        silent.pop().close()
        assert waiting.wait(SECONDS) == 0
    for sock in silent:
        sock.close()
    assert house.run("sendmail", "afterwards@x.example", message=b"\n").returncode == 0


def test_one_uid_cannot_take_all_connections(house: House) -> None:
    flood = [connected(house) for _ in range(MAX_CONNECTIONS)]
    with connected(house) as refused:
        assert refused.recv(1) == b""
    for sock in flood:
        sock.close()
    assert house.run("sendmail", "afterwards@x.example", message=b"\n").returncode == 0


@pytest.mark.parametrize("sent", [b"nonsense", b"5:x1:1,,", frames.encode(frames.Exit(1, 1)),
                                  frames.encode(frames.Hello(frames.VERSION, b"x")) + frames.encode(frames.EndOfInput(1)),
                                  frames.encode(frames.Hello(frames.VERSION, b"x")) + b"2000000:",
                                  frames.encode(frames.Hello(frames.VERSION, b"x")) + b"3000000:"])  # fmt: skip
def test_a_client_out_of_step_costs_only_itself(house: House, sent: bytes) -> None:
    with connected(house) as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass
    assert house.run("sendmail", "afterwards@x.example", message=b"\n").returncode == 0


def test_the_client_takes_less_than_two_milliseconds_of_cpu(house: House, tmp_path: Path) -> None:
    sendmail = build(tmp_path / "plain") / "sendmail"
    times = []
    for _ in range(25):
        read, write = os.pipe()
        os.write(write, b"Subject: x\n\nbody\n")
        os.close(write)
        pid = os.posix_spawn(
            sendmail, ["sendmail", "fast@x.example"], house.environment, file_actions=[(os.POSIX_SPAWN_DUP2, read, 0)]
        )
        os.close(read)
        _, status, used = os.wait4(pid, 0)
        assert status == 0
        times.append(used.ru_utime + used.ru_stime)
    assert statistics.median(times) < CPU_SECONDS


# --- a queue that refuses, or is lost


class Queue:
    """An intake that answers every message with this frame (its tag put in), or closes as soon as it has said Hello."""

    def __init__(self, directory: Path, answer: frames.Refused | None) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / "run" / "intake.sock"))
        self._listener.listen()
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        with sock:
            sock.settimeout(SECONDS)
            reader = netstring.Reader(frames.MAX_FRAME)
            sock.sendall(frames.encode(frames.Hello(frames.VERSION, b"queue")))
            while self._answer and (data := sock.recv(65536)):
                for payload in reader.feed(data):
                    frame = frames.decode(payload)
                    if isinstance(frame, frames.Message):
                        sock.sendall(frames.encode(self._answer._replace(tag=frame.tag)))

    def __enter__(self) -> Queue:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._thread.join(SECONDS)
        self._listener.close()


@pytest.mark.parametrize(
    ("answer", "sendmail", "inject", "queue"),
    [
        (frames.Refused(0, frames.TEMPORARY, b"4.3.1", b"no room"), 75, 111, 53),
        (frames.Refused(0, frames.TEMPORARY, b"4.3.0", b"trouble"), 75, 111, 71),
        (frames.Refused(0, frames.PERMANENT, b"5.3.4", b"too large"), 69, 100, 31),
        (None, 75, 111, 71),
    ],
)
def test_what_the_queue_refuses_has_its_exit_code(
    programs: Path, tmp_path: Path, answer: frames.Refused | None, sendmail: int, inject: int, queue: int
) -> None:
    codes = []
    for name in ("sendmail", "qmail-inject", "qmail-queue"):
        directory = tmp_path / name
        (directory / "run").mkdir(parents=True)
        house = House(programs, directory)
        with Queue(directory, answer), Running("inject", ["inject"], directory):
            if name == "qmail-queue":
                codes.append(house.qmail_queue(b"\n", b"F\0Tx@y\0\0"))
            else:
                done = house.run(name, "x@y", message=b"\n")
                codes.append(done.returncode)
                assert (answer.text if answer else b"cannot be reached") in done.stderr
    assert codes == [sendmail, inject, queue]


@pytest.mark.parametrize(
    ("recipients", "said", "code"),
    [
        (["joe"], b"joe@host.test has a mailbox here\n", 0),
        (["r@elsewhere.example"], b"r@elsewhere.example goes to elsewhere.example\n", 0),
        (["trouble"], b"trouble@host.test cannot be looked up now; try again later\n", 75),
        (["nobody", "trouble", "joe", "joe"], b"nobody@host.test is not known here\n"
         b"trouble@host.test cannot be looked up now; try again later\n" + 2 * b"joe@host.test has a mailbox here\n", 67),
    ],
)  # fmt: skip
def test_bv_tells_who_exists_and_reads_no_input(
    programs: Path, tmp_path: Path, recipients: list[str], said: bytes, code: int
) -> None:
    house = House(programs, tmp_path)
    unread, writer = os.pipe()  # nothing comes, and it does not end
    with Peer(tmp_path, "lookup", knowing), Running("inject", ["inject"], tmp_path):
        done = subprocess.run([programs / "sendmail", "-bv", *recipients], stdin=unread, capture_output=True,
                              timeout=SECONDS, check=False, env=house.environment)  # fmt: skip
    os.close(unread)
    os.close(writer)
    assert (done.stdout, done.returncode) == (said, code)


def test_bv_without_local_cannot_tell(programs: Path, tmp_path: Path) -> None:
    with Running("inject", ["inject"], tmp_path):
        assert House(programs, tmp_path).run("sendmail", "-bv", "joe").returncode == 75


def test_without_a_queue_socket_it_is_temporary(programs: Path, tmp_path: Path) -> None:
    with Running("inject", ["inject"], tmp_path):
        assert House(programs, tmp_path).run("sendmail", "x@y", message=b"\n").returncode == 75
        assert House(programs, tmp_path).run("mailq").returncode == 75


# --- without a service, or with a strange one


@pytest.mark.parametrize(
    ("program", "code"),
    [("sendmail", 75), ("mailq", 75), ("newaliases", 75), ("qmail-inject", 111), ("qmail-queue", 56)],
)
def test_without_a_service_it_is_temporary(programs: Path, tmp_path: Path, program: str, code: int) -> None:
    with open(os.devnull, "rb") as nothing:
        done = subprocess.run([programs / program, "x@y.example"], stdin=nothing, stdout=nothing, stderr=subprocess.PIPE,
                              env={"QMAILD_RUN": str(tmp_path)}, timeout=SECONDS, check=False)  # fmt: skip
    assert done.returncode == code
    assert bool(done.stderr) == (program != "qmail-queue")


class Strange:
    """A service that reads what comes and answers with these bytes, then closes."""

    def __init__(self, directory: Path, answer: bytes, reads: int = 1 << 20) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / "inject.sock"))
        self._listener.listen()
        self._answer = answer
        self._reads = reads
        self.received = bytearray()
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        with sock:
            sock.settimeout(SECONDS)
            while len(self.received) < self._reads and not self.received.endswith(frames.encode(frames.EndOfInput(1))):
                data = sock.recv(65536)
                if not data:
                    break
                self.received += data
            sock.sendall(self._answer)

    def __enter__(self) -> Strange:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._thread.join(SECONDS)
        self._listener.close()


def run_against(
    answer: bytes, programs: Path, directory: Path, name: str = "sendmail", size: int = 10, reads: int = 1 << 20
) -> tuple[subprocess.CompletedProcess[bytes], bytes]:
    environment = {"QMAILD_RUN": str(directory), "USER": "u"}
    with Strange(directory, answer, reads) as strange:
        done = subprocess.run([programs / name, "x@y.example"], input=b"x" * size, env=environment,
                              capture_output=True, timeout=SECONDS, check=False)  # fmt: skip
    return done, bytes(strange.received)


def test_what_is_sent_is_frames(programs: Path, tmp_path: Path) -> None:
    answer = frames.encode(frames.Hello(frames.VERSION, b"inject")) + frames.encode(frames.Exit(1, 7))
    done, received = run_against(answer, programs, tmp_path, size=100_000)
    sent = [frames.decode(payload) for payload in netstring.Reader(1 << 20).feed(received)]
    assert sent[:2] == [
        frames.Hello(frames.VERSION, b"sendclient"),
        frames.Invoke(1, b"sendmail", [b"x@y.example"], [b"USER=u"]),
    ]
    assert [frame.content for frame in sent[2:-1]] == [b"x" * 65536, b"x" * (100_000 - 65536)]
    assert sent[-1] == frames.EndOfInput(1)
    assert done.returncode == 7


def test_output_goes_where_it_belongs(programs: Path, tmp_path: Path) -> None:
    answer = b"".join(map(frames.encode, [
        frames.Output(1, 1, b"out"), frames.Output(1, 2, b"err"), frames.Output(1, 1, b"x" * 65536), frames.Exit(1, 3),
    ]))  # fmt: skip
    done, _ = run_against(answer, programs, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out" + b"x" * 65536, b"err")


def test_an_early_refusal_is_heard_while_input_is_still_sent(programs: Path, tmp_path: Path) -> None:
    done, _ = run_against(frames.encode(frames.Exit(1, 65)), programs, tmp_path, size=8 << 20, reads=1)
    assert done.returncode == 65


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        frames.encode(frames.Hello(frames.VERSION + 1, b"inject")),
        frames.encode(frames.Hello(frames.VERSION, b"inject")),
        b"7:v3,50:x,",
        b"5:x1:1",
        b"garbage without end" * 10_000,
        b"99999999:",
        b"8:x9:12345,,",
        b"9:x1:1,1:a,,",
        b"11:x1:1,3:256,,",
        b"8:x1:1,0:,,",
        b"1:x,",
        b"0:,",
    ],
)
@pytest.mark.parametrize(("name", "code"), [("sendmail", 75), ("qmail-inject", 111)])
def test_a_strange_answer_is_temporary(programs: Path, tmp_path: Path, answer: bytes, name: str, code: int) -> None:
    done, _ = run_against(answer, programs, tmp_path, name)
    assert done.returncode == code
    assert b"ERROR: AddressSanitizer" not in done.stderr


@pytest.fixture(scope="session")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client, in a hurry to be greeted."""
    return build(tmp_path_factory.mktemp("client") / "hasty", "-DGREETING_SECONDS=1")


@pytest.mark.parametrize("size", [10, 4 << 20])
@pytest.mark.parametrize(("name", "code"), [("sendmail", 75), ("mailq", 75), ("qmail-inject", 111), ("qmail-queue", 74)])
def test_a_service_that_takes_the_connection_and_never_serves_is_soon_given_up(
    hasty: Path, tmp_path: Path, name: str, code: int, size: int
) -> None:
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(tmp_path / "inject.sock"))
        hung.listen()
        read, write = os.pipe()
        os.close(write)  # an envelope for qmail-queue
        done = subprocess.run([hasty / name, "x@y.example"], input=b"x" * size, stdout=read, stderr=subprocess.PIPE,
                              env={"QMAILD_RUN": str(tmp_path)}, timeout=SECONDS, check=False)  # fmt: skip
        os.close(read)
    assert done.returncode == code, done.stderr


def test_a_service_that_has_greeted_may_take_longer(hasty: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "inject.sock"))
        listener.listen()
        with subprocess.Popen([hasty / "sendmail", "x@y.example"], stdin=subprocess.PIPE,
                              env={"QMAILD_RUN": str(tmp_path)}) as client:  # fmt: skip
            assert client.stdin
            writer = threading.Thread(target=client.communicate, args=[b"x" * (4 << 20)])
            writer.start()
            with listener.accept()[0] as sock:
                sock.sendall(frames.encode(frames.Hello(frames.VERSION, b"inject")))
                time.sleep(2.5)  # more than twice what it waits for the greeting, while it has more to send
                received = b""
                while not received.endswith(frames.encode(frames.EndOfInput(1))):
                    received = received[-100:] + sock.recv(1 << 20)
                sock.sendall(frames.encode(frames.Exit(1, 0)))
                writer.join(SECONDS)
            assert client.wait(SECONDS) == 0


def test_a_path_that_is_too_long_for_a_socket_is_told(programs: Path) -> None:
    done = subprocess.run([programs / "sendmail", "x"], input=b"", env={"QMAILD_RUN": "/" + "x" * 200}, capture_output=True,
                          timeout=SECONDS, check=False)  # fmt: skip
    assert done.returncode == 64


def test_the_client_needs_next_to_no_memory(programs: Path, tmp_path: Path) -> None:
    """8 MiB of address space, the C library included, are enough for a message of any size."""
    plain = build(tmp_path / "plain")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (8 << 20, 8 << 20))

    with Strange(tmp_path, frames.encode(frames.Exit(1, 0)), 64 << 20) as strange:
        done = subprocess.run([plain / "sendmail", "x"], input=b"x" * (16 << 20), env={"QMAILD_RUN": str(tmp_path)},
                              preexec_fn=limit, capture_output=True, timeout=SECONDS, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(strange.received) > 16 << 20
