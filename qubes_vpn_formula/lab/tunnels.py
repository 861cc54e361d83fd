# SPDX-License-Identifier: GPL-2.0-or-later
"""Real tunnels: wireguard-go and OpenVPN, the server's end in the internet."""

import functools
import subprocess
import time
from dataclasses import dataclass
from typing import Literal

from qubes_vpn_formula.lab.qube import CommandFailed, Process, Qube

#: wg-quick's firewall mark and routing table: the tunnel's own packets do not go into the tunnel.
_MARK = 51820
_WAIT = "n=0; until {}; do n=$((n+1)); [ $n -lt {} ] || exit 1; sleep 0.01; done"


@dataclass(frozen=True)
class Kind:
    """Which tunnel.  family: of the outer packets.  mtu: of its interface; 0: what fits."""

    program: Literal["wireguard", "openvpn-udp", "openvpn-tcp"]
    family: Literal[4, 6] = 4
    mtu: int = 0


class Tunnel:
    """A tunnel of one qube; made by :func:`tunnel`.

    number: 1 to 9, makes addresses and ports of tunnels differ.
    device: the name of its interface in the qube.  mtu: that interface's.
    server, port, protocol: the endpoint.  inner: the server's addresses inside the tunnel.
    process: the VPN program in the qube; None when it does not run.
    """

    def __init__(self, kind: Kind, number: int, mtu: int, device: str, port: int) -> None:
        self.kind, self.number, self.mtu, self.device = kind, number, mtu, device
        self.server = f"198.51.100.{number}" if kind.family == 4 else f"2001:db8:51::{number}"
        self.port = port
        self.protocol = "tcp" if kind.program == "openvpn-tcp" else "udp"
        self.inner = (f"10.64.{number}.1", f"fd64:{number}::1")
        self.process: Process | None = None

    @property
    def endpoint(self) -> str:
        """`ADDRESS:PORT/PROTOCOL`, as the pillar and endpoints.txt have it."""
        address = self.server if self.kind.family == 4 else f"[{self.server}]"
        return f"{address}:{self.port}/{self.protocol}"

    def serve(self, internet: Qube) -> None:
        """Start the server's end."""
        raise NotImplementedError

    def up(self, qube: Qube) -> None:
        """Start the program in the qube; does not wait for the server."""
        raise NotImplementedError

    def down(self, qube: Qube) -> None:
        """End it as a user would: its interface, routes and rules go."""
        raise NotImplementedError

    def ready(self, qube: Qube, timeout: float = 15) -> None:
        """Wait until the server answers inside the tunnel.  Raises :class:`CommandFailed`."""
        end = time.monotonic() + timeout
        ping = ["ping", "-c1", "-W1", "-n", "-I", self.device, self.inner[0]]
        while (done := qube.run(ping, check=False)).returncode:
            if time.monotonic() > end:
                what = (done.stdout + done.stderr).strip()
                raise CommandFailed(f"{qube.name}: no tunnel after {timeout} s: {what}")
            time.sleep(0.05)

    def to_uplink(self, qube: Qube) -> None:
        """Everything is routed over the uplink, whatever the tunnel did."""
        for family in ("-4", "-6"):
            qube.run(
                f"ip {family} rule flush; ip {family} rule add priority 32766 table main;"
                f" ip {family} route flush dev {self.device}",
                check=False,
            )

    def kill(self) -> None:
        """SIGKILL for the program in the qube: nothing is put away by it."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


def tunnel(kind: Kind, number: int, depth: int = 0, device: str | None = None) -> Tunnel:
    """A tunnel that does not run yet.  depth: how many tunnels its packets go through.

    device: the name of its interface, if not `wg0` or `tun0`.
    """
    mtu = kind.mtu or 1420 - 80 * depth
    if kind.program == "wireguard":
        return _WireGuard(kind, number, mtu, device or "wg0", 51820 + number)
    return _OpenVPN(kind, number, mtu, device or "tun0", 1194 + number)


class _WireGuard(Tunnel):
    """Routed by mark and table, as wg-quick and NetworkManager do."""

    def profile(self) -> str:
        """The client's file as a provider hands it out."""
        server, client = _wireguard_keys()
        host = self.endpoint.partition("/")[0]
        return (
            f"[Interface]\nPrivateKey = {client.private}"
            f"Address = 10.64.{self.number}.2/32, fd64:{self.number}::2/128\n"
            f"DNS = {self.inner[0]}\n\n"
            f"[Peer]\nPublicKey = {server.public}"
            f"AllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = {host}\n"
        )

    def serve(self, internet: Qube) -> None:
        server, client = _wireguard_keys()
        device = f"wgs{self.number}"
        configuration = (
            f"[Interface]\nListenPort = {self.port}\nPrivateKey = {server.private}\n"
            f"[Peer]\nPublicKey = {client.public}\nAllowedIPs = 0.0.0.0/0, ::/0\n"
        )
        lines = [
            f"address add {self.inner[0]}/24 dev {device}",
            f"address add {self.inner[1]}/64 dev {device}",
            f"link set {device} mtu {self.mtu} up",
        ]
        self._start(internet, device, configuration, lines)

    def up(self, qube: Qube) -> None:
        server, client = _wireguard_keys()
        host = self.endpoint.partition("/")[0]
        configuration = (
            f"[Interface]\nPrivateKey = {client.private}\nFwMark = {_MARK}\n"
            f"[Peer]\nPublicKey = {server.public}\nEndpoint = {host}\n"
            "AllowedIPs = 0.0.0.0/0, ::/0\nPersistentKeepalive = 5\n"
        )
        lines = [
            f"address add 10.64.{self.number}.2/32 dev {self.device}",
            f"address add fd64:{self.number}::2/128 dev {self.device}",
            f"link set {self.device} mtu {self.mtu} up",
        ]
        self.process = self._start(qube, self.device, configuration, lines)
        routing = [f"route add default dev {self.device} table {_MARK}"]
        routing += [f"rule add {rule}" for rule in _ROUTING]
        for family in ("-4", "-6"):
            qube.run(["ip", family, "-batch", "-"], input="\n".join(routing))

    def _start(self, qube: Qube, device: str, configuration: str, lines: list[str]) -> Process:
        null = subprocess.DEVNULL
        process = qube.popen(["wireguard-go", "-f", device], stdout=null, stderr=null)
        batch = "\n".join(lines)
        qube.run(
            f"{_WAIT.format(f'[ -S /run/wireguard/{device}.sock ]', 500)}\n"
            f"wg setconf {device} /dev/stdin && ip -batch - <<'END'\n{batch}\nEND\n",
            input=configuration,
        )
        return process

    def down(self, qube: Qube) -> None:
        # A killed wireguard-go leaves its socket behind, which would be taken for the next one's.
        device = self.device
        qube.run(f"ip link del {device}; rm -f /run/wireguard/{device}.sock", check=False)
        rules = "\n".join(f"rule del {rule}" for rule in _ROUTING)
        for family in ("-4", "-6"):
            qube.run(["ip", family, "-force", "-batch", "-"], check=False, input=rules)
        self.kill()


