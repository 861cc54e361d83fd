# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose firewall list lets no DNS through is told by each run, with the rule to add (R11, R50)."""

import pytest
from pillars import PILLARS

pytestmark = pytest.mark.one_salt

WEB, DROP = b"action=accept proto=tcp dstports=443-443\n", b"action=drop\n"
DNS = b"action=accept specialtarget=dns\n"
QUBES_OWN = b"action=accept dst4=10.139.1.1/32 proto=udp dstports=53-53\n"
WAYS = "ways round the VPN"
#: a client behind a firewall, a resolver, and a VPN qube
ROUTES = {"work": "sys-firewall", "personal": "sys-dns", "untrusted": "sys-vpn"}
PILLAR = {**PILLARS["dns"], "routes": {"qubes": ROUTES}}


def restrict(embedded, rules, names=ROUTES):
    for name in names:
        embedded.call(name, "admin.vm.firewall.Set", "", rules)


def told(states, pillar=PILLAR, test=False) -> list[str]:
    """Who has no DNS, by the last step of a run."""
    lines = states.run(pillar, test=test)[WAYS].comment.splitlines()
    return [line.split(":")[0] for line in lines if "specialtarget=dns" in line]


@pytest.mark.parametrize("release", ["4.3", "4.2"])
def test_where_a_list_counts_and_where_not(states, embedded):
    """The resolver answers by itself, so nothing of its clients' DNS is filtered: that is told."""
    restrict(embedded, WEB + DROP)
    assert (
        "personal: its firewall list lets no DNS through, and sys-dns answers it all the same"
        in (states.run(PILLAR, test=True)[WAYS].comment)
    )
    assert told(states, test=True) == told(states) == ["untrusted", "work"]
    (line,) = [
        line for line in states.run(PILLAR)[WAYS].comment.splitlines() if line.startswith("work:")
    ]
    assert line == (
        "work: its firewall list lets no DNS through, so it has no names behind sys-firewall. If "
        "it is to have them: qvm-firewall work add --before 0 action=accept specialtarget=dns (of "
        "an allowlist in the pillar: dns)."
    )
    before = embedded.snapshot()
    embedded.forget_calls()
    assert told(states) == ["untrusted", "work"]
    assert embedded.writes() == []
    assert embedded.snapshot() == before

    restrict(embedded, DNS + WEB + DROP)
    assert told(states) == []


def test_the_address_that_qubes_gives_to_ask_is_no_use_behind_a_vpn_qube(states, embedded):
    restrict(embedded, QUBES_OWN + WEB + DROP)
    assert told(states) == ["untrusted"]


def test_a_list_that_nobody_enforces_keeps_nothing_back(states, embedded):
    assert all(state.result for state in states.run(PILLAR).values())
    restrict(embedded, WEB + DROP)
    embedded.call("sys-firewall", "admin.vm.feature.Set", "service.qubes-firewall", b"")
    assert told(states) == ["untrusted"]


def test_lists_of_tunnels_and_resolvers_are_their_own(states, embedded):
    """Endpoints only, and DNS by other ports: neither is asked to let plain DNS through."""
    pillar = {**PILLARS["dns"], "allowlists": {"sys-dns": ["9.9.9.9:443/tcp"]}}
    assert told(states, pillar) == []


def test_a_firewall_whose_own_list_lets_none_through(states, embedded):
    """Behind a VPN qube; its clients have none either."""
    firewall = {"upstream": "sys-vpn"}
    pillar = {
        **PILLARS["custom"],
        "firewalls": {**PILLARS["custom"]["firewalls"], "sys-firewall": firewall},
    }
    assert told(states, pillar) == []
    restrict(embedded, WEB + DROP, ["sys-firewall"])
    assert told(states, pillar) == ["sys-firewall"]


def test_a_resolver_in_clear_is_told(states, embedded):
    """R05. What it asks is encrypted, and goes past the VPN."""
    resolvers = {"sys-dns": {"upstream": "sys-firewall-novpn"}}
    pillar = {**PILLARS["custom"], "resolvers": resolvers}
    said = states.run(pillar)[WAYS].comment
    assert "- what sys-dns asks for clients, encrypted (pillar: upstream)" in said
    assert "asks for clients" not in states.run(PILLARS["custom"])[WAYS].comment
