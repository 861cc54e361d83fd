# SPDX-License-Identifier: GPL-2.0-or-later
"""The test of the killswitch says what it saw while the tunnel was down, and nothing else (R62).

Qubes' answers are played; those of real ones: tests/booted/test_verify_booted.py.
"""

import contextlib
import threading
import time
from types import SimpleNamespace

import pytest

import qubes_vpn_told
from qubes_vpn_formula.embedded import dom0

CLIENTS = ["one", "two", "three"]


@pytest.fixture
def verify(embedded):
    """The test, which imports qubesadmin."""
    dom0.machine(embedded.path, dry=True)
    import qubes_vpn_verify_tunnel

    return qubes_vpn_verify_tunnel


class World:
    """A tunnel, and clients that get what it lets; each takes so many seconds to be sure.

    back_after: seconds after which the tunnel is up by itself.  leaks: who gets something without
    it too.  seen: numbers of those whose packets the qube above sees then.  hung: who never
    answers.
    """

    def __init__(self, back_after=60.0, takes=None, leaks=(), seen=(), hung=()):
        self.leaks, self.seen, self.hung, self.back_after = leaks, seen, hung, back_after
        self.takes = takes or {}
        self.until = self.most = self.now = 0
        self.lock = threading.Lock()

    @property
    def down(self):
        return time.monotonic() < self.until

    def status(self, _):
        state = "down" if self.down else "up"
        profiles = [{"id": qubes_vpn_told.profile_id("wg.conf"), "state": state}]
        return {"tunnel": {"state": state, "profiles": profiles}}

    def tunnel(self, _, do, *__):
        interrupted = do == "interrupt"
        self.until = time.monotonic() + self.back_after if interrupted else 0
        return "down" if interrupted else "up"

    def packets(self, name, packets, marker):
        assert marker
        return self._answers(name, packets)

    def questions(self, name, questions):
        time.sleep(self.takes.get(name, 0.02) if self.down else 0)
        return self._answers(name, questions)

    def _answers(self, name, asked):
        if name in self.hung and self.down:
            from qubes_vpn_ask import NoAnswer

            raise NoAnswer(f"{name}: no whole answer.")
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self.lock:
            self.now -= 1
        came = not self.down or name in self.leaks
        return [SimpleNamespace(came=came, error="" if came else "no answer") for _ in asked]

    @contextlib.contextmanager
    def listening(self, *_):
        from qubes_vpn_probing import Heard

        yield lambda: [Heard("sys-net", "eth0", True, "192.0.2.53", 17, 53, n) for n in self.seen]


@pytest.fixture
def said(verify, monkeypatch):
    import qubes_vpn_reach

    monkeypatch.setattr(qubes_vpn_reach, "_LOOK", 0.05)

    def run(world, clients=CLIENTS):
        service = SimpleNamespace(kind="wireguard", profile="wg.conf", profiles=())
        trial = SimpleNamespace(
            destructive=True,
            probing=world,
            model=SimpleNamespace(services={"sys-vpn": service}),
            settings={"nobody": ["192.0.2.53"], "domain": "example.org"},
            upstream=lambda _: "sys-net",
            clients=lambda _: clients,
            exits=lambda *_: {},
            marker=lambda: "a-word",
        )
        found = [(one.verdict, one.text) for one in verify.killswitch(trial, "sys-vpn")]
        assert not world.down
        return found

    return run


def test_who_gets_nothing_passes(said):
    assert {verdict for verdict, _ in said(World())} == {"passed"}


def test_who_gets_something_without_a_tunnel_fails(said):
    found = said(World(leaks=["one", "three"]))
    texts = [text for verdict, text in found if verdict == "failed"]
    assert [text.split(",")[1].split()[0] for text in texts] == ["one", "three"]
    assert "passed" in [verdict for verdict, text in found if "two gets nothing" in text]


def test_whose_packets_are_seen_above_is_told_by_name(said):
    found = said(World(seen=[1]))
    assert [text for verdict, text in found if verdict == "failed"] == [
        "What two sends then leaves by sys-net: to 192.0.2.53 port 53 (udp)."
    ]
    assert [verdict for verdict, text in found if " gets nothing" in text] == ["passed"] * 2
    for nobody in (None, 7):
        texts = [text for verdict, text in said(World(seen=[nobody])) if verdict == "failed"]
        assert texts == ["What clients send then leaves by sys-net: to 192.0.2.53 port 53 (udp)."]


def test_who_was_asked_when_the_tunnel_was_back_was_not_tested(said):
    found = said(World(back_after=0.8, takes={"three": 1.5}))
    assert [verdict for verdict, _ in found[:2]] == ["passed", "passed"]
    assert ("not run", "sys-vpn's tunnel was up again before these were through: three.") in found
    assert "failed" not in [verdict for verdict, _ in found]


def test_who_hangs_keeps_nobody_else_from_being_tested(said):
    found = said(World(hung=["one"]))
    assert ("not run", "one: no whole answer.") in found
    assert [verdict for verdict, text in found if " gets nothing" in text] == ["passed"] * 2


def test_sixty_clients_are_asked_many_at_a_time(said):
    """They take a dozen seconds each, and the tunnel is away for 120."""
    clients = [f"client-{number}" for number in range(60)]
    world = World(takes=dict.fromkeys(clients, 0.12), back_after=1.2)
    found = said(world, clients)
    assert [verdict for verdict, text in found if " gets nothing" in text] == ["passed"] * 60, found
    assert 10 < world.most <= 20
