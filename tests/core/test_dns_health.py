# SPDX-License-Identifier: GPL-2.0-or-later
"""When clients' DNS opens and closes, and what is said to be wrong (R51, R52)."""

import contextlib
import io
import signal
import sys
import time
from types import SimpleNamespace

import pytest
from in_qube import run_in, skip_where_impossible

import qubes_vpn_dns_ask
import qubes_vpn_dns_health as health
import qubes_vpn_dns_own as own
import qubes_vpn_dns_watch as dns_watch
import qubes_vpn_nft
import qubes_vpn_resolver
from qubes_vpn_dns_health import Facts, explain
from qubes_vpn_dns_watch import Watch
from qubes_vpn_formula.lab import resolverfiles
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.traffic import Resolver
from qubes_vpn_packages import packages

DAY = 86400


def decided(*seen, is_open=False):
    """What a watch does, question by question; `seen` is whether each was answered."""
    watch, done = Watch(), []
    for answers in seen:
        action = watch.look(answers, is_open)
        is_open = {"open_up": True, "close": False}.get(action, is_open)
        done.append(action)
    return done


def test_it_opens_with_the_first_answer_and_not_before():
    assert decided(False, False, True, True) == [None, None, "open_up", None]


def test_one_question_without_an_answer_closes_nothing_and_two_do():
    assert decided(False, True, False, True, is_open=True) == [None] * 4
    assert decided(True, False, False, False, True, is_open=True) == [
        None,
        None,
        "close",
        None,
        "open_up",
    ]


def test_what_somebody_else_closed_is_opened_again():
    watch = Watch()
    assert watch.look(True, True) is None
    assert watch.look(True, False) == "open_up"


# --- a proxy that runs and answers nobody


