# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian 13's NetworkManager and OpenVPN, and the keyfiles that they are given (R31, R32).

The golden files of tests/keyfile are read by NetworkManager as they are meant; a profile with every
option that has a property comes up with a real server; nothing of it is lost on the way.
"""

import json
import subprocess
import time
from pathlib import Path

import pytest

import qubes_vpn_keyfile
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GOLDEN = sorted((Path(__file__).parent.parent / "keyfile/golden").iterdir())
CONNECTIONS = "/run/NetworkManager/system-connections"
SETTINGS = "org.freedesktop.NetworkManager.Settings.Connection"
LOGIN = "us er\n p;a=s\\s #w \n"
#: Every option that becomes a property and fits to the others.
OPTIONS = """
client
dev tun
remote 198.51.100.7 1194 udp
remote 198.51.100.7 1195 udp
remote-random
cipher AES-256-GCM
data-ciphers AES-256-GCM:CHACHA20-POLY1305
data-ciphers-fallback AES-256-CBC
auth SHA256
tls-cipher TLS-ECDHE-ECDSA-WITH-AES-256-GCM-SHA384
tls-version-min 1.2 or-highest
tls-version-max 1.3
remote-cert-tls server
verify-x509-name server.example name
reneg-sec 3600
ping-exit 300
keepalive 5 30
connect-timeout 10
tun-mtu 1400
mssfix 1300
mtu-disc no
push-peer-info
explicit-exit-notify 1
comp-lzo no
block-ipv6
dhcp-option DNS 10.64.7.53
crl-verify crl.pem
extra-certs ca.crt
auth-user-pass
"""
#: What OpenVPN must have been started with for them.
WORDS = """
--remote 198.51.100.7 1194 udp --explicit-exit-notify --remote 198.51.100.7 1195 udp
--explicit-exit-notify --remote-random --comp-lzo no --ping 5 --ping-exit 300 --ping-restart 30
--connect-timeout 10 --dev vpn0 --dev-type tun --cipher AES-256-GCM
--data-ciphers AES-256-GCM:CHACHA20-POLY1305 --data-ciphers-fallback AES-256-CBC
--tls-cipher TLS-ECDHE-ECDSA-WITH-AES-256-GCM-SHA384 --auth SHA256 --tls-version-min 1.2 or-highest
--tls-version-max 1.3 --verify-x509-name server.example name --remote-cert-tls server
--reneg-sec 3600 --tun-mtu 1400 --mssfix 1300 --mtu-disc no --push-peer-info --tls-crypt
--extra-certs --crl-verify --ca --cert --key --auth-user-pass
"""


@pytest.fixture(scope="module")
def qube(lab: Booted) -> AppVM:
    template = lab.template("t-networkmanager")
    template.install(["network-manager", "network-manager-openvpn", "openvpn"])
    template.stop()
    qube = lab.appvm("sys-vpn", template, services=["network-manager"])
    qube.start()
    return qube


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_networkmanager_reads_what_is_meant(qube, path):
    text = path.read_text(encoding="utf-8")
    told = _load(qube, path.name, text)
    meant = _meant(text)
    assert told["connection"]["autoconnect"] is False
    for section in ("connection", "vpn", "wireguard", "ipv4", "ipv6"):
        for key, value in meant.get(section, {}).items():
            assert told[section][key] == value, f"{section}.{key}"
    assert told.get("wireguard", {}).get("peers", []) == meant["peers"]


def test_every_option_and_a_real_server(qube, lab, tmp_path):
    """The server is told the login letter by letter; all routes and all DNS are the tunnel's."""
    _server(lab, tmp_path)
    connection = _connection(tmp_path)
    for path, content in connection.files.items():
        qube.write(path, content.decode(), 0o600)
    _load(qube, f"{connection.id}.nmconnection", connection.text)
    qube.run(["nmcli", "connection", "up", connection.id], timeout=90)
    words = qube.run("tr '\\0' ' ' </proc/$(pidof openvpn)/cmdline").stdout
    position = 0
    for word in WORDS.split():  # in any order of options, but each with its words
        if word.startswith("--"):
            position = words.index(f" {word} ") + 1
        else:
            position = words.index(f" {word} ", position - 1)
    assert (tmp_path / "seen").read_text() == LOGIN.rstrip("\n")
    assert qube.run("ip route get 192.0.2.1").stdout.split()[:4] == [
        "192.0.2.1",
        "dev",
        "vpn0",
        "src",
    ]
    assert qube.run(["ping", "-c1", "-W3", "-I", "vpn0", "10.64.7.1"]).returncode == 0
    resolvers = [
        line for line in qube.read("/etc/resolv.conf").splitlines() if "nameserver" in line
    ]
    assert resolvers[0] == "nameserver 10.64.7.53"
    assert not [line for line in resolvers if "10.139." in line]
    assert qube.run("ip -6 addr show dev vpn0 scope global").stdout == ""
    qube.run(["nmcli", "connection", "down", connection.id])
    for secret in (LOGIN.splitlines()[1], "PRIVATE KEY"):
        assert secret not in qube.journal()


def _load(qube, name, text):
    """All that NetworkManager makes of a keyfile: section -> key -> value, secrets too."""
    path = f"{CONNECTIONS}/{name}"
    qube.write(path, text, 0o600)
    qube.run(["nmcli", "connection", "load", path])
    uuid = next(line[5:] for line in text.splitlines() if line.startswith("uuid="))
    shown = qube.run(["nmcli", "-t", "-f", "UUID,DBUS-PATH", "connection", "show"]).stdout
    place = dict(line.split(":", 1) for line in shown.splitlines())[uuid]
    told = _ask(qube, place, "GetSettings")
    for section in ("vpn", "wireguard"):
        if section in told:
            for key, value in _ask(qube, place, "GetSecrets", "s", section)[section].items():
                if key == "peers":
                    for peer, secrets in zip(told[section]["peers"], value, strict=True):
                        peer.update(secrets)
                else:
                    told[section][key] = value
    return told


