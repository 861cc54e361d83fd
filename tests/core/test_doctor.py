# SPDX-License-Identifier: GPL-2.0-or-later
"""The doctor: each row of the guides' troubleshooting tables is a check that finds it (R68)."""

import copy
import json

import pytest

import qubes_vpn_doctor
import qubes_vpn_finding
import qubes_vpn_model
import qubes_vpn_overview
import qubes_vpn_policy
import qubes_vpn_told

from .audit_machines import CHECKED, MORE, TAKEN

PILLAR = {
    "tunnels": {
        "sys-vpn": {"kind": "wireguard", "profile": "se.conf", "endpoints": ["192.0.2.1:51820/udp"]}
    },
    "routes": {"qubes": {"work": "sys-firewall"}},
    "vaults": ["vault"],
}
MODEL = qubes_vpn_model.build(PILLAR)
APP = qubes_vpn_model.build(
    {**PILLAR, "tunnels": {"sys-vpn": {"kind": "mullvad", "endpoints": ["192.0.2.1:51820/udp"]}}}
)
#: Row of a table -> the checks that find it.  s0: the Mullvad guide; s1: the notes on sys-vpn and
#: sys-dns; s2: the article's tests; s3: the field manual's checklist.
ROWS = {
    "s0 no internet: the app's LAN setting": {"D324"},
    "s0 no internet: IP forwarding": {"D208"},
    "s0 no internet: DNS of clients is dropped": {"D401", "D402", "D413"},
    "s0 no internet: mullvad status says Connected": {"D328"},
    "s0 no internet: forward rules are there": {"D201", "D202", "D203"},
    "s0 no internet: the qube's netvm": {"D113"},
    "s0 disconnected at start: the daemon runs": {"D321"},
    "s0 disconnected at start: the template enables it": {"D322"},
    "s0 disconnected at start: auto-connect": {"D323"},
    "s0 disconnected at start: settings lost, no account": {"D326", "D327"},
    "s0 script does not run: executable": {"D501"},
    "s0 script does not run: Qubes' service": {"D504"},
    "s0 script does not run: errors in it": {"D502", "D503"},
    "s0 kill switch leaks: rules not applied": {"D201", "D202", "D204", "D206", "D209"},
    "s0 kill switch leaks: sys-firewall too permissive": {"D121", "D122"},
    "s0 lockdown, the app's own layer": {"D325"},
    "s0 vaults have no netvm": {"D115"},
    "s1 leaks outside tun0: killswitch in the wrong place": {"D205", "D206"},
    "s1 not up at boot: profile not imported": {"D301", "D302", "D303", "D304", "D306"},
    "s1 not up at boot: no autoconnect": {"D307", "D308", "D309"},
    "s1 plain DNS leaves sys-dns: no DNAT, or too late": {"D411", "D412"},
    "s1 DNS breaks at boot: dnscrypt-proxy not ready": {"D414", "D421", "D422", "D424"},
    "s1 DNS breaks at boot: first list not fetched": {"D425", "D426", "D427"},
    "s1 some qubes should not use the VPN: routed wrong": {"D113", "D114"},
    "s1 checklist: sys-vpn provides network, netvm sys-net": {"D101", "D111", "D112", "D116"},
    "s1 checklist: sys-dns on sys-vpn, sys-firewall on sys-dns": {"D111"},
    "s1 checklist: endpoints.txt has numbers": {"D203", "D207"},
    "s1 resolv.conf of sys-dns is pinned": {"D428"},
    "s1 mullvad or provider changes DNS: it is followed": {"D403"},
    "s2 the tunnel is up": {"D309", "D310", "D311", "D305"},
    "s2 restart of the firewall's service": {"D209"},
    "s3 a bank's list without its DNS": {"D123"},
    "s3 restart after updates": {"D104"},
    "s3 updates at fixed times": {"D105"},
    "s3 clock of a qube": {"D423"},
    "a qube is off, or hung": {"D102", "D103"},
    "a rule of the user's goes before ours in dom0's policy": {"D124"},
    "a bypass is open": {"D125"},
}


def qube(template="t", netvm=None, provides=False, **more):
    values = {"template": template, "netvm": netvm, "provides_network": provides}
    return {
        "class": "AppVM",
        "power": "Running",
        "properties": {key: {"value": value, "inherited": False} for key, value in values.items()},
        "features": {},
        "tags": [],
        "firewall": ["action=accept"],
        **more,
    }


