# SPDX-License-Identifier: GPL-2.0-or-later
"""udev's part: programs that a rule file runs when a network device comes or is renamed.

There is no udevd in a qube of the lab.  Understood are `==`, `!=` and `RUN+=` on the keys that a
rule for network devices needs; anything else is refused, so that no rule is misread.
"""

import fnmatch
import re
import shlex

from qubes_vpn_formula.lab.qube import Qube

_FIELD = re.compile(r'\s*(\w+)(?:\{\w+\})?\s*(==|!=|\+=)\s*"([^"]*)"\s*(?:,|$)')


def event(qube: Qube, rule_files: list[str], action: str, device: str) -> None:
    """Run what the rules say.  action: `add`, `move` or `remove`.  Raises ValueError."""
    for path in rule_files:
        text = qube.read(path).replace("\\\n", " ")
        for line in text.splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                _rule(qube, line, {"ACTION": action, "SUBSYSTEM": "net", "KERNEL": device})


def _rule(qube: Qube, line: str, known: dict[str, str]) -> None:
    programs = []
    at = 0
    while at < len(line.rstrip()):
        field = _FIELD.match(line, at)
        if not field:
            raise ValueError(f"udev rule not understood: {line}")
        key, operator, value = field.groups()
        at = field.end()
        if key == "RUN" and operator == "+=":
            programs.append(value)
        elif key == "TEST" and operator != "+=":
            if qube.exists(value) != (operator == "=="):
                return
        elif key in known and operator != "+=":
            fits = any(fnmatch.fnmatchcase(known[key], one) for one in value.split("|"))
            if fits != (operator == "=="):
                return
        else:
            raise ValueError(f"udev rule not understood: {line}")
    for program in programs:
        # udev notes a failure and goes on
        qube.run(shlex.split(program), check=False, timeout=120)
