# The two commands of this project are `make demo` and `make test`.

export PATH := $(PATH):$(HOME)/.cargo/bin
SHELL := /bin/sh
CARGO ?= cargo

# Where scripts/setup puts the second version of etcd.
etcd35 = $(abspath $(or $(CARGO_TARGET_DIR),target))/test-servers/etcd-3.5/etcd

built = $(abspath $(or $(CARGO_TARGET_DIR),target))/debug

# The tests of the guardian, and of many processes, on the given store.
cli_more_on = TENURE_TEST_STORE=$(1) TENURE_TEST_ROUNDS=200 $(CARGO) test --workspace --test cli -- counter:: guardian::

# What the CI file of the example plugin runs, as somebody else's CI would.
plugin = examples/backend-on-trait
plugin_report = $(abspath $(or $(CARGO_TARGET_DIR),target))/plugin-conformance

# The crates that users install, in the order in which they can be published.
published = tenure-core tenure-tls tenure-file tenure-redis tenure-etcd tenure-zookeeper tenure tenure-conformance \
    tenure-load tenure-cli
built_deb = $(abspath $(or $(CARGO_TARGET_DIR),target))/debian

.PHONY: help demo test more soak audit bench matrix docs-site setup compiler servers fmt lint checks doctests docs package unit examples deb

help:
	@echo 'make demo    two processes take turns under a lock (nothing but a Rust toolchain is needed)'
	@echo 'make test    format, lints, documentation, all tests and examples (starts Redis, etcd and ZooKeeper; installs them on Debian as root)'
	@echo 'make more    longer tests: regressions, the command on each store, etcd 3.5 under faults, the packages, the site'
	@echo 'make soak    ten minutes of broken connections and servers on every store: every history is checked, nothing may grow'
	@echo 'make bench   speed beside what the store allows and beside other libraries'
	@echo 'make matrix  docs/conformance-matrix.md, from the suite on every deployment; about eight minutes'
	@echo 'make docs-site   the pages of docs/ as a web site, in target/docs-site/html (builds mdBook the first time)'
	@echo 'make deb     a Debian package of the command, with manual pages and completions'
	@echo 'make audit   licences and sources of all dependencies (builds cargo-deny the first time)'

demo: setup
	@echo 'building the command; the first time this takes a minute or two'
	@$(CARGO) build --quiet -p tenure-cli --no-default-features --features file
	@TENURE="$$($(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug/tenure" sh demo/demo.sh

test: servers fmt unit examples
	@echo 'make test: all passed'

setup:
	@sh scripts/setup

# The toolchain, and what the client of etcd is built with.
compiler:
	@sh scripts/setup compiler

# These, and the servers that the tests start for themselves.
servers:
	@sh scripts/setup servers

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy -p tenure-core --all-targets --features metrics -- -D warnings
	$(CARGO) clippy -p tenure --no-default-features -- -D warnings
	$(CARGO) clippy --workspace --test regressions --test upstream -- -D warnings
	@# A build with etcd needs `protoc`, which does not come with Rust (ADR 0011).
	@crates="$$($(CARGO) tree -p tenure -p tenure-cli -e normal,build --prefix none)"; \
	    case "$$crates" in *etcd-client*) echo 'the default build contains etcd-client' >&2; exit 1;; esac

# What the tests run beside the test programs.
checks: lint docs doctests package

doctests:
	$(CARGO) test --workspace --doc

docs:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps

# That the crates can be published; `make more` also builds each from its package.
package:
	$(CARGO) package --quiet --no-verify --allow-dirty $(published:%=-p %)

# With the checks. Strict: a conformance case that is ignored without having been declared so is a failure.
unit:
	TENURE_ETCD_OTHER=$(etcd35) CONFORMANCE_STRICT=1 CARGO='$(CARGO)' sh scripts/test

# The programs as the tests have built them: alone they would be built once more, with other features.
examples:
	$(built)/examples/fencing
	$(built)/examples/blocking
	$(built)/examples/kinds
	$(built)/tenure-table --url table:orders run demo -- sh -c 'echo "a backend of one'\''s own, token $$TENURE_TOKEN"'
	@rm -rf '$(plugin_report)'
	set -e; commands="$$(sed -n 's/^ *- run: \(cargo .*\)/\1/p' $(plugin)/ci/github-workflow.yml)"; test -n "$$commands"; \
	    cd $(plugin); CONFORMANCE_STRICT=1 CONFORMANCE_REPORT='$(plugin_report)' sh -ec "$$commands"
	@test -s '$(plugin_report)/line.html'

