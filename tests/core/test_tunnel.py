# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of the tunnel, and what is done with it, by what NetworkManager and wg answer.

Stand-ins for both answer as nmcli(1) and wg(8) do; the real ones are in tests/booted.
"""

import base64
import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import qubes_vpn_configure
import qubes_vpn_connections
import qubes_vpn_establish
import qubes_vpn_handshake
import qubes_vpn_killswitch
import qubes_vpn_mullvad_keep
import qubes_vpn_nft
import qubes_vpn_nm
import qubes_vpn_switching
import qubes_vpn_tunnel
from qubes_vpn_keyfile import Connection, uuid_of
from qubes_vpn_nft import Failed
from qubes_vpn_told import DONE, VERSION, profile_id, read

OF_PROFILES = qubes_vpn_connections.of_profiles
ROOT = Path(__file__).parents[2]
KEY = "k" * 43 + "="


class Qube:
    """A qube whose programs answer from what is set here."""

    def __init__(self, folder):
        self.folder = folder
        self.active = {}  # profile -> its state
        self.type, self.answers, self.stays = "vpn", True, True
        self.uplink = "activated"
        self.handshake, self.keepalive = 0, "off"
        self.unwatched, self.now, self.called = False, 0.0, []

    def run(self, *argv, **_):
        self.called.append(argv)
        match argv:
            case ["nmcli", *_] if not self.answers:
                raise Failed("nmcli: no answer for 75 seconds")
            case [*_, "show", "--active"]:
                lines = (
                    f"{uuid_of(name)}:{self.type}:{state}:/p/{name}:qubes-vpn-{name}\n"
                    for name, state in self.active.items()
                )
                uplink = f"eth:802-3-ethernet:{self.uplink}:/p/0:VM uplink eth0\n"
                return (uplink if self.uplink else "") + "".join(lines)
            case ["nmcli", *_, "up", "uuid", uuid] if self.stays:
                self.active[self.name(uuid)] = "activated"
            case ["nmcli", *_, "down", "uuid", uuid]:
                del self.active[self.name(uuid)]
            case ["wg", "show", _, "latest-handshakes"]:
                return f"{KEY}\t{self.handshake}\n"
            case ["wg", "show", _, "persistent-keepalive"]:
                return f"{KEY}\t{self.keepalive}\n"
            case ["systemctl", "is-active", _] if self.unwatched:
                raise Failed("systemctl: inactive")
        return ""

    @staticmethod
    def name(uuid):
        return {uuid_of(name): name for name in ("a", "b", "c")}[uuid]

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def qube(monkeypatch, tmp_path):
    made = Qube(tmp_path)
    settings = qubes_vpn_connections.Settings("openvpn", "tun0", "a", ("b",))
    connections = qubes_vpn_connections.Connections(
        {
            name: Connection(uuid_of(name), f"qubes-vpn-{name}", f"uuid={uuid_of(name)}\n", {}, ())
            for name in ("a", "b")
        },
        {},
    )
    clock = SimpleNamespace(monotonic=lambda: made.now, sleep=made.sleep)
    for module, name, value in (
        (qubes_vpn_nft, "run", made.run),
        (qubes_vpn_handshake, "run", made.run),
        (qubes_vpn_nft, "is_open", lambda: True),
        (qubes_vpn_nft, "is_up", lambda _: True),
        (qubes_vpn_nft, "leads", lambda _: True),
        (qubes_vpn_nft, "is_tunnel", lambda _: True),
        (qubes_vpn_nm, "end_abandoned", lambda _: None),
        (qubes_vpn_tunnel, "lacking", lambda *_: []),
        (qubes_vpn_connections, "pinned", list),
        (qubes_vpn_connections, "of_profiles", lambda *_: connections),
        (qubes_vpn_connections, "CONF", tmp_path / "tunnel.conf"),
        (qubes_vpn_connections, "FILES", tmp_path / "ours"),
        (qubes_vpn_tunnel, "WISH", tmp_path / "ours/wish"),
        (qubes_vpn_connections, "KEYFILES", tmp_path / "run/NetworkManager/system-connections"),
        # Not those of the module `time`: other threads of the tests wait by them, one for ever.
        (qubes_vpn_tunnel, "time", clock),
        (qubes_vpn_nm, "time", clock),
        (qubes_vpn_establish, "_open", list),
        (
            qubes_vpn_killswitch,
            "status",
            lambda: {"state": "open", "interfaces": {"tun0": "a tunnel"}},
        ),
    ):
        monkeypatch.setattr(module, name, value)
    made.settings = settings
    qubes_vpn_connections.CONF.write_text(qubes_vpn_connections.write_settings(settings))
    qubes_vpn_connections.FILES.mkdir()
    qubes_vpn_connections.write(connections.made)
    return made


def said():
    report = qubes_vpn_tunnel.status()
    return report["state"], report["profile"], report["problems"]


# --- what is said


@pytest.mark.parametrize(
    ("active", "state", "profile"),
    [
        ({}, "down", "a"),
        ({"a": "activated"}, "up", "a"),
        ({"b": "activated"}, "up", "b"),
        ({"b": "activating"}, "connecting", "b"),
        ({"a": "activating", "b": "activated"}, "up", "b"),
    ],
)
@pytest.mark.parametrize("pillars", ["a", "b"])
def test_it_is_said_of_the_one_that_is_up(qube, active, state, profile, pillars):
    """Whichever is the pillar's, and wherever its name stands among the others."""
    other = {"a": "b", "b": "a"}[pillars]
    settings = qube.settings._replace(profile=pillars, further=(other,))
    qubes_vpn_connections.CONF.write_text(qubes_vpn_connections.write_settings(settings))
    qube.active = active
    assert said() == (state, profile if active else pillars, [])


