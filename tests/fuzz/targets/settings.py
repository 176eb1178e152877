"""Settings that reach every branch of the rewriting rules."""

from __future__ import annotations

from qmaild.control import settings

_FILES = {
    "me": b"mx.test",
    "locals": b"mx.test\nlocal.test\nlocalhost",
    "rcpthosts": b"mx.test\nlocal.test\n.wide.test\nhack.test",
    "virtualdomains": b"virtual.test:joe\n.wide.test:wide\none@single.test:single\nnot.wide.test:",
    "percenthack": b"hack.test",
    "badmailfrom": b"bad@sender.test\n@bad.test",
    "smtproutes": b"a.test:relay.test:26\n.b.test:[192.0.2.3]\nc.test:\nl.test:lmtp:/run/lmtp\n:[2001:db8::3]:25",
}
SETTINGS, _problems = settings.parse(_FILES, b"mx.test")
assert not _problems
