# SPDX-License-Identifier: GPL-2.0-or-later
"""An SVG as PNG, by resvg (https://github.com/linebender/resvg): the extra ``png``."""

import functools

from qubes_vpn_formula.errors import UserError

#: Pixels for each of the SVG's: letters stay sharp on large screens.
ZOOM = 2


def draw(svg):
    """The PNG's bytes; raises UserError where there is no resvg, or no font."""
    render = _renderer()
    if not _has_font():
        what = "there is no font on this machine, so names could not be drawn"
        raise UserError(what, "Install one (Debian: apt install fonts-dejavu-core), or use svg.")
    return bytes(render(svg_string=svg, zoom=ZOOM))


def _renderer():
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        what = "PNG needs resvg, which is not installed"
        raise UserError(what, "pip install resvg-py, or use --format svg.") from None
    return svg_to_bytes


@functools.cache
def _has_font():
    """Whether a letter leaves anything on an empty picture."""
    ground = '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20">{}</svg>'
    letter = '<text x="2" y="16" font-size="16">M</text>'
    empty, drawn = (_renderer()(svg_string=ground.format(part)) for part in ("", letter))
    return bytes(empty) != bytes(drawn)
