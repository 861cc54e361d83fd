# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of dom0's `qubesadmin` that a formula needs, on an embedded Qubes instead of qubesd.

`import qubesadmin; app = qubesadmin.Qubes()` works as in dom0, run by root. The machine is the one
whose state file the environment variable QUBES_VPN_EMBEDDED names. Same names, same errors, same
Admin API calls in the same order as the real client (qubes-core-admin-client 4.3.34 and, on a
machine of release 4.2, 4.2.18), traps included: a cache that writes do not invalidate, a clone that
dies half way, rules that never equal text.

Running programs in qubes is `run_service` alone, by whatever stands for qrexec-client.

Left out: devices, storage pools, events, backups, disposables on the fly, templates' lists of
children, qube renaming, property help, the qvm-* tools. What is left out is absent and fails; the
real tools work on `qubes_vpn_formula.embedded.server`.
"""

from . import exc, firewall, label, storage, vm  # noqa: F401 (as attributes, like the real package)
from .app import Qubes
from .base import DEFAULT

__all__ = ["DEFAULT", "Qubes"]
