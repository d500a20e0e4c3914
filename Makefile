# Everything that people and CI do with this repository. `make` alone lists the targets.
# Needs Go, git and make; `make lint` builds its linter, `make test` starts its peers.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VERSION ?= $(shell scripts/packages --version 2>/dev/null || echo dev)

# Our programs are static. Only the race detector needs cgo.
export CGO_ENABLED := 0

# Tools that take minutes to build are kept outside the tree, so that a fresh clone has them too. The
# linter must be built by the Go that it reads code of, so that is part of its name.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/stella-peers
GOLANGCI_VERSION := v2.15.0
GOLANGCI := $(CACHE)/golangci-lint-$(GOLANGCI_VERSION)-$(shell go env GOVERSION)/golangci-lint

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

LDFLAGS := -s -w -X stella-ops.org/stella/internal/obs.Version=$(VERSION)

# -- run ------------------------------------------------------------------------------------------

.PHONY: build
build: ## Build the programs into bin/; the server gives out the agent of the same build
	go build -trimpath -ldflags "$(LDFLAGS)" -o bin/ ./cmd/stella-agent ./cmd/stella-load
	cp bin/stella-agent internal/server/install/embedded/
	go build -trimpath -ldflags "$(LDFLAGS)" -tags stella_embed_agent -o bin/ ./cmd/stella

.PHONY: demo
demo: build ## Show a control plane and agents at work in one process (ARGS='...')
	bin/stella demo $(ARGS)

.PHONY: up
up: build ## Start a control plane for real use on this machine (ARGS='...')
	bin/stella up $(ARGS)

# -- release --------------------------------------------------------------------------------------

# PLATFORMS='linux/amd64 windows/arm64' builds for these alone.
.PHONY: packages
packages: ## Build programs, deb and rpm packages, images, SBOMs and checksums for all platforms into dist/
	scripts/packages

.PHONY: packages-check
packages-check: ## Build the packages twice, and fail when they differ
	scripts/packages --check

.PHONY: image
image: ## Build the agent's container image, and load it into the Docker engine
	scripts/packages --image

# -- test -----------------------------------------------------------------------------------------

# Narrow a test run:  make test PKG=./internal/fleet RUN=TestLiveness
PKG ?= ./...
RUN ?=
# More flags for go test, such as -v or -short.
TESTFLAGS ?=

# STELLA_RACE=1 adds the race detector. STELLA_PEERS=required makes a missing peer a failure; without
# it, the last line says which peers were missing, and so which tests did not run.
.PHONY: test
test: export CGO_ENABLED := $(if $(filter 1,$(STELLA_RACE)),1,0)
test: ## Test against real peers, which are started first (PKG=./internal/fleet RUN=TestName)
	scripts/peers run go test -count=1 -timeout 20m $(if $(filter 1,$(STELLA_RACE)),-race) \
		$(if $(RUN),-run '$(RUN)') $(TESTFLAGS) $(PKG)

# Hours of what `make test` does for minutes: every point at which a deployment can be interrupted, and
# certificates that live for half a minute under load (for STELLA_SOAK_FOR, ten minutes when left out).
.PHONY: soak
soak: ## Interrupt deployments at every point, rotate certificates under load; write docs/reliability.md
	mkdir -p bin
	STELLA_SOAK=1 STELLA_ROTATION_REPORT=$(CURDIR)/bin/rotation.md \
		scripts/peers run go test -count=1 -timeout 60m -v -run TestRotationUnderLoad ./internal/testkit
	scripts/reliability-report bin/rotation.md docs/reliability.md rotation
	STELLA_SOAK=1 STELLA_RELIABILITY_REPORT=$(CURDIR)/bin/reliability.md \
		scripts/peers run go test -count=1 -timeout 180m -v -run TestCrashMatrix ./internal/testkit
	scripts/reliability-report bin/reliability.md docs/reliability.md crashes

# How long each fuzz test runs.
FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: ## Fuzz all that reads foreign bytes, two tests at a time (FUZZTIME=30s each)
	scripts/peers run scripts/fuzz $(FUZZTIME)

.PHONY: bench
bench: build ## Measure, and print the figures
	eval "$$(scripts/peers env)"; DOCKER_CONFIG=$${DOCKER_CONFIG:-$${STELLA_TEST_COMPOSE:-}} go run ./bench $(ARGS)

# -- check ----------------------------------------------------------------------------------------

.PHONY: lint
lint: $(GOLANGCI) shellcheck ## Check formatting, mistakes, architecture, scripts and generated files
	$(GOLANGCI) run
	go vet ./...
	cd internal/testkit/thirdparty && $(GOLANGCI) run && go vet ./...
	$(MAKE) --no-print-directory generate-check

# Not everybody has shellcheck at hand; where peers are required, so is it.
.PHONY: shellcheck
shellcheck:
	@if command -v shellcheck >/dev/null || [[ "$${STELLA_PEERS-}" == required ]]; then \
		(set -x; shellcheck .ci/run scripts/* packaging/install.sh packaging/scripts/*); \
	else \
		echo "lint: shellcheck is not installed: the scripts were not checked"; \
	fi

$(GOLANGCI):
	GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

.PHONY: fmt
fmt: $(GOLANGCI) ## Format the Go code
	$(GOLANGCI) fmt

# -- generate -------------------------------------------------------------------------------------

.PHONY: generate
generate: ## Write the generated code again
	scripts/generate

.PHONY: generate-check
generate-check: ## Fail when generated code is not what its sources say
	scripts/generate-check

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin dist
