# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes-vpn adopt`: the pillar follows what was changed by hand, as far as it may."""

import json
import random

import pytest

import qubes_vpn_inventory
import qubes_vpn_plan
from qubes_vpn_formula import pillarfile
from qubes_vpn_formula.cli import main
from qubes_vpn_formula.embedded import dom0
from qubes_vpn_formula.embedded.qubesd import AdminError

TEXT = """\
# my machine
qubes_vpn:
  tunnels:
    sys-vpn:  # in Sweden
      kind: wireguard
      profile: wg.conf
      endpoints:
        - 192.0.2.1:51820/udp  # one
        - 192.0.2.2:51820/udp  # two
  firewalls:
    sys-firewall:
    sys-firewall-novpn: {upstream: sys-net}
  routes:
    default: sys-firewall  # for the rest
    qubes:
      work: sys-firewall  # the office
      personal: sys-firewall
      untrusted: sys-firewall-novpn
  outside_vpn: [untrusted]  # on purpose
  vaults: [vault]
  clock: sys-firewall
  allowlists:
    personal:
      - www.example.org:443/tcp  # news
      - dns
"""
A, B = (f"action=accept dst4=192.0.2.{n} proto=udp dstports=51820" for n in (1, 2))
WEB = "action=accept dsthost=www.example.org proto=tcp dstports=443"
DNS, DROP = "action=accept specialtarget=dns", "action=drop"


@pytest.fixture
def pillar(tmp_path):
    path = tmp_path / "pillar.sls"
    path.write_text(TEXT)
    return path


@pytest.fixture
def routed(embedded, pillar):
    """The machine as the pillar says."""
    apply(embedded, pillar)
    return embedded


def apply(embedded, pillar):
    machine = dom0.machine(embedded.path, dry=False)
    import qubes_vpn_dom0

    for step in qubes_vpn_plan.plan(pillarfile.read(str(pillar)).model):
        qubes_vpn_dom0.run(machine, step.state, step.args, {})


def netvm(name, to):
    return (name, "admin.vm.property.Set", "netvm", to.encode())


def rules(name, *lines):
    return (name, "admin.vm.firewall.Set", "", "".join(f"{line}\n" for line in lines).encode())


def prop(name, key, value):
    return (name, "admin.vm.property.Set", key, value.encode())


def inventory(routed, tmp_path):
    path = tmp_path / "inventory.json"
    taken = qubes_vpn_inventory.take(dom0.machine(routed.path, dry=True), {})
    path.write_text(json.dumps(taken))
    return str(path)


def adopt(routed, pillar, tmp_path, *words):
    return main(["adopt", str(pillar), "--inventory", inventory(routed, tmp_path), *words])


def left(routed, pillar, tmp_path, capsys):
    """What a run would still change or refuse."""
    capsys.readouterr()
    main(["plan", str(pillar), "--inventory", inventory(routed, tmp_path), "--json"])
    steps = json.loads(capsys.readouterr().out)
    return [step["id"] for step in steps if step["changes"] or step["problem"]]


def lines(text):
    return text.splitlines()


