# SPDX-License-Identifier: GPL-2.0-or-later
"""The test of the killswitch says what it saw while the tunnel was down, and nothing else (R62).

Qubes' answers are played; those of real ones: tests/booted/test_verify_booted.py.
"""

import contextlib
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
    """A tunnel that comes back by itself after some clients, and clients that get what it lets.

    leaks: whether they get it without a tunnel too.
    """

    def __init__(self, back_after=3, leaks=False):
        self.down, self.left, self.leaks = False, back_after, leaks

    def status(self, _):
        state = "down" if self.down else "up"
        profiles = [{"id": qubes_vpn_told.profile_id("wg.conf"), "state": state}]
        return {"tunnel": {"state": state, "profiles": profiles}}

    def tunnel(self, _, do, *__):
        self.down = do == "interrupt"
        return "down" if self.down else "up"

    def packets(self, _, packets, marker):
        assert marker
        if self.down and not self.left:
            self.down = False
        self.left -= self.down
        return self._answers(packets)

    def questions(self, _, questions):
        return self._answers(questions)

    def _answers(self, asked):
        came = not self.down or self.leaks
        return [SimpleNamespace(came=came, error="" if came else "no answer") for _ in asked]

    @contextlib.contextmanager
    def listening(self, *_):
        yield list


def said(verify, world):
    service = SimpleNamespace(kind="wireguard", profile="wg.conf", profiles=())
    trial = SimpleNamespace(
        destructive=True,
        probing=world,
        model=SimpleNamespace(services={"sys-vpn": service}),
        settings={"nobody": ["192.0.2.53"], "domain": "example.org"},
        upstream=lambda _: "sys-net",
        clients=lambda _: CLIENTS,
        exits=lambda *_: {},
        marker=lambda: "a-word",
    )
    found = [(one.verdict, one.text) for one in verify.killswitch(trial, "sys-vpn")]
    assert not world.down
    return found


def test_who_gets_nothing_passes(verify):
    assert {verdict for verdict, _ in said(verify, World())} == {"passed"}


def test_who_gets_something_without_a_tunnel_fails(verify):
    texts = [text for verdict, text in said(verify, World(leaks=True)) if verdict == "failed"]
    assert [text.split(",")[1].split()[0] for text in texts] == CLIENTS


def test_who_was_asked_when_the_tunnel_was_back_was_not_tested(verify):
    found = said(verify, World(back_after=2))
    assert [verdict for verdict, _ in found[:2]] == ["passed", "passed"]
    assert ("not run", "sys-vpn's tunnel was up again before three was through.") in found
    assert "failed" not in [verdict for verdict, _ in found]
