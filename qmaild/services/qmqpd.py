"""The QMQP door: packages from trusted clients, messages to intake."""

from __future__ import annotations

from qmaild.runtime import paths
from qmaild.runtime.caller import Caller
from qmaild.runtime.intake import Intake
from qmaild.runtime.qmqp_server import Server
from qmaild.runtime.service import Service, run

STOP_SECONDS = 12.0  # a package under way may take so long


def build(service: Service) -> None:
    """Put the parts together."""

    def counted(sessions: int) -> None:
        service.connections = sessions

    def configured() -> None:
        server.settings = service.settings

    intake = Intake(Caller(service.loop, paths.socket_of("intake"), b"qmqpd"))
    server = Server(service.loop, service.settings, intake, counted)
    service.accept("qmqp", server.accept)
    service.on_reload = configured
    service.on_stop = server.sessions.stop
    service.is_busy = lambda: intake.outstanding > 0
    service.is_unfinished = server.sessions.is_in_data
    service.stop_seconds = STOP_SECONDS
    service.status = lambda: f"{len(server.sessions)} sessions"


if __name__ == "__main__":
    run("qmqpd", build)
