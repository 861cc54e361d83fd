# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's own qubes in a pillar: presets, and one place for one thing (R10, R11)."""

import pytest

import qubes_vpn_layout
import qubes_vpn_model
import qubes_vpn_plan
from qubes_vpn_schema import TOPOLOGIES

from .pillars import past_vpn, pillar, tunnel

BANK = ["bank.example:443/tcp", "dns"]


def build(layout, **keys):
    return qubes_vpn_model.build(pillar(layout=layout, **keys))


def problems(document):
    """``{key path: what is wrong}``."""
    found = qubes_vpn_model.read(document)[1]
    return {".".join(map(str, problem.path[1:])): problem.what for problem in found}


def steps(model):
    return {step.id: step.args for step in qubes_vpn_plan.layout(model)}


def test_one_word_is_all_six():
    """R09-R11. vault offline, banking too until it has its list, the others behind the VPN."""
    model = build("canonical")
    assert model == build({name: {} for name in qubes_vpn_layout.PRESETS})
    assert [*model.layout] == ["vault", "personal", "work", "banking", "comms", "untrusted"]
    assert model.vaults == ("vault",)
    assert model.routes == {
        "personal": "sys-firewall",
        "work": "sys-firewall",
        "banking": "none",
        "comms": "sys-whonix",
        "untrusted": "sys-whonix",
    }
    assert model.otherwise == {"comms": "sys-firewall", "untrusted": "sys-firewall"}
    assert model.client_routes({"comms"})["comms"] == "sys-firewall"
    assert model.client_routes({"comms", "sys-whonix"})["comms"] == "sys-whonix"
    assert model.layout["untrusted"].disposable_template is True
    assert not any(model.in_clear(netvm) for netvm in model.otherwise.values())


@pytest.mark.parametrize("topology", [each for each in TOPOLOGIES if each != "custom"])
def test_the_six_fit_every_topology(topology):
    """R10, R88. Tor is no second choice where the topology has it; nobody is in clear."""
    keys = {"kind": "openvpn", "profile": "a.ovpn", "endpoints": ["203.0.113.7:443/tcp"]}
    tunnels = {"sys-vpn": keys}
    if topology == "multihop":
        entry = {"sys-vpn-entry": {**keys, "upstream": "sys-net"}}
        tunnels = {"sys-vpn": {**keys, "upstream": "sys-vpn-entry"}, **entry}
    model = build("canonical", topology=topology, tunnels=tunnels)
    assert model.routes["comms"] == "sys-whonix"
    assert bool(model.otherwise) == (model.gateway_netvm is None)
    netvms = {*model.routes.values(), *model.otherwise.values()} - {"none"}
    assert not any(model.in_clear(netvm) for netvm in netvms)


@pytest.mark.parametrize("topology", ["dns", "simple"])
@pytest.mark.parametrize("default", [None, "none", "keep", "sys-vpn"])
def test_default_leads_behind_the_vpn_whatever_dom0s_default_is(topology, default):
    """R10. What is to be online is not taken off by `routes.default: none`."""
    routes = {"default": default} if default else {}
    model = build({"work": {}}, topology=topology, routes=routes)
    head = {"dns": "sys-firewall", "simple": "sys-vpn"}[topology]
    assert model.routes["work"] == ("sys-vpn" if default == "sys-vpn" else head)


def test_every_value_is_the_users_to_choose():
    model = build(
        {
            "vault": {"label": "gray", "vault": False, "netvm": "sys-dns", "default_dispvm": "dvm"},
            "untrusted": {"disposable_template": False, "netvm": "none"},
            "banking": {"memory": 3000, "template": "mine", "allowlist": BANK},
        }
    )
    assert (model.vaults, model.routes["vault"]) == ((), "sys-dns")
    assert model.layout["vault"][2:6] == ("gray", None, 2000, False)
    assert (model.layout["untrusted"].disposable_template, model.routes["untrusted"]) == (
        False,
        "none",
    )
    assert (model.layout["banking"].memory, model.layout["banking"].maxmem) == (3000, None)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"routes": {"qubes": {"work": "sys-dns"}}}, {"routes": {"work": "sys-dns"}}),
        (
            {"routes": {"qubes": {"vault": "none"}}},
            {"routes": {"vault": "none"}, "vaults": ("vault",)},
        ),
        ({"vaults": ["work", "vault"]}, {"vaults": ("work", "vault"), "routes": {}}),
    ],
)
def test_a_preset_gives_way_to_what_the_rest_of_the_pillar_says(more, expected):
    model = build({"work": {}, "vault": {}}, **more)
    for key, value in expected.items():
        has = getattr(model, key)
        assert {**has, **value} == has if key == "routes" and value else has == value


