# SPDX-License-Identifier: GPL-2.0-or-later
##
# qubes.network.sys-vpn
# =====================
#
# Routes the machine through a VPN, as the pillar `qubes_vpn` describes it (see pillar.example).
# Each minion gets its own part: dom0, a template of tunnels or resolvers, a VPN qube, a resolver qube.
#
# Execute, with your own names for the templates and qubes:
#   sudo qubesctl state.show_sls qubes.network.sys-vpn        dom0's steps, in order
#   sudo qubesctl state.sls qubes.network.sys-vpn test=True   what they would change
#   sudo qubesctl state.sls qubes.network.sys-vpn             do it
#   sudo qubesctl --skip-dom0 --targets=t-vpn,t-dns,sys-vpn,sys-dns state.sls qubes.network.sys-vpn
##
{%- from "qubes/network/steps.jinja" import problems, steps %}
{%- if grains["id"] == "dom0" %}
{%- set plan = salt["qubes_vpn.plan"](pillar.get("qubes_vpn", {})) %}
{{ steps(plan) }}
{%- if plan.steps %}

# Before the templates and qubes get their part, in which the services are.
"only dom0 calls VPN and resolver qubes":
  qubes_vpn.services_policy:
    - require:
      - qubes_vpn: {{ plan.steps[-1].id | json }}

"said by this run":
  qubes_vpn.remarks:
    - require:
      - qubes_vpn: only dom0 calls VPN and resolver qubes

# Salt's own way to say something: never a change, also in a dry run.
"not done by this run":
  test.show_notification:
    - text: >-
        dom0's part is done. What is in the templates and qubes comes next, also after each change of the pillar:
        their software, the killswitch, the tunnel, clients' DNS:
        qubesctl --skip-dom0 --targets={{ plan.targets | join(",") }} state.sls qubes.network.sys-vpn;
        restart a qube that ran while its template was changed, and a disposable one. A tunnel needs what it logs in
        with, which is brought into the VPN qube by hand, and a resolver answers once its tunnel is up: run it again
        then. Until all that is so, clients have no names, and what keeps clients from going out in clear is the VPN
        qube's firewall list alone, enforced by the qube upstream of it.
    - require:
      - qubes_vpn: said by this run
{%- endif %}
{%- else %}
{%- from "qubes/network/killswitch.jinja" import template, qube, states %}
{%- from "qubes/network/tunnel.jinja" import tunnel %}
{%- from "qubes/network/resolver.jinja" import resolver %}
{%- from "qubes/network/software.jinja" import software %}
{%- set part = salt["qubes_vpn.part"](pillar.get("qubes_vpn", {}), grains["id"]) %}
{{ problems(part) }}
{%- if part.role == "template" %}
{%- set after = [] %}
{%- if part.args.software.kinds != ["dnscrypt"] %}
{{ template() }}
{{ tunnel() }}
{%- do after.append("/etc/systemd/system/nftables.service.d/50-qubes-vpn.conf") %}
{%- endif %}
{%- if "dnscrypt" in part.args.software.kinds %}
{{ resolver(with_tunnels=after != []) }}
{%- do after.append("/etc/systemd/system/dnscrypt-proxy.service") %}
{%- endif %}
{{ software(part, after) }}
{%- elif part.role == "qube" and "killswitch" in part.args %}
{{ qube(part) }}
{%- elif part.role == "qube" %}
{{ states(part) }}
{%- endif %}
{%- endif %}
