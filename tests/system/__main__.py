"""Say whether test machines can be booted here: exit 0, or 1 with the reason."""

import sys

from .machines import unavailable

sys.exit(f"no test machines: {reason}" if (reason := unavailable()) else 0)
