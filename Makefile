# Every target says in one line what it does: make help.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
PKG      ?= ./...
TIMEOUT  ?= 40m
FUZZTIME ?= 5s
BENCH    ?= .
# Most of a test with faults is waiting: more of them than there are processors.
FAULT_JOBS ?= 8
# RACE=1 switches the race detector on; it needs a C compiler.
RACE     ?=
ifeq ($(RACE),1)
race = -race
test: export CGO_ENABLED = 1
endif
# In a copy of the sources owned by another user git refuses to answer.
export GOFLAGS := -buildvcs=false $(GOFLAGS)

LINT_VERSION := v2.15.0
TOOLS        ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/jailup-tools
LINT          = $(TOOLS)/golangci-lint-$(LINT_VERSION)-$(shell $(GO) env GOVERSION)/golangci-lint

go_test = $(GO) test $(race) -count=1 -timeout $(TIMEOUT) $(TESTFLAGS)

# Compiled by the user, run by root: so no cache of the user's gets files of
# root. sudo drops the environment and often Go from the path.
ifneq ($(shell id -u),0)
passed  = 'PATH=$(PATH)' JAILUP_REQUIRE_ALL=$(JAILUP_REQUIRE_ALL) JAILUP_FAULTS=$(JAILUP_FAULTS) $${JAILUP_FAULTS_TABLE:+JAILUP_FAULTS_TABLE=$$JAILUP_FAULTS_TABLE} GOFLAGS=-buildvcs=false $(foreach v,GOMODCACHE GOPROXY GOTOOLCHAIN,$(v)=$(shell $(GO) env $(v))) \
          $(foreach v,http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY SSL_CERT_FILE,$(if $($(v)),'$(v)=$($(v))'))
as_root = -exec "sudo env $(passed)"
need_sudo = @command -v sudo >/dev/null || { echo 'no sudo here: what needs root is NOT run' >&2; exit 1; }
endif

# A line for each benchmark: its name, what it measured. Whatever else is said
# stays as it is, but for the packages without a benchmark.
define bench_table
/^(goos|goarch|PASS|ok )/ || /no test files/ { next }
/^pkg:/ { pkg = $$2; next }
/^cpu:/ { if (pkg != "") print "\n" pkg; pkg = ""; next }
/^Benchmark.*[0-9] [^ ]+\/op|^Benchmark.*\t/ && NF > 3 {
	name = $$1; sub(/^Benchmark/, "", name); sub(/-[0-9]+$$/, "", name); line = ""
	for (i = 3; i < NF; i += 2) {
		value = $$i; unit = $$(i + 1)
		if (unit == "B/op" || unit == "allocs/op") continue
		if (unit == "ns/op") { value = sprintf("%.3g", value / 1e6); unit = "ms" }
		line = line sprintf("  %10s %-14s", value, unit)
	}
	sub(/ +$$/, "", line); printf "  %-46s%s\n", name, line; next
}
{ print }
endef
export bench_table

.PHONY: help build install test deps lint fmt fuzz bench faults demo ci clean

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

build: ## make ./jailup, one static file
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.stamp=$(VERSION)' -o jailup ./cmd/jailup

# Without root: what needs none runs as the user and the rest is skipped by
# name; then the same once more as root.
test: deps ## run all tests (PKG=./..., RACE=1, TESTFLAGS=); asks sudo for those that need root
ifdef as_root
	JAILUP_REQUIRE_ALL= $(go_test) $(PKG)
	$(need_sudo)
	@echo 'test: and now as root, by sudo'
endif
	$(go_test) $(as_root) $(PKG)

deps: ## install the Debian packages that the tests need
	@.ci/deps

lint: ## gofmt, go vet, golangci-lint
	@out=$$(gofmt -l .); [ -z "$$out" ] || { echo "not gofmt'ed:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags faultpoints ./...
	@[ -x $(LINT) ] || { echo 'lint: building golangci-lint $(LINT_VERSION), once'; mkdir -p $(dir $(LINT)); \
	GOBIN=$(dir $(LINT)) GOFLAGS= CGO_ENABLED=0 $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION); }
	$(LINT) run ./...

fmt: ## gofmt all
	gofmt -w .

fuzz: ## run every fuzz target for a while (FUZZTIME=5s)
	@n=0; for dir in $$($(GO) list -f '{{.Dir}}' $(PKG)); do \
		for target in $$(cat "$$dir"/*_test.go 2>/dev/null | sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p'); do \
			echo "== $$target in $${dir#$(CURDIR)/}"; n=$$((n+1)); \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$dir"; \
		done; \
	done; echo "fuzz: $$n targets, $(FUZZTIME) each"; [ $$n -gt 0 ]

bench: ## run the benchmarks, peers in the same run (BENCH=REGEXP); a table
	$(need_sudo)
	$(GO) test -p 1 -run '^$$' -bench '$(BENCH)' -timeout $(TIMEOUT) $(as_root) $(PKG) 2>&1 | awk "$$bench_table"

# JAILUP_FAULTS=sample takes one in eight of the points of all classes, 1/40 one in
# forty.
faults: ## the whole fault catalogue, injected for real; a table (JAILUP_FAULTS=sample: a part of it)
	$(need_sudo)
	@files=$$(grep -rlE --include='*_test.go' '^//go:build .*\bfaultpoints\b' .); \
	[ -n "$$files" ] || { echo 'faults: no package has such tests' >&2; exit 1; }; \
	tests=$$(grep -ohE '^func Test[A-Za-z0-9_]+' $$files | sed 's/^func //' | paste -sd'|'); \
	counts=$$(mktemp); trap 'rm -f "$$counts"' EXIT; chmod 666 "$$counts"; export JAILUP_FAULTS_TABLE="$$counts"; \
	status=0; $(GO) test -count=1 -timeout 40m -parallel $(FAULT_JOBS) -tags faultpoints $(TESTFLAGS) $(as_root) -run "^($$tests)$$" $$(dirname $$files | sort -u) || status=$$?; \
	echo; $(GO) run ./internal/lab/faulttable "$$counts" && exit $$status

PREFIX  ?= /usr/local
# Where systemd looks for units of an administrator, and of packages.
UNITDIR ?= $(if $(filter /usr,$(PREFIX)),/usr/lib/systemd/system,/etc/systemd/system)

install: build ## the program, and where systemd is init the unit that recovers at boot (PREFIX=, DESTDIR=)
	install -D -m 755 jailup $(DESTDIR)$(PREFIX)/bin/jailup
	install -D -m 644 packaging/systemd/jailup-recover.service $(DESTDIR)$(UNITDIR)/jailup-recover.service
	@[ -n "$(DESTDIR)" ] || [ ! -d /run/systemd/system ] || { systemctl daemon-reload && systemctl enable jailup-recover.service; }

demo: build ## an upgrade and a rollback on a jail of its own
	$$([ "$$(id -u)" = 0 ] || echo sudo) ./jailup demo

ci: ## all that the project's CI runs
	.ci/run

clean: ## remove what make has made
	rm -f jailup
	rm -rf dist
