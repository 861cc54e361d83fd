# SPDX-License-Identifier: GPL-2.0-or-later
"""R50, R52, R55, R63, R90: no DNS in plain leaves a resolver qube, and its clients get its answers.

The formula's own rules, real packets; a stand-in for dnscrypt-proxy that listens as it does.  The
kernel here may have no flowtables, so that cutting an offloaded flow is not seen.
"""

import time
from collections.abc import Iterator
from subprocess import PIPE

import pytest
from peer import seen_as, server
from resolver_machine import (
    ASKED,
    CHAIN,
    CLEAR,
    OURS,
    PUBLIC,
    WORD,
    Machine,
    answers,
    boot_resolver,
    install,
    machine,
)

from qubes_vpn_formula.lab import resolverfiles, senders
from qubes_vpn_formula.lab.agent import checkout
from qubes_vpn_formula.lab.agent.real import Real
from qubes_vpn_formula.lab.capture import Capture
from qubes_vpn_formula.lab.machine import PUBLIC as OUTSIDE
from qubes_vpn_formula.lab.machine import Lab
from qubes_vpn_formula.lab.questions import Eavesdropper
from qubes_vpn_formula.lab.traffic import Echo, Flow, send, works

pytestmark = pytest.mark.usefixtures("namespaces")

RULES = resolverfiles.files()[resolverfiles.CLOSED][0]
MARKER = WORD.encode()


@pytest.fixture(scope="module", params=["restated", "real"])
def shared(namespaces, request, tmp_path_factory) -> Iterator[Machine]:
    agent = None
    if request.param == "real":
        if not (source := checkout.find()):
            pytest.skip("QUBES_SRC does not name a checkout of qubes-core-agent-linux")
        agent = Real(source)
    with machine(tmp_path_factory.mktemp("pcap"), agent) as made:
        made.start_resolver()
        # A user's own rule that opens all that Qubes' chain would drop: ours hold by themselves.
        for family in ("ip", "ip6"):
            made.dns.run(f"nft add rule {family} qubes custom-forward accept")
        yield made


@pytest.fixture
def up(shared) -> Machine:
    """A machine whose resolver is open, with its own rules and nobody else's."""
    shared.dns.run("nft 'add table inet users; delete table inet users'")
    shared.rules()
    return shared


def given(up: Machine, *servers: str) -> set[str]:
    """What both clients are answered, by UDP and TCP; an error's name where there is none."""
    return {
        "".join(answer.addresses) or answer.error
        for qube in (up.near, up.client)
        for protocol in ("udp", "tcp")
        for answer in answers(qube, *servers or ASKED, protocol=protocol)
    }


def test_whatever_address_they_ask_the_resolver_in_the_qube_answers(up):
    """Also behind a firewall qube; and nothing is seen on the uplink."""
    found, verdict = up.overheard(lambda: given(up))
    assert (found, verdict.outcome) == ({OURS}, "closed"), verdict
    assert given(up, up.lab.address("sys-dns")) == {OURS}


def test_closed_they_are_refused_at_once(up):
    up.rules(opened=False)
    begun = time.monotonic()
    found, verdict = up.overheard(lambda: given(up))
    assert time.monotonic() - begun < 5
    assert found <= {"ConnectionRefusedError", "OSError", "PermissionError"}
    assert verdict.outcome == "closed", verdict


@pytest.mark.parametrize("opened", [True, False], ids=["open", "closed"])
def test_no_way_of_plain_dns_leads_out(up, opened):
    up.rules(opened=opened)
    _, verdict = up.overheard(up.evil)
    assert verdict.outcome == "closed", verdict


def test_without_the_rules_all_of_it_is_overheard(up):
    """The planted leak: the ears are not deaf, and who is reached in clear answers."""
    up.dns.run("nft delete table inet qubes_vpn")
    found, verdict = up.overheard(lambda: given(up))
    assert found >= {CLEAR}
    assert verdict.outcome == "LEAK"


def test_only_clients_are_answered(up):
    """Not what is upstream; and the resolver's own qube asks itself by `lo`."""
    (outside,) = answers(up.lab.qubes["sys-net"], up.lab.address("sys-dns"), wait=0.3)
    assert (outside.addresses, outside.error) == ([], "TimeoutError")
    up.rules(opened=False)
    assert [answer.addresses for answer in answers(up.dns, "127.0.0.1", "::1")] == [[OURS]] * 2


# --- mutants

_TO_RESOLVER = "meta l4proto { tcp, udp } th dport 53 redirect to :53"
_FORWARDED = "goto not_forwarded"