def healthy(model=MODEL):
    """A machine as the pillar says, on which everything works."""
    # As qubesadmin writes them.
    endpoints = ["action=accept proto=udp dst4=192.0.2.1/32 dstports=51820-51820", "action=drop"]
    flags = {"service.qubes-vpn": "1", "service.network-manager": "1"}
    qubes = {
        "dom0": {**qube(), "class": "AdminVM", "features": {**CHECKED}},
        "t": {**qube(None), "class": "TemplateVM", "features": {"qubes-firewall": "1", **CHECKED}},
        "other": {**qube(None), "class": "TemplateVM"},  # the network does not rest on it
        "sys-net": qube(provides=True),
        "sys-vpn": qube("t", "sys-net", True, features=flags, firewall=endpoints),
        "sys-dns": qube("t", "sys-vpn", True, features={"service.qubes-vpn-dns": "1"}),
        "sys-firewall": qube("t", "sys-dns", True),
        "work": qube("t", "sys-firewall", power="Halted"),
        "vault": qube("t"),
    }
    globals_ = {"default_netvm": "sys-firewall", "updatevm": "sys-firewall"}
    inventory = {"globals": globals_, "qubes": qubes, "policy": {}, "taken": TAKEN, "more": MORE}
    told = {"sys-vpn": vpn(), "sys-dns": dns()}
    if model is APP:
        told["sys-vpn"]["tunnel"] |= {"kind": "mullvad", "profiles": []}
        told["sys-vpn"]["mullvad"] = {
            "answers": True,
            "enabled": True,
            "account": "logged in",
            "lan": True,
            "auto_connect": True,
            "lockdown": True,
        }
    return qubes_vpn_doctor.Subject(model, inventory, told, {})


def common(role):
    return {
        "version": "1",
        "role": role,
        "forwarding": True,
        "custom_persist": False,
        "units": dict.fromkeys(qubes_vpn_told.UNITS, "active"),
        "scripts": {"idle": 0, "dos": 0, "broken": 0},
    }


def vpn():
    return common("tunnel") | {
        "killswitch": {
            "state": "open",
            "in_template": True,
            "problems": 0,
            "drift": 0,
            "endpoints": 1,
            "log": False,
            "counters": {"dropped": 0, "refused": 0},
        },
        "tunnel": {
            "kind": "wireguard",
            "state": "up",
            "interface": "wg0",
            "handshake": 20,
            "server": "192.0.2.1:51820",
            "sent": 1,
            "received": 1,
            "faults": [],
            "profiles": [{"id": qubes_vpn_told.profile_id("se.conf"), "state": "up"}],
        },
        "mullvad": None,
        "dns": {"open": True, "resolvers": ["10.2.0.1"], "named": ["10.2.0.1"], "follows": True},
        "resolver": None,
    }


def dns():
    nothing = dict.fromkeys(("killswitch", "tunnel", "mullvad", "dns"))
    return (
        common("resolver")
        | nothing
        | {
            "resolver": {
                "state": "open",
                "problems": 0,
                "drift": 0,
                "answers": True,
                "causes": [],
                "own_names": True,
                "counters": {"dropped": 0, "refused": 0},
            }
        }
    )


def of_qubes(subject):
    return subject.inventory["qubes"]


def properties(subject, name):
    return of_qubes(subject)[name]["properties"]


def kill(subject):
    return subject.told["sys-vpn"]["killswitch"]


def tunnel(subject):
    return subject.told["sys-vpn"]["tunnel"]


def app(subject):
    return subject.told["sys-vpn"]["mullvad"]


def resolver(subject):
    return subject.told["sys-dns"]["resolver"]


def clients_dns(subject):
    return subject.told["sys-vpn"]["dns"]


def causing(word):
    return lambda subject: resolver(subject).update(causes=[word], answers=False, state="closed")


def unit(name, state, of="sys-vpn"):
    return lambda subject: subject.told[of]["units"].update({name: state})


def script(kind):
    return lambda subject: subject.told["sys-dns"]["scripts"].update({kind: 2})


def netvm(name, value):
    return lambda subject: properties(subject, name)["netvm"].update(value=value)


def portal(qubes):
    uuid = "12345678-1234-1234-1234-123456789abc"
    qubes["portal"] = qube("t", "sys-net", bypass=uuid, **{"class": "DispVM"})
    qubes["dom0"]["features"]["x-qubes-vpn-bypass.portal"] = f"{uuid} 1772365500"


