# SPDX-License-Identifier: GPL-2.0-or-later
"""qubes.network.undo: the machine is as it was before the formula, and a user's later change stays.

On the fresh machine personal, work and untrusted inherit their netvm sys-firewall.
"""

import itertools
import time

import pytest
from pillars import PILLARS
from snapshots import compared, in_clear, netvms, own, put_back, way

pytestmark = pytest.mark.usefixtures("whonix_gateway")

SLS = "qubes.network.undo"


def same(snapshot):
    """What an undo has to bring back: a list never set is the one that qubesd gives every qube."""
    machine = compared(snapshot)
    for qube in machine["qubes"].values():
        qube["rules"] = qube["rules"] or ["action=accept"]
        qube.pop("power")
    return machine


def without_made(machine, before):
    return {**machine, "qubes": {name: machine["qubes"][name] for name in before["qubes"]}}


def refused(done):
    return [state.comment for state in done.values() if state.result is False]


@pytest.mark.parametrize("name", PILLARS)
def test_undo_brings_the_machine_back(states, embedded, name):
    """R15, R92."""
    before = same(embedded.snapshot())
    assert refused(states.run(PILLARS[name])) == []
    assert same(embedded.snapshot()) != before
    embedded.forget_calls()
    dry = states.undo(test=True)
    assert embedded.writes() == []
    done = states.undo()
    assert refused(done) == []
    assert {key: state.changes for key, state in done.items()} == {
        key: state.changes for key, state in dry.items()
    }
    after = same(embedded.snapshot())
    assert without_made(after, before) == before
    made = set(after["qubes"]) - set(before["qubes"])
    assert made
    assert {netvms(embedded.snapshot()).get(name) for name in made} == {None}
    embedded.forget_calls()
    assert states.undo() == {}
    assert embedded.calls() == []
    dry = states.undo(remove=True, test=True)
    assert embedded.writes() == []
    done = states.undo(remove=True)
    assert refused(done) == []
    assert [state.changes for state in done.values()] == [state.changes for state in dry.values()]
    assert same(embedded.snapshot()) == before
    embedded.forget_calls()
    assert {str(state.changes) for state in states.undo(remove=True).values()} == {"{}"}
    assert embedded.writes() == []


def test_undo_may_remove_in_the_same_run(states, embedded):
    before = same(embedded.snapshot())
    states.run(PILLARS["dns"])
    dry = states.undo(remove=True, test=True)
    done = states.undo(remove=True)
    assert refused(done) == []
    assert [state.changes for state in done.values()] == [state.changes for state in dry.values()]
    assert same(embedded.snapshot()) == before


# --- to before the first run, or before the last


def test_last_undoes_the_last_run_and_first_all_that_are_left(states, embedded):
    """R15. From the topology dns to simple and back again, with qubes running."""
    fresh = same(embedded.snapshot())
    for name in ("work", "untrusted"):
        embedded.call(name, "admin.vm.Start")
    assert refused(states.run(PILLARS["dns"])) == []
    dns = same(embedded.snapshot())
    assert refused(states.run(PILLARS["simple"])) == []
    assert same(embedded.snapshot()) != dns
    assert refused(states.undo(to="last")) == []
    assert same(embedded.snapshot()) == dns
    assert states.undo(to="last") == {}
    assert refused(states.undo(to="first")) == []
    assert without_made(same(embedded.snapshot()), fresh) == fresh
    for to in ("first", "last"):
        assert states.undo(to=to) == {}


def test_first_undoes_all_runs_at_once(states, embedded):
    fresh = same(embedded.snapshot())
    for name in ("dns", "simple", "custom", "whonix"):
        assert refused(states.run(PILLARS[name])) == []
    assert refused(states.undo(remove=True)) == []
    assert same(embedded.snapshot()) == fresh


def test_run_that_changes_nothing_is_not_the_last(states, embedded):
    fresh = same(embedded.snapshot())
    for _ in range(2):
        assert refused(states.run(PILLARS["dns"])) == []
    assert refused(states.undo(to="last", remove=True)) == []
    assert same(embedded.snapshot()) == fresh


