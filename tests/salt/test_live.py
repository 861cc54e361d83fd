# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves on a machine that is in use: running, paused, suspended, disposable and preloaded qubes.

On the fresh machine: personal, work and untrusted inherit their netvm sys-firewall, which hangs on
sys-net; vault is offline; nothing runs.
"""

import pytest
from pillars import PILLARS
from snapshots import in_clear, netvms, own

from qubes_vpn_formula.embedded.machine import EmbeddedQubes

pytestmark = pytest.mark.one_salt

PROMISE = {
    "guard": {
        "uplink": "sys-net",
        "shelters": ["sys-vpn"],
        "services": ["sys-vpn", "sys-firewall"],
        "outside_vpn": [],
    }
}
INTO = {"name": "work", "netvm": "sys-vpn", **PROMISE}


def make(embedded, name, netvm):
    embedded.call("dom0", "admin.vm.Create.AppVM", "", f"name={name} label=orange".encode())
    embedded.call(name, "admin.vm.property.Set", "provides_network", b"True")
    embedded.call(name, "admin.vm.property.Set", "netvm", netvm.encode())


@pytest.fixture(autouse=True)
def tunnel(embedded):
    """sys-vpn, wired, and off."""
    make(embedded, "sys-vpn", "sys-net")
    embedded.call("sys-vpn", "admin.vm.firewall.Set", "", b"action=drop\n")
    embedded.forget_calls()


@pytest.fixture
def running(embedded):
    """work and personal run, and with them sys-firewall and sys-net."""
    for name in ("work", "personal"):
        embedded.call(name, "admin.vm.Start")
    embedded.forget_calls()


def power(embedded) -> dict[str, str]:
    return {name: qube["power"] for name, qube in embedded.snapshot()["qubes"].items()}


def link(embedded, name):
    """Where the packets of a running qube really go."""
    return embedded.snapshot()["qubes"][name]["link"]


def made(embedded) -> list[tuple]:
    return [(call.dest, call.method.split(".")[-1], call.arg) for call in embedded.writes()]


def answers(state, embedded, **arguments):
    """The dry answer and the real one; the dry run has written nothing."""
    before = len(embedded.writes())
    dry = state(**arguments, test=True)
    assert len(embedded.writes()) == before
    return dry, state(**arguments)


def refused(state, embedded, **arguments) -> str:
    """The text with which a dry run and a real one refuse alike, writing nothing."""
    before = embedded.snapshot()
    both = [state(**arguments, test=test) for test in (True, False)]
    assert [(answer.result, answer.changes) for answer in both] == [(False, {})] * 2
    assert both[0].comment == both[1].comment
    assert embedded.snapshot() == before
    return both[0].comment


# --- restart_clients


def test_a_move_says_whose_connections_it_breaks(states, embedded, running):
    """R69. `never`, the default: they are moved as they run."""
    dry, real = answers(states.netvm, embedded, **INTO)
    said = "work -> sys-vpn breaks connections of what is running: work."
    assert dry.comment.splitlines()[-1] == said
    assert real.comment.splitlines() == ["changed", said]
    assert dry.changes == real.changes
    assert made(embedded) == [("sys-vpn", "Start", ""), ("work", "Set", "netvm")]
    assert (power(embedded)["work"], link(embedded, "work")) == ("Running", "sys-vpn")


def test_a_firewall_that_moves_breaks_connections_of_who_is_behind_it(states, embedded, running):
    answer = states.netvm("sys-firewall", netvm="sys-vpn", **PROMISE)
    assert answer.comment.splitlines()[1:] == [
        "sys-firewall -> sys-vpn breaks connections of what is running: personal, work."
    ]


def test_a_default_that_changes_breaks_connections_of_its_heirs(states, embedded, running):
    answer = states.default_netvm("sys-vpn", **PROMISE)
    assert "breaks connections of what is running: personal, work." in answer.comment


def test_who_is_off_or_offline_loses_no_connection(states, embedded):
    assert states.netvm(**INTO).comment == "changed"
    embedded.call("vault", "admin.vm.Start")
    assert states.netvm("vault", netvm="sys-vpn", **PROMISE).comment == "changed"


def test_ask_does_not_move_what_runs(states, embedded, running):
    """R69. Salt cannot ask: it stops, and names both ways on."""
    text = refused(states.netvm, embedded, **INTO, restart_clients="ask")
    assert text == (
        "work -> sys-vpn would break the connections of work, running now: shut down what you can "
        "spare (qvm-shutdown work) and run this again, or write restart_clients: never (they are "
        "moved as they run) or yes (they are restarted)."
    )
    text = refused(states.default_netvm, embedded, name="sys-vpn", restart_clients="ask", **PROMISE)
    assert "(qvm-shutdown personal work)" in text
    embedded.call("work", "admin.vm.Shutdown")
    assert states.netvm(**INTO, restart_clients="ask").result is True


def test_ask_sees_who_was_started_during_the_run(states, embedded, monkeypatch):
    """What the machine looked like when the run began counts for nothing."""
    call = EmbeddedQubes.call

    def impatient_user(self, dest, method, *rest):
        if (dest, method) == ("t-vpn", "admin.vm.volume.CloneTo"):
            call(self, "work", "admin.vm.Start")
        return call(self, dest, method, *rest)

    monkeypatch.setattr(EmbeddedQubes, "call", impatient_user)
    pillar = {**PILLARS["dns"], "restart_clients": "ask"}
    *_, last = states.run(pillar).items()
    assert last[0] == "sys-firewall -> sys-dns"
    assert "connections of work, running now" in last[1].comment
    assert netvms(embedded.snapshot())["sys-firewall"] == "sys-net"


def test_a_disposable_that_is_closed_during_the_run_is_in_nobodys_way(
    states, embedded, running, monkeypatch
):
    """It is gone between two looks, and nothing asks for it."""
    name = embedded.call("default-dvm", "admin.vm.CreateDisposable").decode()
    embedded.call(name, "admin.vm.Start")
    call, closed = EmbeddedQubes.call, []

    def user(self, dest, method, *rest):
        if (dest, method) == ("t-vpn", "admin.vm.volume.CloneTo") and not closed:
            closed.append(call(self, name, "admin.vm.Shutdown"))
        return call(self, dest, method, *rest)

    monkeypatch.setattr(EmbeddedQubes, "call", user)
    run = states.run(PILLARS["dns"])
    assert name not in embedded.snapshot()["qubes"]
    assert [state.comment for state in run.values() if state.result is False] == []


def test_yes_restarts_a_client_around_its_move(states, embedded, running):
    dry, real = answers(states.netvm, embedded, **INTO, restart_clients="yes")
    assert dry.changes == real.changes
    assert real.changes["work"] == {"old": "running", "new": "restarted"}
    assert real.changes["sys-vpn"] == {"old": "halted", "new": "running"}
    note = "x-qubes-vpn-stopped.work"  # what is told if the run is killed here
    assert made(embedded) == [
        ("dom0", "Set", note),
        ("work", "Shutdown", "wait"),
        ("work", "Set", "netvm"),
        ("work", "Start", ""),
        ("dom0", "Remove", note),
    ]
    assert (power(embedded)["work"], link(embedded, "work")) == ("Running", "sys-vpn")
    embedded.forget_calls()
    assert states.netvm(**INTO, restart_clients="yes").changes == {}
    assert embedded.writes() == []


def test_yes_restarts_the_clients_of_a_firewall_and_not_the_firewall(states, embedded, running):
    answer = states.netvm("sys-firewall", netvm="sys-vpn", restart_clients="yes", **PROMISE)
    assert [call for call in made(embedded) if call[1] in ("Shutdown", "Start")] == [
        ("personal", "Shutdown", "wait"),
        ("work", "Shutdown", "wait"),
        ("sys-vpn", "Start", ""),
        ("personal", "Start", ""),
        ("work", "Start", ""),
    ]
    assert set(answer.changes) == {"personal", "work", "sys-vpn", "netvm"}


def test_a_client_that_does_not_shut_down_stays_where_it_was(states, embedded, running):
    """And who was shut down before it runs again."""
    embedded.fail(dest="work", method="admin.vm.Shutdown", error="QubesVMShutdownTimeoutError")
    answer = states.default_netvm("sys-vpn", restart_clients="yes", **PROMISE)
    assert answer.result is False
    assert answer.comment == (
        "work did not shut down: injected fault. default_netvm sys-vpn was not made: it stays as "
        "it was."
    )
    assert netvms(embedded.snapshot())["work"] == "sys-firewall"
    assert {power(embedded)[name] for name in ("work", "personal")} == {"Running"}


def test_a_client_that_does_not_start_again_is_named(states, embedded, running):
    embedded.fail(dest="work", method="admin.vm.Start", error="QubesMemoryError")
    answer = states.netvm(**INTO, restart_clients="yes")
    assert answer.result is False
    assert answer.comment == (
        "work -> sys-vpn is made. work did not start: injected fault. Start it yourself: qvm-start "
        "work."
    )
    assert answer.changes["work"] == {"old": "running", "new": "halted"}
    assert netvms(embedded.snapshot())["work"] == "sys-vpn"


def test_a_move_that_is_refused_after_all_starts_them_again(states, embedded, running):
    embedded.fail(dest="work", arg="netvm", write=True, error="QubesValueError")
    answer = states.netvm(**INTO, restart_clients="yes")
    assert answer.comment == "work: netvm sys-vpn was refused: injected fault"
    assert (power(embedded)["work"], link(embedded, "work")) == ("Running", "sys-firewall")


def test_a_disposable_is_not_shut_down(states, embedded, running):
    """It would be gone, with what is in it."""
    name = embedded.call("default-dvm", "admin.vm.CreateDisposable").decode()
    embedded.call(name, "admin.vm.Start")
    answer = states.default_netvm("sys-vpn", restart_clients="yes", **PROMISE)
    assert f"{name} would be lost by a restart: it is moved as it runs." in answer.comment
    assert (power(embedded)[name], link(embedded, name)) == ("Running", "sys-vpn")


def test_a_whole_run_restarts_each_client_once(states, embedded, running, after_each_write):
    """R92. From topology dns to simple, where clients are offline meanwhile."""
    states.run(PILLARS["dns"])
    embedded.forget_calls()
    after_each_write.clear()
    run = states.run({**PILLARS["simple"], "restart_clients": "yes"})
    assert [state.comment for state in run.values() if state.result is False] == []
    restarts = [call for call in made(embedded) if call[1] in ("Shutdown", "Start")]
    assert restarts == [
        ("personal", "Shutdown", "wait"),
        ("work", "Shutdown", "wait"),
        ("personal", "Start", ""),
        ("work", "Start", ""),
    ]
    assert {link(embedded, name) for name in ("work", "personal")} == {"sys-vpn"}
    assert set().union(*map(in_clear, after_each_write)) == set()


# --- who cannot be moved now


@pytest.mark.parametrize("how", ["Pause", "Suspend"])
def test_a_frozen_client_is_not_moved(states, embedded, running, how):
    """Qubes would keep its old way until it goes on, and let it use that for a moment."""
    embedded.call("work", f"admin.vm.{how}")
    text = refused(states.netvm, embedded, **INTO)
    assert text == (
        "work -> sys-vpn would leave work on the old way: paused or suspended, a qube changes its "
        "netvm only after it goes on. Unpause it (qvm-unpause work) or shut it down, and run this "
        "again."
    )
    assert "leave work on" in refused(states.default_netvm, embedded, name="sys-vpn", **PROMISE)
    embedded.call("work", "admin.vm.Resume" if how == "Suspend" else "admin.vm.Unpause")
    assert states.netvm(**INTO).result is True


def test_what_qubes_itself_would_do_with_a_paused_client(embedded, running):
    """The reason: with its new netvm off, it goes on through the old one (qubes/vm/mix/net.py)."""
    embedded.call("sys-vpn", "admin.vm.Start")
    embedded.call("work", "admin.vm.Pause")
    embedded.call("work", "admin.vm.property.Set", "netvm", b"sys-vpn")
    embedded.call("sys-vpn", "admin.vm.Kill")
    embedded.call("work", "admin.vm.Unpause")
    assert netvms(embedded.snapshot())["work"] == "sys-vpn"
    assert link(embedded, "work") == "sys-firewall"


def test_a_paused_client_is_not_taken_offline_on_the_way_either(states, embedded, running):
    """Its firewall would be opened behind its back: the run stops before that."""
    states.run(PILLARS["dns"])
    embedded.call("work", "admin.vm.Pause")
    *_, last = states.run(PILLARS["simple"]).values()
    assert last.comment.startswith("sys-firewall -> sys-net would leave work on the old way")
    assert netvms(embedded.snapshot())["sys-firewall"] == "sys-dns"
    assert link(embedded, "work") == "sys-firewall"


def test_a_paused_client_stays_behind_a_firewall_that_moves(states, embedded, running):
    """Its own link is the same."""
    embedded.call("work", "admin.vm.Pause")
    assert states.netvm("sys-firewall", netvm="sys-vpn", **PROMISE).result is True


def test_nobody_is_connected_to_a_paused_netvm(states, embedded, running):
    embedded.call("sys-vpn", "admin.vm.Start")
    embedded.call("sys-vpn", "admin.vm.Pause")
    assert refused(states.netvm, embedded, **INTO) == (
        "sys-vpn is paused or suspended, and work could not be connected to it. Unpause it "
        "(qvm-unpause sys-vpn), and run this again."
    )
    embedded.call("work", "admin.vm.Shutdown")
    assert states.netvm(**INTO).result is True


def test_a_chain_of_halted_netvms_is_started(states, embedded, running):
    make(embedded, "sys-dns", "sys-vpn")
    changes = {
        "sys-dns": {"old": "halted", "new": "running"},
        "sys-vpn": {"old": "halted", "new": "running"},
        "netvm": {"old": "sys-firewall (inherited)", "new": "sys-dns"},
    }
    dry, real = answers(states.netvm, embedded, **{**INTO, "netvm": "sys-dns"})
    assert dry.changes == real.changes == changes
    assert link(embedded, "work") == "sys-dns"


@pytest.mark.parametrize("release", ["4.3", "4.2"])
def test_a_netvm_that_is_shut_down_meanwhile_is_named(states, embedded, running, monkeypatch):
    """Between our look and our write."""
    embedded.call("sys-vpn", "admin.vm.Start")
    call = EmbeddedQubes.call

    def somebody(self, dest, method, arg="", *rest):
        if (dest, arg) == ("work", "netvm"):
            call(self, "sys-vpn", "admin.vm.Kill")
        return call(self, dest, method, arg, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedQubes, "call", somebody)
        answer = states.netvm(**INTO)
    assert (answer.result, answer.changes) == (False, {})
    assert answer.comment == "work -> sys-vpn was not made: sys-vpn is off by now. Run this again."
    assert link(embedded, "work") == "sys-firewall"
    assert states.netvm(**INTO).result is True
    assert link(embedded, "work") == "sys-vpn"


def test_a_running_template_loses_its_netvm(states, embedded):
    """R23. A template in use: its updates go on by the updates proxy."""
    embedded.call("debian-13-xfce", "admin.vm.property.Set", "netvm", b"sys-firewall")
    embedded.call("debian-13-xfce", "admin.vm.Start")
    answer = states.template("debian-13-xfce", clone_of="debian-13-minimal", **PROMISE)
    assert answer.changes == {"netvm": {"old": "sys-firewall", "new": "none"}}
    assert link(embedded, "debian-13-xfce") is None
    assert power(embedded)["debian-13-xfce"] == "Running"


# --- disposables


def test_a_named_disposable_is_a_client_like_others(states, embedded, running):
    """It inherits until it has a netvm of its own choice."""
    embedded.call("dom0", "admin.vm.Create.DispVM", "default-dvm", b"name=shop label=red")
    embedded.call("shop", "admin.vm.Start")
    assert netvms(embedded.snapshot())["shop"] == "sys-firewall"
    states.netvm("shop", netvm="sys-vpn", **PROMISE)
    assert (own(embedded.snapshot(), "shop")["netvm"], link(embedded, "shop")) == ("sys-vpn",) * 2
    states.default_netvm("none", **PROMISE)
    assert link(embedded, "shop") == "sys-vpn"


def test_a_disposable_that_keeps_its_netvm_is_named(states, embedded):
    """It took that over from its template when it was made."""
    embedded.call("default-dvm", "admin.vm.property.Set", "netvm", b"sys-firewall")
    name = embedded.call("default-dvm", "admin.vm.CreateDisposable").decode()
    embedded.call(name, "admin.vm.Start")
    answer = states.netvm("default-dvm", netvm="sys-vpn", **PROMISE)
    assert f"{name}, a disposable of default-dvm, keeps sys-firewall until" in answer.comment
    assert link(embedded, name) == "sys-firewall"


@pytest.fixture
def preloaded(embedded):
    """Two disposables of default-dvm wait, paused, to be used; their names."""
    feature = ("fedora-42-xfce", "admin.vm.feature.Set", "supported-rpc.qubes.WaitForRunningSystem")
    embedded.call(*feature, b"1")
    embedded.call("default-dvm", "admin.vm.feature.Set", "preload-dispvm-max", b"2")
    embedded.forget_calls()
    return waiting(embedded)


def waiting(embedded) -> list[str]:
    return embedded.snapshot()["qubes"]["default-dvm"]["features"]["preload-dispvm"].split()


def use(embedded) -> str:
    """What a user gets who asks for one."""
    return embedded.call("default-dvm", "admin.vm.CreateDisposable").decode()


def test_what_qubes_itself_would_do_with_preloaded_disposables(embedded, preloaded):
    """The reason for the next tests: with the new netvm off, they go on through the old one."""
    embedded.call("sys-vpn", "admin.vm.Start")
    embedded.call("dom0", "admin.property.Set", "default_netvm", b"sys-vpn")
    embedded.call("sys-vpn", "admin.vm.Shutdown")  # which they do not keep from happening
    name = use(embedded)
    assert name in preloaded
    assert netvms(embedded.snapshot())[name] == "sys-vpn"
    assert link(embedded, name) == "sys-firewall"


def test_preloaded_disposables_do_not_outlive_a_change_of_the_default(states, embedded, preloaded):
    """R07."""
    dry, real = answers(states.default_netvm, embedded, name="sys-vpn", **PROMISE)
    assert dry.changes == real.changes
    assert {name: real.changes[name]["new"] for name in preloaded} == dict.fromkeys(
        preloaded, "discarded"
    )
    assert "preloaded with the old netvm, and discarded" in real.comment
    assert made(embedded)[:2] == [(name, "Kill", "") for name in sorted(preloaded)]
    assert not set(preloaded) & embedded.snapshot()["qubes"].keys()
    assert set(real.changes["with it"]["new"].split(", ")).isdisjoint(preloaded)
    name = use(embedded)
    embedded.call(name, "admin.vm.Start")
    assert link(embedded, name) == "sys-vpn"


def test_preloaded_disposables_do_not_outlive_a_move_of_their_template(states, embedded, preloaded):
    """R07. qubesd sees to that from 4.3.40 on; before, they kept the old netvm."""
    answer = states.netvm("default-dvm", netvm="sys-vpn", **PROMISE)
    assert answer.result is True
    assert not set(preloaded) & embedded.snapshot()["qubes"].keys()
    name = use(embedded)
    embedded.call(name, "admin.vm.Start")
    assert link(embedded, name) == "sys-vpn"


def test_preloaded_disposables_are_in_nobodys_way(states, embedded, preloaded, after_each_write):
    """R92. Whatever their template's netvm is, they are discarded and the run gets there."""
    embedded.call("default-dvm", "admin.vm.property.Set", "netvm", b"sys-firewall")
    routes = {"qubes": {**PILLARS["dns"]["routes"]["qubes"], "default-dvm": "sys-firewall"}}
    assert all(state.result for state in states.run({**PILLARS["dns"], "routes": routes}).values())
    before = in_clear(embedded.snapshot())
    embedded.call("default-dvm", "admin.vm.CreateDisposable", "preload")
    assert len(waiting(embedded)) == 2
    after_each_write.clear()
    routes = {"qubes": {**PILLARS["simple"]["routes"]["qubes"], "default-dvm": "sys-vpn"}}
    run = states.run({**PILLARS["simple"], "routes": routes})
    assert [state.comment for state in run.values() if state.result is False] == []
    assert set().union(*map(in_clear, after_each_write)) == before
    name = use(embedded)
    embedded.call(name, "admin.vm.Start")
    assert link(embedded, name) == "sys-vpn"


def test_a_disposable_that_is_in_use_by_now_is_not_discarded(
    states, embedded, preloaded, monkeypatch
):
    """Somebody asked for one between our look and the discarding: it is not ours to end."""
    call, used = EmbeddedQubes.call, []

    def somebody(self, dest, method, *rest):
        if method == "admin.vm.Kill" and not used:
            used.append(call(self, "default-dvm", "admin.vm.CreateDisposable").decode())
        return call(self, dest, method, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedQubes, "call", somebody)
        answer = states.default_netvm("sys-vpn", **PROMISE)
    assert used
    assert (answer.result, power(embedded).get(used[0])) == (False, "Running")
    assert answer.comment.startswith(f"{used[0]} was taken into use meanwhile. Run this again.")
    assert states.default_netvm("sys-vpn", **PROMISE).result is True
    assert link(embedded, used[0]) == "sys-vpn"
