"""Send's brain: events in, commands out, the time as an argument. Pure."""
