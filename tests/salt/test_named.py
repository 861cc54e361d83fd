# SPDX-License-Identifier: GPL-2.0-or-later
"""What is refused before the first write, and whom a killed run leaves behind (R92)."""

import pytest
from pillars import DISPOSABLE, OPENVPN, PILLARS
from snapshots import netvms

from qubes_vpn_formula.embedded.machine import EmbeddedQubes

pytestmark = pytest.mark.one_salt

DNS = PILLARS["dns"]
FIRST = "the qubes that the pillar names"
LAST = "left offline"


def make(embedded, name, klass="AppVM", template="", **properties):
    embedded.call("dom0", f"admin.vm.Create.{klass}", template, f"name={name} label=red".encode())
    for key, value in properties.items():
        embedded.call(name, "admin.vm.property.Set", key, value.encode())


def refused_first(states, embedded, pillar) -> list[str]:
    """The problems by which a dry run and a real one are refused alike, writing nothing."""
    before = embedded.snapshot()
    answers = [list(states.run(pillar, test=test).items())[-1] for test in (True, False)]
    assert answers[0] == answers[1]
    step, answer = answers[0]
    assert (step, answer.result, answer.changes) == (FIRST, False, {})
    assert embedded.snapshot() == before
    return answer.comment.splitlines()


@pytest.mark.parametrize("klass", ["StandaloneVM", "DispVM"])
def test_a_hand_made_vpn_of_another_class_keeps_its_list(states, embedded, klass):
    """R42."""
    template = "default-dvm" if klass == "DispVM" else ""
    make(embedded, "sys-vpn", klass, template, provides_network="True", netvm="sys-net")
    (text,) = refused_first(states, embedded, DNS)
    assert text.startswith(f"'sys-vpn' exists ({klass}), and the pillar wants an AppVM of it.")
    assert ("tunnels.sys-vpn.disposable: true" in text) == (klass == "DispVM")


def test_a_home_is_not_made_for_a_disposable_that_cannot_be(states, embedded):
    """R85."""
    make(embedded, "sys-vpn")
    (text,) = refused_first(states, embedded, DISPOSABLE)
    assert "the pillar wants a disposable of it" in text
    assert "disposable: false" in text


def test_all_that_is_missing_is_named_at_once(states, embedded):
    """R69."""
    pillar = {
        **DNS,
        "uplink": "sys-wifi",
        "whonix": "behind_vpn",
        "routes": {"qubes": {"wrok": "sys-firewall", "debian-13-xfce": "sys-dns"}},
        "vaults": ["valut"],
        "templates": {"t-vpn": {"clone_of": "work"}},
        "clock": "sys-clock",
    }
    found = refused_first(states, embedded, pillar)
    by_name = {text.split("'")[1]: text for text in found}
    assert sorted(by_name) == [
        *("debian-13-xfce", "sys-clock", "sys-whonix", "sys-wifi", "valut", "work", "wrok")
    ]
    assert by_name["sys-wifi"].endswith("Name the one that there is (pillar: uplink).")
    assert by_name["sys-whonix"].endswith("or take Tor out of the pillar (whonix, topology).")


def test_an_uplink_that_provides_no_network(states, embedded):
    make(embedded, "sys-wifi", netvm="")
    (text,) = refused_first(states, embedded, {**DNS, "uplink": "sys-wifi"})
    assert text.startswith("'sys-wifi' provides no network.")


def test_a_template_of_what_runs_and_how_to_shut_it_down(states, embedded):
    """qubesd refuses to shut a netvm down while somebody on it runs; the command works."""
    states.run(DNS)
    embedded.call("work", "admin.vm.Start")
    tunnel = {**DNS["tunnels"]["sys-vpn"], "template": "t-vpn2"}
    templates = {"t-vpn2": {"clone_of": "debian-13-minimal"}}
    pillar = {**DNS, "templates": templates, "tunnels": {"sys-vpn": tunnel}}
    (text,) = refused_first(states, embedded, pillar)
    command = text.split("(")[1].split(")")[0]
    assert command == "qvm-shutdown --wait work sys-firewall sys-dns sys-vpn"
    for name in command.split()[2:]:
        embedded.call(name, "admin.vm.Shutdown")
    assert [state.comment for state in states.run(pillar).values() if state.result is False] == []


def test_qubes_of_the_layout_may_come_later(states, embedded):
    pillar = {**DNS, "layout": {"mail": {"label": "red"}}, "default_dispvm": "keep"}
    pillar["routes"] = {"qubes": {"mail": "sys-firewall"}}
    assert all(state.result for state in states.run(pillar).values())


