# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes_vpn.template_ready`, `packages` and `repository`, the states, in a template (R22 to R25).

The template is a lab qube on this machine's files, with dpkg's word that the packages are there.
What is installed for real, from Debian through an updates proxy: tests/booted.
"""

import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from behind_proxy import PROXY_FLAG, behind_proxy, until_listening
from both_modes import both_modes
from debian_13 import debian_13
from gpg_keys import key_ring
from in_qube import run_in, skip_where_impossible
from pillars import MULLVAD, PILLARS
from saltfactories.utils.functional import Loaders
from vpn_qube import listing

from qubes_vpn_formula.lab import services
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.qube import Qube

# Nothing here differs by Salt's release, and the core is not installed beside Salt 3006.
qubes_vpn_packages = pytest.importorskip("qubes_vpn_packages", reason="needs the core installed")
import qubes_vpn_part  # noqa: E402
from qubes_vpn_model import build  # noqa: E402

MULLVADS = qubes_vpn_packages.repositories(["mullvad"], "debian")[0]
SOURCE = "/etc/apt/sources.list.d/qubes-vpn-mullvad.sources"
PINS = "/etc/apt/preferences.d/qubes-vpn-mullvad"


class Template:
    """A template and the states in it."""

    def __init__(self, qube, loaded):
        self.qube, self._loaded = qube, loaded

    def __getattr__(self, function):
        def state(test=False, **arguments):
            loaded = self._loaded[test][f"qubes_vpn.{function}"]
            return run_in(self.qube, lambda: dict(loaded(**arguments)))

        return state

    def ready(self, test=False, kinds=("wireguard", "openvpn"), minimal=True):
        return self.template_ready(test, name="t-vpn", kinds=list(kinds), minimal=minimal)


@pytest.fixture(scope="session")
def loaded(session_loaders):
    return both_modes(Loaders({**session_loaders.opts, "id": "t-vpn"}))


@pytest.fixture(scope="module")
def template(loaded):
    """One that is ready; each test leaves it so."""
    skip_where_impossible()
    with Qube("t-vpn") as qube:
        # A lab qube has this machine's own /root and /home: here, too, with a layer on top.
        for folder in ("root", "home"):
            layers = f"lowerdir=/{folder},upperdir=/run/{folder}-upper,workdir=/run/{folder}-work"
            qube.run(f"mkdir /run/{folder}-upper /run/{folder}-work")
            qube.run(["mount", "-t", "overlay", "-o", layers, "qube", f"/{folder}"])
        debian_13(qube)
        for path, (text, mode) in (Ours().files() | services.files()).items():
            qube.write(path, text, mode)
        units = ["tunnel.service", "watch.service", "follow.service", "resolv.path"]
        for name in units:
            qube.write(f"/etc/systemd/system/qubes-vpn-{name}", "[Unit]\n")
        links = [f"multi-user.target.wants/qubes-vpn-{name}" for name in ("open.service", *units)]
        for link in ("network-pre.target.requires/qubes-vpn-closed.service", *links):
            path = f"/etc/systemd/system/{link}"
            qube.run(f"mkdir -p {Path(path).parent}; ln -s ../{Path(path).name} {path}")
        qube.write("/run/qubes-service/.keep", "")
        yield Template(qube, loaded)


def test_a_template_with_all_of_it_is_ready_and_untouched(template):
    before = listing(template.qube)
    for test in (False, True):
        assert template.ready(test) == {
            "name": "t-vpn",
            "changes": {},
            "result": True,
            "comment": "t-vpn is ready for: wireguard, openvpn.",
        }
    assert listing(template.qube) == before


LOGINS = {
    "/etc/mullvad-vpn/device.json": '{"logged_in": {"account_token": "SECRET"}}',
    "/etc/mullvad-vpn/account-history.json": "1234567890123456",
    "/rw/bind-dirs/etc/mullvad-vpn/device.json": '{"logged_in": {"account_token": "SECRET"}}',
    "/etc/NetworkManager/system-connections/a.nmconnection": "[vpn-secrets]\npassword=SECRET",
    "/etc/NetworkManager/system-connections/b": "[wireguard]\nprivate-key=SECRET",
    "/etc/NetworkManager/system-connections/wifi.nmconnection": "[wifi-security]\npsk=SECRET",
    "/etc/wireguard/wg0.conf": "[Interface]\nPrivateKey = SECRET",
    "/etc/openvpn/client/se.conf": "client\n<key>\nSECRET",
    "/etc/openvpn/se/auth.conf": "auth-user-pass /etc/openvpn/login",
    "/home/user/.cert/nm-openvpn/se-key.pem": "SECRET",
    "/rw/config/vpn/credentials/mullvad-account": "SECRET",
    "/home/user/QubesIncoming/personal/se.ovpn": "-----BEGIN RSA PRIVATE KEY-----",
    "/home/user/QubesIncoming/dev/prov.auth": "user\nSECRET",
    "/home/user/QubesIncoming/dev/mullvad-account": "1234567890123456",
    "/home/user/QubesIncoming/dev/wg0": "[Interface]\nPrivateKey = SECRET",
    "/home/user/QubesIncoming/dev/vpn/number": "1234567890123456",
    "/home/user/mullvad-account": "1234 5678 9012 3456",
    "/etc/openvpn/login.txt": "user\nSECRET",
}


@pytest.mark.parametrize("path", LOGINS)
def test_a_login_in_the_template_is_refused_by_name_and_never_told(template, path):
    """R30, R33: every qube of the template would have it."""
    new = f'p=\'{path}\'; while [ ! -e "$p" ]; do echo "$p"; p=${{p%/*}}; done'
    made = template.qube.run(new).stdout.split()
    template.qube.write(path, LOGINS[path] + "\n", 0o600)
    try:
        for test in (False, True):
            answer = template.ready(test)
            assert (answer["result"], answer["changes"]) == (False, {})
            assert answer["comment"].splitlines()[1:] == [
                f"- {path} holds a login, and every qube of this template would have it. Move it "
                "to the VPN qube, /rw/config/vpn/credentials/, and treat it as disclosed."
            ]
    finally:
        template.qube.run(["rm", "-r", made[-1]])
    assert template.ready()["result"] is True


def test_what_is_no_login_is_none(template):
    """Qubes' own uplink, the app's files when nobody is logged in, links, empty profiles."""
    files = {
        "/etc/NetworkManager/system-connections/qubes-uplink-eth0": "[802-1x]\npassword=",
        "/etc/NetworkManager/system-connections/cable.nmconnection": "[ipv4]\nmethod=auto\n",
        "/etc/mullvad-vpn/device.json": '"logged_out"',
        "/etc/mullvad-vpn/account-history.json": "",
        "/etc/openvpn/update-resolv-conf": "#!/bin/sh\n# password\n",
        "/etc/openvpn/two-lines": "client\ndev tun and more words\n",
        "/etc/openvpn/one-line": "SECRET\n",
    }
    for path, text in files.items():
        template.qube.write(path, text)
    template.qube.run("mkdir -p /etc/wireguard; ln -s /dev/zero /etc/wireguard/zero.conf")
    template.qube.run("ln -s loop.conf /etc/wireguard/loop.conf; mkfifo /etc/openvpn/pipe")
    more = ["zero.conf", "loop.conf"]
    try:
        assert template.ready()["result"] is True, template.ready()["comment"]
    finally:
        more = [f"/etc/wireguard/{name}" for name in more]
        template.qube.run(["rm", "/etc/openvpn/pipe", *more, *files])


def test_a_link_to_a_login_is_one(template):
    """R33: what wg-quick would read."""
    template.qube.write("/opt/wg.conf", "[Interface]\nPrivateKey = SECRET\n", 0o600)
    template.qube.run("mkdir -p /etc/wireguard; ln -s /opt/wg.conf /etc/wireguard/wg0.conf")
    try:
        answer = template.ready()
        assert answer["result"] is False
        assert "/etc/wireguard/wg0.conf holds a login" in answer["comment"]
        assert "SECRET" not in answer["comment"]
    finally:
        template.qube.run(["rm", "/etc/wireguard/wg0.conf", "/opt/wg.conf"])


#: What is done to it -> what it is told, and whether this run would put it right.
LACKING = {
    "desktop": (
        "printf '\\nPackage: xfce4-session\\nStatus: install ok installed\\nVersion: 4\\n"
        "Architecture: all\\nMaintainer: none\\nDescription: none\\n' >> /var/lib/dpkg/status",
        "the desktop Xfce is installed, and a minimal template was asked for. Make the template "
        "anew from a -minimal one, or name another clone_of in the pillar.",
        False,
    ),
    "another system": (
        "sed -i s/13/12/ /usr/lib/os-release",
        "this is debian 12, and a tunnel's template is one of: Debian 13, Fedora 42, Fedora 43. "
        "Name another one as the tunnel's template, or clone_of one of these.",
        False,
    ),
    "no networking": (
        "sed -i '/^Package: qubes-core-agent-networking$/,/^$/d' /var/lib/dpkg/status",
        "the package qubes-core-agent-networking is missing. Apply the formula to this template.",
        True,
    ),
    "removed, its settings kept": (
        "sed -i '/^Package: network-manager-openvpn$/,/^$/s/ok installed/ok config-files/;"
        "/^Package: network-manager-openvpn$/,/^$/s/install ok/deinstall ok/' /var/lib/dpkg/status",
        "the package network-manager-openvpn is missing. Apply the formula to this template.",
        True,
    ),
    "NetworkManager masked": (
        "systemctl mask NetworkManager",
        "the service NetworkManager is masked. Apply the formula to this template.",
        True,
    ),
    "NetworkManager off": (
        "systemctl disable NetworkManager",
        "the service NetworkManager does not start with the qube. Apply the formula to this "
        "template.",
        True,
    ),
    "NetworkManager absent": (
        "systemctl disable NetworkManager; rm /usr/lib/systemd/system/NetworkManager.service",
        "the service NetworkManager is not there. Apply the formula to this template.",
        True,
    ),
    "rules of another version": (
        "echo '# more' >> /usr/lib/qubes-vpn/closed.nft",
        "/usr/lib/qubes-vpn/closed.nft is of another version. Apply the formula to it anew.",
        True,
    ),
    "unit off": (
        "rm /etc/systemd/system/network-pre.target.requires/qubes-vpn-closed.service",
        "/etc/systemd/system/network-pre.target.requires/qubes-vpn-closed.service is not there, or "
        "cannot be run. Apply the formula.",
        True,
    ),
    "unit masked": (
        "ln -sf /dev/null /etc/systemd/system/qubes-vpn-closed.service",
        "/etc/systemd/system/qubes-vpn-closed.service is a link, so this unit is masked or not "
        "ours. Apply the formula to this template.",
        True,
    ),
    "tunnel's unit off": (
        "rm /etc/systemd/system/multi-user.target.wants/qubes-vpn-watch.service",
        "the unit qubes-vpn-watch.service does not start with the qube. Apply the formula to this "
        "template.",
        True,
    ),
    "hook cannot be run": (
        "chmod -x /etc/qubes/qubes-firewall.d/50-qubes-vpn",
        "/etc/qubes/qubes-firewall.d/50-qubes-vpn is not there, or cannot be run. Apply the "
        "formula.",
        True,
    ),
    "service gone": (
        "rm /etc/qubes-rpc/qubes-vpn.Drops",
        "/etc/qubes-rpc/qubes-vpn.Drops is not there, or cannot be run: dom0 calls it. Apply the "
        "formula to this template.",
        True,
    ),
    "service's program cannot be run": (
        "chmod -x /usr/lib/qubes-vpn/service",
        "/usr/lib/qubes-vpn/service is not there, or cannot be run: dom0 calls it. Apply the "
        "formula to this template.",
        True,
    ),
}  # fmt: skip
SAVE = "tar -C / -cf /run/saved.tar usr/lib/os-release var/lib/dpkg/status usr/lib/qubes-vpn \
etc/systemd/system etc/qubes etc/qubes-rpc usr/lib/systemd/system/NetworkManager.service"
RESTORE = "rm -rf /etc/systemd/system/*; tar -C / -xf /run/saved.tar"


@pytest.mark.parametrize("case", LACKING)
def test_what_is_lacking_is_told_with_the_way_to_get_it(template, case):
    """R25, R69: a dry run tells what this run would put from what nobody puts."""
    command, text, ours = LACKING[case]
    template.qube.run(SAVE)
    template.qube.run(command)
    try:
        real, dry = template.ready(), template.ready(test=True)
    finally:
        template.qube.run(RESTORE)
    assert (real["result"], dry["result"]) == (False, None if ours else False)
    assert real["comment"].splitlines() == ["t-vpn is not ready:", f"- {text}"]
    assert dry["comment"].splitlines()[1:] == [f"- {text}"]
    assert template.ready()["result"] is True


def test_a_desktop_is_no_matter_where_no_minimal_template_was_asked_for(template):
    template.qube.run(SAVE)
    template.qube.run(LACKING["desktop"][0])
    try:
        assert template.ready(minimal=False)["result"] is True
    finally:
        template.qube.run(RESTORE)


def test_it_is_minimal_when_what_it_is_cloned_from_says_so():
    def software(**pillar):
        model = build({**PILLARS["dns"], **pillar})
        return qubes_vpn_part.software(model, "t-vpn")

    assert software() == {"name": "t-vpn", "kinds": ["wireguard"], "minimal": True}
    templates = {"t-vpn": {"clone_of": "t-base"}, "t-base": {"clone_of": "fedora-43-minimal"}}
    assert software(templates=templates)["minimal"] is True
    assert software(templates={"t-vpn": {"clone_of": "debian-13-xfce"}})["minimal"] is False
    two = {"sys-vpn": PILLARS["dns"]["tunnels"]["sys-vpn"], "b": {**MULLVAD, "upstream": "sys-net"}}
    assert software(tunnels=two)["kinds"] == ["wireguard", "mullvad"]


# --- packages, without a way out


def test_packages_that_are_there_need_no_network(template):
    answer = template.packages(name="t-vpn: packages", packages=["nftables", "openvpn"])
    assert (answer["result"], answer["changes"]) == (True, {})


@pytest.mark.parametrize(
    ("proxy", "why"),
    [
        ("", "cannot be reached: Connection refused"),
        ("while True: s.accept()[0].close()", "hangs up|cannot be reached: Connection reset"),
        # The policy lets it through, and the qube behind the proxy is offline.
        (
            "while True:\n c = s.accept()[0]; c.recv(4096); "
            "c.sendall(b'HTTP/1.0 500 Unable to connect\\r\\n\\r\\n'); c.close()",
            "Not installed through the updates proxy 127.0.0.1:8082: nothing-like-this",
        ),
    ],
    ids=["nobody", "denied", "offline"],
)
def test_without_an_updates_proxy_nothing_is_fetched_and_one_sentence_says_why(
    template, proxy, why
):
    """R23: the proxy and the policy are named, and apt's sixty lines are not there."""
    qube = template.qube
    qube.write(PROXY_FLAG, "")
    conf = 'Acquire::http::Proxy "http://127.0.0.1:8082/";\nAcquire::Retries "0";\n'
    qube.write("/etc/apt/apt.conf.d/01qubes-proxy", conf)
    script = f"import socket\ns = socket.create_server(('127.0.0.1', 8082))\n{proxy}"
    server = qube.popen([sys.executable, "-c", script]) if proxy else None
    try:
        if server:
            until_listening(qube, 8082)
        wanted = {"name": "x", "packages": ["nftables", "nothing-like-this"]}
        dry = template.packages(True, **wanted)
        assert dry["result"] is None
        assert dry["changes"] == {"nothing-like-this": {"old": "", "new": "installed"}}
        answer = template.packages(**wanted)
    finally:
        qube.run(["rm", PROXY_FLAG, "/etc/apt/apt.conf.d/01qubes-proxy"])
        if server:
            server.kill()
            server.wait()
    assert (answer["result"], answer["changes"]) == (False, {})
    assert any(part in answer["comment"] for part in why.split("|")), answer["comment"]
    assert "127.0.0.1:8082" in answer["comment"]
    assert (
        "the pillar's updates.templates, or the policy of qubes.UpdatesProxy" in answer["comment"]
    )
    assert len(answer["comment"]) < 600
    assert "\n" not in answer["comment"]


