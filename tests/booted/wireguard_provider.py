# SPDX-License-Identifier: GPL-2.0-or-later
"""A VPN provider in the lab's internet: servers by the kernel's WireGuard, and their profiles."""

import subprocess

from qubes_vpn_formula.lab.qube import Qube

#: Where each server is: the last one by IPv6.
SERVERS = {1: "198.51.100.1", 2: "198.51.100.2", 3: "2001:db8:51::3"}
_PORT = 51820


class WireGuardProvider:
    """Servers by their numbers, each with the one customer that it knows."""

    def __init__(self, internet: Qube) -> None:
        self._internet = internet
        self.private, self._customer = _keys()
        self._public: dict[int, str] = {}

    def serve(self, number: int) -> None:
        """A new server, which knows its customer."""
        private, self._public[number] = _keys()
        device = f"wgs{number}"
        self._internet.run(["ip", "link", "add", device, "type", "wireguard"])
        own = ["listen-port", str(_PORT + number), "private-key", "/dev/stdin"]
        self._internet.run(["wg", "set", device, *own], input=private)
        lines = [
            # The kernel answers from an address of its own, and not from any that leads here.
            f"address add {SERVERS[number]} dev lo",
            f"address add 10.64.{number}.1/24 dev {device}",
            f"address add fd64:{number}::1/64 dev {device}",
            f"link set {device} up",
        ]
        self._internet.run(["ip", "-batch", "-"], input="\n".join(lines))
        self.know(number)

    def know(self, number: int) -> None:
        """It answers its customer."""
        words = ["peer", self._customer, "allowed-ips", "0.0.0.0/0,::/0"]
        self._internet.run(["wg", "set", f"wgs{number}", *words])

    def forget(self, number: int) -> None:
        """It answers nobody, as servers do when an account is over or they are gone."""
        self._internet.run(["wg", "set", f"wgs{number}", "peer", self._customer, "remove"])

    def endpoint(self, number: int) -> str:
        """As the pillar has it."""
        return f"{self._host(number)}/udp"

    def profile(self, number: int, keepalive: bool = False, private: str | None = None) -> str:
        """As providers have them.  private: another key than the customer's."""
        more = "PersistentKeepalive = 25\n" if keepalive else ""
        return (
            f"[Interface]\nPrivateKey = {private or self.private}\n"
            f"Address = 10.64.{number}.2/32, fd64:{number}::2/128\nDNS = 10.64.{number}.1\n\n"
            f"[Peer]\nPublicKey = {self._public[number]}\n"
            f"AllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = {self._host(number)}\n{more}"
        )

    def _host(self, number: int) -> str:
        server = SERVERS[number]
        return f"{f'[{server}]' if ':' in server else server}:{_PORT + number}"


def _keys() -> tuple[str, str]:
    """A new private key, and its public one."""
    private = _wg("genkey")
    return private, _wg("pubkey", private)


def _wg(command: str, input: str = "") -> str:
    words = ["wg", command]
    done = subprocess.run(words, input=input, check=True, capture_output=True, text=True)
    return done.stdout.strip()
