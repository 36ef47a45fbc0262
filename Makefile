# Each target installs what it needs (tools/deps.sh says what and why) and works from a bare clone.
# GO is whichever Go >= 1.26 is found. A recipe is expanded as a whole before its first line runs, so what
# installs Go is a prerequisite and not a line of it.
GO     = $(shell tools/deps.sh go)
BIN    = $(CURDIR)/bin
PREFIX ?= /usr/local
UNITS  ?= $(PREFIX)/lib/systemd/system

# Tests that need IPVS are called TestLab*; they run on a kernel that has it, the others natively.
LAB_PACKAGES = $(shell grep -rl '^func TestLab' --include='*_test.go' . | xargs -n1 dirname | sort -u)
# Where the lab's kernel is promised, lacking it is a failure and not a skip.
LAB_PROMISE  = $(if $(filter 0,$(shell id -u)),POISE_LAB=require)
LAB          = CGO_ENABLED=0 $(GO) test -count=1 -exec $(BIN)/labrun -run '^TestLab' -timeout 25m

RELEASE = $(shell git describe --tags --always --dirty 2>/dev/null)
BUILD   = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.release=$(RELEASE)'

FUZZTIME  ?= 60s
SEEDS     ?= 10000
SIZES     ?= 500x10,1000x10,2000x20
RUNS      ?= 3
COLOR      = $(shell [ -t 1 ] && echo always || echo never)

.PHONY: help deps deps-build deps-demo deps-test build test test-fast lint sim fuzz bench bench-native bench-lab demo docs install install-ipvsadm clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 12

deps: ## install what building, testing and the demo need
	@tools/deps.sh build demo test

deps-build:
	@tools/deps.sh build

deps-demo deps-test: deps-%:
	@tools/deps.sh build $*

build: deps-build ## bin/poise, static
	$(BUILD) -o $(BIN)/poise ./cmd/poise

test: test-native test-lab ## everything: natively with the race detector, then the kernel tests in the lab

# One package at a time, as some measure milliseconds; several of its tests, as most wait. A race ends a process at once,
# or tests would not notice one in a daemon of theirs; without races a process ends at once, too.
test-native: deps-test
	$(LAB_PROMISE) GORACE='halt_on_error=1 atexit_sleep_ms=0' $(GO) test -race -p 1 -parallel 2 -skip '^TestLab' ./...

test-lab: build labrun
	$(LAB_PROMISE) $(LAB) $(LAB_PACKAGES)

test-fast: deps-build ## what needs neither root nor the lab, without the race detector
	$(GO) test -skip '^Test(Lab|Netns)' ./...

.PHONY: test-native test-lab labrun
labrun: deps-test
	@CGO_ENABLED=0 $(GO) build -o $(BIN)/labrun ./internal/lab/labrun

lint: deps-build ## go vet, staticcheck, gofumpt
	@cd tools && $(GO) build -o $(BIN)/ honnef.co/go/tools/cmd/staticcheck mvdan.cc/gofumpt
	$(GO) vet ./...
	PATH="$$(dirname $(GO)):$$PATH" $(BIN)/staticcheck ./...
	@unformatted=$$($(BIN)/gofumpt -l .); [ -z "$$unformatted" ] || { echo "not gofumpt-clean:"; echo "$$unformatted"; exit 1; }

sim: deps-build ## elections in bad networks under virtual time: SEEDS (10000) random ones
	$(GO) test ./vrrp/sim -timeout 60m -args -seeds $(SEEDS)

fuzz: deps-build ## every fuzz target for FUZZTIME (60s)
	@set -e; grep -r '^func Fuzz' --include='*_test.go' . | sed -E 's|^(.*)/[^/]*:func (Fuzz[A-Za-z0-9]*).*|\1 \2|' | \
	while read -r package target; do echo "$$package $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package"; done

bench: bench-native bench-lab ## the benchmarks; docs/performance.md has figures with their conditions

bench-native: deps-build ## those that need no IPVS
	$(GO) test -run '^$$' -bench . -benchmem ./...

bench-lab: build labrun ## whole tables beside keepalived and ipvsadm: SIZES, RUNS
	@CGO_ENABLED=0 $(GO) build -o $(BIN)/ ./internal/bench
	@$(BIN)/labrun -timeout 60m $(BIN)/bench -poise $(BIN)/poise -sizes $(SIZES) -runs $(RUNS)

demo: deps-demo ## the night of one director, then a pair: hand-over, power-off, return; judged from kernel and wire
	@$(BUILD) -o $(BIN)/poise ./cmd/poise
	@CGO_ENABLED=0 $(GO) build -o $(BIN)/ ./internal/lab/labrun ./internal/demo
	@$(BIN)/labrun -timeout 240s $(BIN)/demo -poise $(BIN)/poise -color $(COLOR)

docs: deps-build ## rewrite the pages that are generated from the code
	$(GO) test ./config ./internal/status -run TestDocs -update

install: build ## poise, its systemd units and the examples, below DESTDIR
	install -D -m 0755 $(BIN)/poise $(DESTDIR)$(PREFIX)/bin/poise
	install -d $(DESTDIR)/etc/poise $(DESTDIR)$(UNITS) $(DESTDIR)$(PREFIX)/share/doc/poise/examples
	for unit in poise.service poise-ipvs.service; do sed 's|@bin@|$(PREFIX)/bin|g' contrib/$$unit > $(DESTDIR)$(UNITS)/$$unit; done
	install -m 0644 examples/*.toml $(DESTDIR)$(PREFIX)/share/doc/poise/examples
	@echo "poise in place of ipvsadm, by its names: make install-ipvsadm"

install-ipvsadm: install ## poise also as ipvsadm, ipvsadm-save and ipvsadm-restore
	install -d $(DESTDIR)$(PREFIX)/sbin
	for name in ipvsadm ipvsadm-save ipvsadm-restore; do ln -sf ../bin/poise $(DESTDIR)$(PREFIX)/sbin/$$name; done

clean: ## remove what was built
	rm -rf $(BIN)