# --- a vendor's repository


@pytest.fixture(scope="module")
def keys():
    """Armored keys by name, and fingerprints as gpg has them."""
    if not shutil.which("gpg"):
        pytest.skip("needs gpg")
    with key_ring() as ring:
        for name, expires in (("good", "never"), ("other", "never"), ("old", "seconds=1")):
            ring.make(name, expires=expires)
        texts = {name: ring.public(name) for name in ("good", "other", "old")}
        texts["two"] = ring.public("good", "other")
        texts["page"] = "<html>Please sign in</html>\n"
        return texts, {name: ring.fingerprint(name) for name in ("good", "old")}


@pytest.fixture
def vendor(template, tmp_path, keys):
    """A vendor behind the updates proxy: the file of its key, and the log."""
    folder = tmp_path / "www/deb"
    folder.mkdir(parents=True)
    with behind_proxy(template.qube, tmp_path, folder.parent, "repository.mullvad.net") as log:
        yield folder / "mullvad-keyring.asc", log
    template.qube.run(["rm", "-f", SOURCE, PINS])


def apt_files(qube):
    """All that apt reads: whatever is refused must be nowhere in it."""
    find = "find /etc/apt /usr/share/keyrings -type f -exec md5sum {} + | sort"
    return qube.run(find).stdout


