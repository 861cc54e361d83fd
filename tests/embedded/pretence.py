# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the real client believe that it is run by root in dom0, which this machine is not."""

import grp
import subprocess
import types
from typing import Any


def pretend(socket: str) -> type:
    """Sends the real client to the server on `socket`. Returns the class of its app."""
    import qubesadmin
    import qubesadmin.app
    import qubesadmin.config

    qubesadmin.config.QUBESD_SOCKET = socket

    class Dom0(qubesadmin.app.QubesLocal):
        local_name = "dom0"

    qubesadmin.Qubes = Dom0
    # For cloning only: the name of dom0's user, and the program that makes his menu.
    grp.getgrnam = lambda _name: types.SimpleNamespace(gr_mem=["user"])
    subprocess.check_output = _no_program
    return Dom0


def _no_program(*_arguments: Any, **_options: Any) -> bytes:
    return b""
