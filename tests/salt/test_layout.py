# SPDX-License-Identifier: GPL-2.0-or-later
"""qubes.layout with the canonical qubes, where four of them are and no Whonix (R10, R11).

On the fresh machine vault is offline; personal, work and untrusted inherit sys-firewall; banking
and comms are not there.
"""

import itertools
import json

import pytest
from pillars import CANONICAL, WIREGUARD
from snapshots import compared, in_clear, netvms, own
from test_undo import refused, same, without_made

MADE = ("banking", "comms", "sys-firewall-bank")
ADOPTED = ("vault", "personal", "work", "untrusted")
WIRED = {
    "vault": None,
    "personal": "sys-firewall",
    "work": "sys-firewall",
    "banking": "sys-firewall-bank",
    "comms": "sys-firewall",
    "untrusted": "sys-firewall",
    "sys-firewall-bank": "sys-firewall",
}


def gateway(embedded):
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-whonix label=black")
    embedded.call("sys-whonix", "admin.vm.property.Set", "provides_network", b"True")


def wired(embedded):
    has = netvms(embedded.snapshot())
    return {name: has[name] for name in WIRED}


def kept(snapshot, name):
    """What is the user's of a qube: all but its netvm and its firewall list."""
    qube = compared(snapshot)["qubes"][name]
    return {**qube, "rules": None, "properties": {**own(snapshot, name), "netvm": None}}


def test_the_canonical_qubes_by_a_real_salt(salt_call, states, embedded):
    """R09, R10, R11. Dry run, run and second run; who is there keeps what it has, and is told."""
    assert refused(states.run(CANONICAL)) == []
    before = embedded.snapshot()
    embedded.forget_calls()

    dry = salt_call("state.sls", "qubes.layout", "test=True", pillar=CANONICAL)
    assert dry.returncode == 0, dry.stdout
    assert embedded.writes() == []
    real = salt_call("state.sls", "qubes.layout")
    assert real.returncode == 0, real.stdout
    assert [each["changes"] for each in real.data.values()] == [
        each["changes"] for each in dry.data.values()
    ]
    assert wired(embedded) == WIRED
    after = embedded.snapshot()
    for name in ADOPTED:
        assert kept(after, name) == kept(before, name)
    (said,) = [
        each["comment"] for each in dry.data.values() if each["__id__"] == "said by this run"
    ]
    assert (
        "untrusted exists and keeps what it has: template_for_dispvms False (pillar: True)" in said
    )
    assert "There is no sys-whonix, so comms hangs on sys-firewall: not Tor, the VPN." in said
    assert own(after, "comms")["label"] == "purple"
    assert after["qubes"]["banking"]["rules"] == [
        "action=accept dsthost=bank.example proto=tcp dstports=443-443",
        "action=accept specialtarget=dns",
        "action=drop",
    ]
    embedded.forget_calls()
    again = salt_call("state.sls", "qubes.layout")
    assert [each["changes"] for each in again.data.values() if each["changes"]] == []
    assert embedded.writes() == []


def test_nobody_is_in_clear_at_any_write(states, embedded, after_each_write):
    """R10, R11. From the fresh machine on: out is who was, and banking never without its list."""
    before = in_clear(embedded.snapshot())
    assert {"personal", "work", "untrusted"} <= before
    for part in ("network", "layout"):
        assert refused(states.run(CANONICAL, part)) == []
    # A new qube has the default netvm for the one write that takes it off.
    out = [in_clear(snapshot) - before for snapshot in after_each_write]
    assert [(one, two) for one, two in itertools.pairwise(out) if one and two] == []
    assert out[-1] == set()
    for snapshot in after_each_write:
        if netvms(snapshot).get("banking") == "sys-firewall-bank":
            assert snapshot["qubes"]["banking"]["rules"][-1] == "action=drop"
    assert in_clear(after_each_write[-1]) == set()


