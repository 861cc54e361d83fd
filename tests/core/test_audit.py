# SPDX-License-Identifier: GPL-2.0-or-later
"""Each rule of the audit, on a machine that breaks it and on one that does not (R93)."""

import copy
import datetime

import pytest

import qubes_vpn_audit
import qubes_vpn_finding
import qubes_vpn_model

from .audit_machines import ACCEPT, DROP, ENDPOINT, PILLAR, TAKEN, well


def novpn(machine, **more):
    """A second firewall, past the VPN."""
    return machine.add("fw-clear", netvm="sys-net", provides_network=True, **more)


def _up_for(machine, name, days):
    taken = datetime.datetime.fromisoformat(TAKEN).timestamp()
    return machine.set(name, "start_time", f"{taken - days * 86400 - 1:.2f}", inherited=True)


#: Within an hour after the inventories here are taken, and long over.
OVER = "1772365500"


def portal(machine, until=OVER, ours=True):
    """An open bypass, or another disposable of its name."""
    uuid = "12345678-1234-1234-1234-123456789abc"
    machine.feature("dom0", "x-qubes-vpn-bypass.portal", f"{uuid} {until}".strip())
    machine.add("portal", "DispVM", "dvm", "sys-net")
    if ours:
        machine.data["qubes"]["portal"]["bypass"] = uuid
    return machine


