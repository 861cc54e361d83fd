# SPDX-License-Identifier: GPL-2.0-or-later
##
# qubes.tests.sys-dns
# ===================
#
# Looks where clients' names come from: whether they have any, whether ours answers whichever address they ask,
# and whether a question is heard above the resolver or the VPN qube. Asks qubes that run, starts none, and
# changes nothing. Result None is a test that was not run, with the reason; the last state fails if anything
# failed or could not be run.
#
# Execute, with qubes behind the VPN running:
#   sudo qubesctl --show-output state.sls qubes.tests.sys-dns test=True   what each test would do
#   sudo qubesctl --show-output state.sls qubes.tests.sys-dns
##
{%- if grains["id"] == "dom0" %}
{%- from "qubes/tests/steps.jinja" import tests with context %}
{{ tests("sys-dns") }}
{%- endif %}
