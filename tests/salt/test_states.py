# SPDX-License-Identifier: GPL-2.0-or-later
"""The states of dom0, one by one: what each makes so, what it says, and what it refuses (R69).

On the fresh machine: personal, work and untrusted inherit their netvm sys-firewall, which hangs on
sys-net; vault is offline; nothing runs.
"""

import importlib
import itertools
import runpy
from typing import Any

import pillars
import pytest
from qubesd_errors import ERRORS, possible
from snapshots import compared, netvms, own, put_back

from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.embedded.qubesd.method import writes

ENDPOINT = ["action=accept proto=udp dst4=192.0.2.1/32 dstports=51820-51820", "action=drop"]


#: what the pillar promises: sys-vpn is a tunnel, and nobody else may go out in clear
def promise(*outside_vpn):
    return {"guard": {**pillars.PROMISE, "outside_vpn": list(outside_vpn)}}


PROMISE = promise()
ALL_OUTSIDE = promise("work", "personal", "untrusted", "default-dvm", "vault")


def new(value: Any) -> dict[str, Any]:
    return {"old": None, "new": value}


@pytest.fixture
def tunnel(embedded):
    """sys-vpn, as wired as the formula leaves it."""
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-vpn label=orange")
    embedded.call("sys-vpn", "admin.vm.property.Set", "provides_network", b"True")
    embedded.call("sys-vpn", "admin.vm.property.Set", "netvm", b"sys-net")
    embedded.call("sys-vpn", "admin.vm.firewall.Set", "", b"action=drop\n")
    embedded.forget_calls()


# --- every state: what test=True says is what the real run does, and then there is nothing to do

CHANGES = {
    "template": (
        {"name": "t-vpn", "clone_of": "debian-13-minimal", **PROMISE},
        {"clone": new("clone of debian-13-minimal")},
    ),
    "template with a netvm": (
        {"name": "debian-13-xfce", "clone_of": "debian-13-minimal", **PROMISE},
        {"netvm": {"old": "sys-firewall", "new": "none"}},
    ),
    "present": (
        {"name": "new", "label": "orange", "template": "debian-13-xfce"},
        {"qube": new("AppVM, orange, debian-13-xfce"), "netvm": new("none")},
    ),
    "present with settings": (
        {"name": "new", "label": "red", "settings": {"memory": 300, "template_for_dispvms": True}},
        {
            "qube": new("AppVM, red, default template"),
            "netvm": new("none"),
            "memory": new(300),
            "template_for_dispvms": new(True),
        },
    ),
    "firewall": (
        {"name": "work", "rules": ENDPOINT},
        {"firewall": {"old": "action=accept", "new": "\n".join(ENDPOINT)}},
    ),
    "firewall enforced by a qube that is not there yet": (
        {"name": "work", "rules": ENDPOINT, "enforced_by": "sys-later"},
        {"firewall": {"old": "action=accept", "new": "\n".join(ENDPOINT)}},
    ),
    "qube": (
        {
            "name": "work",
            "settings": {"label": "orange", "memory": 300, "maxmem": 600, "autostart": True},
            "features": {"service.qubes-vpn": "1", "x-note": ""},
        },
        {
            "label": {"old": "blue", "new": "orange"},
            "memory": {"old": 400, "new": 300},
            "maxmem": {"old": 4000, "new": 600},
            "autostart": {"old": False, "new": True},
            "service.qubes-vpn": new("1"),
            "x-note": new(""),
        },
    ),
    "qube with another template": (
        {"name": "work", "settings": {"template": "debian-13-xfce"}},
        {"template": {"old": "fedora-42-xfce", "new": "debian-13-xfce"}},
    ),
    "qube that provides network": (
        {"name": "work", "settings": {"provides_network": True}},
        {"provides_network": {"old": False, "new": True}},
    ),
    "netvm none": (
        {"name": "work", "netvm": "none", **PROMISE},
        {"netvm": {"old": "sys-firewall (inherited)", "new": "none"}},
    ),
    "netvm, inherited, becomes the qube's own": (
        {"name": "work", "netvm": "sys-firewall", **PROMISE},
        {"netvm": {"old": "sys-firewall (inherited)", "new": "sys-firewall"}},
    ),
    "netvm into the tunnel": (
        {"name": "work", "netvm": "sys-vpn", **PROMISE},
        {"netvm": {"old": "sys-firewall (inherited)", "new": "sys-vpn"}},
    ),
    "netvm in clear by choice (R05)": (
        {"name": "vault", "netvm": "sys-firewall", **ALL_OUTSIDE},
        {"netvm": {"old": "none", "new": "sys-firewall"}},
    ),
    "default_netvm moves heirs": (
        {"name": "sys-vpn", **PROMISE},
        {
            "default_netvm": {"old": "sys-firewall", "new": "sys-vpn"},
            "with it": new("default-dvm, personal, untrusted, work"),
        },
    ),
    "default_netvm none": (
        {"name": "none", **PROMISE},
        {
            "default_netvm": {"old": "sys-firewall", "new": "none"},
            "with it": new("default-dvm, personal, untrusted, work"),
        },
    ),
}


