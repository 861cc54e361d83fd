# SPDX-License-Identifier: GPL-2.0-or-later
"""OpenVPN's options that a server has to share, by real NetworkManager to a real server (R32).

Each profile lies in the VPN qube's `credentials/` as a provider hands it out, and is brought up by
the qube's own program.
"""

import subprocess

import pytest
from provider import PASSWORD, USER, Provider
from tunnelled import CREDENTIALS, PROGRAM, said, template

from qubes_vpn_formula.lab.booted.machine import AppVM, Booted
from qubes_vpn_formula.lab.capture import Capture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PASSPHRASE = " lab=pass;phrase\\s # 2f "
#: By the number of its server: the profile, that server's further words, and lines of the profile
#: beside those that all have.  {FILE} is the content of a file.
CASES = {
    1: (
        "crypt-v2",
        "--tls-crypt-v2 v2-server.key",
        "<tls-crypt-v2>\n{v2-client.key}</tls-crypt-v2>",
    ),
    2: ("auth", "--tls-auth ta.key 0", "key-direction 1\n<tls-auth>\n{ta.key}</tls-auth>"),
    3: ("auth-file", "--tls-auth ta.key 0", "tls-auth ta.key 1"),
    4: ("auth-both-ways", "--tls-auth ta.key", "tls-auth ta.key"),
    5: (
        "locked",
        "--verify-client-cert require",
        "cert client.crt\nkey locked.key\naskpass pass.txt",
    ),
    6: ("fragment", "--fragment 1000 --mssfix 0", "fragment 1000\nmssfix 0"),
}
BESIDE = ("ta.key", "client.crt", "locked.key")
SCRIPT = """
openvpn --genkey secret ta.key
openvpn --genkey tls-crypt-v2-server v2-server.key
openvpn --tls-crypt-v2 v2-server.key --genkey tls-crypt-v2-client v2-client.key
openssl req -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -keyout client.key -out client.csr \
    -subj /CN=client
openssl x509 -req -days 2 -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out client.crt
openssl pkcs8 -topk8 -v2 aes256 -in client.key -out locked.key -passout file:passphrase
"""


@pytest.fixture(scope="module")
def provider(lab: Booted, tmp_path_factory: pytest.TempPathFactory) -> Provider:
    made = Provider(tmp_path_factory.mktemp("provider"), lab.internet)
    (made.folder / "passphrase").write_text(PASSPHRASE)
    subprocess.run(["sh", "-ec", SCRIPT], cwd=made.folder, check=True, capture_output=True)
    for number, (_, words, _) in CASES.items():
        made.serve(number, *words.split())
    return made


@pytest.fixture(scope="module")
def qube(lab: Booted, provider: Provider) -> AppVM:
    qube = lab.appvm("sys-vpn", template(lab), services=["qubes-vpn", "network-manager"])
    qube.start()
    names = [f"{name}.ovpn" for name, _, _ in CASES.values()]
    endpoints = [f"198.51.100.{number}:1194/udp\n" for number in CASES]
    qube.write("/rw/config/vpn/endpoints.txt", "".join(endpoints))
    qube.write("/rw/config/vpn/killswitch.conf", "interface = tun0\nlog = no\n")
    further = "".join(f"further = {name}\n" for name in names[1:])
    conf = f"kind = openvpn\ninterface = tun0\nprofile = {names[0]}\n{further}"
    qube.write("/rw/config/vpn/tunnel.conf", conf)
    qube.run(["install", "-d", "-m700", CREDENTIALS])
    for number, (name, _, lines) in CASES.items():
        for file in ("v2-client.key", "ta.key"):
            lines = lines.replace(f"{{{file}}}", (provider.folder / file).read_text())
        qube.write(f"{CREDENTIALS}/{name}.ovpn", f"{provider.profile(number)}{lines}\n", 0o600)
        qube.write(f"{CREDENTIALS}/{name}.auth", f"{USER}\n{PASSWORD}\n", 0o600)
    for file in BESIDE:
        qube.write(f"{CREDENTIALS}/{file}", (provider.folder / file).read_text(), 0o600)
    qube.write(f"{CREDENTIALS}/pass.txt", PASSPHRASE, 0o600)
    qube.stop()
    qube.start()
    assert said(qube)["problems"] == []
    return qube


@pytest.mark.parametrize("number", CASES, ids=lambda number: CASES[number][0])
def test_it_comes_up_with_its_server(qube, number):
    name = CASES[number][0]
    done = qube.run([PROGRAM, "up", f"{name}.ovpn"], timeout=80, check=False)
    assert done.returncode == 0, done.stderr + qube.journal("-u", "NetworkManager", "-n40")
    status = said(qube)
    assert (status["state"], status["profile"]) == ("up", f"{name}.ovpn")
    qube.run(["ping", "-c1", "-W3", "-n", f"10.64.{number}.1"])
    assert PASSPHRASE.strip() not in qube.journal() + qube.run("ps axww -o args").stdout


def test_large_packets_go_in_pieces(lab, qube, tmp_path):
    """`fragment`: what is larger than it says is cut before it is encrypted, and put together."""
    qube.run([PROGRAM, "up", "fragment.ovpn"], timeout=80)
    with Capture(qube.network, lab.internet, qube.vif, tmp_path / "uplink.pcap") as capture:
        qube.run(["ping", "-c3", "-W3", "-n", "-Mdo", "-s1400", "10.64.6.1"])
        frames = capture.finish().frames
    sizes = [len(frame.data) for frame in frames if frame.data[12:14] == b"\x08\x00"]
    assert len(sizes) >= 6
    assert max(sizes) <= 1000 + 14 + 28


@pytest.mark.parametrize("number", [1, 2], ids=lambda number: CASES[number][0])
def test_with_a_server_that_has_no_such_key_it_does_not_come_up(qube, provider, number):
    """So it is the option that did it; and no success is claimed."""
    provider.vanish(number)
    provider.serve(number)
    _does_not_come_up(qube, CASES[number][0])


def test_with_a_wrong_passphrase_it_does_not_come_up(qube):
    qube.write(f"{CREDENTIALS}/pass.txt", "another one", 0o600)
    _does_not_come_up(qube, "locked")


def _does_not_come_up(qube, name):
    done = qube.run([PROGRAM, "up", f"{name}.ovpn"], timeout=150, check=False)
    assert done.returncode == 1
    assert said(qube)["state"] != "up"
