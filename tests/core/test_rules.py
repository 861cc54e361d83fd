# SPDX-License-Identifier: GPL-2.0-or-later
"""What a qube answers for its rules costs dom0 little time and memory, whatever it is (R66)."""

import json
import time
import tracemalloc

import pytest

import qubes_vpn_rules
from qubes_vpn_told import NotUnderstood

MOST = qubes_vpn_rules.MOST
ELEMENT = {"concat": ["203.0.113.255", "udp", 51820]}


def repeated(part, start="", end=""):
    """As much of it as an answer may have."""
    number = (MOST - 64 - len(start) - len(end)) // len(part)
    return f'{{"nftables": [{start}{part * number}{end}]}}'.encode()


@pytest.mark.parametrize(
    ("part", "start", "end"),
    [
        ("{},", "", "{}"),
        ("[],", '{"a": [', "[]]}"),
        ("[", "", ""),
        ('{"a":', "", ""),
        ("[[[[[[[[[[]]]]]]]]]],", '{"a": [', "[]]}"),
        ("1,", '{"a": [', "1]}"),
        ("9" * 4299 + ",", '{"a": [', "1]}"),
        ("9", '{"a": ', "}"),
        ("1e5,", '{"a": [', "1]}"),
    ],
)
def test_a_hostile_answer_costs_little(part, start, end):
    data = repeated(part, start, end)
    assert MOST * 0.99 < len(data) <= MOST
    tracemalloc.start()
    begun = time.process_time()
    with pytest.raises(NotUnderstood):
        qubes_vpn_rules.read(data)
    spent, (_, most) = time.process_time() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 400 * 1024**2
    assert spent < 20  # and ten times less without tracemalloc


def test_as_many_endpoints_as_there_are_room_for_are_read():
    """The bound is no bound of nft's own answers."""
    number = MOST // len(json.dumps(ELEMENT) + ", ") - 10
    data = json.dumps({"nftables": [{"set": {"elem": [ELEMENT] * number}}]}).encode()
    assert len(data) > MOST * 0.99
    assert len(qubes_vpn_rules.read(data)[0]["set"]["elem"]) == number > 200_000
