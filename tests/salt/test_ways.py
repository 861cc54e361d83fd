# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways round a VPN that belong to the whole machine (R07): closed, or told."""

import pytest
from pillars import PILLARS
from snapshots import in_clear, netvms, own

from qubes_vpn_formula.lab import services

pytestmark = pytest.mark.one_salt

DNS = PILLARS["dns"]
KEPT = {"routes": {"default": "keep"}}
LAST = "ways round the VPN"


def set_(embedded, dest, key, value=""):
    method = "admin.property.Set" if dest == "dom0" else "admin.vm.property.Set"
    embedded.call(dest, method, key, value.encode())


def make(embedded, name, netvm=None, **properties):
    """A qube, offline or on *netvm*."""
    embedded.call("dom0", "admin.vm.Create.AppVM", "", f"name={name} label=red".encode())
    for key, value in {"netvm": netvm or "", **properties}.items():
        set_(embedded, name, key, value)


def run(states, embedded, **pillar):
    """Dry, for real and again: the same changes, and then none; the comment at the end."""
    document = {**DNS, **pillar}
    before = embedded.snapshot()
    dry = states.run(document, test=True)
    assert embedded.snapshot() == before
    real = states.run(document)
    told = [(name, state.comment) for name, state in real.items() if state.result is False]
    assert told == []
    changes = {name: state.changes for name, state in real.items()}
    assert changes == {name: state.changes for name, state in dry.items()}
    embedded.forget_calls()
    again = states.run(document)
    assert embedded.writes() == []
    assert {name: state.changes for name, state in again.items() if state.changes} == {}
    assert dry[LAST].comment == real[LAST].comment == again[LAST].comment
    return real, real[LAST].comment.splitlines()


# --- disposables


def test_disposables_that_are_open_are_closed_and_no_others(states, policy, embedded):
    """R07. An offline one never gets online by us, nor does one leave another tunnel or Tor."""
    make(embedded, "sys-whonix", "sys-net", provides_network="True")
    for name, netvm in (("open", "sys-net"), ("off", None), ("tor", "sys-whonix")):
        make(embedded, f"{name}-dvm", netvm, template_for_dispvms="True")
    make(embedded, "named-dvm", "sys-net", template_for_dispvms="True")
    make(embedded, "plain", "sys-net")
    done, told = run(states, embedded, routes={"qubes": {"named-dvm": "sys-dns"}})
    assert done["disposables -> sys-firewall"].changes == {
        "open-dvm: netvm": {"old": "sys-net", "new": "sys-firewall"}
    }
    after = netvms(embedded.snapshot())
    assert {name: after[name] for name in after if name.endswith("-dvm")} == {
        "open-dvm": "sys-firewall",
        "off-dvm": None,
        "tor-dvm": "sys-whonix",
        "named-dvm": "sys-dns",
        "default-dvm": "sys-firewall",
        "default-mgmt-dvm": None,
    }
    assert "netvm" not in own(embedded.snapshot(), "default-dvm")  # it inherits, and may go on to
    assert after["plain"] == "sys-net"
    assert "- without a route in the pillar: plain" in told


def test_disposables_stay_where_the_pillar_wants_them(states, policy, embedded):
    """R05, R07. By name, or all of them; then they are told."""
    for name in ("one-dvm", "two-dvm"):
        make(embedded, name, "sys-net", template_for_dispvms="True")
    firewalls = {"sys-firewall": {}, "sys-firewall-novpn": {"upstream": "sys-net"}}
    routes = {"qubes": {"one-dvm": "sys-firewall-novpn"}}
    more = {"firewalls": firewalls, "outside_vpn": ["one-dvm"]}
    _, told = run(states, embedded, routes=routes, disposables="keep", **more)
    assert "- disposables of two-dvm (pillar: disposables)" in told
    assert "- by outside_vpn: one-dvm" in told
    done, told = run(states, embedded, routes=routes, disposables="none", **more)
    assert list(done["disposables -> none"].changes) == ["two-dvm: netvm"]
    assert netvms(embedded.snapshot())["one-dvm"] == "sys-firewall-novpn"
    assert "- by outside_vpn: one-dvm" in told