def test_run_after_an_undo_can_be_undone(states, embedded):
    fresh = same(embedded.snapshot())
    states.run(PILLARS["dns"])
    dns = same(embedded.snapshot())
    states.undo()
    embedded.call("work", "admin.vm.property.Set", "netvm", b"")
    changed = same(embedded.snapshot())
    assert refused(states.run(PILLARS["dns"])) == []
    assert same(embedded.snapshot()) == dns
    assert refused(states.undo()) == []
    assert without_made(same(embedded.snapshot()), fresh) == without_made(changed, fresh)


# --- what somebody has changed since is theirs

CHANGED = {
    "a netvm taken off by hand": ("work", "netvm", b"", "work: netvm as it was"),
    "a netvm chosen by hand": ("work", "netvm", b"sys-whonix", "work: netvm as it was"),
    "the netvm of a service qube": ("sys-firewall", "netvm", b"", "sys-firewall: netvm as it was"),
}


@pytest.mark.parametrize("changed", CHANGED)
def test_what_was_changed_by_hand_is_kept_and_said(states, embedded, changed):
    name, key, value, step = CHANGED[changed]
    before = same(embedded.snapshot())
    states.run(PILLARS["dns"])
    embedded.call(name, "admin.vm.property.Set", key, value)
    for test in (True, False):
        answer = states.undo(test=test)[step]
        assert (answer.result, answer.changes) == (True, {})
        shown = value.decode() or "none"
        text = f"{name}: {key} is {shown}, which somebody has set since. It is kept; before, it"
        assert answer.comment.startswith(text)
    before["qubes"][name]["properties"][key] = value.decode() or None
    assert without_made(same(embedded.snapshot()), before) == before


def test_what_a_tunnel_of_the_users_own_had_comes_back(states, embedded):
    """sys-vpn was there before: list, features, properties and netvm are as they were."""
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-vpn label=red")
    rules = b"action=accept proto=tcp dst4=192.0.2.99/32 dstports=443-443\naction=drop\n"
    embedded.call("sys-vpn", "admin.vm.firewall.Set", "", rules)
    embedded.call("sys-vpn", "admin.vm.feature.Set", "service.network-manager", b"")
    embedded.call("sys-vpn", "admin.vm.property.Set", "maxmem", b"1234")
    before = same(embedded.snapshot())
    assert refused(states.run(PILLARS["dns"])) == []
    assert embedded.snapshot()["qubes"]["sys-vpn"]["properties"]["label"] == "orange"
    assert refused(states.undo()) == []
    after = without_made(same(embedded.snapshot()), before)
    assert after == before


def test_feature_and_rules_changed_by_hand_are_kept(states, embedded):
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-vpn label=red")
    states.run(PILLARS["dns"])
    embedded.call("sys-vpn", "admin.vm.feature.Set", "service.qubes-vpn", b"")
    embedded.call("sys-vpn", "admin.vm.firewall.Set", "", b"action=drop\n")
    done = states.undo()
    assert refused(done) == []
    for step in ("sys-vpn: service.qubes-vpn as it was", "sys-vpn: rules as it was"):
        assert "which somebody has set since" in done[step].comment
    qube = embedded.snapshot()["qubes"]["sys-vpn"]
    assert (qube["features"]["service.qubes-vpn"], qube["rules"]) == ("", ["action=drop"])


def test_rules_that_have_expired_meanwhile_do_not_hinder(states, embedded):
    """qubesd forgets them by itself."""
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-vpn label=red")
    soon = str(int(time.time()) + 2)
    rules = f"action=accept expire={soon} dst4=192.0.2.9/32\naction=drop\n"
    embedded.call("sys-vpn", "admin.vm.firewall.Set", "", rules.encode())
    states.run(PILLARS["dns"])
    time.sleep(max(0.0, int(soon) + 0.1 - time.time()))
    assert refused(states.undo()) == []
    assert embedded.snapshot()["qubes"]["sys-vpn"]["rules"] == ["action=drop"]