# --- whom a killed run leaves


class Killed(BaseException):
    """As by a power cut."""


def killed_after(states, embedded, monkeypatch, pillar, dest, method):
    """A run that ends right after the first such call."""
    call = EmbeddedQubes.call

    def once(self, to, what, *rest):
        answer = call(self, to, what, *rest)
        if (to, what) == (dest, method):
            raise Killed
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedQubes, "call", once)
        with pytest.raises(Killed):
            states.run(pillar)


def said(states, pillar, test=False):
    answer = states.run(pillar, test=test)[LAST]
    return answer.changes, answer.comment.splitlines()[1:]


def test_whom_a_killed_run_left_offline_is_told_by_a_run_that_does_not_route_it(
    states, embedded, monkeypatch
):
    pillar = {**DNS, "routes": {"qubes": {"work": "sys-firewall"}}}
    states.run(pillar)
    assert said(states, pillar) == ({}, [])
    embedded.call("personal", "admin.vm.property.Set", "netvm", b"sys-firewall")
    killed_after(
        *(states, embedded, monkeypatch, PILLARS["simple"]),
        *("personal", "admin.vm.property.Set"),
    )
    assert netvms(embedded.snapshot())["personal"] is None
    expected = [
        "personal is offline since an earlier run took it off sys-firewall, and the pillar does "
        "not route it. Give it a route in routes.qubes: none, if it is to stay so."
    ]
    assert said(states, pillar, test=True) == said(states, pillar) == ({}, expected)
    chosen = {**pillar, "routes": {"qubes": {**pillar["routes"]["qubes"], "personal": "none"}}}
    assert said(states, chosen) == ({}, [])
    embedded.call("personal", "admin.vm.property.Set", "netvm", b"sys-firewall")
    assert said(states, pillar) == ({}, [])


def test_what_an_undo_put_back_offline_is_nobodys_loss(states, embedded):
    route = {**DNS, "routes": {"qubes": {"vault": "sys-firewall"}}, "vaults": []}
    states.run(route)
    assert all(state.result for state in states.undo().values())
    assert netvms(embedded.snapshot())["vault"] is None
    assert said(states, {**DNS, "vaults": []}) == ({}, [])


def test_who_was_shut_down_for_a_restart_is_told_once(states, embedded, monkeypatch):
    embedded.call("work", "admin.vm.Start")
    pillar = {**DNS, "restart_clients": "yes"}
    killed_after(states, embedded, monkeypatch, pillar, "work", "admin.vm.Shutdown")
    change = {"work": {"old": "noted as shut down", "new": "told, note removed"}}
    told = [
        "work was shut down by a run that was interrupted before it started it again: qvm-start "
        "work."
    ]
    assert said(states, DNS, test=True) == said(states, DNS) == (change, told)
    assert said(states, DNS) == ({}, [])


# --- ways out, and copies of what a tunnel logs in with


def test_a_layout_on_a_machine_without_the_vpn_is_told_to_make_that_first(states, embedded):
    pillar = {
        **DNS,
        "layout": {"banking": {"label": "green"}},
        "routes": {"qubes": {"banking": "sys-firewall"}},
    }
    text = list(states.run(pillar, "layout").values())[-1].comment
    assert "banking: sys-firewall leads past every tunnel as it hangs now." in text
    assert "Run qubes.network.sys-vpn first" in text
    assert "Give each of them a route" not in text
    states.run(pillar)
    assert all(state.result for state in states.run(pillar, "layout").values())


def test_nobody_is_told_to_route_what_cannot_have_a_route(states, embedded):
    """A template with a netvm; its route would be an error."""
    states.run(DNS)
    embedded.call("debian-13-xfce", "admin.vm.property.Set", "netvm", b"sys-firewall")
    text = list(states.run(PILLARS["simple"]).values())[-1].comment
    assert "(qvm-prefs debian-13-xfce netvm none)" in text
    assert "Give each of them a route" not in text


