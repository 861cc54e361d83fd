# SPDX-License-Identifier: GPL-2.0-or-later
"""A provider's relay list in, a tunnel's pinned endpoints out (R36).

``reading`` knows the formats, ``selection`` chooses, ``chosen`` makes endpoints of that,
``difference`` compares, ``inpillar`` edits a pillar's text.
"""
