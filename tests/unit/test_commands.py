"""The small programs of their own: maildirmake."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from qmaild.commands import maildirmake


def test_a_maildir_is_for_its_owner_only(tmp_path: Path) -> None:
    directory = tmp_path / "Maildir"
    assert maildirmake.main([str(directory)]) == 0
    assert sorted(path.name for path in directory.iterdir()) == ["cur", "new", "tmp"]
    for path in (directory, *directory.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_what_exists_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Maildir").write_text("mine")
    assert maildirmake.main([str(tmp_path / "Maildir")]) == 111
    assert "cannot be made: File exists" in capsys.readouterr().err
    assert (tmp_path / "Maildir").read_text() == "mine"


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["-x"], ["--help"]])
def test_a_wrong_call_exits_100(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert maildirmake.main(arguments) == 100
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_begins_with_a_dash_is_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert maildirmake.main(["--", "-x"]) == 0
    assert (tmp_path / "-x" / "new").is_dir()
