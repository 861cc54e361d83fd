# SPDX-License-Identifier: GPL-2.0-or-later
"""A resolver qube that boots behind a real tunnel: no name in clear, whatever happens (R50 to R55).

Real systemd, NetworkManager, OpenVPN and dnscrypt-proxy; upstreams are real dnsdist with made-up
answers.  On each uplink somebody listens from before the first process, and plain DNS would be
answered wherever it went: see `resolving.py`.  That the listener finds what is planted,
tests/lab/test_questions.py shows, and `test_without_our_rules_the_same_is_heard` here.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from resolving import ASKED, LIST_URL, PROXY, Machine
from tunnelled import PROGRAM as TUNNEL
from tunnelled import up

from qubes_vpn_formula.lab.booted.machine import Booted
from qubes_vpn_formula.lab.nameservers import ANSWERS
from qubes_vpn_formula.lab.questions import Asking, Question

pytestmark = pytest.mark.timeout(900)

FOLDER = "/rw/config/vpn/dns"
OURS = ANSWERS["dnscrypt"]


@pytest.fixture(scope="module")
def machine(lab: Booted, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(lab, tmp_path_factory.mktemp("resolving"))


@pytest.fixture
def resolved(machine: Machine) -> Machine:
    """A client has names, whatever the test before left."""
    machine.start()
    machine.resolves()
    return machine


def test_a_cold_start_gives_a_client_names_and_nobody_else(machine, tmp_path):
    """R51, R52: from /rw alone, with an empty cache; a client asks from the first moment on."""
    machine.dns.stop()
    machine.vpn.stop()
    question = Question(ASKED[0], machine.new_name(), wait=0.5)
    machine.vpn.start()
    with machine.overheard(tmp_path, cold=[machine.dns]):
        asking = Asking(machine.client, question, every=0.05, for_=60)
        assert asking.answer().addresses == [OURS]
        assert machine.dns.failed() == []
        assert machine.said()["state"] == "open"


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_whatever_a_client_asks_the_resolver_answers(resolved, tmp_path, protocol):
    """R50, R55: both of Qubes' addresses, a public resolver, one of IPv6."""
    with resolved.overheard(tmp_path):
        answers = [resolved.resolves(server, protocol) for server in ASKED]
    assert answers == [OURS] * 4


def test_dns_over_tls_and_the_qubes_own_plain_dns_go_nowhere(resolved, tmp_path):
    with resolved.overheard(tmp_path):
        answers = resolved.ask(resolved.client, *ASKED, protocol="tls")
        # And fast: nobody waits for a timeout.
        assert [answer.error for answer in answers] == ["ConnectionRefusedError"] * 4, answers
        assert all(answer.ended - answer.begun < 1 for answer in answers)
        for protocol in ("udp", "tcp", "tls"):
            own = resolved.ask(resolved.dns.network, *ASKED, protocol=protocol, wait=0.5)
            assert [answer.addresses for answer in own] == [[]] * 4, own
        # Its own programs ask the proxy (R54).
        asked = ["getent", "ahostsv4", resolved.new_name()]
        assert OURS in resolved.dns.run(asked).stdout


def test_without_the_tunnel_there_are_no_names(resolved, tmp_path):
    with resolved.overheard(tmp_path):
        resolved.vpn.run([TUNNEL, "down"], timeout=60)
        resolved.silent(6)
        resolved.vpn.run([TUNNEL, "up"], timeout=80)
        up(resolved.vpn, "one.ovpn")
        resolved.resolves()


def test_without_the_proxy_there_are_no_names_until_it_is_back(resolved, tmp_path):
    with resolved.overheard(tmp_path):
        resolved.dns.run(["systemctl", "kill", "--signal=KILL", PROXY])
        resolved.resolves()
        resolved.proxy("stop")
        resolved.silent(3)
        resolved.proxy("start")
        resolved.resolves()


def test_without_our_rules_the_same_is_heard(resolved, tmp_path):
    """The mutant: the listener above would have heard it."""
    resolved.dns.run("nft delete table inet qubes_vpn")
    try:
        with pytest.raises(AssertionError, match="LEAK"), resolved.overheard(tmp_path):
            resolved.ask(resolved.client, "8.8.8.8", wait=1)
    finally:
        resolved.dns.run(["systemctl", "restart", "qubes-vpn-dns-closed.service"])
        resolved.resolves()


