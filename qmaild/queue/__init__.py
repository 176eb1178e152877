"""The durable store as Python sees it, and the sessions that use it."""
