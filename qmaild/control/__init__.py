"""The one table of settings and events: what control files exist, what they mean, what the journal says."""
