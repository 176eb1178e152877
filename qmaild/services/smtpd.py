"""The SMTP door: sessions on the handed-in sockets, messages to intake, questions to lookup."""

from __future__ import annotations

from qmaild.runtime import paths, workers
from qmaild.runtime.caller import Caller
from qmaild.runtime.intake import Intake
from qmaild.runtime.lookup import Lookup
from qmaild.runtime.service import Service
from qmaild.runtime.smtp_server import Server

STOP_SECONDS = 12.0  # a message under way may take so long; all other sessions end at once


def build(service: Service) -> None:
    """Put the parts together. Called once in each process that serves."""

    def counted(sessions: int) -> None:
        service.connections = sessions

    intake = Intake(Caller(service.loop, paths.socket_of("intake"), b"smtpd"))
    lookup = Lookup(service.loop, Caller(service.loop, paths.socket_of("lookup"), b"smtpd"))
    server = Server(service.loop, service.settings, intake, lookup, counted, workers.share())
    service.accept("smtp", server.accept)
    service.on_reload = lambda: server.configure(service.settings)
    service.on_stop = server.sessions.stop
    service.is_busy = lambda: intake.outstanding > 0
    service.is_unfinished = server.sessions.is_in_data
    service.stop_seconds = STOP_SECONDS
    service.status = lambda: f"{len(server.sessions)} sessions, {intake.put_out} messages put out of memory so far"


if __name__ == "__main__":
    workers.run("smtpd", build)