def test_tor_when_there_is_a_gateway_and_again_without(states, embedded, modules):
    """R06, R10. comms follows whether there is Whonix; the audit and the doctor ask the same."""
    for part in ("network", "layout"):
        assert refused(states.run(CANONICAL, part)) == []
    assert wired(embedded)["comms"] == "sys-firewall"
    told = modules.qubes_vpn.audit(CANONICAL, format="data")["findings"]
    layout = {(each["rule"], each["qube"]) for each in told if each["rule"].startswith("A5")}
    assert layout == {
        *(("A502", name) for name in ("untrusted", "vault")),
        *(("A506", name) for name in ("comms", "untrusted")),
    }
    gateway(embedded)
    told = modules.qubes_vpn.audit(CANONICAL, format="data")["findings"]
    assert ("A503", "comms") in {(each["rule"], each["qube"]) for each in told}
    assert refused(states.run(CANONICAL)) == []
    assert {wired(embedded)[name] for name in ("comms", "untrusted")} == {"sys-whonix"}
    assert [
        state.changes for state in states.run(CANONICAL, "layout").values() if state.changes
    ] == []


@pytest.mark.parametrize("whonix", [False, True])
def test_undo_takes_the_layout_back(states, embedded, whonix):
    """R10, R15, R92."""
    if whonix:
        gateway(embedded)
    before = same(embedded.snapshot())
    for part in ("network", "layout"):
        assert refused(states.run(CANONICAL, part)) == []
    assert refused(states.undo()) == []
    after = embedded.snapshot()
    assert without_made(same(after), before) == before
    assert {netvms(after)[name] for name in MADE} == {None}
    assert refused(states.undo(remove=True)) == []
    assert same(embedded.snapshot()) == before


def test_an_undo_removes_nobodys_files(states, embedded):
    """R10, R92. What was made and has been used is the user's; what was never used goes."""
    for part in ("network", "layout"):
        assert refused(states.run(CANONICAL, part)) == []
    content = json.loads(embedded.path.read_bytes())
    for name in ("comms", "sys-vpn", "sys-firewall-bank"):  # all were started once
        content["state"]["qubes"][name]["volumes"]["private"]["used"] = 60_000_000
    new = embedded.path.with_name("new")
    new.write_text(json.dumps(content))
    new.replace(embedded.path)
    for test in (True, False):
        done = states.undo(remove=True, test=test)
        assert refused(done) == []
        assert done["comms: removed"].changes == {}
        assert done["comms: removed"].comment == (
            "'comms' was made by the formula, and has somebody's files in it by now: it stays. "
            "If they are not needed: qvm-remove comms."
        )
    left = netvms(embedded.snapshot())
    assert left["comms"] is None
    assert not {"banking", "sys-vpn", "sys-firewall-bank", "t-vpn"} & {*left}


def test_banking_waits_for_its_list(states, embedded):
    """R11. What somebody has made himself is taken offline too, and keeps its list."""
    pillar = {"tunnels": {"sys-vpn": WIREGUARD}, "layout": {"banking": {}}}
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=banking label=green")
    rules = b"action=accept dst4=192.0.2.7/32 proto=tcp dstports=443-443\naction=drop\n"
    embedded.call("banking", "admin.vm.firewall.Set", "", rules)
    said = (
        "banking is offline until layout.banking.allowlist says what it may reach. Its own "
        "firewall list stays as it is, and as an allowlist it is [192.0.2.7:443/tcp]."
    )
    for test in (True, False):
        done = states.run(pillar, test=test)
        assert refused(done) == []
        assert done["banking -> none"].comment.splitlines()[-1] == said
    done = states.run(pillar, "layout")
    assert refused(done) == []
    assert said not in done["banking -> none"].comment  # nothing has changed
    assert netvms(embedded.snapshot())["banking"] is None
    assert embedded.snapshot()["qubes"]["banking"]["rules"] == rules.decode().splitlines()


