# SPDX-License-Identifier: GPL-2.0-or-later
"""Many machines' pillars: checked, planned, proved and built in one run.

folder     which machines there are, and which files each is made of
layers     those files, merged as Salt merges pillars, and where each value came from
examine    one machine: its problems, or its pillar and what has to be proven
workers    processes that share the work
proof      what has to hold of the machines' rules, each once
tree       what is written: for a Salt master, and a bundle for each machine
report     the result as data, as lines and as a page
"""
