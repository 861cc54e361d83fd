# SPDX-License-Identifier: GPL-2.0-or-later
##
# qubes.network.sys-vpn
# =====================
#
# Routes the machine through a VPN, as the pillar `qubes_vpn` describes it (see pillar.example).
#
# Execute:
#   sudo qubesctl state.show_sls qubes.network.sys-vpn        the steps, in order
#   sudo qubesctl state.sls qubes.network.sys-vpn test=True   what they would change
#   sudo qubesctl state.sls qubes.network.sys-vpn             do it
##
{%- if grains["id"] == "dom0" %}
{%- from "qubes/network/steps.jinja" import steps %}
{%- set plan = salt["qubes_vpn.plan"](pillar.get("qubes_vpn", {})) %}
{{ steps(plan) }}
{%- if plan.steps %}

# Salt's own way to say something: never a change, also in a dry run.
"not done by this version":
  test.show_notification:
    - text: >-
        dom0's part is done. Not part of this version yet: the software in the templates, the
        tunnel itself, and the killswitch inside the VPN qube. Until you have set up the first two,
        clients of the VPN qube are offline. What keeps them from going out in clear is the VPN
        qube's own firewall list, enforced by the qube upstream of it.
    - require:
      - qubes_vpn: {{ plan.steps[-1].id | json }}
{%- endif %}
{%- else %}

{{ ("qubes_vpn configures dom0 only in this version, and " ~ grains["id"] ~ " is not dom0") | json
   }}: {nothing was changed: invalid}
{%- endif %}