OWN_LISTS = {
    "none": (b"action=accept\n", ""),
    "all of it can be said": (
        b"action=accept dst6=2001:db8::/64 proto=udp dstports=443-444\n"
        b"action=accept specialtarget=dns\naction=drop\n",
        ' Its own firewall list stays as it is, and as an allowlist it is ["[2001:db8::/64]'
        ':443-444/udp", dns].',
    ),
    "not all of it": (
        b"action=drop dst4=192.0.2.7/32\naction=accept specialtarget=dns\naction=drop\n",
        " Its own firewall list stays as it is.",
    ),
}


@pytest.mark.parametrize("which", OWN_LISTS)
def test_the_own_list_of_who_waits_is_told_as_the_pillar_would_have_it(states, embedded, which):
    """R11."""
    rules, said = OWN_LISTS[which]
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=banking label=green")
    embedded.call("banking", "admin.vm.firewall.Set", "", rules)
    pillar = {"tunnels": {"sys-vpn": WIREGUARD}, "layout": "canonical"}
    told = states.run(pillar, test=True)["banking -> none"].comment.splitlines()[-1]
    assert (
        told == f"banking is offline until layout.banking.allowlist says what it may reach.{said}"
    )


def test_everybodys_disposables_come_with_the_layout(states, embedded):
    """R10, R14. Named when it is there: qubes.layout makes it, after the network."""
    pillar = {**CANONICAL, "layout": {"scratch": {"label": "red", "disposable_template": True}}}
    pillar |= {"default_dispvm": "scratch", "routes": {"qubes": {"scratch": "sys-firewall"}}}
    done = states.run(pillar)
    said = "there is no qube 'scratch' yet; qubes.layout makes it"
    assert done["default_dispvm: scratch"] == (True, {}, said)
    assert refused(states.run(pillar, "layout")) == []
    assert embedded.snapshot()["globals"]["default_dispvm"] == "scratch"


def test_disposables_of_an_adopted_qube_that_makes_none(states, embedded):
    """R10. The fresh machine's untrusted is an ordinary qube: refused before the first write."""
    embedded.forget_calls()
    (said,) = refused(states.run({**CANONICAL, "default_dispvm": "untrusted"}))
    assert said == (
        "'untrusted' is no template for disposables: qvm-prefs untrusted template_for_dispvms true."
    )
    assert embedded.writes() == []
    embedded.call("untrusted", "admin.vm.property.Set", "template_for_dispvms", b"True")
    assert refused(states.run({**CANONICAL, "default_dispvm": "untrusted"})) == []


def test_a_netvm_that_would_not_hold_the_list_is_refused(states, embedded):
    """R11. Before banking gets a netvm at all."""
    states.run(CANONICAL)
    embedded.call("sys-firewall-bank", "admin.vm.feature.Set", "service.qubes-firewall", b"")
    (said,) = refused(states.run(CANONICAL, "layout"))
    assert "sys-firewall-bank would not enforce the list" in said
    assert netvms(embedded.snapshot())["banking"] is None


def stopped_first(states, embedded, pillar, part="layout") -> list[str]:
    """The problems by which a dry run of *part* and a real one stop alike, writing nothing."""
    before = embedded.snapshot()
    answers = [states.run(pillar, part, test=test) for test in (True, False)]
    assert list(answers[0].items()) == list(answers[1].items())
    assert list(answers[0]) == ["the qubes that the pillar names"]
    assert embedded.snapshot() == before
    return refused(answers[0])[0].splitlines()


def test_a_gateway_that_carries_nobody_is_refused_first(states, embedded):
    """R06, R10, R69. It is there, and what goes through it if it is there would not."""
    refusal = [
        "'sys-whonix' provides no network. Make it a service qube in the pillar, or set 'qvm-prefs "
        "sys-whonix provides_network true' if it is one."
    ]
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-whonix label=black")
    assert stopped_first(states, embedded, CANONICAL, "network") == refusal
    embedded.call("sys-whonix", "admin.vm.Remove")
    assert refused(states.run(CANONICAL)) == []
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-whonix label=black")
    assert stopped_first(states, embedded, CANONICAL) == refusal
    updates = {**CANONICAL, "updates": {"templates": "sys-whonix"}}
    embedded.call("sys-whonix", "admin.vm.Remove")
    (missing,) = stopped_first(states, embedded, updates, "network")
    assert missing.startswith("there is no qube 'sys-whonix'.")


