"""Everything that touches the machine: sockets, descriptors, the journal, systemd, accounts, DNS."""
