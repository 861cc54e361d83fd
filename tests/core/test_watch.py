# SPDX-License-Identifier: GPL-2.0-or-later
"""What the watchdog decides (R34), and when the desktop is told (R84)."""

import itertools
import subprocess
import sys

import pytest

import qubes_vpn_connections
import qubes_vpn_nm
import qubes_vpn_tunnel
import qubes_vpn_watch as watchdog
from qubes_vpn_nft import Failed
from qubes_vpn_nm import Active
from qubes_vpn_notice import APART, Notices

A, B = "uuid-a", "uuid-b"
UPLINK = Active("uplink", "802-3-ethernet", "activated", "/2")
ALONE = [
    Active("lo", "loopback", "activated", "/1"),
    Active("tun0", "tun", "activated", "/9"),
    Active("vif", "802-3-ethernet", "activated", "/8", "vif3.0"),
]


def of(uuid, path, state="activated"):
    return Active(uuid, "vpn", state, path)


class Qube:
    """A watchdog that looks again and again; `now` in seconds."""

    def __init__(self, wish=A):
        self.watch, self.wish, self.now, self.seen = watchdog.Watch(), (1, wish), 0.0, [UPLINK]

    def look(self, *seen, after=0.0):
        self.seen, self.now = [UPLINK, *seen], self.now + after
        return self.watch.look(self.wish, {A, B}, self.seen, self.now)


@pytest.fixture
def qube():
    return Qube()


@pytest.fixture
def up(qube):
    """One whose tunnel is up with A."""
    assert qube.look() == [("up", A)]
    assert qube.look(of(A, "/3", "activating"), after=1) == []
    assert qube.look(of(A, "/3"), after=1) == []
    return qube


@pytest.mark.parametrize("without", [[], ALONE, [UPLINK._replace(state="activating")]])
def test_it_waits_for_an_uplink(without):
    watch = watchdog.Watch()
    assert watch.look((1, A), {A}, without, 0) == []
    assert watch.look((1, A), {A}, [*without, UPLINK], 1) == [("up", A)]


def test_a_lost_tunnel_comes_back_at_once(up):
    assert up.look(after=1) == [("up", A)]


def test_attempts_that_fail_come_further_and_further_apart(qube):
    """Whatever happens, no more than one in FIRST seconds, and one in MOST."""
    attempts = []
    for second in range(600):
        if qube.look(after=1) == [("up", A)]:
            attempts.append(second)
    gaps = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert gaps[:5] == [5, 10, 20, 40, 60]
    assert set(gaps[4:]) == {watchdog.MOST}


def test_an_uplink_that_is_back_is_tried_at_once(up):
    for _ in range(5):
        up.look(after=6)
    assert up.look(after=1) == []
    assert up.watch.look(up.wish, {A}, [], up.now + 2) == []
    again = [UPLINK._replace(path="/12")]
    assert up.watch.look(up.wish, {A}, again, up.now + 3) == [("up", A)]


def test_what_a_user_takes_down_stays_down_until_the_next_wish(up):
    up.watch.stopped("/3")
    assert [up.look(after=100) for _ in range(3)] == [[], [], []]
    up.wish = (2, A)
    assert up.look() == [("up", A)]


def test_a_stop_is_known_though_the_connection_was_not_seen_any_more(up):
    """The signal may come after the look that no longer finds it."""
    assert up.look(of(A, "/3", "deactivating")) == []
    up.watch.stopped("/3")
    assert up.look(after=100) == []


def test_what_somebody_brings_up_is_what_it_keeps_up(up):
    """And never the pillar's one beside it."""
    assert up.look(of(A, "/3"), of(B, "/4", "activating")) == [("down", A)]
    up.watch.stopped("/3")  # its own doing
    assert up.look(of(B, "/4")) == []
    assert up.look(after=1) == [("up", B)]


def test_a_user_who_stopped_one_may_start_another(up):
    up.watch.stopped("/3")
    assert up.look() == []
    assert up.look(of(B, "/4")) == []
    assert up.look(after=1) == [("up", B)]


