"""PyMySQL: TLS, a password, transactions, binary values, an unbuffered cursor, errors."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any

import pymysql
import pymysql.cursors

LIBRARY = "PyMySQL"
SERVICES = ("mariadb",)


def main(services: dict[str, dict[str, Any]]) -> str:
    """Work with a table."""
    server = services["mariadb"]
    where: dict[str, Any] = {
        "host": server["host"], "port": server["port"], "user": server["user"], "database": server["database"],
        "charset": "utf8mb4", "ssl": ssl.create_default_context(cafile=server["ca"]),
        "connect_timeout": 30, "read_timeout": 30, "write_timeout": 30,
    }  # fmt: skip
    said = 0
    try:
        pymysql.connect(**where, password="wrong")
    except pymysql.err.OperationalError as error:
        said = error.args[0]
    assert said == 1045, said

    sent = bytes(range(256)) * 40
    with pymysql.connect(**where, password=server["password"]) as connection:
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE TEMPORARY TABLE boxes (name VARCHAR(20) PRIMARY KEY, size INT, content BLOB)"
            )
            rows = [("one", 1, sent), ("two", 2, b""), ("ünïcode", 3, b"\0")]
            assert cursor.executemany("INSERT INTO boxes VALUES (%s, %s, %s)", rows) == 3
            connection.commit()
            try:
                cursor.execute("INSERT INTO boxes VALUES ('one', 0, '')")
            except pymysql.err.IntegrityError as error:
                said = error.args[0]
            assert said == 1062, said
            connection.rollback()
            cursor.execute("SELECT name, size, content FROM boxes WHERE size < %s ORDER BY size", (10,))
            assert cursor.fetchall() == tuple(rows)
        with connection.cursor(pymysql.cursors.SSCursor) as cursor:
            cursor.execute("SELECT SHA1(seq) FROM seq_1_to_1000")
            content = [row[0] for row in cursor]
    assert content == [hashlib.sha1(str(number).encode()).hexdigest() for number in range(1, 1001)]
    return f"a table over TLS, {len(content)} rows back one by one, a wrong password and a key taken twice refused"
