# SPDX-License-Identifier: GPL-2.0-or-later
"""What NetworkManager is told about a provider's profile (R31, R32, R35).

The files in golden/ are what `connection` makes of tests/profiles; test_networkmanager.py in
tests/lab hands them, and a connection that comes up, to the real NetworkManager of Debian 13.
"""

import configparser

import pytest
from keyfile import credentials
from keyfile.conftest import reading_only
from keyfile.credentials import OPENVPN, PASSWORD, PINNED, PROFILES, WIREGUARD, endpoints, put

import qubes_vpn_keyfile
import qubes_vpn_keyfile_openvpn
import qubes_vpn_openvpn_options as tables
from qubes_vpn_error import UserError

GOLDEN = PROFILES.parent / "keyfile/golden"
#: Profiles that the qube refuses, and why.
REFUSED = {
    "connections.ovpn": ["24: unheard-of: unknown option"],
    "home.conf": ["11: PreUp: a program", "12: PostUp: a program", "14: Jc: unknown key"],
    "proton-inline-random.ovpn": ["25: up: a program", "26: down: a program", "36: key: cert is"],
}
ACCEPTED = sorted(path.name for path in PROFILES.iterdir() if path.name not in REFUSED)


def made(folder, name, pinned=None):
    pinned = endpoints(folder / name) if pinned is None else pinned
    with reading_only():
        return qubes_vpn_keyfile.connection(folder, name, "vpn0", pinned)


def sections(folder, name, text, pinned=(PINNED,)):
    """The keyfile of a profile *text* as mappings."""
    put(folder, name, text)
    parser = configparser.RawConfigParser(delimiters="=", comment_prefixes="#")
    parser.optionxform = str
    parser.read_string(made(folder, name, pinned).text)
    return {section: dict(parser[section]) for section in parser.sections()}


def vpn(folder, *lines):
    return sections(folder, "x.ovpn", OPENVPN + "\n".join(lines) + "\n")["vpn"]


@pytest.mark.parametrize("name", ACCEPTED)
def test_golden(folder, name):
    text = made(folder, name).text
    assert text == (GOLDEN / f"{name}.nmconnection").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(folder, name):
    """Every reason at once, each with its line."""
    with pytest.raises(UserError) as caught:
        made(folder, name)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(REFUSED[name])
    for line, reason in zip(lines, REFUSED[name], strict=True):
        assert line.startswith(f"{folder / name}:{reason}")


def test_says_what_a_user_should_know(folder):
    """The findings of the profile, and those of making a keyfile of it."""
    put(folder, "x.ovpn", OPENVPN + "tls-groups X25519\nmssfix 1300 mtu\nredirect-private\n")
    assert [(found.key, found.danger) for found in made(folder, "x.ovpn", [PINNED]).findings] == [
        ("tls-groups", False),
        ("mssfix", False),
        ("redirect-private", True),
    ]


#: A line that weakens OpenVPN and with which it is taken; what is named, None for nothing.
WEAK = {
    "cipher BF-CBC": "64-bit blocks",
    "data-ciphers AES-256-GCM:DES-EDE3-CBC": "64-bit blocks",
    "auth MD5": "an old hash",
    "tls-version-min 1.0": "TLS 1.0, which is broken",
    "tls-version-min 1.1 or-highest": "TLS 1.1, which is broken",
    "tls-cipher DEFAULT:@SECLEVEL=1": "weaker keys and hashes",
    "tls-cert-profile insecure": "a weak certificate; it is not taken over",
    "tls-cert-profile legacy": "a weak certificate; it is not taken over",
    "no-replay": "packets could be sent again",
    "cipher AES-256-CBC": None,
    "data-ciphers ?AES-256-GCM:CHACHA20-POLY1305": None,
    "auth SHA1": None,
    "tls-version-min 1.2": None,
    "tls-version-max 1.3": None,
    "tls-cipher DEFAULT:!EXP:!LOW:!aNULL:-RC4:@SECLEVEL=2": None,
    "tls-cipher TLS-ECDHE-RSA-WITH-AES-256-GCM-SHA384": None,
}


@pytest.mark.parametrize("line", WEAK)
def test_says_what_weakens_the_tunnel(folder, line):
    """What takes the protection away altogether is refused: test_hostile.py."""
    put(folder, "x.ovpn", f"{OPENVPN}{line}\n")
    dangers = [found.what for found in made(folder, "x.ovpn", [PINNED]).findings if found.danger]
    assert len(dangers) == bool(WEAK[line])
    assert (WEAK[line] or "") in "".join(dangers)


