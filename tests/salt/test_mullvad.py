# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes_vpn.mullvad`, the state, in a VPN qube with a stand-in for the Mullvad app.

The app itself cannot be had here and was never run: `tests/mullvad_app` follows its sources in
three versions, and fails as they do.
"""

import json
import time

import pytest
from both_modes import both_modes
from in_qube import run_in, skip_where_impossible
from mullvad_stand_in import PROGRAMS, SYSTEMCTL
from saltfactories.utils.functional import Loaders

from qubes_vpn_formula.lab.qube import Qube

# As in test_killswitch_state.py.
NOT_HERE = "the core is not installed here"
pillar_of_app = pytest.importorskip("qubes_vpn_mullvad_pillar", reason=NOT_HERE)
account = pytest.importorskip("qubes_vpn_mullvad_account", reason=NOT_HERE)
cli = pytest.importorskip("qubes_vpn_mullvad_cli", reason=NOT_HERE)
settings_of_app = pytest.importorskip("qubes_vpn_mullvad_settings", reason=NOT_HERE)

#: What the pillar's `obfuscation: off` is in each.
VERSIONS = {"2024.8": "off", "2025.14": "port", "2026.4": "wireguard-port"}
ACCOUNT, FILE = "1234123412341234", "/rw/config/vpn/credentials/mullvad-account"
WANTS = "/etc/systemd/system/multi-user.target.wants/mullvad-daemon.service"
DROP_IN = "/etc/systemd/system/mullvad-.service.d/50-qubes-vpn.conf"
CONF = "/rw/config/qubes-bind-dirs.d/50-qubes-vpn.conf"
#: What a first run changes with the defaults, beside what is kept.
FIRST = {
    "lockdown": {"old": "off", "new": "on"},
    "lan": {"old": "off", "new": "on"},
    "wireguard_port": {"old": "any", "new": "51820"},
    "obfuscation": {"old": "auto", "new": "off"},
    "auto_connect": {"old": "off", "new": "on"},
    "account": {"old": "logged out", "new": "logged in"},
}


def settings(**keys):
    """The pillar's, with its defaults."""
    problems = []
    chosen = {key: keys.pop(key) for key in ("owner", "hosted_by") if key in keys}
    read = pillar_of_app.MULLVAD.read(keys, (), problems)
    assert problems == []
    read = {**pillar_of_app.settings(read, None), **chosen}
    return json.loads(json.dumps(read))  # as a state gets them


class App:
    """A VPN qube with the stand-in, and the state in it."""

    def __init__(self, qube, states):
        self.qube, self._states = qube, states

    def plan(self, **keys):
        self.qube.write("/run/mullvad-app.json", json.dumps(keys))

    def state(self, test=False, api=True, **keys):
        given = {"name": "sys-vpn", "settings": settings(**keys), "api": api}
        done = run_in(self.qube, lambda: dict(self._states[test](**given)))
        for secret in (ACCOUNT, ACCOUNT[:8], "q" * 43):
            assert secret not in str(done)
        return done

    def daemon(self, verb):
        self.qube.run(["systemctl", verb, "mullvad-daemon.service"])

    def json(self, path):
        return json.loads(self.qube.read(path))

    def calls(self, after=0):
        """What the command line was called with, so far."""
        said = self.qube.run("cat /run/mullvad-words || :").stdout.splitlines()
        return [line.split("\0") for line in said[after:]]

    def words(self, after=0):
        """All words of these calls."""
        return {word for words in self.calls(after) for word in words}

    def answers(self):
        """Waits for the daemon."""
        self.qube.run("until mullvad status | grep -q .; do sleep 0.1; done")

    def written(self):
        """Everything that a run could change."""
        find = "find /rw /etc/mullvad-vpn /var/cache/mullvad-vpn -printf '%p %m %u %T@\\n'"
        return self.qube.run(
            f"({find}; cat /run/systemctl-words /proc/self/mountinfo"
            " | sed 's/^[0-9]* [0-9]* //') 2>/dev/null"
        ).stdout


@pytest.fixture(scope="session")
def states(session_loaders):
    loaders = Loaders({**session_loaders.opts, "id": "sys-vpn"})
    return {test: found["qubes_vpn.mullvad"] for test, found in both_modes(loaders).items()}