def test_a_disposable_that_runs_keeps_its_netvm_and_is_told(states, policy, embedded):
    """R07. It copied its template's netvm when it was made (qubes/vm/dispvm.py)."""
    set_(embedded, "default-dvm", "netvm", "sys-net")
    name = embedded.call("default-dvm", "admin.vm.CreateDisposable").decode()
    _, told = run(states, embedded)
    after = netvms(embedded.snapshot())
    assert (after["default-dvm"], after[name]) == ("sys-firewall", "sys-net")
    assert f"- without a route in the pillar: {name}" in told


def test_who_may_as_well_be_offline_is_told_as_such(states, policy, embedded):
    """R07. A netvm that the pillar does not know, without one of its own: an uplink, or nothing."""
    make(embedded, "sys-old", provides_network="True")
    make(embedded, "mine", "sys-old")
    make(embedded, "old-dvm", "sys-old", template_for_dispvms="True")
    set_(embedded, "vault", "default_dispvm", "old-dvm")
    set_(embedded, "dom0", "updatevm", "sys-old")
    _, told = run(states, embedded, disposables="keep")
    assert "- without a route in the pillar: mine (if sys-old has a way out)" in told
    assert "- disposables of old-dvm (if sys-old has a way out) (pillar: disposables)" in told
    assert "- dom0's updates, by sys-old (if it has a way out) (pillar: updates.dom0)" in told
    (line,) = [line for line in told if line.startswith("- what ")]
    assert "in a disposable, of old-dvm (if sys-old has a way out) (pillar: default_di" in line
    set_(embedded, "sys-old", "netvm", "sys-net")
    _, told = run(states, embedded, disposables="keep")
    assert "- without a route in the pillar: mine, sys-old" in told


# --- default_dispvm


def test_a_qube_that_opens_its_links_past_the_vpn_is_told(states, policy, embedded):
    """R07. The vault too: by default any qube may open a link in a disposable, unasked."""
    make(embedded, "open-dvm", "sys-net", template_for_dispvms="True")
    set_(embedded, "work", "default_dispvm", "open-dvm")
    set_(embedded, "vault", "default_dispvm", "open-dvm")
    _, told = run(states, embedded, disposables="keep")
    assert (
        "- what vault, work open in a disposable, of open-dvm (pillar: default_dispvm; one qube: "
        "qvm-prefs vault default_dispvm NAME)"
    ) in told
    _, told = run(states, embedded)
    assert not [line for line in told if "disposable" in line]


def test_everybodys_disposables_past_the_vpn_are_told_and_replaced(states, policy, embedded):
    """R07. dom0's default_dispvm counts for each qube that has no choice of its own."""
    make(embedded, "open-dvm", "sys-net", template_for_dispvms="True")
    set_(embedded, "dom0", "default_dispvm", "open-dvm")
    _, told = run(states, embedded, disposables="keep")
    (line,) = [line for line in told if line.startswith("- what ")]
    assert "vault" in line
    assert "of open-dvm" in line
    done, told = run(states, embedded, disposables="keep", default_dispvm="default-dvm")
    assert done["default_dispvm: default-dvm"].changes == {
        "default_dispvm": {"old": "open-dvm", "new": "default-dvm"}
    }
    assert not [line for line in told if line.startswith("- what ")]
    run(states, embedded, default_dispvm="none")
    assert embedded.snapshot()["globals"]["default_dispvm"] is None


@pytest.mark.parametrize(
    ("qube", "said"),
    [
        ("open-dvm", "'open-dvm' may go out in clear, by open-dvm -> sys-net."),
        ("work", "'work' is no template for disposables: qvm-prefs work template_for_dispvms true"),
        ("nobody", "there is no qube 'nobody'"),
    ],
)
def test_default_dispvm_that_is_no_way_in(states, policy, embedded, qube, said):
    make(embedded, "open-dvm", "sys-net", template_for_dispvms="True")
    done = states.run({**DNS, "disposables": "keep", "default_dispvm": qube})
    last = list(done.values())[-1]
    assert last.result is False
    assert said in last.comment
    assert embedded.snapshot()["globals"]["default_dispvm"] == "default-dvm"


# --- dom0's updates, and the clock