def test_a_watchdog_that_starts_anew_takes_what_is_up_as_chosen():
    qube = Qube()
    assert qube.look(of(B, "/7")) == []
    assert qube.look(after=1) == [("up", B)]


def test_a_wish_for_none_takes_down_what_is_up(up):
    up.wish = (2, None)
    assert up.look(of(A, "/3")) == [("down", A)]
    assert up.look(after=100) == []


def test_without_a_usable_profile_nothing_is_brought_up():
    assert Qube(wish=None).look() == []
    assert Qube(wish="of a keyfile that is gone").look() == []


def test_its_own_stop_is_no_users_stop(up):
    """After a sleep it takes the tunnel down itself."""
    up.watch.forget()
    assert up.look(of(A, "/3", "deactivating")) == []
    up.watch.stopped("/3")
    assert up.look(after=0.1) == [("up", A)]


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (b'{"path":"/a/3","payload":{"type":"uu","data":[4,2]}}', "/a/3"),
        (b'{"path":"/a/3","payload":{"type":"uu","data":[4,4]}}', None),
        (b"\0" * 40, None),
        (b"", None),
        (b'{"path":"/a/3","payload":{}}', None),
        (b"[1]", None),
    ],
)
def test_a_signal_says_whether_it_was_a_user(line, path):
    assert watchdog.stopped_by_user(line) == path


WAYS = {"10.64.1.2/24", "default of table main"}
GONE = "addresses or routes are gone"


def trouble(*counted, up=True):
    """What is said after each (sent, received), a minute apart."""
    pulse = watchdog.Pulse()
    return [
        pulse.trouble("/1", up, WAYS, *packets, 60 * minute)
        for minute, packets in enumerate(counted, 1)
    ]


def test_a_tunnel_that_only_sends_is_dead():
    said = trouble((0, 0), (20, 0), (40, 0), (60, 0))
    assert said == [None] * 3 + ["no answers"]


def test_one_that_was_made_anew_has_its_time_again():
    """Its interface counts from nothing; what the old one sent and when is not its own."""
    before = [(0, 0), (20, 0), (40, 0), (60, 0)]
    assert trouble(*before, (12, 0), (30, 0), (50, 0), (70, 0))[4:] == [None] * 3 + ["no answers"]
    lost = [(0, 0), (100, 9), (120, 9), (140, 9)]  # with it, before anything was found
    assert trouble(*lost, (30, 0), (50, 0), (70, 0), (90, 0))[4:] == [None] * 3 + ["no answers"]


@pytest.mark.parametrize(
    "counted",
    [
        [(20, 0), (40, 1), (60, 2), (80, 3), (100, 4)],
        [(20, 5)] * 9,  # idle
        [(0, 0)] * 9 + [(50, 0)],  # just begun to send
        [(minute, 0) for minute in range(9)],  # hardly anything sent
    ],
)
def test_a_tunnel_that_answers_or_is_idle_is_not(counted):
    assert not any(trouble(*counted))


def test_a_tunnel_whose_interface_stays_down_is_dead():
    pulse = watchdog.Pulse()
    looks = ((True, WAYS, 1), (False, set(), 2), (False, set(), 3))
    said = [pulse.trouble("/1", up, ways, 0, 0, now) for up, ways, now in looks]
    assert said == [None] * 3
    assert pulse.trouble("/1", False, set(), 0, 0, 2 + watchdog.LOST) == "its interface is down"
    assert pulse.trouble("/1", False, set(), 0, 0, 3 + watchdog.LOST) is None  # it is being made


@pytest.mark.parametrize("left", [set(), {"10.64.1.2/24"}, WAYS - {"10.64.1.2/24"}])
def test_a_tunnel_that_lacks_a_way_is_dead(left):
    """NetworkManager 1.52 goes on calling it activated."""
    pulse = watchdog.Pulse()
    assert pulse.trouble("/1", True, WAYS, 0, 0, 1) is None
    assert pulse.trouble("/1", True, left, 0, 0, 2) is None
    assert pulse.trouble("/1", True, WAYS, 0, 0, 3) is None  # it was there again in time
    assert pulse.trouble("/1", True, left, 0, 0, 4) is None
    assert pulse.trouble("/1", True, left, 0, 0, 4 + watchdog.LOST) == GONE


