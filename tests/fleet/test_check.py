# SPDX-License-Identifier: GPL-2.0-or-later
"""R95: what `qubes-vpn fleet check` says of machines, good and broken."""

import importlib.util
import os
from pathlib import Path

import pytest

from qubes_vpn_formula.cli import main
from qubes_vpn_formula.errors import UserError

# A made-up key: 32 bytes in base64.
KEY = "eW91IGZvdW5kIGl0LCBidXQgaXQgaXMgbm90IG9uZSE="


def problems(content: dict) -> list[str]:
    return [one["text"] for one in content["told"] if one["kind"] == "problem"]


def test_machines_with_nothing_wrong(fleet) -> None:
    fleet.write(a="qubes_vpn: {}", b__c="qubes_vpn: {tunnels: {sys-vpn: {memory: 500}}}")
    code, content = fleet.told("check")
    assert code == 0
    assert [(one["name"], one["verdict"]) for one in content["machines"]] == [
        ("a", "checked"),
        ("c", "checked"),
    ]
    assert all(one["steps"] > 3 for one in content["machines"])


def test_a_mistake_is_told_once_where_it_was_made(fleet) -> None:
    """In the file that the value came from, with the machines that have it, and all mistakes."""
    fleet.write(
        base="qubes_vpn: {topolgy: simple, tunnels: {sys-vpn: {kind: wireguard}}}",
        **{f"m{number}": "qubes_vpn: {}" for number in range(8)},
        own="qubes_vpn:\n  tunnels:\n    sys-vpn:\n      memory: lots",
    )
    code, text = fleet.run("check", "--no-proof")
    assert code == 2
    lines = text.splitlines()
    base = lines.index(
        f"{fleet.folder}/base.sls:1: qubes_vpn.topolgy: unknown key. Did you mean 'topology'?"
    )
    assert lines[base + 1] == "    m0, m1, m2, m3, m4 and 4 more"
    assert f"{fleet.folder}/own.sls:4: qubes_vpn.tunnels.sys-vpn.memory" in text
    assert f"{fleet.folder}/base.sls:1: qubes_vpn.tunnels.sys-vpn.endpoints" in text
    assert text.count("topolgy") == 1
    assert "9 machines: 9 refused" in text


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("qubes_vpn: {a: [}", "x.sls:1: not YAML"),
        ("", "x.sls: the file is empty"),
        ("other: {}", "x.sls: there is no key 'qubes_vpn' at the top"),
        ("qubes_vpn:", "x.sls:1: qubes_vpn: no such pillar, or an empty one"),
        ("qubes_vpn: {routes: 5}", "x.sls:1: qubes_vpn.routes"),
        (
            "qubes_vpn: {}\nmine: {a: b}",
            "x.sls:2: mine: a fleet's file has 'qubes_vpn' and nothing",
        ),
        ("qubes_vpn: {routes: {}, routes: {}}", "x.sls:1: qubes_vpn.routes: two of one name"),
        ("qubes_vpn: {uplink: '{{ grains.id }}'}", "x.sls:1: Jinja ('{{')"),
        # Put together only when the YAML is read: Salt's next look at it would evaluate it.
        ('qubes_vpn: {uplink: "\\x7b\\x7b x }}"}', "x.sls:1: qubes_vpn.uplink"),
        ("qubes_vpn: " + "{a: " * 60 + "1" + "}" * 60, "x.sls:1: nested too deeply"),
        ("#" * (2 << 20), "x.sls: larger than 1024 KiB"),
        ("qubes_vpn: {}\0", "x.sls: this is a binary file"),
    ],
)
def test_a_broken_machine_does_not_stop_the_others(fleet, broken: str, told: str) -> None:
    fleet.write(x=broken, good="qubes_vpn: {}")
    code, content = fleet.told("check")
    assert code == 2
    verdicts = {one["name"]: one["verdict"] for one in content["machines"]}
    assert verdicts == {"x": "refused", "good": "checked"}
    assert [text for text in problems(content) if f"{fleet.folder}/{told}" in text]


def test_a_secret_is_refused_unseen(fleet) -> None:
    """R33. In ours, and beside it, where nobody would look."""
    fleet.write(a=f"qubes_vpn: {{tunnels: {{sys-vpn: {{PrivateKey: {KEY}}}}}}}")
    fleet.write(b=f"qubes_vpn: {{}}\npassword: {KEY}")
    code, text = fleet.run("check", "--no-proof")
    assert code == 2
    assert "2 machines: 2 refused" in text
    assert KEY not in text


def test_folders_share_what_their_base_has(fleet) -> None:
    """Nearer to the machine wins: its folder's base, the folder above it, the top."""
    fleet.write(
        base="qubes_vpn: {first: 0, wrong: 0}",
        se__base="qubes_vpn: {wrong: 1}",
        se__north__base="qubes_vpn: {wrong: 2}",
        se__north__a="qubes_vpn: {worse: 3}",
    )
    _, content = fleet.told("check")
    (machine,) = content["machines"]
    assert [Path(name).relative_to(fleet.folder).as_posix() for name in machine["files"]] == [
        "base.sls",
        "se/base.sls",
        "se/north/base.sls",
        "se/north/a.sls",
    ]
    where = {text.split(":")[0].rpartition("machines/")[2] for text in problems(content)}
    assert where == {"se/north/base.sls", "se/north/a.sls", "base.sls"}