#: What is done by hand -> lines that go, lines that come.
ACCEPTED = {
    "another netvm": (
        netvm("work", "sys-vpn"),
        ["      work: sys-firewall  # the office"],
        ["      work: sys-vpn  # the office"],
    ),
    "offline": (
        netvm("work", ""),
        ["      work: sys-firewall  # the office"],
        ["      work: none  # the office"],
    ),
    "inherits": (
        ("work", "admin.vm.property.Reset", "netvm", b""),
        ["      work: sys-firewall  # the office"],
        [],
    ),
    "back behind the tunnel": (
        netvm("untrusted", "sys-firewall"),
        ["      untrusted: sys-firewall-novpn", "  outside_vpn: [untrusted]  # on purpose"],
        ["      untrusted: sys-firewall", "  outside_vpn: []  # on purpose"],
    ),
    "default": (
        ("dom0", "admin.property.Set", "default_netvm", b"sys-vpn"),
        ["    default: sys-firewall  # for the rest"],
        ["    default: sys-vpn  # for the rest"],
    ),
    "no default": (
        ("dom0", "admin.property.Set", "default_netvm", b""),
        ["    default: sys-firewall  # for the rest"],
        ["    default: none  # for the rest"],
    ),
    "allowlist longer": (
        rules("personal", WEB, DNS, A, "action=accept proto=icmp", DROP),
        [],
        ["      - 192.0.2.1:51820/udp", "      - icmp"],
    ),
    "allowlist shorter": (
        rules("personal", DNS, DROP),
        ["      - www.example.org:443/tcp  # news"],
        [],
    ),
    "allowlist in another order": (
        rules("personal", DNS, WEB, DROP),
        ["      - www.example.org:443/tcp  # news"],
        ["      - www.example.org:443/tcp"],
    ),
    "an endpoint less": (
        rules("sys-vpn", B, DROP),
        ["        - 192.0.2.1:51820/udp  # one"],
        [],
    ),
    "memory": (prop("sys-vpn", "maxmem", "900"), [], ["      maxmem: 900"]),
    "label": (prop("sys-vpn", "label", "purple"), [], ["      label: purple"]),
    "template": (
        prop("sys-vpn", "template", "debian-13-xfce"),
        [],
        ["      template: debian-13-xfce"],
    ),
    "autostart": (
        prop("sys-dns", "autostart", "False"),
        [],
        ["  resolvers:", "    sys-dns:", "      autostart: false"],
    ),
}


@pytest.mark.parametrize("what", ACCEPTED)
def test_a_change_by_hand_becomes_the_pillars(what, routed, pillar, tmp_path, capsys):
    """R15. Only its own lines are touched, and then there is nothing left to do."""
    call, gone, come = ACCEPTED[what]
    routed.call(*call)
    assert left(routed, pillar, tmp_path, capsys) != []
    assert adopt(routed, pillar, tmp_path, "--dry-run") == 0
    assert pillar.read_text() == TEXT
    assert adopt(routed, pillar, tmp_path) == 0
    shown = capsys.readouterr().out
    new = lines(pillar.read_text())
    assert [line for line in lines(TEXT) if line not in new] == gone
    assert [line for line in new if line not in lines(TEXT)] == come
    assert all(f"\n-{line}\n" in shown for line in gone)
    assert "\naccepted: " in shown
    assert pillarfile.read(str(pillar)).problems() == []
    assert left(routed, pillar, tmp_path, capsys) == []


def test_a_list_is_taken_over_where_the_pillar_has_it(routed, pillar, tmp_path, capsys):
    """R11, R15: at a qube of the layout."""
    lists, own = TEXT.partition("  allowlists:\n")[::2]
    moved = own.replace("    personal:\n", "    personal:\n      allowlist:\n")
    moved = moved.replace("      - ", "        - ")
    pillar.write_text(f"{lists}  layout:\n{moved}")
    routed.call(*rules("personal", WEB, DNS, "action=accept proto=icmp", DROP))
    assert adopt(routed, pillar, tmp_path) == 0
    assert pillar.read_text() == f"{lists}  layout:\n{moved}        - icmp\n"


def test_a_disposable_tunnel_and_what_it_is_made_from(embedded, pillar, tmp_path, capsys):
    """R15, R85. The pillar has keys for the tunnel; before a run there is neither."""
    text = TEXT.replace(
        "      kind: wireguard\n", "      kind: wireguard\n      disposable: true\n"
    )
    pillar.write_text(text)
    assert adopt(embedded, pillar, tmp_path, "--dry-run") == 1
    shown = capsys.readouterr().out
    for name in ("sys-vpn", "sys-vpn-dvm"):
        assert f"not accepted: {name}: there is no such qube. A run makes it." in shown
    apply(embedded, pillar)
    assert left(embedded, pillar, tmp_path, capsys) == []
    embedded.call(*prop("sys-vpn-dvm", "maxmem", "900"))
    embedded.call(*prop("sys-vpn", "maxmem", "900"))
    embedded.call(*rules("sys-vpn-dvm", WEB, DROP))
    assert adopt(embedded, pillar, tmp_path) == 1
    shown = capsys.readouterr().out
    assert "not accepted: sys-vpn-dvm: another firewall list than its endpoints." in shown
    new = [line for line in lines(pillar.read_text()) if line not in lines(text)]
    assert new == ["      maxmem: 900"]


