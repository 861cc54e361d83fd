# SPDX-License-Identifier: GPL-2.0-or-later
"""R53: Debian 13's dnscrypt-proxy takes what is written from a pillar, and does what it says.

The program is real, in a qube of the lab, and so are its servers, the lab's name servers
(`qubes_vpn_formula/lab/nameservers.py`).  Files are at their own paths, below /rw.
"""

import ipaddress
import os
import time
from contextlib import contextmanager

import pytest
import yaml
from cable import cable
from dnscrypt_documents import documents, relay
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings

import qubes_vpn_dns_own
import qubes_vpn_dnscrypt
import qubes_vpn_model
from qubes_vpn_formula.lab import debian
from qubes_vpn_formula.lab.capture import Capture
from qubes_vpn_formula.lab.nameservers import ADDRESSES, ANSWERS, LIST_URL, Nameservers
from qubes_vpn_formula.lab.packets import decode
from qubes_vpn_formula.lab.questions import Eavesdropper, Question, ask

pytestmark = [pytest.mark.usefixtures("namespaces"), pytest.mark.timeout(300)]

FOLDER, LISTS = qubes_vpn_dnscrypt.FOLDER, qubes_vpn_dnscrypt.LISTS
CHECKED = "Configuration successfully checked"


@pytest.fixture(scope="module")
def qubes(namespaces):
    with cable() as both:
        for address in ADDRESSES.values():
            both[1].run(f"ip addr add {address}/32 dev lo")
        yield both


@pytest.fixture(scope="module")
def nameservers(qubes, tmp_path_factory):
    try:
        made = Nameservers(tmp_path_factory.mktemp("names"), qubes[1])
        made.proxy = debian.tree("trixie", "dnscrypt", ("dnscrypt-proxy",))
    except debian.NotReachable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"Debian 13 cannot be had: {error}")
    made.serve("dnscrypt")
    made.serve("doh")
    return made


@pytest.fixture
def proxy(qubes, nameservers):
    """The real program in the near qube."""
    return Proxy(qubes[0], nameservers)


class Proxy:
    def __init__(self, qube, nameservers):
        self.qube, self.nameservers = qube, nameservers
        self.program = debian.command(nameservers.proxy, "usr/sbin/dnscrypt-proxy")
        qube.run("mkdir -p /var/log/dnscrypt-proxy")
        qube.write("/etc/resolv.conf", qubes_vpn_dns_own.NAMESERVERS)

    def write(self, document, **texts):
        """What belongs to the settings *document*, and nothing of before."""
        resolvers = {"sys-dns": {"dnscrypt": document}}
        model = qubes_vpn_model.build({"tunnels": {"sys-vpn": _TUNNEL}, "resolvers": resolvers})
        found = model.services["sys-dns"].dnscrypt
        script = [f"rm -rf {FOLDER} && mkdir -p {LISTS}"]
        for name, text in {**qubes_vpn_dnscrypt.files(found), **texts}.items():
            script.append(f"cat > '{FOLDER}/{name}' <<'END OF TEXT'\n{text}\nEND OF TEXT")
        self.qube.run("\n".join(script))

    def words(self, *more, name="dnscrypt-proxy.toml"):
        trust = f"SSL_CERT_FILE={self.nameservers.ca}"
        return ["env", trust, *self.program, "-config", f"{FOLDER}/{name}", *more]

    def check(self, name="dnscrypt-proxy.toml"):
        """The exit code and the text of the program's own check of its configuration."""
        done = self.qube.run(self.words("-check", name=name), check=False)
        return done.returncode, done.stdout + done.stderr

    @contextmanager
    def running(self, name="dnscrypt-proxy.toml", ready="is ready - live servers"):
        """The program while it runs, from when it says that it is ready; its output."""
        log = f"{FOLDER}/log"
        words = " ".join(f"'{word}'" for word in self.words(name=name))
        process = self.qube.popen(f"exec {words} > {log} 2>&1")
        try:
            until = time.monotonic() + 20
            while ready not in self.log() and time.monotonic() < until and process.poll() is None:
                time.sleep(0.05)
            assert ready in self.log(), self.log()
            yield self
        finally:
            process.kill()
            process.wait()

    def log(self):
        return self.qube.run(f"cat {FOLDER}/log", check=False).stdout

    def list(self, name, text, signature):
        """A list as it is kept, with its signature."""
        for end, body in (("", text), (".minisig", signature)):
            self.qube.write(f"{LISTS}/{name}.md{end}", body)

    def asked(self, *names, kind=1, server="127.0.0.1"):
        """The addresses that each name is answered with; an error's name without an answer."""
        questions = [Question(server, name, kind=kind) for name in names]
        return [answer.error or answer.addresses for answer in ask(self.qube, *questions)]


