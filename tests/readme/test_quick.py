# SPDX-License-Identifier: GPL-2.0-or-later
"""The quick starts, each with a profile of its provider: every command of them is run, or is the
README's, which is (R31, R32, R33, R70)."""

import json
import re
import shutil
import stat
from pathlib import Path

import pytest
from generator.cases import secrets_of
from generator.relay_lists import api_list, relay
from readme.document import Document
from readme.shell import in_vpn_qube, sh

import qubes_vpn_credentials

MAKE, LOGIN, UP = "Make the pillar", "Bring the login into sys-vpn", "Bring it up"
#: The page's name for the profile, and the profile; the app has a list.
PROFILES = {
    "quick-ivpn.md": ("ivpn-se.conf", "ivpn-sweden.conf"),
    "quick-mullvad-app.md": ("relays.json", None),
    "quick-mullvad.md": ("wg-se.conf", "mullvad-se-mma-wg-001.conf"),
    "quick-openvpn.md": ("provider.ovpn", "proton-inline-random.ovpn"),
    "quick-proton.md": ("proton-se-12.conf", "proton-se-12.conf"),
}


@pytest.fixture(params=PROFILES)
def name(request):
    return request.param


@pytest.fixture
def page(name, checkout):
    return Document((checkout / "docs" / name).read_text(encoding="utf-8"))


@pytest.fixture
def folder(name, checkout, tmp_path):
    """The checkout in the qube that has the profile."""
    made = tmp_path / "qubes-vpn-formula"
    made.mkdir()
    (made / ".venv").symlink_to(checkout / ".venv")
    called, source = PROFILES[name]
    if source:
        text = (checkout / "tests/profiles" / source).read_text(encoding="utf-8")
        # A key without its certificate is the made-up file's own fault.
        (made / called).write_text(re.sub(r"<key>.*</key>\n", "", text, flags=re.DOTALL))
    else:
        (made / called).write_text(json.dumps(api_list([relay("se-got-wg-001", "203.0.113.7")])))
    return made


def test_every_quick_start_is_tested(checkout):
    assert {path.name for path in (checkout / "docs").glob("quick-*.md")} == set(PROFILES)


def test_the_pillar_is_made_and_good(page, name, folder, checkout):
    ran = [sh(line, folder) for line in page.commands(MAKE)]
    for done in ran:
        assert done.returncode == 0, f"{done.args}: {done.stdout}{done.stderr}"
    said = "".join(done.stdout + done.stderr for done in ran)
    pillar = (folder / "pillar.sls").read_text(encoding="utf-8")
    # What the README's lines for dom0 take over.
    assert pillar.encode() in (folder / "qubes-vpn.tar").read_bytes()
    for qube in ("work", "personal", "vault"):
        assert qube in pillar
    if source := PROFILES[name][1]:
        secrets = secrets_of(checkout / "tests/profiles" / source)
        assert secrets
        assert [secret for secret in secrets if secret in said + pillar] == []
    # What the program says to do next is what the page says.
    told = [line.strip() for line in ran[0].stderr.splitlines()]
    assert [line for line in page.commands(LOGIN) if line not in told] == []
    planned = sh(".venv/bin/qubes-vpn plan pillar.sls --embedded fresh", folder)
    assert planned.returncode == 1, planned.stderr  # there is something to do
    assert "sys-vpn" in planned.stdout


@pytest.mark.parametrize("name", ["quick-openvpn.md"], indirect=True)
def test_the_vpn_qube_would_refuse_scripts(folder, page):
    """So the line that takes them out is needed."""
    init, _remove, check, _plan, _bundle = page.commands(MAKE)
    assert sh(init, folder).returncode == 0
    done = sh(check, folder)
    assert done.returncode != 0
    assert "a program that would run in the VPN qube" in done.stdout + done.stderr


def test_the_login_gets_where_only_root_reads_it(page, name, folder, tmp_path):
    called, source = PROFILES[name]
    home = tmp_path / "home"
    incoming = home / "QubesIncoming/dev"
    incoming.mkdir(parents=True)
    if source:
        shutil.copy(folder / called, incoming)
        assert f"qvm-copy {called}" in page.spans
        assert page.commands(LOGIN)[:2] == qubes_vpn_credentials.bring([called])
    typed = "somebody\nsecret\n"
    for line in page.commands(LOGIN):
        place = in_vpn_qube(line, home, typed if line.endswith((">/dev/null", "-account")) else "")
    assert list(incoming.iterdir()) == []
    there = {path.name: path for path in place.iterdir()}
    own = {"quick-openvpn.md": {"provider.auth"}, "quick-mullvad-app.md": {"mullvad-account"}}
    assert set(there) == own.get(name, set()) | ({called} if source else set())
    for path in there.values():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text() in (typed, (folder / called).read_text())


def test_the_rest_is_what_the_readme_has(page, readme):
    """Whose commands run in test_readme.py."""
    known = {line for block in readme.blocks for line in block.lines}
    assert page.commands(UP)
    assert [line for line in page.commands(UP) if line not in known] == []
    assert {block.section for block in page.blocks} == {MAKE, LOGIN, UP}


def test_the_readme_leads_to_each(checkout):
    text = Path(checkout / "README.md").read_text(encoding="utf-8")
    assert [name for name in PROFILES if f"](docs/{name})" not in text] == []
