# SPDX-License-Identifier: GPL-2.0-or-later
"""The documentation is built without a warning, and what is generated in it is all there (R70)."""

import ast
import html
import re
import subprocess
import sys
from pathlib import Path

import pytest
import reference
from reference import observers, pictures, pillar, words

import qubes_vpn_audit
import qubes_vpn_doctor
import qubes_vpn_schema
import qubes_vpn_types
from qubes_vpn_formula.commands import COMMANDS

PILLAR = """\
```yaml
qubes_vpn:
  tunnels:
    sys-vpn: {kind: wireguard, profile: a.conf, endpoints: [203.0.113.7:51820/udp]}
```
"""


def build(source, configured, out):
    """As `make docs` does."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    return subprocess.run(
        [*command, "-c", configured, source, out], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def pages(checkout, tmp_path_factory):
    """The text of each page, by its name."""
    out = tmp_path_factory.mktemp("docs")
    done = build(checkout / "docs", checkout / "docs", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        path.stem: html.unescape(re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8")))
        for path in out.glob("*.html")
    }


@pytest.mark.parametrize("link", ["gone.md", "index.md#gone", "decisions/gone.md"])
def test_a_link_that_leads_nowhere_is_found(link, checkout, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "index.md").write_text(f"# A page\n\n[here]({link})\n")
    done = build(source, checkout / "docs", tmp_path / "out")
    assert done.returncode != 0
    assert "gone" in done.stderr


def test_every_page_is_led_to(pages, checkout):
    """Those that nothing leads to are a warning; here, that none was left out of the build."""
    assert {path.stem for path in (checkout / "docs").glob("*.md")} <= set(pages)


def test_nothing_is_unwritten(pages):
    assert [name for name, text in pages.items() if "TODO" in text or "generated:" in text] == []


def test_all_keys_of_the_pillar(pages):
    """Counted anew: each key of the schema, however deep, has a heading."""

    def inside(kind):
        if isinstance(kind, qubes_vpn_types.Keys):
            for key, (inner, _default) in kind.fields.items():
                yield key
                yield from inside(inner)
        elif hasattr(kind, "kind"):
            yield from inside(kind.kind)

    names = [path[-1] for path, _, _ in pillar.entries()]
    assert names == list(inside(qubes_vpn_schema.PILLAR))
    assert len(names) > 100
    for path, _, _ in pillar.entries():
        assert ".".join(path) in pages["pillar"]


def test_each_key_is_explained():
    """By a text of its own, or by that of the mapping that it is in."""
    told = pillar.explanations()
    for path, kind, _ in pillar.entries():
        alike = ("tunnels", pillar.NAME, path[-1])
        above = [path[:size] for size in range(1, len(path) + 1)]
        if not isinstance(kind, qubes_vpn_types.Keys):
            assert any(told.get(each) for each in [*above[-3:], alike]), path


def test_explanations_are_those_of_the_key():
    """One in a comment that has keys itself; one beside another; one that looks like a key."""
    told = {".".join(path): " ".join(lines) for path, lines in pillar.explanations().items()}
    assert told["tunnels.NAME.relays.ipv6"] == "The relays' IPv6 addresses too."
    assert told["tunnels.NAME.kind"].startswith("wireguard | openvpn: by NetworkManager")
    assert told["tunnels.NAME.mullvad"].startswith("Only with kind mullvad")
    assert told["tunnels.NAME.maxmem"] == told["tunnels.NAME.memory"]
    assert told["audit"].startswith("What `qubes_vpn.audit` finds")


@pytest.mark.parametrize(
    ("page", "rules"),
    [("audit-rules", qubes_vpn_audit.RULES), ("troubleshooting", qubes_vpn_doctor.RULES)],
)
def test_all_rules(page, rules, pages):
    for rule in rules:
        assert f"{rule.id}: {rule.title}" in pages[page]
        assert rule.reason.split("`")[0] in pages[page]


def test_all_commands(pages):
    for command in COMMANDS:
        assert f"usage: qubes-vpn {command.__name__.rpartition('.')[2]} " in pages["commands"]


@pytest.mark.parametrize(
    ("page", "file"),
    [
        ("states", "_states/qubes_vpn.py"),
        ("states", "_states/qubes_vpn_vm.py"),
        ("salt", "_modules/qubes_vpn.py"),
    ],
)
def test_all_of_salts_part(page, file, pages, checkout):
    tree = ast.parse((checkout / file).read_text(encoding="utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    public = [name for name in names if not name.startswith("_")]
    assert len(public) > 5
    assert [name for name in public if f"qubes_vpn.{name}" not in pages[page]] == []
    for raw in (":func:", ":mod:", "``", "::"):
        assert raw not in pages[page]


def test_what_is_applied_is_told(pages, checkout):
    for path in (checkout / "salt").rglob("*.sls"):
        if "\n##\n# qubes." in path.read_text(encoding="utf-8"):
            name = ".".join(path.relative_to(checkout / "salt").with_suffix("").parts)
            assert name.removesuffix(".init") in pages["salt"]


class TestPictures:
    def test_it_is_that_of_the_pillar_above(self):
        drawn = pictures.write(PILLAR.replace("sys-vpn", "sys-other") + "and\n" + PILLAR)
        assert ">sys-vpn</text>" in drawn
        assert "sys-other" not in drawn

    @pytest.mark.parametrize("wrong", ["endpoints: []", "topology: round"])
    def test_a_wrong_pillar_is_not_drawn(self, wrong):
        text = PILLAR.replace("  tunnels:", "  topology: round\n  tunnels:")
        with pytest.raises(ValueError, match="round"):
            pictures.write(text)


def test_who_sees_what_is_that_of_the_pillar_above():
    """R70: each way of it has a table."""
    text = PILLAR.replace("sys-vpn", "sys-other") + "and\n" + PILLAR
    told = observers.write(text)
    assert "every other qube → sys-firewall → sys-dns → sys-vpn → sys-net" in told
    assert "| the VPN provider of sys-vpn | sees | sees | sees |  | sees |  |" in told
    assert "sys-other" not in told


def test_an_unknown_mark_is_an_error():
    with pytest.raises(KeyError):
        reference.fill("<!-- generated: nothing -->\n")


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("a_b *c* <d> [e]", r"a\_b \*c\* \<d\> \[e\]"),
        ("`a_b` c_d", r"`a_b` c\_d"),
        ("Told (R10, R11). So", "Told. So"),
    ],
)
def test_plain_text_stays_plain(text, markdown):
    assert words.plain(text) == markdown


def test_external_links_are_not_asked_here(checkout):
    """`make docs-links` asks them, on a machine with the internet."""
    assert "linkcheck" not in Path(checkout / ".ci/run").read_text(encoding="utf-8")
