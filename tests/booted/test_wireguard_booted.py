# SPDX-License-Identifier: GPL-2.0-or-later
"""WireGuard in a booted VPN qube, by wireguard-go, from a provider's file (R31, R41).

NetworkManager cannot use wireguard-go, and the lab's kernel has no WireGuard of its own; so the
values that the formula's reader takes from the file for NetworkManager are given to `wg` here.
"""

import configparser
import time
from pathlib import Path

import pytest

import qubes_vpn_keyfile
from qubes_vpn_formula.lab.booted.machine import Booted
from qubes_vpn_formula.lab.capture import Capture
from qubes_vpn_formula.lab.chains import WIREGUARD
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.oracle import Endpoint, Oracle
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.senders import basic
from qubes_vpn_formula.lab.traffic import send
from qubes_vpn_formula.lab.tunnels import tunnel

pytestmark = pytest.mark.slow

_MARKER = b"leak-of-wireguard"
_ELSEWHERE = "203.0.113.9"


def test_a_client_goes_through_the_tunnel_of_a_providers_file_and_nowhere_else(
    lab: Booted, tmp_path: Path
) -> None:
    served = tunnel(WIREGUARD, 1)
    served.serve(lab.internet)
    template = lab.template("t-vpn")
    template.install(["wireguard-go", "wireguard-tools"])
    for path, (text, mode) in Ours().files().items():
        template.write(path, text, mode)
    units = [unit.rpartition("/")[2] for unit in Ours().units]
    template.run(["systemctl", "enable", *units])
    qube = lab.appvm("sys-vpn", template, services=["qubes-vpn"])
    client = lab.client("work", netvm=qube)
    qube.start()
    qube.write("/rw/config/vpn/endpoints.txt", f"{served.endpoint}\n")
    qube.write("/rw/config/vpn/killswitch.conf", "interface = wg0\n")
    qube.stop()
    qube.start()
    assert qube.failed() == []
    file = tmp_path / "all.pcap"
    with Capture(qube.network, lab.internet, qube.vif, file) as capture:
        assert not _answers(client, served.inner[0])
        made = configparser.ConfigParser(delimiters="=", interpolation=None)
        made.optionxform = str
        credentials = tmp_path / "credentials"
        credentials.mkdir(0o700)
        (credentials / "wg0.conf").touch(0o600)
        (credentials / "wg0.conf").write_text(served.profile())
        made.read_string(
            qubes_vpn_keyfile.connection(credentials, "wg0.conf", "wg0", [served.endpoint]).text
        )
        qube.run(["systemd-run", "--quiet", "--unit=wg", "wireguard-go", "-f", "wg0"])
        _configure(qube, made)
        until = time.monotonic() + 20
        while not _answers(client, served.inner[0]):
            assert time.monotonic() < until, "no tunnel"
        send(client, *basic(_ELSEWHERE, _MARKER))
        qube.run("systemctl kill --signal=KILL wg")
        assert not _answers(client, served.inner[0])
        send(client, *basic(_ELSEWHERE, _MARKER))
        captured = capture.finish()
    verdict = Oracle([Endpoint("udp", served.server, served.port)], _MARKER).judge(captured)
    assert (str(verdict), verdict.frames > 10) == ("closed", True)


def _answers(client: Qube, address: str) -> bool:
    return client.run(["ping", "-c1", "-W1", "-n", address], check=False).returncode == 0


def _configure(qube: Qube, made: configparser.ConfigParser) -> None:
    """What NetworkManager does with such a connection."""
    (peer,) = (name for name in made.sections() if name.startswith("wireguard-peer."))
    networks = made[peer]["allowed-ips"].replace(";", ",").strip(",")
    given = f"""[Interface]
PrivateKey = {made["wireguard"]["private-key"]}
FwMark = 51820
[Peer]
PublicKey = {peer.removeprefix("wireguard-peer.")}
Endpoint = {made[peer]["endpoint"]}
AllowedIPs = {networks}
"""
    qube.run("until [ -S /run/wireguard/wg0.sock ]; do sleep 0.05; done")
    qube.run(["wg", "setconf", "wg0", "/dev/stdin"], input=given)
    for section in ("ipv4", "ipv6"):
        qube.run(["ip", "address", "add", made[section]["address1"], "dev", "wg0"])
    qube.run("ip link set wg0 mtu 1420 up")
    for family in ("-4", "-6"):
        qube.run(f"ip {family} route add default dev wg0 table 51820")
        qube.run(f"ip {family} rule add not fwmark 51820 table 51820")
        qube.run(f"ip {family} rule add table main suppress_prefixlength 0")
