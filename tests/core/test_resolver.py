# SPDX-License-Identifier: GPL-2.0-or-later
"""R45, R52. The rules of a resolver qube: open or closed as wanted, closed whatever goes wrong.

Rules of a real kernel in namespaces of their own; no Salt.  What the rules do with packets is in
`tests/lab/test_resolver_rules.py`.
"""

import hashlib
import json
import os

import pytest
from in_qube import run_in, skip_where_impossible

import qubes_vpn_nft
import qubes_vpn_resolver
from qubes_vpn_formula.lab import resolverfiles
from qubes_vpn_formula.lab.qube import Qube

TABLE = "inet qubes_vpn"
RULES = resolverfiles.files()[resolverfiles.CLOSED][0]
LINK = "/etc/systemd/system/network-pre.target.requires/qubes-vpn-dns-closed.service"
#: What Qubes loads and users may fill.
QUBES = "table ip qubes { chain custom-input { }; }\ntable ip6 qubes { chain custom-input { }; }\n"


@pytest.fixture(scope="module")
def shared():
    skip_where_impossible()
    with Qube("sys-dns") as qube:
        for path, (text, mode) in resolverfiles.files().items():
            qube.write(path, text, mode)
        qube.run(f"mkdir -p $(dirname {LINK}); ln -s {resolverfiles.UNIT} {LINK}")
        qube.write(f"/run{resolverfiles.FLAG}", "")
        qube.run("ip netns add other; ip link add eth0 type veth peer name eth0 netns other")
        yield qube


@pytest.fixture
def qube(shared):
    """As it is once the qube has booted."""
    shared.run("ip link set eth0 up group 1; rm -f /run/qubes-service/qubes-vpn")
    shared.run(["nft", "-f", "-"], input=f"flush ruleset\n{QUBES}{RULES}")
    return shared


def load(qube):
    return run_in(qube, qubes_vpn_resolver.load)


def open_up(qube):
    return run_in(qube, qubes_vpn_resolver.open_up)


def close(qube):
    return run_in(qube, qubes_vpn_resolver.close)


def status(qube):
    return run_in(qube, qubes_vpn_resolver.status)


def ours(qube):
    return qube.run(f"nft --stateless list table {TABLE}").stdout


def opened(qube):
    return "elements = { 53 }" in ours(qube)


def test_it_opens_stays_open_and_closes(qube):
    assert status(qube)["state"] == "closed"
    assert load(qube) == (False, (), True)
    assert open_up(qube) == (True, (), True)
    before = qube.run("nft --handle list ruleset").stdout
    assert load(qube) == open_up(qube) == (True, (), True)
    assert qube.run("nft --handle list ruleset").stdout == before  # not touched at all
    assert status(qube)["state"] == "open"
    assert run_in(qube, qubes_vpn_resolver.is_open)
    assert close(qube) == (False, (), True)
    assert (status(qube)["state"], opened(qube)) == ("closed", False)
    assert not run_in(qube, qubes_vpn_resolver.is_open)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("insert rule {} forward accept", "chain forward: 'accept' is not ours"),
        ("flush chain {} output", "chain output: 'iif \"lo\" accept' is missing"),
        ("add chain {} mine", "chain mine is not ours"),
        ("add element {} open_ports {{ 5353 }}", "set open_ports: '5353' is not ours"),
    ],
)
def test_what_somebody_changed_is_told_and_put_right_closed(qube, change, told):
    open_up(qube)
    should = ours(qube)
    qube.run(["nft", *change.format(TABLE).split()])
    report = status(qube)
    assert report["state"] == "altered"
    assert [line for line in report["drift"] if told.split("'")[0] in line]
    assert load(qube) == (False, (), True)
    assert status(qube)["state"] == "closed"
    assert open_up(qube).open
    assert ours(qube) == should


def test_tables_and_sets_of_another_kind_are_replaced(qube):
    qube.run(f"nft 'delete table {TABLE}; add table {TABLE}'")
    qube.run(f"nft 'add set {TABLE} open_ports {{ type ipv4_addr; }}'")
    qube.run(f"nft 'add chain {TABLE} redirected {{ type filter hook output priority 0; }}'")
    assert open_up(qube) == (True, (), True)
    assert status(qube)["state"] == "open"


