# SPDX-License-Identifier: GPL-2.0-or-later
"""qubes.network.sys-vpn in a Fedora template: dnf, rpm, their signatures (R21, R23, R24, R25, R69).

By Salt's own yumpkg, and Debian's dnf and rpm; see fedora_42.py for what is not as in Fedora.
"""

import shutil
from types import SimpleNamespace

import pytest
import salt.loader
from behind_proxy import PROXY_FLAG, behind_proxy
from both_modes import both_modes
from fedora_42 import MINIMAL, MIRROR, build, fedora_42, install, installed, publish
from gpg_keys import key_ring
from in_qube import run_in, skip_where_impossible
from pillars import PILLARS
from vpn_qube import Minion

from qubes_vpn_formula.lab.qube import Qube

# Nothing here differs by Salt's release, and the core is not installed beside Salt 3006.
pytestmark = pytest.mark.one_salt
qubes_vpn_packages = pytest.importorskip("qubes_vpn_packages", reason="needs the core installed")

_WIREGUARD = PILLARS["dns"]["tunnels"]["sys-vpn"]
PILLAR = {
    **PILLARS["dns"],
    "templates": {"t-vpn": {"clone_of": "fedora-42-minimal"}},
    "tunnels": {
        "sys-vpn": _WIREGUARD,
        "other": {**_WIREGUARD, "kind": "openvpn", "profile": "x.ovpn", "upstream": "sys-net"},
    },
    "resolvers": {"sys-dns": {"upstream": "sys-vpn", "template": "t-vpn"}},
}
PACKAGES, READY = "t-vpn: packages", "t-vpn: template_ready"
MULLVADS = qubes_vpn_packages.repositories(["mullvad"], "fedora")[0]
VENDOR, VENDORS_FOLDER = "repository.mullvad.net", "rpm/stable/x86_64"
SOURCE = "/etc/yum.repos.d/qubes-vpn-mullvad.repo"
KEY = "/etc/pki/rpm-gpg/RPM-GPG-KEY-qubes-vpn-mullvad"


#: There is no systemd that could make a scope.
NO_SCOPE = {"systemd.scope": False}


class Fedora:
    """A Fedora template, what is beyond its updates proxy, and Salt in it."""

    def __init__(self, qube, keys, folder, opts):
        self.qube, self.keys, self.folder = qube, keys, folder
        self.www = fedora_42(qube, keys, folder)
        self.salt = Minion(qube, folder / "salt", "t-vpn", **NO_SCOPE)
        self._states = both_modes(loaders(qube, opts))

    def behind_proxy(self):
        return behind_proxy(self.qube, self.folder, self.www, MIRROR, VENDOR)

    def state(self, function, test=False, **arguments):
        """One of ours, by Salt's loaders."""
        loaded = self._states[test]
        return run_in(self.qube, lambda: dict(loaded[f"qubes_vpn.{function}"](**arguments)))

    def repository(self, test=False, **more):
        return self.state("repository", test, **{**MULLVADS, **more})

    def packages(self, *names, test=False):
        options = qubes_vpn_packages.OPTIONS["fedora"]
        return self.state("packages", test, name="x", packages=names, options=options)


def loaders(qube, opts):
    """Salt's, by the grains that it has in the qube: they decide that packages are dnf's."""
    opts = {**opts, "id": "t-vpn", **NO_SCOPE}
    opts["grains"] = run_in(qube, lambda: salt.loader.grains(opts, force_refresh=True))
    assert opts["grains"]["os"] == "Fedora"
    utils, context = salt.loader.utils(opts), {}
    modules = salt.loader.minion_mods(opts, utils=utils, context=context)
    found = {"utils": utils, "context": context, "modules": modules}
    return SimpleNamespace(opts=opts, serializers=salt.loader.serializers(opts), **found)


@pytest.fixture(scope="module")
def fedora(tmp_path_factory, session_loaders):
    skip_where_impossible()
    for program in ("dnf", "rpmbuild", "createrepo_c", "gpg"):
        if not shutil.which(program):
            pytest.skip(f"needs {program}")
    with key_ring() as keys, Qube("t-vpn") as qube:
        for name in ("fedora", "vendor", "stranger"):
            keys.make(name, "rsa2048")
        yield Fedora(qube, keys, tmp_path_factory.mktemp("fedora"), session_loaders.opts)


