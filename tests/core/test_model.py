# SPDX-License-Identifier: GPL-2.0-or-later
"""What a pillar means: the model, read as a specification."""

import itertools

import pytest
import yaml

import qubes_vpn_model
import qubes_vpn_mullvad_pillar
import qubes_vpn_relays
import qubes_vpn_schema
from qubes_vpn_mullvad_pillar import MULLVAD
from qubes_vpn_problem import PillarError
from qubes_vpn_types import Keys, ListOf, MapOf

from .pillars import EXAMPLE, past_vpn, pillar, tunnel


def build(**keys):
    return qubes_vpn_model.build(pillar(**keys))


def problems(document):
    """``{key path: what is wrong}``."""
    found = qubes_vpn_model.read(document)[1]
    return {".".join(map(str, problem.path[1:])): problem.what for problem in found}


# --- topologies


def test_dns_is_the_default_topology():
    """R03: AppVM -> sys-firewall -> sys-dns -> sys-vpn -> sys-net."""
    model = build()
    assert model.topology == "dns"
    assert model.path("sys-firewall") == ["sys-firewall", "sys-dns", "sys-vpn", "sys-net"]
    assert model.default == "sys-firewall"


def test_simple_topology():
    """R02: AppVM -> sys-vpn -> sys-firewall -> sys-net, and no resolver."""
    model = build(topology="simple")
    assert model.path("sys-vpn") == ["sys-vpn", "sys-firewall", "sys-net"]
    assert model.default == "sys-vpn"
    assert set(model.services) == {"sys-vpn", "sys-firewall"}


def test_custom_topology_has_only_what_is_written():
    """R04: a firewall on both sides, every upstream spelled out; the default stays as it is."""
    model = build(
        topology="custom",
        tunnels={"sys-vpn": tunnel(upstream="sys-firewall")},
        firewalls={"sys-firewall": {"upstream": "sys-net"}, "sys-inner": {"upstream": "sys-vpn"}},
    )
    assert model.path("sys-inner") == ["sys-inner", "sys-vpn", "sys-firewall", "sys-net"]
    assert model.default == "keep"


def test_names_are_free():
    """A chain of the user's own names."""
    model = qubes_vpn_model.build(
        {
            "uplink": "net",
            "tunnels": {"out": tunnel()},
            "resolvers": {"names": {}},
            "firewalls": {"wall": {}},
        }
    )
    assert model.path(model.default) == ["wall", "names", "out", "net"]


def test_an_upstream_of_its_own_wins_over_the_topology():
    """R04: a firewall qube on both sides of the tunnel."""
    model = build(
        tunnels={"sys-vpn": tunnel(upstream="sys-firewall-out")},
        firewalls={"sys-firewall": {}, "sys-firewall-out": {"upstream": "sys-net"}},
    )
    assert model.path("sys-firewall")[2:] == ["sys-vpn", "sys-firewall-out", "sys-net"]


def test_second_tunnel_hangs_on_the_first():
    """R01, R88: any number of tunnels; only one of them leaves its upstream to the topology."""
    model = build(tunnels={"sys-vpn": tunnel(), "sys-vpn-2": tunnel(upstream="sys-vpn")})
    assert model.path("sys-firewall")[2:] == ["sys-vpn", "sys-net"]
    assert model.path("sys-vpn-2") == ["sys-vpn-2", "sys-vpn", "sys-net"]


def test_two_tunnels_without_upstreams_are_ambiguous():
    found = problems(pillar(tunnels={"sys-vpn": tunnel(), "sys-vpn-2": tunnel()}))
    assert found == {"topology": "topology 'dns' has one tunnel, and here are 2"}


def test_upstream_qubes_come_first():
    """The order in which a plan may wire them."""
    names = [service.name for service in build().upstream_first()]
    assert names == ["sys-vpn", "sys-dns", "sys-firewall"]


# --- service qubes


def test_a_tunnel_by_default():
    """R01: label orange, memory 400, maxmem 600, autostart."""
    service = build().services["sys-vpn"]
    assert service.template == "t-vpn"
    assert (service.label, service.memory, service.maxmem) == ("orange", 400, 600)
    assert service.autostart is True


