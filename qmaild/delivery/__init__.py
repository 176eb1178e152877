"""Ways to deliver: Maildir, mbox, programs, SMTP and LMTP sessions."""
