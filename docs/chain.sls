# SPDX-License-Identifier: GPL-2.0-or-later
# The pillar of chain.svg, which is made by:
#   { echo '<!-- SPDX-License-Identifier: GPL-2.0-or-later -->'
#   .venv/bin/qubes-vpn graph docs/chain.sls --embedded fresh --before --after --format svg; } > docs/chain.svg
qubes_vpn:
  tunnels:
    sys-vpn: {kind: wireguard, profile: wg-se.conf, endpoints: [203.0.113.7:51820/udp]}
  firewalls:
    sys-firewall: {}
    sys-firewall-novpn: {upstream: sys-net}
  routes:
    qubes: {work: sys-firewall, personal: sys-firewall, untrusted: sys-firewall-novpn}
  outside_vpn: [untrusted]
  vaults: [vault]
  updates: {templates: sys-firewall, dom0: sys-firewall}
  clock: sys-firewall
