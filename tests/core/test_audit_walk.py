# SPDX-License-Identifier: GPL-2.0-or-later
"""What the audit says can leave in clear is what leaves when every packet is sent (R93)."""

import random

import pytest

import qubes_vpn_audit
from qubes_vpn_audit_flow import Flow
from qubes_vpn_audit_view import View

from .audit_machines import Machine
from .packet_walk import World

MACHINES = 200
NETWORKS = ("0.0.0.0/0", "198.51.100.0/24", "198.51.100.0/25", "203.0.113.7/32", "2001:db8::/32")
PORTS = ("53-53", "443-443", "50-60", "0-65535", "54-65535")
#: Just inside and outside of all of them.
ADDRESSES = (
    *("0.0.0.1", "198.51.99.255", "198.51.100.0", "198.51.100.128", "198.51.101.0"),
    *("203.0.113.6", "203.0.113.7", "203.0.113.8", "::", "2001:db8::", "2001:db9::"),
)
EACH_PORT = (0, 8, 49, 50, 53, 54, 61, 443, 444, 65535)


def any_rule(dice):
    rule = f"action={dice.choice(['accept', 'accept', 'drop'])}"
    what = dice.choice(["net", "net", "host", "dns", "any"])
    if what == "net":
        network = dice.choice(NETWORKS)
        rule += f" dst{6 if ':' in network else 4}={network}"
    elif what == "host":
        rule += " dsthost=a.example"
    elif what == "dns":
        return f"{rule} specialtarget=dns"
    protocol = dice.choice(["tcp", "udp", "icmp", None])
    if protocol:
        rule += f" proto={protocol}"
    if protocol in ("tcp", "udp") and dice.random() < 0.6:
        rule += f" dstports={dice.choice(PORTS)}"
    if protocol == "icmp" and dice.random() < 0.3:
        rule += " icmptype=8"
    if dice.random() < 0.1:
        rule += " expire=1999999999"
    return rule


def any_list(dice):
    if dice.random() < 0.5:
        return ["action=accept"]
    return [any_rule(dice) for _ in range(dice.randint(1, 4))]


def any_machine(number):
    """Any wiring, lists, roles and policy."""
    dice = random.Random(number)  # noqa: S311 - to be repeated, not to be secret
    made = Machine()
    for template in ("debian", "bare"):
        runs = {"qubes-firewall": "1"} if template == "debian" else {}
        made.add(template, "TemplateVM", features=runs)
    made.add("whonix", "TemplateVM", tags=["whonix-updatevm"])
    carriers = ["sys-net", *(f"carrier{each}" for each in range(dice.randint(1, 6)))]
    for place, name in enumerate(carriers):
        features = {}
        if place and dice.random() < 0.4:
            features[dice.choice(["service.qubes-vpn", "service.qubes-vpn-dns"])] = "1"
        if dice.random() < 0.1:
            features["service.qubes-firewall"] = ""
        made.add(
            name,
            template=dice.choice(["debian", "debian", "bare"]),
            netvm=dice.choice([*carriers[:place], None])
            if dice.random() < 0.3
            else (carriers[dice.randrange(place)] if place else None),
            provides_network=dice.random() < 0.95,
            features=features,
            tags=["anon-gateway"] if place and dice.random() < 0.1 else [],
            rules=any_list(dice),
        )
    bases = [f"dvm{each}" for each in range(2)]
    for name in [*bases, *(f"client{each}" for each in range(dice.randint(2, 6)))]:
        klass = dice.choice(["AppVM", "AppVM", "DispVM", "StandaloneVM"])
        made.add(
            name,
            "AppVM" if name in bases else klass,
            "dvm0" if klass == "DispVM" and name not in bases else "debian",
            netvm=dice.choice([*carriers, None]),
            template_for_dispvms=name in bases,
            default_dispvm=dice.choice([*bases, None]),
            rules=any_list(dice),
        )
    for key in ("default_netvm", "updatevm", "clockvm"):
        made.named(key, dice.choice([*carriers, None]))
    sources = ["@type:TemplateVM", "@type:AppVM", "@anyvm", "client0", "@tag:whonix-updatevm"]
    return made.policy(
        *(
            f"qubes.UpdatesProxy * {dice.choice(sources)} "
            + dice.choice(["@default", "@default", "@anyvm", carriers[0], "@type:AppVM"])
            + dice.choice([" deny", " allow", *(f" allow target={each}" for each in carriers)])
            for _ in range(dice.randint(0, 3))
        )
    )


#: The rules that name who sends in clear.
TELLING = {"A101", "A105", "A106", "A112"}


@pytest.mark.parametrize("hundred", range(MACHINES // 100))
def test_the_audit_agrees_with_every_packet_sent(hundred):
    told = dict.fromkeys(("packets", "names", "disposable", "fetched", "closed"), 0)
    for number in range(100 * hundred, 100 * hundred + 100):
        machine = any_machine(number)
        world = World(machine.data, ADDRESSES, EACH_PORT)
        flow = Flow(View(machine.data))
        everyone = [name for name in machine.data["qubes"] if name != "dom0"]
        for name in everyone:
            leaves = world.leaves(name)
            assert set(flow.all(name)) == leaves, (number, name)
            for kind in leaves or ["closed"]:
                told[kind] += 1
        report = qubes_vpn_audit.audit(machine.data)
        named = {each.qube for each in report.findings if each.rule.id in TELLING}
        leaking = {name for name in everyone if world.sent(name)}
        ends = {name for name in leaking if world.is_uplink(name)}
        assert leaking - ends == named - ends, number
        assert {each.qube for each in report.findings if each.rule.id == "A301"} == {
            server
            for name in everyone
            if machine.data["qubes"][name]["class"] == "TemplateVM"
            for server in world.updated_by(name)
            if world.sent(server)
        }
    assert min(told.values()) > 100, told
