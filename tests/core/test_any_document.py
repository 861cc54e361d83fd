# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever stands in a pillar: an answer in words, never a traceback, and never a secret."""

import base64
import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qubes_vpn_check
import qubes_vpn_model
import qubes_vpn_plan

from .pillars import EXAMPLE

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=40),
    st.dates(),
    st.binary(max_size=8),
    st.sampled_from(["sys-vpn", "sys-net", "none", "dns", "t-vpn", "\x1b[2J", "a\nb", "{{ x }}"]),
)
keys = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=40), st.dates()
)
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
)


def places(value, path=()):
    """The path of every value inside *value*."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from places(item, (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


@st.composite
def near_misses(draw):
    """pillar.example after one to four accidents."""
    document = copy.deepcopy(EXAMPLE)
    for _ in range(draw(st.integers(1, 4))):
        paths = list(places(document))
        if not paths:
            break
        path = draw(st.sampled_from(paths))
        inside, key = at(document, path[:-1]), path[-1]
        accident = draw(st.sampled_from(["delete", "junk", "swap", "rename", "add"]))
        if accident == "delete":
            del inside[key]
        elif accident == "junk":
            inside[key] = draw(junk)
        elif accident == "swap":
            inside[key] = copy.deepcopy(at(EXAMPLE, draw(st.sampled_from(list(places(EXAMPLE))))))
        elif isinstance(inside, dict):
            other = draw(keys | st.sampled_from([path[-1] for path in places(EXAMPLE)]))
            inside[other] = inside.pop(key) if accident == "rename" else draw(junk)
        else:
            inside.append(draw(junk))
    return document


@settings(max_examples=500)
@given(document=near_misses() | junk)
def test_every_document_is_a_model_or_has_problems(document):
    """Nothing half-valid gets past, and each problem can be read and acted on, in one line."""
    model, problems = qubes_vpn_model.read(document)
    if not problems:
        json.dumps([step._asdict() for step in qubes_vpn_plan.plan(model)])
    for problem in problems:
        assert problem.path[0] == "qubes_vpn"
        assert problem.what
        assert problem.fix
        assert problem.text().isprintable()


#: (what is put into the pillar, what must not be seen)
secrets = st.one_of(
    st.binary(min_size=32, max_size=32).map(lambda key: (base64.b64encode(key).decode(),) * 2),
    st.integers(10**15, 10**16 - 1).map(lambda number: (str(number), str(number))),
    st.integers(10**15, 10**16 - 1).map(lambda number: (number, str(number))),
    st.just(("1234 5678 9012 3456", "5678")),
    st.just(("-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n", "MIIEvQIBADANBg")),
)
wraps = st.sampled_from(
    [
        lambda secret: secret,
        lambda secret: [secret],
        lambda secret: {"x": secret},
        lambda secret: {secret: {}},
        lambda secret: f"mine-{secret}",
        lambda secret: f"{secret}.conf",
    ]
)


@settings(max_examples=500)
@given(data=st.data(), secret=secrets, wrap=wraps)
def test_a_secret_is_a_problem_and_is_not_shown(data, secret, wrap):
    """R33: at any place, as a value or as a key, by itself or inside something."""
    document = copy.deepcopy(EXAMPLE)
    path = data.draw(st.sampled_from(list(places(document))))
    inside, key = at(document, path[:-1]), path[-1]
    put, mark = secret
    if data.draw(st.booleans()) and isinstance(inside, dict):
        inside[put] = inside.pop(key) if data.draw(st.booleans()) else copy.deepcopy(inside[key])
    else:
        inside[key] = wrap(put)
    problems = qubes_vpn_model.read(document)[1]
    assert problems
    assert not [problem for problem in problems if mark in problem.text()]


@pytest.mark.parametrize(
    "tests",
    [
        {"domain": "1000000000000000.conf"},
        {"checks": {"sys-vpn": {"url": "https://example.org/1000000000000000"}}},
        {"checks": {"sys-vpn": {"url": "https://example.org/", "address": "a1000000000000000"}}},
    ],
    ids=str,
)
def test_what_only_has_to_match_is_no_place_for_one_either(tests):
    """R33. Such a place is drawn once in thousands of examples."""
    document = {**EXAMPLE, "tests": tests}
    problems = qubes_vpn_model.read(document)[1]
    assert len(problems) == 1
    assert "1000000000000000" not in problems[0].text()


@pytest.mark.parametrize("marks", ["{{ x }}", "{% x %}", "{# x #}"])
@pytest.mark.parametrize(
    "path",
    [
        ("topology",),
        ("uplink",),
        ("templates", "t-vpn", "clone_of"),
        ("tunnels", "sys-vpn", "kind"),
        ("tunnels", "sys-vpn", "profile"),
        ("tunnels", "sys-vpn", "interface"),
        ("tunnels", "sys-vpn", "memory"),
        ("tunnels", "sys-vpn", "autostart"),
        ("tunnels", "sys-vpn", "endpoints"),
        ("tunnels", "sys-vpn", "endpoints", 0),
        ("resolvers",),
        ("routes",),
        ("routes", "qubes", "work"),
        ("vaults", 0),
        ("allowlists", "banking", 0),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_what_salt_would_evaluate_is_refused(path, marks):
    """dom0 too: Salt renders a pillar again on its way to a qube."""
    document = copy.deepcopy(EXAMPLE)
    at(document, path[:-1])[path[-1]] = f"a{marks}"
    said = {problem.path: problem for problem in qubes_vpn_check.check(document)}
    assert said[("qubes_vpn", *path)].what == "Salt would evaluate the text between the braces"


@pytest.mark.parametrize("marks", ["{{ x }}", "{% x %}", "{# x #}"])
@pytest.mark.parametrize("place", ["tunnels", "layout", "allowlists", "templates"])
def test_a_name_that_salt_would_evaluate_is_refused(place, marks):
    document = copy.deepcopy(EXAMPLE)
    document[place][f"a{marks}"] = copy.deepcopy(next(iter(document[place].values())))
    said = {problem.path: problem for problem in qubes_vpn_check.check(document)}
    found = said[("qubes_vpn", place, f"a{marks}")]
    assert found.what == "Salt would evaluate the text between the braces"


@pytest.mark.parametrize("key", ["PrivateKey", "preshared_key", "password", "Account no", "token"])
def test_a_key_that_names_a_secret_hides_its_value(key):
    """R33: whatever its value looks like, wherever such a key does not belong."""
    for path in ((), ("tunnels",), ("tunnels", "sys-vpn"), ("routes",), ("layout", "banking")):
        document = copy.deepcopy(EXAMPLE)
        at(document, path)[key] = "correct horse"
        (problem,) = qubes_vpn_model.read(document)[1]
        assert problem.what.startswith("a secret does not belong in the pillar")
        assert "horse" not in problem.text()
