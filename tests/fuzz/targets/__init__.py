"""The Python targets: one module each, with one_input(data), and GROWTH: entries whose time is held against the length."""