@pytest.fixture
def case(request, embedded, tunnel):
    """(state, its arguments, the changes it makes)."""
    if "template with" in request.param:
        embedded.call("debian-13-xfce", "admin.vm.property.Set", "netvm", b"sys-firewall")
        embedded.forget_calls()
    arguments, changes = CHANGES[request.param]
    return request.param.split()[0].rstrip(","), arguments, changes


@pytest.mark.parametrize("release", ["4.3", "4.2"])
@pytest.mark.parametrize("case", CHANGES, indirect=True)
def test_changes_are_predicted_made_and_made_once(states, embedded, case):
    """R69."""
    function, arguments, changes = case
    state = getattr(states, function)

    dry = state(**arguments, test=True)
    assert (dry.result, dry.changes) == (None, changes)
    assert embedded.writes() == []

    real = state(**arguments)
    assert (real.result, real.changes) == (True, changes), real.comment
    assert embedded.writes() != []

    embedded.forget_calls()
    for test in (False, True):
        again = state(**arguments, test=test)
        assert (again.result, again.changes) == (True, {})
    assert embedded.writes() == []


# --- what they leave behind


def test_template_has_the_sources_features_and_no_netvm(states, embedded):
    """R21, R23."""
    states.template("t-vpn", clone_of="debian-13-minimal", **PROMISE)
    clone = embedded.snapshot()["qubes"]["t-vpn"]
    assert clone["klass"] == "TemplateVM"
    assert clone["properties"]["netvm"] is None
    assert clone["features"]["qubes-firewall"] == "1"


def test_present_makes_the_qube_offline(states, embedded):
    """R01. Its netvm is its own choice: a later change of default_netvm cannot open it."""
    states.present("new", label="orange", template="debian-13-xfce", settings={"memory": 300})
    made = embedded.snapshot()["qubes"]["new"]
    assert made["klass"] == "AppVM"
    expected = {"label": "orange", "template": "debian-13-xfce", "memory": 300, "netvm": None}
    assert made["properties"].items() >= expected.items()


def test_present_leaves_a_qube_that_exists_alone(states, embedded):
    answer = states.present("work", label="orange", template="no-such", settings={"memory": 300})
    assert (answer.result, answer.changes) == (True, {})
    assert embedded.writes() == []


def test_firewall_list_is_replaced_by_one_call(states, embedded):
    """R42. Rule by rule, the list would be half open meanwhile."""
    states.firewall("work", rules=ENDPOINT)
    assert [call.method for call in embedded.writes()] == ["admin.vm.firewall.Set"]
    assert embedded.snapshot()["qubes"]["work"]["rules"] == [
        "action=accept dst4=192.0.2.1/32 proto=udp dstports=51820-51820",
        "action=drop",
    ]


def test_firewall_puts_right_what_was_added_by_hand(states, embedded):
    states.firewall("work", rules=ENDPOINT)
    embedded.call("work", "admin.vm.firewall.Set", "", b"action=accept\n")
    changes = states.firewall("work", rules=ENDPOINT).changes
    assert changes == {"firewall": {"old": "action=accept", "new": "\n".join(ENDPOINT)}}


