# Every target says in one line what it does: make help.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
PKG      ?= ./...
TIMEOUT  ?= 20m
FUZZTIME ?= 5s
BENCH    ?= .
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

.PHONY: help build test deps lint fmt fuzz bench faults demo ci clean

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

build: ## make ./jailup, one static file
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o jailup ./cmd/jailup

# Without root: all that needs none runs as the user, then the same tests are
# run by root, compiled by the user, so that no cache of theirs belongs to root.
test: deps ## run all tests (PKG=./..., RACE=1, TESTFLAGS=); asks sudo for those that need root
ifeq ($(shell id -u),0)
	$(go_test) $(PKG)
else
	JAILUP_REQUIRE_ALL= $(go_test) $(PKG)
	@command -v sudo >/dev/null || { echo 'test: no sudo here: the tests that need root, skipped above, did NOT run' >&2; exit 1; }
	@echo 'test: now as root, by sudo'
	$(go_test) -exec "sudo env PATH=$$PATH JAILUP_REQUIRE_ALL=$${JAILUP_REQUIRE_ALL:-} GOFLAGS=-buildvcs=false GOMODCACHE=$$($(GO) env GOMODCACHE) GOPROXY=$$($(GO) env GOPROXY) GOTOOLCHAIN=$$($(GO) env GOTOOLCHAIN)" $(PKG)
endif

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

bench: ## run the benchmarks, peers in the same run (BENCH=REGEXP)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout $(TIMEOUT) $(PKG)

faults: ## die at every instant: the tests of a build with fault points in it
	@dirs=$$(grep -rlE --include='*_test.go' '^//go:build .*\bfaultpoints\b' . | xargs -r -n1 dirname | sort -u); \
	[ -n "$$dirs" ] || { echo 'faults: no package has such tests' >&2; exit 1; }; \
	echo $(go_test) -tags faultpoints $$dirs; $(go_test) -tags faultpoints $$dirs

demo: build ## an upgrade and a rollback on a jail of its own
	$$([ "$$(id -u)" = 0 ] || echo sudo) ./jailup demo

ci: ## all that the project's CI runs
	.ci/run

clean: ## remove what make has made
	rm -f jailup
	rm -rf dist