@pytest.fixture(scope="module")
def runs(fedora):
    """The same SLS: looked at, without a proxy, for real, once more; and the log of each."""
    runs, logs = {}, {}
    with fedora.behind_proxy() as log:
        runs["dry"] = fedora.salt.apply(PILLAR, test=True)
        logs["dry"] = log.read_text()
    fedora.qube.write(PROXY_FLAG, "")
    runs["no way"] = fedora.salt.apply(PILLAR)
    with fedora.behind_proxy() as log:
        runs["real"] = fedora.salt.apply(PILLAR)
        logs["real"] = log.read_text()
        runs["again"] = fedora.salt.apply(PILLAR)
        logs["again"] = log.read_text().removeprefix(logs["real"])
    return runs, logs


def test_a_dry_run_says_what_would_be_put_and_asks_nobody(runs, fedora):
    """R69."""
    dry = runs[0]["dry"]
    assert dry.code == 0, dry.text
    assert runs[1]["dry"] == "ready\n"
    assert dry.states[PACKAGES]["result"] is None
    assert dry.states[READY]["result"] is None
    for lacking in (
        "the package qubes-core-agent-networking is missing",
        "the package NetworkManager-openvpn is missing",
        "the service NetworkManager is not there",
        "the user _dnscrypt-proxy is not there",
    ):
        assert lacking in dry.states[READY]["comment"]


def test_without_a_proxy_one_sentence_says_so_and_nothing_is_installed(runs):
    """R23."""
    packages = runs[0]["no way"].states[PACKAGES]
    assert (packages["result"], packages["changes"]) == (False, {})
    assert packages["comment"].startswith(
        "Nothing can be fetched: the updates proxy 127.0.0.1:8082 cannot be reached: "
    )


def test_the_sls_makes_it_ready_and_says_what_came(runs, fedora):
    """R24, R25, R69: by dnf, through the proxy, without what is only recommended."""
    dry, real = runs[0]["dry"], runs[0]["real"]
    assert real.code == 0, real.text
    assert real.results() == {True}
    assert real.states[READY]["comment"] == "t-vpn is ready for: openvpn, wireguard, dnscrypt."
    assert real.states[PACKAGES]["changes"] == dry.states[PACKAGES]["changes"]
    came = installed(fedora.qube)
    assert set(real.states[PACKAGES]["changes"]) | set(MINIMAL) < came
    assert "NetworkManager-wwan" not in came
    assert f"CONNECT {MIRROR}:443 HTTP/1.1" in runs[1]["real"]
    links = fedora.qube.run("readlink /etc/systemd/system/*.wants/NetworkManager.service").stdout
    assert links == "/lib/systemd/system/NetworkManager.service\n"
    user = fedora.qube.run("getent passwd _dnscrypt-proxy").stdout.strip()
    assert user.endswith(":/run/dnscrypt-proxy:/usr/sbin/nologin")


def test_a_second_run_is_silent_and_asks_nobody(runs):
    again = runs[0]["again"]
    assert (again.code, again.changed(), runs[1]["again"]) == (0, set(), "")


def test_what_is_lost_later_is_missed(runs, fedora):
    """R25: each by its sentence, and found again when it is back."""
    kinds = {"name": "t-vpn", "kinds": ["openvpn", "dnscrypt"], "minimal": True}
    fedora.qube.run("rpm --erase --nodeps NetworkManager-openvpn; mv /usr/sbin/dnscrypt-proxy /srv")
    desktop = build(fedora.folder / "desktop", {"xfce4-session": ""})
    install(fedora.qube, desktop["xfce4-session"])
    told = fedora.state("template_ready", **kinds)
    assert told["result"] is False
    for lacking in (
        "- the desktop Xfce is installed, and a minimal template was asked for.",
        "- the package NetworkManager-openvpn is missing. Apply the formula to this template.",
        "- /usr/sbin/dnscrypt-proxy is not there",
    ):
        assert lacking in told["comment"]
    fedora.qube.run("rpm --erase xfce4-session; mv /srv/dnscrypt-proxy /usr/sbin")
    with fedora.behind_proxy():
        assert fedora.packages("NetworkManager-openvpn")["result"] is True
    assert fedora.state("template_ready", **kinds)["result"] is True