def test_a_repository_comes_with_the_pinned_key_inside_and_once(template, vendor, keys):
    """R23, R69: through the proxy; the second run needs no network at all."""
    file, log = vendor
    texts, pinned = keys
    wanted = {**MULLVADS, "fingerprint": pinned["good"]}
    file.write_text(texts["good"])
    before = apt_files(template.qube)

    dry = template.repository(True, **wanted)
    assert dry["result"] is None
    assert (apt_files(template.qube), log.read_text()) == (before, "ready\n")
    real = template.repository(**wanted)
    assert (real["result"], real["changes"]) == (True, dry["changes"]), real["comment"]
    assert log.read_text().splitlines()[1] == "CONNECT repository.mullvad.net:443 HTTP/1.0"

    text = template.qube.read(SOURCE)
    assert "URIs: https://repository.mullvad.net/deb/stable\n" in text
    assert f"pub:{pinned['good']}" in signers(text)
    assert "Pin: origin repository.mullvad.net\nPin-Priority: -1\n" in template.qube.read(PINS)
    fetched = log.read_text()
    for test in (False, True):
        again = template.repository(test, **wanted)
        assert (again["result"], again["changes"]) == (True, {})
    assert log.read_text() == fetched

    # Somebody puts another key there, or takes the pin away: it is put right.
    for path, altered in ((SOURCE, text.replace(" mDME", " mDMF")), (PINS, "")):
        template.qube.write(path, altered)
        assert template.repository(True, **wanted)["result"] is None
        assert template.repository(**wanted)["changes"]
        assert template.repository(**wanted)["changes"] == {}