def test_same_names_on_every_machine(folder, tmp_path_factory):
    other = credentials.folder(tmp_path_factory.mktemp("other"))
    name = "proton-se-12.conf"
    one, two = made(folder, name), made(other, name)
    assert (one.uuid, one.id) == (two.uuid, two.id)
    assert (one.uuid, one.id) == ("78a9abe7-03d5-5bd3-a748-c4cbd7f0e807", f"qubes-vpn-{name}")
    assert one.uuid != made(folder, "ivpn-sweden.conf").uuid


@pytest.mark.parametrize("name", ACCEPTED)
def test_shows_no_secret(folder, name):
    """R33: what is printed or logged of a connection holds none."""
    connection = made(folder, name)
    for secret in credentials.PLANTED:
        assert secret not in repr(connection)
    assert "PRIVATE KEY" not in repr(connection)
    assert "private-key" not in repr(connection)


class TestEndpoints:
    """R35: only what is pinned, nothing looked up."""

    @pytest.mark.parametrize("name", ACCEPTED)
    def test_every_server_is_pinned(self, folder, name):
        with pytest.raises(UserError, match="endpoint") as caught:
            made(folder, name, ["203.0.113.250:51820/udp"])
        assert "203.0.113.250:51820/udp" in str(caught.value)

    def test_both_are_named(self, folder):
        put(folder, "x.conf", WIREGUARD)
        with pytest.raises(UserError) as caught:
            made(folder, "x.conf", ["203.0.113.8:1194/udp", "203.0.113.9:1194/tcp"])
        assert str(caught.value).startswith(
            f"{folder / 'x.conf'}:8: Endpoint: 203.0.113.9:1194/udp is not among the endpoints "
            "203.0.113.8:1194/udp, 203.0.113.9:1194/tcp. If the provider has moved it, "
        )

    def test_a_network_or_a_range_of_ports_counts(self, folder):
        put(folder, "x.conf", WIREGUARD)
        assert made(folder, "x.conf", ["203.0.113.0/28:1190-1199/udp"])

    def test_a_name_becomes_its_addresses(self, folder):
        text = OPENVPN.replace("203.0.113.9 1194 udp", "Vpn.example 1194 udp")
        pinned = [PINNED, "[2001:db8::9]:1194/udp", "203.0.113.7:443/tcp"]
        remote = sections(folder, "x.ovpn", text, pinned)["vpn"]["remote"]
        assert remote == "203.0.113.9:1194:udp, [2001:db8::9]:1194:udp"

    def test_a_peer_has_one_server(self, folder):
        text = WIREGUARD.replace("203.0.113.9:", "vpn.example:")
        both = [PINNED, "[2001:db8::9]:1194/udp"]
        found = sections(folder, "x.conf", text, both)
        peer = next(found[name] for name in found if name.startswith("wireguard-peer."))
        assert peer["endpoint"] == "203.0.113.9:1194"
        with pytest.raises(UserError, match=r"may be any of 203\.0\.113\.9, 203\.0\.113\.8"):
            made(folder, "x.conf", [*both, "203.0.113.8:1194/udp"])


class TestEverythingGoesIntoTheTunnel:
    def test_halves_of_the_internet_are_all_of_it(self, folder):
        """NetworkManager gives the default route to 0.0.0.0/0, not to its halves."""
        text = WIREGUARD.replace("0.0.0.0/0", "0.0.0.0/1, 128.0.0.0/1")
        found = sections(folder, "x.conf", text)
        peer = next(found[name] for name in found if name.startswith("wireguard-peer."))
        assert peer["allowed-ips"] == "0.0.0.0/0;"

    def test_no_ipv6_without_an_address_of_it(self, folder):
        text = WIREGUARD.replace("10.0.0.2/32", "10.0.0.2/32\nDNS = 10.0.0.1, fd00::1, lan.example")
        found = sections(folder, "x.conf", text)
        assert found["ipv6"] == {"method": "disabled"}
        assert found["ipv4"]["dns"] == "10.0.0.1;"
        assert found["ipv4"]["dns-search"] == "~.;lan.example;"
        assert "fd00::1 cannot be asked" in made(folder, "x.conf", [PINNED]).findings[0].what

    def test_openvpn_can_leave_ipv6_out(self, folder):
        assert sections(folder, "x.ovpn", OPENVPN)["ipv6"]["method"] == "auto"
        text = f"{OPENVPN}block-ipv6\n"
        assert sections(folder, "x.ovpn", text)["ipv6"] == {"method": "disabled"}

    @pytest.mark.parametrize("line", ["route-nopull", "redirect-private", "route 10.0.0.0"])
    def test_no_route_of_the_profiles_own(self, folder, line):
        found = sections(folder, "x.ovpn", f"{OPENVPN}{line}\n")
        assert found["ipv4"] == {"method": "auto", "dns-priority": "-50", "dns-search": "~.;"}

    def test_resolvers_of_the_profile(self, folder):
        text = f"{OPENVPN}dhcp-option DNS 10.0.0.1\ndhcp-option DNS6 fd00::1\n"
        found = sections(folder, "x.ovpn", text)
        assert (found["ipv4"]["dns"], found["ipv6"]["dns"]) == ("10.0.0.1;", "fd00::1;")


