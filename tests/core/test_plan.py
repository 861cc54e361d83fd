# SPDX-License-Identifier: GPL-2.0-or-later
"""What dom0 does, and in which order: the plan, read as a specification."""

import pytest

import qubes_vpn_model
import qubes_vpn_part
import qubes_vpn_plan

from .pillars import past_vpn, pillar, tunnel


def plan(document):
    return qubes_vpn_plan.plan(qubes_vpn_model.build(document))


def layout(document):
    return qubes_vpn_plan.layout(qubes_vpn_model.build(document))


def ids(steps):
    return [step.id for step in steps]


def find(steps, name):
    """The one step with this id."""
    (step,) = [step for step in steps if step.id == name]
    return step


def test_dns():
    """R03: from the uplink to the clients, each qube closed before it carries anything (R12)."""
    steps = plan(pillar(routes={"qubes": {"work": "sys-firewall"}}, vaults=["vault"]))
    assert ids(steps) == [
        "the qubes that the pillar names",
        "t-vpn: cloned from debian-13-minimal",
        "t-dns: cloned from debian-13-minimal",
        "sys-vpn: present",
        "sys-vpn: may reach its endpoints only",
        "sys-vpn: settings",
        "sys-vpn: provides network",
        "sys-vpn -> sys-net",
        "sys-dns: present",
        "sys-dns: settings",
        "sys-dns: provides network",
        "sys-dns -> sys-vpn",
        "sys-firewall: present",
        "sys-firewall: provides network",
        "sys-firewall -> sys-dns",
        "vault -> none",
        "work -> sys-firewall",
        "default_netvm: sys-firewall",
        "left half made",
        "left offline",
        "management disposables: offline",
        "disposables -> sys-firewall",
        "ways round the VPN",
    ]


def test_a_template_with_a_netvm_while_it_is_installed():
    """R23: nothing comes before what takes it away, and only one plan gives it."""
    template = {"clone_of": "debian-13-minimal", "netvm_while_installing": "sys-net"}
    document = pillar(templates={"t-vpn": template}, layout={"new": {"label": "red"}})
    templates = qubes_vpn_plan.templates(qubes_vpn_model.build(document))
    for steps in (plan(document), layout(document), templates):
        assert (steps[0].id, steps[0].state) == ("t-vpn: no netvm", "template_offline")
    assert ids(templates) == ["t-vpn: no netvm", "t-vpn: its software"]
    assert templates[1].args["in_clear"] is True
    gives = {step.id for step in (*plan(document), *layout(document)) if "its software" in step.id}
    assert gives == set()


def test_a_disposable_tunnel():
    """R85: its home is offline, limited and marked before it is made, offline, from it."""
    document = pillar(tunnels={"sys-vpn": tunnel(disposable=True)})
    steps = plan(document)
    assert ids(steps)[3:12] == [
        "sys-vpn-dvm: present",
        "sys-vpn-dvm -> none",
        "sys-vpn-dvm: lists the endpoints only",
        "sys-vpn-dvm: settings",
        "sys-vpn: present",
        "sys-vpn: may reach its endpoints only",
        "sys-vpn: settings",
        "sys-vpn: provides network",
        "sys-vpn -> sys-net",
    ]
    home, made = find(steps, "sys-vpn-dvm: settings").args, find(steps, "sys-vpn: settings").args
    assert home["settings"]["template_for_dispvms"] is True
    assert (home["settings"]["template"], made["settings"]["template"]) == ("t-vpn", "sys-vpn-dvm")
    assert home["features"] == {"service.qubes-vpn": "1"}  # nothing looks for a tunnel in it
    assert made["features"] == {"service.qubes-vpn": "1", "service.network-manager": "1"}
    assert "autostart" not in home["settings"]
    assert "sys-vpn-dvm" in find(steps, "left half made").args["known"]
    assert made["klass"] == "DispVM"


