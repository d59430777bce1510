SHELL := /bin/bash
.DEFAULT_GOAL := help
.SHELLFLAGS := -eu -o pipefail -c

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
BIN     := bin
SUDO    := $(shell [ $$(id -u) -eq 0 ] || echo sudo)
SKIFF   := $(strip $(SUDO) $(BIN)/skiff)
DIRS    := cmd cri imageservice runtimeservice network kubelet proxy controlplane test

# What comes from Debian: to build (a C compiler and libseccomp for the keeper), to make the example images
# (busybox), to show the answer (curl), and to test (namespaces, nft, ip).
BUILD_PACKAGES := gcc libc6-dev pkg-config libseccomp-dev busybox-static curl
TEST_PACKAGES  := $(BUILD_PACKAGES) iproute2 nftables util-linux procps iputils-ping kmod crun runc containerd
BENCH_PACKAGES := $(TEST_PACKAGES) containerd runc containernetworking-plugins

help: ## show the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

define install
	@missing=$$(for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "Installing from Debian:" $$missing; \
	  $(SUDO) apt-get update -qq; DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi
endef

deps: ## install the Debian packages that building needs
	$(call install,$(BUILD_PACKAGES))

# grpcnotrace leaves gRPC's traces out, whose templates make the linker keep every method of every type: without them skiff-kubelet
# is 38 MB instead of 65, and as much less of it is in memory.
build: deps ## build all binaries and images into bin/
	@mkdir -p $(BIN)/images
	CGO_ENABLED=1 $(GO) build -tags seccomp,nri_no_wasm,grpcnotrace -ldflags '$(LDFLAGS)' -o $(BIN)/ $(filter-out ./cmd/skiff-keeper ./cmd/skiff-kubelet,$(patsubst %/,./%,$(wildcard cmd/*/)))
	CGO_ENABLED=1 $(GO) build -tags seccomp,netgo,osusergo -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/skiff-keeper
	CGO_ENABLED=0 $(GO) build -tags grpcnotrace -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/skiff-kubelet
	CGO_ENABLED=0 $(GO) build -ldflags '-s -w' -o $(BIN)/images/ ./test/images/hello ./test/images/probe ./test/images/registry
	$(GO) run ./test/images/mkimages $(BIN)/images $(BIN)/images

run: build ## start a one-node cluster, run a Deployment behind a Service, show it
	$(SKIFF) up
	SKIFF="$(SKIFF)" bash examples/hello.sh

stop: ## stop the cluster (skiff down; PURGE=1 removes every file as well)
	$(SKIFF) down $(if $(PURGE),--purge)

test: test-unit test-root test-e2e ## everything: unit, kernel-level and end-to-end tests

test-unit: build ## tests that need no privileges
	$(GO) test -tags seccomp $(addprefix ./,$(addsuffix /...,$(DIRS)))

test-root: build ## kernel-level tests: real namespaces, cgroups, nftables, containers
	$(call install,$(TEST_PACKAGES))
	$(SUDO) env "PATH=$$PATH" $(GO) test -tags seccomp,root -p 1 $$($(GO) list -tags seccomp,root -f '{{range .TestGoFiles}}{{$$.ImportPath}} {{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$$.ImportPath}} {{.}}{{"\n"}}{{end}}' ./... | awk '/_root_test.go$$/{print $$1}' | sort -u)

test-e2e: build ## end-to-end tests: whole nodes on simulated hosts
	$(call install,$(TEST_PACKAGES))
	$(SUDO) env "PATH=$$PATH" SKIFF_BIN=$(CURDIR)/$(BIN) $(GO) test -tags seccomp,e2e -count=1 -p 1 -parallel 8 -timeout 25m -v ./test/e2e/...

critest: build ## run critest against skiff-cri, from the PATH or CRITEST=path (CRITEST_FOCUS=regexp chooses specs)
	$(call install,$(TEST_PACKAGES))
	$(SUDO) env "PATH=$$PATH" SKIFF_BIN=$(CURDIR)/$(BIN) CRITEST="$(CRITEST)" CRITEST_FOCUS="$(CRITEST_FOCUS)" \
	  $(GO) test -tags critest -count=1 -timeout 30m -v ./test/critest/

test-upstream: build ## skiff's parts beside upstream's, from the PATH: kubelet, kube-apiserver, etcd …, containerd (RUN=regexp chooses tests)
	$(call install,$(BENCH_PACKAGES))
	$(SUDO) env "PATH=$$PATH" SKIFF_BIN=$(CURDIR)/$(BIN) $(GO) test -tags seccomp,upstream -count=1 -timeout 30m -v -run '$(RUN)' ./test/upstream/

test-vm: build ## the CRI server's tests, and systemd's slices, in emulated machines with Debian's kernel and cgroup v2 (slow: no KVM is needed)
	$(call install,qemu-system-x86 cpio kmod criu iptables apparmor busybox-static dbus systemd)
	mkdir -p $(BIN)/vm && cd $(BIN)/vm && { [ -d boot ] || { apt-get download -qq $$(apt-cache depends linux-image-amd64 | awk '/Depends/{print $$2; exit}') && dpkg -x linux-image-*.deb . && rm linux-image-*.deb; }; }
	VM_KERNEL=$(CURDIR)/$(BIN)/vm $(GO) test -tags vm -count=1 -timeout 40m -v ./test/vm/

lint: ## staticcheck
	$(GO) tool staticcheck -tags seccomp,root,e2e $(addprefix ./,$(addsuffix /...,$(DIRS)))

verify: deps ## formatting, vet, house rules, and generated files
	@bad=$$(gofmt -l $(DIRS)); [ -z "$$bad" ] || { echo "not formatted:" $$bad; exit 1; }
	$(GO) vet -tags seccomp,root,e2e ./...
	$(GO) test ./test/

bench: build ## measure, with Debian's containerd and the PATH's upstream kubelet in the same run
	$(call install,$(BENCH_PACKAGES))
	$(SUDO) env "PATH=$$PATH" $(GO) run -tags seccomp ./test/bench -bin $(CURDIR)/$(BIN)

.PHONY: help deps build run stop test test-unit test-root test-e2e critest test-upstream lint verify bench