def test_inherited_netvm_becomes_the_qubes_own_and_stays(states, embedded, tunnel):
    states.netvm("work", netvm="sys-firewall", **PROMISE)
    assert own(embedded.snapshot(), "work")["netvm"] == "sys-firewall"
    states.default_netvm("sys-vpn", **PROMISE)
    assert netvms(embedded.snapshot())["work"] == "sys-firewall"
    assert netvms(embedded.snapshot())["personal"] == "sys-vpn"


def test_settings_leave_others_alone(states, embedded):
    before = own(embedded.snapshot(), "work")
    states.qube("work", settings={"memory": 300})
    assert own(embedded.snapshot(), "work") == {**before, "memory": 300}


# --- running qubes


def test_halted_netvm_of_a_running_qube_is_started_first(states, embedded, tunnel):
    embedded.call("work", "admin.vm.Start")
    embedded.forget_calls()
    changes = {
        "sys-vpn": {"old": "halted", "new": "running"},
        "netvm": {"old": "sys-firewall (inherited)", "new": "sys-vpn"},
    }
    dry = states.netvm("work", netvm="sys-vpn", **PROMISE, test=True)
    assert (dry.result, dry.changes) == (None, changes)
    assert embedded.writes() == []

    real = states.netvm("work", netvm="sys-vpn", **PROMISE)
    assert (real.result, real.changes) == (True, changes)
    assert [(call.dest, call.method) for call in embedded.writes()] == [
        ("sys-vpn", "admin.vm.Start"),
        ("work", "admin.vm.property.Set"),
    ]


def test_default_netvm_is_started_first_when_an_heir_runs(states, embedded, tunnel):
    embedded.call("work", "admin.vm.Start")
    changes = states.default_netvm("sys-vpn", **PROMISE).changes
    assert changes["sys-vpn"] == {"old": "halted", "new": "running"}
    assert embedded.snapshot()["qubes"]["work"]["link"] == "sys-vpn"


def test_halted_qube_starts_nothing(states, embedded, tunnel):
    states.netvm("work", netvm="sys-vpn", **PROMISE)
    assert not [call for call in embedded.calls() if call.method == "admin.vm.Start"]


# --- what is refused, in words, with nothing written

REFUSED = {
    "template: the name is a qube": (
        {"name": "work", "clone_of": "debian-13-minimal", **PROMISE},
        "'work' is a qube (AppVM), not a template: choose another name.",
    ),
    "template: the source is a qube": (
        {"name": "t-vpn", "clone_of": "work", **PROMISE},
        "'work' is a qube (AppVM), not a template. Name a template in the pillar.",
    ),
    "present: the name is a template": (
        {"name": "debian-13-xfce", "label": "red"},
        "'debian-13-xfce' exists (TemplateVM) and is no qube: choose another name.",
    ),
    "present: the template is missing": (
        {"name": "new", "label": "red", "template": "t-none"},
        "there is no template 't-none'. Install it (qvm-template install t-none), or name another "
        "one in the pillar.",
    ),
    "present: the template is a qube": (
        {"name": "new", "label": "red", "template": "work"},
        "'work' is a qube (AppVM), not a template. Name a template in the pillar.",
    ),
    "firewall: no such qube": (
        {"name": "bank", "rules": ENDPOINT},
        "there is no qube 'bank'. Create it, or take it out of the pillar.",
    ),
    "qube: no such qube": (
        {"name": "bank", "settings": {"memory": 300}},
        "there is no qube 'bank'. Create it, or take it out of the pillar.",
    ),
    "qube: the template is missing": (
        {"name": "work", "settings": {"template": "t-none"}},
        "there is no template 't-none'. Install it (qvm-template install t-none), or name another "
        "one in the pillar.",
    ),
    "netvm: no such qube": (
        {"name": "bank", "netvm": "sys-vpn", **PROMISE},
        "there is no qube 'bank'. Create it, or take it out of the pillar.",
    ),
    "netvm: of a template": (
        {"name": "debian-13-xfce", "netvm": "sys-vpn", **PROMISE},
        "'debian-13-xfce' is a TemplateVM: templates update without a netvm.",
    ),
    "netvm: no such netvm": (
        {"name": "work", "netvm": "sys-vpn2", **PROMISE},
        "there is no qube 'sys-vpn2' to be a netvm. Create it, or name another.",
    ),
    "netvm: provides no network": (
        {"name": "work", "netvm": "personal", **PROMISE},
        "'personal' provides no network. Make it a service qube in the pillar, or set 'qvm-prefs "
        "personal provides_network true' if it is one.",
    ),
    "netvm: a loop": (
        {"name": "sys-net", "netvm": "sys-vpn", **PROMISE},
        "sys-net -> sys-vpn -> sys-net would be a loop. Take sys-vpn off it first.",
    ),
    "netvm: itself": (
        {"name": "sys-vpn", "netvm": "sys-vpn", **PROMISE},
        "'sys-vpn' cannot be its own netvm. Name another.",
    ),
    "netvm: a vault let out in clear": (
        {"name": "vault", "netvm": "sys-firewall", **PROMISE},
        "vault -> sys-firewall would put vault in clear, and now",
    ),
    "default_netvm: no such qube": (
        {"name": "sys-vpn2", **PROMISE},
        "there is no qube 'sys-vpn2' to be a netvm. Create it, or name another.",
    ),
    "default_netvm: provides no network": (
        {"name": "work", **PROMISE},
        "'work' provides no network.",
    ),
}