#: What is done by hand -> how it is said that the pillar cannot follow.
REFUSED = {
    "in clear": (
        [netvm("work", "sys-firewall-novpn")],
        "not accepted: work: netvm sys-firewall-novpn. work -> sys-firewall-novpn -> sys-net is in "
        "clear. If that is meant, say --outside.",
    ),
    "straight to the uplink": (
        [netvm("work", "sys-net")],
        "work -> sys-net is in clear. If that is meant, say --outside.",
    ),
    "a tunnel's list opened": (
        [rules("sys-vpn", A, B, WEB, DROP)],
        "not accepted: sys-vpn: another firewall list than its endpoints. What a VPN qube may "
        "reach is its endpoints: edit these, if one has changed.",
    ),
    "a tunnel without a list": (
        [rules("sys-vpn", "action=accept")],
        "another firewall list than its endpoints",
    ),
    "a tunnel that may reach nothing": ([rules("sys-vpn", DROP)], "not accepted: sys-vpn: fewer"),
    "the flag": (
        [("sys-vpn", "admin.vm.feature.Remove", "service.qubes-vpn", b"")],
        "not accepted: sys-vpn: service qubes-vpn is off. A VPN qube needs it: a run switches it",
    ),
    "the flag of a resolver": (
        [("sys-dns", "admin.vm.feature.Remove", "service.qubes-vpn-dns", b"")],
        "not accepted: sys-dns: service qubes-vpn-dns is off. A resolver needs it: a run switches",
    ),
    "provides_network": (
        [("sys-dns", "admin.vm.property.Reset", "provides_network", b"")],
        "not accepted: sys-dns: provides no network. A service qube provides network",
    ),
    "the chain": (
        [netvm("sys-firewall", "sys-vpn")],
        "not accepted: sys-firewall: netvm sys-vpn. How service qubes hang together is told by",
    ),
    "a vault": (
        [netvm("vault", "sys-firewall")],
        "not accepted: vault: netvm sys-firewall. A vault has no netvm. If it is none: take it out "
        "of vaults.",
    ),
    "no list any more": (
        [rules("personal", "action=accept")],
        "It may reach everything now. If that is meant, delete its allowlist by hand.",
    ),
    "a list that cannot be said": (
        [rules("personal", WEB, f"{DROP} dst4=192.0.2.9", DNS, DROP)],
        "No allowlist can say 'action=drop dst4=192.0.2.9/32': a run replaces the list.",
    ),
    "a default in clear": (
        [("dom0", "admin.property.Set", "default_netvm", b"sys-net")],
        "not accepted: default_netvm: is sys-net. sys-net passes no tunnel, and every new qube",
    ),
    "a removed qube": (
        [("work", "admin.vm.Remove", "", b"")],
        "not accepted: work: there is no such qube. Make it, or take it out of the pillar.",
    ),
    "a listed qube that inherits": (
        [("personal", "admin.vm.property.Reset", "netvm", b"")],
        "not accepted: personal: netvm sys-firewall (inherited). 'personal' has no route",
    ),
    "the machine's clock": (
        [("dom0", "admin.property.Set", "clockvm", b"sys-net")],
        "not accepted: clockvm: clockvm sys-net. The pillar says sys-firewall: edit it by hand",
    ),
    "a template with a netvm": (
        [netvm("t-vpn", "sys-firewall")],
        "not accepted: t-vpn: netvm sys-firewall. A template has none: a run takes it off.",
    ),
}


def test_a_vault_of_the_layout_is_none_by_another_key(routed, pillar, tmp_path, capsys):
    """R09, R10. There are no vaults to take it out of."""
    pillar.write_text(TEXT.replace("vaults: [vault]", "layout: {vault: {}}"))
    routed.call(*netvm("vault", "sys-firewall"))
    assert adopt(routed, pillar, tmp_path) == 1
    assert "If it is none: write layout.vault.vault: false." in capsys.readouterr().out


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_accepted_is_said(what, routed, pillar, tmp_path, capsys):
    calls, sentence = REFUSED[what]
    for call in calls:
        routed.call(*call)
    assert adopt(routed, pillar, tmp_path) == 1
    shown = capsys.readouterr().out
    assert sentence in shown
    assert all(line.startswith("not accepted: ") for line in lines(shown))
    assert len(lines(shown)) == (2 if what == "a default in clear" else 1)  # and its default-dvm
    assert pillar.read_text() == TEXT


