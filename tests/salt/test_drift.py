# SPDX-License-Identifier: GPL-2.0-or-later
"""What somebody changed by hand: a dry run names it in their words, the next run puts it right."""

import pytest
from pillars import PILLARS, WIREGUARD

PILLAR = {
    **PILLARS["dns"],
    "routes": {"default": "sys-firewall", "qubes": {"work": "sys-firewall"}},
}
RULE = "action=accept proto=tcp dsthost=evil.example dstports=443-443"
OWN = "action=accept proto=udp dst4=192.0.2.1/32 dstports=51820-51820"


def prop(name, key, value):
    """A property set by hand."""
    return [(name, "admin.vm.property.Set", key, value)]


#: What is done by hand -> the sentence of the dry run.
BY_HAND = {
    "a client's netvm": (
        prop("work", "netvm", b"sys-net"),
        "work hangs on sys-net (set by hand), the pillar says sys-firewall",
    ),
    "a client taken offline": (
        prop("work", "netvm", b""),
        "work is offline (set by hand), the pillar says sys-firewall",
    ),
    "a client that inherits": (
        [("work", "admin.vm.property.Reset", "netvm", b"")],
        "work hangs on sys-firewall as dom0's default_netvm says (set by hand), the pillar says so "
        "on its own",
    ),
    "a service qube's netvm": (
        prop("sys-dns", "netvm", b"sys-net"),
        "sys-dns hangs on sys-net (set by hand), the pillar says sys-vpn",
    ),
    "default_netvm": (
        [("dom0", "admin.property.Set", "default_netvm", b"sys-net")],
        "dom0's default_netvm is sys-net (set by hand), the pillar says sys-firewall",
    ),
    "no default_netvm": (
        [("dom0", "admin.property.Set", "default_netvm", b"")],
        "dom0's default_netvm is none (set by hand), the pillar says sys-firewall",
    ),
    "a rule more": (
        [("sys-vpn", "admin.vm.firewall.Set", "", f"{RULE}\n{OWN}\naction=drop\n".encode())],
        f"sys-vpn's firewall list has '{RULE}' (added by hand), the pillar does not",
    ),
    "a rule less": (
        [("sys-vpn", "admin.vm.firewall.Set", "", b"action=drop\n")],
        f"sys-vpn's firewall list lacks '{OWN}' (taken out by hand), which the pillar has",
    ),
    "no list": (
        [("sys-vpn", "admin.vm.firewall.Set", "", b"action=accept\n")],
        "sys-vpn has no firewall list (taken away by hand), the pillar gives it one of 2 rules",
    ),
    "provides_network": (
        [("sys-dns", "admin.vm.property.Reset", "provides_network", b"")],
        "sys-dns provides no network (switched off by hand), the pillar says that it does",
    ),
    "a service flag": (
        [("sys-vpn", "admin.vm.feature.Remove", "service.qubes-vpn", b"")],
        "sys-vpn: service qubes-vpn is not switched on (by hand), the pillar says on",
    ),
    "memory": (
        prop("sys-vpn", "maxmem", b"900"),
        "sys-vpn: maxmem is 900 (set by hand), the pillar says 600",
    ),
    "label": (
        prop("sys-dns", "autostart", b"False"),
        "sys-dns: autostart is false (set by hand), the pillar says true",
    ),
}


@pytest.fixture
def routed(states, embedded):
    """A machine that was offline, and has been routed by the pillar."""
    embedded.call("dom0", "admin.property.Set", "default_netvm", b"")
    assert all(answer.result for answer in states.run(PILLAR).values())
    embedded.forget_calls()
    return embedded