def test_without_a_table_it_says_so(qube):
    qube.run(f"nft delete table {TABLE}")
    report = status(qube)
    assert report["state"] == "absent"
    assert report["problems"] == ["nothing is loaded. Run /usr/lib/qubes-vpn/resolver load"]


def test_in_qubes_chain_for_users_there_is_one_rule_of_ours(qube):
    """Behind those of the user, and again when somebody took it away."""
    qube.run("nft add rule ip qubes custom-input tcp dport 22 drop")
    for _ in range(2):
        close(qube)
        open_up(qube)
    lines = qube.run("nft list chain ip qubes custom-input").stdout.splitlines()[2:-2]
    assert [line.split()[-1] for line in lines] == ["drop", 'resolver"']
    qube.run("nft flush chain ip qubes custom-input")
    assert not run_in(qube, qubes_vpn_resolver.is_open)
    assert "Qubes' chain ip qubes input refuses clients' DNS" in status(qube)["problems"][0]
    assert open_up(qube).open
    assert (status(qube)["state"], status(qube)["problems"]) == ("open", [])


def test_where_qubes_has_no_such_chain_nothing_is_made(qube):
    """IPv6 may be off."""
    qube.run("nft delete table ip6 qubes")
    assert open_up(qube) == (True, (), True)
    assert "table ip6" not in qube.run("nft list tables").stdout


def test_a_vpn_qube_keeps_its_killswitch(qube):
    """Both have one table; whoever has both services is told, and nothing is loaded."""
    qube.write("/run/qubes-service/qubes-vpn", "")
    before = qube.run("nft --handle list ruleset").stdout
    for function in (load, open_up, close):
        result = function(qube)
        assert not result.open
        assert "this is a VPN qube too" in result.problems[0]
    assert qube.run("nft --handle list ruleset").stdout == before
    assert "this is a VPN qube too" in status(qube)["problems"][0]


@pytest.mark.parametrize("was_open", [True, False])
def test_killed_at_any_point_it_is_as_before_or_as_wanted(qube, monkeypatch, was_open):
    """Killed before every program that it starts: there is nothing between."""
    monkeypatch.setattr(qubes_vpn_resolver, "_CUT", (53,))  # so many times the same program
    run = qubes_vpn_nft.run
    change, other = (close, open_up) if was_open else (open_up, close)
    change(qube)
    wanted = ours(qube)
    other(qube)
    before = ours(qube)
    for at in range(1, 60):
        text = qubes_vpn_resolver.transaction(RULES, was_open)
        qube.run(["nft", "-f", "-"], input=f"delete table {TABLE}\n{text}")
        calls = []

        def killed(*argv, at=at, calls=calls, **more):
            calls.append(argv)
            return os._exit(9) if len(calls) == at else run(*argv, **more)

        with monkeypatch.context() as patch:
            patch.setattr(qubes_vpn_nft, "run", killed)
            try:
                finished = change(qube)
            except AssertionError:  # it said nothing any more
                assert ours(qube) in (before, wanted), at
                continue
        assert finished == (not was_open, (), True)
        assert ours(qube) == wanted
        assert at > 5
        return
    pytest.fail("it never finished")


def test_a_failure_leaves_it_closed(qube, monkeypatch):
    """R45. What conntrack cannot do, whatever it is."""
    open_up(qube)
    qube.run(f"nft insert rule {TABLE} forward accept")
    with monkeypatch.context() as patch:
        patch.setattr(qubes_vpn_nft, "_cut", lambda *which: which / 0)
        result = open_up(qube)
    assert (result.open, result.safe) == (False, True)
    assert "unsupported operand" in result.problems[0]
    assert not opened(qube)


