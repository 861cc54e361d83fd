# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine after a run of each named topology: what the picture, the table, the audit and the
tables of who sees what say of it (R65, R88, R93)."""

import pytest
from core.test_topologies import LEAST, build

import qubes_vpn_audit
import qubes_vpn_inventory
import qubes_vpn_observers
import qubes_vpn_plan
import qubes_vpn_table
from qubes_vpn_formula import foretold, seen
from qubes_vpn_formula.embedded import dom0
from qubes_vpn_formula.picture import svg, tree

#: What flows from which qube on, of those that are tunnels or Tor.
DRAWN = {
    "dns": {"sys-vpn": "tunnel"},
    "simple": {"sys-vpn": "tunnel"},
    "sandwich": {"sys-vpn": "tunnel"},
    "parallel": {"sys-vpn": "tunnel"},
    "multihop": {"sys-vpn": "tunnel", "sys-vpn-entry": "tunnel in a tunnel"},
    "tor-over-vpn": {"sys-whonix": "tor", "sys-vpn": "Tor in a tunnel"},
    "vpn-over-tor": {"sys-vpn": "tunnel", "sys-whonix": "tunnel in Tor"},
    "dns-tor-vpn": {"sys-whonix": "tor", "sys-vpn": "Tor in a tunnel"},
    "mixed": {"sys-whonix": "tor", "sys-vpn": "Tor in a tunnel"},
}
#: Who outside can tell who it is and where it goes: of work, which goes the default way.
LINKS = {
    "multihop": ["provider sys-vpn"],
    "tor-over-vpn": [],
    "dns-tor-vpn": [],
}
PAST = ("parallel", "mixed")


def add_whonix(embedded):
    create = b"name=sys-whonix label=black"
    embedded.call("dom0", "admin.vm.Create.AppVM", "debian-13-xfce", create)
    embedded.call("sys-whonix", "admin.vm.property.Set", "provides_network", b"True")
    embedded.call("sys-whonix", "admin.vm.tag.Set", "anon-gateway")
    embedded.call("sys-whonix", "admin.vm.property.Set", "netvm", b"sys-firewall")


def test_the_pillars_gateway_is_tor_without_its_mark(embedded):
    """R08: as it is in what the pillar calls it."""
    add_whonix(embedded)
    embedded.call("sys-whonix", "admin.vm.tag.Remove", "anon-gateway")
    model = build("tor-over-vpn", whonix_gateway="sys-whonix")
    view = seen.now(foretold.Asked(dom0.machine(embedded.path, dry=True), {}), model)
    assert {qube.name for qube in view.qubes if qube.role == "tor"} == {"sys-whonix"}


@pytest.fixture(params=LEAST)
def shown(request, embedded):
    """``(topology, model, machine)`` after a run; Whonix only where the topology has Tor."""
    topology = request.param
    head = LEAST[topology][1].split()[0]
    routes, outside = {"work": head}, []
    if topology in PAST:
        routes["untrusted"] = "sys-firewall-novpn"
        outside = ["untrusted"]
    if "sys-whonix" in DRAWN[topology]:
        add_whonix(embedded)
    if topology == "mixed":
        routes["personal"] = "sys-whonix"
    model = build(topology, routes={"qubes": routes}, outside_vpn=outside, vaults=["vault"])
    told = foretold.Asked(dom0.machine(embedded.path, dry=False), {})
    steps = told.foretell(qubes_vpn_plan.plan(model))
    assert [step["problem"] for step in steps if step["problem"]] == []
    return topology, model, dom0.machine(embedded.path, dry=True)


def test_what_is_shown_is_what_the_pillar_says(shown):
    topology, model, machine = shown
    view = seen.now(foretold.Asked(machine, {}), model)
    by_pillar = {
        name: way.observers for way in qubes_vpn_observers.ways(model) for name in way.clients
    }
    by_machine = {
        name: way.observers
        for way in qubes_vpn_observers.ways_of(view.qubes)
        for name in way.clients
    }
    assert {name: by_machine[name] for name in by_pillar} == by_pillar
    linking = [f"{each.kind} {each.hop}" for each in by_pillar["work"][:-1] if each.links()]
    assert linking == LINKS.get(topology, ["provider sys-vpn"])

    forest = tree.grow(view.qubes)
    flows = {}
    todo = [*forest.uplinks]
    while todo:
        node = todo.pop()
        todo += node.nodes
        if node.qube.role in ("tunnel", "tor"):
            (flows[node.qube.name],) = node.flows
    assert flows == DRAWN[topology]
    drawn = svg.draw([view])
    assert ("IN CLEAR, by choice" in drawn) == (topology in PAST)
    assert (">Tor</text>" in drawn) == ("sys-whonix" in flows)

    rows = {row["qube"]: row["exit"] for row in qubes_vpn_table.rows(view.qubes)}
    way = LEAST[topology][1].split()
    assert rows["work"] == next(name for name in way if name in flows)
    if topology in PAST:
        assert rows["untrusted"] == "IN CLEAR by sys-net, by choice"

    found = qubes_vpn_audit.audit(qubes_vpn_inventory.take(machine, {}), model).findings
    about = [(each.rule.id, each.qube) for each in found if each.rule.severity != "note"]
    # Of packets, lists, Tor and the topology; updates and the time are nobody's here.
    ids = {
        rule
        for rule, qube in about
        if qube != "sys-firewall" and (rule[1] in "126" or rule in ("A307", "A308", "A309"))
    }
    assert ids <= {"A209"}, about
    assert [each.qube for each in found if each.rule.id == "A111"] == (
        ["untrusted"] if topology in PAST else []
    )
