# SPDX-License-Identifier: GPL-2.0-or-later
"""What the documentation takes from the code when it is built, so that nothing is written twice.

A page says where: ``<!-- generated: pillar -->``.  On a code host the page is then what stands
around it.  Each writer is given the text of its page before the mark, and returns Markdown.
"""

import re

from reference import commands, observers, pictures, pillar, rules, salt

WRITERS = {
    "audit": rules.audit,
    "commands": commands.write,
    "doctor": rules.doctor,
    "functions": salt.functions,
    "observers": observers.write,
    "picture": pictures.write,
    "pillar": pillar.write,
    "sls": salt.sls,
    "states": salt.states,
}
MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def fill(text):
    """*text*, a page, with everything that is generated in it; KeyError for an unknown mark."""
    return MARK.sub(lambda mark: WRITERS[mark[1]](text[: mark.start()]), text)