def faulty(*words, **more):
    return lambda subject: tunnel(subject).update(faults=[*words], **more)


DENIED = qubes_vpn_policy.services_text().splitlines()
#: Check -> what is planted; it and no other one finds it.
PLANTED = {
    "D101": lambda it: of_qubes(it).pop("sys-firewall"),
    "D102": lambda it: of_qubes(it)["sys-firewall"].update(power="Paused"),
    "D103": lambda it: it.silent.update({it.told.popitem()[0]: "no whole answer"}),
    "D104": lambda it: it._replace(stale=frozenset(["sys-vpn"])),
    "D105": lambda it: of_qubes(it)["t"]["features"].pop("last-updates-check"),
    "D111": netvm("sys-dns", "sys-net"),
    "D112": lambda it: properties(it, "sys-dns")["provides_network"].update(value=False),
    "D113": netvm("work", "sys-net"),
    "D114": lambda it: it.inventory["globals"].update(default_netvm="sys-net"),
    "D115": netvm("vault", "sys-firewall"),
    "D116": lambda it: of_qubes(it)["sys-vpn"]["features"].pop("service.qubes-vpn"),
    "D121": lambda it: of_qubes(it)["sys-vpn"].update(firewall=["action=accept"]),
    "D122": lambda it: of_qubes(it)["sys-net"]["features"].update({"service.qubes-firewall": ""}),
    "D123": lambda it: of_qubes(it)["work"].update(
        firewall=["action=accept dsthost=bank.example proto=tcp dstports=443-443", "action=drop"]
    ),
    "D124": lambda it: it.inventory["policy"].update(
        {"10-a.policy": ["* * dev @anyvm ask"], "30-qubes-vpn-services.policy": DENIED}
    ),
    "D125": lambda it: portal(of_qubes(it)),
    "D201": lambda it: kill(it).update(state="absent"),
    "D202": lambda it: kill(it).update(state="altered", drift=2),
    "D203": lambda it: kill(it).update(state="closed", problems=1),
    "D204": lambda it: kill(it).update(problems=1),
    "D205": lambda it: kill(it).update(in_template=False),
    "D207": lambda it: kill(it).update(endpoints=7),
    "D208": lambda it: it.told["sys-dns"].update(forwarding=False),
    "D209": unit("qubes-firewall", "failed"),
    "D301": faulty("profile-missing", state="down"),
    "D302": faulty("profile-unusable", state="down"),
    "D303": faulty("bad-settings", state="down", kind="other"),
    "D304": faulty("keyfile-differs"),
    "D305": faulty("not-a-tunnel"),
    "D306": faulty("files-missing", state="down"),
    "D307": lambda it: [
        tunnel(it).update(state="unknown"),
        unit("NetworkManager", "inactive")(it),
    ],
    "D308": unit("qubes-vpn-watch", "inactive"),
    "D309": faulty(state="down"),
    "D310": faulty(state="connecting"),
    "D311": faulty(state="unknown"),
    "D401": lambda it: clients_dns(it).update(open=False, resolvers=[]),
    "D402": lambda it: clients_dns(it).update(open=False, resolvers=[], named=[]),
    "D403": lambda it: clients_dns(it).update(follows=False),
    "D411": lambda it: resolver(it).update(state="absent"),
    "D412": lambda it: resolver(it).update(state="altered", drift=1),
    "D413": lambda it: resolver(it).update(problems=1),
    "D414": lambda it: resolver(it).update(state="closed"),
    "D421": causing("not-running"),
    "D422": causing("refused"),
    "D423": causing("clock"),
    "D424": causing("out"),
    "D425": causing("list"),
    "D426": causing("servers"),
    "D427": lambda it: resolver(it).update(causes=["old-list"]),
    "D428": lambda it: resolver(it).update(own_names=False),
    "D501": script("idle"),
    "D502": script("dos"),
    "D503": script("broken"),
    "D504": unit("qubes-misc-post", "failed", "sys-dns"),
}
#: The same with the Mullvad app.
PLANTED_APP = {
    "D321": lambda it: [app(it).update(answers=False), tunnel(it).update(state="unknown")],
    "D322": lambda it: app(it).update(enabled=False),
    "D323": lambda it: app(it).update(auto_connect=False),
    "D324": lambda it: app(it).update(lan=False),
    "D325": lambda it: app(it).update(lockdown=False),
    "D326": lambda it: [app(it).update(account="logged out"), tunnel(it).update(state="down")],
    "D328": lambda it: tunnel(it).update(state="connecting"),
}
#: Where one thing is two: the second says what follows from it.
TOGETHER = {
    frozenset({"D205", "D206"}): lambda it: [
        kill(it).update(in_template=False, problems=1),
        it.told["sys-vpn"].update(custom_persist=True),
    ],
}


