"""nginx: HTTP and HTTPS, static files, ``PUT`` (dav), redirects, compression, basic authentication."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.certificates import Authority
from support.servers import find_program, free_port, listens, running, version_of

SIZE = 50_000
NAME = "web.localnet"

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  default_type application/octet-stream;
  types {{ text/plain txt; application/json json; }}
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  ssl_certificate {folder}/{name}.pem;
  ssl_certificate_key {folder}/{name}.pem;
  server {{
    listen {address}:{port};
    listen {address}:{tls_port} ssl http2;
    server_name {name};
    root {folder}/site;
    gzip on;
    gzip_types text/plain;
    add_header X-Scheme $scheme always;
    location /moved {{ return 302 /plain.txt; }}
    location /agent {{ default_type text/plain; return 200 "$http_user_agent"; }}
    location /gone {{ return 410; }}
    location /private {{ auth_basic private; auth_basic_user_file {folder}/users; alias {folder}/site; }}
    location /put {{ dav_methods PUT DELETE; client_max_body_size 10m; }}
  }}
}}
"""


@contextlib.contextmanager
def serve(folder: Path, address: str) -> Iterator[dict[str, Any]]:
    """Run nginx with a file of random-looking octets and one of text."""
    authority = Authority()
    authority.server_context(NAME, folder)
    site = folder / "site"
    (site / "put").mkdir(parents=True)
    body = hashlib.shake_128(b"matrix").digest(SIZE)
    (site / "data.bin").write_bytes(body)
    (site / "plain.txt").write_text("a line of text\n" * 2000)
    (site / "answer.json").write_text('{"answer": 42}')
    digest = base64.b64encode(hashlib.sha1(b"secret").digest()).decode()
    (folder / "users").write_text(f"alice:{{SHA}}{digest}\n")
    port, tls_port = free_port(address), free_port(address)
    (folder / "nginx.conf").write_text(
        CONFIGURATION.format(folder=folder, name=NAME, address=address, port=port, tls_port=tls_port)
    )
    # Its workers change their user.
    for path in (folder / "site", folder / "site" / "put"):
        path.chmod(0o777)
    nginx = find_program("nginx")
    command = [nginx, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with running(command, folder, lambda: listens(address, tls_port)):
        yield {
            "host": NAME,
            "port": port,
            "tls_port": tls_port,
            "ca": authority.write(folder / "ca.pem"),
            "size": SIZE,
            "sha256": hashlib.sha256(body).hexdigest(),
            "text": "a line of text\n" * 2000,
            "user": "alice",
            "password": "secret",
            "server": "nginx",
            "version": version_of(nginx, "-v"),
        }