def no_guard(text: str) -> str:
    """Nothing behind the redirection that would hide its fault."""
    lines = [line for line in text.splitlines(True) if _FORWARDED not in line or "chain" in line]
    return swap("".join(lines), "\t\tct state invalid goto dropped\n", "")


def swap(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


def lines_without(text: str, *words: str) -> str:
    lines = text.splitlines(True)
    kept = [line for line in lines if not all(word in line for word in words)]
    assert kept != lines
    return "".join(kept)


def output(text: str, old: str, new: str) -> str:
    """The change in the output chain's rules alone."""
    head, mark, tail = text.rpartition("\tchain output {")
    return head + mark + swap(tail, old, new)


def forward(text: str, old: str, new: str) -> str:
    """The change in what comes before the output chain's rules alone."""
    head, mark, tail = text.rpartition("\tchain output {")
    return swap(head, old, new) + mark + tail


REDIRECTION = {
    "after Qubes' translation": lambda text: swap(text, "dstnat - 10", "dstnat + 5"),
    "UDP alone": lambda text: swap(text, _TO_RESOLVER, "udp dport 53 redirect to :53"),
    "TCP alone": lambda text: swap(text, _TO_RESOLVER, "tcp dport 53 redirect to :53"),
    "IPv4 alone": lambda text: swap(text, _TO_RESOLVER, f"meta nfproto ipv4 {_TO_RESOLVER}"),
    "one virtual address": lambda text: swap(
        text, _TO_RESOLVER, f"ip daddr 10.139.1.1 {_TO_RESOLVER}"
    ),
}
_PROTOCOLS = "{ tcp, udp, udplite, dccp, sctp }"
LEAKS = {
    f"{name}, no guard": lambda text, do=do: no_guard(do(text)) for name, do in REDIRECTION.items()
} | {
    "853 is forwarded": lambda text: forward(text, "{ 53, 853 }", "53"),
    "forwarded by TCP and UDP alone": lambda text: forward(text, _PROTOCOLS, "{ tcp, udp }"),
    "forwarded from port 53": lambda text: lines_without(text, "th sport", "not_forwarded"),
    "errors that quote answers": lambda text: swap(text, "ct state invalid goto dropped", ""),
    "the qube's own to 53": lambda text: output(text, "dport { 53, 853 }", "dport 853"),
    "the qube's own to 853": lambda text: output(text, "dport { 53, 853 }", "dport 53"),
    "the qube's own from 53": lambda text: output(text, "sport { 53, 853 }", "sport 853"),
    "LLMNR": lambda text: swap(text, "{ 137, 5355 }", "137"),
    "mDNS": lambda text: lines_without(text, "224.0.0.0/4"),
    "mDNS by IPv6": lambda text: lines_without(text, "ff00::/8"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_found(up, name):
    up.rules(LEAKS[name](RULES))
    _, verdict = up.overheard(up.evil)
    assert verdict.outcome == "LEAK", verdict


@pytest.mark.parametrize("name", REDIRECTION)
def test_a_redirection_that_lacks_something_leaves_clients_without_answers(up, name):
    """What is behind it holds; clients are not served as they should be."""
    up.rules(REDIRECTION[name](RULES))
    found, verdict = up.overheard(lambda: given(up))
    assert found != {OURS}
    assert verdict.outcome == "closed", verdict


# --- time: before, meanwhile, after


@pytest.mark.parametrize(("flag", "outcome"), [(True, "closed"), (False, "LEAK")])
def test_from_the_first_moment(namespaces, tmp_path, flag, outcome):
    """A client never stops asking, while the resolver's qube boots (R52); without ours it leaks."""
    with Lab(CHAIN) as lab:
        made = Machine(lab, tmp_path)
        install(lab, flag)
        lab.boot("sys-net")
        lab.boot("near")
        far, device = lab.far_side("sys-dns")
        with (
            Capture(made.dns, far, device, tmp_path / "boot.pcap", proven=False) as capture,
            made.asking(300),
        ):
            boot_resolver(lab)
            time.sleep(0.3)
            verdict = Eavesdropper(WORD).judge(capture.finish())
        assert verdict.outcome == outcome, verdict


def test_no_moment_is_open_while_it_loads_again(up):
    """Under a flood: the program, the file by itself, Qubes' firewall and its DNS translation."""

    def again():
        with up.asking(1000):
            for _ in range(3):
                assert up.resolver("load") == up.resolver("close") == 0
                up.dns.run(["nft", "-f", resolverfiles.CLOSED])
                up.open()
            up.lab.agent.firewall_restart(up.dns)
            up.dns.write("/etc/resolv.conf", "nameserver 203.0.113.53\n")
            up.lab.agent.dnat(up.dns)

    _, verdict = up.overheard(again)
    assert verdict.outcome == "closed", verdict


def test_a_load_in_two_steps_is_found(up):
    """The mutant of the test before."""

    def again():
        with up.asking(1000):
            for _ in range(5):
                up.dns.run("nft delete table inet qubes_vpn")
                up.rules()

    _, verdict = up.overheard(again)
    assert verdict.outcome == "LEAK"


@pytest.mark.parametrize("family", PUBLIC)
def test_flows_from_before_the_rules_end(up, family):
    """They were translated or not when they began, and are asked nothing again."""
    up.dns.run("nft delete table inet qubes_vpn")
    elsewhere = {4: "9.9.9.9", 6: "2001:db8:51::9"}[family]
    with Echo(up.lab.internet, elsewhere, 53), Flow(up.near, elsewhere, 53, MARKER) as flow:
        assert up.resolver("load") == 0
        _, verdict = up.overheard(lambda: time.sleep(0.3))
        ended = flow.stop()
    assert verdict.outcome == "closed", verdict
    assert all(one.received < one.sent for one in ended.values())


def test_who_was_refused_is_answered_from_the_same_port_once_it_opens(up):
    """A refused question leaves no flow behind; an answered one's ends with closing."""
    code = (
        "import socket, sys\n"
        "one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "one.bind(('', 5300)); one.settimeout(1); one.connect(('8.8.8.8', 53))\n"
        "question = bytes.fromhex('123401000001000000000000' '0161' '00' '00010001')\n"
        "for _ in sys.stdin:\n"
        "    try:\n"
        "        one.send(question)\n"
        "        print(one.recv(512)[-4:].hex(), flush=True)\n"
        "    except OSError as error:\n"
        "        print(type(error).__name__, flush=True)\n"
    )
    asking = up.near.popen(["python3", "-c", code], stdin=PIPE, stdout=PIPE, text=True)

    def answer():
        asking.stdin.write("\n")
        asking.stdin.flush()
        return asking.stdout.readline().strip()

    ours = "cb00714d"  # 203.0.113.77
    for _ in range(2):
        assert up.resolver("close") == 0
        assert answer() == "OSError"
        up.open()
        assert answer() == ours
    asking.kill()


@pytest.mark.parametrize("family", PUBLIC)
@pytest.mark.parametrize("opened", [True, False], ids=["nobody listens", "closed"])
def test_a_refusal_goes_to_the_client_or_nowhere(up, family, opened):
    """At the start, and after a client has gone, its address is routed to the uplink.

    The refusal quotes the question.  Qubes stops it too, from when it has heard of the client on.
    """
    address, device = up.lab.address("near", family), up.lab.vif("near")
    metric = "metric 32747"
    # The kernel sends an address some refusals, then none for a while: that would prove nothing.
    up.dns.run("echo 0 | tee /proc/sys/net/ipv4/icmp_ratelimit /proc/sys/net/ipv6/icmp/ratelimit")
    up.stop_resolver()
    up.dns.run(f"ip -{family} route del {address} dev {device}")
    for table in ("ip", "ip6"):
        up.dns.run(f"nft flush chain {table} qubes-firewall postrouting")

    def refused():
        send(up.near, *[senders.udp(PUBLIC[family], 53, MARKER, source=("", 0))] * 3)

    try:
        up.rules(opened=opened)
        _, ours = up.overheard(refused)
        up.rules(lines_without(lines_without(RULES, "icmp", "ct"), "ct state invalid"), opened)
        _, mutant = up.overheard(refused)
    finally:
        up.dns.run(f"ip -{family} route add {address} dev {device} {metric}")
        up.start_resolver()
        up.lab.agent.firewall_restart(up.dns)
    assert (ours.outcome, mutant.outcome) == ("closed", "LEAK")


# --- all else is as before


def test_all_other_traffic_passes(up):
    """From both clients, both families; Qubes' offloading stays."""
    with server(up.lab):
        for name in ("near", "client"):
            for family, address in OUTSIDE.items():
                assert seen_as(up.lab, name, family) == address
    up.near.run(["ping", "-c", "1", "-W", "2", PUBLIC[4]])
    assert "table inet qubes-nat-accel" in up.dns.run("nft list tables").stdout


def test_qubes_own_chains_stay_as_they_are(up):
    """R55. Whatever is loaded, and however often; of the users' chain there is one rule of ours."""
    listing = "nft -s list table ip qubes; nft -s list table ip6 qubes"
    before = up.dns.run(listing).stdout
    for _ in range(2):
        up.open()
        assert up.resolver("close") == up.resolver("load") == 0
    assert up.dns.run(listing).stdout == before
    assert before.count("qubes-vpn") == 2
    assert "dnat-dns" in before


def test_a_users_own_translation_opens_nothing(up):
    """R46. To another port, before ours: it was asked of port 53."""
    up.dns.run(
        "nft 'table inet users { chain c { type nat hook prerouting priority dstnat - 20;"
        f" iifgroup 2 ip daddr 10.139.1.1 udp dport 53 dnat ip to {PUBLIC[4]}:5353; }}; }}'"
    )
    (answer,), verdict = up.overheard(lambda: answers(up.near, ASKED[0]))
    assert (answer.addresses, verdict.outcome) == ([], "closed")
    up.rules(lines_without(RULES, "ct original proto-dst"))
    _, verdict = up.overheard(lambda: answers(up.near, ASKED[0], wait=0.2))
    assert verdict.outcome == "LEAK"


@pytest.mark.parametrize("where", ["prerouting priority -310", "forward priority -20"])
def test_a_copy_of_a_clients_questions_goes_nowhere(up, where):
    """R46. A rule of the user's copies all that clients send to the uplink; also their errors."""
    up.dns.run(
        f"nft 'table ip users {{ chain c {{ type filter hook {where};"
        f' iifgroup 2 dup to {up.lab.address("sys-net")} device "eth0"; }}; }}\''
    )
    jobs = senders.dns(PUBLIC[4], MARKER, wait=0.02) * 3
    try:
        _, ours = up.overheard(lambda: send(up.near, *jobs))
        up.rules(RULES.rpartition("\tchain output {")[0] + "\tchain output {\n\t}\n}\n")
        _, mutant = up.overheard(lambda: send(up.near, *jobs))
    finally:
        up.dns.run("nft delete table ip users")
    assert (ours.outcome, mutant.outcome) == ("closed", "LEAK"), ours


def test_an_uplink_of_another_name_is_as_closed(up):
    """No rule knows it."""
    for old, new in (("eth0", "wg0"), ("wg0", "eth0")):
        up.dns.run(f"ip link set {old} down; ip link set {old} name {new}; ip link set {new} up")
        up.lab.agent.uplink(up.dns, new)
        _, verdict = up.overheard(lambda new=new: up.evil(new))
        assert verdict.outcome == "closed", verdict
        assert given(up) == {OURS}


# --- clients' firewall lists (decision 0020)

_DNS, _NOTHING = ["action=accept specialtarget=dns"], []


def test_a_list_without_dns_is_not_asked_for_what_the_resolver_in_its_netvm_answers(up):
    """As for any resolver in a netvm (facts 5): no list of a direct client keeps DNS from it."""
    up.lab.allow("near", _NOTHING)
    try:
        assert {"".join(one.addresses) for one in answers(up.near, *ASKED)} == {OURS}
        (other,) = answers(up.near, PUBLIC[4], protocol="tls", wait=0.3)
        assert other.addresses == []
    finally:
        up.lab.allow("near", ["action=accept"])


@pytest.mark.parametrize(("rules", "answered"), [(_NOTHING, set()), (_DNS, {OURS})])
def test_behind_a_firewall_qube_a_list_is_asked(up, rules, answered):
    """Its own virtual addresses, and no others."""
    up.lab.allow("client", rules)
    try:
        found = {"".join(one.addresses) for one in answers(up.client, *ASKED[:2], wait=0.3)}
        assert found - {""} == answered
        (public,) = answers(up.client, PUBLIC[4], wait=0.3)
        assert public.addresses == []
    finally:
        up.lab.allow("client", ["action=accept"])


def test_a_host_name_in_a_list_is_looked_up_once_the_resolver_answers(up):
    """Until then Qubes blocks all of that client; opening has its lists read again (facts 5)."""
    if not isinstance(up.lab.agent, Real):
        pytest.skip("needs Qubes' own worker: the restated one knows no host names")
    up.dns.write("/etc/resolv.conf", "nameserver 127.0.0.1\n")
    assert up.resolver("close") == 0
    up.stop_resolver()
    up.lab.allow("near", ["action=accept dsthost=host.example"])
    with Echo(up.lab.internet, OURS, 4000):
        try:
            assert works(up.near, OURS, 4000, b"x", messages=1, wait=0.3)["udp"].received == 0
            up.start_resolver()
            up.open()
            until = time.monotonic() + 20
            while not works(up.near, OURS, 4000, b"x", messages=1, wait=0.3)["udp"].received:
                assert time.monotonic() < until
        finally:
            up.lab.allow("near", ["action=accept"])