def test_qube_that_is_gone_and_one_that_took_its_name(states, embedded):
    states.run(PILLARS["dns"])
    for name in ("work", "personal"):
        embedded.call(name, "admin.vm.Remove")
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=personal label=red")
    embedded.call("personal", "admin.vm.property.Set", "netvm", b"sys-firewall")
    done = states.undo()
    assert refused(done) == []
    assert done["work: netvm as it was"].comment == "there is no qube 'work' any more"
    assert done["personal: netvm as it was"].comment == (
        "'personal' is another qube than the one that was changed: it stays as it is."
    )
    assert own(embedded.snapshot(), "personal")["netvm"] == "sys-firewall"


def test_netvm_that_is_gone_cannot_come_back(states, embedded):
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-old label=red")
    embedded.call("sys-old", "admin.vm.property.Set", "provides_network", b"True")
    embedded.call("vault", "admin.vm.property.Set", "netvm", b"sys-old")
    states.run(PILLARS["dns"])
    embedded.call("sys-old", "admin.vm.Remove")
    done = states.undo()
    assert refused(done) == []
    assert done["vault: netvm as it was"].comment == (
        "vault: netvm was sys-old, and there is no such qube any more. It stays as it is."
    )
    assert netvms(embedded.snapshot())["vault"] is None


# --- nobody is let out who was not out before, nor is now


def test_way_out_that_somebody_opened_since_is_not_taken(states, embedded):
    """R92. work was offline behind sys-old; sys-old has got a way out since."""
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-old label=red")
    embedded.call("sys-old", "admin.vm.property.Set", "provides_network", b"True")
    embedded.call("sys-old", "admin.vm.property.Set", "netvm", b"")
    embedded.call("work", "admin.vm.property.Set", "netvm", b"sys-old")
    states.run(PILLARS["dns"])
    embedded.call("sys-old", "admin.vm.property.Set", "netvm", b"sys-net")
    for test in (True, False):
        (text,) = refused(states.undo(test=test))
        assert text == (
            "work: with netvm as it was (sys-old), work would be in clear, which is not so now, "
            "and before it was not so by this way: somebody has changed a way out since. This step "
            "changed nothing. Take offline who is named (qvm-prefs work netvm none), and run this "
            "again."
        )
    assert netvms(embedded.snapshot())["work"] == "sys-firewall"
    embedded.call("work", "admin.vm.property.Set", "netvm", b"")
    assert refused(states.undo()) == []
    assert netvms(embedded.snapshot())["work"] is None


WIFI = {
    "the same chain": {**PILLARS["dns"], "uplink": "sys-wifi"},
    "another chain": {**PILLARS["simple"], "uplink": "sys-wifi"},
}


@pytest.mark.parametrize("then", WIFI)
def test_runs_with_different_uplinks_are_undone_at_once(states, embedded, then):
    """R92. Who was in clear before the first run was so by the uplink of that run."""
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-wifi label=red")
    embedded.call("sys-wifi", "admin.vm.property.Set", "provides_network", b"True")
    embedded.call("sys-wifi", "admin.vm.property.Set", "netvm", b"")
    before = same(embedded.snapshot())
    for pillar in (PILLARS["dns"], WIFI[then]):
        assert refused(states.run(pillar)) == []
    dry, done = states.undo(test=True), states.undo()
    assert refused(done) == refused(dry) == []
    assert [state.changes for state in done.values()] == [state.changes for state in dry.values()]
    assert without_made(same(embedded.snapshot()), before) == before


def test_way_that_a_killed_run_left_is_not_said_to_be_somebodys(states, embedded):
    """R92. It was killed when qubesd had made sys-vpn-two, which inherits sys-firewall."""
    assert refused(states.run(PILLARS["dns"])) == []
    tunnel = PILLARS["custom"]["tunnels"]["sys-vpn"]
    tunnels = {"sys-vpn": tunnel, "sys-vpn-two": {**tunnel, "upstream": "sys-vpn"}}
    pillar = {"topology": "custom", "tunnels": tunnels, "routes": {"default": "sys-vpn-two"}}
    embedded.fail(method="admin.vm.Create.AppVM", kill="after")
    assert states.run_in_child(pillar) == -9
    assert netvms(embedded.snapshot())["sys-vpn-two"] == "sys-firewall"
    for test in (True, False):
        (text,) = refused(states.undo(test=test))
        assert text == (
            "sys-firewall: with netvm as it was (sys-net), sys-vpn-two would be in clear, which is "
            "not so now, and before it was not so by this way: an interrupted run left sys-vpn-two "
            "half made. This step changed nothing. Take offline who is named (qvm-prefs "
            "sys-vpn-two netvm none), and run this again."
        )
    embedded.call("sys-vpn-two", "admin.vm.property.Set", "netvm", b"")
    assert refused(states.undo()) == []