_TUNNEL = {
    "kind": "wireguard",
    "profile": "wg0.conf",
    "endpoints": ["203.0.113.7:51820/udp"],
}


def signed(nameservers, *names):
    """A list in which every one of *names* is the lab's DNSCrypt server, and its signature."""
    stamp = nameservers.stamps["dnscrypt"]
    return nameservers.sign("# List\n\n" + "".join(f"## {name}\n\n{stamp}\n" for name in names))


def with_lab_key(document, nameservers):
    """The same settings, with lists that the lab has signed."""
    lists = {
        name: {**(keys or {}), "minisign_key": nameservers.minisign_key}
        for name, keys in document.get("lists", {}).items()
    }
    return {**document, "lists": lists}


# --- it is accepted


def shown(text):
    """What pillar.example shows in comments."""
    lines = [line[12:] for line in text.splitlines() if line.startswith("        #   ")]
    return yaml.safe_load("\n".join(lines))


def test_what_the_example_shows_is_accepted(proxy, nameservers, pillar_example):
    defaults = yaml.safe_load(pillar_example)["qubes_vpn"]["resolvers"]["sys-dns"]["dnscrypt"]
    proxy.write(defaults)
    assert proxy.check()[0] == 0
    everything = with_lab_key({**defaults, **shown(pillar_example)}, nameservers)
    proxy.write(everything)
    for name in everything["lists"]:
        proxy.list(name, *signed(nameservers, *everything["server_names"]))
    code, said = proxy.check()
    assert (code, CHECKED in said) == (0, True), said
    assert "Anonymized DNS: routing everything else via [*]" in said
    code, said = proxy.check("first.toml")
    assert (code, CHECKED in said) == (0, True), said


@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(document=documents())
@example(document={})
def test_whatever_the_pillar_takes_is_accepted(proxy, nameservers, document):
    document = with_lab_key(document, nameservers)
    proxy.write(document)
    for name in document["lists"]:
        proxy.list(name, *nameservers.signed_list())
    code, said = proxy.check()
    assert code == 0, said
    assert "[ERROR]" not in said
    assert "[WARNING]" not in said.replace("is writable by other", "")
    if document["lists"]:
        assert proxy.check("first.toml")[0] == 0


def test_the_check_finds_what_is_wrong(proxy):
    """Else it would prove nothing."""
    for line in ("no_such_key = 1", 'lb_strategy = ["p2"]', 'server_names = ["nobody"]'):
        proxy.write({})
        file = f"{FOLDER}/dnscrypt-proxy.toml"
        key = line.split(" ")[0]
        proxy.qube.run(f"sed -i '/^{key} =/d; 3i {line}' {file}")
        code, said = proxy.check()
        assert code != 0, (line, said)


# --- lists


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("rm {}", "no such file or directory"),
        ("rm {}.minisig", "no such file or directory"),
        ("echo >> {}", "Invalid signature"),
        ("sed -i 's/timestamp:1/timestamp:2/' {}.minisig", "Invalid global signature"),
        ("echo > {}.minisig", "Incomplete encoded signature"),
    ],
)
def test_without_downloads_the_check_says_what_is_wrong_with_a_list(
    proxy, nameservers, damage, said
):
    """R52.  With them it tells of the download that failed."""
    proxy.write(with_lab_key({"lists": {"mine": {"urls": [LIST_URL]}}}, nameservers))
    proxy.list("mine", *nameservers.signed_list())
    text = proxy.qube.read(f"{FOLDER}/dnscrypt-proxy.toml")
    proxy.qube.write(f"{FOLDER}/kept.toml", qubes_vpn_dnscrypt.without_downloads(text))
    assert proxy.check("kept.toml")[0] == 0
    proxy.qube.run(damage.format(f"{LISTS}/mine.md"))
    code, text = proxy.check("kept.toml")
    assert code != 0
    assert said in text
    assert "[mine]" in text


