"""qmaild: qmail rebuilt for systemd."""

__version__ = "0.1.0"
