# SPDX-License-Identifier: GPL-2.0-or-later
"""How Sphinx makes the documentation (`make docs`)."""

import re
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


_README = Path(__file__).resolve().parents[1] / "README.md"


def setup(app):
    """Fills in what is generated, before a page is read; README.md is a page here."""

    def read(_app, name, source):
        above = "../" * name.count("/")
        text = source[0]
        if name == "readme":
            text = _README.read_text(encoding="utf-8").replace("](docs/", "](./")
            # Texts that are no pages here; other files can be downloaded.
            text = re.sub(r"\[([^]]+)\]\((?![./#]|https?:)[^)]*\.md\)", r"\1", text)
            text = re.sub(r"\]\((?!https?:|[#.])", "](../", text)
        text = text.replace(f"]({above}../README.md", f"]({above}readme.md")
        source[0] = reference.fill(text)

    app.connect("source-read", read)