def test_template_that_inherits_gets_no_netvm_from_dom0s_default(states, embedded):
    """R69. Its default is none, whatever default_netvm is (qubes/vm/templatevm.py)."""
    embedded.call("debian-13-xfce", "admin.vm.property.Reset", "netvm")
    before = same(embedded.snapshot())
    assert refused(states.run({**PILLARS["dns"], "routes": {"default": "none"}})) == []
    dry, done = states.undo(test=True), states.undo()
    assert refused(done) == refused(dry) == []
    assert [state.changes for state in done.values()] == [state.changes for state in dry.values()]
    assert without_made(same(embedded.snapshot()), before) == before


@pytest.mark.parametrize(
    ("first", "then"), [pair for pair in itertools.permutations(PILLARS, 2) if "dns" in pair]
)
def test_no_write_of_an_undo_lets_anybody_out(states, embedded, after_each_write, first, then):
    """R92. Not in clear before the undo nor before the runs: not in clear after any write."""
    before = in_clear(embedded.snapshot())
    states.run(PILLARS[first])
    between = in_clear(embedded.snapshot())
    states.run(PILLARS[then])
    now = in_clear(embedded.snapshot())
    for to, allowed in (("last", between | now), ("first", before | between)):
        after_each_write.clear()
        assert refused(states.undo(to=to)) == []
        for snapshot in after_each_write:
            assert in_clear(snapshot) <= allowed


def test_a_firewall_that_was_made_is_not_let_out_before_it_is_taken_off(
    states, embedded, after_each_write
):
    """R12, R92. It sends something itself, and hangs on one that goes back in front of the VPN."""
    firewalls = {"sys-firewall": {}, "sys-firewall-two": {"upstream": "sys-firewall"}}
    assert refused(states.run({**PILLARS["dns"], "firewalls": firewalls})) == []
    after_each_write.clear()
    assert refused(states.undo()) == []
    ways = [way("sys-firewall-two", netvms(snapshot)) for snapshot in after_each_write]
    assert ways[-1] == ["sys-firewall-two"]
    assert [way for way in ways if way[-1] == "sys-net" and "sys-vpn" not in way] == []


def test_who_may_get_out_again_is_told_also_when_it_was_not_certain_before(states, embedded):
    """R69, R92. sys-old inherits "none" from the run: is it an uplink, or offline?"""
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-old label=red")
    embedded.call("sys-old", "admin.vm.property.Set", "provides_network", b"True")
    embedded.call("untrusted", "admin.vm.property.Set", "netvm", b"sys-old")
    pillar = {**PILLARS["simple"], "routes": {"default": "none", "qubes": {}}}
    assert refused(states.run(pillar)) == []
    for test in (True, False):
        done = states.undo(test=test)
        assert refused(done) == []
        told = done["dom0: default_netvm as it was"].changes["in clear again"]["new"]
        assert "untrusted" in told.split(", ")


# --- what would stop it half way is said before anything is changed


@pytest.fixture
def own_tunnel(states, embedded):
    """sys-vpn was the user's, and provided network; nobody hung on it."""
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-vpn label=red")
    embedded.call("sys-vpn", "admin.vm.property.Set", "provides_network", b"True")
    embedded.call("sys-vpn", "admin.vm.property.Set", "netvm", b"sys-net")
    before = same(embedded.snapshot())
    assert refused(states.run(PILLARS["simple"])) == []
    return before


def refused_early(states, embedded):
    """The text of the refusal, the same in the dry run, with nothing written."""
    embedded.forget_calls()
    (dry,), (text,) = refused(states.undo(test=True)), refused(states.undo())
    assert embedded.writes() == []
    assert text == dry
    return text


