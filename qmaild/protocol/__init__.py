"""Sans-IO protocols: bytes in, events out, bytes back. Nothing here touches a socket or a clock."""
