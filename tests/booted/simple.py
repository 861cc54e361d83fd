# SPDX-License-Identifier: GPL-2.0-or-later
"""`topology: simple` in the booted lab: qubes that really boot, behind one real tunnel.

    internet: the provider's server, plain DNS everywhere, the resolver in the tunnel
      sys-net, sys-firewall: Qubes alone
        sys-vpn: the tunnel, which carries both families
          work: a client

Which tunnel, and who makes it, says a *Kind*: :class:`OpenVPN` or :class:`App`.
"""

import time
from pathlib import Path
from typing import Any, Protocol

from mullvad_stand_in import PROGRAMS, UNITS
from provider import Provider
from tunnelled import CREDENTIALS, apply, put_profiles, said, state_functions, up

from qubes_vpn_formula.lab.booted import formula
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted, Template
from qubes_vpn_formula.lab.chains import WIREGUARD
from qubes_vpn_formula.lab.nameservers import ANSWERS, Nameservers
from qubes_vpn_formula.lab.qube import SLOWNESS, Inside, Qube
from qubes_vpn_formula.lab.questions import Asking, Question
from qubes_vpn_formula.lab.tunnels import tunnel

#: By a name, so that both families are asked; every address answers.
URL = "http://check.lab.example/json"
ACCOUNT = "1234123412341234"


class Kind(Protocol):
    """A provider, and what makes his tunnel in sys-vpn.

    pillar: of the tunnel.  services: that sys-vpn has, beside qubes-vpn.  packages, files: of its
    template, beside the formula's own.
    """

    pillar: dict[str, Any]
    services: tuple[str, ...]
    packages: tuple[str, ...]
    files: dict[str, tuple[str, int]]

    def serve(self, internet: Qube, folder: Path) -> None:
        """Starts the server."""

    def put(self, qube: AppVM) -> None:
        """What the user brings into the VPN qube."""

    def up(self, qube: AppVM) -> None:
        """Waits until the tunnel is up."""


class OpenVPN:
    """By NetworkManager; the server pushes addresses and routes of both families."""

    services = ("network-manager",)
    packages: tuple[str, ...] = ()

    def __init__(self) -> None:
        endpoints = ["198.51.100.1:1194/udp"]
        self.pillar = {"kind": "openvpn", "profile": "one.ovpn", "endpoints": endpoints}
        self.files: dict[str, tuple[str, int]] = {}

    def serve(self, internet: Qube, folder: Path) -> None:
        self.provider = Provider(folder, internet)
        six = ("--server-ipv6", "fd64:1::/64", "--push", "route-ipv6 2000::/3")
        self.provider.serve(1, *six)

    def put(self, qube: AppVM) -> None:
        put_profiles(qube, self.provider)

    def up(self, qube: AppVM) -> None:
        up(qube, "one.ovpn", 60)


#: What the stand-in does in place of the app's own WireGuard; the names are as the app has them.
_MAKE = """#!/bin/sh
ip link del wg0-mullvad 2>/dev/null
for family in -4 -6; do
    ip "$family" rule del not fwmark 51820 table 51820 2>/dev/null
    ip "$family" rule del table main suppress_prefixlength 0 2>/dev/null
done
if [ "$1" = down ]; then
    printf 'nameserver 10.139.1.1\\n' >/etc/resolv.conf
    exit 0
fi
set -e
rm -f /run/wireguard/wg0-mullvad.sock
wireguard-go wg0-mullvad >/dev/null 2>&1
wg setconf wg0-mullvad /usr/lib/mullvad-app/wg.conf
ip address add 10.64.1.2/32 dev wg0-mullvad
ip address add fd64:1::2/128 dev wg0-mullvad
ip link set wg0-mullvad mtu 1420 up
for family in -4 -6; do
    ip "$family" route add default dev wg0-mullvad table 51820
    ip "$family" rule add not fwmark 51820 table 51820
    ip "$family" rule add table main suppress_prefixlength 0
done
printf 'nameserver 10.64.1.1\\n' >/etc/resolv.conf
"""


