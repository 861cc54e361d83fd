{#- SPDX-License-Identifier: GPL-2.0-or-later -#}
# The chain of bench/api_calls.py by the upstream qvm.* states, in as few of them as it takes.
t-vpn:
  qvm.clone:
    - source: debian-13-minimal

t-dns:
  qvm.clone:
    - source: debian-13-minimal

sys-vpn:
  qvm.vm:
    - require: [{qvm: t-vpn}]
    - present: [{template: t-vpn}, {label: orange}]
    - prefs:
      - netvm: sys-net
      - memory: 400
      - maxmem: 600
      - autostart: true
      - provides-network: true
    - service:
      - enable: [qubes-vpn, network-manager]
    - firewall:
      - set:
        - action=accept dst4=192.0.2.1/32 proto=udp dstports=51820-51820
        - action=drop

sys-dns:
  qvm.vm:
    - require: [{qvm: t-dns}, {qvm: sys-vpn}]
    - present: [{template: t-dns}, {label: orange}]
    - prefs:
      - netvm: sys-vpn
      - memory: 400
      - maxmem: 600
      - autostart: true
      - provides-network: true

sys-firewall:
  qvm.vm:
    - require: [{qvm: sys-dns}]
    - present: [{label: green}]
    - prefs:
      - netvm: sys-dns
      - provides-network: true

personal:
  qvm.prefs:
    - require: [{qvm: sys-firewall}]
    - netvm: sys-firewall

work:
  qvm.prefs:
    - require: [{qvm: sys-firewall}]
    - netvm: sys-firewall
