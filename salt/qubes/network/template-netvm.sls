# SPDX-License-Identifier: GPL-2.0-or-later
##
# qubes.network.template-netvm
# ============================
#
# Installs the software of each template for which the pillar says `netvm_while_installing: NETVM`, by
# qubes.network.sys-vpn in that template: without a netvm first, and if that fails with this one, for an
# hour at most. No other SLS gives a template a netvm, and you need this one only if the updates proxy
# cannot fetch what the template lacks. Every other SLS of the formula in dom0 takes away first what
# an interrupted run of this one left.
#
# Execute, after qubes.network.sys-vpn in dom0:
#   sudo qubesctl state.sls qubes.network.template-netvm test=True   which way it would go
#   sudo qubesctl state.sls qubes.network.template-netvm
##
{%- from "qubes/network/steps.jinja" import steps %}
{%- if grains["id"] == "dom0" %}
{%- set plan = salt["qubes_vpn.plan"](pillar.get("qubes_vpn", {}), "templates") %}
{{ steps(plan) }}
{%- if plan.steps %}

"said by this run":
  qubes_vpn.remarks:
    - require:
      - qubes_vpn: {{ plan.steps[-1].id | json }}
{%- elif not plan.problems %}

"nothing to install":
  test.show_notification:
    - text: No template in the pillar has netvm_while_installing.
{%- endif %}
{%- endif %}