class Life:
    """A watch with a clock of its own, and what it does and says in it.

    answers, is_open, unit, systemctl: what there is at a second; a systemctl raises what it cannot.
    """

    def __init__(self, monkeypatch, **more):
        self.now, self.restarts, self.opened = 0.0, [], False
        self.answers = more.get("answers", lambda now: False)
        self.unit = more.get("unit", lambda now: "loaded active")
        self.stuck = more.get("stuck", False)
        self.broken = more.get("broken", "")
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)
        # Not those of the module `time`: other threads of the tests wait by them.
        monkeypatch.setattr(dns_watch, "time", clock)
        monkeypatch.setattr(qubes_vpn_dns_ask, "ask", self.ask)
        monkeypatch.setattr(qubes_vpn_dns_ask, "wait", self.ask)
        monkeypatch.setattr(qubes_vpn_resolver, "prepared", lambda _: {})
        monkeypatch.setattr(qubes_vpn_nft, "run", self.run)
        monkeypatch.setattr(health, "problems", lambda why: ["why it is silent"])
        monkeypatch.setattr(qubes_vpn_resolver, "is_open", lambda: self.opened)
        monkeypatch.setattr(qubes_vpn_resolver, "open_up", lambda *_: self.rules(True))
        monkeypatch.setattr(qubes_vpn_resolver, "close", lambda _: self.rules(self.stuck))

    def rules(self, opened):
        self.opened = opened
        return SimpleNamespace(open=opened, problems=())

    def ask(self, patience):
        if self.answers(self.now):
            return None
        self.now += patience
        return "no answer"

    def sleep(self, seconds):
        self.now += seconds
        if self.now > self.until:
            raise KeyboardInterrupt

    def run(self, *words):
        if self.broken in words:
            raise qubes_vpn_nft.Failed("systemctl: no answer for 5 seconds")
        if words[1] == "show":
            load, active = self.unit(self.now).split()
            return f"LoadState={load}\nActiveState={active}\n"
        assert words == ("systemctl", "--no-block", "try-restart", "dnscrypt-proxy.service")
        self.restarts.append(self.now)
        return ""

    def lasts(self, minutes):
        """The whole minutes at which it restarted the proxy, and the lines that it said."""
        self.until = minutes * 60
        with contextlib.redirect_stdout(io.StringIO()) as said, pytest.raises(KeyboardInterrupt):
            dns_watch.run(None)
        lines = said.getvalue().splitlines()
        return [int(at // 60) for at in self.restarts], lines


def test_who_has_answered_nobody_for_a_minute_is_restarted_again_and_again(monkeypatch):
    """R51: with growing distance; said once."""
    life = Life(monkeypatch)
    minutes, lines = life.lasts(50)
    assert 60 <= life.restarts[0] < 80
    assert len(minutes) == 7
    # A question and its pause take a quarter of a minute, so each may come as much later.
    for before, after, wait in zip(
        life.restarts, life.restarts[1:], (120, 240, 480, 600, 600, 600), strict=False
    ):
        assert wait <= after - before < wait + 15
    assert [line for line in lines if "restarted" in line] == [lines[-1]]
    assert len(lines) == 2


def test_after_an_answer_it_is_a_minute_again(monkeypatch):
    """One silence from the start to minute 20, another one from minute 30 on."""
    life = Life(monkeypatch, answers=lambda now: 20 * 60 < now < 30 * 60)
    minutes, lines = life.lasts(32.5)
    assert minutes == [1, 3, 7, 15, 31]
    assert len([line for line in lines if "restarted" in line]) == 2


def test_nobody_is_restarted_while_it_is_open(monkeypatch):
    """Answered, or not answered and not to be closed."""
    assert Life(monkeypatch, answers=lambda now: True).lasts(30)[0] == []
    assert Life(monkeypatch, answers=lambda now: now < 60, stuck=True).lasts(30)[0] == []


@pytest.mark.parametrize(
    "unit",
    ["loaded activating", "loaded inactive", "loaded failed", "masked active", "not-found active"],
)
def test_only_what_runs_is_restarted(monkeypatch, unit):
    """Neither a start with lists to fetch is cut off, nor is begun what is off or masked."""
    assert Life(monkeypatch, unit=lambda now: unit).lasts(30)[0] == []


def test_a_start_that_took_minutes_is_followed_by_restarts(monkeypatch):
    life = Life(monkeypatch, unit=lambda now: f"loaded {'activating' if now < 270 else 'active'}")
    life.lasts(8)
    first, second = life.restarts
    assert 270 <= first < 270 + 60 + 15
    assert 120 <= second - first < 120 + 15


@pytest.mark.parametrize("broken", ["show", "try-restart"])
def test_without_systemctl_the_watch_goes_on(monkeypatch, broken):
    life = Life(monkeypatch, broken=broken, answers=lambda now: now > 150)
    minutes, lines = life.lasts(4)
    assert minutes == []
    assert len([line for line in lines if "cannot be restarted: systemctl: no" in line]) == 1
    assert lines[-1] == "qubes-vpn resolver: clients are answered"
    assert life.opened


# --- what is said; the proxy's words are those of 2.1.8

NO_LIST = (
    "[CRITICAL] Unable to retrieve source [public-resolvers]: "
    "[open /rw/config/vpn/dns/lists/public-resolvers.md: no such file or directory]\n"
    "[FATAL] open /rw/config/vpn/dns/lists/public-resolvers.md: no such file or directory"
)
FORGED = "[CRITICAL] Unable to retrieve source [relays]: [Invalid signature]\n[FATAL] Invalid"
UNKNOWN = "[FATAL] None of the servers listed in the server_names list was found in the"
IN_USE = "[FATAL] listen udp 0.0.0.0:53: bind: address already in use"
BAD = "[FATAL] Unsupported key in configuration file: [serverz]"
MINE = "[FATAL] open /rw/config/vpn/dns/mine.txt: no such file or directory"
OUT_OF_TIME = "[NOTICE] Source\n[ERROR] No usable certificate found\n[NOTICE] is waiting"
X509 = "[ERROR] x509: certificate has expired or is not yet valid: current time is before"

WRONG = {
    "no configuration": (Facts(unit=()), "dnscrypt-proxy.toml is not there"),
    "no unit": (Facts(unit=("not-found", "inactive")), "dnscrypt-proxy.service is not-found"),
    "masked": (Facts(unit=("masked", "inactive")), "dnscrypt-proxy.service is masked"),
    "stopped": (Facts(unit=("loaded", "inactive"), port=()), "dnscrypt-proxy does not run"),
    "another program": (
        Facts(port=("systemd-resolve", "systemd-resolve"), log=IN_USE),
        "systemd-resolve has port 53",
    ),
    "list missing": (Facts(check=NO_LIST), "the list 'public-resolvers' is missing"),
    "list missing, tunnel down": (Facts(check=NO_LIST, way="refused"), "its tunnel is down"),
    "signature wrong": (Facts(check=FORGED), "the list 'relays' cannot be used: its signature"),
    "servers unknown": (Facts(check=UNKNOWN), "none of the pillar's server_names is in the lists"),
    "refused": (Facts(check=BAD), "configuration: Unsupported key in configuration file: [serverz"),
    "own file gone": (Facts(log=MINE), "its configuration: open /rw/config/vpn/dns/mine.txt: no"),
    "clock behind": (Facts(clock=-3 * DAY, log=OUT_OF_TIME), "the clock is 3 days behind that of"),
    "clock ahead": (Facts(clock=200, log=X509), "the clock is 3 minutes ahead of that of Qubes"),
    "no netvm": (Facts(way="none"), "this qube has no way out"),
    "tunnel down": (Facts(way="refused", log=OUT_OF_TIME), "its tunnel is down"),
    "certificates, clock unknown": (Facts(log=OUT_OF_TIME), "If that is not the time, set the"),
    "certificates, clock right": (Facts(log=X509, clock=1), "which is the time that Qubes has"),
    "another key": (
        Facts(log="[CRITICAL] [quad] Certificate hash [00] not found"),
        "a server has another key than its stamp says",
    ),
    "upstream blocked": (Facts(log="[NOTICE] [quad] TIMEOUT"), "no server answers through the"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_a_fix_and_only_that(name):
    facts, told = WRONG[name]
    (said,) = explain(facts._replace(why="no answer"))
    assert told in said
    assert ". " in said  # what to do


def test_while_it_answers_only_an_old_list_is_worth_a_word():
    assert explain(Facts(log=IN_USE, way="refused", lists=(("/x.md", 29.0),))) == []
    (said,) = explain(Facts(lists=(("/x.md", 31.2), ("/y.md", 1.0))))
    assert said.startswith("the list /x.md is 31 days old")
    told = explain(Facts("no answer", way="none", lists=(("/x.md", 31.2),)))
    assert [each[:12] for each in told] == ["this qube ha", "the list /x."]


@pytest.fixture
def qube():
    skip_where_impossible()
    with Qube("sys-dns") as qube:
        qube.run("ip link set lo up")
        yield qube


def test_a_qube_without_anything_is_looked_at_without_trouble(qube):
    (said, *_) = run_in(qube, health.problems, "no answer")
    assert "dnscrypt-proxy.toml is not there" in said


def watched(seconds, silent=30, programs=None, patience=11):
    """What the watch says in so many seconds, as lines; how often it asked and ran a program."""
    dns_watch._SILENT, dns_watch.PATIENCE = silent, patience
    if programs:
        qubes_vpn_nft.ENVIRON["PATH"] = programs
    asked, ask = [], qubes_vpn_dns_ask.ask
    ran, run = [], qubes_vpn_nft.run
    qubes_vpn_dns_ask.ask = lambda patience: asked.append(time.monotonic()) or ask(patience)
    qubes_vpn_nft.run = lambda *argv, **more: ran.append(argv) or run(*argv, **more)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(KeyboardInterrupt):
        dns_watch.run(qubes_vpn_resolver.IN_TEMPLATE)
    return said.getvalue().splitlines(), len(asked), len(ran)


def test_what_goes_on_being_wrong_is_said_once(qube):
    """And not five times a second, into the journal."""
    (said,), _, ran = run_in(qube, watched, 2, 30, "/nowhere")
    assert "nft" in said
    assert ran > 4


def test_while_nobody_listens_it_asks_often_and_starts_nft_seldom(qube):
    """While nothing is configured, that would be for ever."""
    lines, asked, ran = run_in(qube, watched, 4, 1, None, 1.5)
    assert "dnscrypt-proxy.toml is not there" in lines[0]
    assert asked > 20
    assert ran < 8


def test_it_does_not_wait_for_what_it_could_prepare_before(qube):
    """A client that asks in that moment keeps its answer: no flow is cut."""
    for path, (text, mode) in resolverfiles.files().items():
        qube.write(path, text, mode)
    qube.run(["nft", "-f", resolverfiles.CLOSED])
    with Resolver(qube, "0.0.0.0", "192.0.2.1"):  # noqa: S104 - of a network of its own
        programs = run_in(qube, opening, 3)
    before = programs[: programs.index("nft add element")]
    assert before[-1] == "nft -s list"
    assert before.count("nft -s list") == 1  # since it has asked
    assert "conntrack" not in " ".join(programs)
    assert run_in(qube, qubes_vpn_resolver.is_open)


def opening(seconds):
    """The programs that the watch runs, by the beginnings of their lines, from the answer on."""
    ran, run, ask = [], qubes_vpn_nft.run, qubes_vpn_dns_ask.ask

    def answered(patience):
        why = ask(patience)
        ran.clear()
        return why

    qubes_vpn_dns_ask.ask = answered
    qubes_vpn_nft.run = lambda *argv, **more: ran.append(" ".join(argv[:3])) or run(*argv, **more)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(KeyboardInterrupt):
        dns_watch.run(qubes_vpn_resolver.IN_TEMPLATE)
    return ran


def test_that_it_answers_and_cannot_be_opened_is_said(qube):
    qube.run("mkdir -p /run/qubes-service; touch /run/qubes-service/qubes-vpn")
    with Resolver(qube, "0.0.0.0", "192.0.2.1"):  # noqa: S104 - of a network of its own
        lines, *_ = run_in(qube, watched, 1.5)
    assert "closed to clients: it answers, but cannot be opened" in lines[0]
    assert "this is a VPN qube too" in lines[1]


_FLOOD = """
import contextlib, socket, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
    wire.connect(("198.51.100.1", 443))
    while True:
        with contextlib.suppress(OSError):
            wire.send(b"x")
        time.sleep(0.001)
"""


def test_whether_the_way_out_refuses_is_seen(qube):
    assert run_in(qube, health._way) == "none"
    qube.run("ip netns add vpn; ip link add eth0 type veth peer name vif1.0 netns vpn")
    qube.run("ip address add 10.137.0.5/24 dev eth0; ip link set eth0 up")
    qube.run("ip -n vpn address add 10.137.0.6/24 dev vif1.0; ip -n vpn link set vif1.0 up")
    qube.run("ip route add default via 10.137.0.6")
    assert run_in(qube, health._way) == "open"
    refuse = (
        "{ chain c { type filter hook forward priority 0; reject with icmp admin-prohibited; }; }"
    )
    qube.run("ip -n vpn link add eth0 type veth peer name out; ip -n vpn link set eth0 up")
    qube.run("ip -n vpn link set out up; ip -n vpn route add default dev eth0")
    qube.run("ip netns exec vpn sysctl -q net.ipv4.ip_forward=1")
    qube.run(["ip", "netns", "exec", "vpn", "nft", f"table ip t {refuse}"])
    assert run_in(qube, health._way) == "refused"
    # A proxy that goes on trying has nearly every refusal that there is: one in a second.
    flood = qube.popen([sys.executable, "-c", _FLOOD])
    try:
        time.sleep(2)
        assert [run_in(qube, health._way) for _ in range(3)] == ["refused"] * 3
    finally:
        flood.kill()


# --- the qube's own names


def test_the_qubes_own_names_are_pinned_in_place_of_whatever_was_there(qube):
    """R54."""
    qube.run("mkdir -p /run/systemd/resolve; echo nameserver 9.9.9.9 >/run/systemd/resolve/stub")
    qube.run("rm -f /etc/resolv.conf; ln -s /run/systemd/resolve/stub /etc/resolv.conf")
    assert len(run_in(qube, own.problems)) == 3
    run_in(qube, own.pin)
    assert run_in(qube, own.problems) == []
    assert qube.run("test -L /etc/resolv.conf", check=False).returncode == 1
    assert qube.read("/run/systemd/resolve/stub") == "nameserver 9.9.9.9\n"
    lines = qube.read("/etc/resolv.conf").splitlines()
    assert [line for line in lines if line[0] != "#"] == [
        "nameserver 127.0.0.1",
        "options timeout:1 attempts:2",
    ]
    # As Qubes' init/functions asks.
    protected = ["grep", "-Fxrq", "--", "/etc/resolv.conf", "/etc/qubes/protected-files.d"]
    qube.run(protected)
    before = qube.run("stat -c '%i %a' /etc/resolv.conf").stdout
    run_in(qube, own.pin)
    assert qube.run("stat -c '%i %a' /etc/resolv.conf").stdout == before
    assert before.endswith(" 644\n")
    # A link to the right words is none: setup-ip would take it away.
    qube.run("mv /etc/resolv.conf /run/words; ln -s /run/words /etc/resolv.conf")
    assert len(run_in(qube, own.problems)) == 1
    qube.run("rm /etc/resolv.conf; echo nameserver 10.139.1.1 > /etc/resolv.conf")
    (said,) = run_in(qube, own.problems)
    assert said.startswith("/etc/resolv.conf was changed")


@pytest.mark.parametrize("system", ["debian", "fedora"])
def test_a_resolvers_template_gets_nothing_that_shows_notices(system):
    """R25: it never has any."""
    alone = packages(["dnscrypt"], system)
    both = packages(["wireguard", "dnscrypt"], system)
    assert "dnscrypt-proxy" in alone
    assert not [name for name in alone if "notif" in name]
    assert len([name for name in both if "notif" in name]) == 2
