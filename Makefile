# SPDX-License-Identifier: GPL-2.0-or-later
#   make venv    only what the commands need, in .venv
#   make demo    the whole way once, on an embedded Qubes
#   make test    all tests (a part: make test-main, test-salt, test-salt-3006, lab-boot)
#   make lab-boot  qubes that really boot, and the formula on them as qubesctl runs it, in minutes; as root
#   make lab     every attack on ours, the proof of the attacks, the guides' killswitches, other kernels, the model of
#                nftables against the kernel; as root; see build/lab/report.html and build/lab-guides/report.html
#   make rpm     the package for dom0, in build/rpm
#   make lint    what pre-commit runs, over all files
#   make docs    the documentation, as pages for a browser: build/docs/index.html
#   make docs-links  whether the pages that it names outside of itself are there; asks the internet
#   make bench   speed and Admin API calls, against their goals
#   make clean   removes what make and the tests left
# Each installs what it needs, once. PYTHON=/path/to/python chooses another Python (3.11 or later).
.PHONY: venv demo test test-main test-salt test-salt-3006 lab-boot lab rpm lint docs docs-links bench clean
export PYTHON

VENV := .venv
VENV_3006 := .venv-3006
READY := $(VENV)/ready
READY_3006 := $(VENV_3006)/ready

venv: $(READY)

demo: $(READY)
	@$(VENV)/bin/qubes-vpn demo

# Both at once, on a core each. The output of the formula's Salt comes when something failed, and the results in any case.
test: $(READY_3006) $(READY)
	@tools/apt.sh lab
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	$(MAKE) --no-print-directory --keep-going test-salt-3006 test-salt lab-boot >"$$log" 2>&1 & second=$$!; \
	failed=0; $(MAKE) --no-print-directory test-main || failed=1; \
	second_failed=0; wait $$second || second_failed=1; \
	echo "tests/salt with Salt 3006, with 3007, and tests/booted:"; \
	{ [ $$second_failed = 0 ] && grep -E '^=+ .* in [0-9.]+s' "$$log"; } || cat "$$log"; \
	exit $$((failed | second_failed))

test-main: $(READY)
	@tools/apt.sh lab
	$(VENV)/bin/pytest --ignore=tests/salt --ignore=tests/booted

test-salt: $(READY)
	@tools/apt.sh lab
	$(VENV)/bin/pytest tests/salt

# Here the project itself is not installed, as in dom0: the formula's parts find each other through Salt or not at all.
test-salt-3006: $(READY_3006)
	@tools/apt.sh lab
	PYTHONPATH=. $(VENV_3006)/bin/pytest -m "not slow and not one_salt" tests/salt

# `finding`: tests/booted/findings.py. By two, a file each: half of its time is waiting for boots and timeouts.
lab-boot: $(READY)
	@tools/apt.sh lab
	$(VENV)/bin/pytest -n 2 --dist loadfile -m "not slow or finding" tests/booted

# What one finds is no reason not to run the next.  The guides' killswitches for all attacks: qubes-vpn lab.
lab: $(READY)
	@tools/apt.sh lab emulator
	rm -rf build/lab build/lab-guides
	failed=0; \
	$(VENV)/bin/pytest -m slow tests/lab || failed=1; \
	$(VENV)/bin/pytest -m slow tests/booted || failed=1; \
	$(VENV)/bin/pytest -m slow tests/prove || failed=1; \
	$(VENV)/bin/qubes-vpn lab --proof --killswitch ours --report build/lab || failed=1; \
	$(VENV)/bin/qubes-vpn lab --fast --report build/lab-guides || failed=1; \
	exit $$failed

rpm: $(READY)
	@tools/apt.sh rpm
	rm -rf build/rpm
	mkdir -p build/rpm
	$(VENV)/bin/qubes-vpn bundle --output build/rpm/qubes-vpn.tar --json >build/rpm/log
	rpm/build.sh build/rpm/qubes-vpn.tar build/rpm
	cd build/rpm && rm log qubes-vpn.tar && sha256sum *.rpm

lint: $(READY)
	$(VENV)/bin/pre-commit run --all-files

# -W: a link that leads nowhere is an error. -E, -a: what is generated changes without its page.
docs: $(READY)
	$(VENV)/bin/sphinx-build -W --keep-going -q -E -a -b html docs build/docs

docs-links: $(READY)
	$(VENV)/bin/sphinx-build -W --keep-going -q -b linkcheck docs build/docs-links

bench: $(READY)
	@tools/apt.sh lab
	@$(VENV)/bin/python -m bench

clean:
	rm -rf $(VENV) $(VENV_3006) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/salt: requirements/salt.txt requirements/test.txt requirements/lint.txt requirements/docs.txt tools/venv.sh
	@tools/apt.sh
	tools/venv.sh $(VENV) requirements/docs.txt 3007
	@touch $@

$(READY): $(VENV)/salt setup.cfg pyproject.toml qubes_vpn_formula/__init__.py
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(READY_3006): requirements/salt.txt requirements/test.txt tools/venv.sh
	@tools/apt.sh
	tools/venv.sh $(VENV_3006) requirements/test.txt 3006
	@touch $@