# Too long for every change: regressions of Redis, etcd and ZooKeeper, with members that are cut off; what the ZooKeeper
# client crate lacks; the rest of the command's tests on each store; the command with the feature `otlp`; the run under
# faults on the second version of etcd; the published crates, built from their packages; the site of the pages; and the
# Debian package.
more: servers
	$(CARGO) test --workspace --test regressions --test upstream
	TENURE_TEST_ROUNDS=200 $(CARGO) test --workspace --test cli -- counter::
	$(call cli_more_on,redis)
	$(call cli_more_on,etcd)
	$(call cli_more_on,zookeeper)
	$(CARGO) clippy -p tenure-cli --all-targets --features otlp -- -D warnings
	$(CARGO) test -p tenure-cli --features otlp --test cli -- tracing:: run:: guardian::
	TENURE_ETCD=$(etcd35) $(CARGO) test --workspace --test stress_etcd
	$(CARGO) package --quiet --allow-dirty $(published:%=-p %)
	$(MAKE) docs-site deb

# Built with every store; unpacked and run, because an installation would change this machine.
deb: compiler
	@command -v cargo-deb >/dev/null 2>&1 || $(CARGO) install cargo-deb --locked
	$(CARGO) build --release --locked -p tenure-cli --features etcd
	CARGO='$(CARGO)' sh scripts/deb '$(built_deb)'

# Its time and its store can be chosen: SOAK_SECONDS, SOAK_STORE; and the seeds of the simulation, of which
# a later run should have others: SIM_FROM, SIM_SEEDS. Without SOAK_STORE, the stores run side by side, each in a
# process of its own.
soak: servers
	$(CARGO) test --workspace --release --test soak
	$(CARGO) test --workspace --release --test held_locks -- --nocapture
	SIM_FROM=$(or $(SIM_FROM),10000) SIM_SEEDS=$(or $(SIM_SEEDS),50000) \
	    $(CARGO) test --workspace --release --test simulation -- --nocapture every_clause

# The suite on every deployment, one after the other, and a page of all their reports.
reports = $(abspath $(or $(CARGO_TARGET_DIR),target))/conformance
deployments = memory file redis_single redis_tls redis_sentinel redis_cluster etcd_single etcd_tls etcd_cluster \
    zookeeper_single zookeeper_tls zookeeper_cluster

matrix: servers
	rm -rf '$(reports)'
	CONFORMANCE_STRICT=1 CONFORMANCE_REPORT='$(reports)' $(CARGO) test --no-fail-fast -p tenure-conformance $(deployments:%=--test %)
	CONFORMANCE_MATRIX='$(reports)' $(CARGO) test -p tenure-conformance --test docs
	@echo 'the reports, and all.html with a matrix of all of them, are in $(reports)'

# The site has the folders of the repository, so that links between pages and files work in both. The pages are copied,
# because the book's source has to contain them all.
site = $(abspath $(or $(CARGO_TARGET_DIR),target))/docs-site
site_files = README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md LICENSE-MIT LICENSE-APACHE Dockerfile docs examples \
    tenure/examples conformance-tests/tests .github/workflows

docs-site: setup
	@command -v mdbook >/dev/null 2>&1 || $(CARGO) install mdbook --locked --no-default-features --features search
	@rm -rf '$(site)' && mkdir -p '$(site)/src'
	tar -cf - $(site_files) | tar -xf - -C '$(site)/src'
	mv '$(site)/src/docs/book.toml' '$(site)'
	sed 's|](|](docs/|; s|](docs/\.\./|](|' docs/SUMMARY.md >'$(site)/src/SUMMARY.md'
	rm '$(site)/src/docs/SUMMARY.md'
	mdbook build '$(site)'
	DOCS_SITE='$(site)/html' $(CARGO) test -p tenure-conformance --test docs -- links summary

audit: compiler
	@command -v cargo-deny >/dev/null 2>&1 || $(CARGO) install cargo-deny --locked
	$(CARGO) deny check bans licenses sources

# In one run with what the store allows at best and with other libraries; some minutes, once built.
bench: servers
	sh bench/peers/install
	$(CARGO) build --release -p tenure-cli --features etcd
	$(CARGO) run --release -p tenure-bench -- --page docs --json docs/benchmark/results.json
