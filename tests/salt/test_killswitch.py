# SPDX-License-Identifier: GPL-2.0-or-later
"""qubes.network.sys-vpn in a tunnel's template and in a VPN qube, by real salt-calls."""

import ast
import configparser

import pytest
from debian_13 import debian_13
from in_qube import skip_where_impossible
from pillars import PILLARS
from vpn_qube import Minion, eth0, listing, rules, written

from qubes_vpn_formula.lab import services, tunnelfiles
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.qube import Qube

LIBRARY = "/usr/lib/qubes-vpn"
IN_RW = "/rw/config/vpn/lib"
HOOK_IN_RW = "/rw/config/qubes-firewall.d/50-qubes-vpn"
FLAG = "/run/qubes-service/qubes-vpn"
STATE, TUNNEL, DNS = (f"sys-vpn: {state}" for state in ("killswitch", "tunnel", "dnat_dns"))
PILLAR = PILLARS["dns"]


@pytest.fixture
def qube():
    """A qube with an uplink, and the flag that makes it a VPN qube."""
    skip_where_impossible()
    with Qube("sys-vpn") as made:
        made.write(FLAG, "")
        eth0(made)
        yield made


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    return {name: tmp_path_factory.mktemp(name) for name in ("t-vpn", "sys-vpn", "work")}


@pytest.fixture
def template(qube, folders):
    debian_13(qube)
    return Minion(qube, folders["t-vpn"], "t-vpn")


class WithoutTunnel(Minion):
    """There is no NetworkManager here, so the tunnel cannot be made, and says so; all else can.

    Clients' DNS comes after the tunnel (tests/booted/test_tunnel.py).
    """

    def apply(self, pillar, test=False):
        applied = super().apply(pillar, test)
        tunnel = applied.states.pop(TUNNEL, None)
        if tunnel is None:
            return applied
        dns = applied.states.pop(DNS)
        for state in (tunnel, dns):
            assert (state["result"], state["changes"]) == (False, {})
        return applied._replace(code=int(False in applied.results()))


@pytest.fixture
def vpn(qube, folders):
    return WithoutTunnel(qube, folders["sys-vpn"], "sys-vpn")


def killswitch(qube, folder, *words):
    """The program itself, as units and hooks run it."""
    return qube.run([f"{folder}/killswitch", *words], check=False)


