# SPDX-License-Identifier: GPL-2.0-or-later
"""How Sphinx makes the documentation (`make docs`)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import reference

from qubes_vpn_formula import __version__ as release  # noqa: F401 - Sphinx reads it

project = "qubes-vpn-formula"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = project
html_show_copyright = html_show_sphinx = False
# Nothing is fetched by a reader's browser, and no page has a copy of its source.
html_copy_source = False
# Quotes are as the code has them.
smartquotes = False
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3


def setup(app):
    """Fills in what is generated, before a page is read."""

    def read(_app, _name, source):
        source[0] = reference.fill(source[0])

    app.connect("source-read", read)
