# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of docs/ name what there is; those that dom0 has lead somewhere there too (R70)."""

import itertools
import re
import shlex
from pathlib import Path

import pytest
from core.pillars import EXAMPLE
from readme.document import Document

import qubes_vpn_client_dns
import qubes_vpn_ruleset
from qubes_vpn_formula.bundle import DOCS
from qubes_vpn_formula.cli import main

PROGRAM = re.compile(r"/usr/lib/qubes-vpn/(\S+) ([a-z]+)")
#: Units of the distributions' packages.
THEIRS = {"NetworkManager", "mullvad-daemon", "qubes-firewall"}
#: Functions for a look behind the scenes.
SPECIAL = {"qubes_vpn.plan", "qubes_vpn.undo_plan", "qubes_vpn.verify_plan"}
#: What is typed beside that: dom0's own commands (qubes-core-admin-client, ``qubesadmin/tools``),
#: and programs that Debian and Fedora have, with the words that follow.
OTHERS = {
    "qvm-ls": r"--network",
    "qvm-prefs": r"work netvm",
    "qvm-firewall": r"work list",
    "curl": r"https://\S+",
    "getent": r"ahosts \S+",
    "ip": r"address|-brief link",
    "nft": r"list ruleset",
    "journalctl": r"-k -f --grep \"qubes-vpn drop\"",
}


PAGES = sorted(path.name for path in (Path(__file__).parents[2] / "docs").glob("*.md"))


#: How something is known, which nobody needs to read in dom0.
MEASURED = ("lab.md",)
PROFILE = """\
[Interface]
PrivateKey = 6G8FVUpjiGKVkkHfHdaDFYZDlYJ+w5xYk4V8d4eE/GQ=
Address = 10.2.0.2/32
DNS = 10.2.0.1
[Peer]
PublicKey = C+u8cVhNWTWTbNEP4xfwBjz2wOmBkhmhW7ZNlJ3hOnQ=
AllowedIPs = 0.0.0.0/0
Endpoint = 203.0.113.7:51820
"""


@pytest.fixture(params=DOCS)
def text(request, checkout):
    """What dom0 has."""
    return (checkout / "docs" / request.param).read_text(encoding="utf-8")


@pytest.fixture(params=PAGES)
def page(request, checkout):
    return (checkout / "docs" / request.param).read_text(encoding="utf-8")


def code(text):
    """All commands: lines in blocks, and code in sentences."""
    document = Document(text)
    blocks = [line.strip() for block in document.blocks for line in block.lines]
    return [
        *blocks,
        *re.findall(r"^ +(\.venv\S+ .*|sudo .*)$", text, re.MULTILINE),
        *document.spans,
    ]


def test_links_lead_somewhere(text, checkout):
    """Also in dom0, where they lie beside each other and nothing else does."""
    anchors = {re.sub(r"[^a-z0-9 -]", "", line[3:].lower()).replace(" ", "-")
               for line in text.splitlines() if line.startswith("## ")}  # fmt: skip
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert link[1:] in anchors if link.startswith("#") else link in (*DOCS, *MEASURED), link


def test_what_is_read_in_dom0_names_pages_that_are_there(checkout, tmp_path):
    """R70. The example, a pillar that init makes, what the modules say of themselves, messages."""
    profile = tmp_path / "wg.conf"
    profile.write_text(PROFILE)
    pillar = tmp_path / "pillar.sls"
    assert main(["init", "--from", str(profile), "--layout", "--output", str(pillar)]) == 0
    texts = {path: path.read_text() for path in (checkout / "pillar.example", pillar)}
    for text in texts.values():
        assert "/srv/salt/qubes/network/docs" in text
        assert {*re.findall(r"docs/([\w.-]+\.md)", text)} - {*DOCS} == set()
    found = 0
    for folder in ("_modules", "_states", "_utils", "dom0", "salt"):
        for path in (each for each in (checkout / folder).rglob("*") if each.is_file()):
            text = path.read_text() if path.suffix != ".pyc" else ""
            for name in re.findall(r"[\w./-]*docs/(?!decisions/)[\w.-]+\.md", text):
                assert name.partition("docs/")[0] == "/srv/salt/qubes/network/", path
                assert Path(name).name in DOCS, path
                found += 1
            assert "README says" not in text, path
    assert found >= 3