#: rule -> (what spoils the machine, whom it is found at).  Each machine breaks more than one rule;
#: the least that breaks it is done, and nothing else.
SPOILT = {
    "A101": (lambda m: m.set("work", "netvm", "sys-net"), ["work"]),
    "A102": (lambda m: m.named("default_netvm", "sys-net"), ["dom0"]),
    "A103": (lambda m: m.set("vault", "netvm", None, inherited=True), ["vault"]),
    "A104": (
        lambda m: m.set("sys-firewall", "provides_network", False),
        [
            "disp1",
            "dvm",
            "sys-whonix",
            "work",
        ],
    ),
    "A105": (lambda m: m.add("modem", provides_network=True, label="red"), ["modem", "sys-net"]),
    "A106": (lambda m: m.set("dvm", "netvm", "sys-net"), ["dvm"]),
    "A107": (lambda m: m.set("dvm", "netvm", "sys-net"), ["disp1", "work"]),
    "A108": (lambda m: m.set("dvm", "netvm", "sys-net"), ["disp1"]),
    "A109": (
        lambda m: m.set("disp1", "is_preload", True).set("disp1", "netvm", "sys-dns"),
        ["disp1"],
    ),
    "A110": (lambda m: m.feature("work", "deferred-netvm-original", "sys-net"), ["work"]),
    "A203": (
        lambda m: m.rules("sys-vpn", ENDPOINT, f"{ACCEPT} proto=tcp dstports=443-443"),
        ["sys-vpn"],
    ),
    "A204": (lambda m: m.rules("sys-vpn", f"{ACCEPT} dsthost=vpn.example proto=udp"), ["sys-vpn"]),
    "A205": (lambda m: m.feature("sys-net", "service.qubes-firewall", ""), ["sys-vpn"]),
    "A206": (
        lambda m: m.feature("sys-firewall", "service.qubes-firewall", "").rules("work", DROP),
        ["work"],
    ),
    "A207": (lambda m: m.rules("work", f"{ACCEPT} dsthost=a.example", DROP), ["work"]),
    "A208": (
        lambda m: (
            novpn(m).rules("work", f"{ACCEPT} dsthost=a.b", DROP).set("work", "netvm", "fw-clear")
        ),
        ["work"],
    ),
    "A209": (lambda m: novpn(m).set("sys-vpn", "netvm", "fw-clear"), ["fw-clear"]),
    "A210": (lambda m: m.feature("sys-vpn", "service.qubes-vpn-dns", "1"), ["sys-vpn"]),
    "A211": (lambda m: m.feature("sys-dns", "service.custom-persist", "1"), ["sys-dns"]),
    "A212": (lambda m: m.feature("work", "ipv6", "1"), ["sys-vpn"]),
    "A213": (
        lambda m: m.rules("work", f"{ACCEPT} dst4=192.0.2.1/32 proto=tcp").set(
            "work", "netvm", "sys-vpn"
        ),
        ["work"],
    ),
    "A214": (lambda m: m.set("sys-vpn", "maxmem", 200), ["sys-vpn"]),
    "A301": (
        lambda m: m.policy("qubes.UpdatesProxy * @type:TemplateVM @default allow target=sys-net"),
        ["sys-net"],
    ),
    "A302": (lambda m: m.policy("qubes.UpdatesProxy * @anyvm sys-net allow"), ["sys-net"]),
    "A303": (
        lambda m: m.policy("qubes.UpdatesProxy * @type:TemplateVM @default allow target=vault"),
        ["vault"],
    ),
    "A304": (lambda m: m.named("updatevm", "sys-net"), ["sys-net"]),
    "A305": (lambda m: m.named("clockvm", "sys-net"), ["sys-net"]),
    "A306": (lambda m: m.feature("sys-net", "service.clocksync", "1"), ["sys-net"]),
    "A309": (lambda m: m.set("anon", "netvm", "sys-firewall"), ["anon"]),
    "A310": (
        lambda m: m.policy("qubes.UpdatesProxy * @type:TemplateVM @default allow target=work"),
        ["whonix-ws"],
    ),
    "A311": (lambda m: m.set("mgmt", "netvm", "sys-firewall"), ["mgmt"]),
    "A312": (
        lambda m: m.policy("qubes-vpn.Switch +x work sys-vpn ask default_target=sys-vpn"),
        ["sys-vpn"],
    ),
    "A314": (lambda m: portal(m), ["portal"]),
    "A401": (lambda m: m.set("vault", "netvm", "sys-firewall"), ["vault"]),
    "A402": (lambda m: m.set("vault", "default_dispvm", "dvm"), ["vault"]),
    "A308": (lambda m: None, ["sys-whonix"]),
    "A403": (lambda m: m.set("debian", "netvm", "sys-firewall"), ["debian"]),
    "A404": (lambda m: m.set("t-vpn", "netvm", "sys-firewall"), ["t-vpn"]),
    "A405": (lambda m: m.set("work", "template", "t-vpn"), ["t-vpn"]),
    "A406": (lambda m: m.set("work", "template", "t-dns"), ["t-dns"]),
    "A407": (
        lambda m: (
            m.add("vpn-dvm", template="t-vpn", template_for_dispvms=True)
            .add(
                "vpn-2", "DispVM", "vpn-dvm", features={"service.qubes-vpn": "1"}, rules=[ENDPOINT]
            )
            .set("work", "default_dispvm", "vpn-dvm")
        ),
        ["work"],
    ),
    "A408": (lambda m: m.set("sys-net", "label", "black"), ["sys-net"]),
    "A409": (lambda m: m.named("default_dispvm", None), ["dom0"]),
    "A410": (lambda m: m.feature("debian", "updates-available", "1"), ["debian"]),
    "A411": (lambda m: m.set("sys-firewall", "template_for_dispvms", True), ["sys-firewall"]),
    "A412": (
        lambda m: m.no_feature("debian", "last-updates-check").feature(
            "dom0", "last-updates-check", "2026-02-20 12:00:00"
        ),
        ["debian", "dom0"],
    ),
    "A413": (lambda m: _up_for(m, "sys-net", days=31), ["sys-net"]),
}

