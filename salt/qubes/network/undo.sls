# SPDX-License-Identifier: GPL-2.0-or-later
##
# qubes.network.undo
# ==================
#
# Puts back what qubes.network.sys-vpn and qubes.layout replaced in dom0: netvms, default_netvm,
# firewall lists, properties, features. What somebody has changed since is kept, and said. Qubes and
# templates that were made are taken off the net and stay, unless their removal is asked for.
# It looks at no other pillar; one that Salt cannot read stops every state, this one too, unless you add
# force=True. The options are those of qubes_vpn_undo:
#   to      first (default): to before the first run; last: to before the last one
#   remove  true: also remove the qubes and templates that these runs made; not one of the layout
#           that has been used, because your files are in it
#
# Execute:
#   sudo qubesctl state.sls qubes.network.undo test=True   what it would put back, and who is in clear again
#   sudo qubesctl state.sls qubes.network.undo
#   sudo qubesctl state.sls qubes.network.undo pillar='{"qubes_vpn_undo": {"to": "last", "remove": true}}'
##
{%- from "qubes/network/steps.jinja" import steps %}
{%- if grains["id"] == "dom0" %}
{%- set plan = salt["qubes_vpn.undo_plan"](pillar.get("qubes_vpn_undo")) %}
{{ steps(plan) }}
{%- if plan.steps %}

"said by this run":
  qubes_vpn.remarks:
    - require:
      - qubes_vpn: {{ plan.steps[-1].id | json }}
{%- elif not plan.problems %}

"nothing to undo":
  test.show_notification:
    - text: The record has no change of a run that has not been undone.
{%- endif %}
{%- endif %}
