"""Where things are. Knows the packaged places and the variables by which a standalone tree moves them."""

from __future__ import annotations

import os

CONTROL = os.environ.get("QMAILD_CONTROL", "/etc/qmaild/control")
RUN = os.environ.get("QMAILD_RUN", "/run/qmaild")
ALIASES = os.environ.get("QMAILD_ALIASES", "/etc/aliases")
STANDALONE = os.environ.get("QMAILD_STANDALONE", "")  # the directory of `qmaild standalone DIR`; empty under systemd
# Of users/assign and its kin; DIR/users is the list of a standalone tree's accounts.
USERS = os.environ.get("QMAILD_USERS") or (f"{STANDALONE}/assigned" if STANDALONE else "/etc/qmaild/users")


def use_standalone(directory: str) -> None:
    """Take the places of the standalone tree below `directory`, as its services do (commands/standalone.py)."""
    global CONTROL, RUN, ALIASES, STANDALONE, USERS
    CONTROL, RUN, ALIASES = f"{directory}/control", f"{directory}/run", f"{directory}/aliases"
    STANDALONE, USERS = directory, f"{directory}/assigned"


def socket_of(name: str) -> str:
    """Return the path of the component socket `name` (intake, manage, remote, local, lookup, dial, spawn, program, inject)."""
    return f"{RUN}/{name}.sock"


def control_socket_of(service: str) -> str:
    """Return the path of the control socket of `service`, which qmailctl talks to."""
    return f"{RUN}/control/{service}.sock"


def queue_directory() -> str:
    """Return the queue's state directory: systemd's StateDirectory=, or the packaged place."""
    return os.environ.get("STATE_DIRECTORY", "/var/lib/qmaild/queue")