def test_a_list_that_is_not_there_is_brought_by_the_first_configuration(
    proxy, nameservers, qubes, tmp_path
):
    """R52: its host is looked up by servers that need no list, and nothing is asked in plain."""
    servers = {"good": nameservers.stamps["dnscrypt"]}
    url = "https://doh.lab.example/resolvers.md"
    document = {"servers": servers, "lists": {"mine": {"urls": [url]}}}
    proxy.write(with_lab_key(document, nameservers))
    nameservers.signed_list()
    nameservers.serve("doh")
    # The lab's server knows one address for every name.
    target = f"ip daddr {ANSWERS['dnscrypt']} tcp dport 443 dnat to {ADDRESSES['doh']}"
    qubes[1].run(
        f"nft 'table ip t {{ chain c {{ type nat hook prerouting priority dstnat; {target}; }}; }}'"
    )
    code, said = proxy.check()
    assert code != 0
    assert "Unable to retrieve source [mine]" in said
    with Capture(*qubes, "vif1.0", tmp_path / "cable.pcap") as capture:
        with proxy.running("first.toml"):
            code, said = proxy.check()
            assert (code, CHECKED in said) == (0, True), said
        verdict = Eavesdropper("no such word").judge(capture.finish())
    assert verdict.outcome != "LEAK", verdict
    assert proxy.qube.exists(f"{LISTS}/mine.md.minisig")
    assert proxy.check()[0] == 0  # by what is kept


def test_a_list_of_yesterday_holds_up_the_start_for_seconds_only(proxy, nameservers):
    """R52.  It is asked for anew before the program hears anybody, itself too."""
    urls = ["https://one.example.org/a.md", "https://two.example.org/a.md"]
    proxy.write(with_lab_key({"lists": {"mine": {"urls": urls}}}, nameservers))
    proxy.list("mine", *nameservers.signed_list())
    proxy.qube.run(f"touch -d '30 hours ago' {LISTS}/mine.md")
    begun = time.monotonic()
    with proxy.running():
        took = time.monotonic() - begun
    assert 3 < took < 15, "it was not asked for, or for too long (20 s by default)"


def test_a_list_cannot_take_the_place_of_a_static_server(proxy, nameservers):
    """Without those names among the disabled ones, the list's stamp would replace the pillar's."""
    document = {"servers": {"mine": nameservers.stamps["dnscrypt"]}, "server_names": ["mine"]}
    proxy.write(with_lab_key({**document, "lists": {"a": {"urls": [LIST_URL]}}}, nameservers))
    other = f"# List\n\n## mine\n\n{nameservers.stamps['doh']}\n"
    proxy.list("a", *nameservers.sign(other))
    with proxy.running():
        assert proxy.asked("www.example.org") == [[ANSWERS["dnscrypt"]]]
    file = f"{FOLDER}/dnscrypt-proxy.toml"
    proxy.qube.run(f"sed -i 's/^disabled_server_names = .*/disabled_server_names = []/' {file}")
    with proxy.running():
        assert proxy.asked("www.example.org") == [[ANSWERS["doh"]]]


# --- it does what it says


def test_both_servers_answer_and_both_families_are_listened_to(proxy, nameservers):
    for name, stamp in nameservers.stamps.items():
        proxy.write({"servers": {"only": stamp}})
        with proxy.running():
            assert proxy.asked("www.example.org") == [[ANSWERS[name]]]
            assert proxy.asked("www.example.org", server="::1") == [[ANSWERS[name]]]


@pytest.mark.parametrize("victim", ["dnscrypt", "doh"])
def test_of_two_servers_the_one_that_died_is_left(proxy, nameservers, victim):
    """`first`, the default.  By its source the program's own, p2, would go on asking both."""
    (other,) = {*nameservers.stamps} - {victim}
    proxy.write({"servers": nameservers.stamps, "timeout": 1000, "cache": False})
    with proxy.running(ready="live servers: 2"):
        nameservers.vanish(victim)
        try:
            proxy.asked("www.example.org", "www.example.org")
            answers = proxy.asked(*["www.example.org"] * 8)
        finally:
            nameservers.serve(victim)
    assert answers == [[ANSWERS[other]]] * 8


@pytest.mark.parametrize("ipv6", ["on", "off"])
def test_one_socket_is_enough_also_where_ipv6_is_off(proxy, nameservers, ipv6):
    """0.0.0.0:53 and [::]:53 together end the program: Go opens the second for both families."""
    proxy.qube.run(f"sysctl -qw net.ipv6.conf.all.disable_ipv6={int(ipv6 == 'off')}")
    proxy.write({"servers": {"only": nameservers.stamps["dnscrypt"]}})
    with proxy.running():
        assert proxy.asked("www.example.org") == [[ANSWERS["dnscrypt"]]]
    proxy.qube.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=0")


