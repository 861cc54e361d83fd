# SPDX-License-Identifier: GPL-2.0-or-later
"""R90: what the guides' killswitches are in a qube is what their documents say, mistakes too."""

import pytest

from qubes_vpn_formula.lab import guides
from qubes_vpn_formula.lab.agent.restated import Restated
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.tunnels import Kind, tunnel

GUIDES = {guide.name: guide for guide in guides.all()}
TUNNEL = tunnel(Kind("openvpn-udp"), 1)
DATABASE = {"/qubes-netvm-primary-dns": "10.139.1.1", "/qubes-netvm-secondary-dns": "10.139.1.2"}


def played(qube: Qube, name: str) -> None:
    """What the boot makes of a guide, without the network."""
    agent = Restated()
    qube.qubesdb.update(DATABASE)
    qube.write("/etc/resolv.conf", "nameserver 10.139.1.1\n")
    agent.antispoof(qube)
    agent.base(qube)
    agent.dnat(qube)
    GUIDES[name].install(qube, TUNNEL)
    agent.firewall_start(qube)


@pytest.fixture
def qube():
    with Qube("guides") as qube:
        yield qube


def rules(qube: Qube, *chain: str) -> str:
    return qube.run(["nft", "list", "chain", *chain], check=False).stdout


def test_each_names_its_passage():
    assert len(GUIDES) == len(guides.all())
    for guide in GUIDES.values():
        assert guide.source
        assert guide.notes
        assert guide.name.startswith("public-") or guide.source.startswith(guide.name[:2])


@pytest.mark.parametrize("name", sorted(GUIDES))
def test_install_writes_what_it_names(name, qube):
    GUIDES[name].install(qube, TUNNEL)
    for path, (text, mode) in GUIDES[name].files.items():
        assert qube.read(path) == text
        assert int(qube.run(["stat", "-c", "%a", path]).stdout, 8) == mode


def test_s0_drops_by_name_and_clamps_ipv4_only(qube):
    played(qube, "s0-mullvad")
    four, six = (rules(qube, family, "qubes", "custom-forward") for family in ("ip", "ip6"))
    assert 'oifname "eth0" counter' in four
    assert 'oifname "eth0" counter' in six
    assert "maxseg" in four
    assert "maxseg" not in six


def test_s0_dns_script_follows_resolv_conf(qube):
    """The stand-in for inotifywait has the real one's effect."""
    played(qube, "s0-mullvad")
    qube.run("/rw/config/rc.local >/dev/null 2>&1")
    qube.run("sleep 0.3; echo nameserver 10.64.0.1 >/etc/resolv.conf")
    qube.run(
        "for i in $(seq 50); do nft list chain ip qubes dnat-dns | grep -q 'dnat to 10.64.0.1' "
        "&& exit; sleep 0.1; done; exit 1"
    )


def test_s1_fails_on_what_is_not_there_and_goes_on(qube):
    """No custom-output, no tun0 yet: of the pattern the drop is left, and the open endpoints."""
    played(qube, "s1-pattern")
    forward = rules(qube, "ip", "qubes", "custom-forward")
    assert "tun0" not in forward
    assert "@endpoints accept" in forward
    assert "drop" in forward
    assert rules(qube, "ip", "qubes", "custom-output") == ""
    assert "198.51.100.1" in qube.run("nft list set ip qubes endpoints").stdout
    assert "drop" not in rules(qube, "ip6", "qubes", "custom-forward")


def test_s1_quick_fix_has_tun0_only_after_it_is_there(qube):
    played(qube, "s1-quick-fix")
    assert "tun0" not in rules(qube, "ip", "qubes", "custom-forward")
    qube.run("nft flush chain ip qubes custom-forward; ip link add tun0 type veth peer name far")
    qube.run("/rw/config/qubes-firewall-user-script")
    assert 'oif "tun0" accept' in rules(qube, "ip", "qubes", "custom-forward")


def test_s2_as_typed_does_nothing(qube):
    played(qube, "s2-iptables")
    assert "tun0" not in qube.run("nft list ruleset").stdout


def test_s2_as_nft_looks_at_new_own_ipv4_only(qube):
    played(qube, "s2-nft")
    assert 'oifname != "tun0" ct state new' in rules(qube, "ip", "filter", "OUTPUT")


def test_the_tunnels_own_name_is_used(qube):
    """A reader with WireGuard writes wg0 where the document says tun0."""
    GUIDES["s1-pattern"].install(qube, tunnel(Kind("wireguard"), 1))
    assert 'oif "wg0" accept' in qube.read("/rw/config/qubes-firewall-user-script")


def test_public_shapes_load(qube):
    played(qube, "public-by-group")
    assert "oifgroup 1" in rules(qube, "ip6", "qubes", "custom-forward")
    GUIDES["public-own-table"].install(qube, TUNNEL)
    qube.run("/rw/config/qubes-firewall-user-script")
    assert "ip daddr 198.51.100.1 udp dport 1195 accept" in rules(qube, "inet", "vpn", "output")
