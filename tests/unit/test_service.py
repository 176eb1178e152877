"""The service shell around a real service."""

from __future__ import annotations

import json
import os
import resource
import socket
import time
from pathlib import Path

import pytest

from qmaild.protocol import frames

from .processes import SECONDS, Client, Running


def greeted(service: Running) -> Client:
    client = service.client("control")
    client.send(frames.Command(1, [b"status"]))
    return client


def test_a_service_without_a_free_descriptor_rests_and_takes_who_waited_once_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QMAILD_STANDALONE", str(tmp_path))
    with Running("dial", ["control"], tmp_path) as service:
        greeted(service).receive()
        pid = service.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        count = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (count + 2, limits[1]))
        clients = [greeted(service) for _ in range(5)]
        deadline = time.monotonic() + SECONDS
        while not (notes := complaints(tmp_path)):
            assert time.monotonic() < deadline
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        for client in clients:
            assert isinstance(client.receive()[0], frames.Answer)
        assert len(notes) <= len(complaints(tmp_path)) < 5


def complaints(directory: Path) -> list[str]:
    path = directory / "journal"
    lines = path.read_text().splitlines() if path.exists() else []
    return [text for line in lines if "cannot accept" in (text := json.loads(line)["MESSAGE"])]


def test_a_client_that_never_says_hello_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMAILD_STANDALONE", str(tmp_path))
    with Running("dial", ["control"], tmp_path) as service, socket.socket(socket.AF_UNIX) as silent:
        silent.settimeout(SECONDS)
        silent.connect(str(tmp_path / "run/control/dial.sock"))
        assert isinstance(greeted(service).receive()[0], frames.Answer)
        assert silent.recv(100) == frames.encode(frames.Hello(frames.VERSION, b"dial")), "said to whoever connects"
        assert silent.recv(1) == b""