def _ask(qube, place, *words):
    command = ["busctl", "--json=short", "call", "org.freedesktop.NetworkManager", place, SETTINGS]
    return _plain(json.loads(qube.run([*command, *words]).stdout)["data"][0])


def _plain(value):
    """D-Bus' values without their types."""
    if isinstance(value, dict) and set(value) == {"type", "data"}:
        return _plain(value["data"])
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _meant(text):
    """What a keyfile says, in the shapes of NetworkManager's D-Bus."""
    sections = {}
    for line in text.splitlines():
        if line.startswith("["):
            section = sections[line[1:-1]] = {}
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section[key] = value.replace("\\s", " ").replace("\\\\", "\\")
    peers = [name for name in sections if name.startswith("wireguard-peer.")]
    meant = {"peers": [_peer(name, sections[name]) for name in peers]}
    meant["connection"] = {**sections["connection"]}
    del meant["connection"]["autoconnect"]
    if "vpn" in sections:
        service = sections["vpn"].pop("service-type")
        meant["vpn"] = {"service-type": service, "data": sections["vpn"]}
        if sections["vpn-secrets"]:
            meant["vpn"]["secrets"] = sections["vpn-secrets"]
    else:
        meant["wireguard"] = {"private-key": sections["wireguard"]["private-key"]}
    return meant | {name: _addresses(sections[name]) for name in ("ipv4", "ipv6")}


def _peer(name, section):
    peer = {"public-key": name.partition(".")[2], **section}
    peer["allowed-ips"] = peer["allowed-ips"].rstrip(";").split(";")
    for key in {"preshared-key-flags", "persistent-keepalive"} & set(peer):
        peer[key] = int(peer[key])
    return peer


def _addresses(section):
    """The section of one IP version."""
    addresses = [section.pop(key) for key in list(section) if key.startswith("address")]
    pairs = [address.split("/") for address in addresses]
    section["address-data"] = [{"address": one, "prefix": int(bits)} for one, bits in pairs]
    for key, there in (("dns", "dns-data"), ("dns-search", "dns-search")):
        if key in section:
            section[there] = section.pop(key).rstrip(";").split(";")
    if "dns-priority" in section:
        section["dns-priority"] = int(section["dns-priority"])
    return section


def _connection(folder):
    """The qube's own reading of the profile, here: the bytes are what counts."""
    credentials = folder / "credentials"
    credentials.mkdir(mode=0o700)
    blocks = {
        "ca": "ca.crt",
        "cert": "client.crt",
        "key": "client.key",
        "tls-crypt": "tls-crypt.key",
    }
    inline = "".join(
        f"<{tag}>\n{(folder / file).read_text()}</{tag}>\n" for tag, file in blocks.items()
    )
    files = {"every.ovpn": OPTIONS + inline, "every.auth": LOGIN}
    files |= {name: (folder / name).read_text() for name in ("crl.pem", "ca.crt")}
    for name, text in files.items():
        (credentials / name).write_text(text)
        (credentials / name).chmod(0o600)
    pinned = [f"198.51.100.7:{port}/udp" for port in (1194, 1195)]
    return qubes_vpn_keyfile.connection(credentials, "every.ovpn", "vpn0", pinned)


def _server(lab, folder):
    """A server that asks for everything: certificates of a CA, a login, tls-crypt."""
    (folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index\ndefault_md=sha256\ncertificate=ca.crt\n"
        "private_key=ca.key\ndefault_crl_days=2\n"
    )
    (folder / "index").touch()
    new = "-nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 2"
    script = f"openssl req -x509 {new} -keyout ca.key -out ca.crt -subj /CN=ca\n"
    for end in ("server", "client"):
        usage = f"keyUsage=digitalSignature\\nextendedKeyUsage={end}Auth\\n"
        script += (
            f"openssl req {new} -keyout {end}.key -out {end}.csr -subj /CN={end}.example\n"
            f"printf '{usage}' >{end}.ext\n"
            f"openssl x509 -req -in {end}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2"
            f" -extfile {end}.ext -out {end}.crt\n"
        )
    script += (
        "openssl ca -config ca.cnf -gencrl -out crl.pem\nopenvpn --genkey secret tls-crypt.key\n"
    )
    subprocess.run(["sh", "-ec", script], cwd=folder, check=True, capture_output=True)
    check = folder / "check"
    check.write_text(f'#!/bin/sh\nprintf %s "$(cat "$1")" >{folder}/seen\n')
    check.chmod(0o755)
    words = f"""openvpn --cd {folder} --local 198.51.100.7 --port 1194 --proto udp4 --dev ovs7
        --dev-type tun --topology subnet --server 10.64.7.0 255.255.255.0 --dh none --ca ca.crt
        --cert server.crt --key server.key --tls-crypt tls-crypt.key --data-ciphers AES-256-GCM
        --comp-lzo no --script-security 2 --auth-user-pass-verify {check} via-file --tun-mtu 1400
        --keepalive 5 30"""
    null = subprocess.DEVNULL
    for port in ("1194", "1195"):
        own = words.replace("1194", port)
        if port == "1195":
            own = own.replace("ovs7", "ovs8").replace("10.64.7.0", "10.64.8.0")
        lab.internet.popen(own.split(), stdout=null, stderr=null)
    until = time.monotonic() + 10
    while not lab.internet.exists("/sys/class/net/ovs8"):
        assert time.monotonic() < until, "no server"
        time.sleep(0.05)