@pytest.mark.slow
def test_a_machine_that_starts_says_nothing_in_clear(machine, tmp_path):
    """Both qubes, each watched from before its first process (R51, R52)."""
    machine.dns.stop()
    machine.vpn.stop()
    with machine.overheard(tmp_path, cold=[machine.vpn, machine.dns]):
        machine.resolves()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_clients_behind_a_firewall_qube_have_names(resolved, tmp_path, protocol):
    """Qubes' own translation there, then ours; also with a list that lets DNS alone through."""
    firewall = resolved.firewall()
    far = resolved.far
    with resolved.overheard(tmp_path):
        firewall.allow(far, ["action=accept specialtarget=dns"])
        time.sleep(1)
        # A public resolver and IPv6 are not this client's to ask.
        for server in ASKED[:2]:
            assert resolved.resolves(server, protocol, far) == OURS
        refused = resolved.ask(far, *ASKED[2:], protocol=protocol, wait=1)
        assert [answer.addresses for answer in refused] == [[], []]
        firewall.allow(far, ["action=accept"])
        time.sleep(1)
        for server in ASKED:
            assert resolved.resolves(server, protocol, far) == OURS


@pytest.mark.slow
def test_a_dead_upstream_is_silence_and_is_named(resolved, tmp_path):
    with resolved.overheard(tmp_path):
        resolved.names.vanish("dnscrypt")
        try:
            resolved.silent(30)
            assert "no server answers through the tunnel" in resolved.check()
        finally:
            resolved.names.serve("dnscrypt")
        resolved.resolves()


@pytest.mark.slow
def test_an_upstream_that_comes_back_with_a_new_key_is_known_within_two_minutes(resolved, tmp_path):
    """The proxy has the old certificate, and would ask for another one in four hours."""

    def restarts():
        journal = resolved.dns.run("journalctl -b -u qubes-vpn-dns.service -o cat").stdout
        return journal.count("it is restarted")

    before = restarts()
    with resolved.overheard(tmp_path):
        # Other days, so another certificate, with a key of its own; nobody has the old one.
        resolved.names.serve("dnscrypt", (-1, 2))
        try:
            resolved.silent(30)
            assert resolved.resolves(within=90) == OURS
            assert restarts() == before + 1
        finally:
            resolved.names.serve("dnscrypt")
            resolved.proxy("restart")
        resolved.resolves()


@pytest.mark.slow
def test_a_vpn_server_that_vanishes_takes_names_along_until_it_is_back(resolved, tmp_path):
    with resolved.overheard(tmp_path):
        resolved.provider.vanish(1)
        resolved.silent(20)
        assert "tunnel" in resolved.check()
    resolved.provider.serve(1)
    up(resolved.vpn, "one.ovpn", timeout=120)
    with resolved.overheard(tmp_path):
        resolved.resolves()


@pytest.mark.slow
def test_a_tunnel_qube_that_is_killed_takes_names_along_until_it_is_back(resolved, tmp_path):
    """Its own uplink's captures end with it; what sys-dns sends after that has nowhere to go."""
    resolved.vpn.kill()
    resolved.silent(5)
    resolved.vpn.start()
    up(resolved.vpn, "one.ovpn")
    with resolved.overheard(tmp_path):
        resolved.resolves()


@pytest.mark.slow
def test_an_uplink_that_is_restarted_changes_nothing(resolved, tmp_path):
    """R54: Qubes writes resolv.conf at each start of the uplink."""
    before = resolved.dns.read("/etc/resolv.conf")
    with resolved.overheard(tmp_path):
        resolved.dns.run(["systemctl", "restart", "qubes-network-uplink@eth0.service"])
        assert resolved.dns.read("/etc/resolv.conf") == before
        assert "10.139" not in before
        assert [resolved.resolves(server) for server in ASKED] == [OURS] * 4
        asked = ["getent", "ahostsv4", resolved.new_name()]
        assert OURS in resolved.dns.run(asked).stdout