_ROUTING = (
    f"not fwmark {_MARK} table {_MARK}",
    "table main suppress_prefixlength 0",
)


class _OpenVPN(Tunnel):
    """Routed by the server's push, `redirect-gateway def1`, as providers do."""

    _FILE = "/run/openvpn-lab.conf"

    def serve(self, internet: Qube) -> None:
        server, client = _openvpn_keys()
        family = self.kind.family
        layer = f"tcp{family}-server" if self.protocol == "tcp" else f"udp{family}"
        configuration = f"""
            dev-type tun
            dev ovs{self.number}
            proto {layer}
            local {self.server}
            port {self.port}
            topology subnet
            server 10.64.{self.number}.0 255.255.255.0
            server-ipv6 fd64:{self.number}::/64
            push "redirect-gateway def1 ipv6"
            dh none
            """
        self._start(internet, f"/run/openvpn-{self.number}.conf", configuration, server, client)
        internet.run(_WAIT.format(f"[ -e /sys/class/net/ovs{self.number} ]", 500))

    def up(self, qube: Qube) -> None:
        server, client = _openvpn_keys()
        family = self.kind.family
        layer = f"tcp{family}-client" if self.protocol == "tcp" else f"udp{family}"
        configuration = f"""
            client
            dev-type tun
            dev {self.device}
            remote {self.server} {self.port} {layer}
            nobind
            connect-retry 1 2
            """
        self.process = self._start(qube, "/run/openvpn-client.conf", configuration, client, server)

    def _start(
        self, qube: Qube, path: str, configuration: str, own: "_Certificate", peer: "_Certificate"
    ) -> Process:
        lines = [line.strip() for line in configuration.splitlines()]
        text = "\n".join([*lines, f"tun-mtu {self.mtu}", "keepalive 5 60"])
        text += f"\n<cert>\n{own.text}</cert>\n<key>\n{own.key}</key>\n"
        text += f"<peer-fingerprint>\n{peer.fingerprint}\n</peer-fingerprint>\n"
        qube.write(path, text, 0o600)
        null = subprocess.DEVNULL
        log = path.removesuffix(".conf") + ".log"
        return qube.popen(["openvpn", "--config", path, "--log", log], stdout=null, stderr=null)

    def down(self, qube: Qube) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None


@dataclass(frozen=True, repr=False)
class _WireGuardKey:
    private: str
    public: str


@dataclass(frozen=True, repr=False)
class _Certificate:
    text: str
    key: str
    fingerprint: str


@functools.cache
def _wireguard_keys() -> tuple[_WireGuardKey, _WireGuardKey]:
    """The server's and the client's, made once for each run of the lab."""

    def one() -> _WireGuardKey:
        private = _output(["wg", "genkey"])
        return _WireGuardKey(private, _output(["wg", "pubkey"], private))

    return one(), one()


@functools.cache
def _openvpn_keys() -> tuple[_Certificate, _Certificate]:
    """The server's and the client's; each knows the other's fingerprint."""
    algorithm = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    make = ["openssl", "req", "-x509", *algorithm, "-days", "2", "-subj", "/CN=lab"]
    make += ["-keyout", "-", "-out", "-"]

    def one() -> _Certificate:
        key, begin, text = _output(make).partition("-----BEGIN CERTIFICATE-----")
        text = begin + text
        printed = _output(["openssl", "x509", "-noout", "-fingerprint", "-sha256"], text)
        return _Certificate(text, key, printed.partition("=")[2].strip())

    return one(), one()


def _output(command: list[str], input: str = "") -> str:
    done = subprocess.run(command, input=input, capture_output=True, text=True, check=True)
    return done.stdout
