"""Packages built and installed in roots of both releases, once a run; loud when that cannot be."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.system.machines import RELEASES, Machine, Network, unavailable
from tests.system.packages import Build, build

REASON = unavailable()


def needs_roots() -> None:
    if REASON is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no Debian roots: {REASON}", pytrace=False)
        pytest.skip(f"no Debian roots: {REASON}")


@pytest.fixture(scope="session", params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def built(release: str) -> Build:
    """The packages of this tree for one release."""
    needs_roots()
    return build(release)


@pytest.fixture(scope="session")
def installed(release: str, built: Build) -> Iterator[Machine]:
    """A machine with both packages installed, not booted: as an image build leaves it."""
    with Network("installed") as network, Machine("pack", release, network) as machine:
        machine.run(["useradd", "--create-home", "joe"])
        machine.install(built.debs)
        yield machine
