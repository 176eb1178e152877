"""A host that runs Postfix: qmaild installs beside it and takes nothing from it, until qmaild-mta takes its place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .hosts import Host
from .machines import Network
from .packages import build_packages
from .roots import MACHINE_PACKAGES


@pytest.fixture(scope="module")
def other() -> Iterator[Host]:
    with Network("beside") as network, Host("other", "bookworm", network, (*MACHINE_PACKAGES, "postfix")) as machine:
        machine.boot()
        machine.run(["useradd", "--create-home", "--shell", "/bin/sh", "joe"])
        yield machine


def greeting(machine: Host) -> str:
    return machine.smtp("NOOP")[0]


def test_qmaild_installs_beside_postfix_and_takes_nothing_from_it(other: Host) -> None:
    other.run(["systemctl", "start", "postfix"])
    assert "Postfix" in greeting(other)
    other.install([deb for deb in build_packages("bookworm") if deb.name.startswith("qmaild_")])
    assert "Postfix" in greeting(other)
    assert other.run(["dpkg", "-S", "/usr/sbin/sendmail"]).stdout.startswith("postfix:")
    other.run(["/usr/bin/qmail-inject", "joe"], input="Subject: beside\n\nhi\n")
    assert other.wait_for_mail("joe", "Subject: beside")


def test_qmaild_mta_takes_the_place_of_postfix(other: Host) -> None:
    other.install(build_packages("bookworm"))
    assert other.run("dpkg-query -W -f '${db:Status-Abbrev}' postfix", check=False).stdout.strip() != "ii"
    assert "Postfix" not in greeting(other)
    other.run("echo hi | mail -s instead joe", user="joe")
    assert other.wait_for_mail("joe", "Subject: instead")