#: Rules that look at the pillar too: rule -> (machine, pillar, whom it is found at).
SPOILT_WITH_PILLAR = {
    "A111": (
        lambda m: novpn(m).set("work", "netvm", "fw-clear"),
        lambda p: (
            p["firewalls"].update({"fw-clear": {"upstream": "sys-net"}})
            or p.update(outside_vpn=["work"])
            or p["routes"]["qubes"].update(work="fw-clear")
        ),
        ["work"],
    ),
    "A112": (
        novpn,
        lambda p: p["firewalls"].update({"fw-clear": {"upstream": "sys-net"}}),
        ["fw-clear"],
    ),
    "A313": (
        lambda m: m.policy(
            "qubes.UpdatesProxy * @type:TemplateVM @default allow target=sys-net"
        ).named("updatevm", "sys-net"),
        lambda p: p.update(
            updates={
                "templates": "sys-net",
                "dom0": "sys-net",
                "outside_vpn": ["templates", "dom0"],
            }
        ),
        ["sys-net", "sys-net"],
    ),
    "A201": (lambda m: m.no_feature("sys-vpn", "service.qubes-vpn"), lambda p: None, ["sys-vpn"]),
    "A202": (
        lambda m: m.no_feature("sys-dns", "service.qubes-vpn-dns"),
        lambda p: None,
        ["sys-dns"],
    ),
    "A215": (
        lambda m: m.add("sys-other", netvm="sys-net", features={"service.qubes-vpn": "1"}).set(
            "work", "netvm", "sys-other"
        ),
        lambda p: None,
        ["sys-other"],
    ),
    "A603": (
        lambda m: m.add("sys-other", netvm="sys-net", features={"service.qubes-vpn": "1"}),
        lambda p: None,
        ["sys-other"],
    ),
    "A307": (lambda m: m.set("sys-whonix", "netvm", "sys-net"), lambda p: None, ["sys-whonix"]),
    "A601": (lambda m: m.set("sys-dns", "netvm", "sys-net"), lambda p: None, ["sys-dns"]),
    "A602": (lambda m: m.set("work", "netvm", "sys-vpn"), lambda p: None, ["work"]),
    "A501": (lambda m: None, lambda p: p.update(layout={"mail": {"label": "red"}}), ["mail"]),
    "A502": (lambda m: None, lambda p: p.update(layout={"work": {"label": "red"}}), ["work"]),
    "A503": (
        lambda m: m.set("work", "netvm", "sys-dns"),
        lambda p: p.update(layout={"work": {}}),
        ["work"],
    ),
    "A504": (
        lambda m: m.rules("work", DROP),
        lambda p: p.update(layout={"work": {"allowlist": ["203.0.113.9:443/tcp"]}}),
        ["work"],
    ),
    "A505": (
        lambda m: m.add("banking", netvm="sys-firewall", label="green"),
        lambda p: p.update(layout={"banking": {"netvm": "sys-firewall"}}),
        ["banking"],
    ),
    "A506": (
        lambda m: m.add("comms", netvm="sys-firewall", label="purple"),
        lambda p: p.update(whonix_gateway="tor-gw", whonix="unmanaged", layout={"comms": {}}),
        ["comms"],
    ),
    "A507": (
        lambda m: (
            m.add("banking", netvm="fw", label="green")
            .add("fw", netvm="sys-firewall", provides_network=True)
            .set("work", "netvm", "fw")
        ),
        lambda p: p.update(layout={"banking": {"firewall": "fw", "allowlist": ["dns"]}}),
        ["work"],
    ),
    "A901": (
        lambda m: None,
        lambda p: p.update(audit={"exceptions": [_exception("A101", "work")]}),
        ["work"],
    ),
}
#: Found where there is no pillar to say what is wanted.
ALWAYS = {"A308"}


def _exception(rule, qube):
    return {"rule": rule, "qube": qube, "reason": "known and wanted"}


def model(change=lambda pillar: None):
    pillar = {**copy.deepcopy(PILLAR), "firewalls": {"sys-firewall": {}}}
    change(pillar)
    return qubes_vpn_model.build(pillar)


def found(report, rule):
    return [each.qube for each in report.findings if each.rule.id == rule]


def test_a_machine_on_which_all_is_well_has_no_finding():
    for promised in (None, model()):
        report = qubes_vpn_audit.audit(well().data, promised)
        assert {each.rule.id for each in report.findings} == (set() if promised else ALWAYS)
        assert report.unknown == ()
        assert qubes_vpn_finding.exit_code(report) == 0


@pytest.mark.parametrize("rule", SPOILT)
def test_each_rule_finds_what_breaks_it(rule):
    spoil, where = SPOILT[rule]
    machine = well()
    spoil(machine)
    assert found(qubes_vpn_audit.audit(machine.data), rule) == where


@pytest.mark.parametrize("rule", SPOILT_WITH_PILLAR)
def test_each_rule_about_the_pillar_finds_what_breaks_it(rule):
    spoil, change, where = SPOILT_WITH_PILLAR[rule]
    machine = well()
    spoil(machine)
    assert found(qubes_vpn_audit.audit(machine.data, model(change)), rule) == where


def details(machine, promised, rule):
    report = qubes_vpn_audit.audit(machine.data, promised)
    return {each.qube: each.detail for each in report.findings if each.rule.id == rule}


