# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs one case of client_cases with the `qubesadmin` on PYTHONPATH; prints what it saw as JSON.

run_case.py CASE            our front, on the state file in QUBES_VPN_EMBEDDED
run_case.py CASE SOCKET     the real client, as root in dom0, on that socket
"""

import json
import logging
import sys
import types
from typing import Any

import client_cases
import qubesadmin


def real_app(socket: str) -> Any:
    """The real client as it is for root in dom0, which this machine is not."""
    import grp
    import subprocess

    import qubesadmin.app
    import qubesadmin.config
    import qubesadmin.firewall

    qubesadmin.config.QUBESD_SOCKET = socket
    app = qubesadmin.app.QubesLocal()
    app._local_name = "dom0"
    # Only for cloning: dom0's user, and the program that makes his menu.
    grp.getgrnam = lambda _name: types.SimpleNamespace(gr_mem=["user"])
    subprocess.check_output = lambda *_arguments, **_options: b""
    return app


case, *rest = sys.argv[1:]
logging.disable()
app = real_app(*rest) if rest else qubesadmin.Qubes()
json.dump(client_cases.CASES[case](qubesadmin, app), sys.stdout)
