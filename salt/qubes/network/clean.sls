# SPDX-License-Identifier: GPL-2.0-or-later
##
# qubes.network.clean
# ===================
#
# Takes away what the formula keeps in dom0 beside its own files: the record of what was replaced, and
# notes. Only after qubes.network.undo: while there is something to undo, it refuses. It touches no
# qube, and opens nothing.
#
# Execute:
#   sudo qubesctl state.sls qubes.network.clean test=True
#   sudo qubesctl state.sls qubes.network.clean
##
{%- if grains["id"] == "dom0" %}

"traces of the formula in dom0":
  qubes_vpn.cleaned: []
{%- endif %}