def test_what_a_disposable_tunnel_has_is_put_in_its_home():
    """R85: what is put in the disposable is gone when it stops."""
    model = qubes_vpn_model.build(pillar(tunnels={"sys-vpn": tunnel(disposable=True)}))
    assert qubes_vpn_part.targets(model) == ["t-vpn", "t-dns", "sys-vpn-dvm", "sys-dns"]
    role, states = qubes_vpn_part.part(model, "sys-vpn-dvm")
    assert (role, states["killswitch"]["name"]) == ("qube", "sys-vpn-dvm")
    told = [states["tunnel"][key] for key in ("name", "disposable")]
    assert told == ["sys-vpn-dvm", "sys-vpn"]
    assert qubes_vpn_part.part(model, "sys-vpn") == (None, {})


def test_simple():
    """R02: the firewall first, because the tunnel hangs on it and it enforces the list."""
    steps = plan(pillar(topology="simple"))
    assert ids(steps) == [
        "the qubes that the pillar names",
        "t-vpn: cloned from debian-13-minimal",
        "sys-firewall: present",
        "sys-firewall: provides network",
        "sys-firewall -> sys-net",
        "sys-vpn: present",
        "sys-vpn: may reach its endpoints only",
        "sys-vpn: settings",
        "sys-vpn: provides network",
        "sys-vpn -> sys-firewall",
        "default_netvm: sys-vpn",
        "left half made",
        "left offline",
        "management disposables: offline",
        "disposables -> sys-vpn",
        "ways round the VPN",
    ]
    assert (
        find(steps, "sys-vpn: may reach its endpoints only").args["enforced_by"] == "sys-firewall"
    )


def test_the_tunnels_list():
    """R12, R42: its endpoints, as qubesd prints them, and nothing else."""
    endpoints = ["203.0.113.7:51820/udp", "203.0.113.64/28:443-500/udp", "[2001:db8::1]:53/udp"]
    step = find(
        plan(pillar(tunnels={"sys-vpn": tunnel(endpoints=endpoints)})),
        "sys-vpn: may reach its endpoints only",
    )
    assert step.args["rules"] == [
        "action=accept dst4=203.0.113.7/32 proto=udp dstports=51820-51820",
        "action=accept dst4=203.0.113.64/28 proto=udp dstports=443-500",
        "action=accept dst6=2001:db8::1/128 proto=udp dstports=53-53",
        "action=drop",
    ]


@pytest.mark.parametrize(
    ("kind", "network_manager"), [("wireguard", True), ("openvpn", True), ("mullvad", False)]
)
def test_what_a_tunnel_is_told(kind, network_manager):
    """R01, R30-R32: settings, the killswitch's flag, NetworkManager where it is the tunnel."""
    document = tunnel(kind=kind, memory=500, maxmem=700, label="red", autostart=False)
    document["profile"] = "x.ovpn" if kind == "openvpn" else "x.conf"
    if kind == "mullvad":
        del document["profile"]
    step = find(plan(pillar(tunnels={"sys-vpn": document})), "sys-vpn: settings")
    assert step.args["settings"] == {
        "template": "t-vpn",
        "label": "red",
        "memory": 500,
        "maxmem": 700,
        "autostart": False,
    }
    features = step.args["features"]
    assert features["service.qubes-vpn"] == "1"
    assert ("service.network-manager" in features) is network_manager


def test_an_existing_firewall_is_adopted():
    """R13: its settings count only when it is made; it provides network and gets its netvm."""
    steps = [step for step in plan(pillar()) if step.args["name"] == "sys-firewall"]
    assert [step.state for step in steps] == [
        "present",
        "qube",
        "netvm",
        "default_netvm",
        "disposables",
    ]
    assert steps[0].args["settings"] == {"memory": 400, "maxmem": 600, "autostart": True}
    assert steps[1].args == {"name": "sys-firewall", "settings": {"provides_network": True}}


def test_second_tunnel():
    """R88: a tunnel in a tunnel, after the one that carries it."""
    steps = ids(plan(pillar(tunnels={"b": tunnel(upstream="a"), "a": tunnel()})))
    assert steps.index("a -> sys-net") < steps.index("b: present") < steps.index("b -> a")


def test_custom_leaves_the_default():
    """R04: whoever wires everything by hand says so for default_netvm, too."""
    steps = plan(pillar(topology="custom", tunnels={"sys-vpn": tunnel(upstream="sys-net")}))
    assert not [step for step in steps if step.state == "default_netvm"]