@pytest.mark.parametrize("between", [None, "sys-mine"])
def test_no_tunnel_is_undone_while_somebody_new_hangs_on_it(states, embedded, own_tunnel, between):
    """R92. Its list would be "accept", and its service gone."""
    for name in filter(None, [between, "mine"]):
        embedded.call("dom0", "admin.vm.Create.AppVM", "", f"name={name} label=red".encode())
    if between:
        embedded.call(between, "admin.vm.property.Set", "provides_network", b"True")
        embedded.call(between, "admin.vm.property.Set", "netvm", b"sys-vpn")
    embedded.call("mine", "admin.vm.property.Set", "netvm", (between or "sys-vpn").encode())
    text = refused_early(states, embedded)
    who = "sys-mine" if between else "mine"
    start, end = text.split(" would still hang on it")
    assert start.startswith("sys-vpn would be as it was before it was made a VPN qube (")
    assert set(start.split("), and ")[1].split(", ")) == {who, "mine"}
    assert "then run this again. Nothing is undone yet." in end
    embedded.call(who, "admin.vm.property.Set", "netvm", b"")
    assert refused(states.undo()) == []
    assert without_made(same(embedded.snapshot()), own_tunnel) == own_tunnel


def test_tunnel_goes_back_to_the_clients_that_it_had(states, embedded):
    """They hung on it just so before the run."""
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-vpn label=red")
    embedded.call("sys-vpn", "admin.vm.property.Set", "provides_network", b"True")
    embedded.call("sys-vpn", "admin.vm.property.Set", "netvm", b"sys-net")
    embedded.call("untrusted", "admin.vm.property.Set", "netvm", b"sys-vpn")
    before = same(embedded.snapshot())
    assert refused(states.run(PILLARS["simple"])) == []
    assert refused(states.undo()) == []
    assert without_made(same(embedded.snapshot()), before) == before


def test_netvm_that_would_provide_none_is_known_before_the_first_write(states, embedded):
    """R92. A firewall qube of ours, which was somebody's client before."""
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-dns label=red")
    before = same(embedded.snapshot())
    assert refused(states.run(PILLARS["dns"])) == []
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=mine label=red")
    embedded.call("mine", "admin.vm.property.Set", "netvm", b"sys-dns")
    assert refused_early(states, embedded) == (
        "'sys-dns' provided no network before, and now it is the netvm of mine. Give each of them "
        "another one, then run this again."
    )
    embedded.call("mine", "admin.vm.property.Set", "netvm", b"")
    assert refused(states.undo()) == []
    assert without_made(same(embedded.snapshot()), before) == before


def test_template_of_what_runs_is_known_before_the_first_write(states, embedded, own_tunnel):
    """R92. qubesd changes it only while the qube is halted."""
    embedded.call("sys-vpn", "admin.vm.Start")
    assert refused_early(states, embedded) == (
        "sys-vpn is running, and its template can change only while it is halted. Shut it down "
        "(qvm-shutdown sys-vpn), then run this again. Nothing is undone yet."
    )
    embedded.call("sys-vpn", "admin.vm.Shutdown")
    assert refused(states.undo()) == []
    template = own_tunnel["qubes"]["sys-vpn"]["properties"]["template"]
    assert own(embedded.snapshot(), "sys-vpn")["template"] == template


# --- killed


@pytest.mark.parametrize("remove", [False, True], ids=["work runs", "removing"])
def test_undo_killed_at_any_call_is_finished_by_the_next(states, embedded, remove):
    """R92."""
    if not remove:
        embedded.call("work", "admin.vm.Start")
    before = same(embedded.snapshot())
    states.run(PILLARS["dns"])
    states.run(PILLARS["simple"])
    wired, record = embedded.path.read_bytes(), states.record.read_bytes()
    embedded.forget_calls()
    assert refused(states.undo(remove=remove)) == []
    undone = same(embedded.snapshot())
    assert without_made(undone, before) == before
    assert remove == (undone == before)
    calls = embedded.calls()
    for at, call in enumerate(calls, 1):
        for kill in ("before", "after") if call.write else ("before",):
            put_back(embedded, wired)
            states.record.write_bytes(record)
            embedded.fail(at=at, kill=kill)
            assert states.undo_in_child(remove=remove) == -9
            assert refused(states.undo(remove=remove)) == []
            assert same(embedded.snapshot()) == undone, f"killed {kill} {call}"
            assert states.undo() == {}