@pytest.mark.parametrize("test", [True, False], ids=["dry", "real"])
@pytest.mark.parametrize("refused", REFUSED)
def test_refused_step_says_why_and_writes_nothing(states, embedded, tunnel, refused, test):
    arguments, text = REFUSED[refused]
    answer = getattr(states, refused.split(":")[0])(**arguments, test=test)
    assert (answer.result, answer.changes) == (False, {})
    assert answer.comment.startswith(text)
    assert embedded.writes() == []


def refused_on(states, embedded, function, **arguments) -> str:
    """The text of a step that a dry run and a real run refuse alike, writing nothing."""
    embedded.forget_calls()
    answers = [getattr(states, function)(**arguments, test=test) for test in (True, False)]
    assert [(answer.result, answer.changes) for answer in answers] == [(False, {})] * 2
    assert answers[0].comment == answers[1].comment
    assert embedded.writes() == []
    return answers[0].comment


def test_template_of_a_running_qube_is_refused(states, embedded):
    embedded.call("work", "admin.vm.Start")
    arguments = {"name": "work", "settings": {"memory": 300, "template": "debian-13-xfce"}}
    assert refused_on(states, embedded, "qube", **arguments) == (
        "work is running, and its template can change only while it is halted. Shut it down "
        "(qvm-shutdown work), then run this again."
    )


def test_firewall_list_that_nobody_would_enforce_is_refused(states, embedded):
    """R42."""
    embedded.call("sys-firewall", "admin.vm.feature.Set", "service.qubes-firewall", b"")
    arguments = {"name": "work", "rules": ENDPOINT, "enforced_by": "sys-firewall"}
    assert refused_on(states, embedded, "firewall", **arguments) == (
        "sys-firewall would not enforce the list. Its service qubes-firewall is switched off (then "
        "qvm-service sys-firewall qubes-firewall on, and restart it), or its template lacks "
        "qubes-core-agent-networking (install it, and restart both)."
    )
    without = {"name": "work", "rules": ENDPOINT}  # the netvm that it has
    assert states.firewall(**without).result is False
    embedded.call("sys-firewall", "admin.vm.feature.Set", "service.qubes-firewall", b"1")
    embedded.call("fedora-42-xfce", "admin.vm.feature.Remove", "qubes-firewall")
    assert states.firewall(**without).result is False
    embedded.call("fedora-42-xfce", "admin.vm.feature.Set", "qubes-firewall", b"1")
    assert states.firewall(**arguments).result is True


@pytest.mark.parametrize("klass", ["StandaloneVM", "DispVM"])
def test_a_service_qube_of_another_class_is_refused_dry_and_real(states, embedded, klass):
    template = b"default-dvm" if klass == "DispVM" else b""
    embedded.call("dom0", f"admin.vm.Create.{klass}", template.decode(), b"name=sys-own label=red")
    assert refused_on(
        states, embedded, "qube", name="sys-own", settings={"template": "fedora-42-xfce"}
    ).startswith(f"'sys-own' exists ({klass}), and the pillar wants an AppVM of it.")


