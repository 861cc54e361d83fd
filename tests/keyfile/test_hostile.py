# SPDX-License-Identifier: GPL-2.0-or-later
"""Broken and hostile profiles in a VPN qube: one clear refusal, and nothing done (R32, R33).

Nothing is written, executed or asked of the network while they are read (conftest.py watches), and
no secret is in the message.
"""

import os
import re
import shutil

import pytest
from generator.cases import BAD, secrets_of
from hypothesis import given
from hypothesis import strategies as st
from keyfile import credentials
from keyfile.conftest import reading_only
from keyfile.credentials import OPENVPN, PINNED, PLANTED, PROFILES, WIREGUARD, endpoints, put

import qubes_vpn_keyfile
from qubes_vpn_error import UserError

#: The files under tests/bad/profiles, which the generator refuses with the messages beside them.
BROKEN = sorted(path.name for path in BAD.iterdir() if path.suffix in (".conf", ".ovpn", ".txt"))
#: Only the generator's: there nothing is pinned yet.
NAMES = ("ovpn-host-names.ovpn", "wg-host-name.conf")

#: A line more in OPENVPN -> its option and what is said of it.
LINES = {
    # Programs.
    "up '/bin/sh -c \"touch owned\"'": "up: a program that would run",
    "down /bin/owned": "down: a program that would run",
    "--route-up owned": "route-up: a program that would run",
    "route-pre-down owned": "route-pre-down: a program that would run",
    "ipchange owned": "ipchange: a program that would run",
    "tls-verify owned": "tls-verify: a program that would run",
    "iproute /bin/owned": "iproute: a program that would run",
    "plugin /tmp/owned.so": "plugin: a program that would run",
    "auth-user-pass-verify owned via-file": "auth-user-pass-verify: a program that would run",
    "learn-address owned": "learn-address: a program that would run",
    "dns-updown owned": "dns-updown: a program that would run",
    "setenv opt up owned": "up: a program that would run",
    "<connection>\nremote 203.0.113.9 1194\nup owned\n</connection>": "up: a program that would",
    "script-security 3": "script-security: lets programs of the profile run",
    "engine owned": "engine: a key on a device",
    "providers legacy /tmp/owned.so": "providers: a key on a device",
    "pkcs11-providers /tmp/owned.so": "pkcs11-providers: a key on a device",
    "management 127.0.0.1 7505": "management: another program would control the tunnel",
    "management-client": "management-client: another program would control the tunnel",
    "config other.ovpn": "config: another file is read",
    # Files that lie elsewhere.
    "ca ../../../../etc/passwd": "ca: a file in a folder of its own choice",
    "ca certs/../../x": "ca: a file in a folder of its own choice",
    "ca /etc/shadow": "ca: a file in a folder of its own choice",
    "ca ~/.ssh/id_rsa": "ca: a file in a folder of its own choice",
    r"ca '..\..\x'": "ca: a file in a folder of its own choice",
    r"ca 'C:\keys\x'": "ca: a file in a folder of its own choice",
    "auth-user-pass ../../etc/shadow": "auth-user-pass: a file in a folder of its own choice",
    "auth-user-pass /etc/shadow": "auth-user-pass: a file in a folder of its own choice",
    "extra-certs '$(touch owned)'": "extra-certs: the pillar cannot hold this file's name",
    "extra-certs 'x;touch owned'": "extra-certs: the pillar cannot hold this file's name",
    "extra-certs folder/": "extra-certs: the pillar cannot hold this file's name",
    "extra-certs": "extra-certs: it names no file",
    "extra-certs missing.crt": "extra-certs: there is no ",
    "extra-certs login.txt": "extra-certs: there is no '-----BEGIN ... CERTIFICATE ...-----' in it",
    "tls-auth client.crt": "tls-auth: there is no '-----BEGIN ... OpenVPN Static key",
    "crl-verify crl.pem dir": "crl-verify: a folder; NetworkManager takes one file",
    "capath folder": "capath: a folder of certificates",
    "pkcs12 client.p12": "pkcs12: certificates and key in one file",
    "secret static.key": "secret: a static key",
    # No secret that somebody would have to type.
    "askpass": "askpass: asks at every start",
    "static-challenge 'a code' 1": "static-challenge: asks for a code at every start",
    # Servers and checks.
    "remote 203.0.113.66 1194": "remote: 203.0.113.66:1194/udp is not among the endpoints",
    "remote 203.0.113.9 1194 tcp": "remote: 203.0.113.9:1194/tcp is not among the endpoints",
    "remote nowhere.example 443": "no endpoint is that of nowhere.example, port 443/udp",
    "remote $(touch${IFS}owned) 1194": "remote: '$(touch${IFS}owned)' is neither an address",
    "remote-cert-tls client": "remote-cert-tls: only 'server' makes sure",
    "remote-cert-eku x": "remote-cert-eku: a check of the server's certificate",
    "verify-hash 00:11": "verify-hash: a check of the server's certificate",
    "peer-fingerprint 00:11": "peer-fingerprint: a check of the server's certificate",
    "verify-x509-name x strange": "verify-x509-name: not 'verify-x509-name NAME",
    "http-proxy 192.0.2.1 8080": "http-proxy: a proxy stands between",
    "cipher none": "cipher: 'none' means no encryption",
    "data-ciphers AES-256-GCM:none": "data-ciphers: 'none' means no encryption",
    "data-ciphers AES-256-GCM:?none": "data-ciphers: 'none' means no encryption",
    "auth none": "auth: packets are not authenticated",
    "tls-version-max 1.1": "tls-version-max: TLS 1.1 at most, which is broken",
    "tls-cipher DEFAULT:@SECLEVEL=0": "tls-cipher: OpenSSL takes keys and hashes of any",
    "tls-cipher ECDHE-RSA-AES256-GCM-SHA384:aNULL": "tls-cipher: TLS ciphers without",
    "tls-cipher TLS-ECDH-anon-WITH-AES-256-CBC-SHA": "tls-cipher: TLS ciphers without",
    "dhcp-option DNS 10.139.1.1": "dhcp-option: 10.139.1.1 cannot be inside a tunnel: 10.139.0.0/",
    # What NetworkManager would read in its own way, or OpenVPN as an option more.
    "cipher --float": "cipher: not one plain word",
    "auth -x": "auth: not one plain word",
    "verify-x509-name --log name": "verify-x509-name: not 'verify-x509-name NAME",
    "auth 'SHA1\\n[connection]'": "auth: not one plain word",
    "cipher 'AES;touch owned'": "cipher: not one plain word",
    "dev tap": "dev: only 'tun' is supported",
    "reneg-sec -1": "reneg-sec: '-1' is not a number",
    "tun-mtu 99999999999": "tun-mtu: '99999999999' is not a number",
    "keepalive 10": "keepalive: not 'keepalive SECONDS SECONDS'",
    "key-direction 2": "key-direction: neither 0 nor 1",
    "ifconfig 10.0.0.2 10.0.0.1": "ifconfig: addresses of its own",
    "allow-deprecated-insecure-static-crypto": "(a key not shown): unknown option",
    "setenv" + " opt" * 17: "more than 16 words on a line",
}