@pytest.fixture
def qube():
    """A VPN qube whose template has the app; the account's number is in its file."""
    skip_where_impossible()
    with Qube("sys-vpn") as qube:
        programs = {**PROGRAMS, "/usr/bin/systemctl": SYSTEMCTL}
        lines = [f"install -D '{source}' {path}" for path, source in programs.items()]
        empty = ("/run/qubes-service/qubes-vpn", WANTS, DROP_IN)
        lines += [f"install -D -m 644 /dev/null {path}" for path in empty]
        qube.run("set -e\n" + "\n".join(lines))
        qube.write(FILE, f"{ACCOUNT[:4]} {ACCOUNT[4:8]} {ACCOUNT[8:]}\n", 0o600)
        yield qube


@pytest.fixture
def app(qube, states, request):
    """The same, and the app runs; nobody has set anything."""
    made = App(qube, states)
    made.plan(version=getattr(request, "param", "2026.4"))
    made.daemon("start")
    made.answers()
    qube.run("rm /run/mullvad-words /run/mullvad-requests")
    return made


@pytest.fixture
def settled(app):
    """After a first run."""
    done = app.state()
    assert done["result"] is True, done
    return app


# --- all of it


def test_first_run_sets_logs_in_connects_and_keeps(app):
    """R24, R30, R40, R81. The second run is silent."""
    before = app.written()
    dry = app.state(test=True)
    assert dry["result"] is None
    assert app.written() == before

    done = app.state()
    assert done["result"] is True, done
    kept = {
        change: done["changes"].pop(change) for change in list(done["changes"]) if "/" in change
    }
    assert set(kept) == {CONF, "/etc/mullvad-vpn", "/var/cache/mullvad-vpn"}
    # Whoever logs in with auto_connect on is connected by that: nothing is left to do.
    assert done["changes"] == FIRST
    assert dry["changes"] == {
        **kept,
        **FIRST,
        "tunnel": {"old": "Disconnected", "new": "Connected"},
    }
    found = app.json("/rw/bind-dirs/etc/mullvad-vpn/settings.json")
    assert found["mode"] == "wireguard-port"
    assert (found["wireguard_port"], found["lockdown_mode"]) == ("51820", True)

    after, number = app.written(), len(app.calls())
    for test in (True, False):
        again = app.state(test=test)
        assert (again["result"], again["changes"]) == (True, {})
    assert app.written() == after
    assert {"set", "login", "connect"}.isdisjoint(app.words(number))


EVERY = {
    "location": "de-ber-wg-001",
    "entry": "se got",
    "blockers": ["trackers", "adult_content"],
    "lan": False,
    "lockdown": False,
    "auto_connect": False,
    "wireguard_port": 53,
    "quantum_resistant": False,
    "daita": True,
}


@pytest.mark.parametrize(("app", "mode"), VERSIONS.items(), indirect=["app"])
def test_every_setting_is_changed_and_read_back(app, mode):
    """R30. In each version's own words; also those whose first value was right already."""
    done = app.state(**EVERY)
    assert done["result"] is True, done
    assert done["comment"].endswith("as auto_connect is off: Disconnected.")
    again = app.state(**EVERY)
    assert (again["result"], again["changes"]) == (True, {})
    assert app.json("/etc/mullvad-vpn/settings.json") == {
        "mode": mode,
        "auto_connect": False,
        "lockdown_mode": False,
        "allow_lan": False,
        "dns": {"custom": [], "blocked": ["trackers", "adult-content"]},
        "location": ["de", "ber", "de-ber-wg-001"],
        "providers": [],
        "ownership": "any",
        "entry": ["se", "got"],
        "multihop": True,
        "wireguard_port": "53",
        "udp2tcp": "any",
        "shadowsocks": "any",
        "lwo": "any",
        "quantum_resistant": "off",
        "daita": True,
    }
    if mode != "wireguard-port":
        return
    back = app.state(location="se")
    assert set(back["changes"]) == {
        *("lockdown", "lan", "blockers", "location", "multihop", "wireguard_port"),
        *("quantum_resistant", "daita", "auto_connect", "tunnel"),
    }


