# SPDX-License-Identifier: GPL-2.0-or-later
"""What is proven of a machine with each named topology, and what is not claimed (R88, R91)."""

from pathlib import Path

import pytest
import yaml
from core.test_topologies import LEAST, build, document

from qubes_vpn_formula.cli import main
from qubes_vpn_formula.prove import machine

ALL = {"P1", "P2", "P3", "P4", "P5", "P6"}


@pytest.mark.parametrize("topology", LEAST)
def test_each_tunnel_resolver_and_upstream_is_asked_about(topology: str) -> None:
    """Both tunnels of multihop, the list of the inner one in the outer; the firewall before Tor."""
    model = build(topology)
    places = list(machine.places(model))
    lists = {(place.list_of, place.qube) for place in places if place.properties == ("P8",)}
    way = LEAST[topology][1].split()
    tunnels = [name for name in way if name in model.tunnels()]
    assert lists == {(name, way[way.index(name) + 1]) for name in tunnels}
    whole = [place.qube for place in places if {*place.properties} == ALL]
    assert sorted(whole) == sorted(tunnels)
    resolvers = {place.qube for place in places if place.properties == ("P3R",)}
    assert resolvers == {*way} & {"sys-dns"}


@pytest.mark.parametrize("topology", LEAST)
def test_whonix_own_rules_are_not_claimed(topology: str) -> None:
    told = machine.not_claimed(build(topology))
    assert bool(told) == (topology == "mixed" or "sys-whonix" in LEAST[topology][1])


def test_whoever_hangs_on_whonix_by_a_route_is_told_too() -> None:
    assert machine.not_claimed(build("dns", routes={"qubes": {"anon": "sys-whonix"}}))


@pytest.mark.parametrize("topology", ["parallel", "mixed"])
def test_who_is_past_the_vpn_is_not_claimed(topology: str) -> None:
    """R05. All that is asked about is proven, and that is not all that gets out."""
    netvm = "sys-firewall-novpn"
    routes = {"qubes": {"bank": netvm, "work": "sys-firewall", "off": "none"}}
    told = machine.not_claimed(build(topology, routes=routes, outside_vpn=["bank"]))
    assert [one.split()[0] for one in told if "past the VPN" in one] == ["bank"]
    bypass = {"netvm": netvm, "name": "portal"}
    told = machine.not_claimed(build(topology, bypass=bypass))
    assert [one.split()[0] for one in told if "past the VPN" in one] == ["portal"]


def test_it_is_said_with_the_proof(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The firewall between the VPN and Tor holds the list; Tor's own qube is not claimed."""
    file, page = tmp_path / "pillar.sls", tmp_path / "proof.html"
    file.write_text(yaml.safe_dump({"qubes_vpn": document("vpn-over-tor")}))
    assert main(["prove", str(file), "--page", str(page)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "sys-firewall-tor: the list of sys-vpn" in lines[-3]
    assert lines[-2].startswith("not claimed: sys-whonix has Whonix' own rules")
    assert "all proven" in lines[-1]
    assert "Not claimed: sys-whonix has Whonix" in page.read_text()