def test_outside_needs_the_users_word(routed, pillar, tmp_path, capsys):
    """R05. And a netvm that the pillar does not know is not taken in by it either."""
    routed.call(*netvm("work", "sys-firewall-novpn"))
    assert adopt(routed, pillar, tmp_path, "--outside") == 0
    text = pillar.read_text()
    assert "      work: sys-firewall-novpn  # the office\n" in text
    assert "  outside_vpn: [untrusted, work]  # on purpose\n" in text
    assert left(routed, pillar, tmp_path, capsys) == []
    routed.call("dom0", "admin.vm.Create.AppVM", "", b"name=my-vpn label=red")
    routed.call(*prop("my-vpn", "provides_network", "True"))
    routed.call(*netvm("work", "my-vpn"))
    assert adopt(routed, pillar, tmp_path, "--outside") == 1
    assert "there is no tunnel, resolver or firewall 'my-vpn'" in capsys.readouterr().out
    assert pillar.read_text() == text


def test_only_some_and_some_not(routed, pillar, tmp_path, capsys):
    """One that is not accepted does not keep the others back."""
    for call in (netvm("work", "sys-vpn"), netvm("vault", "sys-vpn"), netvm("personal", "sys-dns")):
        routed.call(*call)
    assert adopt(routed, pillar, tmp_path, "--only", "work", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["accepted"] == [{"qube": "work", "what": "netvm sys-vpn"}]
    assert (answer["refused"], answer["changed"], answer["written"]) == ([], True, True)
    assert "personal: sys-firewall\n" in pillar.read_text()
    assert adopt(routed, pillar, tmp_path, "--json", "--dry-run") == 1
    answer = json.loads(capsys.readouterr().out)
    assert [each["qube"] for each in answer["accepted"]] == ["personal"]
    assert [each["qube"] for each in answer["refused"]] == ["vault"]
    assert (answer["changed"], answer["written"]) == (True, False)
    assert adopt(routed, pillar, tmp_path) == 1
    assert left(routed, pillar, tmp_path, capsys) == ["vault -> none"]
    assert adopt(routed, pillar, tmp_path, "--only", "nobody") == 2
    assert "there is no qube 'nobody'" in capsys.readouterr().err


def test_nothing_is_different(routed, pillar, tmp_path, capsys):
    assert adopt(routed, pillar, tmp_path) == 0
    assert (
        capsys.readouterr().out == f"{pillar}: the machine is as it says, as far as it can say it\n"
    )
    assert pillar.read_text() == TEXT


def test_a_pillar_with_problems_stays_as_it_is(routed, pillar, tmp_path, capsys):
    routed.call(*netvm("work", "sys-vpn"))
    text = TEXT.replace("wireguard", "wiregard")
    pillar.write_text(text)
    assert adopt(routed, pillar, tmp_path) == 2
    assert "Did you mean 'wireguard'?" in capsys.readouterr().out
    assert pillar.read_text() == text


@pytest.mark.parametrize("seed", range(4))
def test_what_is_accepted_is_done_with(seed, routed, pillar, tmp_path, capsys):
    """R15. Whatever was done by hand: the plan then names none of what was accepted."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    ways = ["", "sys-net", "sys-vpn", "sys-dns", "sys-firewall", "sys-firewall-novpn"]
    for name in ("work", "personal", "untrusted", "vault", "sys-dns"):
        try:
            routed.call(*netvm(name, chance.choice(ways)))
        except AdminError:
            continue
    routed.call(*rules("personal", *chance.sample([WEB, DNS, A, B], 3), DROP))
    routed.call(*rules("sys-vpn", *chance.sample([A, B, WEB], 2), DROP))
    default = ("dom0", "admin.property.Set", "default_netvm", chance.choice(ways).encode())
    routed.call(*default)
    adopt(routed, pillar, tmp_path, "--outside", "--json")
    answer = json.loads(capsys.readouterr().out)
    assert answer["accepted"] != []
    again = adopt(routed, pillar, tmp_path, "--outside", "--json")
    second = json.loads(capsys.readouterr().out)
    assert (second["accepted"], second["refused"]) == ([], answer["refused"])
    assert again == (1 if answer["refused"] else 0)
    if not answer["refused"]:
        assert left(routed, pillar, tmp_path, capsys) == []