def test_a_package_that_is_nowhere_is_named(runs, fedora):
    with fedora.behind_proxy():
        answer = fedora.packages("nftables", "nothing-like-this")
    assert (answer["result"], answer["changes"]) == (False, {})
    assert answer["comment"].startswith(
        "Not installed through the updates proxy 127.0.0.1:8082: nothing-like-this. "
        "Unable to find a match: nothing-like-this. "
    )


def test_a_package_that_cannot_be_installed_is_told_with_dnfs_reason(fedora):
    """dnf 4 says `Error:` alone, and why in the lines after it."""
    with fedora.behind_proxy():
        answer = fedora.packages("needy")
    assert answer["result"] is False
    assert "nothing provides nothing-has-this needed by needy-1-1.fc42.noarch" in answer["comment"]


# --- a vendor's repository


@pytest.fixture
def vendor(fedora):
    """The vendor's app, signed by it, and a package of Fedora's that it has no business with."""
    needs = {"mullvad-vpn": "", "openvpn": ""}
    packages = build(fedora.folder / "vendor", needs, version=9)
    publish(packages.values(), fedora.www / VENDORS_FOLDER, fedora.keys, "vendor")
    key = fedora.www / "rpm/mullvad-keyring.asc"
    key.write_text(fedora.keys.public("vendor"))
    with fedora.behind_proxy() as log:
        yield key, log
    shutil.rmtree(fedora.folder / "vendor")
    fedora.qube.run(f"rm -f {SOURCE} {KEY}; dnf clean all")
    fedora.qube.run("rpm --erase mullvad-vpn", check=False)


def test_a_vendors_app_comes_from_a_signed_repository_and_nothing_else_does(runs, fedora, vendor):
    """R23, R69: dnf reads what we wrote, checks with the pinned key, and a second run is silent."""
    pinned = {"fingerprint": fedora.keys.fingerprint("vendor")}
    dry = fedora.repository(True, **pinned)
    assert (dry["result"], vendor[1].read_text()) == (None, "ready\n")
    real = fedora.repository(**pinned)
    assert (real["result"], real["changes"]) == (True, dry["changes"]), real["comment"]
    assert f"CONNECT {VENDOR}:443 HTTP/1.0" in vendor[1].read_text()
    app = fedora.packages("mullvad-vpn")
    assert app["result"] is True, app["comment"]
    assert app["changes"] == {"mullvad-vpn": {"old": "", "new": "installed"}}
    asked = vendor[1].read_text()
    for again in (fedora.repository(**pinned), fedora.packages("mullvad-vpn")):
        assert (again["result"], again["changes"]) == (True, {})
    assert vendor[1].read_text() == asked

    # openvpn 9 is there, of the same key; 1 is Fedora's.
    fedora.qube.run("dnf -y upgrade", timeout=120)
    assert fedora.qube.run(["rpm", "-q", "openvpn"]).stdout == "openvpn-1-1.fc42.noarch\n"
    found = fedora.qube.run("dnf repoquery --disableexcludes=all openvpn").stdout
    assert "openvpn-0:9-1.fc42.noarch" in found


def test_a_key_that_is_not_the_pinned_one_stops_it_and_nothing_is_written(fedora, vendor):
    """R23: with the fingerprint that the data has; and what needs the repository does not come."""
    answer = fedora.repository()
    assert (answer["result"], answer["changes"]) == (False, {})
    assert f"its fingerprint is {fedora.keys.fingerprint('vendor')}" in answer["comment"]
    assert not fedora.qube.exists(SOURCE)
    assert not fedora.qube.exists(KEY)
    assert fedora.packages("mullvad-vpn")["result"] is False


