# SPDX-License-Identifier: GPL-2.0-or-later
"""Servers behind a template's updates proxy, with a certificate that the template trusts."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qubes_vpn_formula.lab.qube import Qube

PROXY_FLAG = "/run/qubes-service/updates-proxy-setup"


@contextmanager
def behind_proxy(qube: Qube, folder: Path, www: Path, *hosts: str) -> Iterator[Path]:
    """All of *hosts* answer with what is in *www*; yields the log of what was asked for.

    folder: for certificate and log.
    """
    names = ",".join(f"DNS:{host}" for host in hosts)
    certificate, public, log = (folder / name for name in ("key.pem", "cert.pem", "vendor.log"))
    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    more = ["-subj", f"/CN={hosts[0]}", "-addext", f"subjectAltName={names}"]
    files = ["-keyout", str(certificate), "-out", str(public)]
    openssl = ["openssl", "req", "-x509", "-days", "2", *ec, *more, *files]
    subprocess.run(openssl, check=True, capture_output=True)
    pem = public.read_text()
    certificate.write_text(certificate.read_text() + pem)
    digest = ["openssl", "x509", "-hash", "-noout", "-in", str(public)]
    hashed = subprocess.run(digest, check=True, capture_output=True, text=True).stdout.strip()
    trusted = f"/etc/ssl/certs/{hashed}.0"
    qube.write(trusted, pem)
    qube.write(PROXY_FLAG, "")
    program = Path(__file__).with_name("vendor.py")
    words = [sys.executable, str(program), "127.0.0.1:8082", str(certificate), str(www)]
    with log.open("w") as file:
        server = qube.popen(words, stdout=file)
        try:
            until_listening(qube, 8082)
            yield log
        finally:
            server.kill()
            server.wait()
            qube.run(["rm", "-f", PROXY_FLAG, trusted])


def until_listening(qube: Qube, port: int) -> None:
    """Wait for it, ten seconds at most."""
    once = f"ss -Hltn sport = {port} | grep -q . && exit 0; sleep 0.05"
    qube.run(f"for i in $(seq 200); do {once}; done; exit 1")
