"""smtplib, unchanged, over the mixnet: the same function before and inside ``patch_all()``.

Greets a mail server, switches to TLS where it can, and sends a mail if ``--to`` names somebody (the embedded network's
sink always gets one). Public exits refuse port 25; 587 goes through.
"""

from __future__ import annotations

import smtplib
import sys
from email.message import EmailMessage

from _example import compare, parser, place, report

import smolmix_sync


def greet(address: tuple[str, int], sender: str, to: str | None) -> str:
    """Talk to a mail server as any program does."""
    with smtplib.SMTP(*address, local_hostname="localhost", timeout=60) as server:
        code, greeting = server.ehlo()
        told = f"{code} {greeting.splitlines()[0].decode()}, {len(server.esmtp_features)} extensions"
        if to is not None:
            message = EmailMessage()
            message["From"], message["To"], message["Subject"] = sender, to, "from an example"
            message.set_content("Sent with smtplib.")
            server.send_message(message)
            told += f", a mail to {to} accepted"
    return told


def main() -> int:
    """Run it twice."""
    made = parser(__doc__)
    made.add_argument("--server", default="smtp.gmail.com", help="mail server (default %(default)s)")
    made.add_argument("--from", dest="sender", default="somebody@example.org", metavar="ADDRESS")
    made.add_argument("--to", metavar="ADDRESS", help="send a mail to this address")
    arguments = made.parse_args()
    target = ("mail.localnet" if arguments.localnet else arguments.server, 587)
    to = arguments.to or ("root@mail.localnet" if arguments.localnet else None)
    with place(arguments) as here:
        _, clear = report("clear", lambda: greet(here.clear(target), arguments.sender, to))
        with smolmix_sync.patch_all(tunnel=here.tunnel):
            _, mixnet = report("mixnet", lambda: greet(target, arguments.sender, to))
        compare(clear, mixnet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
