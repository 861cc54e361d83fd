# SPDX-License-Identifier: GPL-2.0-or-later
"""run_plan.py SOCKET [FOLDER [TO]]: applies the plan of the pillar on stdin, by the real client.

FOLDER: of the record.  TO (first or last): an undo, instead; prints what was changed, as JSON.
"""

import json
import logging
import sys

import pretence

pretence.pretend(sys.argv[1])
logging.disable()

import qubes_vpn_dom0  # noqa: E402
import qubes_vpn_machine  # noqa: E402
import qubes_vpn_model  # noqa: E402
import qubes_vpn_plan  # noqa: E402
import qubes_vpn_qubesd  # noqa: E402
import qubes_vpn_record  # noqa: E402
import qubes_vpn_undo  # noqa: E402

folder, to = [*sys.argv[2:], None, None][:2]
record = qubes_vpn_record.Record(folder) if folder else None
machine = qubes_vpn_machine.Machine(qubes_vpn_qubesd.connect(), record=record)
if to:
    steps = qubes_vpn_undo.plan(qubes_vpn_record.read(folder), to)
else:
    model, problems = qubes_vpn_model.read(json.load(sys.stdin))
    assert not problems
    steps = qubes_vpn_plan.plan(model)
done = []
for step in steps:
    changes = {}
    qubes_vpn_dom0.run(machine, step.state, step.args, changes)
    done.append([step.id, changes])
print(json.dumps(done))