def test_default_netvm_none():
    """R07: and it is told as the state wants it, by name."""
    step = find(plan(pillar(routes={"default": "none"})), "default_netvm: none")
    assert step.args["name"] == "none"


def ways(document):
    """The steps that belong to the whole machine, but the last, which says what is open."""
    steps = ids(plan(document))
    return steps[steps.index("management disposables: offline") + 1 : -1]


def test_disposables_follow_the_default():
    """R07: what is open is closed, unless the default is left alone too."""
    assert ways(pillar()) == ["disposables -> sys-firewall"]
    assert ways(pillar(routes={"default": "none"})) == ["disposables -> none"]
    assert ways(pillar(routes={"default": "keep"})) == []
    assert ways(pillar(routes={"default": "keep"}, disposables="sys-dns")) == [
        "disposables -> sys-dns"
    ]
    assert ways(pillar(disposables="keep")) == []


def test_the_ways_round_come_last():
    """R07: netvms first, so that who is named for something is behind the tunnel by then."""
    document = pillar(
        clock="sys-dns",
        updates={"templates": "sys-firewall", "dom0": "none"},
        default_dispvm="dvm",
        routes={"qubes": {"dvm": "sys-firewall", "work": "none"}},
        vaults=["vault"],
    )
    assert ways(document) == [
        "disposables -> sys-firewall",
        "default_dispvm: dvm",
        "templates' updates by sys-firewall",
        "sys-firewall: runs the updates proxy",
        "updatevm: none",
        "clockvm: sys-dns",
    ]
    step = find(plan(document), "disposables -> sys-firewall")
    assert step.args["routed"] == ["dvm", "work", "vault"]
    assert find(plan(document), "management disposables: offline").args["routed"] == ["dvm"]


def test_a_client_outside_the_vpn_is_named_in_the_plan():
    """R05: shown for what it is."""
    document = past_vpn(routes={"qubes": {"games": "sys-firewall-novpn"}}, outside_vpn=["games"])
    step = find(plan(document), "games -> sys-firewall-novpn")
    assert step.why == "outside the VPN by choice: outside_vpn names games (R05)"
    assert step.args["guard"]["outside_vpn"] == ["games"]


def test_a_clients_way_is_shown():
    step = find(plan(pillar(routes={"qubes": {"work": "sys-dns"}})), "work -> sys-dns")
    assert step.why == "work -> sys-dns -> sys-vpn -> sys-net"


def test_whonix_behind_the_vpn():
    """R08."""
    assert "sys-whonix -> sys-firewall" in ids(plan(pillar(whonix="behind_vpn")))


def test_whonix_direct():
    """R08: by the one firewall past the VPN, and allowed to."""
    step = find(plan(past_vpn(whonix="direct")), "sys-whonix -> sys-firewall-novpn")
    assert step.args["guard"]["outside_vpn"] == ["sys-whonix"]


def test_whonix_unmanaged():
    """R08: no step about it."""
    assert not [step for step in plan(pillar()) if step.args["name"] == "sys-whonix"]


def test_a_service_knows_whom_later_steps_bring_back():
    """R92: nobody else may be taken offline on the way to it."""
    steps = plan(pillar(routes={"qubes": {"work": "sys-firewall"}}, vaults=["vault"]))
    assert find(steps, "sys-vpn -> sys-net").args["later"] == {
        "qubes": ["sys-dns", "sys-firewall", "vault", "work"],
        "default": "sys-firewall",
        "routes": {"work": "sys-firewall"},
    }
    assert find(steps, "sys-firewall -> sys-dns").args["later"]["qubes"] == ["vault", "work"]
    kept = plan(pillar(routes={"default": "keep"}))
    assert find(kept, "sys-firewall -> sys-dns").args["later"] == {"qubes": [], "default": None}


