"""pg8000: TLS, a password, transactions, binary values, errors."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any

import pg8000.dbapi
import pg8000.exceptions

SERVICES = ("postgresql",)


def main(services: dict[str, dict[str, Any]]) -> str:
    """Work with a table."""
    server = services["postgresql"]
    where = {
        "host": server["host"], "port": server["port"], "user": server["user"], "database": server["database"],
        "ssl_context": ssl.create_default_context(cafile=server["ca"]), "timeout": 30,
    }  # fmt: skip
    connection = pg8000.dbapi.connect(**where, password=server["password"])
    cursor = connection.cursor()
    cursor.execute("CREATE TEMPORARY TABLE boxes (name text PRIMARY KEY, size int, content bytea)")
    sent = bytes(range(256)) * 40
    cursor.execute(
        "INSERT INTO boxes SELECT * FROM unnest(CAST(%s AS text[]), CAST(%s AS int[]), CAST(%s AS bytea[]))",
        (["one", "two", "ünïcode"], [1, 2, 3], [sent, b"", b"\0"]),
    )
    connection.commit()
    said = ""
    try:
        cursor.execute("INSERT INTO boxes VALUES ('one', 0, '')")
    except pg8000.exceptions.DatabaseError as error:
        said = error.args[0]["C"]
    assert said == "23505", said
    connection.rollback()

    cursor.execute("SELECT name, size, content FROM boxes WHERE size < %s ORDER BY size", (10,))
    assert list(cursor.fetchall()) == [["one", 1, sent], ["two", 2, b""], ["ünïcode", 3, b"\0"]]
    cursor.execute("SELECT string_agg(sha256(CAST(n::text AS bytea)), '') FROM generate_series(1, 1500) AS n")
    (content,) = cursor.fetchone()
    assert content == b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(1, 1501))
    cursor.close()
    connection.close()
    return f"a table over TLS, {len(content)} octets back, a key taken twice refused"