@pytest.mark.parametrize("release", ["4.3", "4.2"])
def test_dom0s_update_qube_and_clock_qube(states, policy, embedded):
    """R07. qubesd moves the clock service with the clock qube."""
    make(embedded, "fetch", "sys-firewall")
    done, told = run(states, embedded, updates={"dom0": "fetch"}, clock="sys-firewall")
    assert done["updatevm: fetch"].changes == {"updatevm": {"old": "sys-firewall", "new": "fetch"}}
    machine = embedded.snapshot()
    assert (machine["globals"]["updatevm"], machine["globals"]["clockvm"]) == (
        "fetch",
        "sys-firewall",
    )
    assert "service.clocksync" in machine["qubes"]["sys-firewall"]["features"]
    assert "service.clocksync" not in machine["qubes"]["sys-net"]["features"]
    assert [line[:20] for line in told[1:]] == ["- templates' updates"]
    run(states, embedded, updates={"dom0": "none"}, clock="none")
    assert embedded.snapshot()["globals"].items() >= {"updatevm": None, "clockvm": None}.items()


@pytest.mark.parametrize(
    ("qube", "said"),
    [
        ("plain", "'plain' may go out in clear, by plain -> sys-net. Name a qube behind a tunnel"),
        ("sys-usb", "'sys-usb' may go out in clear, by sys-usb."),  # it may be an uplink
        ("off", "'off' has no netvm: nothing could be fetched through it."),
        ("nobody", "there is no qube 'nobody'"),
    ],
)
@pytest.mark.parametrize("key", ["templates", "dom0", "clock"])
def test_who_would_fetch_past_the_vpn_or_not_at_all(states, policy, embedded, key, qube, said):
    """R07. What the pillar cannot know, dom0 sees."""
    make(embedded, "plain", "sys-net")
    make(embedded, "off")
    make(embedded, "sys-usb", provides_network="True")
    before = embedded.snapshot()["globals"]
    more = {"clock": qube} if key == "clock" else {"updates": {key: qube}}
    *_, last = states.run({**DNS, **more}).values()
    assert last.result is False
    assert said in last.comment
    assert embedded.snapshot()["globals"] == before
    assert not (policy / "30-qubes-vpn.policy").exists()


def test_a_client_outside_the_vpn_may_fetch(states, policy, embedded):
    """R05. Who is in outside_vpn is where the user wants it; it is told all the same."""
    firewalls = {"sys-firewall": {}, "sys-firewall-novpn": {"upstream": "sys-net"}}
    routes = {"qubes": {"untrusted": "sys-firewall-novpn"}}
    more = {"firewalls": firewalls, "routes": routes, "outside_vpn": ["untrusted"]}
    _, told = run(states, embedded, updates={"dom0": "untrusted"}, **more)
    assert "- dom0's updates, by untrusted (pillar: updates.dom0)" in told


# --- templates' updates


def test_templates_update_by_a_qube_behind_the_tunnel(states, policy, embedded):
    """R07. The policy file, the service in that qube, and nothing in any other file."""
    others = {path: path.read_text() for path in policy.iterdir()}
    done, told = run(states, embedded, updates={"templates": "sys-firewall"})
    templates = "debian-13-minimal, debian-13-xfce, fedora-42-minimal, fedora-42-xfce, t-dns, t-vpn"
    assert done["templates' updates by sys-firewall"].changes == {
        "templates' updates by": {"old": f"sys-net (for {templates})", "new": "sys-firewall"}
    }
    assert (
        embedded.snapshot()["qubes"]["sys-firewall"]["features"].items()
        >= {"service.qubes-updates-proxy": "1"}.items()
    )
    written = (policy / "30-qubes-vpn.policy").read_text()
    assert "qubes.UpdatesProxy * @type:TemplateVM @default allow target=sys-firewall\n" in written
    assert {path: path.read_text() for path in others} == others
    assert not [line for line in told if "templates" in line]


def test_updates_outside_the_vpn_by_choice_and_back(states, policy, embedded):
    """R05, R07. As the machine came; told as a choice; the uplink is not changed."""
    uplink = embedded.snapshot()["qubes"]["sys-net"]
    chosen = {"templates": "sys-net", "dom0": "sys-net", "outside_vpn": ["templates", "dom0"]}
    done, told = run(states, embedded, updates=chosen)
    assert done["updatevm: sys-net"].changes == {
        "updatevm": {"old": "sys-firewall", "new": "sys-net"}
    }
    for what in ("templates' updates", "dom0's updates"):
        assert f"- {what}, by sys-net (pillar: updates.outside_vpn, by choice)" in told
    written = (policy / "30-qubes-vpn.policy").read_text()
    assert "qubes.UpdatesProxy * @type:TemplateVM @default allow target=sys-net\n" in written
    assert embedded.snapshot()["qubes"]["sys-net"] == uplink
    _, told = run(states, embedded, updates=dict.fromkeys(("templates", "dom0"), "sys-firewall"))
    assert not [line for line in told if "updates" in line]


