# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture of a pillar on a page: a fresh machine, after a run of it."""

import re
import tempfile
from pathlib import Path

from qubes_vpn_formula import pillarfile, seen
from qubes_vpn_formula.picture import svg

_PILLAR = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def write(before):
    """The last pillar on the page so far, drawn; ValueError if it is none, or would not run."""
    text = _PILLAR.findall(before)[-1]
    with tempfile.TemporaryDirectory(prefix="qubes-vpn-docs-") as folder:
        path = Path(folder) / "pillar.sls"
        path.write_text(text, encoding="utf-8")
        file = pillarfile.read(str(path))
        if problems := file.problems():
            raise ValueError(f"{problems}\n{text}")
        with seen.machine(embedded="fresh") as asked:
            view, refused = seen.after(asked, file.model, seen.now(asked, file.model))
    if refused:
        raise ValueError(f"{refused}\n{text}")
    drawn = svg.draw([view._replace(title="The machine", was={})])
    fitting = drawn.replace("<svg ", '<svg style="max-width:100%;height:auto;background:#fff" ', 1)
    return f"```{{raw}} html\n{fitting}\n```"