class App:
    """By the stand-in for the Mullvad app, with wireguard-go."""

    services: tuple[str, ...] = ()
    packages = ("wireguard-go", "wireguard-tools")

    def __init__(self) -> None:
        self._tunnel = tunnel(WIREGUARD, 1, device="wg0-mullvad")
        self._tunnel.port = 51820  # the app knows Mullvad's ports, and takes no other
        self.pillar = {"kind": "mullvad", "endpoints": [self._tunnel.endpoint]}
        lines = self._tunnel.profile().splitlines()
        # wg(8) knows neither addresses nor resolvers.
        known = [line for line in lines if not line.startswith(("Address", "DNS"))]
        known.insert(1, "FwMark = 51820")
        self.files = {
            **{path: (file.read_text(), 0o755) for path, file in PROGRAMS.items()},
            **{f"/usr/lib/systemd/system/{name}.service": (t, 0o644) for name, t in UNITS.items()},
            "/usr/lib/mullvad-app/tunnel": (_MAKE, 0o755),
            "/usr/lib/mullvad-app/wg.conf": ("\n".join(known), 0o600),
        }

    def serve(self, internet: Qube, folder: Path) -> None:
        self._tunnel.serve(internet)

    def put(self, qube: AppVM) -> None:
        qube.run(["install", "-d", "-m700", CREDENTIALS])
        qube.write(f"{CREDENTIALS}/mullvad-account", ACCOUNT, 0o600)

    def up(self, qube: AppVM) -> None:
        until = time.monotonic() + 30
        ping = ["ping", "-c1", "-W1", "-n", "10.64.1.1"]
        while qube.run(ping, check=False).returncode:
            assert time.monotonic() < until, qube.journal()[-3000:]
            time.sleep(0.5)


class Simple:
    """See the module.  A context manager is `lab`, which it lives in."""

    def __init__(self, lab: Booted, folder: Path, kind: Kind) -> None:
        self.lab, self.kind = lab, kind
        for name in ("vpn", "names", "salt", "t-vpn"):
            (folder / name).mkdir()
        kind.serve(lab.internet, folder / "vpn")
        Nameservers(folder / "names", lab.internet).serve("plain")
        self.document: dict[str, Any] = {
            "topology": "simple",
            "tunnels": {"sys-vpn": {**kind.pillar, "template": "t-vpn"}},
        }
        plain = lab.template("t-plain")
        plain.start()
        plain.stop()
        self.net = lab.appvm("sys-net", plain)
        self.firewall = lab.appvm("sys-firewall", plain, self.net)
        services = ["qubes-vpn", *kind.services]
        template = self._template(folder / "t-vpn")
        self.vpn = lab.appvm("sys-vpn", template, self.firewall, services=services)
        for qube in (self.net, self.firewall, self.vpn):
            qube.start()
        kind.put(self.vpn)
        apply(self.document, state_functions(folder / "salt")[False], self.vpn)
        kind.up(self.vpn)
        self.client = lab.client("work", netvm=self.vpn)
        self.resolves()

    def _template(self, folder: Path) -> Template:
        kind = self.kind
        made = formula.template(self.lab, "t-vpn", self.document, folder, kind.packages, kind.files)
        made.stop()
        return made

    @property
    def nearest(self) -> AppVM:
        """Whose client :attr:`client` is."""
        return self.vpn

    @property
    def qubes(self) -> dict[str, Inside]:
        """Those that run, but for clients."""
        return {qube.name: qube for qube in (self.net, self.firewall, self.vpn)}

    def resolves(self) -> None:
        """Waits until the client has names, from the resolver in the tunnel."""
        question = Question("10.139.1.1", "name.of-the-lab.example", wait=1)
        answer = Asking(self.client, question, every=0.1, for_=60 * SLOWNESS).answer()
        assert answer.addresses == [ANSWERS["tunnel"]], (answer, said(self.vpn))