def test_a_bank_with_its_own_firewall():
    """R11. The list is enforced there, and what it hangs on is where the qube itself would."""
    bank = {"banking": {"allowlist": BANK, "firewall": "sys-firewall-bank"}}
    model = build(bank)
    own = model.services["sys-firewall-bank"]
    assert (own.role, own.upstream, model.routes["banking"]) == (
        "firewall",
        "sys-firewall",
        "sys-firewall-bank",
    )
    listed = steps(model)["banking: may reach its allowlist only"]
    assert listed["enforced_by"] == "sys-firewall-bank"
    assert listed["rules"][-1] == "action=drop"
    made = [step.id for step in qubes_vpn_plan.plan(model)]
    assert made.index("sys-firewall-bank -> sys-firewall") < made.index(
        "banking -> sys-firewall-bank"
    )


def test_the_list_may_stand_with_the_others():
    model = build({"banking": {"firewall": "sys-firewall-bank"}}, allowlists={"banking": BANK})
    assert model.routes["banking"] == "sys-firewall-bank"


def test_what_is_there_is_named_before_what_is_not():
    """A machine without Whonix gets the VPN; one that must have it, by another key, is told so."""
    (first,) = [step for step in qubes_vpn_plan.plan(build("canonical")) if step.state == "named"]
    assert first.args["qubes"]["sys-whonix"] == "optional netvm"
    both = build("canonical", routes={"qubes": {"mail": "sys-whonix"}})
    (first,) = [step for step in qubes_vpn_plan.plan(both) if step.state == "named"]
    assert first.args["qubes"]["sys-whonix"] == "netvm"


def test_disposables_are_made_before_those_who_open_things_in_them():
    model = build({"work": {"default_dispvm": "untrusted"}, "untrusted": {}})
    made = list(steps(model))
    assert made.index("untrusted: present") < made.index("work: present")
    assert steps(model)["work: present"]["settings"] == {"default_dispvm": "untrusted"}


def test_a_vault_opens_nothing_in_a_disposable():
    assert steps(build({"vault": {}}))["vault: present"]["settings"]["default_dispvm"] is None


