"""imaplib over TLS: a folder, a mail there and back, a search, flags, errors."""

from __future__ import annotations

import imaplib
import ssl
import uuid
from typing import Any

SERVICES = ("dovecot",)


def main(services: dict[str, dict[str, Any]]) -> str:
    """Work in a folder of its own."""
    server = services["dovecot"]
    context = ssl.create_default_context(cafile=server["ca"])
    with imaplib.IMAP4_SSL(server["host"], server["imaps_port"], ssl_context=context, timeout=30) as imap:
        said = ""
        try:
            imap.login(server["user"], "wrong")
        except imaplib.IMAP4.error as error:
            said = str(error)
        assert "AUTHENTICATIONFAILED" in said, said
        imap.login(server["user"], server["password"])
        assert imap.select("INBOX", readonly=True) == ("OK", [b"3"])
        kind, found = imap.fetch("2:3", "(RFC822.SIZE BODY.PEEK[TEXT])")
        texts = [part[1] for part in found if isinstance(part, tuple)]
        assert (kind, texts) == ("OK", [b"0123456789abcdef\r\n" * lines for lines in (58, 1176)])

        folder = str(uuid.uuid4())
        assert imap.create(folder)[0] == "OK"
        mail = b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\n" + b"a line of text\r\n" * 600
        assert imap.append(folder, r"(\Flagged)", None, mail)[0] == "OK"
        assert imap.select(folder) == ("OK", [b"1"])
        assert imap.search(None, "FLAGGED", "BODY", '"line of"') == ("OK", [b"1"])
        kind, found = imap.fetch("1", "(RFC822)")
        assert found[0][1] == mail
        assert imap.store("1", "+FLAGS", r"(\Deleted)")[0] == "OK"
        assert imap.expunge() == ("OK", [b"1"])
    return (
        f"two mails read, one of {len(mail)} octets kept, found, read and deleted, a wrong password refused"
    )
