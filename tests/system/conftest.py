"""Says why machines cannot be booted, loudly; in CI that is a failure."""

from __future__ import annotations

import os

import pytest

from .machines import prepare, unavailable

REASON = unavailable()


def pytest_sessionstart() -> None:
    if REASON is None:
        prepare()


@pytest.fixture(scope="session", autouse=True)
def _machines_can_boot() -> None:
    if REASON is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"no test machines: {REASON}", pytrace=False)
    pytest.skip(f"no test machines: {REASON}")


def pytest_unconfigure() -> None:
    # After the runner's own closing lines, so that it cannot be overlooked.
    if REASON is not None:
        print(f"SYSTEM TESTS DID NOT RUN: {REASON}")
