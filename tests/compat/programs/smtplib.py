"""smtplib: STARTTLS, a password, a mail with an attachment, errors."""

from __future__ import annotations

import email.message
import email.policy
import hashlib
import smtplib
import ssl
from typing import Any

SERVICES = ("smtp",)


def main(services: dict[str, dict[str, Any]]) -> str:
    """Send mails."""
    server = services["smtp"]
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    message["From"], message["To"], message["Subject"] = "me@example.org", "you@example.org", "Grüße"
    message.set_content("Ein Bild für dich.\n.\n")

    with smtplib.SMTP(
        server["host"], server["port"], local_hostname="client.example.org", timeout=30
    ) as smtp:
        smtp.starttls(context=ssl.create_default_context(cafile=server["ca"]))
        code = 0
        try:
            smtp.login(server["user"], "wrong")
        except smtplib.SMTPAuthenticationError as error:
            code = error.smtp_code
        assert code == 535, code
        smtp.login(server["user"], server["password"])
        refused = smtp.send_message(message, to_addrs=["you@example.org", "nobody@example.org"])
        assert {name: code for name, (code, _) in refused.items()} == {"nobody@example.org": 550}, refused
        message.add_attachment(bytes(range(256)) * 40, maintype="image", subtype="png", filename="bild.png")
        assert smtp.mail("me@example.org")[0] == smtp.rcpt("you@example.org")[0] == 250
        code, said = smtp.data(message.as_bytes())
        assert (code, said.decode()) == (250, hashlib.sha256(message.as_bytes()).hexdigest())
    return "two mails, one of 14 kB, over STARTTLS, a recipient and a wrong password refused"