@pytest.mark.parametrize("app", VERSIONS, indirect=True)
def test_the_app_takes_the_relays_that_were_chosen(app):
    """R36. By owner and by company, which a location cannot say; and any again."""
    chosen = {"owner": "owned", "hosted_by": ["M247", "31173"]}
    done = app.state(**chosen)
    assert done["result"] is True, done
    assert done["changes"]["owner"] == {"old": "any", "new": "owned"}
    assert done["changes"]["hosted_by"] == {"old": "none", "new": "M247, 31173"}
    found = app.json("/etc/mullvad-vpn/settings.json")
    assert (found["ownership"], set(found["providers"])) == ("owned", {"M247", "31173"})
    assert app.state(**chosen)["changes"] == {}
    back = {
        "owner": {"old": "owned", "new": "any"},
        "hosted_by": {"old": "31173, m247", "new": "none"},
    }
    assert app.state(owner="any", hosted_by=[])["changes"] == back
    app.qube.run(["mullvad", "relay", "set", "ownership", "rented"])
    assert app.state()["changes"] == {}


@pytest.mark.parametrize(
    ("app", "method", "port", "works"),
    [
        ("2024.8", "udp2tcp", 5001, True),
        ("2025.14", "shadowsocks", 51900, True),
        ("2026.4", "lwo", 51820, True),
        ("2026.4", "quic", None, True),
        ("2024.8", "quic", None, False),
    ],
    indirect=["app"],
)
def test_obfuscation_with_its_port(app, method, port, works):
    """R30. What a version does not know is an error that names it."""
    for name, value in ((f"{method} port", port), ("obfuscation", method)):
        said = value and run_in(app.qube, refusal, settings_of_app.change, name, value)
    if not works:
        assert "the Mullvad app 2024.8 has no way to set obfuscation to quic" in said
        return
    assert said == "it answered None"
    found = app.json("/etc/mullvad-vpn/settings.json")
    assert found["mode"] == method
    assert port is None or found[method] == str(port)


@pytest.mark.parametrize("app", ["2025.14", "2026.4"], indirect=True)
def test_off_that_means_any_port_is_not_taken_for_pinned(settled):
    """The allowlist would not be true: from 2025.14 on, `off` lets the app choose the port."""
    word = (
        "obfuscation" if "2025" in settled.qube.read("/run/mullvad-app.json") else "anti-censorship"
    )
    settled.qube.run(["mullvad", word, "set", "mode", "off"])
    assert settled.state()["changes"] == {"obfuscation": {"old": "off, to any port", "new": "off"}}
    assert settled.state()["changes"] == {}


def test_what_somebody_set_by_hand_is_put_right(settled):
    for words in (
        ["dns", "set", "custom", "9.9.9.9"],
        ["lockdown-mode", "set", "off"],
        ["relay", "set", "multihop", "on"],
    ):
        settled.qube.run(["mullvad", *words])
    assert settled.state()["changes"] == {
        "lockdown": {"old": "off", "new": "on"},
        "blockers": {"old": "custom servers", "new": "none"},
        "multihop": {"old": "on", "new": "off"},
    }
    assert settled.state()["changes"] == {}


# --- an app that does not do what it says


@pytest.mark.parametrize(
    ("ignored", "name"),
    [
        ("allow_lan", "lan was set to on, and is off"),
        ("mode", "obfuscation was set to off, and is auto"),
        ("login", "`mullvad account login` was taken for done, and nobody is logged in"),
    ],
)
def test_a_silent_no_op_is_an_error(app, ignored, name):
    """R24."""
    app.plan(version="2026.4", ignore=[ignored])
    done = app.state()
    assert done["result"] is False
    assert name in done["comment"]
    assert name.split(" was ")[0] not in done["changes"]
    assert ignored == "login" or not app.qube.exists("/etc/mullvad-vpn/device.json")