def test_disposables_with_a_copy_of_what_a_tunnel_logs_in_with_are_told(states, embedded):
    """R33, R85. Whose they are, dom0's default or one qube's own."""
    pillar = {**DISPOSABLE, "tunnels": {"sys-vpn": {**OPENVPN, "disposable": True}}}
    states.run(pillar)
    assert "logs in with" not in states.run(pillar)["ways round the VPN"].comment
    embedded.call("work", "admin.vm.property.Set", "default_dispvm", b"sys-vpn-dvm")
    assert states.run(pillar)["ways round the VPN"].comment.splitlines()[-1] == (
        "What work opens in a disposable is in one of sys-vpn-dvm, with a copy of what sys-vpn "
        "logs in with: name another one (pillar: default_dispvm; one qube: qvm-prefs work "
        "default_dispvm NAME)."
    )
    embedded.call("dom0", "admin.property.Set", "default_dispvm", b"sys-vpn-dvm")
    told = states.run(pillar)["ways round the VPN"].comment.splitlines()[-1]
    assert "personal" in told
    assert "with a copy of what sys-vpn logs in with" in told


# --- a service qube that an earlier pillar made for another role

AS = {
    "tunnels": {"x": {**PILLARS["custom"]["tunnels"]["sys-vpn"]}},
    "resolvers": {"x": {"upstream": "sys-vpn"}},
    "firewalls": {"x": {"upstream": "sys-vpn"}},
}
FLAGS = {"tunnels": "service.qubes-vpn", "resolvers": "service.qubes-vpn-dns"}
CUSTOM = PILLARS["custom"]


def with_x(role):
    return {**CUSTOM, role: {**CUSTOM.get(role, {}), **AS[role]}}


@pytest.mark.parametrize("release", ["4.3", "4.2"])
@pytest.mark.parametrize("new", AS)
@pytest.mark.parametrize("old", FLAGS)
def test_a_qube_keeps_its_role_until_somebody_takes_it_away(states, embedded, old, new):
    """R92. Its service says what the rules in it are for: of two, only one set could be loaded."""
    assert all(state.result for state in states.run(with_x(old)).values())
    assert embedded.snapshot()["qubes"]["x"]["features"][FLAGS[old]] == "1"
    if new == old:
        embedded.forget_calls()
        assert all(state.result for state in states.run(with_x(new)).values())
        assert embedded.writes() == []
        return
    embedded.call("work", "admin.vm.property.Set", "netvm", b"x")
    (text,) = refused_first(states, embedded, with_x(new))
    assert f"and the pillar calls it a {new[:-1]}." in text
    assert f"'qvm-features --unset x {FLAGS[old]}'" in text
    assert "take work off it (qvm-prefs work netvm none)" in text
    assert ("'qvm-firewall x reset'" in text) == (old == "tunnels")
    embedded.call("work", "admin.vm.property.Set", "netvm", b"")
    embedded.call("x", "admin.vm.feature.Remove", FLAGS[old])
    embedded.call("x", "admin.vm.firewall.Set", "", b"action=accept\n")
    assert all(state.result for state in states.run(with_x(new)).values())
    flags = embedded.snapshot()["qubes"]["x"]["features"].keys() & {*FLAGS.values()}
    assert flags == ({FLAGS[new]} if new in FLAGS else set())


def test_the_resolvers_flag_is_put_right_and_a_tunnels_beside_it_is_refused(states, embedded):
    """R69, R92. What went is told, and comes back."""
    states.run(DNS)
    embedded.call("sys-dns", "admin.vm.feature.Remove", "service.qubes-vpn-dns")
    dry = states.run(DNS, test=True)["sys-dns: settings"]
    assert dry.comment == (
        "sys-dns: service qubes-vpn-dns is not switched on (by hand), the pillar says on"
    )
    assert states.run(DNS)["sys-dns: settings"].changes == {
        "service.qubes-vpn-dns": {"old": None, "new": "1"}
    }
    embedded.call("sys-dns", "admin.vm.feature.Set", "service.qubes-vpn", b"1")
    (text,) = refused_first(states, embedded, DNS)
    assert text.startswith("'sys-dns' is a VPN qube (its service qubes-vpn is on), and the pillar")


def test_an_undo_takes_the_flag_from_a_qube_that_was_there(states, embedded):
    """R92."""
    make(embedded, "sys-dns", netvm="sys-net")
    states.run(DNS)
    assert all(state.result for state in states.undo().values())
    assert "service.qubes-vpn-dns" not in embedded.snapshot()["qubes"]["sys-dns"]["features"]


def test_a_client_of_whom_no_disposables_can_be_made(states, embedded):
    """R14. A name may have two parts in a pillar: each is looked at."""
    assert refused_first(states, embedded, {**DNS, "default_dispvm": "work"}) == [
        "'work' is no template for disposables: qvm-prefs work template_for_dispvms true."
    ]
