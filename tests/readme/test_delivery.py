# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command of docs/delivery.md, in a dom0 with real Salt (R86)."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from readme.document import Document
from readme.shell import sh

BUNDLE, SIGN, AWAY, RPM = "What a bundle does", "Sign it", "Take it away", "As an RPM"
#: Commands in sentences. tests/delivery has the option; the others are the distributions' own.
SENTENCES = {"qubes-vpn bundle", "rpm -U", "rpm -V qubes-vpn-formula", "rpm --import",
             "rpm --eval %_pkgverify_level"}  # fmt: skip
FUNCTION = "sudo qubesctl qubes_vpn.check"


@pytest.fixture(scope="module")
def text(checkout):
    return Document((checkout / "docs/delivery.md").read_text(encoding="utf-8"))


@pytest.fixture
def dom0(fresh_dom0, in_checkout, readme):
    """A dom0 to which the bundle has been brought."""
    for line in readme.commands("Install it in dom0")[:2]:
        assert fresh_dom0.run(line).code == 0
    return fresh_dom0


def went(dom0, *lines):
    for line in lines:
        ran = dom0.run(line)
        assert (ran.code, ran.stderr, ran.writes) == (0, "", 0), ran


def said(ran):
    return ran.stdout + ran.stderr


def test_no_command_without_a_test(text):
    assert {block.section for block in text.blocks} == {BUNDLE, SIGN, AWAY, RPM}
    spans = {
        span for span in text.spans if span.startswith(("qubes-vpn b", "make", "rpm ", "sudo "))
    }
    assert spans == SENTENCES


def test_a_bundle_is_looked_at_signed_installed_and_taken_away(
    dom0, qubes, text, readme, monkeypatch
):
    """R86. The network and the pillar stay as they are."""
    if shutil.which("gpg") is None:
        pytest.skip("needs gpg")
    went(dom0, *text.commands(BUNDLE))
    assert (dom0.folder / "home/look/salt/qubes/network/sys-vpn.sls").is_file()
    vault = qubes / "vault"
    (vault / ".gnupg").mkdir(mode=0o700, parents=True)
    monkeypatch.setenv("GNUPGHOME", str(vault / ".gnupg"))
    make = ["gpg", "--batch", "--passphrase=", "--quick-generate-key", "me@example.org"]
    subprocess.run([*make, "ed25519", "sign"], capture_output=True, check=True)
    sign, *verify = text.commands(SIGN)
    done = sh(sign, qubes / "dev/qubes-vpn-formula")
    subprocess.run(["gpgconf", "--kill", "all"], check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == dom0.run("sha256sum qubes-vpn.tar").stdout
    for line in verify:
        ran = dom0.run(line)
        assert ran.code == 0, ran
    assert "Good signature from" in ran.stderr
    install, enable = readme.commands("Install it in dom0")[2:4]
    went(dom0, install, enable, FUNCTION)
    before = dom0.machine.snapshot()
    pillar = (dom0.folder / "srv/pillar/qubes_vpn/init.sls").read_bytes()
    went(dom0, *text.commands(AWAY))
    assert "is not available" in said(dom0.run(FUNCTION))
    assert dom0.machine.snapshot() == before
    assert (dom0.folder / "srv/pillar/qubes_vpn/init.sls").read_bytes() == pillar
    assert [path for path in (dom0.folder / "srv/salt").rglob("*") if path.is_file()] == []


def test_the_command_asks_salt(dom0, readme):
    """R15, R67. What it says, and with which code it ends, are the function's."""
    install, enable = readme.commands("Install it in dom0")[2:4]
    went(dom0, install, enable)
    for words in ("events", "bypass"):
        plain = dom0.run(f"sudo qubesctl qubes_vpn.{words}")
        short = dom0.run(f"sudo qubes-vpn {words}")
        assert (short.code, short.stderr, short.writes) == (plain.code, "", 0) == (0, "", 0)
        lines = [line.strip() for line in plain.stdout.splitlines()]
        assert lines == ["local:", *short.stdout.splitlines()]
    assert json.loads(dom0.run("sudo qubes-vpn events --json").stdout) == {"local": []}
    # Nothing of the pillar is there yet.
    assert dom0.run("sudo qubes-vpn doctor").code == 1
    refused = dom0.run("sudo qubes-vpn switch sys-vpn 1e5")
    assert (refused.code, refused.stdout, refused.writes) == (1, "", 0)
    assert "1e5 is no profile of sys-vpn in the pillar, which has: wg-se.conf" in refused.stderr


def test_the_package_takes_the_place_of_a_bundle(dom0, qubes, text, readme, monkeypatch):
    """R86. In a copy of the checkout that has no git: so the time is given."""
    if shutil.which("rpmbuild") is None:
        pytest.skip("needs rpmbuild")
    went(dom0, readme.commands("Install it in dom0")[2])
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1795383460")
    make, *lines, away = text.commands(RPM)
    done = sh(make, qubes / "dev/qubes-vpn-formula")
    assert done.returncode == 0, done.stderr
    went(dom0, *lines[:2])
    assert dom0.run(lines[1]).stdout.split()[0] in done.stdout
    went(dom0, *lines[2:], FUNCTION)
    pillar = (dom0.folder / "srv/pillar/qubes_vpn/init.sls").read_text()
    assert pillar.startswith("#!yaml\n")  # tests/salt/test_harness.py: it is data by that
    refused = dom0.run(readme.commands("Install it in dom0")[2])
    assert refused.code == 2
    assert "The package qubes-vpn-formula is installed" in refused.stderr
    shown = dom0.run("sudo qubesctl state.show_sls qubes.network.sys-vpn")
    assert (shown.code, shown.writes) == (0, 0)
    before = dom0.machine.snapshot()
    went(dom0, away)
    assert dom0.machine.snapshot() == before
    assert (dom0.folder / "srv/pillar/qubes_vpn/init.sls").is_file()
    assert "is not available" in said(dom0.run(FUNCTION))
    assert not Path("/usr/share/doc/qubes-vpn-formula").exists()
