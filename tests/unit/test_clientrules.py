"""Client rules: tcprules' text, its records, and the rule that is a client's."""

from __future__ import annotations

import itertools

import pytest

from qmaild.control import cdb
from qmaild.control.cdb import CdbError, Reader
from qmaild.policy import clientrules
from qmaild.policy.clientrules import Client, Rule, RuleError

TEXT = b"""\
# who may do what

joe@127.0.0.1:allow,USER="joe"
joe@=mx.example:deny
18.23.0.32:deny
18.23.:allow,RELAYCLIENT="",DATABYTES=/7,7/
18.23.0.:allow,NET="24"
10.1.2.37-39:allow,RANGE=xyesx
=mx.Example:allow,HOST="mx"
=.example:deny,WHY="a=b"
=:allow,NAMED="yes"
2001:DB8:0::1:allow,SIX="one"
2001:db8::/32:deny
192.0.2.64/26:deny
:allow \t
a line without a colon says nothing
"""


def reader(text: bytes = TEXT) -> Reader:
    return Reader(cdb.build(clientrules.records(text)))


def rule(text: bytes, address: bytes, host: bytes = b"", user: bytes = b"") -> Rule | None:
    return clientrules.find(reader(text), Client(address, host, user))


def allowed(**variables: bytes) -> Rule:
    return Rule(False, tuple((name.encode(), value) for name, value in variables.items()))


DENIED = Rule(True, ())


@pytest.mark.parametrize(("client", "expected"), [
    (Client(b"127.0.0.1", user=b"Joe"), allowed(USER=b"joe")),
    (Client(b"127.0.0.2", b"mx.example", b"joe"), DENIED),
    (Client(b"18.23.0.32"), DENIED),
    (Client(b"18.23.0.33"), allowed(NET=b"24")),
    (Client(b"18.23.1.1"), allowed(RELAYCLIENT=b"", DATABYTES=b"7,7")),
    (Client(b"18.230.1.1"), allowed()),
    (Client(b"10.1.2.37"), allowed(RANGE=b"yes")),
    (Client(b"10.1.2.39"), allowed(RANGE=b"yes")),
    (Client(b"10.1.2.40"), allowed()),
    (Client(b"10.1.2.40", b"MX.example"), allowed(HOST=b"mx")),
    (Client(b"10.1.2.40", b"a.b.example"), Rule(True, ((b"WHY", b"a=b"),))),
    (Client(b"10.1.2.40", b"other.test"), allowed(NAMED=b"yes")),
    (Client(b"18.23.1.1", b"a.b.example"), allowed(RELAYCLIENT=b"", DATABYTES=b"7,7")),
    (Client(b"2001:db8::1"), allowed(SIX=b"one")),
    (Client(b"2001:db8:ffff::2"), DENIED),
    (Client(b"2001:db9::1"), allowed()),
    (Client(b"192.0.2.64"), DENIED),
    (Client(b"192.0.2.63"), allowed()),
    (Client(b"no address"), allowed()),
])  # fmt: skip
def test_the_first_key_in_tcpservers_order_decides(client: Client, expected: Rule) -> None:
    assert clientrules.find(reader(), client) == expected


def test_without_a_rule_for_everybody_there_may_be_none() -> None:
    assert rule(b"10.:deny\n", b"11.0.0.1") is None
    assert rule(b"=:deny\n", b"11.0.0.1") is None
    assert rule(b"", b"11.0.0.1", b"a.test", b"joe") is None


