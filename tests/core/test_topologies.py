# SPDX-License-Identifier: GPL-2.0-or-later
"""Topologies by name: who hangs on whom, what is refused, and in which order they are wired."""

import itertools

import pytest

import qubes_vpn_model
import qubes_vpn_plan
from qubes_vpn_schema import TOPOLOGIES

from .pillars import tunnel

TCP = {"kind": "openvpn", "profile": "se-tcp.ovpn", "endpoints": ["203.0.113.7:443/tcp"]}
ENTRY = {"sys-vpn": tunnel(), "sys-vpn-entry": tunnel(upstream="sys-net")}
#: The least that a user writes, and the way from the head to the uplink that it gives.
LEAST = {
    "dns": ({}, "sys-firewall sys-dns sys-vpn sys-net"),
    "simple": ({}, "sys-vpn sys-firewall sys-net"),
    "sandwich": ({}, "sys-firewall sys-dns sys-vpn sys-firewall-uplink sys-net"),
    "parallel": ({}, "sys-firewall sys-dns sys-vpn sys-net"),
    "multihop": ({"tunnels": ENTRY}, "sys-firewall sys-dns sys-vpn sys-vpn-entry sys-net"),
    "tor-over-vpn": ({}, "sys-whonix sys-firewall sys-vpn sys-net"),
    "vpn-over-tor": ({"tunnels": {"sys-vpn": TCP}}, "sys-vpn sys-firewall-tor sys-whonix sys-net"),
    "dns-tor-vpn": ({}, "sys-firewall sys-dns sys-whonix sys-vpn sys-net"),
    "mixed": ({}, "sys-firewall sys-dns sys-vpn sys-net"),
}


def document(topology, **keys):
    return {"topology": topology, "tunnels": {"sys-vpn": tunnel()}, **LEAST[topology][0], **keys}


def build(topology, **keys):
    return qubes_vpn_model.build(document(topology, **keys))


def problems(topology, **keys):
    """``{key path: what is wrong}``."""
    found = qubes_vpn_model.read(document(topology, **keys))[1]
    return {".".join(map(str, problem.path[1:])): problem.what for problem in found}


def wired(model):
    """Who hangs on whom, in the order of the plan: ``NAME -> NETVM``."""
    steps = qubes_vpn_plan.plan(model)
    return [step.id for step in steps if step.state == "netvm"]


def test_each_topology_has_a_test():
    assert {*TOPOLOGIES} == {*LEAST, "custom"}


@pytest.mark.parametrize("topology", LEAST)
def test_the_chain(topology):
    """R02, R03, R04, R05, R06, R88: from the head, which is the default netvm, to the uplink."""
    model = build(topology)
    names = LEAST[topology][1].split()
    assert model.path(model.default) == names
    assert list(model.chain) == names[:-1]


@pytest.mark.parametrize("topology", LEAST)
def test_upstream_qubes_are_wired_first(topology):
    """R92. Each, Whonix' gateway too, hangs on its upstream before anybody hangs on it."""
    model = build(topology)
    steps, names = wired(model), model.path(model.default)
    wanted = [f"{one} -> {two}" for one, two in itertools.pairwise(names)][::-1]
    assert [step for step in steps if step in wanted] == wanted


@pytest.mark.parametrize("topology", ["parallel", "mixed"])
def test_the_path_past_the_vpn_is_for_those_who_say_so(topology):
    """R05, R06: twice, by the route and by outside_vpn."""
    assert build(topology).path("sys-firewall-novpn") == ["sys-firewall-novpn", "sys-net"]
    routes = {"qubes": {"games": "sys-firewall-novpn"}}
    assert "passes no tunnel" in problems(topology, routes=routes)["routes.qubes.games"]
    assert problems(topology, routes=routes, outside_vpn=["games"]) == {}