@pytest.mark.parametrize("full", [SOURCE, PINS])
def test_a_full_disk_claims_no_more_than_was_written(template, vendor, keys, full):
    """The source comes after the pins, which are written then."""
    folder = Path(full).parent
    vendor[0].write_text(keys[0]["good"])
    template.qube.run(f"mount -t tmpfs -o nr_inodes=1 full {folder}")
    try:
        answer = template.repository(**{**MULLVADS, "fingerprint": keys[1]["good"]})
        there = [path for path in (SOURCE, PINS) if template.qube.exists(path)]
    finally:
        template.qube.run(["umount", str(folder)])
    assert answer["result"] is False
    assert answer["comment"].endswith("No space left on device.")
    assert list(answer["changes"]) == there == ([PINS] if full == SOURCE else [])


def signers(source):
    """gpg's own list of the keys in a deb822 source."""
    body = source.partition("Signed-By:\n")[2]
    text = "".join("\n" if line == " ." else line[1:] + "\n" for line in body.splitlines())
    words = ["gpg", "--with-colons", "--show-keys"]
    listed = subprocess.run(words, check=True, capture_output=True, text=True, input=text).stdout
    fields = [line.split(":") for line in listed.splitlines()]
    return [f"{key[0]}:{line[9]}" for key, line in pairwise(fields) if line[0] == "fpr"]


