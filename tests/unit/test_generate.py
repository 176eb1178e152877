"""What packaging/generate.py writes: every setting, every service and every event has its words."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from qmaild.control import events, settings
from qmaild.runtime import running
from tests.unit.processes import ROOT


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("generated")
    subprocess.run([sys.executable, "-I", ROOT / "packaging" / "generate.py", directory], check=True)
    return directory


def test_every_setting_is_documented(generated: Path) -> None:
    page = (generated / "man" / "qmaild-control.5").read_text()
    assert re.findall(r"^\.TP\n\.B (\S+)$", page, re.MULTILINE) == list(settings.TABLE)
    assert "Default: 52428800." in page


def test_every_service_has_a_page_that_names_its_settings(generated: Path) -> None:
    for name in running.SERVICES:
        page = (generated / "man" / f"qmaild-{name}.8").read_text()
        assert page.startswith('.\\" Made by packaging/generate.py.\n.TH QMAILD')
        for setting, row in settings.TABLE.items():
            assert (f".BR {setting} " in page) == (name in row.readers or row.readers == ("*",))


def test_every_event_is_in_the_catalog(generated: Path) -> None:
    entries = (generated / "qmaild.catalog").read_text().split("-- ")[1:]
    assert [entry.split("\n", 1)[0] for entry in entries] == [event.message_id for event in events.EVENTS.values()]
    for entry, event in zip(entries, events.EVENTS.values(), strict=True):
        fields, text = entry.split("\n\n", 1)
        assert f"Subject: qmaild {event.name}" in fields
        assert text.strip() == event.explanation


def test_every_man_reference_of_the_units_has_a_page(generated: Path) -> None:
    pages = {path.name for folder in (generated / "man", ROOT / "packaging" / "man") for path in folder.iterdir()}
    units = "".join(path.read_text() for path in (ROOT / "systemd").glob("qmaild*.*"))
    wanted = {f"{name}.{section}" for name, section in re.findall(r"man:([\w-]+)\((\d)\)", units)}
    assert wanted
    assert wanted <= pages


def test_every_reference_in_a_page_has_a_page(generated: Path) -> None:
    folders = (generated / "man", ROOT / "packaging" / "man")
    pages = {path.name: path.read_text().replace("\\-", "-") for folder in folders for path in folder.iterdir()}
    elsewhere = {"journalctl.1"}
    for name, text in pages.items():
        named = {f"{page}.{section}" for page, section in re.findall(r"\b((?:qmail|sendmail|mailq|newaliases|maildirmake|"
                 r"journalctl)[\w-]*)\"? ?\((\d)\)", text)}  # fmt: skip
        assert named <= set(pages) | elsewhere, name
