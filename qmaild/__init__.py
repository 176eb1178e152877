"""qmaild: qmail rebuilt for systemd."""
