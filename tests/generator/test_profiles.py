# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read from profiles in the shapes that providers hand out (R31, R32, R35)."""

import pytest
from generator.cases import PROFILES, secrets_of
from hypothesis import given
from hypothesis import strategies as st

import qubes_vpn_openvpn
import qubes_vpn_profile
from qubes_vpn_formula.errors import UserError
from qubes_vpn_openvpn_options import PROTOCOLS
from qubes_vpn_profile_data import Host, endpoint, port_number

EVERY = sorted(PROFILES.iterdir())
#: File -> provider, endpoints, host names.
READ = {
    "mullvad-se-mma-wg-001.conf": ("Mullvad", ["203.0.113.68:51820/udp"], []),
    "proton-se-12.conf": ("Proton VPN", ["203.0.113.12:51820/udp"], []),
    "ivpn-sweden.conf": ("IVPN", [], [Host("se1.wg.ivpn.net", 2049, "udp", 0, 10)]),
    "home.conf": ("", ["[2001:db8:44::1]:443/udp", "198.51.100.46:51821/udp"], []),
    "split.conf": ("", ["198.51.100.9:51820/udp"], []),
    "proton-inline-random.ovpn": (
        "Proton VPN",
        ["203.0.113.21:80/udp", "203.0.113.21:4569/udp", "203.0.113.22:80/udp"],
        [],
    ),
    "separate-files.ovpn": ("", ["203.0.113.31:1301/udp", "203.0.113.32:1302/udp"], []),
    # `port` and `proto` count for every remote that has none, wherever they stand.
    "ivpn-names.ovpn": (
        "IVPN",
        [],
        [
            Host("se.gw.ivpn.net", 2049, "tcp", 0, 5),
            Host("no.gw.ivpn.net", 443, "tcp", 0, 6),
            Host("se.gw.ivpn.net", 2049, "udp", 0, 7),
        ],
    ),
    "ipv6.ovpn": (
        "",
        ["[2001:db8:31::1]:1194/udp", "[2001:db8:31::2]:443/tcp"],
        [
            Host("dual.example.net", 1195, "udp", 0, 7),
            Host("six.example.net", 1196, "udp", 6, 8),
        ],
    ),
    # With <connection> blocks the other remotes do not count; what a block says goes over what
    # stood before it, and what stands after it does not count for it.
    "connections.ovpn": (
        "",
        ["203.0.113.41:8443/tcp", "203.0.113.42:1194/udp", "203.0.113.43:1196/tcp"],
        [],
    ),
}
#: File -> (line, key, danger) of each finding.
FINDINGS = {
    "mullvad-se-mma-wg-001.conf": [],
    "proton-se-12.conf": [],
    "ivpn-sweden.conf": [],
    "home.conf": [
        (8, "Table", True),
        (9, "FwMark", False),
        (10, "ListenPort", False),
        (11, "PreUp", True),
        (12, "PostUp", True),
        (13, "SaveConfig", False),
        (14, "Jc", False),
        (27, "Endpoint", False),
        (29, "Endpoint", False),
    ],
    "split.conf": [(2, "DNS", False), (8, "AllowedIPs", True), (8, "AllowedIPs", True)],
    "proton-inline-random.ovpn": [
        (23, "auth-user-pass", False),
        (24, "script-security", True),
        (25, "up", True),
        (26, "down", True),
        (36, "key", False),
    ],
    "separate-files.ovpn": [(12, "cert", False), (13, "key", False)],
    "ivpn-names.ovpn": [
        (11, "remote-random-hostname", False),
        (14, "auth-user-pass", False),
        (15, "block-outside-dns", False),
        (16, "register-dns", False),
    ],
    "ipv6.ovpn": [],
    "connections.ovpn": [
        (1, "remote-cert-tls", True),
        (6, "remote", False),
        (20, "route-nopull", True),
        (21, "pull-filter", True),
        (22, "route", True),
        (23, "comp-lzo", True),
        (24, "unheard-of", False),
    ],
}
SECRETS = {
    "home.conf": [("PrivateKey", 3), ("PresharedKey", 18)],
    "proton-inline-random.ovpn": [
        ("auth-user-pass: asked for at every start", 23),
        ("key", 36),
        ("tls-crypt", 44),
    ],
    "separate-files.ovpn": [
        ("auth-user-pass, in the file userpass.txt", 10),
        ("key, in the file keys/client.key", 13),
        ("tls-auth, in the file ta.key", 14),
    ],
}


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_reads(path):
    profile = qubes_vpn_profile.read(str(path))
    provider, endpoints, hosts = READ[path.name]
    assert (profile.kind, profile.name) == (
        "wireguard" if path.suffix == ".conf" else "openvpn",
        path.name,
    )
    assert profile.provider == provider
    assert [found.text for found in profile.endpoints] == endpoints
    assert list(profile.hosts) == hosts


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_names_what_is_unusual(path):
    """Nothing is dropped in silence: scripts, routes, compression, unknown options."""
    found = qubes_vpn_profile.read(str(path)).findings
    assert [(finding.line, finding.key, finding.danger) for finding in found] == FINDINGS[path.name]