def test_another_connection_has_ways_of_its_own():
    pulse = watchdog.Pulse()
    assert pulse.trouble("/1", True, WAYS, 0, 0, 1) is None
    assert [pulse.trouble("/2", True, {"default of table 7"}, 0, 0, now) for now in (2, 9)] == [
        None,
        None,
    ]
    assert [pulse.trouble("/3", True, set(), 0, 0, now) for now in (10, 19)] == [None, GONE]


def test_notices_are_what_is_new_and_few():
    said = []
    notices = Notices(said.append)
    for second in range(200):
        notices.note(up=second % 2 == 0, now=float(second))
    assert said[0] is True
    assert len(said) <= 200 / APART + 1
    notices.note(up=True, now=1000.0)
    assert said[-1] is True
    before = len(said)
    notices.note(up=True, now=2000.0)
    assert len(said) == before


def test_nothing_is_said_of_a_tunnel_that_is_not_up_yet():
    said = []
    Notices(said.append).note(up=False, now=0.0)
    assert said == []


# --- nothing ends it


NAMED = r"""
import ctypes
ctypes.CDLL(None).prctl(15, b"\xff\xc3", 0, 0, 0)
print(flush=True)
input()
"""


def test_the_name_of_another_process_may_be_any_bytes():
    """Every unprivileged process can give itself one that is no UTF-8."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", NAMED], **pipes) as process:
        process.stdout.readline()
        qubes_vpn_nm.end_abandoned("tun0")
        process.communicate(b"\n")
    assert process.returncode == 0


class End(BaseException):
    """Of a test."""


class Ears:
    """What is heard after each turn; the bus and the signals are not of this test."""

    def __init__(self, heard):
        self._heard = iter(heard)

    def hear(self, _seconds):
        for slept in self._heard:
            return slept, []
        raise End


@pytest.fixture
def turns(monkeypatch, tmp_path):
    """What `run` gives to each turn and tells of it, when the turns go so."""

    def run(heard, *outcomes):
        seen, told, left = [], [], list(outcomes)

        def turn(_watch, _pulse, slept):
            seen.append(slept)
            outcome = left.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        class Noted:
            def note(self, up, _now):
                told.append(up)

        monkeypatch.setattr(qubes_vpn_connections, "FILES", tmp_path / "qubes-vpn")
        monkeypatch.setattr(watchdog, "turn", turn)
        monkeypatch.setattr(watchdog, "Ears", lambda: Ears(heard))
        monkeypatch.setattr(watchdog, "Notices", Noted)
        with pytest.raises(End):
            watchdog.run()
        return seen, told

    return run


def test_a_turn_that_fails_is_said_and_is_not_the_last(turns, capsys):
    """And never with the exception's own text, which may hold what was read."""
    wrong = UnicodeDecodeError("utf-8", b"hunter2\xff", 7, 8, "hunter2 is wrong")
    _, told = turns([False] * 4, True, wrong, Failed("nmcli: no answer"), OSError(28, "full"), True)
    assert told == [True, False, False, False, True]
    said = capsys.readouterr().out
    assert "UnicodeDecodeError at qubes_vpn_watch.py:" in said
    assert "nmcli: no answer" in said
    assert "hunter2" not in said


def test_a_sleep_is_remembered_until_networkmanager_answers(turns):
    seen, _ = turns([True, False, False, False], True, None, Failed("no answer"), True, True)
    assert seen == [False, True, True, True, False]


def test_it_does_nothing_while_another_one_is_at_work(turns):
    """What `tunnel up` takes down to bring up another one is not lost, and nobody is told."""

    def heard():
        yield False
        with qubes_vpn_tunnel.alone():
            yield False
        yield False

    turned, told = turns(heard(), True, True, True)
    assert (len(turned), told) == (3, [True] * 4)


def test_a_turn_without_networkmanager_is_none(monkeypatch):
    def active():
        raise Failed("NetworkManager does not answer")

    monkeypatch.setattr(qubes_vpn_nm, "active", active)
    assert watchdog.turn(watchdog.Watch(), watchdog.Pulse(), slept=True) is None
