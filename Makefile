SHELL := /bin/bash
.DEFAULT_GOAL := help

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
BIN     := bin

help: ## show the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build all binaries into bin/
	@mkdir -p $(BIN)
	CGO_ENABLED=1 $(GO) build -tags seccomp,netgo,osusergo -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

test: test-unit ## everything: unit, kernel-level and end-to-end tests

test-unit: ## tests that need no privileges
	$(GO) test ./...

verify: ## formatting and vet
	@test -z "$$(gofmt -l cmd cri imageservice runtimeservice network kubelet proxy controlplane test)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...

.PHONY: help build test test-unit verify