@pytest.mark.parametrize("key", ["stranger", None])
def test_a_package_without_the_pinned_keys_signature_is_not_installed(fedora, vendor, key):
    """R23: the repository's key is right, and somebody put another package there."""
    packages = build(fedora.folder / f"by-{key}", {"mullvad-vpn": ""}, version=10)
    publish(packages.values(), fedora.www / VENDORS_FOLDER, fedora.keys, key)
    assert fedora.repository(fingerprint=fedora.keys.fingerprint("vendor"))["result"] is True
    answer = fedora.packages("mullvad-vpn")
    assert (answer["result"], answer["changes"]) == (False, {})
    assert "GPG check FAILED" in answer["comment"]
    assert "mullvad-vpn" not in installed(fedora.qube)


def test_what_somebody_altered_is_put_right(fedora, vendor):
    """R69: without the key's check; and another key in its place."""
    pinned = {"fingerprint": fedora.keys.fingerprint("vendor")}
    assert fedora.repository(**pinned)["result"] is True
    right = fedora.qube.read(SOURCE), fedora.qube.read(KEY)
    fedora.qube.write(SOURCE, right[0].replace("gpgcheck=1", "gpgcheck=0"))
    fedora.qube.write(KEY, fedora.keys.public("stranger"))
    assert fedora.repository(True, **pinned)["result"] is None
    assert fedora.repository(**pinned)["changes"]
    assert (fedora.qube.read(SOURCE), fedora.qube.read(KEY)) == right


def test_the_vendors_own_file_is_named(fedora, vendor):
    """It has the vendor's key by https alone, and dnf would take either."""
    path = "/etc/yum.repos.d/mullvad.repo"
    fedora.qube.write(path, f"[mullvad-stable]\nbaseurl=https://{VENDOR}/rpm/stable/$basearch\n")
    try:
        answer = fedora.repository(fingerprint=fedora.keys.fingerprint("vendor"))
    finally:
        fedora.qube.run(["rm", path])
    assert answer["result"] is False
    assert answer["comment"].startswith(f"{path} names {VENDOR} too")


def test_a_fedora_that_nobody_looked_at_is_refused(fedora):
    fedora.qube.run("sed -i s/VERSION_ID=42/VERSION_ID=40/ /usr/lib/os-release")
    try:
        answer = fedora.packages("nftables")
    finally:
        fedora.qube.run("sed -i s/VERSION_ID=40/VERSION_ID=42/ /usr/lib/os-release")
    assert answer["result"] is False
    assert answer["comment"].startswith("this is fedora 40, and a tunnel's template is one of: ")


#: dnf5's words, as its dnf5/main.cpp and libdnf5/base/{log_event,transaction}.cpp build them, and
#: what we say of them.
DNF5 = {
    "unknown": (
        """Updating and loading repositories:
Repositories loaded.
Failed to resolve the transaction:
No match for argument: app
You can try to add to command line:
  --skip-unavailable to skip unavailable packages""",
        "No match for argument: app. In dom0: ",
    ),
    "unresolved": (
        """Failed to resolve the transaction:
Problem: conflicting requests
  - nothing provides nowhere needed by app-1-1.fc42.noarch""",
        "conflicting requests. nothing provides nowhere needed by app-1-1.fc42.noarch. In dom0: ",
    ),
    "offline": (
        """Failed to download metadata (baseurl: "https://x.org/") for repository "x": no URL""",
        'Failed to download metadata (baseurl: "https://x.org/") for repository "x": no URL. ',
    ),
    "unsigned": (
        """Transaction failed: Signature verification failed.
OpenPGP check for package "app-1" (/app.rpm) from repo "x" has failed: wrong key?""",
        "Transaction failed: Signature verification failed. "
        'OpenPGP check for package "app-1" (/app.rpm) from repo "x" has failed: wrong key?. ',
    ),
}


@pytest.mark.parametrize("case", DNF5)
def test_dnf5s_reasons_are_told_too(fedora, case):
    """Debian has no dnf5: a script says its words."""
    words, told = DNF5[case]
    fedora.qube.run("rm /usr/bin/dnf5")
    fedora.qube.write("/usr/bin/dnf5", f"#!/bin/sh\ncat <<'END'\n{words}\nEND\nexit 1\n", 0o755)
    try:
        answer = fedora.packages("app")
    finally:
        fedora.qube.run("ln -sf dnf /usr/bin/dnf5")
    assert (answer["result"], answer["changes"]) == (False, {})
    assert f": app. {told}" in answer["comment"]
