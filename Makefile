# What people and CI call. Always the distribution's Python and its packaged libraries, whatever comes first in PATH.
PYTHON = /usr/bin/python3
PYTEST = $(PYTHON) -m pytest
CFLAGS ?= -O2 -g
NEED = packaging/need

RUN_PACKAGES = gcc libc6-dev python3-dev python3-cffi python3-setuptools \
	python3-aiosmtpd python3-dnspython python3-systemd
TEST_PACKAGES = $(RUN_PACKAGES) e2fsprogs git iproute2 mmdebstrap mount mypy python3-hypothesis python3-pytest python3-venv \
	strace systemd systemd-container tinycdb util-linux
DEB_PACKAGES = build-essential debhelper dh-python fakeroot git pybuild-plugin-pyproject \
	python3-all-dev $(filter python3-%,$(RUN_PACKAGES))
RUFF = build/ruff/bin/ruff
NATIVE = $(wildcard native/*.[ch] native/*.py) setup.py pyproject.toml

all: build

# Building

need-run:
	@$(NEED) $(RUN_PACKAGES)

need-test:
	@$(NEED) $(TEST_PACKAGES)

build: need-run
	@$(MAKE) --no-print-directory build/native build/client

build/native: $(NATIVE)
	$(PYTHON) -W ignore setup.py --quiet build_ext --inplace --force
	@touch $@

build/client: native/client.c
	@mkdir -p build
	$(CC) -std=c11 -Wall -Wextra -Werror $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $<
	@ln -sf client build/sendmail

# Manual pages of settings and services and the journal catalog: what the tables say.
build/manual: packaging/generate.py $(wildcard qmaild/control/*.py)
	$(PYTHON) packaging/generate.py $@
	@touch $@

# The server in the foreground below DIR (a folder of its own that goes away afterwards if none is given), after a
# demonstration. ONCE=1 ends it then, with exit status 0 if everything arrived. PORT is SMTP's on 127.0.0.1.

run: build
	@if [ -n "$(DIR)" ]; then place=$(DIR); else \
	    place=$$(mktemp -d /tmp/qmaild.XXXXXX); trap 'rm -rf "$$place"' EXIT; chmod 755 "$$place"; fi; \
	trap : INT TERM; \
	$(PYTHON) -m qmaild standalone "$$place" --demo=$(if $(ONCE),once,stay) $(if $(PORT),--port=smtp=$(PORT))

# Tests

test: need-test build check
	$(PYTEST) tests/unit tests/protocol tests/conformance tests/bench tests/crash tests/fuzz tests/packaging tests/system; status=$$?; \
	    [ -x $(RUFF) ] || echo "ruff DID NOT RUN: it could not be installed"; exit $$status

unit protocol conformance crash packaging system: need-test build
	$(PYTEST) tests/$@

check: need-test build $(RUFF)
	[ ! -x $(RUFF) ] || $(RUFF) check .
	$(PYTHON) -m mypy qmaild
	$(PYTEST) -q tests/unit/test_layers.py

# Debian 12 has no ruff: it comes from PyPI, and a machine that cannot reach that goes without and says so.
$(RUFF):
	@$(PYTHON) -m venv build/ruff && build/ruff/bin/pip install -q --retries 1 ruff==0.17.* || echo "ruff cannot be installed here"

# Crowds of clients at the SMTP door, and hours of mixed traffic in a booted machine: nothing is lost, no service grows.

crowd: need-test build
	CROWD=$(or $(CROWD),5000) $(PYTEST) -s tests/unit/test_crowd.py

# Fuzzes all that reads foreign bytes, each target MINUTES long, JOBS at a time; TARGETS names some of them.
fuzz: need-test build
	@$(NEED) clang
	$(PYTHON) -m tests.fuzz.run --minutes=$(or $(MINUTES),1) --jobs=$(or $(JOBS),2) $(TARGETS)

# The power of a virtual machine is cut CUTS times while it works the queue: about a quarter of an hour, as root.
power: need-run
	@$(NEED) apt e2fsprogs mount qemu-system-x86 util-linux xfsprogs
	$(PYTHON) -m tests.power.run $(CUTS) $(SEED)

# A week of mail, millions of messages, and what the queue takes of the disk meanwhile.
churn: need-test build
	CHURN=$(or $(CHURN),400000) $(PYTEST) -s tests/unit/test_churn.py

# All that takes long: every one of these targets, half an hour for each one that is fuzzed, then HOURS of traffic. What
# fails ends none of the others, and is named at the end.
LONG = churn crowd depth fuzz power storm restarts
soak: need-test build
	@failed=; for each in $(LONG); do echo "== $$each"; \
	    $(MAKE) --no-print-directory $$each MINUTES=$(or $(MINUTES),30) || failed="$$failed $$each"; done; \
	echo "== traffic"; $(PYTHON) -m tests.system.soak --hours $(or $(HOURS),2) || failed="$$failed traffic"; \
	[ -z "$$failed" ] || { echo "FAILED:$$failed"; exit 1; }

# On booted machines, as root: services killed and the machine hard-stopped under MESSAGES messages; every unit restarted
# ROUNDS times and the packages upgraded under load. They print what they counted, and exit 1 if anything is wrong.
storm: need-test build
	$(PYTHON) -m tests.system.storm --messages=$(or $(MESSAGES),100000) --seed=$(or $(SEED),1)

restarts: need-test build
	$(PYTHON) -m tests.system.restarts --rounds=$(or $(ROUNDS),5)

# OPTIONS are those of tests/bench/README.md.
bench: need-test build
	$(PYTHON) -m tests.bench.run $(OPTIONS)

depth: need-test build
	$(PYTHON) -m tests.bench.depth $(OPTIONS)

# Debian packages of the working tree, in build/deb

deb:
	@$(NEED) $(DEB_PACKAGES)
	rm -rf build/deb && mkdir -p build/deb/qmaild
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t build/deb/qmaild
	cd build/deb/qmaild && PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage -us -uc -b
	@ls build/deb/*.deb

clean:
	rm -rf build dist *.egg-info qmaild/*.so qmaild/_body.c qmaild/_queue.c qmaild/_system.c
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: all need-run need-test build run test unit protocol conformance crash packaging system check storm restarts churn crowd fuzz power soak bench depth deb clean
