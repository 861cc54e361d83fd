# SPDX-License-Identifier: GPL-2.0-or-later
"""R41, R45: newer versions of nft than this machine's load the rules and have nothing to say.

The programs are Debian's, unpacked with their own libc, on this machine's kernel and in a qube of
the lab.  They are fetched once (`qubes_vpn_formula/lab/debian.py`).
"""

import json
import shlex
from collections.abc import Iterator

import pytest

from qubes_vpn_formula.lab import debian, resolverfiles
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.qube import Qube

pytestmark = pytest.mark.usefixtures("namespaces")

_CLOSED = "/usr/lib/qubes-vpn/closed.nft"
_KILLSWITCH = "/usr/lib/qubes-vpn/killswitch"
#: Exact endpoints, and those that make interval sets, whose listing changed between versions.
_ENDPOINTS = """192.0.2.10:51820/udp
198.51.100.0/24:1194-1200/udp
198.51.100.128/25:1190-1195/udp
[2001:db8:2::10]:51820/udp
[2001:db8:3::/64]:443/tcp
"""


@pytest.fixture(scope="module", params=["the machine's", "trixie", "sid"])
def qube(namespaces, request) -> Iterator[Qube]:
    """A VPN qube with an uplink, our files, and the nft of that release at its usual path."""
    wrapper = None
    if request.param in ("trixie", "sid"):
        try:
            tree = debian.tree(request.param, "nft", ("nftables",))
        except debian.NotReachable as error:
            pytest.skip(f"Debian {request.param}'s nft cannot be had: {error}")
        wrapper = f'#!/bin/sh\nexec {shlex.join(debian.command(tree, "usr/sbin/nft"))} "$@"\n'
    with Qube("sys-vpn") as qube:
        if wrapper:
            qube.write("/usr/sbin/nft", wrapper, 0o755)
        for path, (text, mode) in Ours().files().items():
            qube.write(path, text, mode)
        qube.write("/run/qubes-service/qubes-vpn", "")
        qube.run("ip link add eth0 type veth peer name far && ip link set eth0 group 1 up")
        yield qube


@pytest.fixture(autouse=True)
def _fresh(qube):
    qube.run("nft flush ruleset")
    qube.write("/rw/config/vpn/endpoints.txt", _ENDPOINTS)
    qube.write("/rw/config/vpn/killswitch.conf", "interface = wg0\nlog = yes\n")


def test_closed_rules_are_checked_and_loaded_in_silence_any_number_of_times(qube):
    listings = []
    for words in (["-c"], [], [], []):
        done = qube.run(["nft", *words, "-f", _CLOSED])
        assert done.stdout + done.stderr == ""
        if not words:
            listings.append(qube.run("nft -s list ruleset").stdout)
    assert listings[0].count("type filter hook") == 4
    assert listings[1:] == listings[:1] * 2


def test_open_rules_and_gate_are_loaded_and_found_as_they_should_be(qube):
    qube.write("/run/qubes-vpn/resolvers", "10.64.0.1\n10.64.0.2\nfd64::1\n")
    for _ in range(2):
        done = qube.run([_KILLSWITCH, "load"], check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
    report = json.loads(qube.run([_KILLSWITCH, "status", "--json"], check=False).stdout)
    assert (report["state"], report["drift"]) == ("open", [])
    # Versions break a map's line at different places; the words are the same.
    loaded = " ".join(qube.run("nft list ruleset").stdout.split())
    assert "hook egress" in loaded
    assert "tcp : 10.64.0.1, udp : 10.64.0.1" in loaded
    qube.run("rm /run/qubes-vpn/resolvers")


def test_a_rule_too_many_is_found(qube):
    """The comparison with this version's listing is not blind."""
    qube.run([_KILLSWITCH, "load"])
    qube.run("nft insert rule inet qubes_vpn output accept")
    report = json.loads(qube.run([_KILLSWITCH, "status", "--json"], check=False).stdout)
    assert report["state"] == "altered"
    assert report["drift"] == ["chain output: 'accept' is not ours"]


def test_bad_input_closes(qube):
    qube.run([_KILLSWITCH, "load"])
    qube.write("/rw/config/vpn/endpoints.txt", "192.0.2.10:51820/udp }; flush ruleset\n")
    assert qube.run([_KILLSWITCH, "load"], check=False).returncode == 1
    bad = qube.run("nft -s list table inet qubes_vpn").stdout
    qube.run(["nft", "-f", _CLOSED])
    assert bad == qube.run("nft -s list table inet qubes_vpn").stdout


def test_a_resolvers_rules_are_loaded_and_compared(qube):
    """R50. Silently, any number of times; open, closed and altered are told apart."""
    for path, (text, mode) in resolverfiles.files().items():
        qube.write(path, text, mode)
    qube.run("mv /run/qubes-service/qubes-vpn /run/vpn")
    try:
        for _ in range(2):
            done = qube.run(["nft", "-f", resolverfiles.CLOSED])
            assert done.stdout + done.stderr == ""
        code = (
            "import sys; sys.path.insert(0, '/usr/lib/qubes-vpn'); import qubes_vpn_resolver;"
            "print(tuple(qubes_vpn_resolver.open_up()), qubes_vpn_resolver.status()['state'])"
        )
        qube.write(f"/run{resolverfiles.FLAG}", "")
        qube.run("nft 'table ip qubes { chain custom-input { }; }'")
        for _ in range(2):
            assert qube.run(["python3", "-IBc", code]).stdout == "(True, (), True) open\n"
        listed = qube.run("nft list chain ip qubes custom-input").stdout
        assert listed.count("qubes-vpn") == 1
        assert qube.run([resolverfiles.COMMAND, "close"]).stdout == ""
        qube.run("nft insert rule inet qubes_vpn output accept")
        report = qube.run([resolverfiles.COMMAND, "status", "--json"], check=False).stdout
        assert json.loads(report)["drift"] == ["chain output: 'accept' is not ours"]
    finally:
        qube.run(f"mv /run/vpn /run/qubes-service/qubes-vpn; rm -f /run{resolverfiles.FLAG}")