def test_rules_are_kept(proxy, nameservers):
    document = {
        "servers": {"only": nameservers.stamps["dnscrypt"]},
        "block_ipv6": True,
        "cloaking": {
            "nas.example.org": ["192.168.1.9", "fd00::9"],
            "=only.example.org": "10.1.1.1",
        },
        "blocked_names": ["ads.example.org", "*tracker*"],
        "allowed_names": ["good.ads.example.org"],
        "blocked_query_response": "refused",
    }
    real = [ANSWERS["dnscrypt"]]
    proxy.write(document)
    with proxy.running():
        assert proxy.asked("nas.example.org", "x.nas.example.org") == [["192.168.1.9"]] * 2
        assert proxy.asked("only.example.org", "x.only.example.org") == [["10.1.1.1"], real]
        assert proxy.asked("ads.example.org", "a.tracker2.example.org") == [[], []]
        assert proxy.asked("good.ads.example.org", "www.example.org") == [real, real]
        assert proxy.asked("www.example.org", kind=28) == [[]]
        assert proxy.asked("nas.example", "www") == [[], []]  # in nobody's hands
        assert "Syntax error" not in proxy.log()


#: A name server without a port of DNS' own, which answers every question with 10.8.0.9.
_CORPORATE = """
import socket
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(("10.8.0.1", 5353))
while True:
    asked, client = one.recvfrom(4096)
    end = asked.index(0, 12) + 5
    head = asked[:2] + bytes.fromhex("8180 0001 0001 0000 0000")
    answer = bytes.fromhex("c00c 0001 0001 0000003c 0004 0a080009")
    one.sendto(head + asked[12:end] + answer, client)
"""


def test_a_domain_is_forwarded_to_a_resolver_inside_the_vpn(proxy, nameservers, qubes):
    qubes[1].run("ip addr replace 10.8.0.1/32 dev lo")
    corporate = qubes[1].popen(["python3", "-c", _CORPORATE])
    forwarding = {"corp.example": ["10.8.0.1:5353"]}
    servers = {"only": nameservers.stamps["dnscrypt"]}
    proxy.write({"servers": servers, "forwarding": forwarding})
    try:
        with proxy.running():
            answers = proxy.asked("corp.example", "a.corp.example", "www.example.org")
    finally:
        corporate.kill()
    assert answers == [["10.8.0.9"], ["10.8.0.9"], [ANSWERS["dnscrypt"]]]


@pytest.mark.parametrize("network", ["203.0.113.10", "203.0.112.0/23", "200.0.0.0/6"])
def test_an_address_that_no_answer_may_hold(proxy, nameservers, network):
    assert ipaddress.ip_address(ANSWERS["dnscrypt"]) in ipaddress.ip_network(network)
    document = {"servers": {"only": nameservers.stamps["dnscrypt"]}, "blocked_ips": [network]}
    proxy.write(document)
    with proxy.running():
        assert proxy.asked("www.example.org") == [[]]
    proxy.write({**document, "blocked_ips": ["203.0.113.11", "203.1.0.0/16"]})
    with proxy.running():
        assert proxy.asked("www.example.org") == [[ANSWERS["dnscrypt"]]]


@pytest.mark.parametrize("server", ["only", "*"])
def test_a_server_is_not_asked_past_its_relay(proxy, nameservers, qubes, tmp_path, server):
    """Nobody is at the relay's address.  Without the route the same server is asked."""
    real, gone = ADDRESSES["dnscrypt"], "198.51.100.99"
    document = {
        "servers": {"only": nameservers.stamps["dnscrypt"]},
        "relays": {"gone": relay(f"{gone}:443")},
        "doh_servers": False,
        "timeout": 500,
    }
    seen = []
    for routes, ready in (({server: ["gone"]}, "is waiting for"), ({}, "is ready")):
        proxy.write({**document, "routes": routes})
        with Capture(*qubes, "vif1.0", tmp_path / "cable.pcap") as capture:
            with proxy.running(ready=ready):
                answers = proxy.asked("www.example.org")
            frames = capture.finish().frames
        to = {decode(frame.data).destination for frame in frames}
        seen.append((*(ipaddress.ip_address(each).packed in to for each in (real, gone)), answers))
    assert seen[0] == (False, True, ["TimeoutError"])
    assert seen[1] == (True, False, [[ANSWERS["dnscrypt"]]])