def found(subject):
    report = qubes_vpn_doctor.examine(subject)
    assert report.unknown == ()
    return {finding.rule.id for finding in report.findings}


def planted(model, plant):
    subject = healthy(model)
    subject = subject._replace(inventory=copy.deepcopy(subject.inventory))
    changed = plant(subject)
    return changed if isinstance(changed, qubes_vpn_doctor.Subject) else subject


@pytest.mark.parametrize("model", [MODEL, APP], ids=["wireguard", "mullvad"])
def test_nothing_is_found_where_nothing_is_wrong(model):
    report = qubes_vpn_doctor.examine(healthy(model))
    assert report == qubes_vpn_finding.Report(())


@pytest.mark.parametrize("check", PLANTED)
def test_each_fault_is_found_by_its_check_and_no_other(check):
    assert found(planted(MODEL, PLANTED[check])) == {check}


@pytest.mark.parametrize("check", PLANTED_APP)
def test_each_fault_of_the_app_is_found(check):
    assert found(planted(APP, PLANTED_APP[check])) == {check}


def test_a_revoked_device_is_named_with_what_follows():
    def plant(it):
        app(it).update(account="revoked")
        tunnel(it).update(state="down")

    assert found(planted(APP, plant)) == {"D327", "D328"}


@pytest.mark.parametrize("checks", TOGETHER, ids=sorted)
def test_faults_that_come_together(checks):
    assert found(planted(MODEL, TOGETHER[checks])) == checks


def test_every_check_is_planted_once_and_every_row_has_its_checks():
    ids = [rule.id for rule in qubes_vpn_doctor.RULES]
    assert len(ids) == len(set(ids))
    shown = {*PLANTED, *PLANTED_APP, "D327", *(one for both in TOGETHER for one in both)}
    assert set(ids) == shown
    assert set(ids) == {check for checks in ROWS.values() for check in checks}