def test_netvm_that_no_longer_provides_network_is_noticed(states, embedded):
    """qubesd lets the property be reset while the qube is in use (facts 4)."""
    assert states.netvm("work", netvm="sys-firewall", **PROMISE).result is True
    embedded.call("sys-firewall", "admin.vm.property.Reset", "provides_network")
    text = refused_on(states, embedded, "netvm", name="work", netvm="sys-firewall", **PROMISE)
    assert text.startswith("'sys-firewall' provides no network.")


def test_default_netvm_that_leads_through_an_heir_is_refused(states, embedded):
    """qubesd accepts it, and then every heir is in a loop."""
    for name in ("personal", "work"):
        embedded.call(name, "admin.vm.property.Set", "provides_network", b"True")
    embedded.call("work", "admin.vm.property.Set", "netvm", b"personal")
    assert refused_on(states, embedded, "default_netvm", name="work", **PROMISE) == (
        "'personal' inherits its netvm and work leads through it: a loop. Give personal a netvm of "
        "its own first."
    )


def test_guard_names_every_qube_that_would_be_let_out(states, embedded, tunnel):
    """R05. sys-firewall comes out of the tunnel, with all that hang on it but work."""
    for name in ("sys-firewall", "vault"):
        embedded.call(name, "admin.vm.property.Set", "netvm", b"sys-vpn")
    text = refused_on(
        states, embedded, "netvm", name="sys-firewall", netvm="sys-net", **promise("work")
    )
    assert text.startswith(
        "sys-firewall -> sys-net would put default-dvm, personal, untrusted in clear, and now "
    )
    assert "qvm-prefs default-dvm netvm none" in text
    assert "outside_vpn" in text


def test_guard_refuses_a_default_that_lets_heirs_out(states, embedded, tunnel):
    """R07."""
    embedded.call("dom0", "admin.property.Set", "default_netvm", b"sys-vpn")
    text = refused_on(states, embedded, "default_netvm", name="sys-net", **PROMISE)
    assert text.startswith(
        "default_netvm sys-net would put default-dvm, personal, untrusted, work in clear"
    )


# --- qubesd says no, or nothing, or something else than it did

STEPS = {
    "template": CHANGES["template"][0],
    "present": CHANGES["present with settings"][0],
    "firewall": {**CHANGES["firewall"][0], "enforced_by": "sys-firewall"},
    "qube": CHANGES["qube"][0],
    "netvm": CHANGES["netvm into the tunnel"][0],
    "default_netvm": CHANGES["default_netvm moves heirs"][0],
}


@pytest.mark.parametrize("function", STEPS)
def test_any_error_at_any_call_is_words_and_a_later_run_gets_there(
    states, embedded, tunnel, function
):
    """No traceback, no success that is none, honest changes, and the next run finishes it."""

    def run():
        return getattr(states, function)(**STEPS[function])

    fresh = embedded.path.read_bytes()
    before = compared(embedded.snapshot())
    assert run().result is True
    after, calls = compared(embedded.snapshot()), embedded.calls()

    # Every call and every class; not every pair, for they are many, and cloning has most calls.
    step = len(ERRORS) + 1 if function == "template" else 5
    faults = list(itertools.product(range(1, len(calls) + 1), ERRORS))[::step]
    for at, error in faults:
        if not possible(error, calls[at - 1].method):
            continue
        put_back(embedded, fresh)
        embedded.fail(at=at, error=error)
        answer = run()
        what = f"{error or 'no answer'} at {calls[at - 1].dest} {calls[at - 1].method}: {answer}"
        left = compared(embedded.snapshot())
        if answer.result is False:
            assert function == "default_netvm" or STEPS[function]["name"] in answer.comment, what
            assert (answer.changes == {}) == (left == before), what
        else:  # it could do without that call
            assert left == after, what
        assert run().result is True, what
        assert compared(embedded.snapshot()) == after, what


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("QubesVMError", "work: netvm sys-vpn was refused: injected fault"),
        ("PermissionDenied", "work: netvm sys-vpn was refused: injected fault"),
        (
            "",
            "work: netvm sys-vpn was refused: qubesd gave no answer to admin.vm.property.Set+netvm "
            "on work. It took a value for malformed, or failed itself: 'sudo journalctl -u qubesd' "
            "in dom0 says which",
        ),
        (
            "QubesVMNotFoundError",
            "work: netvm sys-vpn was refused: there is no such qube any more. Run this again",
        ),
    ],
)
def test_error_text_says_what_was_refused_and_why(states, embedded, tunnel, error, text):
    embedded.fail(method="admin.vm.property.Set", arg="netvm", error=error)
    assert states.netvm("work", netvm="sys-vpn", **PROMISE).comment == text