ROUTED = {"routes": {"qubes": {"work": "sys-firewall"}}}
CUSTOM = {"topology": "custom", "tunnels": {"sys-vpn": tunnel(upstream="sys-net")}}
WRONG = {
    "twice: netvm": ({"work": {"netvm": "default"}}, ROUTED, "layout.work.netvm"),
    "twice: vault": ({"work": {"vault": True}}, {"vaults": ["work"]}, "layout.work.vault"),
    "twice: list": (
        {"work": {"allowlist": BANK}},
        {**ROUTED, "allowlists": {"work": BANK}},
        "layout.work.allowlist",
    ),
    "firewall and route": (
        {"work": {"firewall": "fw", "allowlist": BANK}},
        ROUTED,
        "layout.work.firewall",
    ),
    "vault online": ({"work": {"vault": True, "netvm": "sys-dns"}}, {}, "layout.work.netvm"),
    "canonical vault online": ({"vault": {"netvm": "default"}}, {}, "layout.vault.netvm"),
    "canonical vault routed": (
        {"vault": {}},
        {"routes": {"qubes": {"vault": "sys-firewall"}}},
        "routes.qubes.vault",
    ),
    "vault with a list": ({"vault": {"allowlist": BANK}}, {}, "layout.vault.allowlist"),
    "firewall offline": (
        {"banking": {"firewall": "fw", "netvm": "none"}},
        {},
        "layout.banking.firewall",
    ),
    "firewall for nothing": ({"banking": {"firewall": "fw"}}, {}, "layout.banking.firewall"),
    "firewall on Tor": (
        {"comms": {"firewall": "fw", "allowlist": BANK}},
        {},
        "layout.comms.firewall",
    ),
    "firewall taken": (
        {"banking": {"firewall": "sys-dns", "allowlist": BANK}},
        {},
        "layout.banking.firewall",
    ),
    "firewall shared": (
        {name: {"firewall": "fw", "allowlist": BANK} for name in ("work", "banking")},
        {},
        "layout.banking.firewall",
    ),
    "firewall with a client": (
        {"banking": {"firewall": "fw", "allowlist": BANK}},
        {"routes": {"qubes": {"work": "fw"}}},
        "routes.qubes.work",
    ),
    "firewall with a client of the layout": (
        {"banking": {"firewall": "fw", "allowlist": BANK}, "work": {"netvm": "fw"}},
        {},
        "layout.work.netvm",
    ),
    "firewall with disposables": (
        {"banking": {"firewall": "fw", "allowlist": BANK}},
        {"disposables": "fw"},
        "disposables",
    ),
    "firewall with a service": (
        {"banking": {"firewall": "fw", "allowlist": BANK}},
        {"firewalls": {"sys-firewall": {}, "other": {"upstream": "fw"}}},
        "firewalls.other.upstream",
    ),
    "firewall of every new qube": (
        {"banking": {"firewall": "fw", "allowlist": BANK, "netvm": "sys-firewall"}},
        {"routes": {"default": "fw"}, "disposables": "sys-firewall"},
        "routes.default",
    ),
    "no way out": ({"work": {}}, CUSTOM, "layout.work.netvm"),
    "no way out but Tor": ({"comms": {}}, CUSTOM, "layout.comms.netvm"),
    "list on Tor": ({"comms": {"allowlist": BANK}}, {}, "layout.comms.allowlist"),
    "wildcard": (
        {"banking": {"allowlist": ["*.bank.example:443/tcp"]}},
        {},
        "layout.banking.allowlist.0",
    ),
    "no names": ({"banking": {"allowlist": BANK[:1]}}, {}, "layout.banking.allowlist"),
    "no label": ({"mail": {}}, {}, "layout.mail.label"),
    "no dispvm": (
        {"work": {"default_dispvm": "banking"}, "banking": {}},
        {},
        "layout.work.default_dispvm",
    ),
    "word": ("canonicall", {}, "layout"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_at_odds_is_one_error(name):
    """R10, R11. With the key, and what to do."""
    layout, more, path = WRONG[name]
    document = pillar(layout=layout, **more)
    (problem,) = qubes_vpn_model.read(document)[1]
    assert ".".join(map(str, problem.path[1:])) == path
    assert problem.fix.endswith(".")


def test_a_fix_says_what_to_write():
    """R10. A preset's name that is not quite one, and a list that nobody enforces."""
    fixes = {
        problem.path[2]: problem.fix
        for layout in ({"Vault": {}, "bankin": {}, "mail": {}}, {"bank": {"label": "red"}})
        for problem in qubes_vpn_model.read(
            pillar(layout=layout, allowlists={"bank": BANK} if "bank" in layout else {})
        )[1]
    }
    assert fixes["Vault"] == "Did you mean 'vault'? Else add it, as in pillar.example."
    assert fixes["bankin"] == "Did you mean 'banking'? Else add it, as in pillar.example."
    assert fixes["mail"] == "Add it, as in pillar.example."
    assert fixes["bank"] == "Write layout.bank.netvm: default, or a name."
    online = [
        pillar(layout={"vault": {"netvm": "default"}}),
        pillar(layout={"vault": {}}, routes={"qubes": {"vault": "sys-dns"}}),
    ]
    assert [qubes_vpn_model.read(each)[1][0].fix for each in online] == [
        "Remove it, or write layout.vault.vault: false.",
        "Write none, or write layout.vault.vault: false.",
    ]


def test_a_layout_leads_nobody_past_the_vpn():
    """R05, R10. A netvm in clear is an error at its key, unless outside_vpn names the qube."""
    layout = {"untrusted": {"netvm": "sys-firewall-novpn"}}
    said = "untrusted -> sys-firewall-novpn -> sys-net passes no tunnel"
    assert problems(past_vpn(layout=layout)) == {"layout.untrusted.netvm": said}
    assert problems(past_vpn(layout=layout, outside_vpn=["untrusted"])) == {}


def test_a_list_that_qubes_cannot_hold_is_refused():
    """R11, R36. Its size is counted at the qube too."""
    many = [f"203.0.{n // 256}.{n % 256}:443/tcp" for n in range(2000)]
    (what,) = problems(pillar(layout={"banking": {"allowlist": many}})).values()
    assert "2,001 firewall rules take" in what
