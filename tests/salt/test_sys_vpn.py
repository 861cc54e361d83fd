# SPDX-License-Identifier: GPL-2.0-or-later
"""qubes.network.sys-vpn as a user runs it: a pillar, `salt-call`, and then the machine is so."""

import itertools

import pytest
import yaml
from pillars import LAYOUT, PILLARS
from snapshots import in_clear, netvms, own, put_back

from qubes_vpn_formula.masterless import Masterless

pytestmark = pytest.mark.usefixtures("whonix_gateway")

SLS = "qubes.network.sys-vpn"
WIREGUARD_RULES = [
    "action=accept dst4=192.0.2.1/32 proto=udp dstports=51820-51820",
    "action=drop",
]
#: netvms that are not as on the fresh machine
WIRED = {
    "dns": {
        "sys-vpn": "sys-net",
        "sys-dns": "sys-vpn",
        "sys-firewall": "sys-dns",
    },
    "simple": {
        "sys-vpn": "sys-firewall",
        "personal": "sys-vpn",
        "work": "sys-vpn",
        "untrusted": "sys-vpn",
        "default-dvm": "sys-vpn",
        "sys-whonix": "sys-vpn",
    },
    "custom": {
        "sys-vpn": "sys-net",
        "sys-vpn-two": "sys-net",
        "sys-firewall": "sys-vpn",
        "sys-firewall-two": "sys-vpn-two",
        "sys-firewall-novpn": "sys-net",
        "work": "sys-firewall-two",
        "untrusted": "sys-firewall-novpn",
    },
    "whonix": {
        "sys-vpn": "sys-net",
        "sys-dns": "sys-vpn",
        "sys-firewall": "sys-dns",
        "untrusted": "sys-whonix",
    },
}
CHOSEN = {
    "dns": {"personal", "work"},
    "simple": {"personal", "work"},
    "custom": {"personal", "work", "untrusted"},
    "whonix": {"sys-whonix", "untrusted"},
}
DEFAULT = {"simple": "sys-vpn"}


def changes(run) -> list[tuple]:
    """(id, changes) of every state, in order."""
    assert isinstance(run.data, dict), run.stdout
    done = sorted(run.data.values(), key=lambda state: state["__run_num__"])
    return [(state["__id__"], state["changes"]) for state in done]


# --- what it makes


@pytest.mark.parametrize(
    ("name", "release"),
    [("dns", "4.3"), ("simple", "4.3"), ("custom", "4.3"), ("whonix", "4.3"), ("dns", "4.2")],
)
def test_dry_run_predicts_the_run_and_the_second_has_nothing_to_do(
    salt_call, states, embedded, name
):
    """R01, R02, R03, R05, R08, R69."""
    before = netvms(embedded.snapshot())

    dry = salt_call("state.sls", SLS, "test=True", pillar=PILLARS[name])
    assert dry.returncode == 0, dry.stdout
    assert embedded.writes() == []

    real = salt_call("state.sls", SLS)
    assert real.returncode == 0, real.stdout
    assert changes(real) == changes(dry)
    machine = embedded.snapshot()
    assert netvms(machine) == {**before, **WIRED[name]}
    assert {qube for qube in CHOSEN[name] if "netvm" not in own(machine, qube)} == set()
    assert machine["globals"]["default_netvm"] == DEFAULT.get(name, "sys-firewall")
    assert machine["qubes"]["sys-vpn"]["rules"] == WIREGUARD_RULES

    embedded.forget_calls()
    again = salt_call("state.sls", SLS)
    assert again.returncode == 0
    assert {state for state, made in changes(again) if made} == set()
    assert embedded.writes() == []
    # Two, one for each qube and template, and firewall lists and features one by one (R94).
    assert len(embedded.calls()) <= 2 + len(machine["qubes"]) + {"dns": 14}.get(name, 24)


def test_qubes_are_as_the_pillar_describes_them(states, embedded):
    """R01, R12, R21, R42."""
    states.run(PILLARS["custom"])
    qubes = embedded.snapshot()["qubes"]
    two = qubes["sys-vpn-two"]
    described = {
        "template": "t-vpn",
        "label": "purple",
        "maxmem": 800,
        "autostart": True,
        "provides_network": True,
    }
    assert two["properties"].items() >= described.items()
    assert two["features"] == {
        "service.qubes-vpn": "1",
        "service.network-manager": "1",
        "servicevm": "1",
    }
    assert two["rules"] == [
        "action=accept dst4=198.51.100.0/28 proto=udp dstports=1194-1194",
        "action=accept dst6=2001:db8::7/128 proto=tcp dstports=443-443",
        "action=drop",
    ]
    assert qubes["t-vpn"]["klass"] == "TemplateVM"
    assert qubes["work"]["rules"] == [
        "action=accept dsthost=mail.example proto=tcp dstports=993-993",
        "action=accept specialtarget=dns",
        "action=drop",
    ]