@pytest.mark.parametrize(
    ("kind", "interface"), [("wireguard", "wg0"), ("openvpn", "tun0"), ("mullvad", "wg0-mullvad")]
)
def test_a_tunnels_interface_is_what_its_kind_has(kind, interface):
    """R41: the only way out for clients, by name."""
    keys = tunnel(kind=kind, profile="x.ovpn" if kind == "openvpn" else "x.conf")
    if kind == "mullvad":
        del keys["profile"]
    service = build(tunnels={"sys-vpn": keys}).services["sys-vpn"]
    assert service.interface == interface
    named = build(tunnels={"sys-vpn": {**keys, "interface": "mine"}}).services["sys-vpn"]
    assert named.interface == "mine"


def test_what_the_killswitch_drops_is_logged_on_request():
    """R44."""
    assert build().services["sys-vpn"].log_drops is False
    logged = build(tunnels={"sys-vpn": tunnel(log_drops=True)})
    assert logged.services["sys-vpn"].log_drops is True


def test_a_firewall_by_default():
    """R13: nothing extra: dom0's default template."""
    service = build().services["sys-firewall"]
    assert (service.template, service.label) == (None, "green")


def test_templates_of_the_defaults_need_not_be_written():
    """R20: t-vpn and t-dns, only where something is made from them."""
    assert build().templates == dict.fromkeys(("t-vpn", "t-dns"), "debian-13-minimal")
    assert set(build(topology="simple").templates) == {"t-vpn"}
    assert set(build(tunnels={"sys-vpn": tunnel(template="mine")}).templates) == {"t-dns"}


def test_a_written_template_replaces_the_default():
    model = build(templates={"t-vpn": {"clone_of": "fedora-43-minimal"}})
    assert model.templates["t-vpn"] == "fedora-43-minimal"


def test_an_empty_mapping_may_be_left_out():
    """`sys-dns:` in YAML is the same as `sys-dns: {}`."""
    assert build(resolvers={"sys-dns": None}) == build()


# --- clients


def test_a_client_in_clear_needs_an_opt_in():
    """R05: a second path past the VPN, by name and for whom it is meant."""
    route = {"qubes": {"games": "sys-firewall-novpn"}}
    assert problems(past_vpn(routes=route)) == {
        "routes.qubes.games": "games -> sys-firewall-novpn -> sys-net passes no tunnel"
    }
    assert problems(past_vpn(routes=route, outside_vpn=["games"])) == {}


def test_an_opt_in_for_nothing_is_an_error():
    found = problems(
        past_vpn(routes={"qubes": {"work": "sys-firewall"}}, outside_vpn=["work", "x"])
    )
    assert set(found) == {"outside_vpn.0", "outside_vpn.1"}


@pytest.mark.parametrize("netvm", ["sys-vpn", "sys-dns", "sys-firewall", "sys-whonix", "none"])
def test_a_client_goes_where_it_is_routed(netvm):
    """R06, R15: VPN, Tor or nowhere, qube by qube."""
    assert build(routes={"qubes": {"work": netvm}}).routes == {"work": netvm}


def test_the_uplink_itself_is_in_clear():
    assert "passes no tunnel" in problems(pillar(routes={"default": "sys-net"}))["routes.default"]


def test_default_netvm_can_stay_or_be_none():
    """R07."""
    assert build(routes={"default": "keep"}).default == "keep"
    assert build(routes={"default": "none"}).default == "none"


def test_a_vault_has_no_netvm():
    """R09."""
    assert problems(pillar(vaults=["vault"], routes={"qubes": {"vault": "none"}})) == {}
    found = problems(pillar(vaults=["vault"], routes={"qubes": {"vault": "sys-vpn"}}))
    assert found == {"routes.qubes.vault": "a vault has no netvm"}


def test_an_allowlist_takes_what_the_qubes_firewall_takes():
    """R11: numbers, prefixes, names, dns, icmp."""
    entries = ["203.0.113.0/24:443/tcp", "[2001:db8::1]:443/tcp", "bank.example:443/tcp", "dns"]
    routes = {"qubes": {"banking": "sys-firewall", "mute": "none"}}
    model = build(allowlists={"banking": [*entries, "icmp"], "mute": []}, routes=routes)
    assert [entry.text for entry in model.allowlists["banking"]] == [*entries, "icmp"]
    assert model.allowlists["mute"] == ()


def test_whonix_is_unmanaged_by_default():
    """R08."""
    assert build().whonix == "unmanaged"


def test_whonix_behind_the_vpn_follows_the_default():
    """R08: it needs one, and one that does not lead through Tor itself."""
    assert problems(pillar(whonix="behind_vpn")) == {}
    assert "whonix" in problems(pillar(whonix="behind_vpn", routes={"default": "keep"}))
    assert (
        "loop" in problems(pillar(whonix="behind_vpn", routes={"default": "sys-whonix"}))["whonix"]
    )