@pytest.mark.parametrize(
    ("topology", "netvm", "where"),
    [
        ("tor-over-vpn", "sys-firewall", "behind_vpn"),
        ("dns-tor-vpn", "sys-vpn", "behind_vpn"),
        ("mixed", "sys-firewall", "behind_vpn"),
        ("vpn-over-tor", "sys-net", "direct"),
        ("dns", None, "unmanaged"),
    ],
)
def test_whonix_gateway_is_given_its_netvm_and_nothing_else(topology, netvm, where):
    """R08, R88: it is never made, and looked for before anything is changed."""
    model = build(topology)
    assert (model.gateway_netvm, model.whonix) == (netvm, where)
    steps = qubes_vpn_plan.plan(model)
    about = {step.state for step in steps if step.args.get("name") == "sys-whonix"}
    as_netvm = {"default_netvm", "disposables"} if model.default == "sys-whonix" else set()
    assert about - as_netvm == ({"netvm"} if netvm else set())
    assert steps[0].state == "named"
    assert steps[0].args["qubes"].get("sys-whonix") == ("gateway" if netvm else None)


def test_the_gateway_has_another_name():
    model = build("dns-tor-vpn", whonix_gateway="tor-gw")
    assert model.path("sys-dns") == ["sys-dns", "tor-gw", "sys-vpn", "sys-net"]


@pytest.mark.parametrize("topology", ["tor-over-vpn", "vpn-over-tor", "dns-tor-vpn", "mixed"])
def test_whonix_is_said_once(topology):
    """The topology says where it is; the key and a route would say it again."""
    said = problems(topology, whonix="unmanaged")
    assert said == {"whonix": f"topology '{topology}' says where sys-whonix is"}
    routed = problems(topology, routes={"qubes": {"sys-whonix": "sys-net"}})
    assert routed["routes.qubes.sys-whonix"] == f"'topology: {topology}' routes sys-whonix already"


# --- two of one role


@pytest.mark.parametrize(
    "tunnels",
    [
        {"out": tunnel(), "in": tunnel(upstream="sys-net")},
        {"in": tunnel(upstream="sys-net"), "out": tunnel()},
        {"out": tunnel(upstream="in"), "in": tunnel()},
        {"in": tunnel(), "out": tunnel(upstream="in")},
        {
            "third": tunnel(upstream="sys-net"),
            "in": tunnel(upstream="sys-net"),
            "out": tunnel(upstream="in"),
        },
    ],
)
def test_the_entry_is_told_by_upstream_and_not_by_the_order_of_keys(tunnels):
    """R88."""
    assert build("multihop", tunnels=tunnels).path("sys-dns")[1:] == ["out", "in", "sys-net"]


@pytest.mark.parametrize(
    ("tunnels", "what"),
    [
        (
            {"a": tunnel(), "b": tunnel()},
            "topology 'multihop' has 2 tunnels, and which of a, b is the tunnel on sys-net is not "
            "said",
        ),
        (  # b -> a -> c, or a on the uplink beside c: a third tunnel must not move the entry
            {"a": tunnel(), "b": tunnel(upstream="a"), "c": tunnel(upstream="sys-net")},
            "topology 'multihop' has 2 tunnels, and which of a, c is the tunnel on sys-net is not "
            "said",
        ),
        ({"a": tunnel()}, "topology 'multihop' needs 2 tunnels in a row, and there is one too few"),
    ],
)
def test_an_entry_that_is_not_told_is_one_error(tunnels, what):
    assert problems("multihop", tunnels=tunnels) == {"topology": what}


def beside(**resolvers):
    """Two tunnels on the uplink, of which `dns` has one, and these resolvers."""
    tunnels = {name: tunnel(upstream="sys-net") for name in ("a", "b")}
    return {"tunnels": tunnels, "resolvers": resolvers}


def test_the_only_resolver_says_which_of_two_tunnels_is_meant():
    """R88. The other one hangs where it says, beside the chain."""
    model = build("dns", **beside(names={"upstream": "b"}))
    assert model.path("sys-firewall") == ["sys-firewall", "names", "b", "sys-net"]
    open_ones = {"a": tunnel(), "b": tunnel()}
    said = problems("dns", tunnels=open_ones, resolvers={"names": {"upstream": "b"}})
    assert said == {"tunnels.a.upstream": "missing, and topology 'dns' does not give one"}


@pytest.mark.parametrize(
    "resolvers",
    [
        {"names": {}},
        {"names": {}, "more": {"upstream": "b"}},  # nobody says that names is to be there, too
        {"names": {"upstream": "a"}, "more": {"upstream": "b"}},
    ],
)
def test_two_tunnels_of_which_none_is_meant_are_an_error(resolvers):
    _, found = qubes_vpn_model.read(document("dns", **beside(**resolvers)))
    told = next(each for each in found if each.path == ("qubes_vpn", "topology"))
    assert told.what == "topology 'dns' has one tunnel, and here are 2"
    assert told.fix.startswith("Remove the 'upstream' of the one that is meant")


