# SPDX-License-Identifier: GPL-2.0-or-later
"""R90: the report shows what was found, says what was not run, and is complete by itself."""

import json
import re

import pytest

from qubes_vpn_formula.cli import main
from qubes_vpn_formula.lab import attacks, programs, report
from qubes_vpn_formula.lab.attacks import Attack
from qubes_vpn_formula.lab.killswitches import Absent, Ours
from qubes_vpn_formula.lab.matrix import Task
from qubes_vpn_formula.lab.result import Result
from qubes_vpn_formula.lab.run import Run


def _attack(id, *counts):
    return Attack(id, f"attack {id}", "Tunnel", counts or ("OUT",), lambda cell: None)


ATTACKS = [_attack("T01"), _attack("T02"), _attack("T03", "STATE")]
LEAK = Result(
    "T01",
    "none",
    "LEAK",
    242,
    3,
    ("tunnel down: UDP to <b>203.0.113.80</b>",),
    48,
    262,
    2.5,
    ("a.pcap",),
)
RESULTS = [
    Result("T01", "ours", "closed", sent=48, frames=20, captures=("T01-ours.pcap",)),
    Result("T02", "ours", "not run", lines=("the kernel has no flowtables",)),
    Result("T03", "ours", "closed"),
    LEAK,
    Result("T02", "none", "error", lines=("the control frame was not seen",)),
    Result("T03", "none", "FAILED", lines=("the old endpoint is still open",)),
    Result("T01", "forward-open", "LEAK", 2),
    Result("T03", "recreate", "FAILED"),
]
PROOF = [Task("T01", "forward-open"), Task("T03", "recreate")]


def _content(results=RESULTS, proof=PROOF):
    machine = {"date": "today", "duration": "1 min 2 s", "agent": "restated", "kernel": "Linux 6.1"}
    return report.data(results, ATTACKS, {"ours": "Ours", "none": "Nothing"}, proof, machine)


def _cells(page):
    """The matrix: text of each cell by the link in it."""
    found = re.findall(r'<td class="(\w+)"><a href="#([^"]+)"[^>]*>(.*?)</a></td>', page, re.DOTALL)
    return {place: (style, re.sub(r"<[^>]+>", "", text).strip()) for style, place, text in found}


def test_the_matrix_shows_each_cell_in_colour_and_in_words():
    cells = _cells(report.page(_content()))
    assert cells["T01-ours"] == ("closed", "✓")
    assert cells["T02-ours"] == ("notrun", "– not run")
    assert cells["T01-none"] == ("leak", "✗ 242+3")
    assert cells["T02-none"] == ("error", "? error")
    assert cells["T03-none"] == ("failed", "▲ failed")
    assert cells["T01"] == ("closed", "1 of 1")


def test_details_have_the_frames_the_numbers_and_the_capture():
    page = report.page(_content())
    assert "tunnel down: UDP to &lt;b&gt;203.0.113.80&lt;/b&gt;" in page
    assert "48 packets sent, 262 frames judged, 2.5 s" in page
    assert 'href="captures/a.pcap"' in page
    assert "Linux 6.1" in page


def test_what_was_not_run_is_listed_with_its_reason():
    page = report.page(_content())
    listed = page.split("<h2>Not run</h2>")[1].split("<h2>")[0]
    assert "T02, ours" in listed
    assert "the kernel has no flowtables" in listed


def test_cells_without_a_result_are_no_pass():
    content = _content([LEAK], [])
    assert not content["complete"]
    page = report.page(content)
    assert "This run was ended before its end" in page
    assert "T01-ours" not in page


def test_every_link_goes_somewhere_and_nothing_is_loaded_from_elsewhere():
    page = report.page(_content())
    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert targets <= set(re.findall(r'id="([^"]+)"', page))
    assert not re.search(r"<script|<link|<img|src=|url\(|@import|https?:", page)


def test_files_are_written_and_the_data_is_whole(tmp_path):
    report.write(tmp_path, _content())
    read = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert read["complete"]
    assert {cell["attack"] for cell in read["cells"]} == {"T01", "T02", "T03"}
    assert [cell["caught"] for cell in read["proof"]] == [True, True]
    assert (tmp_path / "report.html").read_text("utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("result", "findings"),
    [
        (Result("T01", "ours", "closed"), []),
        (Result("T01", "ours", "not run", lines=("why",)), []),
        (Result("T01", "ours", "closed", aside=1), ["T01 ours: closed, 1 frames beside it"]),
        (Result("T01", "ours", "LEAK", 2, lines=("x",)), ["T01 ours: LEAK (2 frames): x"]),
        (Result("T01", "ours", "error", lines=("x",)), ["T01 ours: error: x"]),
        (Result("T01", "none", "LEAK", 2), []),
    ],
)
def test_ours_is_judged_and_the_others_are_compared(result, findings, tmp_path):
    run = Run([_attack("T01")], {"ours": Ours(), "none": Absent()}, False, None, tmp_path)
    run.results.append(result)
    assert run.findings == findings


@pytest.mark.parametrize(
    ("outcome", "counts", "found"),
    [
        ("LEAK", ["OUT"], True),
        ("closed", ["OUT"], False),
        ("error", ["OUT", "WORK"], False),
        ("FAILED", ["OUT"], False),
        ("FAILED", ["OUT", "STATE"], True),
        ("FAILED", ["WORK"], True),
    ],
)
def test_a_mutant_is_found_only_by_what_the_row_counts(outcome, counts, found):
    assert report.caught(Result("T01", "forward-open", outcome), counts) is found


def test_the_list_has_attacks_and_killswitches(capsys):
    assert main(["lab", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert list(listed["attacks"]) == [one.id for one in attacks.all()]
    assert listed["killswitches"][:2] == ["ours", "none"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--attack", "X99"], "--attack: there is no X99. See what there is: qubes-vpn lab --list"),
        (["--killswitch", "mine"], "--killswitch: there is no mine."),
        (["--jobs", "0"], "--jobs: at least one cell must run at a time."),
        (["--agent", "real"], "--agent: QUBES_SRC (not set) is no checkout"),
    ],
)
def test_bad_input_is_refused(words, said, capsys, monkeypatch):
    monkeypatch.delenv("QUBES_SRC", raising=False)
    assert main(["lab", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_missing_program_is_named_with_its_package(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert main(["lab"]) == 2
    assert "sudo apt-get install conntrack iproute2" in capsys.readouterr().err


def test_who_is_not_root_is_told(monkeypatch, capsys):
    monkeypatch.setattr(programs.os, "geteuid", lambda: 1000)
    assert main(["lab"]) == 2
    assert "only root may. Run it as root: sudo qubes-vpn lab" in capsys.readouterr().err


def test_a_folder_with_other_things_in_it_is_not_touched(tmp_path, namespaces, capsys):
    (tmp_path / "letter.txt").write_text("dear")
    assert main(["lab", "--report", str(tmp_path)]) == 2
    assert "neither an empty folder nor a report" in capsys.readouterr().err
