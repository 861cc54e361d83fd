# SPDX-License-Identifier: GPL-2.0-or-later
"""R91: many endpoints are compared outside the solver, and what differs is named."""

from dataclasses import replace

import pytest

import qubes_vpn_model
from qubes_vpn_formula.prove import machine, prover
from qubes_vpn_net import endpoint


def texts(count: int) -> list[str]:
    hosts = [f"11.0.{number >> 8}.{number & 255}:51820/udp" for number in range(count)]
    return [*hosts, "12.0.0.0/22:1194-1200/udp", "12.0.4.0/29:443/udp", "[2001:db8::7]:443/udp"]


@pytest.fixture(scope="module")
def places() -> list[machine.Place]:
    tunnel = {"kind": "wireguard", "profile": "wg.conf", "endpoints": texts(200)}
    document = {"topology": "simple", "tunnels": {"sys-vpn": tunnel}}
    return list(machine.places(qubes_vpn_model.build(document)))


def test_many_are_proven(places) -> None:
    answers = list(prover.prove(places))
    assert [answer for answer in answers if not answer.holds] == []
    told = {answer.text for answer in answers if "the sets hold" in answer.text}
    assert {"the sets hold the endpoints", "the sets hold no more than the endpoints"} <= told


@pytest.mark.parametrize(
    ("one", "told"),
    [
        ("11.0.0.7:51820/udp", "11.0.0.7 . udp . 51820"),
        ("12.0.0.0/22:1194-1200/udp", "12.0.0.0 . udp . 1194"),
        ("12.0.4.0/29:443/udp", "12.0.4.0 . udp . 443"),
        ("[2001:db8::7]:443/udp", "2001:db8::7 . udp . 443"),
    ],
)
def test_one_too_many_or_too_few_is_named(places, one: str, told: str) -> None:
    place = next(place for place in places if "P6" in place.properties)
    less = tuple(known for known in place.facts.endpoints if known != endpoint(one))
    assert len(less) == len(place.facts.endpoints) - 1
    fewer = replace(place, facts=replace(place.facts, endpoints=less), properties=("P2", "P6"))
    wrong = [answer for answer in prover.prove([fewer]) if not answer.holds]
    assert [(answer.property, answer.trouble) for answer in wrong] == [
        ("P2", f"{told} is no endpoint")
    ]
    other = endpoint("9.9.9.9:53/udp")
    facts = replace(place.facts, endpoints=(*place.facts.endpoints, other))
    more = replace(place, facts=facts, properties=("P2", "P6"))
    wrong = [answer for answer in prover.prove([more]) if not answer.holds]
    assert [(answer.property, answer.trouble) for answer in wrong] == [
        ("P6", "9.9.9.9 . udp . 53 is an endpoint that no set has")
    ]
