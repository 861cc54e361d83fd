# SPDX-License-Identifier: GPL-2.0-or-later
"""R70, R95: docs/fleet.md, followed to the letter."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from qubes_vpn_formula.cli import main
from qubes_vpn_formula.masterless import Masterless

BASE = """\
qubes_vpn:
  tunnels:
    sys-vpn: {kind: wireguard, profile: wg.conf, endpoints: ["192.0.2.1:51820/udp"]}
"""


@pytest.fixture
def page(checkout: Path) -> list[str]:
    """The texts of its blocks."""
    text = (checkout / "docs/fleet.md").read_text(encoding="utf-8")
    return re.findall(r"^```\w+\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def machines(page: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "machines"
    (folder / "berlin").mkdir(parents=True)
    (folder / "base.sls").write_text(BASE)
    (folder / "berlin/base.sls").write_text("qubes_vpn: {}")
    (folder / "berlin/laptop-7.sls").write_text("qubes_vpn: {}")
    (folder / "berlin/laptop-8.example.org.sls").write_text(page[0])
    return folder


def commands(page: list[str]) -> list[list[str]]:
    return [shlex.split(line)[1:] for block in page for line in block.splitlines()
            if line.startswith("qubes-vpn ")]  # fmt: skip


def test_the_commands_work(page: list[str], machines: Path) -> None:
    check, build, signed = commands(page)
    assert [main([*words, "--no-proof"]) for words in (check, build)] == [0, 0]
    # With a key: test_build.py.
    assert main([*signed[:-2], "--no-proof"]) == 0


def test_a_mistake_is_told_as_shown(
    page: list[str], machines: Path, capsys: pytest.CaptureFixture
) -> None:
    (machines / "berlin/base.sls").write_text(
        "qubes_vpn:\n  tunnels:\n    sys-vpn:\n      memry: 400\n"
    )
    (machines / "desk.sls").write_text("qubes_vpn: {}")
    assert main(commands(page)[1]) == 2
    shown = next(block for block in page if "memry" in block)
    assert capsys.readouterr().out.splitlines()[:3] == shown.splitlines()


def test_the_minion_writes_its_own_pillar(page: list[str], machines: Path, tmp_path: Path) -> None:
    """By the page's state, from the page's pillar roots."""
    assert main([*commands(page)[1], "--no-proof"]) == 0
    roots = yaml.safe_load(next(block for block in page if "pillar_roots" in block))["pillar_roots"]
    assert roots == {"base": ["/srv/qubes-vpn/pillar"]}
    state = next(block for block in page if "file.serialize" in block)
    salt = Masterless(tmp_path / "salt")
    salt.folder.mkdir()
    served = {"base": [str(tmp_path / "build-1/pillar")]}
    salt.prepare(id="laptop-8.example.org", pillar_roots=served)
    written = tmp_path / "pillar.sls"
    text = state.replace("/home/user/qubes-vpn/pillar.sls", str(written))
    (salt.folder / "roots/qubes-vpn-pillar.sls").write_text(text)
    done = salt.salt_call("state.apply", "qubes-vpn-pillar", machine=tmp_path / "none.json")
    assert done.code == 0, done.stdout + done.stderr
    served_file = tmp_path / "build-1/pillar/machine/laptop-8/example/org/init.sls"
    assert yaml.safe_load(written.read_text()) == yaml.safe_load(served_file.read_text())
    assert main(["check", str(written)]) == 0