def test_a_networkmanager_that_does_not_answer_is_not_down(qube):
    qube.answers = False
    state, _, problems = said()
    assert state == "unknown"
    assert problems == ["NetworkManager does not answer (nmcli: no answer for 75 seconds)"]


@pytest.mark.parametrize("text", ["kind = openvpn\ninterf", ""])
def test_what_is_up_is_said_without_its_settings(qube, text):
    qubes_vpn_connections.CONF.write_text(text)
    qube.active = {"b": "activated"}
    state, profile, problems = said()
    assert (state, profile) == ("up", "b")
    assert "tunnel.conf" in problems[0]


def test_without_any_settings_nothing_is_called_up(qube, monkeypatch):
    """Nobody knows its interface then."""
    qubes_vpn_connections.CONF.unlink()
    monkeypatch.setattr(qubes_vpn_killswitch, "status", lambda: {"state": "absent"})
    monkeypatch.setattr(qubes_vpn_nft, "is_up", lambda interface: interface == "tun0")
    qube.active = {"a": "activated"}
    assert said()[0] == "connecting"


def test_one_whose_keyfile_is_gone_is_said_and_taken_down(qube):
    """As after a start of qubes-vpn-tunnel.service that found no usable profile."""
    qubes_vpn_connections.write({})
    qube.active = {"c": "activated"}
    assert said()[:2] == ("up", "c")
    qubes_vpn_tunnel.stop()
    assert qube.active == {}


def test_one_of_the_users_own_is_not_ours(qube):
    """Whatever it is called."""
    mine = qubes_vpn_nm.Active("a-uuid", "vpn", "activated", "/p", "qubes-vpn-a")
    assert set(qubes_vpn_connections.ours([mine])) == {uuid_of("a"), uuid_of("b")}


def test_a_watchdog_that_does_not_run_is_said(qube):
    qube.active, qube.unwatched = {"a": "activated"}, True
    state, _, problems = said()
    assert (state, len(problems)) == ("up", 1)
    assert problems[0].startswith("the watchdog does not run")


# --- what is done


def test_what_cannot_be_taken_down_is_no_success(qube):
    qube.active, qube.answers = {"a": "activated"}, False
    with pytest.raises(Failed, match="NetworkManager does not answer"):
        qubes_vpn_tunnel.stop()


def test_a_full_disk_does_not_keep_it_up(qube, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "/run/qubes-vpn/wish")

    monkeypatch.setattr(qubes_vpn_configure, "replace", full)
    qube.active = {"a": "activated"}
    with pytest.raises(Failed, match=r"is down, but .*/run/qubes-vpn/wish: No space left"):
        qubes_vpn_tunnel.stop()
    assert qube.active == {}


def establish(qube):
    return qubes_vpn_establish.establish(qube.settings, [], dry=False)