@pytest.mark.slow
def test_a_doh_upstream_alone(resolved, tmp_path):
    settings = {"servers": {"lab": resolved.names.stamps["doh"]}}
    with configured(resolved, settings), resolved.overheard(tmp_path):
        assert resolved.resolves() == ANSWERS["doh"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dnscrypt", "doh"])
@pytest.mark.parametrize("valid", [(2, 4), (-4, -2)], ids=["future", "past"])
def test_a_clock_that_is_wrong_is_named(resolved, tmp_path, name, valid):
    """As a qube sees it whose clock is two days off: no certificate is valid."""
    settings = {"servers": {"lab": resolved.names.stamps[name]}}
    with configured(resolved, settings), resolved.overheard(tmp_path):
        resolved.names.serve(name, valid)
        try:
            resolved.proxy("restart")
            resolved.silent(15)
            told = resolved.check()
        finally:
            resolved.names.serve(name)
        assert "certificate is valid now" in told
        assert "qvm-sync-clock" in told
        assert resolved.resolves() == ANSWERS[name]


def the_list(machine: Machine, **more: object) -> dict:
    """Settings with a static server, and the lab's list; its DoH server is the other one asked."""
    lists = {"lab": {"urls": [LIST_URL], "minisign_key": machine.names.minisign_key}}
    return {
        "servers": {"static": machine.names.stamps["dnscrypt"]},
        "lists": lists,
        "server_names": ["static", "lab-doh"],
        **more,
    }


@pytest.mark.slow
def test_a_list_that_is_not_there_is_fetched_through_the_tunnel(resolved, tmp_path):
    """Where it is, is asked of the server that needs no list; and no name is in clear."""
    with configured(resolved, the_list(resolved), restart=False):
        resolved.dns.run(f"rm -f {FOLDER}/lists/*")
        resolved.dns.stop()
        with resolved.overheard(tmp_path, cold=[resolved.dns]):
            resolved.resolves()
            kept = resolved.dns.run(f"ls {FOLDER}/lists").stdout.split()
            assert {"lab.md", "lab.md.minisig"} <= set(kept)
            # What the list says is used.
            resolved.names.vanish("dnscrypt")
            try:
                answer = resolved.resolves()
            finally:
                resolved.names.serve("dnscrypt")
            assert answer == ANSWERS["doh"]


@pytest.mark.slow
@pytest.mark.parametrize("age", [0, 40], ids=["new", "expired"])
def test_a_list_that_is_kept_is_enough(resolved, tmp_path, age):
    """From /rw with its signature; an old one too, when no newer one can be had (R51, R53)."""
    resolved.names.vanish("doh")
    try:
        settings = the_list(resolved, servers={}, server_names=["lab-dnscrypt"])
        with configured(resolved, settings, restart=False):
            keep(resolved, *resolved.names.signed_list(), age)
            resolved.dns.stop()
            with resolved.overheard(tmp_path, cold=[resolved.dns]):
                resolved.resolves()
                assert (f"{age} days old" in resolved.check()) == (age > 30)
    finally:
        resolved.names.serve("doh")


@pytest.mark.slow
def test_a_list_with_a_wrong_signature_is_not_used_and_is_named(resolved, tmp_path):
    """Somebody has changed it; nothing can be fetched; then it can."""
    resolved.names.vanish("doh")
    try:
        settings = the_list(resolved, servers={}, server_names=["lab-dnscrypt"])
        with configured(resolved, settings, restart=False):
            text, signature = resolved.names.signed_list()
            keep(resolved, text.replace("Made up", "Made in"), signature, 0)
            resolved.dns.stop()
            with resolved.overheard(tmp_path, cold=[resolved.dns]):
                resolved.silent(30)
                assert "its signature does not fit" in resolved.check()
                keep(resolved, text, signature, 0)
                resolved.resolves()
    finally:
        resolved.names.serve("doh")


@contextmanager
def configured(machine: Machine, settings: dict, restart: bool = True) -> Iterator[None]:
    """With other settings of dnscrypt-proxy, and its own again."""
    before = machine.document["resolvers"]["sys-dns"]["dnscrypt"]
    try:
        machine.settings(settings)
        machine.apply(machine.dns)
        if restart:
            machine.proxy("restart")
        yield
    finally:
        machine.settings(before)
        machine.start()
        machine.apply(machine.dns)
        machine.proxy("restart")


def keep(machine: Machine, text: str, signature: str, days: int) -> None:
    """A list in /rw, as the proxy itself keeps it, of some days ago."""
    for name, content in (("lab.md", text), ("lab.md.minisig", signature)):
        machine.dns.write(f"{FOLDER}/lists/{name}", content)
        machine.dns.run(["touch", "-d", f"{days} days ago", f"{FOLDER}/lists/{name}"])
    machine.dns.run(f"chown -R _dnscrypt-proxy {FOLDER}/lists")
