# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that is wired already gets another pillar: safe at every write, and it gets there.

Whom a move would let out, or who makes it a loop, is taken offline first when a later step brings
that qube back, and the move is refused when none does (R05, R15, R92).
"""

import itertools
from typing import Any

import pytest
from pillars import OPENVPN, PILLARS, WIREGUARD
from snapshots import compared, in_clear, netvms, own, put_back, way

pytestmark = [pytest.mark.one_salt, pytest.mark.usefixtures("whonix_gateway")]

SLS = "qubes.network.sys-vpn"
#: another provider, in another VPN qube
REPLACED = {**PILLARS["dns"], "tunnels": {"sys-vpn-new": OPENVPN}}
#: Tor in front of a resolver, and then behind it
TOR_FIRST = {
    "topology": "custom",
    "tunnels": {"sys-vpn": {**WIREGUARD, "upstream": "sys-net"}},
    "resolvers": {"sys-dns": {"upstream": "sys-whonix"}},
    "routes": {"default": "sys-dns", "qubes": {"sys-whonix": "sys-vpn", "work": "sys-dns"}},
}
TOR_LAST = {
    **TOR_FIRST,
    "resolvers": {"sys-dns": {"upstream": "sys-vpn"}},
    "routes": {"default": "sys-dns", "qubes": {"sys-whonix": "sys-dns", "work": "sys-whonix"}},
}
#: service qubes in the other order
SWAPPED = {
    "topology": "custom",
    "tunnels": {"sys-vpn": {**WIREGUARD, "upstream": "sys-net"}},
    "resolvers": {"sys-dns": {"upstream": "sys-firewall"}},
    "firewalls": {"sys-firewall": {"upstream": "sys-vpn"}},
    "routes": {"default": "sys-dns", "qubes": {"work": "sys-dns"}},
}
#: the firewall in front of the tunnel, and the resolver still behind that
FIREWALL_OUT = {
    **SWAPPED,
    "resolvers": {"sys-dns": {"upstream": "sys-vpn"}},
    "firewalls": {"sys-firewall": {"upstream": "sys-net"}},
}
EVERY: dict[str, dict[str, Any]] = {
    **PILLARS,
    "replaced": REPLACED,
    "tor first": TOR_FIRST,
    "tor last": TOR_LAST,
    "swapped": SWAPPED,
}
#: sys-dns hangs on sys-firewall, and the new pillar does not know it: the user decides
STRANDED = {("swapped", "simple"): "sys-firewall -> sys-net would put sys-dns in clear, and now"}


def refused(done) -> list[str]:
    return [state.comment for state in done.values() if state.result is False]


def said_so(dry, real) -> bool:
    """Whether a dry run said what the real one did: its changes, and its remarks, which come last.

    Before these, the dry run says the changes in words, and the real one `changed`.
    """
    return dry.changes == real.changes and dry.comment.endswith(
        real.comment.removeprefix("changed") if real.changes and real.result else real.comment
    )


@pytest.mark.parametrize("old", EVERY)
def test_every_pillar_can_follow_every_other(states, embedded, after_each_write, old):
    """R15, R69, R92. Nobody is let out at any write, and the dry run has said all of it."""
    assert refused(states.run(EVERY[old])) == []
    start, before = embedded.path.read_bytes(), in_clear(embedded.snapshot())
    for new in EVERY:
        put_back(embedded, start)
        dry = states.run(EVERY[new], test=True)
        assert embedded.writes() == []
        after_each_write.clear()
        real = states.run(EVERY[new])
        left = [text.partition(" they are not.")[0] for text in refused(real)]
        assert left == [STRANDED[old, new]] if (old, new) in STRANDED else left == [], new
        assert list(dry) == list(real)
        assert [step for step in dry if not said_so(dry[step], real[step])] == []
        allowed = before.union(EVERY[new].get("outside_vpn", ()))
        let_out = [in_clear(snapshot) - allowed for snapshot in after_each_write]
        assert set().union(*let_out) == set(), f"on the way to {new}"
        again = states.run(EVERY[new]).values()
        assert [state.changes for state in again if state.changes] == [], new


def test_clients_are_taken_offline_before_their_firewall_is_opened(states, embedded):
    """R02, R03. From topology dns to simple, sys-firewall goes from behind the tunnel to before it.

    work and personal have routes; untrusted, default-dvm and sys-whonix inherit default_netvm.
    """
    states.run(PILLARS["dns"])
    embedded.forget_calls()
    move = states.run(PILLARS["simple"])["sys-firewall -> sys-net"]
    made = [(call.dest, call.arg) for call in embedded.writes()]
    assert made[:4] == [
        ("dom0", "default_netvm"),
        ("personal", "netvm"),
        ("work", "netvm"),
        ("sys-firewall", "netvm"),
    ]
    heirs = "default-dvm, sys-whonix, untrusted"
    assert move.changes == {
        "default_netvm on the way": {"old": "sys-firewall", "new": "none"},
        "with it": {"old": None, "new": heirs},
        "personal on the way": {"old": "sys-firewall", "new": "none"},
        "work on the way": {"old": "sys-firewall", "new": "none"},
        "netvm": {"old": "sys-dns", "new": "sys-net"},
    }
    assert move.comment.splitlines() == [
        "changed",
        f"Taken offline first, and brought back by a later step: {heirs}, personal, work.",
        "sys-dns carries nobody any more, and the pillar does not name it: it is left as it is.",
    ]
    machine = embedded.snapshot()
    assert machine["globals"]["default_netvm"] == "sys-vpn"
    assert {name: netvms(machine)[name] for name in ("work", "untrusted", "sys-firewall")} == {
        "work": "sys-vpn",
        "untrusted": "sys-vpn",
        "sys-firewall": "sys-net",
    }
    assert "netvm" not in own(machine, "untrusted")


#: behind the tunnel, a firewall; and then another tunnel, and the first one called a firewall
ROLES = {
    "topology": "custom",
    "tunnels": {"sys-vpn": {**WIREGUARD, "upstream": "sys-net"}},
    "firewalls": {"fw-x": {"upstream": "sys-vpn"}},
    "routes": {"qubes": {"personal": "fw-x"}},
}
OTHER_ROLES = {
    "topology": "custom",
    "tunnels": {"sys-vpn-2": {**WIREGUARD, "upstream": "sys-net"}},
    "firewalls": {"fw-x": {"upstream": "sys-net"}},
    "routes": {"qubes": {"work": "sys-vpn-2"}},
}


FW_OUT = {"fw-x": {"upstream": "sys-net"}}
LAYOUT = {
    "topology": "custom",
    "tunnels": {"sys-vpn": {**WIREGUARD, "upstream": "sys-net"}},
    "layout": {"banking": {"label": "green"}},
    "routes": {"qubes": {"banking": "sys-vpn"}},
}


@pytest.mark.parametrize("role", ["firewalls", "resolvers"])
def test_a_tunnel_that_is_none_any_more_lets_nobody_out(states, embedded, after_each_write, role):
    """R05, R12. The line that gives it another role is no word about its clients."""
    assert refused(states.run(ROLES)) == []
    after_each_write.clear()
    named = {**OTHER_ROLES.get(role, {}), "sys-vpn": {"upstream": "sys-net"}}
    (said,) = refused(states.run({**OTHER_ROLES, role: named}))
    assert "would put personal in clear" in said or "'sys-vpn' is a VPN qube" in said
    assert [each for each in after_each_write if "personal" in in_clear(each)] == []
    assert netvms(embedded.snapshot())["fw-x"] == "sys-vpn"


def test_a_tunnel_that_is_to_be_a_firewall_says_what_to_do(states, embedded):
    """It would keep its service, its template and its list: its clients would get nothing."""
    states.run(ROLES)
    embedded.call("fw-x", "admin.vm.property.Set", "netvm", b"")
    new = {**OTHER_ROLES, "firewalls": {"sys-vpn": {"upstream": "sys-net"}}}
    (said,) = refused(states.run(new))
    assert "the pillar calls it a firewall" in said
    embedded.call("sys-vpn", "admin.vm.feature.Remove", "service.qubes-vpn")
    assert refused(states.run(new)) == []
    # Its client is still nobody who was in clear: the record knows what it was.
    embedded.call("fw-x", "admin.vm.property.Set", "netvm", b"sys-vpn")
    (said,) = refused(states.run({**new, "firewalls": {**new["firewalls"], **FW_OUT}}))
    assert "fw-x -> sys-net would put personal in clear" in said


def test_whonix_gateway_behind_the_vpn_never_leaves_it(states, embedded, after_each_write):
    """R08. From topology dns to simple, where its firewall goes before the tunnel."""
    assert refused(states.run({**PILLARS["dns"], "whonix": "behind_vpn"})) == []
    after_each_write.clear()
    assert refused(states.run({**PILLARS["simple"], "whonix": "behind_vpn"})) == []
    ways = [way("sys-whonix", netvms(snapshot)) for snapshot in after_each_write]
    assert [way for way in ways if way[-1] == "sys-net" and "sys-vpn" not in way] == []
    assert ways[-1] == ["sys-whonix", "sys-vpn", "sys-firewall", "sys-net"]


@pytest.mark.parametrize("rules", [b"", b"action=accept proto=tcp\naction=drop\n"])
def test_the_layout_relies_on_a_tunnels_list_and_compares_it(states, embedded, rules):
    """R10, R12. qubes.layout gives no list: what is not listed yet carries nobody."""
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-vpn label=red")
    embedded.call("sys-vpn", "admin.vm.property.Set", "provides_network", b"True")
    embedded.call("sys-vpn", "admin.vm.property.Set", "netvm", b"sys-net")
    embedded.call("sys-vpn", "admin.vm.firewall.Set", "", rules)
    (said,) = refused(states.run(LAYOUT, "layout"))
    assert "sys-vpn lacks the firewall list that the pillar gives it" in said
    assert netvms(embedded.snapshot())["banking"] is None


def test_a_resolver_between_two_tunneled_ways_is_offline_not_in_clear(
    states, embedded, after_each_write
):
    """R12, R92. It has no clients then, but asks for itself: updates, the time."""
    states.run(SWAPPED)
    after_each_write.clear()
    assert refused(states.run(FIREWALL_OUT)) == []
    ways = [way("sys-dns", netvms(snapshot)) for snapshot in after_each_write]
    assert [way for way in ways if way[-1] == "sys-net" and "sys-vpn" not in way] == []
    assert ways[-1] == ["sys-dns", "sys-vpn", "sys-net"]


@pytest.mark.parametrize("rules", [b"", b"action=accept dst4=203.0.113.99/32\naction=drop\n"])
def test_a_tunnel_of_a_former_life_is_offline_until_it_has_its_list(
    states, embedded, after_each_write, rules
):
    """R12, R42. Behind a firewall that was offline, and is connected first."""
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-vpn label=red")
    embedded.call("sys-vpn", "admin.vm.property.Set", "netvm", b"sys-firewall")
    if rules:
        embedded.call("sys-vpn", "admin.vm.firewall.Set", "", rules)
    embedded.call("sys-firewall", "admin.vm.property.Set", "netvm", b"")
    after_each_write.clear()
    assert refused(states.run(PILLARS["simple"])) == []
    online = [each for each in after_each_write if "sys-net" in way("sys-vpn", netvms(each))]
    assert len(online) > 1
    assert {str(each["qubes"]["sys-vpn"]["rules"]) for each in online} == {
        str(after_each_write[-1]["qubes"]["sys-vpn"]["rules"])
    }


def test_the_end_of_a_run_says_it_again(salt_text, states):
    """R69. Under forty states nobody sees what one of them said."""
    states.run(PILLARS["dns"])
    for test in ("test=True", "test=False"):
        run = salt_text("state.sls", SLS, test, pillar=PILLARS["simple"])
        end = " ".join(run.stdout.partition("said by this run")[2].split())
        assert "Taken offline first, and brought back by a later step: default-dvm" in end
        assert "sys-dns carries nobody any more, and the pillar does not name it" in end
    run = salt_text("state.sls", SLS, pillar=PILLARS["simple"])
    end = " ".join(run.stdout.partition("said by this run")[2].split())
    assert "sys-dns is left over: the pillar does not name it, and nobody hangs on it." in end
    states.run(PILLARS["dns"])
    run = salt_text("state.sls", SLS, pillar=PILLARS["dns"])
    assert "nothing beside the changes" in run.stdout.partition("said by this run")[2]


def test_service_qubes_that_change_places_are_no_loop(states, embedded, after_each_write):
    """R88. sys-whonix, behind sys-dns, is to carry it, and so is moved before it."""
    states.run(TOR_LAST)
    after_each_write.clear()
    done = states.run(TOR_FIRST)
    assert refused(done) == []
    moves = [name for name, state in done.items() if "netvm" in state.changes]
    assert moves[:2] == ["sys-whonix -> sys-vpn", "sys-dns -> sys-whonix"]
    assert set().union(*map(in_clear, after_each_write)) == set()
    machine = netvms(embedded.snapshot())
    assert (machine["sys-dns"], machine["sys-whonix"]) == ("sys-whonix", "sys-vpn")


def test_a_run_killed_at_any_write_leaves_everybody_closed_and_is_finished(states, embedded):
    """R92. From dns to simple, where clients are offline meanwhile."""
    # sys-dns is left over: whose wish its autostart is, only the record knows.
    states.run({**PILLARS["dns"], "resolvers": {"sys-dns": {"autostart": False}}})
    start = embedded.path.read_bytes()
    embedded.forget_calls()
    states.run(PILLARS["simple"])
    undisturbed, made = compared(embedded.snapshot()), embedded.writes()
    for at, kill in itertools.product(range(1, len(made) + 1), ("before", "after")):
        put_back(embedded, start)
        embedded.fail(at=at, write=True, kill=kill)
        assert states.run_in_child(PILLARS["simple"]) == -9
        assert in_clear(embedded.snapshot()) == set()
        assert refused(states.run(PILLARS["simple"])) == []
        assert compared(embedded.snapshot()) == undisturbed, f"killed {kill} {made[at - 1]}"


def test_a_run_that_fails_at_any_write_says_who_is_offline(states, embedded):
    """R92. Whatever has been taken off stays off until a run gets through."""
    states.run(PILLARS["dns"])
    start = embedded.path.read_bytes()
    embedded.fail(dest="sys-firewall", arg="netvm", write=True, error="QubesVMError")
    text = refused(states.run(PILLARS["simple"]))[0]
    assert text.startswith("sys-firewall: netvm sys-net was refused: injected fault\n")
    every = "Offline until a run gets through: default-dvm, sys-whonix, untrusted, personal, work."
    assert text.endswith(every)
    assert in_clear(embedded.snapshot()) == set()
    for done in (False, True):
        put_back(embedded, start)
        embedded.fail(dest="work", arg="netvm", write=True, error="", done=done)
        text = refused(states.run(PILLARS["simple"]))[0]
        assert text.startswith("work: netvm none was refused")
        assert text.endswith(every if done else every.replace(", work.", "."))
        assert in_clear(embedded.snapshot()) == set()


def test_a_run_that_is_refused_later_says_who_is_offline_by_it(states, embedded):
    """R69, R92."""
    states.run(PILLARS["dns"])
    embedded.call("sys-vpn", "admin.vm.feature.Set", "service.qubes-firewall", b"")
    pillar = {**PILLARS["simple"], "allowlists": {"personal": ["203.0.113.9:443/tcp"]}}
    dry, real = refused(states.run(pillar, test=True)), refused(states.run(pillar))
    assert dry == real
    (text,) = real
    assert text.startswith("sys-vpn would not enforce the list.")
    assert text.endswith(
        "\nOffline until a run gets through: default-dvm, sys-whonix, untrusted, personal, work."
    )
    offline = [name for name, netvm in netvms(embedded.snapshot()).items() if netvm is None]
    assert {"default-dvm", "personal", "work"} < {*offline}


def test_who_hangs_on_whom_a_run_took_off_is_said_too(states, embedded):
    """R69, R92. They have their netvm, and it has none."""
    states.run(PILLARS["dns"])
    embedded.call("sys-firewall", "admin.vm.property.Reset", "provides_network")
    embedded.fail(dest="sys-firewall", arg="netvm", at=2, write=True, error="QubesVMError")
    (text,) = refused(states.run(PILLARS["dns"]))
    start, end = text.splitlines()
    assert start.startswith("sys-firewall: netvm sys-dns was refused")
    start, behind = end.split("; and behind these ")
    assert start == "Offline until a run gets through: sys-firewall"
    assert {*behind.rstrip(".").split(", ")} >= {"work", "personal", "untrusted", "default-dvm"}


# --- what no later step brings back


def test_a_qube_without_a_route_is_not_taken_offline_for_good(salt_text, states, embedded):
    """R05. mail has a netvm of its own choice, and the pillar does not know it."""
    states.run(PILLARS["dns"])
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=mail label=blue")
    embedded.call("mail", "admin.vm.property.Set", "netvm", b"sys-firewall")
    before = embedded.snapshot()
    for test in ("test=True", "test=False"):
        run = salt_text("state.sls", SLS, test, pillar=PILLARS["simple"])
        assert run.code != 0
        text = " ".join(run.stdout.split())
        assert "sys-firewall -> sys-net would put mail in clear, and now they are not." in text
        assert "(qvm-prefs mail netvm none)" in text
        assert "Traceback" not in run.stdout
    assert embedded.snapshot() == before

    # The ways that the text says.
    embedded.call("mail", "admin.vm.property.Set", "netvm", b"")
    assert refused(states.run(PILLARS["simple"])) == []
    assert netvms(embedded.snapshot())["mail"] is None


def test_who_has_a_route_now_is_taken_along(states, embedded):
    """The other way that the text says."""
    states.run(PILLARS["dns"])
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=mail label=blue")
    embedded.call("mail", "admin.vm.property.Set", "netvm", b"sys-firewall")
    routes = {**PILLARS["simple"]["routes"]["qubes"], "mail": "sys-vpn"}
    assert refused(states.run({**PILLARS["simple"], "routes": {"qubes": routes}})) == []
    assert netvms(embedded.snapshot())["mail"] == "sys-vpn"


def test_heirs_are_refused_when_the_default_is_kept(states, embedded):
    """R07. `keep` has no step that would set it again."""
    states.run(PILLARS["dns"])
    kept = {**PILLARS["simple"]["routes"], "default": "keep"}
    before = netvms(embedded.snapshot())
    text = refused(states.run({**PILLARS["simple"], "routes": kept}))[0]
    assert "would put default-dvm, untrusted in clear" in text
    assert netvms(embedded.snapshot()) == before


def test_a_loop_through_a_qube_that_is_not_routed_is_refused(states, embedded):
    """R08. `whonix: unmanaged`, and no route: its netvm is the user's."""
    states.run(TOR_LAST)
    before = netvms(embedded.snapshot())
    routes = {"default": "sys-dns", "qubes": {"work": "sys-dns"}}
    text = refused(states.run({**TOR_FIRST, "routes": routes}))[0]
    assert text == (
        "sys-dns -> sys-whonix -> sys-dns -> sys-vpn -> sys-net would be a loop. Take sys-whonix "
        "off it first."
    )
    assert netvms(embedded.snapshot()) == before