def test_what_nmcli_calls_done_is_looked_at(qube):
    """R34. It ends with 0, and a moment later there is no connection."""
    qube.stays = False
    done = establish(qube)
    assert done.changes == {}
    assert "the connection was made, and is gone again" in done.problems[0]


def test_what_is_still_otherwise_at_the_second_look_is_a_problem(qube, monkeypatch):
    monkeypatch.setattr(qubes_vpn_tunnel, "make", lambda *_: None)
    done = establish(qube)
    assert done.changes == {}
    assert done.problems[0].startswith("not as it should be: the tunnel is down and not a")


def test_while_one_is_at_work_another_waits_and_does_not_begin(qube):
    folder = os.open(qubes_vpn_connections.FILES, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    for work in (qubes_vpn_tunnel.up, qubes_vpn_tunnel.stop):
        with pytest.raises(Failed, match="another `tunnel` or state is at work"):
            work()
    os.close(folder)
    assert qube.called == []
    assert qube.now > 150
    qubes_vpn_tunnel.up()
    assert qube.active == {"a": "activated"}


@pytest.mark.parametrize(
    ("before", "former"),
    [({}, None), ({"a": "activated"}, "a"), ({"a": "activating"}, "a"), ({"b": "activated"}, "b")],
)
def test_dom0_is_told_what_was_up_before(qube, before, former):
    """R67. By its id; an older template's qube does not tell, and is understood too."""
    former = former and profile_id(former)
    for name, argument in (("Switch", profile_id("b")), ("Disconnect", "")):
        qube.active = dict(before)
        done = qubes_vpn_switching.do(name, argument)
        assert (done["done"], done["former"], done["why"]) == (True, former, None)
        data = {"version": VERSION, **done}
        assert read(json.dumps(data).encode(), DONE) == data
        del data["former"]
        assert read(json.dumps(data).encode(), DONE) == {**data, "former": None}


def test_what_was_up_cannot_be_told_and_it_is_done_all_the_same(qube, monkeypatch):
    def refuse():
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(qubes_vpn_connections, "configured", refuse)
    qube.active = {"a": "activated"}
    done = qubes_vpn_switching.do("Disconnect", "")
    assert (done["done"], done["state"], done["former"]) == (True, "unknown", None)
    assert qube.active == {}


def test_dom0_is_told_that_a_server_is_no_endpoint(qube, monkeypatch):
    """R15, R35. And that a profile is missing is another thing."""
    credentials = qube.folder / "credentials"
    credentials.mkdir(0o700)
    monkeypatch.setattr(qubes_vpn_connections, "CREDENTIALS", credentials)
    monkeypatch.setattr(qubes_vpn_connections, "of_profiles", OF_PROFILES)
    monkeypatch.setattr(qubes_vpn_connections, "pinned", lambda: ["203.0.113.8:51820/udp"])
    settings = qubes_vpn_connections.Settings("wireguard", "wg0", "a.conf", ("b.conf",))
    qubes_vpn_connections.CONF.write_text(qubes_vpn_connections.write_settings(settings))
    key = base64.b64encode(b"k" * 32).decode()
    profile = credentials / "b.conf"
    profile.write_text(
        f"[Interface]\nPrivateKey = {key}\nAddress = 10.2.0.2/32\nDNS = 10.2.0.1\n"
        f"[Peer]\nPublicKey = {key}\nAllowedIPs = 0.0.0.0/0, ::/0\n"
        "Endpoint = 203.0.113.7:51820\n"
    )
    profile.chmod(0o600)
    for why in ("endpoint", "profile"):
        done = qubes_vpn_switching.do("Switch", profile_id("b.conf"))
        assert (done["done"], done["why"]) == (False, why)
        profile.unlink(missing_ok=True)
    assert qube.active == {}


def test_networkmanagers_own_folder_is_not_closed(qube):
    """R50: its resolv.conf in there is everybody's; the keyfiles are root's."""
    keyfiles = qubes_vpn_connections.KEYFILES
    assert [path.stat().st_mode & 0o777 for path in (keyfiles.parent, keyfiles)] == [0o755, 0o700]


# --- WireGuard: an interface is no tunnel yet


@pytest.fixture
def wireguard(qube):
    qube.type, qube.settings = "wireguard", qube.settings._replace(kind="wireguard")
    qubes_vpn_connections.CONF.write_text(qubes_vpn_connections.write_settings(qube.settings))
    return qube


@pytest.mark.parametrize(("handshake", "state"), [(0, "connecting"), (1, "up"), (1 << 31, "up")])
def test_wireguard_is_up_once_its_server_has_answered(wireguard, handshake, state):
    """However long ago: an idle tunnel makes no handshakes."""
    wireguard.active, wireguard.handshake = {"a": "activated"}, handshake
    assert said() == (state, "a", [])


@pytest.mark.parametrize("uplink", ["", "activating"])
def test_without_an_uplink_nothing_is_up_that_once_was(wireguard, uplink):
    """NetworkManager leaves WireGuard's interface and connection as they are."""
    wireguard.active, wireguard.handshake, wireguard.uplink = {"a": "activated"}, 1, uplink
    assert said() == ("connecting", "a", [])


def test_what_no_route_leads_into_is_not_up(wireguard, monkeypatch):
    wireguard.active, wireguard.handshake = {"a": "activated"}, 1
    assert said() == ("up", "a", [])
    monkeypatch.setattr(qubes_vpn_nft, "leads", lambda _: False)
    assert said() == ("connecting", "a", [])


def test_a_server_that_never_answers_is_a_failure_after_a_while(wireguard):
    done = establish(wireguard)
    assert done.problems[0].startswith("no answer from the server for 60 seconds")
    assert "tunnel" not in done.changes
    assert 60 <= wireguard.now < 70
    done = establish(wireguard)  # and at the second run as well
    assert done.problems[0].startswith("no answer from the server")


def test_a_server_that_answers_is_up(wireguard, monkeypatch):
    real = wireguard.sleep

    def sleep(seconds):
        real(seconds)
        wireguard.handshake = 1

    monkeypatch.setattr(qubes_vpn_tunnel.time, "sleep", sleep)
    done = establish(wireguard)
    assert (done.problems, done.changes["tunnel"]) == ((), {"old": "down", "new": "a"})


@pytest.mark.parametrize(("keepalive", "sets"), [("off", ["25", "0"]), ("15", [])])
def test_a_handshake_is_provoked_where_nothing_else_makes_one(wireguard, keepalive, sets):
    wireguard.keepalive = keepalive
    qubes_vpn_handshake.provoke("wg0")
    assert [argv[-1] for argv in wireguard.called if argv[1] == "set"] == sets


# --- the program, and files


@pytest.fixture
def installed(tmp_path):
    """The program with its library, where everybody may read it."""
    folder = tmp_path / "lib"
    folder.mkdir()
    for path in [*ROOT.glob("_utils/*.py"), ROOT / "salt/qubes/network/files/tunnel"]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / "tunnel"


def run(program, before, *words):
    """The program as it is, after the line *before* of Python."""
    text = (
        f"import runpy, sys; sys.argv[1:] = {list(words)!r}; sys.path.insert(0, "
        f"{str(program.parent)!r})\n{before}\nrunpy.run_path({str(program)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", text]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("words", [["status"], ["up"], ["down"], ["prepare"], ["watch"]])
def test_who_is_not_root_is_told_to_be(installed, words):
    done = run(installed, "import os; os.geteuid = lambda: 1000", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "sudo" in done.stderr


@pytest.mark.parametrize(("number", "file"), [(28, "/run/x"), (30, None)])
def test_whatever_the_system_refuses_is_a_sentence(installed, number, file):
    before = (
        "import os; os.geteuid = lambda: 0\nimport qubes_vpn_tunnel\n"
        f"def up(*_): raise OSError({number}, 'Refused', {file!r})\nqubes_vpn_tunnel.up = up"
    )
    done = run(installed, before, "up")
    told = f"{file}: Refused" if file else "Refused"
    assert (done.returncode, done.stderr) == (1, f"qubes-vpn tunnel: {told}\n")


def _keep(path, data, _mode):
    qubes_vpn_mullvad_keep._write(path, data.decode())


@pytest.mark.parametrize("write", [qubes_vpn_configure.replace, _keep])
def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch, write):
    """An error of write or fsync has no file name of its own."""

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write(path, b"text", 0o644)
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