def test_readme_leads_to_all_of_them(checkout):
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    assert [name for name in DOCS if f"](docs/{name})" not in readme] == []


def test_the_formulas_programs_know_these_words(page, checkout):
    files = checkout / "salt/qubes/network/files"
    for program, word in PROGRAM.findall(page):
        assert f"\n{program} {word} " in (files / program).read_text(encoding="utf-8")


def test_units_exist(page, checkout):
    files = checkout / "salt/qubes/network/files"
    for name in re.findall(r"(?:-u|reload) (\S+?)[`\s]", page):
        assert name in THEIRS or (files / name).is_file(), name


def test_what_is_typed_in_dom0(page, checkout):
    """SLS, functions and templates are the formula's; its own pillar's names."""
    targets = {"t-vpn", "t-dns", "sys-vpn", "sys-dns"}
    for line in (line for line in code(page) if line.startswith("sudo qubesctl")):
        words = shlex.split(line)[2:]
        named = [word.partition("=")[2] for word in words if word.startswith("--targets=")]
        assert {*",".join(named).split(",")} - {""} <= targets
        function, *rest = [word for word in words if not word.startswith("--")]
        if function == "state.sls":
            sls = checkout / "salt" / rest[0].replace(".", "/")
            assert sls.with_suffix(".sls").is_file() or (sls / "init.sls").is_file()
        elif function != "top.enable":  # Qubes' own, as README.md has it
            module, name = function.split(".")
            assert f"\ndef {name}(" in (checkout / f"_modules/{module}.py").read_text()


def test_the_firewall_rule_is_the_one_that_is_named_elsewhere(checkout):
    text = (checkout / "docs/resolvefix.md").read_text(encoding="utf-8")
    assert f"qvm-firewall work add --before 0 {qubes_vpn_client_dns.RULE}" in text
    rule = ["action=accept dst4=9.9.9.9/32", "action=drop"]
    assert "9.9.9.9" in qubes_vpn_client_dns.lack(rule, "sys-vpn", "tunnel")


def test_options_of_the_command_line(page, capsys):
    for line in code(page):
        if line.startswith((".venv/bin/qubes-vpn ", "qubes-vpn ")):
            words = shlex.split(line)[1:]
            named = itertools.takewhile(lambda word: not word.startswith("-"), words)
            assert main([*named, "--help"]) == 0
            shown = capsys.readouterr().out
            for option in (word for word in words if word.startswith("--")):
                assert option in shown


def test_keys_of_the_pillar(page, pillar_example):
    """Those that are written as a path, or as a key with a value."""
    for span in Document(page).spans:
        if re.fullmatch(r"[a-z_]+(\.[a-z_-]+)+", span) and span.split(".")[0] in EXAMPLE:
            inside = EXAMPLE
            for key in span.split("."):
                inside = inside[key]
        elif found := re.fullmatch(r"([a-z_]+): \S+", span):
            assert re.search(rf"^[ #]*{found[1]}:", pillar_example, re.MULTILINE)


def test_every_command_of_the_cheat_sheet_is_known(checkout):
    """Those of the formula are looked at by the tests above; here, that no row has another."""
    text = (checkout / "docs/cheatsheet.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\| .* \| `([^`]+)` \|$", text, re.MULTILINE)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(commands) == len(rows) - len(re.findall(r"^\|---", text, re.MULTILINE))
    for command in commands:
        words = command.removeprefix("sudo ").split(" ", 1)
        if words[0] not in ("qubesctl", ".venv/bin/qubes-vpn") and not PROGRAM.search(command):
            assert re.fullmatch(OTHERS[words[0]], words[1]), command


def test_the_cheat_sheet_names_what_the_log_has(checkout):
    text = (checkout / "docs/cheatsheet.md").read_text(encoding="utf-8")
    assert f'--grep "{qubes_vpn_ruleset.LOG_PREFIX.removesuffix(": ")}"' in text


def test_what_dom0_has_is_in_the_cheat_sheet(checkout):
    """Each function that somebody types, so that none is forgotten."""
    text = (checkout / "docs/cheatsheet.md").read_text(encoding="utf-8")
    source = (checkout / "_modules/qubes_vpn.py").read_text(encoding="utf-8")
    typed = re.findall(r"^        qubesctl (qubes_vpn\.[a-z_]+)", source, re.MULTILINE)
    assert [name for name in typed if name not in text and name not in SPECIAL] == []
