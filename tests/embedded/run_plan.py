# SPDX-License-Identifier: GPL-2.0-or-later
"""run_plan.py SOCKET: applies the plan of the pillar on stdin, by the real client."""

import json
import logging
import sys

import dom0

dom0.pretend(sys.argv[1])
logging.disable()

import qubes_vpn_dom0  # noqa: E402
import qubes_vpn_machine  # noqa: E402
import qubes_vpn_model  # noqa: E402
import qubes_vpn_plan  # noqa: E402

model, problems = qubes_vpn_model.read(json.load(sys.stdin))
assert not problems
machine = qubes_vpn_machine.Machine(qubes_vpn_machine.connect())
for step in qubes_vpn_plan.plan(model):
    qubes_vpn_dom0.run(machine, step.state, step.args, {})
