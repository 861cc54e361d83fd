# SPDX-License-Identifier: GPL-2.0-or-later
"""The Mullvad app's state and the order of its units, in qubes that boot (R24, R30, R81).

The app is a stand-in, as in tests/salt/test_mullvad.py; its units are named, linked and ordered as
the app's own are (mullvadvpn-app `dist-assets/linux`).  systemd and bind-dirs are real.
"""

import json
from typing import Any

import pytest
from mullvad_stand_in import PROGRAMS, UNITS

from qubes_vpn_formula.lab.booted.machine import AppVM, Booted, Template
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.paths import formula_root

pytestmark = pytest.mark.timeout(600)

_ACCOUNT = "1234123412341234"
#: What the state does, by the core alone.
_APPLY = """
import json, sys
sys.path.insert(0, "/home/core")
import qubes_vpn_mullvad, qubes_vpn_mullvad_pillar
settings = qubes_vpn_mullvad_pillar.settings(None, None)
print(json.dumps(qubes_vpn_mullvad.apply(settings, True, "dry" in sys.argv)))
"""


@pytest.fixture(scope="module")
def template(lab: Booted) -> Template:
    template = lab.template("t-vpn")
    template.start()
    for path, (text, mode) in Ours().files().items():
        template.write(path, text, mode)
    for path, source in PROGRAMS.items():
        template.write(path, source.read_text(), 0o755)
    for name, text in UNITS.items():
        template.write(f"/usr/lib/systemd/system/{name}.service", text)
    template.run(["systemctl", "daemon-reload"])
    template.run(["systemctl", "enable", "qubes-vpn-closed", "qubes-vpn-open", *UNITS])
    return template


@pytest.fixture(scope="module")
def qube(lab: Booted, template: Template) -> AppVM:
    """Started; the account's number is in its file."""
    template.run("systemctl start mullvad-daemon", check=False)
    assert template.run("systemctl is-active mullvad-daemon", check=False).stdout == "inactive\n"
    template.stop()
    qube = lab.appvm("sys-vpn", template, services=["qubes-vpn"])
    qube.start()
    qube.write("/rw/config/vpn/credentials/mullvad-account", _ACCOUNT, 0o600)
    for path in (formula_root() / "_utils").glob("*.py"):
        qube.write(f"/home/core/{path.name}", path.read_text())
    return qube


def _applied(qube: AppVM, dry: bool = False) -> Any:
    done = qube.run(["python3", "-c", _APPLY, "dry" if dry else "real"], timeout=180)
    assert _ACCOUNT not in done.stdout + done.stderr
    return json.loads(done.stdout)


def _when(qube: AppVM, unit: str, what: str) -> int:
    shown = qube.run(["systemctl", "show", "--value", f"--property={what}Monotonic", unit])
    return int(shown.stdout)


def test_login_and_settings_outlive_a_restart(qube):
    """R24, R30, R81: kept at the first run already, and seen by the app's first unit at a boot."""
    changes, problems, _ = _applied(qube)
    assert problems == []
    assert changes["account"] == {"old": "logged out", "new": "logged in"}
    assert qube.read("/run/early-boot") == ""

    qube.stop()
    qube.start()
    assert json.loads(qube.read("/run/early-boot"))["lockdown_mode"] is True
    assert json.loads(qube.read("/etc/mullvad-vpn/device.json")) == {
        "logged_in": {"account_number": _ACCOUNT}
    }
    assert qube.exists("/var/cache/mullvad-vpn/relays.json")
    assert _applied(qube, dry=True) == [{}, [], []]
    assert _applied(qube) == [{}, [], []]
    assert "qubes-vpn-closed.service" not in qube.failed()


def test_the_app_starts_after_the_closed_killswitch_and_bind_dirs(qube):
    first = min(
        _when(qube, "mullvad-early-boot-blocking", "ExecMainStartTimestamp"),
        _when(qube, "mullvad-daemon", "ExecMainStartTimestamp"),
    )
    for before in ("qubes-bind-dirs", "qubes-vpn-closed"):
        assert 0 < _when(qube, before, "ActiveEnterTimestamp") <= first