def test_a_firewall_qube_that_exists_keeps_what_is_its_own(states, embedded):
    embedded.call("sys-firewall", "admin.vm.property.Set", "label", b"blue")
    embedded.call("sys-firewall", "admin.vm.property.Set", "maxmem", b"700")
    embedded.call("sys-firewall", "admin.vm.feature.Set", "x-mine", b"1")
    before = embedded.snapshot()["qubes"]["sys-firewall"]
    states.run(PILLARS["dns"])
    after = embedded.snapshot()["qubes"]["sys-firewall"]
    assert after["properties"] == {**before["properties"], "netvm": "sys-dns"}
    assert after["features"] == before["features"]


def test_a_mullvad_tunnel_has_no_network_manager(states, embedded):
    """R30. Its own app makes the connection."""
    states.run(PILLARS["mullvad"])
    qubes = embedded.snapshot()["qubes"]
    assert "service.network-manager" not in qubes["sys-vpn"]["features"]
    assert qubes["sys-vpn"]["properties"]["template"] == "t-mullvad"
    assert "autostart" not in qubes["sys-vpn-inner"]["properties"]


def test_running_machine_is_rewired_with_its_qubes_on(salt_call, embedded):
    """R02. No netvm that somebody running hangs on is halted."""
    for name in ("work", "untrusted"):
        embedded.call(name, "admin.vm.Start")
    run = salt_call("state.sls", SLS, pillar=PILLARS["dns"])
    assert run.returncode == 0, run.stdout
    qubes = embedded.snapshot()["qubes"]
    assert dict(changes(run))["sys-firewall -> sys-dns"]["sys-dns"] == {
        "old": "halted",
        "new": "running",
    }
    running = {name for name, qube in qubes.items() if qube["power"] == "Running"}
    chain = {"sys-net", "sys-vpn", "sys-dns", "sys-firewall"}
    assert running == {"dom0", "work", "untrusted", *chain}
    assert {name: qubes[name]["link"] for name in ("work", "sys-firewall", "sys-dns")} == {
        "work": "sys-firewall",
        "sys-firewall": "sys-dns",
        "sys-dns": "sys-vpn",
    }


def test_run_says_what_comes_next(salt_text, embedded):
    run = salt_text("state.sls", SLS, pillar=PILLARS["dns"])
    told = " ".join(run.stdout.split())
    assert "dom0's part is done. What is in the templates and qubes comes next" in told
    assert "--targets=t-vpn,t-dns,sys-vpn,sys-dns state.sls qubes.network.sys-vpn;" in told
    assert "a resolver answers once its tunnel is up: run it again then." in told
    assert "Traceback" not in run.stdout + run.stderr


# --- in which order, and who is let out meanwhile


def test_order_of_writes_lets_nobody_through_before_the_rules(states, embedded):
    """R12, R42. Rules, then network for others, then its own; upstream first, default last."""
    states.run(PILLARS["simple"])
    made = [(call.dest, call.method, call.arg) for call in embedded.writes()]

    def last(dest, what):
        return max(place for place, call in enumerate(made) if call[0] == dest and what in call[1:])

    rules = last("sys-vpn", "admin.vm.firewall.Set")
    provides, wired = last("sys-vpn", "provides_network"), last("sys-vpn", "netvm")
    assert rules < provides < wired
    clients = [last(name, "netvm") for name in ("personal", "work")]
    assert wired < min(clients)
    assert max(clients) < last("dom0", "default_netvm") == len(made) - 1


def test_upstream_qubes_are_wired_before_downstream_ones(states, embedded):
    """R03."""
    states.run(PILLARS["dns"])
    wired = [call.dest for call in embedded.writes() if call.arg == "netvm"]
    order = sorted(set(wired), key=lambda name: len(wired) - wired[::-1].index(name))
    assert order[-5:] == ["sys-vpn", "sys-dns", "sys-firewall", "personal", "work"]


@pytest.mark.parametrize("old", PILLARS)
def test_nobody_is_let_out_on_the_way_to_another_pillar(states, embedded, after_each_write, old):
    """R05, R92. Whether a run gets there or is refused half way."""
    assert all(state.result for state in states.run(PILLARS[old]).values())
    start, before = embedded.path.read_bytes(), in_clear(embedded.snapshot())
    for new in PILLARS:
        put_back(embedded, start)
        after_each_write.clear()
        states.run(PILLARS[new])
        allowed = before.union(PILLARS[new].get("outside_vpn", ()))
        let_out = [in_clear(snapshot) - allowed for snapshot in after_each_write]
        assert set().union(*let_out) == set(), f"on the way to {new}"


def test_fresh_machine_has_clients_in_clear_and_then_none(states, embedded):
    """R07. What the tests above count is there to be counted."""
    assert in_clear(embedded.snapshot()) == {"personal", "work", "untrusted", "default-dvm"}
    states.run(PILLARS["dns"])
    assert in_clear(embedded.snapshot()) == set()


# --- what is not safe is refused


def test_what_comes_after_a_refused_step_is_not_done(states, salt_call, embedded):
    """R92. An unready upstream stops everything downstream."""
    embedded.call("sys-net", "admin.vm.feature.Set", "service.qubes-firewall", b"")
    before = embedded.snapshot()
    run = salt_call("state.sls", SLS, pillar=PILLARS["dns"])
    assert run.returncode != 0
    assert netvms(embedded.snapshot()) == {**netvms(before), "sys-vpn": None}
    assert "provides_network" not in own(embedded.snapshot(), "sys-vpn")