def refusal(folder, name, pinned=(PINNED,)):
    """The message with which *name* is refused; nothing is done and no secret shown."""
    before = _listing(folder)
    with reading_only(), pytest.raises(UserError) as caught:
        qubes_vpn_keyfile.connection(folder, name, "vpn0", pinned)
    assert _listing(folder) == before
    message = str(caught.value)
    for secret in PLANTED:
        assert secret not in message
    return message


def _listing(folder):
    return sorted((path.name, path.lstat().st_mtime_ns) for path in folder.iterdir())


def test_there_are_enough():
    """The issue asks for 30."""
    assert len(LINES) + len(BROKEN) > 90


def test_what_is_added_to_is_fine(folder):
    for name, text in (("x.ovpn", OPENVPN), ("x.conf", WIREGUARD)):
        put(folder, name, text)
        assert qubes_vpn_keyfile.connection(folder, name, "vpn0", [PINNED])


@pytest.mark.parametrize("name", sorted(set(BROKEN) - set(NAMES)))
def test_broken_as_for_the_generator(folder, name):
    """One reader, one message."""
    shutil.copy(BAD / name, folder)
    (folder / name).chmod(0o600)
    expected = (BAD / f"{name}.expected").read_text(encoding="utf-8").strip()
    message = refusal(folder, name)
    assert message == f"{folder}/{expected}"
    for secret in secrets_of(BAD / name):
        assert secret not in message


