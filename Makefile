# The two commands of this project are `make demo` and `make test`.

export PATH := $(PATH):$(HOME)/.cargo/bin
SHELL := /bin/sh
CARGO ?= cargo

# Where scripts/setup puts the second version of etcd.
etcd35 = $(abspath $(or $(CARGO_TARGET_DIR),target))/test-servers/etcd-3.5/etcd

# What every command does, on the store that is named.
cli_on = TENURE_TEST_STORE=$(1) $(CARGO) test --workspace --test commands --test run
# How the guardian ends it, and many processes at once, there as well.
cli_more_on = TENURE_TEST_STORE=$(1) $(CARGO) test --workspace --test counter --test guardian

.PHONY: help demo test more audit bench setup compiler servers fmt lint docs unit examples

help:
	@echo 'make demo    two processes take turns under a lock (nothing but a Rust toolchain is needed)'
	@echo 'make test    format, lints, documentation, all tests and examples (starts Redis, etcd and ZooKeeper; installs them on Debian as root)'
	@echo 'make more    longer tests: worst moments, the command on each store, etcd 3.5 under faults'
	@echo 'make bench   speed beside what the store allows and beside other libraries'
	@echo 'make audit   licences and sources of all dependencies (builds cargo-deny the first time)'

demo: setup
	@echo 'building the command; the first time this takes a minute or two'
	@$(CARGO) build --quiet -p tenure-cli --no-default-features --features file
	@TENURE="$$($(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug/tenure" sh demo/demo.sh

# The cheap checks first; each stands for itself.
test: servers fmt lint docs unit examples
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

docs:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps

# Strict: a conformance case that is ignored without having been declared so is a failure.
unit:
	CONFORMANCE_STRICT=1 $(CARGO) test --workspace
	TENURE_ETCD=$(etcd35) CONFORMANCE_STRICT=1 $(CARGO) test --workspace --test etcd_single
	$(call cli_on,redis)
	$(call cli_on,etcd)
	$(call cli_on,zookeeper)

examples:
	$(CARGO) run --quiet -p tenure --example fencing
	$(CARGO) run --quiet -p tenure-table -- --url table:orders run demo -- sh -c 'echo "a backend of one'\''s own, token $$TENURE_TOKEN"'

# What is too long for every change: the worst moments of etcd and ZooKeeper, the rest of the command's
# tests on each store, and the storm on the second version of etcd.
more: servers
	$(CARGO) test --workspace --test worst
	$(call cli_more_on,redis)
	$(call cli_more_on,etcd)
	$(call cli_more_on,zookeeper)
	TENURE_ETCD=$(etcd35) $(CARGO) test --workspace --test stress_etcd

audit: compiler
	@command -v cargo-deny >/dev/null 2>&1 || $(CARGO) install cargo-deny --locked
	$(CARGO) deny check bans licenses sources

# In one run with what the store allows at best and with other libraries; some minutes, once built.
bench: servers
	$(CARGO) build --release -p tenure-cli
	$(CARGO) run --release -p tenure-bench -- --page docs --json docs/benchmark/results.json
