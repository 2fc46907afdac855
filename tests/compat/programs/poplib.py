"""poplib with STLS: a password, lists, mails, errors."""

from __future__ import annotations

import poplib
import ssl
from typing import Any

SERVICES = ("dovecot",)


def main(services: dict[str, dict[str, Any]]) -> str:
    """Read the mails."""
    server = services["dovecot"]
    pop = poplib.POP3(server["host"], server["pop3_port"], timeout=30)
    assert pop.getwelcome().startswith(b"+OK")
    pop.stls(context=ssl.create_default_context(cafile=server["ca"]))
    pop.user(server["user"])
    said = ""
    try:
        pop.pass_("wrong")
    except poplib.error_proto as error:
        said = str(error)
    assert "AUTH" in said, said
    pop.user(server["user"])
    pop.pass_(server["password"])
    count, size = pop.stat()
    assert count == 3, count
    assert len({line.split()[1] for line in pop.uidl()[1]}) == 3
    sizes = [int(line.split()[1]) for line in pop.list()[1]]
    assert sum(sizes) == size
    largest = sizes.index(max(sizes)) + 1
    _, lines, octets = pop.retr(largest)
    assert octets == max(sizes)
    assert lines[lines.index(b"") + 1 :] == [b"0123456789abcdef"] * 1176
    assert pop.top(largest, 2)[1][-3:] == [b"", b"0123456789abcdef", b"0123456789abcdef"]
    pop.dele(largest)
    pop.rset()
    pop.quit()
    return f"a mail of {octets} octets, its first lines, a wrong password refused, all over STLS"