@pytest.mark.parametrize("line", LINES)
def test_hostile_line(folder, line):
    put(folder, "x.ovpn", OPENVPN + line + "\n")
    message = refusal(folder, "x.ovpn")
    assert "\n" not in message
    assert re.fullmatch(rf"{folder}/x\.ovpn(:\d+)?: {re.escape(LINES[line])}.*", message)


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("up /etc/openvpn/update-resolv-conf", "NetworkManager sets addresses, routes and DNS"),
        ("management 127.0.0.1 7505", "Remove the line."),
        ("unheard-of yes", "Remove the line, or mend its spelling."),
        ("auth-user-pass /config/login.txt", "write its bare name: auth-user-pass NAME."),
        ("dev tap", "Write 'dev tun', if the server has that too."),
        ("remote-cert-tls client", "Write 'remote-cert-tls server'."),
        ("tls-cipher DEFAULT:@SECLEVEL=0", "SECLEVEL=0. Remove the line: a server whose"),
        ("cipher none", "change it, or ask the provider for another one."),
        ("PostUp = iptables -I OUTPUT -j REJECT", "Remove the line: the killswitch does not need"),
        ("Jc = 4", "take the provider's profile for plain WireGuard."),
    ],
)
def test_what_to_do_is_said(folder, line, fix):
    """Providers ship some of these (Proton: update-resolv-conf, Mullvad: PostUp)."""
    if " = " in line:
        put(folder, "x.conf", WIREGUARD.replace("\n\n", f"\n{line}\n\n"))
        assert fix in refusal(folder, "x.conf")
        return
    put(folder, "x.ovpn", OPENVPN + line + "\n")
    assert fix in refusal(folder, "x.ovpn")


@pytest.mark.parametrize("line", ["keysize 256", "key-method 2", "ncp-disable"])
def test_what_no_release_knows_any_more_is_passed_over(folder, line):
    """Providers' older profiles have them; NetworkManager never hands them to OpenVPN."""
    put(folder, "x.ovpn", OPENVPN + line + "\n")
    assert qubes_vpn_keyfile.connection(folder, "x.ovpn", "vpn0", [PINNED])


@pytest.mark.parametrize("key", ["PreUp", "PostUp", "PreDown", "PostDown"])
def test_hostile_wireguard(folder, key):
    put(folder, "x.conf", WIREGUARD.replace("\n\n", f"\n{key} = touch owned\n\n"))
    assert f"x.conf:4: {key}: a program that would run as root" in refusal(folder, "x.conf")


@pytest.mark.parametrize(
    "name",
    ["../x.conf", "/etc/x.conf", "x;y.conf", "$(x).conf", "-x.conf", "x\ny.conf", "", "é.conf"],
)
def test_hostile_name(folder, name):
    assert "the pillar cannot hold this file's name" in refusal(folder, name)


@pytest.mark.parametrize("interface", ["eth0", "vif1.0", "lo", "a;b", "../x", "x" * 16, ""])
def test_hostile_interface(folder, interface):
    put(folder, "x.conf", WIREGUARD)
    with pytest.raises(UserError, match=r"interface|is not a tunnel"):
        qubes_vpn_keyfile.connection(folder, "x.conf", interface, [PINNED])