def multihop():
    """A machine wired so, and its pillar."""
    service = {"features": {"service.qubes-vpn": "1"}, "rules": [ENDPOINT, DROP]}
    machine = well().add("entry", netvm="sys-net", provides_network=True, **service)
    tunnels = {
        **PILLAR["tunnels"],
        "entry": {**PILLAR["tunnels"]["sys-vpn"], "upstream": "sys-net"},
    }
    machine.set("sys-vpn", "netvm", "entry")
    return machine, model(lambda p: p.update(topology="multihop", tunnels=tunnels))


def test_who_goes_past_one_of_two_tunnels():
    """R88: and what somebody sees by that."""
    machine, promised = multihop()
    assert details(machine, promised, "A602") == {}
    assert details(machine, promised, "A601") == {}
    machine.set("work", "netvm", "entry")
    way = "entry -> sys-net, past sys-firewall, sys-dns, sys-vpn"
    more = "the VPN provider of entry: where you go, the names asked for"
    assert details(machine, promised, "A602") == {"work": f"{way}; {more}"}


def test_tunnels_in_another_order_than_the_pillars():
    """R88: nobody is past one, and each provider sees what is the other's."""
    machine, promised = multihop()
    machine.set("entry", "netvm", "sys-vpn").set("sys-vpn", "netvm", "sys-net")
    machine.set("sys-dns", "netvm", "entry")
    assert details(machine, promised, "A601") == {
        "entry": "its netvm is sys-vpn; the pillar says sys-net",
        "sys-dns": "its netvm is entry; the pillar says sys-vpn",
        "sys-vpn": "its netvm is sys-net; the pillar says entry",
    }
    found = details(machine, promised, "A602")["work"]
    assert "in another order than the pillar's" in found
    assert "the VPN provider of sys-vpn: your line's address; " in found
    assert found.endswith("the VPN provider of entry: where you go")


def test_what_is_left_over_says_whether_it_would_log_in():
    """R88. A603 where nobody hangs on it; else it is a VPN qube that nobody vouches for (A215)."""
    machine, _ = multihop()
    machine.set("sys-vpn", "netvm", "sys-net").set("entry", "autostart", True)
    assert details(machine, model(), "A603") == {
        "entry": "it is there, and nobody hangs on it; it starts with the machine"
    }
    assert details(machine, model(), "A215") == {}
    machine.set("work", "netvm", "entry")
    assert details(machine, model(), "A603") == {}
    assert [*details(machine, model(), "A215")] == ["entry"]


def test_tor_where_the_topology_does_not_have_it():
    """R88: Whonix' gateway past the VPN; its clients are past it with it."""
    machine = well().set("sys-whonix", "netvm", "sys-net").set("work", "netvm", "sys-whonix")
    promised = model(
        lambda p: (
            p.pop("whonix")
            and p.update(topology="tor-over-vpn", routes={"qubes": {"work": "sys-whonix"}})
        )
    )
    assert details(machine, promised, "A601")["sys-whonix"] == (
        "its netvm is sys-net; the pillar says sys-firewall"
    )
    assert details(machine, promised, "A307") == {
        "sys-whonix": "it is past every VPN qube; by the pillar it is behind them"
    }
    assert details(machine, promised, "A602") == {
        "work": "sys-whonix -> sys-net, past sys-firewall, sys-vpn; "
        "your line and its provider: that Tor is used; Tor's first relay: your line's address"
    }


def test_who_heeds_no_list_is_not_told_to_have_one():
    """R88: a firewall between the VPN and Tor; Whonix' gateway heeds no lists."""
    machine = well().add("fw-tor", netvm="sys-whonix", provides_network=True)
    machine.set("sys-whonix", "netvm", "sys-net").set("sys-vpn", "netvm", "fw-tor")
    machine.set("sys-firewall", "netvm", "sys-vpn")
    assert found(qubes_vpn_audit.audit(machine.data), "A209") == []


def test_every_rule_has_its_machine_and_an_id_of_its_own():
    ids = [rule.id for rule in qubes_vpn_audit.RULES]
    assert sorted(ids) == sorted({*SPOILT, *SPOILT_WITH_PILLAR})
    for rule in qubes_vpn_audit.RULES:
        assert rule.severity in qubes_vpn_finding.SEVERITIES
        assert rule.reason.endswith(".")
        assert rule.fix.endswith(".")
        assert not rule.title.endswith(".")


