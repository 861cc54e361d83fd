# SPDX-License-Identifier: GPL-2.0-or-later
"""From the kernel's log lines to what somebody in dom0 reads of them (R66)."""

import json

import pytest

import qubes_vpn_drops
import qubes_vpn_nft
import qubes_vpn_service
import qubes_vpn_told

#: As Linux 6.18 writes them (nf_log_syslog), behind what `journalctl -o short-unix` puts before.
_PACKETS = (
    (
        1764000001,
        "IN= OUT=eth0 SRC=10.137.0.1 DST=192.0.2.53 "
        "LEN=29 TOS=0x00 PREC=0x00 TTL=64 ID=20533 DF PROTO=UDP SPT=37787 DPT=53 LEN=9 ",
    ),
    (
        1764000002,
        "IN= OUT=eth0 SRC=fd09:24ef:4179:0000:0000:0000:0000:0001 "
        "DST=2001:0db8:0000:0000:0000:0000:0000:0053 "
        "LEN=49 TC=0 HOPLIMIT=64 FLOWLBL=38712 PROTO=UDP SPT=38842 DPT=53 LEN=9 ",
    ),
    (
        1764000003,
        "IN=vif5.0 OUT=eth0 SRC=10.137.0.10 DST=192.0.2.80 "
        "LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=5047 DF PROTO=TCP SPT=43766 DPT=443 "
        "WINDOW=64240 RES=0x00 SYN URGP=0 ",
    ),
    (
        1764000005,
        "IN=vif5.0 OUT=eth0 SRC=10.137.0.10 DST=192.0.2.80 "
        "LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=5048 DF PROTO=TCP SPT=43768 DPT=443 "
        "WINDOW=64240 RES=0x00 SYN URGP=0 ",
    ),
    (
        1764000004,
        "IN=eth0 OUT= SRC=192.0.2.1 DST=10.137.0.1 "
        "LEN=84 TOS=0x00 PREC=0x00 TTL=64 ID=33732 DF PROTO=ICMP TYPE=8 CODE=0 ID=2017 SEQ=1 ",
    ),
    (
        1764000006,
        "IN= OUT=eth0 SRC=10.137.0.1 DST=192.0.2.47 "
        "LEN=28 TOS=0x00 PREC=0x00 TTL=64 ID=36162 DF PROTO=47 ",
    ),
)
LINES = (
    "".join(
        f"{when}.107439 sys-vpn kernel: qubes-vpn drop: {packet}\n" for when, packet in _PACKETS
    )
    + "1764000007.107439 sys-vpn kernel: something else SRC=192.0.2.9\n"
)
SHOWN = [
    ("its own", "10.137.0.1", "192.0.2.47", "47", None, 1),
    ("through it", "work", "192.0.2.80", "tcp", 443, 2),
    ("to it", "192.0.2.1", "10.137.0.1", "icmp", None, 1),
    ("its own", "fd09:24ef:4179::1", "2001:db8::53", "udp", 53, 1),
    ("its own", "10.137.0.1", "192.0.2.53", "udp", 53, 1),
]


@pytest.fixture
def told(monkeypatch):
    """What a VPN qube with these lines in its log answers, as dom0 reads it."""
    monkeypatch.setenv("QREXEC_REMOTE_DOMAIN", "dom0")

    def run(program, *_words):
        note = 'limit rate 10/second burst 20 packets log prefix "qubes-vpn drop: " level info'
        return {"journalctl": LINES, "nft": note}[program]

    monkeypatch.setattr(qubes_vpn_nft, "run", run)
    data = qubes_vpn_service.serve("Drops").encode()
    return qubes_vpn_told.read(data, qubes_vpn_told.DROPS)


def test_the_kernels_lines_become_rows_and_alike_ones_are_counted(told):
    rows = qubes_vpn_drops.rows("sys-vpn", told, {"10.137.0.10": "work"})
    keys = ("direction", "from", "to", "protocol", "port", "times")
    assert [tuple(row[key] for key in keys) for row in rows] == SHOWN
    assert [row["last"] for row in rows][:2] == [1764000006, 1764000005]


def test_the_screen(told, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    qubes_vpn_drops.time.tzset()
    try:
        rows = qubes_vpn_drops.rows("sys-vpn", told, {"10.137.0.10": "work"})
        shown = qubes_vpn_drops.text(rows, {"sys-dns": "does not run."})
    finally:
        monkeypatch.undo()
        qubes_vpn_drops.time.tzset()
    head, _, second, *_, last = shown.splitlines()
    assert head.split() == [word.upper() for word in qubes_vpn_drops.HEADS]
    expected = "2025-11-24 16:00:05 sys-vpn through it work 192.0.2.80 tcp 443 2"
    assert " ".join(second.split()) == expected
    assert last == "sys-dns: does not run."


def test_nothing(told):
    assert "Nothing was dropped" in qubes_vpn_drops.text([], {})
    assert json.loads(json.dumps(qubes_vpn_drops.rows("a", {**told, "rows": []}, {}))) == []
