#!/usr/bin/env python3
"""Nightly check: fetch the status page, download the data, mail a report, ping the metrics host.

Written for plain blocking sockets. It knows nothing of mixnets.
"""

import hashlib
import os
import smtplib
import socket
import sys
import time
import urllib.error
import urllib.request
from email.message import EmailMessage

WEB = os.environ.get("CHECK_WEB", "www.localnet")
MAIL = os.environ.get("CHECK_MAIL", "mail.localnet")
METRICS = os.environ.get("CHECK_METRICS", "echo.localnet")


def fetch(url, timeout=30):
    began = time.time()
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        body = answer.read()
    print("  %-38s %3d  %7d bytes  %5.2f s" % (url, answer.status, len(body), time.time() - began))
    return body


def mail_report(lines):
    message = EmailMessage()
    message["From"] = "nightly@" + MAIL
    message["To"] = "root@" + MAIL
    message["Subject"] = "nightly check"
    message.set_content("\n".join(lines))
    server = smtplib.SMTP(MAIL, 25, local_hostname="nightly", timeout=30)
    try:
        refused = server.send_message(message)
    finally:
        server.quit()
    print("  mail to root@%s accepted, %d recipients refused" % (MAIL, len(refused)))


def send_metric(name, value):
    metric = ("%s:%d|c" % (name, value)).encode("ascii")
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    for _attempt in range(3):
        sock.sendto(metric, (socket.gethostbyname(METRICS), 7))
        try:
            answer, sender = sock.recvfrom(2048)
        except socket.timeout:
            continue
        print("  metric %r echoed by %s:%d" % (answer.decode("ascii"), sender[0], sender[1]))
        break
    else:
        raise RuntimeError("metrics host does not answer")
    sock.close()
    if answer != metric:
        raise RuntimeError("metrics host answered %r" % answer)


def main():
    print("status page and data:")
    status = fetch("http://%s/" % WEB)
    data = fetch("http://%s/bytes/100000" % WEB)
    secure = fetch("https://%s/" % WEB)
    print("report:")
    mail_report(
        [
            "status page: %d bytes" % len(status),
            "over TLS: %d bytes" % len(secure),
            "data: sha256 %s" % hashlib.sha256(data).hexdigest(),
        ]
    )
    print("metrics:")
    send_metric("nightly.bytes", len(data))
    try:
        socket.gethostbyname("no-such-host.localnet")
    except socket.gaierror as error:
        print("  no-such-host.localnet: %s (as it should be)" % error)
    else:
        raise RuntimeError("a name that does not exist was resolved")
    print("nightly check done")
    return 0 if len(data) == 100000 else 1


if __name__ == "__main__":
    sys.exit(main())
