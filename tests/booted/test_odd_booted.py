# SPDX-License-Identifier: GPL-2.0-or-later
"""A login of any characters, a file of two words: real NetworkManager, a real server (R32)."""

import pytest
from provider import Provider
from tunnelled import CREDENTIALS, PROGRAM, pings, said, template

from qubes_vpn_formula.lab.booted.machine import AppVM, Booted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: Every ASCII character that can be typed, blanks at both ends; what keyfiles, OpenVPN's management
#: and shells read in their own ways is among them.
PRINTABLE = "".join(map(chr, range(33, 127)))
PROFILE = "one two.ovpn"
USER, PASSWORD = "user name\\s+f1", f" {PRINTABLE} "


@pytest.fixture(scope="module")
def provider(lab: Booted, tmp_path_factory: pytest.TempPathFactory) -> Provider:
    made = Provider(tmp_path_factory.mktemp("provider"), lab.internet)
    (made.folder / "login").write_text(f"{USER}:{PASSWORD}")
    (made.folder / "check").write_text(
        f'#!/bin/sh\nprintf "%s:%s" "$username" "$password" >{made.folder}/came\n'
        f"cmp -s {made.folder}/came {made.folder}/login\n"
    )
    made.serve(1)
    return made


@pytest.fixture(scope="module")
def qube(lab: Booted, provider: Provider) -> AppVM:
    qube = lab.appvm("sys-vpn", template(lab), services=["qubes-vpn", "network-manager"])
    qube.start()
    qube.write("/rw/config/vpn/endpoints.txt", "198.51.100.1:1194/udp\n")
    qube.write("/rw/config/vpn/killswitch.conf", "interface = tun0\nlog = no\n")
    qube.write(
        "/rw/config/vpn/tunnel.conf", f"kind = openvpn\ninterface = tun0\nprofile = {PROFILE}\n"
    )
    qube.run(["install", "-d", "-m700", CREDENTIALS])
    qube.write(f"{CREDENTIALS}/{PROFILE}", provider.profile(1), 0o600)
    qube.write(f"{CREDENTIALS}/one two.auth", f"{USER}\n{PASSWORD}\n", 0o600)
    qube.stop()
    qube.start()
    return qube


def test_it_is_up_by_itself_and_can_be_taken_down_and_up(qube, provider):
    qube.run([PROGRAM, "up"], timeout=80, check=False)
    assert (provider.folder / "came").read_text() == f"{USER}:{PASSWORD}"
    assert (said(qube)["state"], said(qube)["profile"], said(qube)["problems"]) == (
        "up",
        PROFILE,
        [],
    )
    assert pings(qube, 1)
    qube.run([PROGRAM, "down"])
    assert said(qube)["state"] == "down"
    qube.run([PROGRAM, "up", PROFILE], timeout=80)
    assert said(qube)["connections"] == {PROFILE: "up"}
