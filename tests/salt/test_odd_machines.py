# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines that hold netvms which the pillar does not know: somebody's VPN, proxy or uplink.

The formula sees their names and wiring only.  What they really are is known to the test alone, so
that it judges by what would happen and not by what the formula believes.
"""

import contextlib
import random

import pytest
from pillars import PILLARS, WIREGUARD
from snapshots import netvms, put_back

from qubes_vpn_formula.embedded.qubesd import AdminError

pytestmark = pytest.mark.one_salt

UPLINKS = {"sys-net", "net-two"}
#: netvms of the test's own: what each really is
UNKNOWN = {"vpn-old": "vpn", "net-two": "uplink", "proxy": "proxy", "fw-mine": "proxy"}
CLIENTS = ("personal", "work", "untrusted", "default-dvm", "vault", "debian-13-xfce")
SIMPLE = {
    "topology": "simple",
    "tunnels": {"sys-proton": WIREGUARD},
    "routes": {"qubes": {"untrusted": "sys-proton"}},
}


def wire(embedded, name, netvm):
    embedded.call(name, "admin.vm.property.Set", "netvm", (netvm or "").encode())


def make(embedded, name, netvm=None):
    """A netvm of the user's own."""
    embedded.call(
        "dom0", "admin.vm.Create.AppVM", "fedora-42-xfce", f"name={name} label=red".encode()
    )
    embedded.call(name, "admin.vm.property.Set", "provides_network", b"True")
    wire(embedded, name, netvm)


def really_in_clear(snapshot, vpns):
    """Who gets to an uplink through no VPN: qubes and templates, netvms not counted."""
    wiring = netvms(snapshot)
    for name, qube in snapshot["qubes"].items():
        if qube["klass"] == "TemplateVM":
            wiring[name] = qube["properties"].get("netvm")
    found = set()
    for name in wiring:
        way, here = set(), wiring[name]
        while here is not None and here not in way:
            way.add(here)
            last, here = here, wiring.get(here)
        if way and here is None and last in UPLINKS and not way & vpns:
            found.add(name)
    return {name for name in found if name in CLIENTS}


def let_out(states, embedded, snapshots, pillar, vpns):
    """Whom the run put in clear at any moment, without the pillar saying so."""
    vpns = vpns | set(pillar["tunnels"]) | {"sys-whonix"}
    before = really_in_clear(embedded.snapshot(), vpns)
    snapshots.clear()
    states.run(pillar)
    out = set().union(*(really_in_clear(snapshot, vpns) for snapshot in snapshots), set())
    return out - before - set(pillar.get("outside_vpn", ()))


def test_another_provider_and_topology_in_one_edit_opens_nobody(states, embedded, after_each_write):
    """R15. The tunnel of the last pillar is a stranger to this one."""
    assert all(state.result for state in states.run(PILLARS["dns"]).values())
    assert let_out(states, embedded, after_each_write, SIMPLE, {"sys-vpn"}) == set()
    answers = states.run(SIMPLE)
    assert "would put personal, work in clear" in " ".join(
        answer.comment for answer in answers.values()
    )


def test_who_is_behind_the_vpn_of_a_guide_gets_into_the_tunnel(states, embedded, after_each_write):
    """Offline on the way, because sys-firewall goes from behind that VPN to before the tunnel."""
    make(embedded, "vpn-old", "sys-net")
    wire(embedded, "sys-firewall", "vpn-old")
    assert let_out(states, embedded, after_each_write, SIMPLE, {"vpn-old"}) == set()
    wiring = netvms(embedded.snapshot())
    assert (wiring["sys-firewall"], wiring["work"]) == ("sys-net", "sys-proton")


def test_a_proxy_that_was_offline_takes_nobody_with_it(states, embedded, after_each_write):
    make(embedded, "proxy")
    wire(embedded, "work", "proxy")
    pillar = {
        **PILLARS["custom"],
        "routes": {"default": "sys-firewall", "qubes": {"proxy": "sys-firewall-novpn"}},
        "outside_vpn": ["proxy"],
        "allowlists": {},
    }
    assert let_out(states, embedded, after_each_write, pillar, set()) == set()


def test_a_template_behind_a_vpn_stays_there(states, embedded, after_each_write):
    make(embedded, "vpn-old", "sys-net")
    wire(embedded, "sys-firewall", "vpn-old")
    wire(embedded, "debian-13-xfce", "sys-firewall")
    for name in ("personal", "work", "untrusted", "default-dvm"):
        wire(embedded, name, None)
    assert let_out(states, embedded, after_each_write, SIMPLE, {"vpn-old"}) == set()
    assert netvms(embedded.snapshot())["sys-firewall"] == "vpn-old"


@pytest.mark.parametrize("release", ["4.3"])
def test_who_is_cut_off_by_a_lost_flag_is_not_let_out(states, embedded, after_each_write):
    """A netvm that lost provides_network passes on nothing, until somebody sets it again."""
    embedded.call("sys-firewall", "admin.vm.property.Reset", "provides_network")
    after_each_write.clear()
    states.run(SIMPLE)
    for snapshot in after_each_write:
        firewall, wiring = snapshot["qubes"]["sys-firewall"]["properties"], netvms(snapshot)
        if firewall.get("provides_network") and wiring["sys-firewall"]:
            assert [name for name in CLIENTS if wiring.get(name) == "sys-firewall"] == []


@pytest.mark.parametrize("seed", range(6))
def test_nobody_is_let_out_whatever_there_is(states, embedded, after_each_write, seed):
    """R92. Random machines: the user's own netvms anywhere on the way, and what they are hidden."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    fresh = embedded.path.read_bytes()
    refused = 0
    for _ in range(8):
        put_back(embedded, fresh)
        there = ["sys-net", "sys-firewall"]
        for name in chance.sample(sorted(UNKNOWN), 3):
            make(embedded, name, None if name == "net-two" else chance.choice([None, *there]))
            there.append(name)
        with contextlib.suppress(AdminError):  # what would be a loop stays as it is
            wire(embedded, "sys-firewall", chance.choice([None, *there[2:]]))
        for name in CLIENTS:
            wire(embedded, name, chance.choice([None, *there]))
        if chance.random() < 0.5:
            embedded.call("dom0", "admin.property.Set", "default_netvm", b"")
        pillar = chance.choice([*PILLARS.values(), SIMPLE])
        state = embedded.snapshot()
        assert let_out(states, embedded, after_each_write, pillar, {"vpn-old"}) == set(), state
        refused += any(answer.result is False for answer in states.run(pillar).values())
    assert refused < 8  # it is no proof of anything to refuse everything
