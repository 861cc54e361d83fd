# SPDX-License-Identifier: GPL-2.0-or-later
##
# qubes.layout
# ============
#
# Makes the qubes of the pillar's `layout` that are missing, offline first, then routed as the
# pillar says.  A qube that exists stays as it is.  Run qubes.network.sys-vpn before it.
#
# Execute:
#   sudo qubesctl state.sls qubes.layout
##
{%- from "qubes/network/steps.jinja" import steps %}
{{ steps(salt["qubes_vpn.plan"](pillar.get("qubes_vpn", {}), part="layout")) }}