def test_a_proxy_that_runs_is_to_be_restarted(states, policy, embedded):
    embedded.call("sys-firewall", "admin.vm.Start")
    done, _ = run(states, embedded, updates={"templates": "sys-firewall"})
    assert done["sys-firewall: runs the updates proxy"].comment == (
        "changed\nsys-firewall is running: restart it, then it has service qubes-updates-proxy."
    )


def test_templates_update_by_nobody(states, policy, embedded):
    _, told = run(states, embedded, updates={"templates": "none"})
    assert "allow target=sys-net" not in (policy / "30-qubes-vpn.policy").read_text()
    assert not [line for line in told if "templates" in line]
    # `keep` leaves our own file as well.
    run(states, embedded)
    assert (policy / "30-qubes-vpn.policy").exists()


def test_a_proxy_without_the_service_is_refused(states, policy, embedded):
    """R07. Templates' updates would be dead without a word."""
    for name in ("fedora-42-xfce", "debian-13-minimal"):
        feature = "supported-service.qubes-updates-proxy"
        embedded.call(name, "admin.vm.feature.Remove", feature)
    for test in (True, False):
        *_, last = states.run({**DNS, "updates": {"templates": "sys-vpn"}}, test=test).values()
        assert last.result is False
        assert last.comment.startswith("sys-vpn has no service qubes-updates-proxy")
    assert not (policy / "30-qubes-vpn.policy").exists()


def test_a_file_of_the_users_stays_as_it_is(states, policy, embedded):
    mine = policy / "30-qubes-vpn.policy"
    mine.write_text("# mine\n")
    *_, last = states.run({**DNS, "updates": {"templates": "sys-firewall"}}).values()
    assert last.result is False
    assert f"{mine} is not the formula's" in last.comment
    assert mine.read_text() == "# mine\n"


@pytest.mark.parametrize("when", ["before", "after"])
def test_policy_that_goes_first_and_says_otherwise_is_refused(states, policy, embedded, when):
    """R07. Also where it was put there later: drift."""
    pillar = {**DNS, "updates": {"templates": "sys-firewall"}}
    if when == "after":
        states.run(pillar)
    line = "qubes.UpdatesProxy * t-dns @default allow target=sys-net\n"
    (policy / "20-mine.policy").write_text(line)
    *_, last = states.run(pillar).values()
    assert last.result is False
    assert f"{policy}/20-mine.policy:1 goes before" in last.comment
    assert "t-dns would be updated by sys-net" in last.comment
    assert (policy / "30-qubes-vpn.policy").exists() is (when == "after")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("debian-13-xfce @default deny", "nobody"),
        ("@type:TemplateVM @default deny", "nobody"),
        ("debian-13-xfce @default ask default_target=sys-whonix", "sys-whonix when asked"),
        ("debian-13-xfce @default allow target=sys-whonix", "sys-whonix"),
        ("uuid:{uuid} @default allow target=sys-whonix", "sys-whonix"),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_users_own_word_on_a_template_stays(states, policy, embedded, line, said, when):
    """R07. In a file after ours, which would be passed over; also put there later."""
    pillar = {**DNS, "updates": {"templates": "sys-firewall"}}
    if when == "after":
        states.run(pillar)
    uuid = embedded.snapshot()["qubes"]["debian-13-xfce"]["properties"]["uuid"]
    line = f"qubes.UpdatesProxy * {line.format(uuid=uuid)}\n"
    (policy / "30-user.policy").write_text(line)
    for test in (True, False):
        *_, last = states.run(pillar, test=test).values()
        assert last.result is False
        assert last.comment.startswith(f"{policy}/30-user.policy:1 says that debian-13-")
        assert f"is updated by {said}, and the formula's" in last.comment
    assert (policy / "30-qubes-vpn.policy").exists() is (when == "after")


def test_the_users_rules_for_all_templates_are_replaced_and_told(states, policy, embedded):
    """R07. Each template whose server, or whose question, is gone."""
    embedded.call("fedora-42-xfce", "admin.vm.tag.Set", "mine")
    embedded.call("debian-13-xfce", "admin.vm.tag.Set", "whonix-updatevm")
    (policy / "30-user.policy").write_text(
        "qubes.UpdatesProxy * @tag:mine @default ask default_target=sys-net\n"
        "qubes.UpdatesProxy * debian-13-minimal @default allow target=sys-firewall\n"
    )
    done, _ = run(states, embedded, updates={"templates": "sys-firewall"})
    old = done["templates' updates by sys-firewall"].changes["templates' updates by"]["old"]
    untouched = "fedora-42-minimal, t-dns, t-vpn"
    assert old == f"sys-net (for {untouched}), sys-net when asked (for fedora-42-xfce)"