def test_in_what_a_new_qube_opens_things(states, embedded):
    """R10, R14, R69. Whoever is there keeps his own, so it need not be right for him."""
    layout = {name: {"label": "red", "default_dispvm": "untrusted"} for name in ("mail", "work")}
    pillar = {**CANONICAL, "layout": {"notes": {"label": "red", "netvm": "none"}, **layout}}
    assert refused(states.run(pillar)) == []
    assert stopped_first(states, embedded, pillar) == [
        "'untrusted' is no template for disposables: qvm-prefs untrusted template_for_dispvms true."
    ]
    layout["mail"]["default_dispvm"] = "gone"
    assert stopped_first(states, embedded, {**pillar, "layout": layout}) == [
        "there is no qube 'gone'. Create it, or name another one (pillar: "
        "layout.mail.default_dispvm)."
    ]
    layout = {"mail": {"label": "red", "default_dispvm": "scratch"}}
    scratch = {"scratch": {"label": "red", "netvm": "none", "disposable_template": True}}
    assert refused(states.run({**pillar, "layout": {**layout, **scratch}}, "layout")) == []
    assert own(embedded.snapshot(), "mail")["default_dispvm"] == "scratch"


def test_what_the_layout_needs_is_there_first(states, embedded):
    """R69. The pillar's netvms and templates, and other templates, before the first write."""
    layout = {
        "banking": {**CANONICAL["layout"]["banking"], "template": "t-bank"},
        "comms": {"template": "gone", "netvm": "sys-whonix"},
        "work": {"template": "gone-too"},
    }
    pillar = {**CANONICAL, "layout": layout, "templates": {"t-bank": {"clone_of": "debian-13"}}}
    before = "is not there yet: qubes.network.sys-vpn makes it. Run that first."
    assert stopped_first(states, embedded, pillar) == [
        f"'sys-firewall-bank' {before}",
        "there is no qube 'sys-whonix'. Create it, or route nobody to it.",
        f"'t-bank' {before}",
        "there is no template 'gone', of comms. Install it (qvm-template install gone), or name "
        "another one in the pillar.",
    ]


def test_a_banking_of_ones_own_is_adopted(states, embedded):
    """R10, R11, R92. It keeps what it has, but its netvm and its list, until an undo."""
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=banking label=purple")
    embedded.call("banking", "admin.vm.property.Set", "memory", b"777")
    embedded.call("banking", "admin.vm.property.Set", "netvm", b"sys-net")
    rules = b"action=accept dsthost=mine.example proto=tcp dstports=443-443\naction=drop\n"
    embedded.call("banking", "admin.vm.firewall.Set", "", rules)
    before = embedded.snapshot()
    dry = states.run(CANONICAL, test=True)["banking: may reach its allowlist only"]
    assert (
        "banking's firewall list has 'action=accept proto=tcp dsthost=mine.example "
        "dstports=443-443', the pillar does not"
    ) in dry.comment
    for part in ("network", "layout"):
        done = states.run(CANONICAL, part)
        assert refused(done) == []
    assert done["banking: present"].comment.splitlines()[-1] == (
        "banking exists and keeps what it has: label purple (pillar: green), maxmem 4000 (pillar: "
        "2000)."
    )
    after = embedded.snapshot()
    assert kept(after, "banking") == kept(before, "banking")
    assert netvms(after)["banking"] == "sys-firewall-bank"
    assert after["qubes"]["banking"]["rules"][0].startswith("action=accept dsthost=bank.example")
    assert refused(states.undo()) == []
    assert same(embedded.snapshot())["qubes"]["banking"] == same(before)["qubes"]["banking"]