@pytest.mark.parametrize("what", BY_HAND)
def test_a_dry_run_names_it_and_a_run_puts_it_right(states, modules, routed, what):
    """R69. By hand: our record says what we had written."""
    before = routed.snapshot()
    calls, sentence = BY_HAND[what]
    for call in calls:
        routed.call(*call)
    routed.forget_calls()
    dry = states.run(PILLAR, test=True)
    told = [answer.comment.split("\n") for answer in dry.values() if answer.changes]
    lines = [line for comment in told for line in comment]
    if what == "provides_network":
        # Who has lost its flag is taken offline before it gets it back, and connected again after.
        assert lines.pop(0) == "sys-dns comes off sys-vpn until a later step"
        assert lines[-1] == "sys-dns is offline, the pillar says sys-vpn"
    assert lines[0] == sentence
    assert len(told) == (2 if what == "provides_network" else 1)
    steps = modules.qubes_vpn.plan(PILLAR, live=True)["steps"]
    assert [step["words"] for step in steps if step["changes"]] == told
    assert routed.writes() == []
    assert modules.qubes_vpn.inventory()["written"] != {}
    assert all(answer.result for answer in states.run(PILLAR).values())
    now = routed.snapshot()
    assert now["globals"] == before["globals"]
    assert now["qubes"] == before["qubes"]


def test_what_is_dom0s(states, routed):
    """R07. The clock qube, which the pillar names."""
    pillar = {**PILLAR, "clock": "sys-firewall"}
    assert all(answer.result for answer in states.run(pillar).values())
    routed.call("dom0", "admin.property.Set", "clockvm", b"sys-net")
    dry = states.run(pillar, test=True)
    (comment,) = [answer.comment for answer in dry.values() if answer.changes]
    assert comment == "the time is fetched by sys-net (set by hand), the pillar says sys-firewall"


def test_what_was_not_done_yet_is_nobodys_hand(states, embedded):
    """Also where the user had a value of their own before the first run."""
    embedded.call("work", "admin.vm.property.Set", "netvm", b"sys-net")
    embedded.call("work", "admin.vm.firewall.Set", "", b"action=drop\n")
    pillar = {**PILLAR, "allowlists": {"work": ["dns"]}}
    comments = [answer.comment for answer in states.run(pillar, test=True).values()]
    assert "work hangs on sys-net, the pillar says sys-firewall" in comments
    assert not [comment for comment in comments if "by hand" in comment]


def test_another_pillar_is_nobodys_hand(states, routed):
    """What an earlier pillar had us write is as we left it."""
    tunnel = {**WIREGUARD, "endpoints": ["192.0.2.2:51820/udp"], "maxmem": 700}
    pillar = {**PILLAR, "tunnels": {"sys-vpn": tunnel}}
    dry = states.run(pillar, test=True)
    (rules, settings) = [answer.comment for answer in dry.values() if answer.changes]
    other = OWN.replace("192.0.2.1", "192.0.2.2")
    assert rules.split("\n") == [
        f"sys-vpn's firewall list has '{OWN}', the pillar does not",
        f"sys-vpn's firewall list lacks '{other}', which the pillar has",
    ]
    assert settings == "sys-vpn: maxmem is 600, the pillar says 700"


def test_another_qube_of_that_name_is_nobodys_hand(states, routed):
    """Removed, and made anew by somebody: not what we wrote to."""
    routed.call("work", "admin.vm.Remove")
    routed.call("dom0", "admin.vm.Create.AppVM", "", b"name=work label=red")
    dry = states.run(PILLAR, test=True)
    (comment,) = [answer.comment for answer in dry.values() if answer.changes]
    assert comment == (
        "work hangs on sys-firewall as dom0's default_netvm says, the pillar says so on its own"
    )


def test_a_damaged_record_stops_a_run_before_it_replaces_anything(states, modules, routed):
    """R69, R92. It could not be put back. A run with nothing to do needs no record."""
    record = states.record
    for text in ("x\n", '{"line": 1, "change": "property"}\n', '{"line": 1, "undone": 1}\n'):
        record.write_text(text)
        assert all(answer.result for answer in states.run(PILLAR).values())
    routed.call("work", "admin.vm.property.Set", "netvm", b"sys-net")
    routed.forget_calls()
    for test in (True, False):
        (comment,) = [a.comment for a in states.run(PILLAR, test=test).values() if not a.result]
        assert "record.jsonl, line 1 is damaged, or one before it is lost" in comment
        assert "move the file away and keep it" in comment
        assert (routed.writes(), record.read_text()) == ([], text)
    assert modules.qubes_vpn.inventory()["written"] == {}
    (problem,) = modules.qubes_vpn.undo_plan()["problems"]
    assert problem == comment
    record.unlink()  # the way out that it says
    assert all(answer.result for answer in states.run(PILLAR).values())