def test_whonix_direct_needs_one_way_past_the_vpn():
    """R08."""
    assert problems(past_vpn(whonix="direct")) == {}
    assert "here are 0" in problems(pillar(whonix="direct"))["whonix"]


def test_layout_qubes():
    """R10: what is not written is Qubes' default."""
    qube = build(layout={"mail": {"label": "green"}}).layout["mail"]
    assert (qube.template, qube.memory, qube.maxmem, qube.disposable_template) == (
        None,
        None,
        None,
        False,
    )


# --- the document itself


@pytest.mark.parametrize("document", [None, {}, [], "", 0])
def test_nothing_is_one_problem(document):
    assert problems(document) == {"": "no such pillar, or an empty one"}


def test_build_raises_every_problem_at_once():
    with pytest.raises(PillarError) as error:
        qubes_vpn_model.build({"topolgy": "dns", "uplink": 5})
    assert len(error.value.problems) == 3
    assert str(error.value).count("\n") == 2


def test_a_name_may_sound_like_a_secret():
    """A qube may be called `passwords`; a value under such a name is refused where none belongs."""
    assert problems(pillar(routes={"qubes": {"passwords": "none"}}, vaults=["passwords"])) == {}
    assert "secret" in problems(pillar(templates={"password": "hunter2"}))["templates.password"]


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("netvm", "sys-firewall", "is not past the VPN"),
        ("netvm", "sys-whonix", "ignores its clients' firewall lists"),
        ("netvm", "elsewhere", "there is no firewall or uplink 'elsewhere'"),
        ("name", "work", "is another qube of this pillar"),
        ("name", "sys-vpn", "is another qube of this pillar"),
        ("template", "vault", "is a vault"),
        ("template", "t-vpn", "is a template"),
        ("template", "sys-vpn", "carries the network"),
        ("minutes", 61, "not possible here"),
        ("minutes", 0, "not possible here"),
    ],
)
def test_a_bypass_leads_out_and_is_nobodys_qube(key, value, what):
    """R05."""
    right = {"netvm": "sys-firewall-novpn", "template": "default-dvm"}
    more = {"routes": {"qubes": {"work": "sys-firewall"}}, "vaults": ["vault"]}
    assert problems(past_vpn(**more, bypass=right)) == {}
    found = problems(past_vpn(**more, bypass={**right, key: value}))
    assert [*found] == [f"bypass.{key}"]
    assert what in found[f"bypass.{key}"]


# --- pillar.example


@pytest.mark.parametrize("written", ["yes", '"yes"', "true"])
def test_yes_may_be_written_as_yaml_reads_it(written):
    """YAML 1.1 reads a plain `yes` as true."""
    document = {**pillar(), **yaml.safe_load(f"restart_clients: {written}")}
    assert qubes_vpn_model.build(document).restart_clients == "yes"


def test_example_is_right():
    assert qubes_vpn_model.read(EXAMPLE)[1] == []


def _keys(kind, value, path=()):
    """Paths of the keys that *kind* has and of those that *value* has, names of qubes as `*`."""
    if isinstance(kind, Keys):
        known = {(*path, key) for key in kind.fields}
        there = {(*path, key) for key in value}
        for key in kind.fields.keys() & value.keys():
            inner = _keys(kind.fields[key][0], value[key], (*path, key))
            known, there = known | inner[0], there | inner[1]
        return known, there
    if isinstance(kind, MapOf):
        inner = [_keys(kind.kind, item or {}, (*path, "*")) for item in value.values()]
        return set().union(*(each[0] for each in inner)), set().union(*(each[1] for each in inner))
    return set(), set()


def test_example_has_every_key_and_no_other(pillar_example):
    """It cannot go stale.  A firewall's template and a few other keys are comments there."""
    known, there = _keys(qubes_vpn_schema.PILLAR, EXAMPLE)
    commented = {("tunnels", "*", "relays"), ("tunnels", "*", "mullvad")}
    commented |= {("resolvers", "*", "dnscrypt", "blocked_names_file")}
    commented |= {("layout", "*", "firewall")}
    assert known - there == {("firewalls", "*", "template"), *commented}
    assert there - known == set()
    assert "# template: left out, it is dom0's default template" in pillar_example


def test_example_has_every_key_of_a_relay_list(pillar_example):
    """R36. What stands there in comments is right when they are taken away."""
    lines = iter(pillar_example.splitlines())
    assert "      # relays:" in lines
    block = itertools.takewhile(lambda line: line.startswith("      #   "), lines)
    relays = yaml.safe_load("\n".join(line[10:] for line in block))
    assert list(relays) == list(qubes_vpn_relays.RELAYS.fields)
    problems = []
    assert qubes_vpn_relays.RELAYS.read(relays, (), problems)
    assert problems == []