@pytest.mark.parametrize("word", ["ask", "yes"])
def test_every_move_knows_what_to_do_about_running_clients(word):
    routes = {"qubes": {"banking": "sys-firewall"}}
    document = pillar(restart_clients=word, routes=routes, layout={"banking": {"label": "red"}})
    moves = [
        step
        for step in [*plan(document), *layout(document)]
        if step.state in ("netvm", "default_netvm")
    ]
    assert {step.args["restart_clients"] for step in moves} == {word}
    assert len(moves) == 6


def test_an_allowlist_comes_before_the_netvm():
    """R11: the qube never has a moment with a netvm and without its list."""
    steps = plan(
        pillar(
            routes={"qubes": {"banking": "sys-firewall"}},
            allowlists={"banking": ["bank.example:443/tcp", "dns", "icmp"]},
        )
    )
    place = ids(steps).index("banking: may reach its allowlist only")
    assert steps[place + 1].id == "banking -> sys-firewall"
    assert steps[place].args["rules"] == [
        "action=accept dsthost=bank.example proto=tcp dstports=443-443",
        "action=accept specialtarget=dns",
        "action=accept proto=icmp",
        "action=drop",
    ]


def test_an_allowlist_names_who_enforces_it():
    """R11: the netvm that the route gives, not the one that the qube happens to have."""
    routes = {"qubes": {"banking": "sys-firewall"}}
    steps = plan(pillar(allowlists={"banking": []}, routes=routes))
    args = find(steps, "banking: may reach its allowlist only").args
    assert (args["rules"], args["enforced_by"]) == (["action=drop"], "sys-firewall")


def test_an_allowlist_of_a_resolver():
    """R12: set before it carries anything, as a tunnel's."""
    steps = ids(plan(pillar(allowlists={"sys-dns": ["9.9.9.9:443/tcp"]})))
    place = steps.index("sys-dns: may reach its allowlist only")
    assert place < steps.index("sys-dns: provides network")
    assert steps.count("sys-dns: may reach its allowlist only") == 1


def test_an_allowlist_of_whonix():
    """R08, R11: one step, although the gateway is routed by its own key."""
    document = pillar(whonix="behind_vpn", allowlists={"sys-whonix": ["203.0.113.9:443/tcp"]})
    assert ids(plan(document)).count("sys-whonix: may reach its allowlist only") == 1


def test_a_template_comes_after_the_one_it_is_cloned_from():
    """R20."""
    templates = {"t-vpn": {"clone_of": "t-base"}, "t-base": {"clone_of": "debian-13-minimal"}}
    steps = ids(plan(pillar(templates=templates, topology="simple")))
    assert steps[1:3] == ["t-base: cloned from debian-13-minimal", "t-vpn: cloned from t-base"]


LAYOUT = {
    "layout": {
        "vault": {"label": "black"},
        "banking": {"label": "green", "template": "debian-13-xfce", "memory": 400},
        "dvm": {"label": "red", "disposable_template": True},
    },
    "routes": {"qubes": {"banking": "sys-firewall", "dvm": "none"}},
    "allowlists": {"banking": ["dns"], "dvm": ["dns"]},
    "vaults": ["vault"],
}


def test_layout():
    """R10: made without a netvm, closed, and only then connected."""
    steps = layout(pillar(**LAYOUT))
    assert ids(steps) == [
        "the qubes that the pillar names",
        "dvm: present",
        "dvm: may reach its allowlist only",
        "dvm -> none",
        "vault: present",
        "vault -> none",
        "banking: present",
        "banking: may reach its allowlist only",
        "banking -> sys-firewall",
    ]
    assert find(steps, "banking: present").args == {
        "name": "banking",
        "label": "green",
        "template": "debian-13-xfce",
        "settings": {"memory": 400},
        "adopted": True,
    }
    assert find(steps, "dvm: present").args["settings"] == {"template_for_dispvms": True}


def test_what_the_layout_makes_is_routed_once_it_is_there():
    """R10: only a qube that qubes.layout has yet to make may be missing."""
    more = [step for step in plan(pillar(**LAYOUT)) if step.id not in ids(plan(pillar()))]
    assert {step.args["name"] for step in more} == set(LAYOUT["layout"])
    assert all(step.args["optional"] for step in more)
    assert not any("optional" in step.args for step in plan(pillar()))
