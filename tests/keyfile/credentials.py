# SPDX-License-Identifier: GPL-2.0-or-later
"""A VPN qube's ``credentials/`` with made-up secrets, and the endpoints that go with it."""

import shutil
from pathlib import Path

import qubes_vpn_profile

PROFILES = Path(__file__).resolve().parent.parent / "profiles"

LOGIN = "planted-user-4711"
PASSWORD = "planted Pass;w\\ord #8Zq2 "
PINNED = "203.0.113.9:1194/udp"

_LABELS = {
    "ca of the provider.crt": "CERTIFICATE",
    "client.crt": "CERTIFICATE",
    "client.key": "PRIVATE KEY",
    "crl.pem": "X509 CRL",
    "ta.key": "OpenVPN Static key V1",
}
_BODY = "cGxhbnRlZCBzZWNyZXQgbGluZSBvZiBhIGZpbGU="


def pem(label: str) -> str:
    return f"-----BEGIN {label}-----\n{_BODY}\n-----END {label}-----\n"


#: Everything that a message must never repeat.
PLANTED = (LOGIN, PASSWORD.strip(), _BODY)

#: A profile to which a test adds a line; it is accepted as it is.
OPENVPN = f"""\
client
dev tun
remote 203.0.113.9 1194 udp
remote-cert-tls server
auth-user-pass login.txt
<ca>
{pem("CERTIFICATE")}</ca>
"""
_KEY = "cGxhbnRlZCBwcml2YXRlIGtleSBvZiAzMiBieXRlcyE="
WIREGUARD = f"""\
[Interface]
PrivateKey = {_KEY}
Address = 10.0.0.2/32

[Peer]
PublicKey = ZmFrZSBwdWJsaWMga2V5IDEuLi4uLi4uLi4uLi4uLi4=
AllowedIPs = 0.0.0.0/0
Endpoint = 203.0.113.9:1194
"""
PLANTED = (*PLANTED, _KEY)


def folder(place: Path) -> Path:
    """``credentials/`` with the files that profiles name, as strict as it has to be."""
    made = place / "credentials"
    made.mkdir(mode=0o700)
    for name, label in _LABELS.items():
        put(made, name, pem(label))
    for name in ("login.txt", "userpass.txt", "ivpn-names.auth"):
        put(made, name, f"{LOGIN}\n{PASSWORD}\n")
    for profile in PROFILES.iterdir():
        shutil.copy(profile, made)
        (made / profile.name).chmod(0o600)
    return made


def put(place: Path, name: str, content: str | bytes, mode: int = 0o600) -> Path:
    path = place / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def endpoints(path: Path) -> list[str]:
    """What ``init`` would have put into the pillar, with 198.51.100.N for the Nth name."""
    profile = qubes_vpn_profile.read(str(path))
    pinned = {
        host.name: [f"2001:db8::{at}" if host.version == 6 else f"198.51.100.{at}"]
        for at, host in enumerate(profile.hosts, 1)
    }
    return [found.text for found in profile.pinned(pinned).endpoints]
