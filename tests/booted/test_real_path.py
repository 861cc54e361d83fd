# SPDX-License-Identifier: GPL-2.0-or-later
"""The formula as a user runs it: README's lines in dom0, and what qubesctl makes of them (R86).

dom0 with Qubes' own Salt configuration, a management qube for each target, real salt-ssh into qubes
that boot, real apt in templates, a real tunnel and a real resolver behind it.  The tests go the way
once, in their order.  What is not as in Qubes: docs/decisions/0030.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import qubes_packages
import talker
from provider import PASSWORD, USER
from resolving import Machine
from tunnelled import PROGRAM, pings, put_profiles, said, up

from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.lab import qrexec
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted, Template
from qubes_vpn_formula.lab.booted.salt import SLS, Salt, Told
from qubes_vpn_formula.lab.capture import Capture
from qubes_vpn_formula.lab.oracle import Endpoint, Oracle
from qubes_vpn_formula.lab.senders import udp
from qubes_vpn_formula.lab.traffic import send
from qubes_vpn_formula.masterless import Applied

pytestmark = pytest.mark.timeout(900)

OURS = ["dom0", "t-vpn", "sys-vpn", "t-dns", "sys-dns"]
#: Of another qube's pillar, and of a file below /srv outside of the pillar's roots.
FOREIGN, LYING_ABOUT = "pillar-of-another-qube", "file-below-srv"
MARKER, ELSEWHERE = b"leak-of-the-real-path", "198.51.100.77"
ENDPOINT = Endpoint("udp", "198.51.100.1", 1194)
URL = "http://203.0.113.80/json"
_CHECK = Path(__file__).with_name("check_server.py")
_TALK = "#!/bin/sh\npython3 /rw/config/talker </dev/null >/dev/null 2>&1 &\n"


class RealPath(Machine):
    """A machine whose templates and qubes nobody but qubesctl touches."""

    def __init__(self, lab: Booted, folder: Path) -> None:
        self.qubesd = EmbeddedQubes(folder / "qubes.json", "4.3")
        self.salt = Salt(folder / "qubesctl", qubes=self.qubesd)
        super().__init__(lab, folder, with_sys_net=True)
        self.neighbour = lab.client("personal", netvm=self.dns)
        lab.internet.popen([sys.executable, str(_CHECK)])
        self.document |= {
            "routes": {"qubes": {"work": "sys-dns", "personal": "sys-dns"}},
            "vaults": ["vault"],
            "tests": {
                "checks": {"sys-vpn": {"url": URL, "address": "ip", "provider": "exit"}},
                "clients": ["work"],
            },
        }
        self.salt.give(self.document, OURS)
        self.salt.dom0.pillar("other", {"other": FOREIGN}, ["work"])
        (self.salt.dom0.srv / "user_salt/notes").write_text(LYING_ABOUT)

    def _vpn(self) -> AppVM:
        self.t_vpn = self._bare("t-vpn", ["network-manager", "network-manager-openvpn"])
        return self.lab.appvm("sys-vpn", self.t_vpn, self.net, services=["qubes-vpn", NM])

    def _dns(self) -> AppVM:
        self.t_dns = self._bare("t-dns", ["dnscrypt-proxy"])
        self.t_dns.run("cat >>/etc/ssl/certs/ca-certificates.crt", input=self.names.ca.read_text())
        self.t_dns.stop()
        return self.lab.appvm("sys-dns", self.t_dns, self.vpn, services=["qubes-vpn-dns"])

    def _bare(self, name: str, packages: list[str]) -> Template:
        """As Debian and Qubes leave it: what is large is there, what is Qubes' can be had."""
        template = self.lab.template(name)
        template.install(["--no-install-recommends", *packages])
        template.start()
        offered = qubes_packages.QUBES | qubes_packages.NOTICES
        qubes_packages.offer(template, self._folder / f"{name}-packages", offered)
        template.stop()
        return template

    def qubesctl(self, *words: str, **options: Any) -> dict[str, Applied]:
        """`qubesctl ... state.sls qubes.network.sys-vpn`, by target."""
        told = self.salt.qubesctl("state.sls", SLS, "--out=json", *words, **options)
        return {name: self._applied(name, one) for name, one in told.items()}

    def _applied(self, name: str, told: Told) -> Applied:
        return Applied.read(told.done, "local" if name == "dom0" else name)

    def tests(self, sls: str) -> Applied:
        """`qubesctl state.sls qubes.tests...`, in dom0."""
        there = {**self.qubes, "work": self.client, "personal": self.neighbour}
        for name, qube in there.items():
            if not self.salt.dom0.domains()[name]:
                self.qubesd.call(name, "admin.vm.Start")
            if name in ("work", "personal"):
                address = qube.qubesdb["/qubes-ip"].encode()
                self.qubesd.call(name, "admin.vm.property.Set", "ip", address)
        client = str(qrexec.client(self._folder, there))
        words = ("state.sls", f"qubes.tests.{sls}", "--out=json")
        done = self.salt.dom0.qubesctl(*words, QUBES_VPN_QREXEC=client)
        return Applied.read(done, "local")