# --- with all of Salt around it


def told(run):
    return " ".join(run.stdout.split())


def test_undo_by_salt_needs_no_pillar_and_says_who_is_in_clear_again(salt_text, embedded, minion):
    """R69. The pillar may be what is wrong."""
    assert salt_text("state.sls", "qubes.network.sys-vpn", pillar=PILLARS["simple"]).code == 0
    embedded.call("work", "admin.vm.property.Set", "netvm", b"")
    embedded.forget_calls()
    dry = salt_text("state.sls", SLS, "test=True", pillar="qubes_vpn: {topolgy: 1}\n")
    assert dry.code == 0, dry.stdout
    assert embedded.writes() == []
    real = salt_text("state.sls", SLS)
    assert real.code == 0, real.stdout
    for run in (dry, real):
        assert "in clear again: ---------- new: default-dvm, untrusted" in told(run)
        assert "work: netvm is none, which somebody has set since. It is kept;" in told(run)
        assert "Traceback" not in run.stdout + run.stderr
    assert netvms(embedded.snapshot())["personal"] == "sys-firewall"
    embedded.forget_calls()
    again = salt_text("state.sls", SLS)
    assert (again.code, embedded.calls()) == (0, [])
    assert "The record has no change of a run that has not been undone." in told(again)


def test_undo_by_salt_with_a_pillar_that_cannot_be_read(salt_text, embedded, minion):
    """R69. Salt applies nothing then, unless it is told to."""
    assert salt_text("state.sls", "qubes.network.sys-vpn", pillar=PILLARS["simple"]).code == 0
    embedded.forget_calls()
    assert salt_text("state.sls", SLS, pillar="qubes_vpn: [\n").code != 0
    assert embedded.writes() == []
    run = salt_text("state.sls", SLS, "force=True", 'pillar={"qubes_vpn_undo": {"to": "last"}}')
    assert run.code == 0, run.stdout
    assert netvms(embedded.snapshot())["personal"] == "sys-firewall"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("{to: frist}", "qubes_vpn_undo.to: 'frist' is no point to go back to. Write first"),
        ("{remove: 7}", "qubes_vpn_undo.remove: 7 is not true or false. Write true to"),
        ("{too: last}", "qubes_vpn_undo.too: unknown key. Did you mean 'to'?"),
        ("last", "qubes_vpn_undo: 'last' is no mapping. Write {to: first}"),
    ],
)
def test_wrong_option_stops_it_in_words(salt_text, embedded, options, text):
    run = salt_text("state.sls", SLS, f"pillar={{qubes_vpn_undo: {options}}}")
    assert run.code == 1
    assert text in told(run)
    assert embedded.calls() == []


def test_undo_by_salt_of_a_qube_that_was_made_again(salt_text, embedded, minion):
    """R92. Both of that name have steps; Salt wants each id but once."""
    assert salt_text("state.sls", "qubes.network.sys-vpn", pillar=PILLARS["dns"]).code == 0
    embedded.call("work", "admin.vm.Remove")
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=work label=red")
    assert salt_text("state.sls", "qubes.network.sys-vpn").code == 0
    assert netvms(embedded.snapshot())["work"] == "sys-firewall"
    run = salt_text("state.sls", SLS)
    assert run.code == 0, run.stdout
    assert "'work' is another qube than the one that was changed" in told(run)
    assert salt_text("state.sls", "qubes.network.clean").code == 0


def test_clean_takes_the_record_away_after_an_undo_and_not_before(salt_text, embedded, minion):
    clean, kept = ("state.sls", "qubes.network.clean"), minion.folder / "qubes-vpn"
    assert salt_text("state.sls", "qubes.network.sys-vpn", pillar=PILLARS["dns"]).code == 0
    embedded.forget_calls()
    for words in (["test=True"], []):
        run = salt_text(*clean, *words)
        assert run.code != 0
        assert "Undo them first (qubesctl state.sls qubes.network.undo)." in told(run)
    assert salt_text("state.sls", SLS).code == 0
    before = embedded.snapshot()
    for name in ("work", "sys-new"):
        embedded.call("dom0", "admin.vm.feature.Set", f"x-qubes-vpn-making.{name}", b"1")
    assert "a note says that work may be half made. If the pillar" in told(salt_text(*clean))
    embedded.call("dom0", "admin.vm.feature.Remove", "x-qubes-vpn-making.work")
    assert "would be removed" in told(salt_text(*clean, "test=True"))
    assert kept.is_dir()
    assert salt_text(*clean).code == 0  # the note of what is not there goes with the record
    assert embedded.snapshot() == before
    assert not kept.exists()
    assert "there are none" in told(salt_text(*clean))


