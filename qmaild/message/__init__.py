"""Messages as bytes: header sections, trace fields, addresses, bounces. Pure."""