@pytest.mark.parametrize("silent", [True, False])
def test_without_a_daemon_nothing_is_set(app, silent, monkeypatch):
    """R24. Whether the command line fails then, or says nothing and ends well."""
    monkeypatch.setattr("qubes_vpn_mullvad._DAEMON_PATIENCE", 0.6)
    monkeypatch.setattr("qubes_vpn_mullvad.wait.__defaults__", (0.6,))
    app.plan(version="2026.4", silent=silent)
    app.daemon("stop")
    app.qube.write("/run/mullvad-app.json.down", "")
    for test in (True, False):
        done = app.state(test=test)
        assert done["result"] is False, done
        assert "the Mullvad app's daemon did not answer in 0.6 seconds" in done["comment"]
        assert "journalctl -u mullvad-daemon" in done["comment"] or not silent
        assert set(done["changes"]) <= {CONF, "/etc/mullvad-vpn", "/var/cache/mullvad-vpn"}
    assert app.words() == {"status"}


def test_a_daemon_that_is_slow_is_waited_for(app):
    """R24."""
    app.plan(version="2026.4", slow=1.5, silent=True)
    app.daemon("stop")
    app.daemon("start")
    started = time.monotonic()
    assert app.state()["result"] is True
    assert time.monotonic() - started > 1


@pytest.mark.parametrize(("at", "silent"), [(4, True), (17, False), (24, True)])
def test_a_daemon_that_ends_on_the_way_is_an_error(app, at, silent):
    """R24. The next run does the rest."""
    app.plan(version="2026.4", crash_at=at, silent=silent)
    done = app.state()
    assert done["result"] is False, done
    app.daemon("start")
    again = app.state()
    assert again["result"] is True, again
    assert not {*done["changes"]} & {*again["changes"]}


def test_a_setting_that_the_login_puts_back_is_an_error(app):
    """R24, R40. All are read once more at the end."""
    app.plan(version="2026.4", undone="lockdown_mode")
    done = app.state()
    assert done["result"] is False
    assert "lockdown was set to on, and is off again" in done["comment"]


def test_a_tunnel_that_goes_down_with_a_change_is_not_taken_for_connected(settled, monkeypatch):
    """The app says `Connected` for a moment after a setting that makes it connect anew."""
    monkeypatch.setattr("qubes_vpn_mullvad._TUNNEL_PATIENCE", 1)
    settled.plan(version="2026.4", drops=True)
    done = settled.state(location="de")
    assert set(done["changes"]) == {"location"}
    assert done["result"] is False
    assert "not connected after 1 seconds: Connecting" in done["comment"]


def test_a_daemon_that_a_killed_run_left_stopped_is_started(settled):
    """Killed after the folders were bound, before the daemon was started again."""
    settled.daemon("stop")
    before = settled.written()
    dry = settled.state(test=True)
    assert settled.written() == before
    done = settled.state()
    running = {"mullvad-daemon.service": {"old": "stopped", "new": "running"}}
    assert (dry["result"], dry["changes"]) == (None, running)
    assert "is seen once its daemon runs" in dry["comment"]
    assert (done["result"], done["changes"]) == (True, running), done
    assert settled.state()["changes"] == {}


@pytest.mark.parametrize(
    ("load", "active", "fix"),
    [
        ("masked", "inactive", "systemctl unmask mullvad-daemon.service"),
        ("loaded", "failed", "systemctl restart mullvad-daemon.service"),
    ],
)
def test_a_unit_that_cannot_be_started_is_named(app, load, active, fix):
    app.qube.write("/run/mullvad-unit", f"LoadState={load}\nActiveState={active}\n")
    for test in (True, False):
        done = app.state(test=test)
        assert (done["result"], done["changes"]) == (False, {})
        assert fix in done["comment"]
    assert app.calls() == []


def test_a_tunnel_that_does_not_come_up_is_an_error(app, monkeypatch):
    """A dry run does not say either that all is as it should be."""
    monkeypatch.setattr("qubes_vpn_mullvad._TUNNEL_PATIENCE", 1)
    app.plan(version="2026.4", connects=False)
    done = app.state()
    assert done["result"] is False
    assert "not connected after 1 seconds: Connecting" in done["comment"]
    assert done["changes"]["account"]["new"] == "logged in"
    dry = app.state(test=True)
    assert (dry["result"], dry["changes"]) == (
        None,
        {"tunnel": {"old": "Connecting", "new": "Connected"}},
    )
    assert app.state()["changes"] == {}