# --- the record


def test_step_whose_record_cannot_be_written_changes_nothing(states, embedded):
    """R92."""
    states.record.parent.mkdir(mode=0o700)
    states.record.mkdir()
    for pillar in PILLARS.values():
        (text,) = refused(states.run(pillar))
        assert text.startswith("what is there cannot be recorded in ")
    assert embedded.writes() == []
    states.record.rmdir()
    assert refused(states.run(PILLARS["dns"])) == []


def test_dry_run_is_refused_as_the_real_one_when_the_record_will_not_do(states, modules, embedded):
    """R69, R92."""
    embedded.call("work", "admin.vm.property.Set", "netvm", b"")
    states.record.parent.mkdir(mode=0o700)
    states.record.touch()
    states.record.chmod(0o666)
    for pillar in PILLARS.values():
        embedded.forget_calls()
        dry = refused(states.run(pillar, test=True))
        assert "mode 0600" in dry[0]
        assert dry == refused(states.run(pillar))
        plan = modules.qubes_vpn.plan(pillar, live=True)["steps"]
        assert dry == [step["problem"] for step in plan if step["problem"]]
        assert embedded.writes() == []


@pytest.mark.parametrize("name", ["sys-vpn", "t-vpn", "sys-none"])
def test_no_note_is_removed_under_a_damaged_record(states, embedded, name):
    """R92. Also not where it is all that is missing."""
    assert refused(states.run(PILLARS["dns"])) == []
    first, *rest = states.record.read_bytes().splitlines(keepends=True)
    states.record.write_bytes(b"".join([first, *rest[1:]]))
    embedded.call("dom0", "admin.vm.feature.Set", f"x-qubes-vpn-making.{name}", b"1")
    embedded.forget_calls()
    for test in (True, False):
        answer, *_ = [
            state for state in states.run(PILLARS["dns"], test=test).values() if not state.result
        ]
        assert "line 2 is damaged, or one before it is lost" in answer.comment
        assert answer.changes == {}
        assert embedded.writes() == []


def test_dry_run_writes_no_record(states, embedded):
    states.run(PILLARS["dns"], test=True)
    assert not states.record.exists()
    states.run(PILLARS["dns"])
    record = states.record.read_bytes()
    states.undo(test=True)
    states.run(PILLARS["simple"], test=True)
    assert states.record.read_bytes() == record


# --- removing what was made


def test_what_is_in_use_or_runs_is_not_removed(states, embedded):
    states.run(PILLARS["simple"])
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=own label=red")
    embedded.call("own", "admin.vm.property.Set", "netvm", b"sys-vpn")
    for test in (True, False):
        (text,) = refused(states.undo(remove=True, test=test))
        assert text == (
            "'sys-vpn' is in use: it is netvm of own. Let each of them have another one, then run "
            "this again."
        )
    embedded.call("own", "admin.vm.Remove")
    embedded.call("sys-vpn", "admin.vm.Start")
    (text,) = refused(states.undo(remove=True))
    assert text == "'sys-vpn' runs. Shut it down (qvm-shutdown sys-vpn), then run this again."
    embedded.call("sys-vpn", "admin.vm.Kill")
    assert refused(states.undo(remove=True)) == []
    assert not {"sys-vpn", "t-vpn"} & set(embedded.snapshot()["qubes"])


def test_qube_of_the_users_with_the_name_of_one_that_was_made_stays(states, embedded):
    states.run(PILLARS["dns"])
    states.undo(remove=True)
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-vpn label=red")
    done = states.undo(remove=True)
    assert done["sys-vpn: removed"].comment == (
        "'sys-vpn' is another one than the formula made: it stays."
    )
    assert "sys-vpn" in embedded.snapshot()["qubes"]