@pytest.mark.parametrize("name", ["login.txt", "x.ovpn"])
class TestFiles:
    """A secret that others could read is refused, with what to type; so is what is no file."""

    @pytest.fixture(autouse=True)
    def _profile(self, folder):
        put(folder, "x.ovpn", OPENVPN)

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o602, 0o4610])
    def test_open_to_others(self, folder, name, mode):
        (folder / name).chmod(mode)
        message = refusal(folder, "x.ovpn")
        assert message.startswith(
            f"{folder / name}: others than root may open it (mode {mode:04o})."
        )
        assert message.endswith(f"Type: sudo chmod 600 {folder / name}")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
    def test_another_users(self, folder, name):
        os.chown(folder / name, 65534, 65534)
        assert f"Type: sudo chown root:root {folder / name}" in refusal(folder, "x.ovpn")

    def test_link(self, folder, name, tmp_path):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
        assert refusal(folder, "x.ovpn").startswith(f"{folder / name}: a link")

    @pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
    def test_no_file(self, folder, name, kind):
        (folder / name).unlink()
        if kind == "pipe":
            os.mkfifo(folder / name, 0o600)
        elif kind == "folder":
            (folder / name).mkdir(0o700)
        elif os.geteuid():
            pytest.skip("only root makes devices")
        else:
            os.mknod(folder / name, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
        assert refusal(folder, "x.ovpn").startswith(f"{folder / name}: not an ordinary file")

    def test_huge(self, folder, name):
        put(folder, name, "# comment\n" * 30_000)
        assert f"{folder / name}: larger than 256 KiB" in refusal(folder, "x.ovpn")

    def test_binary(self, folder, name):
        put(folder, name, bytes(range(256)))
        assert f"{folder / name}: this is a binary file" in refusal(folder, "x.ovpn")

    def test_missing(self, folder, name):
        (folder / name).unlink()
        assert f"there is no {folder / name}" in refusal(folder, "x.ovpn")


@pytest.mark.parametrize(
    "content", ["", "\n", "planted-user-4711", "planted-user-4711\n\n", "a\n\x1b\n"]
)
def test_login_of_less_than_two_lines(folder, content):
    put(folder, "x.ovpn", OPENVPN)
    put(folder, "login.txt", content)
    assert "x.ovpn:5: auth-user-pass: the " in refusal(folder, "x.ovpn")


def test_no_login(folder):
    put(folder, "x.ovpn", OPENVPN.replace("auth-user-pass login.txt", "auth-user-pass"))
    assert refusal(folder, "x.ovpn") == (
        f"{folder}/x.ovpn:5: auth-user-pass: there is no {folder}/x.auth. "
        f"Copy it to {folder}/x.auth, root's, mode 0600."
    )


class TestFolder:
    def test_open_to_others(self, folder):
        folder.chmod(0o755)
        message = refusal(folder, "split.conf")
        assert message.startswith(f"{folder}: others than root may open it (mode 0755).")
        assert message.endswith(f"Type: sudo chmod 700 {folder}")

    def test_link(self, folder, tmp_path):
        (tmp_path / "link").symlink_to(folder)
        assert refusal(tmp_path / "link", "split.conf").startswith(f"{tmp_path}/link: a link")

    def test_missing(self, folder):
        folder.rename(folder.parent / "moved")
        with pytest.raises(UserError, match="there is no "):
            qubes_vpn_keyfile.connection(folder, "split.conf", "vpn0", [PINNED])


_PIECES = st.sampled_from(
    [
        *LINES, "<key>", "</key>", "<auth-user-pass>", "</ca>", "<connection>", "[Peer]", "\0",
        "\r", "\x1b[2J", "{{ x }}", "é", "=", "'", '"', "\\", "setenv opt", "Endpoint = [::1]:1",
        "#", ";",
    ]
)  # fmt: skip
_CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["drop", "double", "cut", "insert", "join", "move", "byte"]),
        st.integers(0, 400),
        st.integers(0, 400),
        _PIECES,
    ),
    min_size=1,
    max_size=5,
)
_INLINE = OPENVPN.replace(
    "auth-user-pass login.txt",
    f"<auth-user-pass>\n{PLANTED[0]}\n{PLANTED[1]}\n</auth-user-pass>\n<key>\n{PLANTED[2]}\n</key>",
)


def _changed(text, changes):
    for change, place, other, piece in changes:
        lines = text.split("\n")
        place, other = place % len(lines), other % len(lines)
        if change == "drop":
            del lines[place]
        elif change == "double":
            lines.insert(other, lines[place])
        elif change == "cut":
            lines[place] = lines[place][: other % (len(lines[place]) + 1)]
        elif change == "insert":
            lines.insert(place, piece)
        elif change == "join":
            lines[place] += f" {piece} {lines.pop(other)}" if other > place else piece
        elif change == "move":
            lines.insert(other, lines.pop(place))
        else:
            lines[place] = lines[place][: other % 50] + piece + lines[place][other % 50 :]
        text = "\n".join(lines)
    return text


@pytest.mark.parametrize("name", ["inline.ovpn", *sorted(path.name for path in PROFILES.iterdir())])
@given(changes=_CHANGES)
def test_any_change_is_a_profile_or_a_refusal(name, tmp_path_factory, changes):
    """Whatever happens to a profile: a connection, or one UserError without a secret."""
    place = tmp_path_factory.getbasetemp() / "fuzz"
    if not place.exists():
        place.mkdir()
        credentials.folder(place)
    folder = place / "credentials"
    inline = name == "inline.ovpn"
    text = _INLINE if inline else (PROFILES / name).read_text(encoding="utf-8-sig")
    pinned = [PINNED] if inline else endpoints(PROFILES / name)
    secrets = [*PLANTED, *([] if inline else secrets_of(PROFILES / name))]
    pieces = {secret[at : at + 16] for secret in secrets for at in range(max(1, len(secret) - 15))}
    put(folder, f"fuzz-{name}", _changed(text, changes))
    with reading_only():
        try:
            shown = repr(qubes_vpn_keyfile.connection(folder, f"fuzz-{name}", "vpn0", pinned))
        except UserError as error:
            shown = str(error)
    assert not [piece for piece in pieces if piece in shown]
    assert shown.replace("\n", "").isprintable()
