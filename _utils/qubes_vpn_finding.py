# SPDX-License-Identifier: GPL-2.0-or-later
"""What checks have in common: rules as data, what they found, and how that is told.

A rule's ``look`` is a function of whatever its kind of check looks at (a machine, a qube's status).
It yields ``(qube, detail)`` for each thing that is wrong, and raises :class:`NotKnown` where it
cannot tell; what it has yielded before counts.  So nothing passes that could not be looked at.
"""

from collections.abc import Callable
from typing import NamedTuple

#: The worst first.  A note is something to know, and nothing to repair.
SEVERITIES = ("critical", "high", "medium", "low", "note")
_MANY = 8


class NotKnown(Exception):
    """A rule cannot tell: the text says why, a sentence without a full stop."""


class Rule(NamedTuple):
    """One thing to look for.

    id: stable, such as ``A101``; pillars name it.  severity: one of ``SEVERITIES``.
    title: what is wrong, without a full stop.  reason: why that matters.  fix: what to do about it;
    QUBE in it stands for the qube's name.  look: see the module's text.
    """

    id: str
    severity: str
    title: str
    reason: str
    fix: str
    look: Callable


class Finding(NamedTuple):
    """What a rule found at one qube, template or dom0; detail: what is so there, a sentence."""

    rule: Rule
    qube: str
    detail: str

    def fix(self):
        """What to do about it here."""
        return self.rule.fix.replace("QUBE", self.qube)


class Report(NamedTuple):
    """What a run of rules found.

    findings: :class:`Finding`, the worst first.  unknown: ``(Rule, why)`` of what could not be
    told.  excepted: ``(Finding, reason)`` of what somebody decided to live with.
    """

    findings: tuple
    unknown: tuple = ()
    excepted: tuple = ()


def look(rules, subject):
    """The :class:`Report` of *rules* about *subject*."""
    findings, unknown = [], []
    for rule in rules:
        try:
            for qube, detail in rule.look(subject):
                findings.append(Finding(rule, qube, detail))
        except NotKnown as why:
            unknown.append((rule, str(why)))
    return Report(tuple(sorted(findings, key=place)), tuple(unknown))


def some(words):
    """The first of many, in a sentence."""
    more = f" and {len(words) - _MANY} more" if len(words) > _MANY else ""
    return ", ".join(words[:_MANY]) + more


def exit_code(report, fail_on="low"):
    """1 when there is a finding as bad as *fail_on* or worse, or might be one, else 0."""
    bad = SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    rules = [finding.rule for finding in report.findings] + [rule for rule, _ in report.unknown]
    return int(any(rule.severity in bad for rule in rules))


def data(report):
    """The report as plain data, for JSON."""
    return {
        "findings": [_plain(finding) for finding in report.findings],
        "unknown": [
            {"rule": rule.id, "title": rule.title, "why": why} for rule, why in report.unknown
        ],
        "excepted": [
            {**_plain(finding), "exception": reason} for finding, reason in report.excepted
        ],
    }


def text(report):
    """The report as lines for a screen; equal rules are told once."""
    lines = []
    for rule, findings in _by_rule(report.findings):
        lines += [f"{rule.severity.upper():8}  {rule.id}  {rule.title}"]
        lines += [f"{'':10}{finding.qube}: {finding.detail}" for finding in findings]
        lines += [f"{'':10}Why: {rule.reason}", f"{'':10}Fix: {_shared_fix(findings)}", ""]
    lines += [f"NOT KNOWN {rule.id}  {rule.title}: {why}." for rule, why in report.unknown]
    lines += [
        f"EXCEPTED  {finding.rule.id}  {finding.qube}: {finding.rule.title} ({reason})"
        for finding, reason in report.excepted
    ]
    return "\n".join([*lines, summary(report)])


def summary(report):
    """How many there are, in one line."""
    counts = [
        f"{number} {severity}"
        for severity in SEVERITIES
        if (number := sum(each.rule.severity == severity for each in report.findings))
    ]
    more = [
        f"{len(each)} {what}"
        for each, what in ((report.unknown, "not known"), (report.excepted, "excepted"))
        if each
    ]
    return f"Found: {', '.join(counts + more) or 'nothing'}."


def place(finding):
    """By what findings are sorted."""
    return SEVERITIES.index(finding.rule.severity), finding.rule.id, finding.qube, finding.detail


def _by_rule(findings):
    found = {}
    for finding in findings:
        found.setdefault(finding.rule.id, []).append(finding)
    return [(found[key][0].rule, found[key]) for key in found]


def _shared_fix(findings):
    """The fix of several qubes at once: with the name, where there is one."""
    names = {finding.qube for finding in findings}
    return findings[0].fix() if len(names) == 1 else findings[0].rule.fix


def _plain(finding):
    rule = finding.rule
    return {
        "rule": rule.id,
        "severity": rule.severity,
        "title": rule.title,
        "qube": finding.qube,
        "detail": finding.detail,
        "reason": rule.reason,
        "fix": finding.fix(),
    }
