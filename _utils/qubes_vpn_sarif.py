# SPDX-License-Identifier: GPL-2.0-or-later
"""What checks found as SARIF 2.1.0, which code hosts and editors show (OASIS, sarif-v2.1.0).

A machine has no files, so each result names a logical location: the qube.
"""

#: SARIF knows three levels.
_LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "warning"}
#: What GitHub ranks by: https://docs.github.com/code-security, "security-severity".
_SCORES = {"critical": "9.5", "high": "8.0", "medium": "5.0", "low": "3.0", "note": "0.0"}
_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)


def document(report, rules, version):
    """The SARIF document of a :class:`qubes_vpn_finding.Report` as plain data.

    rules: all that were looked at.  version: the formula's, None where it is not known.
    """
    driver = {"name": "qubes-vpn", "rules": [_rule(rule) for rule in rules]}
    driver |= {"version": version} if version else {}
    places = {rule.id: place for place, rule in enumerate(rules)}
    results = [_result(finding, places) for finding in report.findings]
    for finding, reason in report.excepted:
        suppressed = {"kind": "external", "status": "accepted", "justification": reason}
        results.append({**_result(finding, places), "suppressions": [suppressed]})
    told = [
        {
            "descriptor": {"id": rule.id},
            "level": "warning",
            "message": {"text": f"{rule.title}: not known, {why}."},
        }
        for rule, why in report.unknown
    ]
    ran = {"executionSuccessful": not told, "toolConfigurationNotifications": told}
    run = {"tool": {"driver": driver}, "invocations": [ran], "results": results}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule):
    return {
        "id": rule.id,
        "shortDescription": {"text": f"{rule.title}."},
        "fullDescription": {"text": rule.reason},
        "help": {"text": rule.fix},
        "defaultConfiguration": {"level": _LEVELS.get(rule.severity, "note")},
        "properties": {"security-severity": _SCORES[rule.severity], "severity": rule.severity},
    }


def _result(finding, places):
    rule = finding.rule
    return {
        "ruleId": rule.id,
        "ruleIndex": places[rule.id],
        "level": _LEVELS.get(rule.severity, "note"),
        "message": {"text": f"{finding.qube}: {rule.title}: {finding.detail}. {finding.fix()}"},
        "locations": [{"logicalLocations": [{"name": finding.qube, "kind": "module"}]}],
        "partialFingerprints": {"ruleAndQube/v1": f"{rule.id}/{finding.qube}"},
    }