def test_without_nft_the_link_goes_down(qube):
    qube.run("cp /usr/sbin/nft /run/nft; rm /usr/sbin/nft")
    try:
        result = open_up(qube)
        assert not result.open
        assert "eth0 was taken down; once this is mended: ip link set dev eth0 up" in (
            result.problems
        )
    finally:
        qube.run("cp /run/nft /usr/sbin/nft")


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("conntrack v1.4.7 (conntrack-tools): 0 flow entries have been deleted.", "-D"),
        (
            "conntrack v1.4.7 (conntrack-tools): Operation failed: such conntrack doesn't exist",
            "-F",
        ),
    ],
)
def test_a_flow_that_ends_while_others_are_cut_stops_nothing(qube, said, wanted):
    """conntrack 1.4.7 gives up at it, and leaves the rest."""
    real = "/usr/sbin/conntrack"
    qube.run(f"cp {real} /run/conntrack")
    script = (
        f'#!/bin/sh\necho "$1" >>/run/called\n[ "$1" = -F ] || {{ echo "{said}" >&2; exit 1; }}\n'
    )
    qube.write(real, script, 0o755)
    try:
        assert open_up(qube) == (True, (), True)
        assert qube.read("/run/called").split()[-1] == wanted
        run_in(qube, qubes_vpn_nft.cut, "10.64.0.1", 53)  # of a tunnel's resolver that has gone
        assert qube.read("/run/called").split()[-1] == wanted
    finally:
        qube.run(f"cp /run/conntrack {real}; rm /run/called")


def test_when_it_opens_qubes_reads_clients_lists_again(qube):
    """Host names in them could not be looked up before (facts 5)."""
    qube.write("/usr/bin/systemctl", '#!/bin/sh\necho "$@" >>/run/systemctl.log\n', 0o755)
    for _ in range(2):
        open_up(qube)
    close(qube)
    load(qube)
    assert qube.read("/run/systemctl.log") == (
        "--no-block try-reload-or-restart qubes-firewall.service\n"
    )


def test_the_program_says_what_holds(qube):
    program = resolverfiles.COMMAND
    assert qube.run([program, "status"], check=False).returncode == 1
    open_up(qube)
    done = qube.run([program, "status", "--json"])
    assert (json.loads(done.stdout)["state"], done.stderr) == ("open", "")
    assert "counters: refused: 0" in qube.run([program, "status"]).stdout
    assert qube.run([program, "close"]).stdout == ""
    assert not opened(qube)
    qube.write("/run/qubes-service/qubes-vpn", "")
    refused = qube.run([program, "load"], check=False)
    assert (refused.returncode, refused.stderr.count("qvm-service QUBE")) == (1, 1)
    assert qube.run([program, "open"], check=False).returncode == 2


@pytest.mark.parametrize("word", ["status", "check", "load", "close"])
def test_who_is_not_root_is_told_so_and_no_more(qube, word):
    """And not that what holds was altered, or could not be closed."""
    open_up(qube)
    words = ["setpriv", "--reuid=65534", "--clear-groups", resolverfiles.COMMAND, word]
    done = qube.run(words, check=False)
    told = "qubes-vpn resolver: only root sees and does what there is. Run it with sudo\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


def test_what_is_missing_in_the_template_is_told(qube):
    qube.run(f"rm {LINK}")
    try:
        assert status(qube)["problems"] == [
            f"{LINK} is not there, or cannot be run. Apply the formula"
        ]
    finally:
        qube.run(f"ln -s {resolverfiles.UNIT} {LINK}")
    qube.write(resolverfiles.CLOSED, RULES + "\n", 0o600)
    try:
        assert "is of another version" in status(qube)["problems"][0]
    finally:
        qube.write(resolverfiles.CLOSED, RULES, 0o600)
    qube.run(f"rm /run{resolverfiles.FLAG}")
    try:
        assert "the service qubes-vpn-dns is off" in status(qube)["problems"][0]
    finally:
        qube.write(f"/run{resolverfiles.FLAG}", "")


def test_the_closed_rules_are_those_that_this_version_knows():
    assert hashlib.sha256(RULES.encode()).hexdigest() == qubes_vpn_resolver.CLOSED