def test_a_line_that_was_added_to_our_file_is_not_lost(states, policy, embedded):
    run(states, embedded, updates={"templates": "sys-firewall"})
    ours = policy / "30-qubes-vpn.policy"
    added = ours.read_text() + "qubes.UpdatesProxy * mine @default deny\n"
    ours.write_text(added)
    for test in (True, False):
        *_, last = states.run({**DNS, "updates": {"templates": "none"}}, test=test).values()
        assert last.result is False
        assert last.comment.startswith(f"{ours}:7 is not the formula's")
        assert ours.read_text() == added


def test_a_rule_for_whoever_is_no_reason_to_see_nothing(states, policy, embedded):
    """R07. A source or a server by uuid is that qube; what is not known is told."""
    qubes = embedded.snapshot()["qubes"]
    t, net = (qubes[name]["properties"]["uuid"] for name in ("debian-13-xfce", "sys-net"))
    closed = {"updates": {"templates": "sys-firewall"}, "clock": "sys-firewall"}
    run(states, embedded, **closed)
    mine = policy / "20-mine.policy"
    mine.write_text(f"qubes.UpdatesProxy * uuid:{t} @default allow target=uuid:{net}\n")
    *_, last = states.run({**DNS, **closed}).values()
    assert "debian-13-xfce would be updated by sys-net" in last.comment
    *_, last = states.run({**DNS, "clock": "sys-firewall"}).values()
    assert "- templates' updates, by sys-net" in last.comment
    mine.write_text("qubes.UpdatesProxy * @new:x @default allow target=sys-net\n")
    *_, last = states.run({**DNS, "clock": "sys-firewall"}).values()
    assert f"- templates' updates, perhaps: {mine}:1: '@new:x' is not known" in last.comment


def test_policy_that_cannot_be_read_is_told(states, policy, embedded):
    (policy / "20-mine.policy").write_text("!flag\n")
    _, told = run(states, embedded)
    assert [line for line in told if "templates' updates, perhaps" in line]
    *_, last = states.run({**DNS, "updates": {"templates": "none"}}).values()
    assert last.result is False
    assert "20-mine.policy:1" in last.comment


def test_whonix_templates_past_tor_are_told(states, policy, embedded):
    """R08. Only for that are tags asked for: one call a template."""
    embedded.call("debian-13-xfce", "admin.vm.tag.Set", "whonix-updatevm")
    _, told = run(states, embedded)
    assert "- templates' updates, by sys-net (pillar: updates.templates)" in told
    assert not [call for call in embedded.calls() if call.method == "admin.vm.tag.List"]
    make(embedded, "plain", "sys-net")
    (policy / "30-user.policy").write_text(
        "qubes.UpdatesProxy * @tag:whonix-updatevm @default allow target=plain\n"
        "qubes.UpdatesProxy * @type:TemplateVM @default deny\n"
    )
    _, told = run(states, embedded)
    assert "- templates' updates, by plain (pillar: updates.templates)" in told


def test_killed_between_policy_and_service_is_finished(states, policy, embedded):
    """R92. In between, templates get no updates."""
    pillar = {**DNS, "updates": {"templates": "sys-firewall"}}
    embedded.fail(method="admin.vm.feature.Set", arg="service.qubes-updates-proxy", kill="before")
    assert states.run_in_child(pillar) == -9
    assert (policy / "30-qubes-vpn.policy").exists()
    done, _ = run(states, embedded, updates={"templates": "sys-firewall"})
    assert list(done["sys-firewall: runs the updates proxy"].changes) == [
        "service.qubes-updates-proxy"
    ]


# --- undone