@pytest.mark.parametrize("name", SECRETS)
def test_says_where_secrets_are(name):
    """R33: which secrets there are and on which line, and the files that belong in the qube."""
    profile = qubes_vpn_profile.read(str(PROFILES / name))
    assert [tuple(secret) for secret in profile.secrets] == SECRETS[name]
    if name == "separate-files.ovpn":
        assert [reference.path for reference in profile.files] == [
            "userpass.txt", "ca of the provider.crt", "keys/client.crt", "keys/client.key",
            "ta.key", "crl.pem",
        ]  # fmt: skip


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_keeps_no_secret(path):
    """R33: no value of a secret is in the object, so nothing made of it can show one."""
    secrets = secrets_of(path)
    assert secrets or path.name in ("separate-files.ovpn",)
    held = repr(qubes_vpn_profile.read(str(path)))
    assert not [secret for secret in secrets if secret in held]


def test_pins_names(tmp_path):
    """R35: every address for a name is pinned, of the IP version that its protocol asks for."""
    profile = qubes_vpn_profile.read(str(PROFILES / "ipv6.ovpn"))
    pinned = profile.pinned(
        {
            "dual.example.net": ["198.51.100.1", "2001:db8::1"],
            "six.example.net": ["198.51.100.2", "2001:db8::2"],
        }
    )
    assert [found.text for found in pinned.endpoints[2:]] == [
        "198.51.100.1:1195/udp",
        "[2001:db8::1]:1195/udp",
        "[2001:db8::2]:1196/udp",
    ]
    with pytest.raises(UserError, match=r"no IPv6 address for six\.example\.net"):
        profile.pinned({"dual.example.net": ["192.0.2.1"], "six.example.net": ["192.0.2.1"]})


@given(
    # Addresses that no VPN server has lie outside: tests/bad/pillars/endpoint-no-server.yml
    st.ip_addresses(network="192.0.0.0/8") | st.ip_addresses(network="2000::/3"),
    st.integers(1, 65535),
    st.sampled_from(sorted(PROTOCOLS)),
)
def test_openvpn_remote_becomes_its_endpoint(address, port, proto):
    """R35: what OpenVPN would connect to is what gets pinned, for any address, port, protocol."""
    name, version = PROTOCOLS[proto]
    lines = ["client", "dev tun", f"remote {address} {port} {proto}", "ca a", "remote-cert-tls x"]
    parsed = [qubes_vpn_openvpn.parse, lines, "x.ovpn"]
    if version not in (0, address.version):
        with pytest.raises(UserError, match="is not an IPv"):
            parsed[0](*parsed[1:])
        return
    found = parsed[0](*parsed[1:]).endpoints
    host = f"[{address}]" if address.version == 6 else str(address)
    assert [one.text for one in found] == [f"{host}:{port}/{name}"]


@pytest.mark.parametrize(
    ("text", "port"),
    [("1", 1), ("65535", 65535), ("0", None), ("65536", None), ("", None), ("٣", None)]
    + [(text, None) for text in ("-1", "1.0", "0x1", " 1", "1_0", "http", "9" * 5000)],
)
def test_ports(text, port):
    """A port is 1 to 65535 in plain digits, and nothing else."""
    assert port_number(text) == port


def test_endpoint_refuses_what_is_no_server():
    with pytest.raises(UserError, match="cannot be a VPN server"):
        endpoint("::1", 443, "tcp", "")


_CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["drop", "double", "cut", "join", "strip", "swap"]), st.integers(0, 60)
    ),
    min_size=1,
    max_size=4,
)


def _damaged(text, changes):
    for change, place in changes:
        lines = text.split("\n")
        place %= len(lines)
        line = lines[place]
        if change == "cut":
            text = text[: max(1, len(text) * place // 60)]
            continue
        lines[place : place + 1] = {
            "drop": [],
            "double": [line, line],
            "join": [line + " "],
            "strip": [line.partition("=")[2] or line[1:]],
            "swap": [line.replace("=", ":").replace("<", "")],
        }[change]
        text = "\n".join(lines)
    return text


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
@given(changes=_CHANGES)
def test_damaged_profiles_give_a_message_and_no_secret(path, tmp_path_factory, changes):
    """R33: whatever is missing or out of place, no piece of a secret is shown, no traceback."""
    secrets = secrets_of(path)
    file = tmp_path_factory.getbasetemp() / path.name
    text = path.read_text(encoding="utf-8-sig")
    file.write_text(_damaged(text, changes), encoding="utf-8")
    try:
        shown = repr(qubes_vpn_profile.read(str(file)))
    except UserError as error:
        shown = str(error)
    pieces = {secret[at : at + 16] for secret in secrets for at in range(len(secret) - 15)}
    assert not [piece for piece in pieces if piece in shown]
