"""psycopg: libpq has sockets of its own; through a forwarded port it works, with TLS checked against the server's name."""

import hashlib

import psycopg

SERVICES = ("postgresql",)
EXPECT = "refused"
NEEDS_FORWARD = {"service": "postgresql", "port": "port", "allow": ("psycopg",)}
NOTE = "Through a port of 127.0.0.1: ``hostaddr=127.0.0.1 port=N``, while ``host`` stays the name that TLS checks."


def main(services: dict) -> str:
    server = services["postgresql"]
    where = {"host": server["host"], "port": server["port"]}
    if "forwarded" in server:
        where |= {"hostaddr": server["forwarded"]["address"], "port": server["forwarded"]["port"]}
    with psycopg.connect(
        **where, user=server["user"], password=server["password"], dbname=server["database"],
        sslmode="verify-full", sslrootcert=server["ca"], gssencmode="disable", connect_timeout=30,
    ) as connection:  # fmt: skip
        connection.execute("CREATE TEMPORARY TABLE boxes (name text PRIMARY KEY, content bytea)")
        sent = bytes(range(256)) * 40
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO boxes VALUES (%s, %s)", [("one", sent), ("ünï", b"\0")], returning=False
            )
            with cursor.copy("COPY boxes FROM STDIN") as copy:
                for number in range(100):
                    copy.write_row((f"row {number}", b"x" * 100))
            assert cursor.execute("SELECT count(*) FROM boxes").fetchone() == (102,)
            (back,) = cursor.execute("SELECT content FROM boxes WHERE name = 'one'", binary=True).fetchone()
            assert back == sent
            (digest,) = cursor.execute("SELECT sha256(content) FROM boxes WHERE name = 'one'").fetchone()
            assert digest == hashlib.sha256(sent).digest()
        connection.commit()
        try:
            connection.execute("INSERT INTO boxes VALUES ('one', '')")
        except psycopg.errors.UniqueViolation:
            connection.rollback()
        else:
            raise AssertionError("the key is taken")
    return "TLS verified by name, 10 kB there and back, COPY of 100 rows, a key taken twice refused"
