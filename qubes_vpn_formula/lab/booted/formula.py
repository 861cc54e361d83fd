# SPDX-License-Identifier: GPL-2.0-or-later
"""A template with what the formula puts there, in a few seconds.

Salt renders the SLS as it does for that template; the files, links and units of its states are put
there, and its packages come from the lab's kept layers.  What only Salt on the template can tell
(that all of it is applied in order, by apt, and found ready) is :mod:`.salt`'s.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from qubes_vpn_formula.lab.booted import root
from qubes_vpn_formula.lab.booted.machine import Booted, Template
from qubes_vpn_formula.lab.booted.salt import SLS
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.masterless import Masterless
from qubes_vpn_formula.paths import formula_root

#: Qubes' own, which the lab restates, what shows notices on a desktop, and what is not Debian's.
_NOT_HERE = ("qubes-", "libnotify", "mate-notification-daemon", "mullvad-vpn")
_SERVICES = {
    "service.enabled": "enable",
    "service.unmasked": "unmask",
    "service.masked": "mask",
    "service.disabled": "disable",
}
#: States that look, or have been done otherwise.
_DONE = {"qubes_vpn.packages", "qubes_vpn.repository", "qubes_vpn.template_ready"}


def template(
    lab: Booted,
    name: str,
    document: Any,
    folder: Path,
    packages: Iterable[str] = (),
    files: Mapping[str, tuple[str, int]] | None = None,
) -> Template:
    """A new template, which runs.

    document: the pillar `qubes_vpn`.  folder: an empty one, for Salt.  packages, files (text and
    mode by path): what is there before, in place of an app that is not Debian's.  Raises ValueError
    for an SLS that cannot be rendered, or has a state that nobody does here.
    """
    states = _rendered(name, document, folder)
    made = lab.template(name)
    wanted = {one for state in states for one in state.get("packages", ())}
    ours = sorted(one for one in wanted if not one.startswith(_NOT_HERE))
    made.install(["--no-install-recommends", *ours, *packages])
    for path, (text, mode) in (files or {}).items():
        made.write(path, text, mode)
    for state in states:
        _do(made, state)
    return made


def _rendered(name: str, document: Any, folder: Path) -> list[dict[str, Any]]:
    """The states in their order, on a system as the template has."""
    minion = Masterless(folder).prepare(id=name)
    minion.set_pillar(yaml.safe_dump({"qubes_vpn": document}))
    with Qube(name) as there:
        there.write("/usr/lib/os-release", (root.build() / "usr/lib/os-release").read_text())
        command = minion.command("state.show_low_sls", SLS, "--out=json")
        done = there.run(command, check=False, timeout=120)
    try:
        states = json.loads(done.stdout)["local"]
    except ValueError:
        states = None
    if not isinstance(states, list) or not all(isinstance(state, dict) for state in states):
        raise ValueError(f"{name}: {done.stdout}{done.stderr}")
    return states


def _do(made: Template, state: dict[str, Any]) -> None:
    what = f"{state['state']}.{state['fun']}"
    if what == "file.managed":
        mode = int(state.get("mode", "0644"), 8)
        _folder(made, Path(state["name"]).parent, mode)
        made.write(state["name"], _text(state), mode)
    elif what == "file.directory":
        made.run(["install", "-d", "-m", state["mode"], state["name"]])
    elif what == "file.symlink":
        made.run(["install", "-d", str(Path(state["name"]).parent)])
        made.run(["ln", "-sfn", state["target"], state["name"]])
    elif what == "file.absent":
        made.run(["rm", "-rf", state["name"]])
    elif what in _SERVICES:
        made.run(["systemctl", _SERVICES[what], state["name"]])
    elif what not in _DONE:
        raise ValueError(f"{made.name}: {what} is not done here: {state['__id__']}")


def _folder(made: Template, path: Path, mode: int) -> None:
    """A missing one gets the mode of its first file, as by Salt's `makedirs`."""
    words = f"[ -d {path} ] || install -d -m {mode | (mode & 0o444) >> 2:o} {path}"
    made.run(["sh", "-c", words])


def _text(state: dict[str, Any]) -> str:
    if "contents" in state:
        return state["contents"]
    path = state["source"].removeprefix("salt://")
    folder = formula_root() / ("" if path.startswith("_utils/") else "salt")
    return (folder / path).read_text(encoding="utf-8")
