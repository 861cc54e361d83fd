# SPDX-License-Identifier: GPL-2.0-or-later
##
# qubes.layout
# ============
#
# Makes the qubes of the pillar's `layout` that are missing, offline first, then routed as the
# pillar says.  A qube that exists keeps its template, label and memory.  Run qubes.network.sys-vpn
# before it: the netvms are its part.
#
# Execute:
#   sudo qubesctl state.sls qubes.layout
##
{%- from "qubes/network/steps.jinja" import steps %}
{%- set plan = salt["qubes_vpn.plan"](pillar.get("qubes_vpn", {}), part="layout") %}
{{ steps(plan) }}
{%- if plan.steps %}

"said by this run":
  qubes_vpn.remarks:
    - require:
      - qubes_vpn: {{ plan.steps[-1].id | json }}
{%- endif %}
