"""The host that all facts share."""

from .host import host

__all__ = ["host"]
