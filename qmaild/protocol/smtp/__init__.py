"""The server's side of SMTP as a grammar: bytes in, events out, replies back. Pure."""
