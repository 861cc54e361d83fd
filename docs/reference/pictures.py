# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture of a pillar on a page: a fresh machine, with Whonix if it is named, after a run."""

import re
import tempfile
from pathlib import Path

from qubes_vpn_formula import pillarfile, seen
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.picture import svg

_PILLAR = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def write(before):
    """The last pillar on the page so far, drawn; ValueError if it is none, or would not run."""
    file = last_pillar(before)
    with tempfile.TemporaryDirectory(prefix="qubes-vpn-docs-") as folder:
        state = _machine(file.model, f"{folder}/qubes.json")
        with seen.machine(embedded=state) as asked:
            view, refused = seen.after(asked, file.model, seen.now(asked, file.model))
    if refused:
        raise ValueError(f"{refused}\n{file.text}")
    drawn = svg.draw([view._replace(title="The machine", was={})])
    fitting = drawn.replace("<svg ", '<svg style="max-width:100%;height:auto;background:#fff" ', 1)
    return f"```{{raw}} html\n{fitting}\n```"


def _machine(model, path):
    """The state file of a machine as Qubes installs it."""
    qubes = EmbeddedQubes(path)
    if model.gateway_netvm:  # Qubes' installer makes it if it is asked to, behind sys-firewall
        gateway = model.whonix_gateway
        qubes.call("dom0", "admin.vm.Create.AppVM", "", f"name={gateway} label=black".encode())
        qubes.call(gateway, "admin.vm.property.Set", "provides_network", b"True")
        qubes.call(gateway, "admin.vm.tag.Set", "anon-gateway")
    return path


def last_pillar(before):
    """The last pillar on the page so far, checked: ``qubes_vpn_formula.pillarfile``'s."""
    text = _PILLAR.findall(before)[-1]
    with tempfile.TemporaryDirectory(prefix="qubes-vpn-docs-") as folder:
        path = Path(folder) / "pillar.sls"
        path.write_text(text, encoding="utf-8")
        file = pillarfile.read(str(path))
    if problems := file.problems():
        raise ValueError(f"{problems}\n{text}")
    return file
