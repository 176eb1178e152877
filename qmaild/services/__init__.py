"""One small module per unit: build the parts, run the loop. No rule of mail lives here."""

from __future__ import annotations

import sys

NEEDS_OPENSSL = ("qmaild.services.smtpd",)  # aiosmtpd does not load without it


def _leave_out_openssl(started: str) -> None:
    """Have asyncio and dnspython do without TLS, as they can: it costs each process 2 MB and a tenth of its start."""
    if started and started not in NEEDS_OPENSSL:
        for name in ("ssl", "_hashlib"):
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # importing it fails from now on


_leave_out_openssl(next((word for word in sys.orig_argv if word.startswith(f"{__name__}.")), ""))
