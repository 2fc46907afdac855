"""ldap3: STARTTLS and bind, the schema, entries added, found, changed and deleted, errors."""

from __future__ import annotations

import ssl
import uuid
from typing import Any

import ldap3
import ldap3.core.exceptions

SERVICES = ("ldap",)


def main(services: dict[str, dict[str, Any]]) -> str:
    """Work with entries of its own."""
    where = services["ldap"]
    tls = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=where["ca"])
    options: dict[str, Any] = {
        "user": where["user"], "raise_exceptions": True, "receive_timeout": 30,
        "auto_bind": ldap3.AUTO_BIND_TLS_BEFORE_BIND,
    }  # fmt: skip
    server = ldap3.Server(where["host"], where["port"], tls=tls, connect_timeout=30, get_info=ldap3.SCHEMA)
    said = ""
    try:
        ldap3.Connection(server, password="wrong", **options)
    except ldap3.core.exceptions.LDAPInvalidCredentialsResult as error:
        said = error.description
    assert said == "invalidCredentials", said

    base = where["base"]
    with ldap3.Connection(server, password=where["password"], **options) as connection:
        assert "inetOrgPerson" in server.schema.object_classes
        name = str(uuid.uuid4())
        person = f"cn={name},{base}"
        photo = bytes(range(256)) * 40
        assert connection.add(
            person, "inetOrgPerson", {"sn": "Müller", "mail": "a@example.org", "jpegPhoto": photo}
        )
        changes = {"mail": [(ldap3.MODIFY_ADD, ["b@example.org"])], "sn": [(ldap3.MODIFY_REPLACE, ["Meier"])]}
        assert connection.modify(person, changes)
        assert connection.search(
            base, f"(&(objectClass=person)(cn={name}))", attributes=["mail", "sn", "jpegPhoto"]
        )
        (entry,) = connection.entries
        assert entry.sn == "Meier"
        assert set(entry.mail) == {"a@example.org", "b@example.org"}
        assert entry.jpegPhoto.value == photo
        try:
            connection.add(person, "inetOrgPerson", {"sn": "Another"})
        except ldap3.core.exceptions.LDAPEntryAlreadyExistsResult as error:
            said = error.description
        assert said == "entryAlreadyExists", said
        assert connection.delete(person)
    return f"the schema, an entry of {len(photo)} octets there, changed and back, a wrong password refused"