# --- a run that was killed: test_killed.py, and here


def test_salt_itself_can_be_killed(salt_text, states, embedded):
    """The same with all of Salt around it."""
    embedded.fail(dest="sys-vpn", method="admin.vm.property.Set", arg="netvm", at=2, kill="after")
    killed = salt_text("state.sls", SLS, pillar=PILLARS["dns"])
    assert killed.code == -9
    assert netvms(embedded.snapshot())["sys-vpn"] == "sys-net"
    assert all(state.result for state in states.run(PILLARS["dns"]).values())
    assert netvms(embedded.snapshot()).items() >= WIRED["dns"].items()


# --- bad input

BAD = ["several-at-once", "secret-key", "secret-value", "loop", "no-qubes-vpn"]


@pytest.mark.parametrize("name", BAD)
def test_bad_pillar_stops_show_sls_and_sls_with_every_problem(
    salt_text, modules, embedded, checkout, name
):
    text = (checkout / f"tests/bad/pillars/{name}.yml").read_text(encoding="utf-8")
    problems = modules.qubes_vpn.check((yaml.safe_load(text) or {}).get("qubes_vpn", {}))
    for function in ("state.show_sls", "state.sls"):
        run = salt_text(function, SLS, pillar=text)
        assert run.code != 0
        assert problems
        assert [problem for problem in problems if problem not in run.stdout] == []
        assert "Traceback" not in run.stdout + run.stderr
        for secret in ("not-shown-in-any-message", "1234567812345678", "AAECAwQFBgcICQoLDA0ODxAR"):
            assert secret not in run.stdout + run.stderr
    assert embedded.calls() == []


def test_show_sls_makes_no_call(salt_text, embedded):
    run = salt_text("state.show_sls", SLS, pillar=PILLARS["dns"])
    assert run.code == 0
    assert "sys-firewall -> sys-dns" in run.stdout
    assert embedded.calls() == []


def test_minion_that_is_not_dom0_stops_with_a_sentence(tmp_path, embedded):
    minion = Masterless(tmp_path).prepare(id="work")
    for pillar, told in (
        ({}, "pillar: work is given no qubes_vpn. In dom0, name it in /srv/pillar/qubes_vpn"),
        (
            PILLARS["dns"],
            "work has no part in this pillar: only dom0, t-vpn, t-dns, sys-vpn, sys-dns have one",
        ),
        ({**PILLARS["dns"], "topolgy": "dns"}, "pillar: qubes_vpn.topolgy: unknown key."),
    ):
        minion.set_pillar(yaml.safe_dump({"qubes_vpn": pillar}))
        run = minion.salt_call("state.sls", SLS, machine=embedded.path)
        assert run.code != 0
        assert told in run.stdout
        assert "Traceback" not in run.stdout
    assert embedded.calls() == []


# --- the user's own qubes


def test_layout_makes_missing_qubes_offline_and_then_routes_them(salt_call, states, embedded):
    """R09, R10, R11."""
    states.run(LAYOUT)
    work = embedded.snapshot()["qubes"]["work"]
    embedded.forget_calls()

    dry = salt_call("state.sls", "qubes.layout", "test=True", pillar=LAYOUT)
    assert dry.returncode == 0, dry.stdout
    assert embedded.writes() == []
    real = salt_call("state.sls", "qubes.layout")
    assert real.returncode == 0, real.stdout
    assert changes(real) == changes(dry)

    machine = embedded.snapshot()
    assert {name: netvms(machine)[name] for name in LAYOUT["layout"]} == {
        "banking": "sys-firewall",
        "papers": None,
        "chats": None,
        "work": "sys-firewall",
    }
    assert own(machine, "banking").items() >= {"template": "debian-13-xfce", "memory": 500}.items()
    assert own(machine, "chats")["template_for_dispvms"] is True
    work["properties"]["netvm"] = "sys-firewall"
    assert machine["qubes"]["work"] == work
    banking = [(call.method, call.arg) for call in embedded.writes() if call.dest == "banking"]
    rules = banking.index(("admin.vm.firewall.Set", ""))
    netvm = ("admin.vm.property.Set", "netvm")
    assert banking[0] == netvm
    assert [at for at, call in enumerate(banking) if call == netvm][-1] > rules
    assert all(not state.changes for state in states.run(LAYOUT, part="layout").values())


def test_layout_takes_a_new_qube_offline_at_once(states, embedded, after_each_write):
    """R10. The Admin API makes every qube with the default netvm; the very next write takes it off.

    Here that netvm is in clear, because qubes.network.sys-vpn has not been run.
    """
    before = in_clear(embedded.snapshot())
    states.run(LAYOUT, part="layout")
    out = [in_clear(snapshot) - before for snapshot in after_each_write]
    assert {"banking"} in out
    assert [(one, two) for one, two in itertools.pairwise(out) if one and two] == []
    assert out[-1] == set()