class TestWireGuard:
    def test_public_key_as_networkmanager_writes_it(self, folder):
        """A key whose last bits are not zero names the same peer; NetworkManager would drop it."""
        text = WIREGUARD.replace("Li4uLi4uLi4=", "Li4uLi4uLi5=")
        assert "wireguard-peer.ZmFrZSBwdWJsaWMga2V5IDEuLi4uLi4uLi4uLi4uLi4=" in sections(
            folder, "x.conf", text
        )

    def test_two_peers_with_one_key(self, folder):
        put(folder, "x.conf", WIREGUARD + WIREGUARD[WIREGUARD.index("[Peer]") :])
        with pytest.raises(UserError, match=r"conf:10: PublicKey: another \[Peer\]"):
            made(folder, "x.conf", [PINNED])

    def test_the_rest(self, folder):
        text = WIREGUARD.replace("\n\n[Peer]", "\nMTU = 1380\n\n[Peer]\nPersistentKeepalive = 25")
        found = sections(folder, "x.conf", text)
        assert found["wireguard"]["mtu"] == "1380"
        peer = next(found[name] for name in found if name.startswith("wireguard-peer."))
        assert peer["persistent-keepalive"] == "25"


class TestOpenVPN:
    @pytest.mark.parametrize(
        ("line", "properties"),
        {
            "auth SHA512": {"auth": "SHA512"},
            "data-ciphers AES-256-GCM:?CHACHA20-POLY1305": {
                "data-ciphers": "AES-256-GCM:?CHACHA20-POLY1305"
            },
            "ncp-ciphers AES-256-GCM:AES-128-GCM": {"data-ciphers": "AES-256-GCM:AES-128-GCM"},
            "tls-version-min 1.2 or-highest": {
                "tls-version-min": "1.2",
                "tls-version-min-or-highest": "yes",
            },
            "keepalive 10 60": {"ping": "10", "ping-restart": "60"},
            "server-poll-timeout 4": {"connect-timeout": "4"},
            "tun-mtu 1400": {"tunnel-mtu": "1400"},
            "mssfix": {"mssfix": "yes"},
            "mssfix 0": {"mssfix": "0"},
            "comp-lzo no": {"comp-lzo": "no-by-default"},
            "comp-lzo": {"comp-lzo": "adaptive"},
            "compress": {"compress": "yes"},
            "compress lz4-v2": {"compress": "lz4-v2"},
            "allow-compression yes": {"allow-compression": "asym"},
            "verify-x509-name server.example name": {"verify-x509-name": "name:server.example"},
            "verify-x509-name 'C=SE, CN=x:y'": {"verify-x509-name": "subject:C=SE, CN=x:y"},
            "remote-random": {"remote-random": "yes"},
            "explicit-exit-notify": {"remote": "203.0.113.9:1194"},
            "setenv opt reneg-sec 60": {"reneg-seconds": "60"},
        }.items(),
    )
    def test_mapped(self, folder, line, properties):
        plain = vpn(folder)
        assert vpn(folder, line) == {**plain, **properties}

    def test_login(self, folder):
        found = sections(folder, "x.ovpn", OPENVPN)
        assert found["vpn"]["connection-type"] == "password"
        assert found["vpn"]["username"] == credentials.LOGIN
        written = found["vpn-secrets"]["password"]
        assert written == PASSWORD.replace("\\", "\\\\").replace("2 ", "2\\s")

    def test_login_beside_the_profile(self, folder):
        put(folder, "x.auth", "someone\r\nsome thing\r\n")
        text = OPENVPN.replace("auth-user-pass login.txt", "auth-user-pass")
        found = sections(folder, "x.ovpn", text)
        assert (found["vpn"]["username"], found["vpn-secrets"]["password"]) == (
            "someone",
            "some thing",
        )

    def test_login_in_the_profile(self, folder):
        inside = "<auth-user-pass>\nsomeone\nsome thing\n</auth-user-pass>"
        found = sections(folder, "x.ovpn", OPENVPN.replace("auth-user-pass login.txt", inside))
        assert found["vpn-secrets"]["password"] == "some thing"

    def test_files_and_blocks_become_files(self, folder):
        """NetworkManager takes paths only."""
        put(
            folder,
            "x.ovpn",
            f"{OPENVPN}cert client.crt\nkey client.key\nkey-direction 1\n"
            f"<tls-auth>\n{credentials.pem('OpenVPN Static key V1')}</tls-auth>\n",
        )
        connection = made(folder, "x.ovpn", [PINNED])
        place = f"/run/qubes-vpn/{connection.uuid}"
        assert set(connection.files) == {
            f"{place}/{name}" for name in ("ca", "cert", "key", "tls-auth")
        }
        assert connection.files[f"{place}/key"] == (folder / "client.key").read_bytes()
        assert connection.files[f"{place}/ca"] == credentials.pem("CERTIFICATE").encode()
        for line in (f"ta={place}/tls-auth", "ta-dir=1", "connection-type=password-tls"):
            assert line in connection.text.splitlines()

    def test_a_key_with_a_password(self, folder):
        put(folder, "client.key", credentials.pem("ENCRYPTED PRIVATE KEY"))
        lines = ["cert client.crt", "key client.key"]
        with pytest.raises(UserError, match=r"key: it is encrypted\. Add 'askpass FILE'"):
            vpn(folder, *lines)
        put(folder, "key.pass", "open sesame\n")
        text = OPENVPN + "\n".join([*lines, "askpass key.pass", ""])
        found = sections(folder, "x.ovpn", text)
        assert found["vpn-secrets"]["cert-pass"] == "open sesame"
        assert found["vpn"]["cert-pass-flags"] == "0"

    def test_blocks_of_connections(self, folder):
        block = "<connection>\nremote 203.0.113.9 1194 udp\nconnect-timeout 7\n</connection>"
        found = vpn(folder, block)
        assert (found["remote"], found["connect-timeout"]) == ("203.0.113.9:1194:udp", "7")

    def test_crlf(self, folder):
        put(folder, "y.ovpn", OPENVPN.replace("\n", "\r\n"))
        put(folder, "x.ovpn", OPENVPN)
        one, two = made(folder, "x.ovpn", [PINNED]), made(folder, "y.ovpn", [PINNED])
        assert one.text.replace("x.ovpn", "y.ovpn").replace(one.uuid, two.uuid) == two.text


