# SPDX-License-Identifier: GPL-2.0-or-later
"""R90: mutants are what they say, and the attack plan and the mutants name each other."""

import contextlib
import re
from collections.abc import Iterator

import pytest

from qubes_vpn_formula.lab import mutants
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.mutants import edits
from qubes_vpn_formula.lab.mutants.paths import CLOSED, COMMAND
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.tunnels import Kind, tunnel

OURS = Ours().files()
MUTANTS = mutants.all()
ENDPOINTS = "198.51.100.7:51820/udp\n203.0.113.0/28:443/tcp\n[2001:db8::7]:1194/udp\n"
ROW = re.compile(r"\| ([A-Z]\d\d) \| (?:fast )?\| .+ \| (.+) \|")
#: Their fault is that they cannot be loaded as ours can.
DO_NOT_LOAD = {"tunnel-by-index", "rw-only", "rc-local", "in-qubes-chains"}


@pytest.fixture(scope="module")
def plan(checkout) -> dict[str, set[str]]:
    """The mutants that each attack must catch, by the attack's id, as the plan says."""
    rows = {}
    for line in (checkout / "docs/attacks.md").read_text("utf-8").splitlines():
        if row := ROW.fullmatch(line):
            assert row[1] not in rows
            rows[row[1]] = set(re.findall(r"`([a-z0-9-]+)`", row[2]))
    return rows


@pytest.fixture(scope="module")
def qube():
    """A qube with ours installed and configured, and the tunnel there as far as nft sees it."""
    with Qube("mutants") as qube:
        _write(qube, OURS)
        qube.write("/rw/config/vpn/endpoints.txt", ENDPOINTS)
        qube.write("/run/qubes-service/qubes-vpn", "")
        qube.run("ip link add eth0 type veth peer name far")
        yield qube


def _write(qube: Qube, files: edits.Files) -> None:
    for path, (text, mode) in files.items():
        qube.write(path, text, mode)


@contextlib.contextmanager
def _installed(qube: Qube, files: edits.Files) -> Iterator[None]:
    """*files* in place of ours, for a while."""
    gone = OURS.keys() - files.keys()
    new = {path: entry for path, entry in files.items() if OURS.get(path) != entry}
    qube.run(["rm", "-f", *gone])
    _write(qube, new)
    try:
        yield
    finally:
        qube.run(["rm", "-f", *new])
        _write(qube, {path: OURS[path] for path in OURS.keys() & (gone | new.keys())})


def test_no_attack_without_a_mutant(plan):
    assert plan
    assert [row for row, names in plan.items() if not names] == []


def test_plan_and_mutants_name_each_other(plan):
    caught = {mutant.name: set(mutant.caught_by) for mutant in MUTANTS}
    assert len(caught) == len(MUTANTS)
    planned = {name: {row for row, names in plan.items() if name in names} for name in caught}
    assert caught == planned
    assert set().union(*plan.values()) == caught.keys()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_differs_from_ours(mutant):
    assert mutant.files() != OURS


@pytest.mark.parametrize(
    "mutant", [one for one in MUTANTS if one.name not in DO_NOT_LOAD], ids=lambda one: one.name
)
def test_each_loads_as_ours_does(mutant, qube):
    """A mutant that stays closed because it cannot be loaded would look like a good killswitch."""
    with _installed(qube, mutant.files()):
        qube.run("nft flush ruleset")  # a chain's priority cannot be changed
        qube.run(["nft", "-c", "-f", CLOSED])
        qube.run([COMMAND, "load"])
        rules = qube.run("nft list table inet qubes_vpn").stdout
        assert "198.51.100.7" in rules or mutant.name == "no-endpoints"


def test_those_without_a_table_of_the_template_load_what_they_say(qube):
    files = mutants.named("rw-only").files()
    assert not [path for path in files if not path.startswith("/rw/")]
    with _installed(qube, files):
        qube.run("nft flush ruleset; /rw/config/qubes-firewall.d/50-qubes-vpn")
        assert "198.51.100.7" in qube.run("nft list table inet qubes_vpn").stdout


def test_its_units_are_those_that_it_has():
    assert mutants.named("no-early-unit").units == ()
    assert mutants.named("gate-boot-only").udev_rules == ()
    assert mutants.named("no-gate").units == Ours().units


def test_installed_is_ours_with_the_fault(qube):
    mutant = mutants.named("no-hook")
    mutant.install(qube, tunnel(Kind("wireguard"), 1))
    try:
        assert not qube.exists("/etc/qubes/qubes-firewall.d/50-qubes-vpn")
        assert qube.read(CLOSED) == OURS[CLOSED][0]
        assert "198.51.100.1:" in qube.read("/rw/config/vpn/endpoints.txt")
    finally:
        _write(qube, OURS)
        qube.write("/rw/config/vpn/endpoints.txt", ENDPOINTS)


@pytest.mark.parametrize(
    "edit",
    [
        edits.swap(CLOSED, "not in it", ""),
        edits.first("no-such-chain", "accept"),
        edits.without("forward", "no such rule"),
        edits.policy("answers"),
        edits.drop("/not/installed"),
    ],
)
def test_an_edit_that_changes_nothing_raises(edit):
    with pytest.raises(mutants.NothingChanged):
        edit(dict(OURS))


@pytest.mark.parametrize(
    ("line", "opened"),
    [
        ("0.0.0.0/0:1-65535/udp", "ip daddr 0.0.0.0/0 udp dport 1-65535 accept"),
        ("192.0.2.1:1/udp }; add rule inet qubes_vpn output accept #", "\t\taccept"),
        ("192.0.2.1:1/udp$(nft add rule inet qubes_vpn output accept)", "\t\taccept"),
    ],
    ids=["net", "nft", "shell"],
)
def test_unchecked_input_is_injected(line, opened, qube):
    """The mutant that the attacks of configuration must catch is as bad as they assume."""
    qube.write("/rw/config/vpn/endpoints.txt", f"{line}\n")
    try:
        with _installed(qube, mutants.named("unchecked-input").files()):
            qube.run([COMMAND, "load"], check=False)
            assert f"{opened}\n" in qube.run("nft list table inet qubes_vpn").stdout
    finally:
        qube.write("/rw/config/vpn/endpoints.txt", ENDPOINTS)