NM = "network-manager"


@pytest.fixture(scope="module")
def path(lab: Booted, tmp_path_factory: pytest.TempPathFactory) -> RealPath:
    return RealPath(lab, tmp_path_factory.mktemp("real-path"))


def _well(runs: dict[str, Applied]) -> None:
    for name, run in runs.items():
        assert (run.code, run.results()) == (0, {True}), (name, run.text)


def test_a_dry_run_in_dom0_changes_nothing(path):
    """After README's sync, and what Salt loads is what was synced."""
    synced = path.salt.dom0.qubesctl("saltutil.sync_all", "--out=json")
    assert "modules.qubes_vpn" in synced.stdout, synced.stdout + synced.stderr
    before = path.salt.dom0.domains()
    dry = path.qubesctl("test=True")
    assert set(dry) == {"dom0"}
    assert (dry["dom0"].code, None in dry["dom0"].results()) == (0, True), dry["dom0"].text
    assert path.salt.dom0.domains() == before
    assert not [call for call in path.qubesd.calls() if call.write]
    real = path.qubesctl()
    _well(real)
    assert set(OURS) <= set(path.salt.dom0.domains())


def test_a_dry_run_in_the_template_changes_nothing(path):
    path.net.start()
    before = path.t_vpn.changed()
    dry = path.qubesctl("test=True", targets=[path.t_vpn], skip_dom0=True)["t-vpn"]
    assert (dry.code, False in dry.results(), None in dry.results()) == (0, False, True), dry.text
    assert "qubes-core-agent-networking" in str(dry.states["t-vpn: packages"]["changes"])
    ours = {name for name in path.t_vpn.changed() - before if "qubes-vpn" in name}
    assert ours == set()


def test_the_template_is_ready_and_the_qube_waits_for_its_login(path):
    """dom0, then the template, then the qube, as README says it ends the first time."""
    runs = path.qubesctl(targets=[path.vpn, path.t_vpn])
    assert list(runs) == ["dom0", "t-vpn", "sys-vpn"]
    _well({name: runs[name] for name in ("dom0", "t-vpn")})
    assert runs["dom0"].changed() == set()
    assert runs["t-vpn"].states["t-vpn: template_ready"]["result"] is True
    assert runs["sys-vpn"].code != 0
    assert "one.ovpn: not there" in runs["sys-vpn"].text
    assert (path.vpn.running, path.t_vpn.running) == (False, False)  # as they were before


def test_with_its_login_the_tunnel_comes_up(path):
    path.vpn.start()
    put_profiles(path.vpn, path.provider)
    _well(path.qubesctl(targets=[path.vpn], skip_dom0=True))
    up(path.vpn, "one.ovpn")
    assert path.vpn.run(["python3", "-V"]).stdout.startswith("Python 3.13.")


