"""System tests: real machines with their own systemd, network and disk."""