# What ucspi-tcp 0.88 makes of these lines, as `cdb -d` shows it, with ~ for NUL.
THEIR_RULES = b"""\
# comment

joe@127.0.0.1:allow,USER="joe"
18.23.0.32:deny
18.23.:allow,RELAYCLIENT="",DATABYTES=/7,7/
10.1.2.37-39:allow,RANGE=xyesx
10.5-7.:deny,A="b"
1.2-3.4.5:deny
300-310:allow
1.2.3.250-300:allow
=mx.example:allow,HOST="mx"
=my-host.example:deny
=.example:deny,WHY="a=b"
=:allow,NAMED="yes"
noinstr
1.2.3.9-3:deny
:allow \t
"""
THEIR_RECORDS = b"""\
+13,10:joe@127.0.0.1->+USER=joe~
+10,2:18.23.0.32->D~
+6,29:18.23.->+RELAYCLIENT=~+DATABYTES=7,7~
+9,11:10.1.2.37->+RANGE=yes~
+9,11:10.1.2.38->+RANGE=yes~
+9,11:10.1.2.39->+RANGE=yes~
+5,7:10.5.->D~+A=b~
+5,7:10.6.->D~+A=b~
+5,7:10.7.->D~+A=b~
+7,2:1.2.4.5->D~
+7,2:1.3.4.5->D~
+9,0:1.2.3.250->
+9,0:1.2.3.251->
+9,0:1.2.3.252->
+9,0:1.2.3.253->
+9,0:1.2.3.254->
+9,0:1.2.3.255->
+11,9:=mx.example->+HOST=mx~
+16,2:=my-host.example->D~
+9,11:=.example->D~+WHY=a=b~
+1,11:=->+NAMED=yes~
+0,0:->
"""


def test_the_records_are_those_of_tcprules() -> None:
    made = clientrules.records(THEIR_RULES)
    lines = b"".join(b"+%d,%d:%b->%b\n" % (len(key), len(value), key, value) for key, value in made)
    assert lines.replace(b"\0", b"~") == THEIR_RECORDS


def test_names_match_in_any_case_and_in_that_of_an_old_file() -> None:
    assert rule(b"=MX.Example:deny\n", b"1.2.3.4", b"Mx.eXample") == DENIED
    old = Reader(cdb.build([(b"=MX.Example", b"D\0")]))
    assert clientrules.find(old, Client(b"1.2.3.4", b"MX.Example")) == DENIED


def test_the_keys_have_the_order_of_the_manual() -> None:
    keys = clientrules.keys_of(Client(b"1.2.3.4", b"a.b.c", b"joe"), reader(b""))
    assert list(keys) == [
        b"joe@1.2.3.4", b"joe@=a.b.c", b"1.2.3.4", b"=a.b.c", b"1.2.3.", b"1.2.", b"1.", b"=.b.c", b"=.c", b"=", b""]


def test_networks_stand_among_the_prefixes_longest_first() -> None:
    lines = [b"10.1.2.0/25:allow,N=/25/", b"10.1.2.:allow,N=/24/", b"10.1.0.0/20:allow,N=/20/", b"10.:allow,N=/8/",
             b"0.0.0.0/0:allow,N=/0/"]  # fmt: skip
    for order in itertools.permutations(lines, len(lines)):
        made = reader(b"\n".join(order) + b"\n")
        found = [clientrules.find(made, Client(each)) for each in
                 (b"10.1.2.3", b"10.1.2.200", b"10.1.3.1", b"10.2.0.0", b"11.0.0.0")]  # fmt: skip
        assert [each and each.variables[0][1] for each in found] == [b"25", b"24", b"20", b"8", b"0"]


@pytest.mark.parametrize("line", [
    b"1.2.3.4:maybe", b"1.2.3.4:", b"1.2.3.4:allow,", b"1.2.3.4:allow,A", b"1.2.3.4:allow,A=", b'1.2.3.4:allow,A="x',
    b'1.2.3.4:allow,="x"', b'1.2.3.4:allowA="x"', b'1.2.3.4:allow,A="x"B="y"', b"1.2.3.x-y:allow", b"1.2.3.4-:deny",
    b"10.0.0.0/33:deny", b"::allow", b"1:2:allow", b"x/y:deny", b"\0:allow",
])  # fmt: skip
def test_a_rule_that_cannot_be_understood_is_named(line: bytes) -> None:
    with pytest.raises(RuleError) as error:
        list(clientrules.records(b"# first\n" + line + b"\n"))
    assert error.value.line == 2


def test_a_range_is_never_longer_than_there_are_numbers() -> None:
    assert len(list(clientrules.records(b"1.2.3.0-999:deny\n"))) == 256
    assert list(clientrules.records(b"1.2.3.9-3:deny\n")) == []


@pytest.mark.parametrize("value", [b"D", b"X\0", b"+A\0", b"+=b\0", b"\0", b"D\0+A=b"])
def test_an_instruction_of_no_kind_is_damage_and_nobody_is_let_in_by_it(value: bytes) -> None:
    with pytest.raises(CdbError):
        clientrules.find(Reader(cdb.build([(b"", value)])), Client(b"1.2.3.4"))
