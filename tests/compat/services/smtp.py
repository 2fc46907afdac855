"""aiosmtpd, with STARTTLS and a password before anything else; its answer to a mail is the mail's SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from support.certificates import credentials
from support.servers import free_port

_USER, _PASSWORD = "smolmix", "correct horse"


class _Mails:
    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody@"):
            return "550 5.1.1 There is nobody"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        return f"250 {hashlib.sha256(envelope.content).hexdigest()}"


def _check(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    right = LoginPassword(_USER.encode(), _PASSWORD.encode())
    return AuthResult(success=data == right, handled=False)


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run a server in a thread."""
    ca, pem = credentials("smtp", address, folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    port = free_port(address)
    controller = Controller(
        _Mails(), hostname=address, port=port, tls_context=context, require_starttls=True,
        authenticator=_check, auth_required=True,
    )  # fmt: skip
    controller.start()
    try:
        yield {
            "host": address, "port": port, "user": _USER, "password": _PASSWORD, "ca": ca,
            "version": importlib.metadata.version("aiosmtpd"),
        }  # fmt: skip
    finally:
        controller.stop()
