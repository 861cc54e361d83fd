# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs one case of client_cases with the `qubesadmin` on PYTHONPATH; prints what it saw as JSON.

run_case.py CASE            our front, on the state file in QUBES_VPN_EMBEDDED
run_case.py CASE SOCKET     the real client, as root in dom0, on that socket
"""

import json
import logging
import sys

import client_cases
import pretence
import qubesadmin
import qubesadmin.firewall

case, *rest = sys.argv[1:]
logging.disable()
app = (pretence.pretend(*rest) if rest else qubesadmin.Qubes)()
json.dump(client_cases.CASES[case](qubesadmin, app), sys.stdout)