def ways(value, path=()):
    """Every place in *value*, the way to it."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else items:
        yield from ways(inner, (*path, key))


TOR = qubes_vpn_model.build(
    {**PILLAR, "topology": "dns-tor-vpn", "routes": {"qubes": {"work": "sys-firewall"}}}
)


def findings(subject):
    return {(each.rule.id, each.qube) for each in qubes_vpn_doctor.examine(subject).findings}


def test_whonix_gateway_is_looked_at_where_the_topology_has_it():
    """R08, R88: whether it is there, and hangs where the topology says."""
    subject = healthy(TOR)
    assert findings(subject) == {("D101", "sys-whonix"), ("D111", "sys-dns")}
    of_qubes(subject)["sys-whonix"] = qube("t", "sys-net", True)
    netvm("sys-dns", "sys-whonix")(subject)
    assert findings(subject) == {("D113", "sys-whonix")}
    netvm("sys-whonix", "sys-vpn")(subject)
    assert findings(subject) == set()


def overview(subject):
    return qubes_vpn_overview.data(subject, qubes_vpn_doctor.examine(subject), [])


def test_the_overview_marks_who_is_in_clear():
    """R67: past each tunnel, and past Tor; by an uplink that the pillar does not name too."""
    subject = healthy()
    of_qubes(subject)["games"] = qube("t", "sys-net")
    of_qubes(subject)["anon"] = qube("t", "gateway")
    of_qubes(subject)["gateway"] = {**qube("t", "sys-net", True), "tags": ["anon-gateway"]}
    of_qubes(subject)["lost"] = qube("t", "modem")
    of_qubes(subject)["modem"] = qube("t", None, True)
    lines = qubes_vpn_overview.text(overview(subject)).splitlines()
    assert lines[:4] == [
        "anon -> gateway -> sys-net",
        "lost -> modem  IN CLEAR",
        "work -> sys-firewall -> sys-dns -> sys-vpn -> sys-net",
        "games -> sys-net  IN CLEAR",
    ]


def test_the_overview_tells_who_is_in_clear_by_choice():
    """R05, R67. Whom the pillar has there, and not whoever else hangs on the same netvm."""
    subject = healthy()
    subject = subject._replace(model=subject.model._replace(outside_vpn=("games", "video")))
    of_qubes(subject).update({name: qube("t", "sys-net") for name in subject.model.outside_vpn})
    way = "games, video -> sys-net  IN CLEAR, by choice"
    assert way in qubes_vpn_overview.text(overview(subject)).splitlines()
    of_qubes(subject)["lost"] = qube("t", "sys-net")
    way = "games, lost, video -> sys-net  IN CLEAR, by choice of games, video only"
    assert way in qubes_vpn_overview.text(overview(subject)).splitlines()


#: What may be at one place or another of a form.
POOL = (
    *(None, True, False, 0, 2**53, [], {}),
    *("up", "down", "unknown", "absent", "closed", "failed", "other", "mullvad", "revoked", "wg0"),
    *(["bad-settings", "not-a-tunnel"], ["servers"]),
)


@pytest.mark.parametrize("name", ["sys-vpn", "sys-dns", "app"])
def test_whatever_form_a_qube_sends_it_is_examined_and_shown(name):
    """A hostile qube may combine what no qube combines; nobody else is the worse for it."""
    model = APP if name == "app" else MODEL
    name = name.replace("app", "sys-vpn")
    seen = 0
    for path in [path for path in ways(healthy(model).told[name]) if path]:
        for new in POOL:
            subject = healthy(model)
            inner = subject.told[name]
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = new
            try:
                told = qubes_vpn_told.read(
                    json.dumps(subject.told[name]).encode(), qubes_vpn_told.STATUS
                )
                subject.told[name] = qubes_vpn_told.for_role(told, model.services[name].role)
            except qubes_vpn_told.NotUnderstood:
                continue
            report = qubes_vpn_doctor.examine(subject)
            text = qubes_vpn_overview.text(qubes_vpn_overview.data(subject, report, []))
            assert (text + qubes_vpn_finding.text(report)).isascii()
            seen += 1
    assert seen > 30


def test_the_screen_tells_who_is_to_be_restarted_and_who_fetches_updates():
    """R07, R14. Upstream first; a choice of the pillar's is told as one."""
    chosen = {"templates": "sys-net", "outside_vpn": ["templates"]}
    subject = healthy(qubes_vpn_model.build({**PILLAR, "updates": chosen}))
    subject = subject._replace(stale=frozenset(["sys-firewall", "sys-vpn", "sys-dns"]))
    rule = "qubes.UpdatesProxy * @type:TemplateVM @default allow target=sys-net"
    subject.inventory["policy"].update({"30-a.policy": [rule]})

    def lines():
        report = qubes_vpn_doctor.examine(subject)
        return qubes_vpn_overview.text(qubes_vpn_overview.data(subject, report, [])).splitlines()

    restarts = "To be restarted: sys-vpn, sys-dns, sys-firewall (sudo qubesctl qubes_vpn.restarts)"
    assert restarts in lines()
    assert "Updates: templates by sys-net IN CLEAR, by choice; dom0 by sys-firewall" in lines()
    subject.inventory["globals"]["updatevm"] = "sys-net"  # which nobody has chosen
    clear = "Updates: templates by sys-net IN CLEAR, by choice; dom0 by sys-net IN CLEAR"
    assert clear in lines()
    subject.inventory["globals"]["updatevm"] = "sys-firewall"
    subject.inventory["policy"]["30-a.policy"][0] = "!include elsewhere"
    assert "Updates: templates not known; dom0 by sys-firewall" in lines()


def test_fixes_are_whole_sentences_for_the_qube():
    for rule in qubes_vpn_doctor.RULES:
        for text in (rule.title, rule.reason, rule.fix):
            assert text[0].isupper() or text.startswith(("dnscrypt", "dom0", "qubes")), text
        assert not rule.title.endswith(".")
        assert rule.reason.endswith(".")
    report = qubes_vpn_doctor.examine(planted(MODEL, PLANTED["D115"]))
    assert "Fix: Take it offline: qvm-prefs vault netvm ''" in qubes_vpn_finding.text(report)
    assert qubes_vpn_finding.exit_code(report) == 1
