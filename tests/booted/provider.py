# SPDX-License-Identifier: GPL-2.0-or-later
"""A VPN provider in the lab's internet: OpenVPN servers, and the profiles that it hands out."""

import subprocess
import time
from pathlib import Path
from typing import Literal

from qubes_vpn_formula.lab.qube import Process, Qube

USER, PASSWORD = "lab-user-8d41c0", "lab-password-77e2b9f3"
_CA, _SERVER = "/CN=Lab CA", "/CN=server.lab.example"


class Provider:
    """Certificates below `folder`, and servers 1 to 9 at 198.51.100.N.

    Its servers ask for a user's name and password, push redirect-gateway and a resolver, and lose a
    client that is silent for ten seconds.

    protocol: of the tunnels' packets.
    """

    def __init__(
        self, folder: Path, internet: Qube, protocol: Literal["udp", "tcp"] = "udp"
    ) -> None:
        self.folder, self.internet, self._protocol = folder, internet, protocol
        self._servers: dict[int, Process] = {}
        self._openssl("req -x509 -days 2 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
                      " -keyout ca.key -out ca.crt", "-subj", _CA)  # fmt: skip
        self._openssl("req -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
                      " -keyout server.key -out server.csr", "-subj", _SERVER)  # fmt: skip
        extensions = "extendedKeyUsage=serverAuth\nkeyUsage=digitalSignature,keyAgreement\n"
        (folder / "extensions").write_text(extensions)
        self._openssl("x509 -req -days 2 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial"
                      " -extfile extensions -out server.crt")  # fmt: skip
        check = folder / "check"
        check.write_text(f'#!/bin/sh\n[ "$username:$password" = {USER}:{PASSWORD} ]\n')
        check.chmod(0o755)

    def serve(self, number: int, *more: str, resolver: str | None = None) -> None:
        """Starts a server; more: further words for it.  resolver: another than 10.64.N.1."""
        layer = {"udp": "udp4", "tcp": "tcp4-server"}[self._protocol]
        words = f"""openvpn --mode server --tls-server --local 198.51.100.{number} --port 1194
            --proto {layer} --dev ovs{number} --dev-type tun --topology subnet
            --server 10.64.{number}.0 255.255.255.0 --dh none --ca ca.crt --cert server.crt
            --key server.key --verify-client-cert none --script-security 3 --keepalive 2 10
            --auth-user-pass-verify {self.folder}/check via-env""".split()
        words += ["--cd", str(self.folder), "--push", "redirect-gateway def1"]
        words += ["--push", f"dhcp-option DNS {resolver or self.resolver(number)}", *more]
        null = subprocess.DEVNULL
        self._servers[number] = self.internet.popen(words, stdout=null, stderr=null)
        until = time.monotonic() + 10
        while not self.internet.exists(f"/sys/class/net/ovs{number}"):
            assert time.monotonic() < until, "no server"
            time.sleep(0.05)

    def resolver(self, number: int) -> str:
        """The address of the resolver that this server pushes."""
        return f"10.64.{number}.1"

    def vanish(self, number: int) -> None:
        """A server that is gone without a word."""
        self._servers[number].kill()
        self._servers.pop(number).wait()

    def profile(self, number: int) -> str:
        """As providers have them: scripts for other programs, and the certificate inside."""
        lines = [
            "client",
            "dev tun",
            f"proto {self._protocol}",
            f"remote 198.51.100.{number} 1194",
            "resolv-retry infinite",
            "nobind",
            "persist-key",
            "persist-tun",
            "remote-cert-tls server",
            "auth-user-pass",
            "verb 3",
        ]
        return "\n".join([*lines, "<ca>", (self.folder / "ca.crt").read_text() + "</ca>", ""])

    def _openssl(self, words: str, *more: str) -> None:
        command = ["openssl", *words.split(), *more]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