def test_what_is_copied_is_the_targets_own_pillar_and_no_secret(path):
    """To the management qube: all below /srv but the pillar's roots, and that one pillar."""
    place = path.salt.management("sys-vpn")
    pillar = place / "srv/pillar"
    assert sorted(file.name for file in pillar.iterdir()) == ["combined.sls", "top.sls"]
    assert re.match(r"qubes_vpn:\n", (pillar / "combined.sls").read_text())
    assert _with(place, LYING_ABOUT) == {"srv/user_salt/notes"}  # so whatever is there is found
    for secret in (FOREIGN, USER, PASSWORD, "BEGIN CERTIFICATE"):
        assert _with(place, secret) == set(), secret
    assert _with(path.salt.dom0.srv, FOREIGN) == {"pillar/other/init.sls"}
    # Salt's own files are gone from the target, and with them its pillar.
    found = path.vpn.run("ls -d /var/tmp/.*_salt /tmp/.*_salt || :").stdout
    assert found == ""
    assert not [name for name in path.t_vpn.changed() if "_salt/" in name]


def _with(folder: Path, text: str) -> set[str]:
    words = ["grep", "--recursive", "--files-with-matches", "--fixed-strings", text, "."]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    return {line.removeprefix("./") for line in done.stdout.splitlines()}


def test_after_a_restart_the_tunnel_is_up_and_nothing_was_out_before(path, tmp_path):
    """R34, R41: recorded from before the qube's first process, with somebody in it who talks."""
    path.vpn.write("/rw/config/talker", talker.program(MARKER, ELSEWHERE))
    path.vpn.write("/rw/config/rc.local-early.d/talker.rc", _TALK, 0o755)
    path.vpn.stop()
    captures: list[Capture] = []
    file = tmp_path / "boot.pcap"

    def watch() -> None:
        qube = path.vpn
        captures.append(Capture(qube.network, qube.upstream, qube.vif, file, proven=False))

    path.vpn.start(plugged=watch)
    up(path.vpn, "one.ovpn")
    assert path.vpn.run("pgrep -f config/talker", check=False).stdout
    captured = captures[0].finish()
    assert str(Oracle([ENDPOINT], MARKER).judge(captured)) == "closed"
    assert path.vpn.failed() == []


def test_names_come_by_the_resolver_behind_the_tunnel(path):
    """README's "Names": template and qube, while nobody has started the qube before."""
    runs = path.qubesctl(targets=[path.dns, path.t_dns], skip_dom0=True)
    _well(runs)
    assert runs["t-dns"].states["t-dns: template_ready"]["result"] is True
    path.dns.start()
    path.resolves()
    assert pings(path.client, 1)


def test_nothing_of_a_client_is_in_clear_with_the_tunnel_or_without(path, tmp_path):
    with path.overheard(tmp_path):
        path.resolves()
    qube = path.vpn
    with Capture(qube.network, qube.upstream, qube.vif, tmp_path / "down.pcap") as capture:
        qube.run([PROGRAM, "down"], timeout=80)
        send(path.client, udp(ELSEWHERE, 443, MARKER), udp(ENDPOINT.addresses, 1194, MARKER))
        captured = capture.finish()
    assert not pings(path.client, 1)
    verdict = Oracle([ENDPOINT], MARKER).judge(captured)
    assert (str(verdict), captured.marked(MARKER)) == ("closed", [])
    qube.run([PROGRAM, "up"], timeout=80)
    up(qube, "one.ovpn")
    path.resolves()


def test_a_second_run_is_silent_everywhere(path):
    """R69: dom0, both templates, both qubes, by one line; and the next look at it says so, too."""
    before, server = len(path.qubesd.calls()), said(path.vpn)
    runs = path.qubesctl(targets=[path.t_vpn, path.t_dns, path.vpn, path.dns])
    assert set(runs) == set(OURS)
    _well(runs)
    assert {name: run.changed() for name, run in runs.items() if run.changed()} == {}
    writes = {call.method for call in path.qubesd.calls()[before:] if call.write}
    assert writes <= {"admin.vm.Start", "admin.vm.Shutdown"}  # of the templates
    assert said(path.vpn) == server


@pytest.mark.parametrize("sls", ["sys-vpn", "sys-dns"])
def test_the_users_own_tests_pass(path, sls):
    """R60: from dom0, in the qubes that run."""
    path.resolves()
    applied = path.tests(sls)
    assert (applied.code, applied.changed()) == (0, set()), applied.text
    verdicts = {one["comment"].partition("\n")[0] for one in applied.states.values()}
    assert not {verdict for verdict in verdicts if verdict in ("FAILED", "NOT RUN")}, applied.text
    assert "PASSED" in verdicts
