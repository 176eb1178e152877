"""Whose mail a stranger may bring to the SMTP door, and from whom."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .host import Host


@pytest.fixture(autouse=True)
def rcpthosts(host: Host) -> Iterator[None]:
    host.write(rcpthosts="test.example\n.sub.example\n", badmailfrom="bad@sender.example\n@bad.example\n")
    host.reload()
    yield
    host.remove("rcpthosts", "badmailfrom", "morercpthosts", "morercpthosts.cdb")
    host.reload()


def codes(host: Host, *recipients: bytes, sender: bytes = b"a@far.test") -> list[bytes]:
    """What the door says to MAIL, and to a RCPT for each of these."""
    with host.smtp() as client:
        said = [client.ask(b"MAIL FROM:<%b>" % sender), *(client.ask(b"RCPT TO:<%b>" % each) for each in recipients)]
    return [each[:3] for each in said]


def test_f148_a_domain_that_is_not_in_rcpthosts_is_refused_and_a_suffix_is_for_subdomains(host: Host) -> None:
    found = codes(host, b"joe@test.example", b"x@other.example", b"x@A.sub.example", b"x@sub.example")
    assert found == [b"250", b"250", b"553", b"250", b"553"]


def test_f149_a_recipient_without_a_host_is_not_asked_for_its_domain(host: Host) -> None:
    assert codes(host, b"joe") == [b"250", b"250"]
    # Differs: nobody is named by an empty path, and it is refused at once.
    assert codes(host, b"") == [b"250", b"501"]


def test_f150_without_rcpthosts_the_door_is_open_for_what_is_delivered_here_alone(host: Host) -> None:
    host.remove("rcpthosts")
    host.reload()
    assert codes(host, b"joe@test.example", b"x@other.example") == [b"250", b"250", b"553"]


@pytest.mark.parametrize("sender", [b"bad@sender.example", b"BAD@sender.example", b"x@bad.example"])
def test_f151_a_sender_in_badmailfrom_hears_of_it_at_each_recipient(host: Host, sender: bytes) -> None:
    assert codes(host, b"joe@test.example", b"games@test.example", sender=sender) == [b"250", b"553", b"553"]
    assert codes(host, b"joe@test.example", sender=b"good@sender.example") == [b"250", b"250"]


def test_f206_morercpthosts_means_something_once_it_is_compiled_and_beside_rcpthosts(host: Host) -> None:
    recipients = (b"x@more.example", b"x@a.wide.example", b"x@wide.example")
    (host.control / "morercpthosts").write_text("# more\nMore.example \t\n\n.wide.example\n")
    assert codes(host, *recipients) == [b"250", b"553", b"553", b"553"]
    assert host.program("qmail-newmrh").returncode == 0
    assert codes(host, *recipients) == [b"250", b"250", b"250", b"553"]
    host.remove("rcpthosts")
    host.reload()
    assert codes(host, *recipients) == [b"250", b"553", b"553", b"553"]