def test_what_was_replaced_comes_back(states, policy, embedded):
    """R92. Also what qubesd moved with it: the clock service."""
    before = embedded.snapshot()["globals"]
    more = {"updates": {"templates": "sys-firewall", "dom0": "none"}, "default_dispvm": "none"}
    run(states, embedded, **more, clock="sys-firewall")
    assert embedded.snapshot()["globals"] != before
    for test in (True, False):
        steps = states.undo(test=test)
        told = [step.comment for step in steps.values() if "Past the VPN" in step.comment]
        assert len(told) == 1
        for way in ("templates' updates, by sys-net", "dom0's updates, by", "the time, by sys-net"):
            assert f"Past the VPN, as the machine is now: {way}" in told[0]
        assert all(step.result is not False for step in steps.values())
    machine = embedded.snapshot()
    assert machine["globals"] == before
    assert not (policy / "30-qubes-vpn.policy").exists()
    assert "service.qubes-updates-proxy" not in machine["qubes"]["sys-firewall"]["features"]
    assert "service.clocksync" in machine["qubes"]["sys-net"]["features"]


# --- management disposables


def test_management_disposables_go_offline(states, policy, embedded):
    """R07, R33. They get the whole pillar; dom0's, and those that a qube has of its own."""
    make(embedded, "own-mgmt", "sys-firewall", template_for_dispvms="True")
    set_(embedded, "default-mgmt-dvm", "netvm", "sys-firewall")
    set_(embedded, "work", "management_dispvm", "own-mgmt")
    done, _ = run(states, embedded)
    assert done["management disposables: offline"].changes == {
        "default-mgmt-dvm: netvm": {"old": "sys-firewall", "new": "none"},
        "own-mgmt: netvm": {"old": "sys-firewall", "new": "none"},
    }


def test_a_management_disposable_with_a_route_is_refused(states, policy, embedded):
    *_, last = states.run(
        {**DNS, "routes": {"qubes": {"default-mgmt-dvm": "sys-firewall"}}}
    ).values()
    assert last.result is False
    assert "'default-mgmt-dvm' is what dom0 manages qubes with" in last.comment


# --- what is told, as a user sees it


def test_what_stays_open_is_told_at_the_end(salt_text):
    """R07. In a dry run and in a real one, of a fresh machine."""
    for test in ("test=True", "test=False"):
        out = salt_text("state.sls", "qubes.network.sys-vpn", test, pillar=DNS).stdout
        told = " ".join(out.split())
        assert (
            "Past the VPN, as the machine is now: - templates' updates, by sys-net (pillar: "
            "updates.templates) - the time, by sys-net (pillar: clock)"
        ) in told


def test_everything_closed_is_told_too(states, policy, embedded):
    _, told = run(states, embedded, updates={"templates": "sys-firewall"}, clock="sys-firewall")
    assert told == ["Nothing that was looked at goes past the VPN."]
    assert in_clear(embedded.snapshot()) == set()


def test_a_second_run_looks_at_each_qube_once(states, policy, embedded):
    """R94. Two calls, one for each qube and template, and those of the steps that need more."""
    pillar = {**DNS, "updates": {"templates": "none", "dom0": "sys-vpn"}, "clock": "none"}
    states.run(pillar)
    for number in range(20):
        make(embedded, f"more-{number}", "sys-net")
    states.run(pillar)
    embedded.forget_calls()
    states.run(pillar)
    ways = [
        call
        for call in embedded.calls()
        if call.method not in ("admin.vm.feature.List", "admin.vm.firewall.Get")
        and not call.method.startswith("admin.vm.feature.")
    ]
    qubes = len(embedded.snapshot()["qubes"]) - 1  # without dom0
    assert len(ways) == 2 + qubes


def test_no_qube_calls_the_services_of_another(states, policy, embedded):
    """R67. dom0's own calls ask no policy; what qrexec makes of such lines: its own tests."""
    name, path = "only dom0 calls VPN and resolver qubes", policy / "30-qubes-vpn-services.policy"
    dry = states.services_policy(name, test=True)
    assert (dry.result, path.exists()) == (None, False)
    real = states.services_policy(name)
    assert real.result is True
    assert real.changes == dry.changes == {path.name: {"old": "not there", "new": "there"}}
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert lines == [f"qubes-vpn.{each} * @anyvm * deny" for each in services.TUNNEL]
    assert states.services_policy(name).changes == {}
    path.write_text(path.read_text().replace("deny", "allow"))
    assert states.services_policy(name).changes[path.name]["old"] == "of another version"
    path.write_text("qubes-vpn.Status * @anyvm * allow\n")
    refused = states.services_policy(name)
    assert (refused.result, refused.changes) == (False, {})
    assert f"{path} is not the formula's" in refused.comment
    assert path.read_text() == "qubes-vpn.Status * @anyvm * allow\n"
    assert embedded.writes() == []