@pytest.mark.parametrize(("one", "other"), [("se__a", "no__a"), ("se__Host", "host")])
def test_two_of_one_name_are_both_refused(fleet, one: str, other: str) -> None:
    fleet.write(**{one: "qubes_vpn: {}", other: "qubes_vpn: {}", "fine": "qubes_vpn: {}"})
    code, content = fleet.told("check")
    assert code == 2
    assert [machine["name"] for machine in content["machines"]] == ["fine"]
    assert len([text for text in problems(content) if "two machines of one name" in text]) == 2


@pytest.mark.parametrize("name", ["base", "a", "folder"])
def test_links_are_not_followed(fleet, tmp_path: Path, name: str) -> None:
    """They may lead out of the folder, to another machine's file, or round in a ring."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file.sls").write_text("qubes_vpn: {}")
    link = fleet.folder / (name if name == "folder" else f"{name}.sls")
    link.unlink(missing_ok=True)
    link.symlink_to(outside if name == "folder" else outside / "file.sls")
    fleet.write(good="qubes_vpn: {}")
    code, content = fleet.told("check")
    assert code == 2
    assert any(str(link) in text and "link" in text for text in problems(content))
    assert "file" not in [machine["name"] for machine in content["machines"]]


@pytest.mark.timeout(60)
def test_mistakes_without_number(fleet) -> None:
    """They are not all looked for, and the others' turn comes."""
    fleet.write(x="qubes_vpn:\n" + "".join(f"  k{number}: 1\n" for number in range(3_000)))
    code, content = fleet.told("check")
    assert (code, len(problems(content))) == (2, 100)


@pytest.mark.timeout(60)
def test_what_is_no_plain_file_is_not_opened(fleet) -> None:
    os.mkfifo(fleet.folder / "pipe.sls")
    code, content = fleet.told("check")
    assert code == 2
    assert ["no plain file" in text for text in problems(content)] == [True]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("top.sls", "Salt's top file"),
        ("a.yml", "ends in .sls"),
        ("*.sls", "cannot have this name"),
        ("a b.sls", "cannot have this name"),
        ("-a.sls", "cannot have this name"),
        ("a..b.sls", "cannot have this name"),
        ("a.init.sls", "cannot have this name"),
        ("\x1b[2J.sls", "cannot have this name"),
        ("\udcff.sls", "cannot have this name"),
    ],
)
def test_names_that_no_machine_has(fleet, name: str, told: str) -> None:
    """What a top file takes for a pattern, or Salt for another file; no screen is steered."""
    (fleet.folder / name).write_text("qubes_vpn: {}")
    code, text = fleet.run("check", "--no-proof")
    assert code == 2
    assert told in text
    assert "\x1b" not in text


def test_other_files_are_nobodys(fleet) -> None:
    fleet.write(a="qubes_vpn: {}")
    (fleet.folder / "README.md").write_text("ours")
    (fleet.folder / ".git").mkdir()
    (fleet.folder / ".git/b.sls").write_text("no pillar")
    (fleet.folder / ".a.sls").write_text("an editor's")
    code, content = fleet.told("check")
    assert (code, len(content["machines"])) == (0, 1)


@pytest.mark.parametrize("words", [["check", "nowhere"], ["check", "EMPTY"]])
def test_no_folder_no_machine(fleet, words: list[str], capsys) -> None:
    folder = str(fleet.folder) if words[1] == "EMPTY" else words[1]
    assert main(["fleet", "check", folder, "--no-proof"]) == 2
    assert folder in capsys.readouterr().err


def test_without_the_solver(fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and nothing passes for proven."""
    fleet.write(a="qubes_vpn: {}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, text = fleet.run("check")
    assert code == 2
    assert "pip install 'qubes-vpn-formula[prove]'" in text
    code, text = fleet.run("check", "--no-proof")
    assert code == 0
    assert "proven" not in text


def test_remarks_are_no_problems(fleet) -> None:
    fleet.write(a="qubes_vpn: {allowlists: {work: [198.51.100.7:443/tcp]}}")
    code, content = fleet.told("check")
    assert code == 0
    assert [one["kind"] for one in content["told"]] == ["remark"]
    assert content["told"][0]["machines"] == ["a"]


def test_what_no_proof_claims_is_a_remark(fleet) -> None:
    """R88, R91: of the machines that have Whonix' gateway on somebody's way."""
    fleet.write(a="qubes_vpn: {whonix: behind_vpn}", b="qubes_vpn: {}")
    code, content = fleet.told("check")
    assert code == 0
    (one,) = content["told"]
    assert (one["kind"], one["machines"]) == ("remark", ["a"])
    assert "no proof claims this: sys-whonix has Whonix' own rules" in one["text"]


def test_the_page_shows_names_as_text(fleet, tmp_path: Path) -> None:
    page = tmp_path / "fleet.html"
    fleet.write(a="qubes_vpn: {'<script>': 1}", b="qubes_vpn: {}")
    assert fleet.run("check", "--no-proof", "--page", str(page))[0] == 2
    text = page.read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "2 machines: 1 checked, 1 refused" in text


@pytest.mark.parametrize("name", ["check", "build"])
def test_help(name: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["fleet", name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"\n  qubes-vpn fleet {name} " in shown.partition("examples")[2]
    assert "exit codes:" in shown


def test_jobs_that_cannot_be(fleet) -> None:
    assert fleet.run("check", "--jobs", "0")[0] == 2


def test_a_process_that_is_ended_from_outside(fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for want of memory: a sentence, and no traceback."""
    from qubes_vpn_formula.fleet import examine, workers

    monkeypatch.setattr(examine, "_examine", lambda *_: os._exit(9))
    with workers.workers(2) as shared, pytest.raises(UserError, match="--jobs"):
        examine.examine([None], shared)