def test_changes_before_the_refusal_are_told(states, embedded):
    embedded.fail(method="admin.vm.feature.Set", error="QubesValueError")
    answer = states.qube("work", settings={"memory": 300}, features={"x-note": "1"})
    assert answer.result is False
    assert answer.comment == "work: feature x-note was refused: injected fault"
    assert answer.changes == {"memory": {"old": 400, "new": 300}}


def test_optional_qube_may_be_missing_and_its_state_says_so(states, embedded):
    """R10. qubes.layout makes it; until then there is nothing to route."""
    missing = {"name": "banking", "optional": True}
    for answer in (
        states.netvm(netvm="none", **missing, **PROMISE),
        states.firewall(rules=["action=drop"], **missing),
    ):
        assert (answer.result, answer.changes) == (True, {})
        assert answer.comment == "there is no qube 'banking' yet; qubes.layout makes it"
    assert embedded.writes() == []
    answer = states.netvm("work", netvm="none", optional=True, **PROMISE)
    assert answer.changes["netvm"]["new"] == "none"


def test_qube_that_could_not_be_finished_is_removed_again(states, embedded):
    """Otherwise it would be online, and count as the user's own from then on."""
    embedded.fail(method="admin.vm.property.Set", arg="memory", error="QubesValueError")
    answer = states.present("new", label="red", settings={"memory": 300})
    assert (answer.result, answer.changes) == (False, {})
    assert "new" not in embedded.snapshot()["qubes"]


def test_qube_that_could_not_even_be_removed_is_completed_by_the_next_run(states, embedded):
    """R92."""
    embedded.fail(method="admin.vm.property.Set", arg="netvm", error="QubesVMError")
    embedded.fail(method="admin.vm.Remove", error="QubesVMInUseError")
    answer = states.present("new", label="red")
    assert answer.comment == (
        "new: netvm none was refused: injected fault. What there is of 'new' the next run puts "
        "right. Removing it did not work: injected fault"
    )
    assert set(answer.changes) == {"qube"}
    assert states.present("new", label="red").result is True
    assert own(embedded.snapshot(), "new")["netvm"] is None


@pytest.mark.parametrize("function", ["qube", "netvm", "default_netvm", "firewall"])
def test_what_reads_back_differently_is_an_error(states, embedded, tunnel, monkeypatch, function):
    """A qubesd that says yes and does nothing."""
    call = EmbeddedQubes.call

    def deaf(self, dest, method, *rest):
        return b"" if writes(method) else call(self, dest, method, *rest)

    monkeypatch.setattr(EmbeddedQubes, "call", deaf)
    answer = getattr(states, function)(**STEPS[function])
    assert answer.result is False
    assert "reads back differently" in answer.comment


@pytest.mark.parametrize("function", STEPS)
def test_without_qubesd_every_state_says_so(states, monkeypatch, tmp_path, function):
    monkeypatch.delenv("QUBES_VPN_EMBEDDED")
    answer = getattr(states, function)(**STEPS[function])
    assert (answer.result, answer.changes) == (False, {})
    assert answer.comment.startswith("dom0's qubesd does not answer: ")


def test_a_qubesadmin_without_the_errors_of_4_3_will_do(states, checkout, monkeypatch):
    """R4.2's has neither (qubesadmin/exc.py of qubes-core-admin-client 4.2.18)."""
    exc = importlib.import_module("qubesadmin.exc")
    for name in ("ProtocolError", "PermissionDenied"):
        monkeypatch.delattr(exc, name)
    loaded = runpy.run_path(str(checkout / "_utils/qubes_vpn_qubesd.py"))
    with (
        pytest.raises(loaded["Refused"], match="work: no: reason"),
        loaded["in_words"]("work: no"),
    ):
        raise exc.QubesException("reason")
