# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules as data: what they found, what they could not tell, and how it is shown (R68, R93)."""

import json

import qubes_vpn_finding as finding


def _rule(number, severity, *found, unknown=None):
    def look(subject):
        yield from ((name, f"{detail} of {subject}") for name, detail in found)
        if unknown:
            raise finding.NotKnown(unknown)

    return finding.Rule(number, severity, "Something", "It matters.", "qvm-prefs QUBE x y.", look)


def test_the_worst_comes_first_and_every_qube_is_named():
    report = finding.look(
        [_rule("T2", "low", ("work", "a")), _rule("T1", "critical", ("b", "b"), ("a", "a"))], "it"
    )
    assert [(each.rule.id, each.qube) for each in report.findings] == [
        ("T1", "a"),
        ("T1", "b"),
        ("T2", "work"),
    ]
    assert report.findings[2].detail == "a of it"


def test_what_cannot_be_told_is_said_and_does_not_hide_what_was_found():
    report = finding.look([_rule("T1", "high", ("a", "a"), unknown="not asked")], "it")
    assert [each.qube for each in report.findings] == ["a"]
    assert [(rule.id, why) for rule, why in report.unknown] == [("T1", "not asked")]
    assert "NOT KNOWN T1  Something: not asked." in finding.text(report)


def test_the_exit_code_follows_the_severity():
    report = finding.look([_rule("T1", "medium", ("a", "a"))], "it")
    assert [finding.exit_code(report, least) for least in finding.SEVERITIES] == [0, 0, 1, 1, 1]
    assert finding.exit_code(finding.Report(())) == 0


def test_what_cannot_be_told_does_not_pass():
    report = finding.look([_rule("T1", "medium", unknown="not asked")], "it")
    assert report.findings == ()
    assert [finding.exit_code(report, least) for least in finding.SEVERITIES] == [0, 0, 1, 1, 1]


def test_a_note_alone_does_not_fail():
    assert finding.exit_code(finding.look([_rule("T1", "note", ("a", "a"))], "it")) == 0


def test_as_text_and_as_data_everything_is_there():
    report = finding.look([_rule("T1", "high", ("a", "x"), ("b", "y")), _rule("T2", "low")], "it")
    report = report._replace(excepted=((report.findings[0], "a reason"),))
    text = finding.text(report)
    for word in ("HIGH", "T1", "a: x of it", "b: y of it", "It matters.", "qvm-prefs QUBE x y."):
        assert word in text
    assert "EXCEPTED  T1  a: Something (a reason)" in text
    assert text.endswith("Found: 2 high, 1 excepted.")
    told = json.loads(json.dumps(finding.data(report)))
    assert told["findings"][1] == {
        "rule": "T1",
        "severity": "high",
        "title": "Something",
        "qube": "b",
        "detail": "y of it",
        "reason": "It matters.",
        "fix": "qvm-prefs b x y.",
    }
    assert told["excepted"][0]["exception"] == "a reason"


def test_one_qubes_fix_names_it_and_nothing_found_is_said():
    report = finding.look([_rule("T1", "high", ("work", "x"))], "it")
    assert "Fix: qvm-prefs work x y." in finding.text(report)
    assert finding.text(finding.Report(())) == "Found: nothing."
