# SPDX-License-Identifier: GPL-2.0-or-later
"""What `state.show_sls qubes.network.sys-vpn` shows for some pillars, as files to read and review.

After a change that is meant:

    UPDATE_GOLDEN=1 .venv/bin/pytest tests/salt/test_golden.py

writes them anew; `git diff tests/salt/golden` is then what changed for users.
"""

import difflib
import itertools
import os
from pathlib import Path

import pytest
import yaml
from pillars import PILLARS

SLS = "qubes.network.sys-vpn"
GOLDEN = Path(__file__).parent / "golden"
HEAD = "# SPDX-License-Identifier: GPL-2.0-or-later\n"


class Indented(yaml.SafeDumper):
    """YAML as this project writes it: lists are indented."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, indentless=False)


def shown(modules, pillar) -> list[dict]:
    """The states in order: id, function, arguments, and what each requires."""
    sls = modules.state.show_sls(SLS, pillar={"qubes_vpn": pillar})
    assert isinstance(sls, dict), sls
    states = []
    for name, state in sls.items():
        assert (state.pop("__sls__"), state.pop("__env__")) == (SLS, "base")
        ((module, declared),) = state.items()
        (function,) = (part for part in declared if isinstance(part, str))
        arguments = {}
        for part in declared:
            arguments.update(part if isinstance(part, dict) else {})
        states.append(
            (arguments.pop("order"), {"id": name, "state": f"{module}.{function}", **arguments})
        )
    return [state for _, state in sorted(states, key=lambda pair: pair[0])]


@pytest.mark.parametrize("name", [*PILLARS, "example"])
def test_steps_are_those_of_the_golden_file(modules, pillar_example, name):
    pillar = PILLARS.get(name) or yaml.safe_load(pillar_example)["qubes_vpn"]
    states = shown(modules, pillar)
    for before, state in itertools.pairwise(states):
        # One chain, by which whatever comes after a step that failed is not done.
        assert [dict(one) for one in state.pop("require")] == [{"qubes_vpn": before["id"]}]
    text = HEAD + "".join(
        "\n" + yaml.dump([state], Dumper=Indented, sort_keys=False, width=110)
        for state in _plain(states)
    )

    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    golden = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = difflib.unified_diff(
        golden.splitlines(), text.splitlines(), path.name, "now", lineterm=""
    )
    difference = "\n".join(lines)
    assert not difference, f"{difference}\n\nIf that is meant: {__doc__.split('meant:')[1]}"


def _plain(value):
    """Salt's ordered mappings as plain ones."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value