@pytest.mark.parametrize("rule", ["A502", "A503", "A504", "A505", "A506", "A507"])
def test_a_layout_that_is_held_has_no_finding(rule):
    """R10, R11. The list in qubesd's order of words, and with a comment."""
    listed = "action=accept proto=tcp dst4=203.0.113.9/32 dstports=443-443 comment=x"
    machine = well().rules("work", listed, DROP).set("vault", "default_dispvm", None)
    machine.add("banking", label="green").add("comms", netvm="sys-whonix", label="purple")
    machine.add("fw", netvm="sys-firewall", provides_network=True).set("work", "netvm", "fw")

    def change(pillar):
        work = {"allowlist": ["203.0.113.9:443/tcp"], "firewall": "fw"}
        del pillar["routes"]["qubes"]["work"]
        pillar["layout"] = {"work": work, "banking": {}, "comms": {}, "vault": {}}

    assert found(qubes_vpn_audit.audit(machine.data, model(change)), rule) == []


def test_an_uplink_with_the_service_of_a_vpn_qube_is_told():
    machine = well().feature("sys-net", "service.qubes-vpn", "1")
    assert found(qubes_vpn_audit.audit(machine.data, model()), "A215") == ["sys-net"]


def test_a_named_disposable_keeps_its_netvm():
    machine = well().set("dvm", "netvm", "sys-net").set("disp1", "auto_cleanup", False)
    assert found(qubes_vpn_audit.audit(machine.data), "A108") == []


@pytest.mark.parametrize("comment", ["", " comment=as made"])
def test_a_list_that_lets_all_through_is_none(comment):
    machine = well().feature("sys-firewall", "service.qubes-firewall", "")
    machine.rules("work", ACCEPT + comment)
    assert found(qubes_vpn_audit.audit(machine.data), "A206") == []
    machine = novpn(well()).set("sys-vpn", "netvm", "fw-clear").rules("fw-clear", ACCEPT + comment)
    assert found(qubes_vpn_audit.audit(machine.data), "A209") == ["fw-clear"]


def test_policy_by_a_tag_is_followed_and_not_guessed():
    rule = "qubes.UpdatesProxy * @tag:dev @default allow target=sys-net"
    machine = well().policy(rule)
    assert found(qubes_vpn_audit.audit(machine.data), "A302") == []
    machine.tag("work", "dev")
    assert found(qubes_vpn_audit.audit(machine.data), "A302") == ["sys-net"]
    machine.data["more"].remove("tags of policy")
    unknown = qubes_vpn_audit.audit(machine.data).unknown
    assert {"A301", "A302"} <= {each.id for each, _ in unknown}


def test_the_order_of_tor_and_vpn_is_told():
    machine = well()
    report = qubes_vpn_audit.audit(machine.data)
    details = {each.rule.id: each.detail for each in report.findings}
    way = "sys-whonix -> sys-firewall -> sys-dns -> sys-vpn -> sys-net"
    said = f"the VPN provider sees that Tor is used: {way}; behind it: anon"
    assert details["A308"] == said
    machine.set("sys-whonix", "netvm", "sys-net").set("anon", "netvm", None)
    report = qubes_vpn_audit.audit(machine.data)
    details = {each.rule.id: each.detail for each in report.findings}
    assert details["A308"] == (
        "the provider of the line sees that Tor is used: sys-whonix -> sys-net; nobody is behind it"
    )
    machine = well()
    undecided = model(lambda pillar: pillar.pop("whonix"))
    assert found(qubes_vpn_audit.audit(machine.data, undecided), "A308") == ["sys-whonix"]
    assert found(qubes_vpn_audit.audit(machine.data, model()), "A308") == []
    machine.set("sys-whonix", "netvm", None)
    assert found(qubes_vpn_audit.audit(machine.data), "A308") == []


def test_a_template_in_clear_is_as_bad_as_any_qube_in_clear():
    """R13. Online behind the VPN it is bad enough: what gets in is in every qube of it."""
    machine = well().set("debian", "netvm", "sys-firewall")
    worst = qubes_vpn_audit.audit(machine.data).findings[0]
    assert (worst.rule.id, worst.rule.severity, worst.qube) == ("A403", "high", "debian")
    machine.set("debian", "netvm", "sys-net")
    worst = qubes_vpn_audit.audit(machine.data).findings[0]
    assert (worst.rule.id, worst.rule.severity, worst.qube) == ("A101", "critical", "debian")