def test_example_shows_the_apps_settings_and_their_defaults(pillar_example):
    """As a comment, because the tunnel there is of another kind."""
    lines = [line.strip() for line in pillar_example.splitlines()]
    begin = lines.index("# mullvad:")
    end = next(place for place in range(begin, len(lines)) if lines[place].startswith("# The qube"))
    shown = yaml.safe_load("\n".join(line[2:] for line in lines[begin:end]))["mullvad"]
    assert set(shown) == set(MULLVAD.fields)
    for key in ("location", "entry", "obfuscation_port"):  # "left out"
        assert MULLVAD.fields[key][0].read(shown.pop(key), (), [])
    for settings in (shown, None):
        given = {} if settings is None else {"mullvad": settings}
        app = tunnel(kind="mullvad", profile=..., **given)
        del app["profile"]
        model = build(tunnels={"sys-vpn": app})
        assert model.services["sys-vpn"].mullvad == {
            **MULLVAD.read({}, (), []),
            "wireguard_port": 51820,
            "owner": None,
            "hosted_by": None,
        }


@pytest.mark.parametrize(
    ("relays", "entry", "owner", "hosted_by"),
    [
        (None, None, None, None),
        ({"list": "plain", "owner": "owned"}, None, None, None),
        ({"list": "mullvad"}, None, "any", ()),
        ({"list": "mullvad", "owner": "owned", "hosted_by": ("M247",)}, None, "owned", ("M247",)),
        ({"list": "mullvad", "owner": "owned", "hosted_by": ("M247",)}, "se", "any", ()),
    ],
)
def test_the_app_is_told_whose_relays_were_chosen(relays, entry, owner, hosted_by):
    """R36. Not with an entry: the app would ask the same of the exit."""
    given = MULLVAD.read({"entry": entry} if entry else {}, (), [])
    relays = relays and {"owner": None, "hosted_by": (), "port": None, **relays}
    app = qubes_vpn_mullvad_pillar.settings(given, relays)
    assert (app["owner"], app["hosted_by"]) == (owner, hosted_by)


def test_the_app_is_pinned_to_the_port_that_its_relays_were_chosen_for():
    """R36. One place says it."""
    model, _ = qubes_vpn_model.read(
        pillar(
            tunnels={
                "sys-vpn": {
                    "kind": "mullvad",
                    "endpoints": ["203.0.113.7:53/udp"],
                    "relays": {
                        "list": "mullvad",
                        "port": 53,
                        "taken": "2026-11-22",
                        "sha256": "0" * 64,
                    },
                }
            }
        )
    )
    assert model.services["sys-vpn"].mullvad["wireguard_port"] == 53


def test_example_shows_the_defaults():
    """Whatever is left out has the value shown: left out, the service qubes are the same."""
    shown = qubes_vpn_model.build(EXAMPLE)
    least = qubes_vpn_model.build(
        {"tunnels": {"sys-vpn": {key: EXAMPLE["tunnels"]["sys-vpn"][key]
                                 for key in ("kind", "profile", "profiles", "endpoints")}}}
    )  # fmt: skip
    novpn = shown.services.pop("sys-firewall-novpn")  # "not there by default"
    assert novpn == least.services["sys-firewall"]._replace(name=novpn.name, upstream="sys-net")
    for name in (
        "topology",
        "uplink",
        "templates",
        "services",
        "default",
        "disposables",
        "default_dispvm",
        "updates",
        "clock",
        "whonix",
        "whonix_gateway",
        "restart_clients",
    ):
        assert getattr(shown, name) == getattr(least, name), name
    assert {**shown.tests, "clients": None, "checks": {}} == least.tests
    assert (least.routes, least.layout, least.allowlists) == ({}, {}, {})
    assert (least.outside_vpn, least.vaults) == ((), ())


def test_example_names_every_choice(pillar_example):
    """Each word that a key takes stands in the comments."""

    def words(kind):
        if isinstance(kind, Keys):
            for field, _ in kind.fields.values():
                yield from words(field)
        elif isinstance(kind, (MapOf, ListOf)):
            yield from words(kind.kind)
        else:
            yield from getattr(kind, "words", ())

    assert [word for word in words(qubes_vpn_schema.PILLAR) if word not in pillar_example] == []
