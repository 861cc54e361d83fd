# SPDX-License-Identifier: GPL-2.0-or-later
##
# qubes.tests.sys-vpn
# ===================
#
# Looks whether the machine is as the pillar says, from inside its qubes: wiring, tunnels, the address that
# the world sees, what leaves the VPN qube, vaults, isolation, Tor; and, only if asked for, that nothing
# gets out while a tunnel is down. Asks qubes that run, and starts none. Changes nothing else, and puts
# that tunnel back, also after Ctrl-C: the VPN qube does it by itself after two minutes. Result None is a
# test that was not run, with the reason; the last state fails if anything failed or could not be run.
#
# Execute, with qubes behind the VPN running:
#   sudo qubesctl --show-output state.sls qubes.tests.sys-vpn test=True   what each test would do
#   sudo qubesctl --show-output state.sls qubes.tests.sys-vpn
#   sudo qubesctl --show-output state.sls qubes.tests.sys-vpn pillar='{"qubes_vpn_tests": {"destructive": true}}'
##
{%- if grains["id"] == "dom0" %}
{%- from "qubes/tests/steps.jinja" import tests with context %}
{{ tests("sys-vpn") }}
{%- endif %}