def test_an_exception_takes_a_finding_out_and_is_told_with_its_reason():
    machine = well().set("vault", "default_dispvm", "dvm")
    promised = model(lambda p: p.update(audit={"exceptions": [_exception("A402", "vault")]}))
    report = qubes_vpn_audit.audit(machine.data, promised)
    assert found(report, "A402") == []
    assert [(each.rule.id, why) for each, why in report.excepted] == [("A402", "known and wanted")]
    assert "EXCEPTED  A402  vault" in qubes_vpn_finding.text(report)


def test_an_exception_needs_a_reason():
    document = {**PILLAR, "audit": {"exceptions": [{"rule": "A402", "qube": "vault"}]}}
    _, problems = qubes_vpn_model.read(document)
    assert [problem.text() for problem in problems] == [
        "pillar: qubes_vpn.audit.exceptions[0].reason: missing. Add it, as in pillar.example."
    ]
    for reason in ("", "  ", 7, "x" * 201, "a\nb"):
        document["audit"]["exceptions"][0]["reason"] = reason
        _, problems = qubes_vpn_model.read(document)
        assert problems[0].what.endswith("is no reason")


def test_an_inventory_that_is_too_old_is_said_and_no_rule_passes_by_it():
    machine = well()
    del machine.data["more"]
    report = qubes_vpn_audit.audit(machine.data)
    assert {rule.id for rule, _ in report.unknown} == {
        *("A211", "A212", "A312", "A410", "A412", "A413")
    }
    assert all("is not in this inventory" in why for _, why in report.unknown)


@pytest.mark.parametrize(
    ("until", "said"),
    [
        (OVER, "until 2026-03-01 12:45, which is over"),
        (str(int(OVER) + 10**9), "until 2057-11-07 14:31"),
        ("", "for a time that is not known"),
        ("99999999999", "until 5138-11-16 10:46"),
    ],
)
def test_a_bypass_is_told_with_its_end_by_dom0s_clock(until, said):
    """Also in an inventory of another day."""
    (detail,) = details(portal(well(), until), model(), "A314").values()
    assert detail == f"it is halted, and may go past the VPN {said}"


def test_another_disposable_of_a_bypass_name_is_none():
    """Where the inventory is too old to say so, it counts as one."""
    machine = portal(well(), ours=False)
    assert found(qubes_vpn_audit.audit(machine.data), "A314") == []
    machine.data["more"].remove("bypass")
    assert found(qubes_vpn_audit.audit(machine.data), "A314") == ["portal"]


def test_a_policy_that_cannot_be_read_is_said():
    report = qubes_vpn_audit.audit(well().policy("!not-readable").data)
    assert {"A301", "A302", "A303", "A310"} <= {rule.id for rule, _ in report.unknown}
    assert "dom0's qrexec policy is not understood" in report.unknown[0][1]


def test_a_vpn_qube_without_its_killswitch_shelters_nobody():
    """R41. Whatever the pillar calls it."""
    machine = well().no_feature("sys-vpn", "service.qubes-vpn")
    assert "work" in found(qubes_vpn_audit.audit(machine.data, model()), "A101")


def test_a_list_that_lets_nothing_through_keeps_a_qube_offline():
    machine = well().set("work", "netvm", "sys-net").rules("work", DROP)
    assert found(qubes_vpn_audit.audit(machine.data), "A101") == []
    machine.feature("sys-net", "service.qubes-firewall", "")
    assert found(qubes_vpn_audit.audit(machine.data), "A101") == ["work"]


def test_names_that_a_resolver_in_clear_asks_are_found():
    """R51. The qube itself may send nothing else."""
    machine = well().set("sys-dns", "netvm", "sys-net").rules("work", f"{ACCEPT} specialtarget=dns")
    report = qubes_vpn_audit.audit(machine.data)
    details = {each.qube: each.detail for each in report.findings if each.rule.id == "A101"}
    assert details["work"] == "DNS by sys-firewall, sys-dns, sys-net"
