# SPDX-License-Identifier: GPL-2.0-or-later
"""Coming from a guide: its machine, the page's steps in dom0, then a run has its way (R15, R70).

``qvm-*`` are not here: the Admin API calls that they make are made (qubes-core-admin-client,
``qubesadmin/tools``).
"""

import shlex

import pytest
import yaml
from readme.document import Document
from readme.shell import sh

from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.embedded.qubesd.errors import AdminError

MULLVAD = "From the Mullvad app guide: t-mullvad and sys-vpn-work"
NOTES = "From the sys-vpn and sys-dns notes: NetworkManager and dnscrypt-proxy"
TOUR = "From the network tour: a clone of sys-net as sys-vpn"
MANUAL = "From the field manual: layout, bank and vault"
ENDPOINT = "203.0.113.7:51820/udp"


@pytest.fixture(scope="module")
def page(checkout):
    return Document((checkout / "docs/migration.md").read_text(encoding="utf-8"))


@pytest.fixture
def machine(tmp_path):
    return EmbeddedQubes(tmp_path / "qubes.json")


def prefs(machine, name, **values):
    for key, value in values.items():
        machine.call(name, "admin.vm.property.Set", key, value.encode())


def make(machine, name, template, **values):
    """A VPN or resolver qube of the guide's, which runs."""
    what = f"name={name} label=orange".encode()
    machine.call("dom0", "admin.vm.Create.AppVM", template, what)
    prefs(machine, name, provides_network="True", **values)
    machine.call(name, "admin.vm.Start")


def clone(machine, name):
    machine.call("dom0", "admin.vm.Create.TemplateVM", "", f"name={name} label=black".encode())


def typed(machine, command):
    """What a command of the page does at the Admin API; an AssertionError if it is none of them."""
    words = [word for word in shlex.split(command) if not word.startswith("--")]
    match words:
        case ["qvm-prefs", name, key, value]:
            prefs(machine, name, **{key: "" if value == "none" else value})
        case ["qvm-shutdown", name]:
            if power(machine, name) == "Running":
                machine.call(name, "admin.vm.Shutdown")
        case ["qvm-remove", name]:
            machine.call(name, "admin.vm.Remove")
        case ["qvm-ls"] | ["qvm-ls", ">", _] | ["qvm-firewall", _, "list"]:
            pass
        case _:
            raise AssertionError(command)


def plan(checkout, tmp_path, machine, pillar):
    """What a run of the pillar would do, in the program's words."""
    (tmp_path / "pillar.sls").write_text(yaml.safe_dump({"qubes_vpn": pillar}))
    program = checkout / ".venv/bin/qubes-vpn"
    done = sh(f"{program} plan pillar.sls --embedded {machine.path}", tmp_path)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "refused" not in done.stdout.lower(), done.stdout
    return done.stdout


def power(machine, name):
    state = machine.call(name, "admin.vm.CurrentState").decode()
    return dict(word.split("=") for word in state.split())["power_state"]


def qubes(machine):
    return machine.snapshot()["qubes"]


def netvm(machine, name):
    return machine.call(name, "admin.vm.property.Get", "netvm").decode().split(" ", 2)[2]


def test_every_command_is_played(page):
    sections = {block.section for block in page.blocks}
    assert sections == {"What guides leave behind", MULLVAD, NOTES, TOUR, MANUAL}


def test_from_the_mullvad_guide(page, machine, checkout, tmp_path):
    """Clients move to the new qube first; then nobody hangs on the old one, and it can go."""
    clone(machine, "t-mullvad")
    make(machine, "sys-vpn-work", "t-mullvad", netvm="sys-firewall")
    for name in ("work", "personal", "default-dvm"):
        prefs(machine, name, netvm="sys-vpn-work")
    machine.call("dom0", "admin.property.Set", "default_netvm", b"sys-vpn-work")
    pillar = {
        "topology": "simple",
        "tunnels": {"sys-vpn": {"kind": "mullvad", "endpoints": [ENDPOINT]}},
        "routes": {"qubes": {"work": "sys-vpn", "personal": "sys-vpn"}},
    }
    told = plan(checkout, tmp_path, machine, pillar)
    for name in ("work", "personal", "default-dvm"):
        assert f"{name}" in told
    typed(machine, "qvm-shutdown --wait sys-vpn-work")
    with pytest.raises(AdminError, match="QubesVMInUseError"):
        typed(machine, "qvm-remove sys-vpn-work")
    for name in ("work", "personal", "default-dvm"):  # as after the run, nobody hangs on it
        prefs(machine, name, netvm="")
    machine.call("dom0", "admin.property.Set", "default_netvm", b"")
    for command in page.commands(MULLVAD):
        typed(machine, command)
    assert not {"sys-vpn-work", "t-mullvad"} & set(qubes(machine))


def test_from_the_notes(page, machine, checkout, tmp_path):
    """The old chain goes from the clients' side; all are offline, and a run makes it anew."""
    clone(machine, "fedora-41-vpn-min")
    make(machine, "sys-vpn", "fedora-41-vpn-min", netvm="sys-net")
    make(machine, "sys-dns", "debian-13-xfce", netvm="sys-vpn")
    prefs(machine, "sys-firewall", netvm="sys-dns")
    for command in page.commands(NOTES):
        typed(machine, command)
        assert netvm(machine, "sys-firewall") == ""
    assert not {"sys-vpn", "sys-dns", "fedora-41-vpn-min"} & set(qubes(machine))
    tunnel = {"kind": "openvpn", "profile": "a.ovpn", "endpoints": [ENDPOINT]}
    told = plan(checkout, tmp_path, machine, {"tunnels": {"sys-vpn": tunnel}})
    assert "sys-firewall -> sys-dns" in told


def test_from_the_tour(page, machine, checkout, tmp_path):
    make(machine, "sys-vpn", "fedora-42-xfce", netvm="sys-firewall")
    prefs(machine, "work", netvm="sys-vpn")
    for command in page.commands(TOUR):
        typed(machine, command)
    assert netvm(machine, "work") == ""
    assert "sys-vpn" not in qubes(machine)
    tunnel = {"kind": "openvpn", "profile": "a.ovpn", "endpoints": [ENDPOINT]}
    pillar = {"tunnels": {"sys-vpn": tunnel}, "routes": {"qubes": {"work": "sys-firewall"}}}
    assert "work -> sys-firewall" in plan(checkout, tmp_path, machine, pillar)


def test_from_the_manual(page, machine):
    prefs(machine, "debian-13-xfce", netvm="sys-firewall")
    for command in page.commands(MANUAL):
        typed(machine, command)
    assert netvm(machine, "debian-13-xfce") == ""
