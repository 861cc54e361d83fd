# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs one of the real client's tools, as root in dom0: run_tool.py SOCKET qvm-NAME ARGUMENTS"""

import importlib
import sys

import pretence

socket, tool, *arguments = sys.argv[1:]
pretence.pretend(socket)
sys.argv = [tool, *arguments]
module = importlib.import_module("qubesadmin.tools." + tool.replace("-", "_"))
sys.exit(module.main(arguments))
