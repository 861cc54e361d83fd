# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages for a browser: whatever is put in is text there, and a name that is missing is an error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2


def render(template: Path, content: Mapping[str, Any], **more: Any) -> str:
    """The page of the Jinja file *template*, with what is in *content* and *more*."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template.name).render(content, **more)