@pytest.mark.parametrize(
    ("served", "pin", "why"),
    [
        ("other", "good", "its fingerprint is "),
        ("two", "good", "it holds 2 keys instead of one"),
        ("old", "old", "it expired on 2020-01-01"),
        ("page", "good", "it is no armored public key"),
        (None, "good", "the answer is 404"),
    ],
)
def test_any_other_key_stops_it_and_nothing_is_written(template, vendor, keys, served, pin, why):
    """R23: checked before anything that apt reads has it."""
    texts, pinned = keys
    if served:
        vendor[0].write_text(texts[served])
    before = apt_files(template.qube)
    answer = template.repository(**{**MULLVADS, "fingerprint": pinned[pin]})
    assert (answer["result"], answer["changes"]) == (False, {})
    assert why in answer["comment"]
    assert MULLVADS["key"] in answer["comment"]
    assert apt_files(template.qube) == before


def test_the_pinned_fingerprint_is_mullvads_and_a_stranger_is_refused(template, vendor, keys):
    """As it is in the data, nothing of it changed by the test."""
    assert MULLVADS["fingerprint"] == "A1198702FC3E0A09A9AE5B75D5A1D4F266DE8DDF"
    vendor[0].write_text(keys[0]["good"])
    answer = template.repository(**MULLVADS)
    assert answer["comment"] == (
        f"the key at {MULLVADS['key']} is not the one that is known for mullvad "
        f"(A1198702FC3E0A09A9AE5B75D5A1D4F266DE8DDF): its fingerprint is {keys[1]['good']}. "
        "Nothing was written. Somebody may have put it there: ask the vendor before anything else."
    )