@pytest.mark.parametrize("port", ["9" * 5000, "²"])
def test_a_port_that_is_none_is_no_crash(port):
    """Python refuses to make numbers of thousands of digits, or of what only looks like one."""
    told = {"censorship": {("", "wireguard-port settings"): f"port {port}"}, "relay": {}}
    assert settings_of_app.differs("wireguard_port", 51820, told)


# --- the account


def test_the_number_is_in_no_command_and_no_environment(app):
    """R33. Every process can read those of every other."""
    assert app.state()["result"] is True
    assert app.json("/run/mullvad-seen") == []
    assert ["account", "login"] in app.calls()
    assert ACCOUNT not in str(app.words())
    # The spy itself can see: the same with the number among the words.
    app.qube.run(["mullvad", "account", "login", ACCOUNT])
    assert app.json("/run/mullvad-seen") != []


WRONG_FILES = {
    "none": (f"rm {FILE}", "is not logged in. Write the account number into"),
    "readable": (f"chmod 0644 {FILE}", f"chmod 0600 {FILE}"),
    "of somebody else": (f"chown 1000 {FILE}", f"chown root:root {FILE}"),
    "link": (f"mv {FILE} /rw/x; ln -s /rw/x {FILE}", "Too many levels of symbolic links"),
    "pipe": (f"rm {FILE}; mkfifo -m 600 {FILE}", "not a plain file"),
    "words": (f"echo hunter2 > {FILE}", "there is no account number in it"),
    "binary": (f"head -c 9999 /dev/urandom > {FILE}", "there is no account number in it"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_file_that_is_not_as_it_must_be(qube, name):
    """R33."""
    spoil, told = WRONG_FILES[name]
    qube.run(spoil)
    said = run_in(qube, refusal, account.number)
    assert told in said
    assert "hunter2" not in said


def refusal(function, *args):
    """Why that function does not work; for `run_in`."""
    try:
        return f"it answered {function(*args)}"
    except cli.Failed as failed:
        return str(failed)


def test_without_a_file_the_settings_are_made_all_the_same(app):
    app.qube.run(["rm", FILE])
    dry, done = app.state(test=True), app.state()
    assert dry["result"] is done["result"] is False
    assert dry["comment"] == done["comment"]
    assert dry["changes"] == done["changes"]
    assert app.json("/etc/mullvad-vpn/settings.json")["lockdown_mode"] is True
    assert ["account", "login"] not in app.calls()


@pytest.mark.parametrize(
    ("plan", "api", "number", "told"),
    [
        (
            {"devices": 0},
            True,
            ACCOUNT,
            "`mullvad account revoke-device NAME`. Then run this again",
        ),
        ({"api": False}, True, ACCOUNT, "cannot reach Mullvad's API"),
        ({"api": False}, False, ACCOUNT, "add 45.83.223.196:443/tcp to them"),
        ({}, True, "9999000099990000", f"knows no account of the number in {FILE}"),
    ],
)
def test_a_login_that_is_refused_says_what_to_do(app, plan, api, number, told):
    app.plan(version="2026.4", **plan)
    said = run_in(app.qube, refusal, account.login, number, api)
    assert told in said
    assert number not in said


#: The account's number, whole and in parts, as an error could have it.
DISGUISES = [
    "no account {number}",
    "account {number[0]}-{number[1]}-{number[2]}-{number[3]} bad",
    "acct {number[0]} {number[1]}\u00a0{number[2]}.{number[3]}",
    'acct "{number[0]}{number[1]}" ... "{number[2]}{number[3]}"',
    "GET /accounts/{number[0]}{number[1]}/x{number[2]}{number[3]}y",
    "{number[0]} of {number[1]} of {number[2]} of {number[3]}: cannot reach the api",
]


def test_no_part_of_the_number_is_told_in_whatever_form_the_app_says_it(app):
    """R33."""
    parts = [ACCOUNT[at : at + 4] for at in range(0, 16, 4)]
    for disguise in DISGUISES:
        whole = disguise.replace("{number}", ACCOUNT)
        text = whole.format(number=parts)
        app.plan(version="2026.4", refusal=text)
        for api in (True, False):
            said = run_in(app.qube, refusal, account.login, ACCOUNT, api)
            assert "1234" not in said.replace("45.83.223.196", ""), text
        assert parts[0] * 2 not in "".join(filter(str.isdigit, cli.without_secret(whole)))


def test_a_revoked_device_is_left_to_the_user(settled):
    """Somebody revoked it: that is not undone by a run."""
    settled.qube.write("/etc/mullvad-vpn/device.json", json.dumps("revoked"))
    done = settled.state()
    assert done["result"] is False
    assert "device was revoked" in done["comment"]
    assert "`mullvad account login` asks for the number" in done["comment"]


def test_who_is_logged_in_needs_no_file_and_no_api(settled):
    settled.qube.run(["rm", FILE])
    settled.plan(version="2026.4", api=False)
    number = len(settled.calls())
    done = settled.state(api=False)
    assert (done["result"], done["changes"]) == (True, {})
    assert "can neither log in nor renew its key" in done["comment"]
    assert not {"login", "logout"} & settled.words(number)


# --- what is kept


def restart(app):
    """As Qubes does it: what is not bound is the template's again; the binds are made anew."""
    app.daemon("stop")
    app.qube.run("umount /etc/mullvad-vpn /var/cache/mullvad-vpn")
    app.qube.run("rm -rf /etc/mullvad-vpn /var/cache/mullvad-vpn /run/mullvad-requests")
    app.qube.run(
        [
            "bash",
            "-c",
            f'. {CONF}; for d in "${{binds[@]}}"; do mkdir -p $d; '
            "mount --bind /rw/bind-dirs$d $d; done",
        ]
    )
    app.daemon("start")
    app.answers()


def test_a_restart_keeps_login_and_settings(settled):
    """R30, R81."""
    restart(settled)
    assert settled.qube.exists("/var/cache/mullvad-vpn/relays.json")
    number = len(settled.calls())
    done = settled.state()
    assert (done["result"], done["changes"]) == (True, {})
    assert "login" not in settled.words(number)


@pytest.mark.parametrize("clock", ["1 hour ago", "now + 1 hour"])
def test_a_login_that_is_not_kept_is_not_taken_over_whatever_the_clock_was(app, clock):
    """R30. It may be the template's, and each qube of it would be the same device."""
    app.qube.run("mullvad account login", input=ACCOUNT)
    app.qube.run(["touch", "-d", clock, "/run/qubes-service/qubes-vpn"])
    for test in (True, False):
        done = app.state(test=test)
        assert done["result"] is False
        assert "device.json holds a login that is not kept in /rw" in done["comment"]
        assert done["changes"] == {}
    assert not app.qube.exists("/rw/bind-dirs")
    # What it says to do works.
    app.qube.run(["mullvad", "account", "logout"])
    done = app.state()
    assert (done["result"], "account" in done["changes"]) == (True, True), done


def test_settings_that_the_qube_had_before_are_taken_over(app):
    app.qube.run(["mullvad", "lockdown-mode", "set", "on"])
    done = app.state()
    assert done["result"] is True
    assert "lockdown" not in done["changes"]


def test_custom_persist_is_named(app):
    app.qube.write("/run/qubes-service/custom-persist", "")
    done = app.state()
    assert done["result"] is False
    assert "qvm-service QUBE custom-persist off" in done["comment"]
    assert done["changes"] == {}


def test_a_mount_that_fails_is_told_and_the_daemon_runs_again(app):
    app.qube.run("mv /usr/bin/mount /usr/bin/mount.old; ln -s /usr/bin/false /usr/bin/mount")
    done = app.state()
    assert done["result"] is False
    assert "mount --bind" in done["comment"]
    assert set(done["changes"]) == {CONF}
    assert app.qube.read("/run/systemctl-words").split()[-2:] == ["stop", "start"]


@pytest.mark.parametrize("path", ["/usr/bin/mullvad", WANTS, DROP_IN])
def test_what_the_template_lacks_is_named(app, path):
    app.qube.run(["rm", path])
    for test in (True, False):
        done = app.state(test=test)
        assert (done["result"], done["changes"]) == (False, {})
        assert done["comment"].startswith(f"{path}: not there.")
        assert done["comment"].endswith("Apply the formula to the template, and restart this qube.")