#: valid_properties of src/nm-openvpn-service.c 1.12.3, as far as we use them.
PROPERTIES = """
    allow-compression auth ca cert cert-pass-flags cipher comp-lzo compress connect-timeout
    connection-type crl-verify-file data-ciphers data-ciphers-fallback dev dev-type extra-certs
    fragment-size key mssfix mtu-disc ns-cert-type password-flags ping ping-exit ping-restart
    push-peer-info remote remote-cert-tls remote-random reneg-seconds ta ta-dir tls-cipher
    tls-crypt tls-crypt-v2 tls-version-max tls-version-min tls-version-min-or-highest
    tunnel-mtu username verify-x509-name
"""


class TestTables:
    """No option is lost in silence."""

    GROUPS = (
        set(tables.NAMED),
        set(tables.REFUSED),
        set(tables.NUMBERS),
        set(tables.WORDS),
        set(tables.FLAGS),
        set(tables.FILE_PROPERTIES),
        tables.SPECIAL,
        *tables.HARMLESS.values(),
    )
    PROPERTIES = frozenset(PROPERTIES.split())

    def test_each_option_has_one_place(self):
        every = [name for group in self.GROUPS for name in group]
        assert sorted(every) == sorted(set(every))

    def test_each_option_has_a_place(self):
        every = set().union(*self.GROUPS)
        assert every >= tables.QUIET
        assert set(tables.FILES) <= every

    def test_each_special_option_has_its_code(self):
        read_by_the_profile = {
            "connection", "dev", "dev-type", "ignore-unknown-option", "port", "proto",
            "proto-force", "remote", "rport",
        }  # fmt: skip
        coded = set(qubes_vpn_keyfile_openvpn._SPECIAL)
        assert (coded - {"comp-lzo", "compress"}) | read_by_the_profile == tables.SPECIAL

    def test_only_properties_that_networkmanager_has(self, folder):
        for table in (tables.NUMBERS, tables.WORDS, tables.FLAGS, tables.FILE_PROPERTIES):
            assert set(table.values()) <= self.PROPERTIES
        for path in PROFILES.glob("*.ovpn"):
            if path.name in ACCEPTED:
                text = made(folder, path.name).text
                keys = {line.split("=")[0] for line in _section(text, "vpn")}
                assert keys <= self.PROPERTIES | {"service-type"}


def _section(text, name):
    return [line for line in text.split(f"[{name}]\n")[1].split("\n\n")[0].splitlines() if line]