def install_section(text):
    """Where `systemctl enable` links a unit, by systemd.unit(5)."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string(text)
    section = unit["Install"] if unit.has_section("Install") else {}
    kinds = {"WantedBy": "wants", "RequiredBy": "requires"}
    assert set(section) <= set(kinds)
    return {
        f"{target}.{kinds[key]}" for key, targets in section.items() for target in targets.split()
    }


def test_template_gets_the_closed_base_and_keeps_what_is_not_ours(qube, template, checkout):
    """R41, R46, R69, R82, R90."""
    files = checkout / "salt/qubes/network/files"
    qube.write("/etc/qubes/qubes-firewall.d/40-mine", "#!/bin/sh\n", 0o755)
    qube.write("/etc/systemd/system/nftables.service.d/mine.conf", "[Unit]\n")
    # Somebody masked it; and a link of ours must not be followed.
    qube.run("ln -s /dev/null /etc/systemd/system/qubes-vpn-closed.service")
    before, listed = written(qube), listing(qube)

    dry = template.apply(PILLAR, test=True)
    assert dry.code == 0
    assert {state["result"] for name, state in dry.states.items() if name[0] == "/"} == {None}
    assert listing(qube) == listed

    real = template.apply(PILLAR)
    assert (real.code, real.results()) == (0, {True}), real.text
    assert real.changed() == dry.changed() == {name for name in real.states if name[0] == "/"}
    assert "t-vpn: template_ready" in real.states
    links = {
        f"/etc/systemd/system/{folder}/{name}": f"/etc/systemd/system/{name}"
        for name in (path.name for path in units(files) if not is_resolvers(path))
        for folder in install_section((files / name).read_text())
    }
    assert len(links) == 10
    # What the lab attacks (R90) is what is installed: paths, contents and modes.
    ours = Ours().files() | tunnelfiles.files() | services.files()
    programs = ("killswitch", "tunnel", "watch", "follow", "service")
    modules = imported(checkout, *programs, "facts_tunnel", "switching")
    own = sum(not is_resolvers(path) for path in files.iterdir())
    assert len(ours) == own + len(modules) + len(services.TUNNEL)
    assert written(qube) == before | set(ours) | set(links)
    for path, target in links.items():
        assert qube.run(["readlink", path]).stdout == f"{target}\n"
    assert {path: qube.read(path) for path in ours} == {
        path: text for path, (text, _) in ours.items()
    }
    assert {path: mode(qube, path) for path in ours} == {
        path: f"{bits:o} root root" for path, (_, bits) in ours.items()
    }
    executable = {path for path, (_, bits) in ours.items() if bits == 0o755}
    assert executable == {
        f"{LIBRARY}/killswitch",
        f"{LIBRARY}/tunnel",
        f"{LIBRARY}/dns",
        f"{LIBRARY}/service",
        *(f"/etc/qubes-rpc/qubes-vpn.{name}" for name in services.TUNNEL),
        "/etc/NetworkManager/dispatcher.d/50-qubes-vpn-follow",
        "/etc/qubes/qubes-firewall.d/50-qubes-vpn",
        "/etc/qubes/suspend-post.d/50-qubes-vpn.sh",
    }

    again = template.apply(PILLAR)
    assert (again.code, again.changed()) == (0, set())

    # It needs nothing but what was put there.
    assert killswitch(qube, LIBRARY, "load").returncode == 1
    assert "state: closed" in killswitch(qube, LIBRARY, "status").stdout
    told = qube.run([f"{LIBRARY}/tunnel", "status"], check=False)
    assert "tunnel.conf: not there. Apply the formula to this qube" in told.stdout, told.stderr


def units(files):
    """Those of systemd."""
    return [path for path in files.iterdir() if path.suffix in (".service", ".path")]


def is_resolvers(path):
    """Whether a file of the formula's is for the template of a resolver qube alone."""
    return ("dns" in path.name and path.name != "dns") or path.name == "resolver"


def mode(qube, path):
    return qube.run(["stat", "--format=%a %U %G", path]).stdout.strip()