@pytest.mark.parametrize(
    "firewalls",
    [
        {"sys-firewall-uplink": {}, "wall": {}},
        {"wall": {}, "edge": {"upstream": "sys-net"}},
        {"edge": {"upstream": "sys-net"}, "wall": {}},
    ],
)
def test_both_sides_of_a_sandwich(firewalls):
    """R04. By the default name, or by its upstream."""
    path = build("sandwich", firewalls=firewalls).path("wall")
    assert path[:3] == ["wall", "sys-dns", "sys-vpn"]
    assert path[3] in ("edge", "sys-firewall-uplink")
    assert path[4:] == ["sys-net"]


def test_a_member_that_hangs_elsewhere_makes_another_topology():
    """R88. The VPN would be asked past Tor, under a name that says otherwise."""
    said = problems("vpn-over-tor", tunnels={"sys-vpn": {**TCP, "upstream": "sys-net"}})
    wanted = "topology 'vpn-over-tor' has sys-vpn behind sys-firewall-tor"
    assert said == {"tunnels.sys-vpn.upstream": wanted}


# --- what goes through Tor


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        (tunnel(), "kind"),
        ({**TCP, "endpoints": ["203.0.113.7:443/tcp", "203.0.113.7:1194/udp"]}, "endpoints"),
        (
            {"kind": "mullvad", "endpoints": ["203.0.113.7:51820/udp"]},
            "mullvad.obfuscation",
        ),
    ],
)
def test_a_tunnel_inside_tor_is_tcp(keys, where):
    """R88. Tor carries nothing else."""
    (path,) = found = problems("vpn-over-tor", tunnels={"sys-vpn": keys})
    assert path == f"tunnels.sys-vpn.{where}"
    assert found[path].startswith("Tor carries TCP only, and sys-vpn is behind sys-whonix")


def test_the_mullvad_app_inside_tor_by_udp2tcp():
    app = {"obfuscation": "udp2tcp", "obfuscation_port": 443}
    keys = {"kind": "mullvad", "endpoints": ["203.0.113.7:443/tcp"], "mullvad": app}
    assert problems("vpn-over-tor", tunnels={"sys-vpn": keys}) == {}


def test_a_resolver_inside_tor_asks_by_tcp():
    """R53, R88. By itself; and what would not get through is refused."""
    assert build("dns-tor-vpn").services["sys-dns"].dnscrypt["force_tcp"] is True
    assert build("dns").services["sys-dns"].dnscrypt["force_tcp"] is False
    for key, value in (
        ("force_tcp", False),
        ("http3", True),
        ("forwarding", {"corp.example": ["10.8.0.1:5353"]}),
    ):
        said = problems("dns-tor-vpn", resolvers={"sys-dns": {"dnscrypt": {key: value}}})
        assert list(said) == [f"resolvers.sys-dns.dnscrypt.{key}"]


def test_a_tunnel_in_a_tunnel_may_be_udp_though_tor_carries_the_outer_one():
    upstreams = {"sys-vpn": tunnel(upstream="outer"), "outer": {**TCP, "upstream": "wall"}}
    firewalls = {"wall": {"upstream": "sys-whonix"}}
    model = {"topology": "custom", "tunnels": upstreams, "firewalls": firewalls}
    assert qubes_vpn_model.read(model)[1] == []


# --- the guard


def test_who_hides_behind_somebody_is_not_let_out_on_the_way():
    """R88. The exit's provider and the resolver would see the line's address."""
    sheltered = {
        topology: {*qubes_vpn_plan.guard(build(topology))["sheltered"]} for topology in LEAST
    }
    assert sheltered["multihop"] == {"sys-vpn", "sys-dns", "sys-firewall"}
    assert sheltered["vpn-over-tor"] == {"sys-vpn", "sys-firewall-tor"}
    assert sheltered["dns-tor-vpn"] == {"sys-whonix", "sys-dns", "sys-firewall"}
    assert sheltered["mixed"] == {"sys-whonix", "sys-dns", "sys-firewall"}
    assert sheltered["sandwich"] == {"sys-dns", "sys-firewall"}