def test_a_server_that_is_not_the_vendor_is_no_vendor(template, vendor, keys):
    vendor[0].write_text(keys[0]["good"])
    elsewhere = "https://repository.example.org/deb/mullvad-keyring.asc"
    wanted = {**MULLVADS, "fingerprint": keys[1]["good"], "key": elsewhere}
    answer = template.repository(**wanted)
    assert answer["result"] is False
    assert "certificate" in answer["comment"].lower()
    assert not template.qube.exists(SOURCE)


@pytest.mark.parametrize("name", ["mullvad.list", "mullvad.sources"])
def test_another_source_of_the_same_vendor_is_named(template, vendor, keys, name):
    """apt itself stops at two keys for one repository."""
    path = f"/etc/apt/sources.list.d/{name}"
    template.qube.write(path, "deb https://repository.mullvad.net/deb/stable stable main\n")
    vendor[0].write_text(keys[0]["good"])
    try:
        answer = template.repository(**{**MULLVADS, "fingerprint": keys[1]["good"]})
    finally:
        template.qube.run(["rm", path])
    assert answer["result"] is False
    assert answer["comment"].startswith(f"{path} names repository.mullvad.net too")


def test_dnf_gets_a_key_file_and_a_source_that_checks_with_it(template, vendor, keys):
    """Fedora's way, on files only: no dnf reads them here."""
    vendor[0].parent.parent.joinpath("rpm").mkdir()
    vendor[0].parent.parent.joinpath("rpm/mullvad-keyring.asc").write_text(keys[0]["good"])
    wanted = qubes_vpn_packages.repositories(["mullvad"], "fedora")[0]
    wanted["fingerprint"] = keys[1]["good"]
    template.qube.run(SAVE)
    template.qube.write("/usr/lib/os-release", "ID=fedora\nVERSION_ID=43\n")
    try:
        assert template.repository(**wanted)["result"] is True
        assert template.repository(**wanted)["changes"] == {}
        text = template.qube.read("/etc/yum.repos.d/qubes-vpn-mullvad.repo")
    finally:
        template.qube.run(RESTORE)
    assert "\ngpgcheck=1\n" in text
    assert "\ngpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-qubes-vpn-mullvad\n" in text
    assert "\nincludepkgs=mullvad-vpn\n" in text