def imported(checkout, *modules):
    """The core modules that *modules* run on, found by their import lines."""
    found, todo = set(), [f"qubes_vpn_{name}.py" for name in modules]
    while todo:
        name = todo.pop()
        found.add(name)
        for node in ast.walk(ast.parse((checkout / "_utils" / name).read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            files = {f"{one}.py" for one in names if one.startswith("qubes_vpn_")}
            todo += files - found
    return found


def test_vpn_qube_of_such_a_template_is_opened_for_its_tunnel(qube, template, vpn):
    """R41, R45, R69, R82."""
    assert template.apply(PILLAR).code == 0
    listed = listing(qube)

    dry = vpn.apply(PILLAR, test=True)
    assert (dry.code, dry.states[STATE]["result"]) == (0, None), dry.text
    assert (listing(qube), rules(qube)) == (listed, "")

    real = vpn.apply(PILLAR)
    assert (real.code, real.results()) == (0, {True}), real.text
    assert real.states[STATE]["changes"] == dry.states[STATE]["changes"] == {
        "/rw/config/vpn/killswitch.conf": {"old": [], "new": ["interface = wg0", "log = no"]},
        "/rw/config/vpn/endpoints.txt": {"old": [], "new": ["192.0.2.1:51820/udp"]},
        "rules": {"old": "absent", "new": "open"},
    }  # fmt: skip
    assert real.states[STATE]["comment"] == (
        "Open for the tunnel wg0 and its endpoints (1), nothing else."
    )
    assert real.changed() == {STATE}
    loaded = rules(qube)
    assert "elements = { 192.0.2.1 . udp . 51820 }" in loaded
    assert 'device "eth0"' in loaded
    assert killswitch(qube, LIBRARY, "status").returncode == 0

    listed = listing(qube)
    again = vpn.apply(PILLAR)
    assert (again.code, again.changed()) == (0, set())
    # Not even the same rules once more: every handle and every file is the old one.
    assert (listing(qube), rules(qube)) == (listed, loaded)

    code, said = vpn.call("qubes_vpn.status")
    assert code == 0
    assert "open" in said


def test_vpn_qube_of_another_template_has_all_of_it_below_rw(qube, template, vpn):
    """R41. With words about what is lost; and once the template has it, it is gone from there."""
    qube.write("/rw/config/qubes-firewall.d/10-mine", "#!/bin/sh\n:\n", 0o755)
    listed = listing(qube)
    dry = vpn.apply(PILLAR, test=True)
    assert (dry.code, dry.results()) == (0, {None}), dry.text
    assert (listing(qube), rules(qube)) == (listed, "")

    real = vpn.apply(PILLAR)
    assert (real.code, real.results()) == (0, {True}), real.text
    for told in (dry.states[STATE]["comment"], real.states[STATE]["comment"]):
        assert "This qube's template has no killswitch, so this one is weaker." in told
        assert "Until qubes-firewall runs at the qube's start" in told
        assert "If qubes-firewall does not start, nothing is loaded" in told
    assert "run as before: /rw/config/qubes-firewall.d/10-mine." in real.states[STATE]["comment"]
    assert not any(name.startswith(("/usr", "/etc")) for name in real.states)
    opened = rules(qube)

    again = vpn.apply(PILLAR)
    assert (again.code, again.changed(), rules(qube)) == (0, set(), opened)

    # The next start: qubes-firewall runs the hook.
    qube.run("nft flush ruleset")
    qube.run([HOOK_IN_RW])
    assert killswitch(qube, IN_RW, "status").returncode == 0

    assert template.apply(PILLAR).code == 0
    moved = vpn.apply(PILLAR)
    assert moved.code == 0, moved.text
    assert moved.changed() == {HOOK_IN_RW, IN_RW}
    assert not qube.exists(IN_RW)
    assert qube.exists("/rw/config/qubes-firewall.d/10-mine")
    assert killswitch(qube, LIBRARY, "status").returncode == 0


def test_custom_persist_without_a_template_of_ours_fails_closed(qube, vpn):
    """R41. Qubes would run no hook of /rw at the next start."""
    qube.write("/run/qubes-service/custom-persist", "")
    for _ in range(2):
        run = vpn.apply(PILLAR)
        assert (run.code != 0, run.states[STATE]["result"]) == (True, False)
        told = run.states[STATE]["comment"]
        assert told.startswith("custom-persist is on, so Qubes runs no hook below /rw")
        assert "Apply the formula to this qube's template and restart the qube" in told
        assert told.endswith("The qube is closed.")
        assert "policy drop" in rules(qube)
        assert "192.0.2.1" not in rules(qube)


def test_vpn_qube_with_a_bad_pillar_stays_as_it_is(qube, vpn):
    """R45."""
    assert vpn.apply(PILLAR).code == 0
    before = listing(qube), rules(qube)
    for bad in (
        {},
        {"tunnels": {"sys-vpn": {**PILLAR["tunnels"]["sys-vpn"], "interface": "eth0"}}},
    ):
        run = vpn.apply(bad)
        assert run.code != 0
        assert "qubes_vpn" in run.text
        assert "Traceback" not in run.text
        assert (listing(qube), rules(qube)) == before


def test_status_elsewhere_is_a_sentence(folders):
    skip_where_impossible()
    with Qube("work") as work:
        code, said = Minion(work, folders["work"], "work").call("qubes_vpn.status")
    assert code != 0
    assert "no killswitch here: this is not a VPN qube of the formula" in said
    assert "Traceback" not in said
