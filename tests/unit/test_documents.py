"""What the documents name is there: tests, modules, make targets, subcommands, and who may connect to whom."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from qmaild.commands import qmailctl
from tests.packaging.test_units import SERVICES, SOCKETS, settings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "SECURITY.md", "CONTRIBUTING.md")
PLACES = ("", "qmaild", "tests", "native", "systemd", "packaging")  # where a path in a document may begin


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def test_every_test_that_security_names_is_there() -> None:
    named = re.findall(r"`(\w+/test_\w+\.py)(?:::(\w+))?`", text_of("SECURITY.md"))
    assert len(named) > 20
    for path, test in named:
        assert f"def {test}" in text_of(f"tests/{path}"), f"{path}::{test}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_and_folder_that_a_document_names_is_there(document: str) -> None:
    for path in re.findall(r"`((?:\w+/)*\w+(?:\.(?:py|c|h|md|toml)|/))`", text_of(document)):
        assert any((ROOT / place / path).exists() for place in PLACES), path


def test_every_make_target_of_the_documents_is_there() -> None:
    targets = set(re.findall(r"(?m)^([a-z ]+):", text_of("Makefile")))
    known = {word for line in targets for word in line.split()}
    assert {name for each in DOCUMENTS for name in re.findall(r"`make (\w+)", text_of(each))} <= known


def test_the_manual_of_qmailctl_has_every_subcommand_and_no_other() -> None:
    (commands,) = (each for each in qmailctl._parser()._actions if isinstance(each, argparse._SubParsersAction))
    (queue,) = (each for each in commands.choices["queue"]._actions if isinstance(each, argparse._SubParsersAction))
    written = {*commands.choices, *(f"queue {name}" for name in queue.choices)} - {"queue"}
    page = text_of("packaging/man/qmailctl.8").partition(".SH OPTIONS")[0]
    found = re.findall(r"(?m)^\.TP\n\.(?:B|BR|BI) \"?(queue [a-z]+|[a-z]+)", page)
    assert sorted(found) == sorted(written)


def test_a_service_may_connect_to_what_it_asks_and_to_nothing_else() -> None:
    table = dict(re.findall(r"(?m)^\| `(\w+)` \|[^|]*\| ([^|]*) \|", text_of("ARCHITECTURE.md")))
    for service in SERVICES:
        asked = set(re.findall(r'socket_of\("(\w+)"\)', text_of(f"qmaild/services/{service}.py")))
        unit = settings(f"qmaild-{service}.service")
        groups = set(" ".join(unit.get("SupplementaryGroups", [])).split())
        allowed = {
            row[0] for row in SOCKETS.values()
            if row[4] in ("0600", "0660") and row[0] != "control" and row[5] != service
            and (row[2] == f"qmaild-{service}" or row[3] in groups)
        }  # fmt: skip
        assert allowed == asked, service
        assert set(table[service].replace("nothing", "").replace("the network", "").replace(",", " ").split()) == asked
