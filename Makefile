# Perigee's doors. `make demo` and `make test` are all that a newcomer needs;
# `make help` lists the rest.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
BIN     := bin
export CGO_ENABLED = 0
export PATH := /usr/local/go/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

.PHONY: deps
deps: ## install what building and the demo need (Go, a few Debian packages)
	@scripts/deps.sh run

.PHONY: build
build: deps ## build perigee, perigeed and perigee-sandbox into bin/
	@scripts/build.sh "$(BIN)" "$(VERSION)"

.PHONY: demo
demo: build ## three cities in a lab, one deploy from a Dockerfile: near, far, asleep
	@scripts/demo.sh "$(BIN)"

.PHONY: test
test: ## the tests, the demo included; needs root for the sandbox
	@scripts/deps.sh test
	@$(MAKE) --no-print-directory build
	@scripts/test.sh "$(BIN)"

.PHONY: test-cities
test-cities: build ## the tests of clouds of several cities: cuts, kills, drains
	@scripts/deps.sh test
	@scripts/test.sh "$(BIN)" cities

.PHONY: test-builds
test-builds: build ## the tests of builds once more, every RUN step in gVisor
	@scripts/deps.sh test
	@scripts/test.sh "$(BIN)" builds

.PHONY: test-crash
test-crash: build ## the long crash test: 2,000 operations under kill -9
	@scripts/deps.sh test
	PERIGEE_BIN=$(abspath $(BIN)) PERIGEE_CRASH_OPS=2000 go test -count=1 -timeout 30m -run TestCrash -v ./test

.PHONY: test-flyctl
test-flyctl: build ## an unmodified flyctl (FLYCTL=path, or in the PATH) through the table of docs/flyctl.md
	PERIGEE_BIN=$(abspath $(BIN)) go test -count=1 -timeout 10m -run TestFlyctl -v ./test

.PHONY: test-volumes
test-volumes: build ## PostgreSQL on a volume through 100 kill -9s of the machine and of the daemon
	@scripts/deps.sh test
	PERIGEE_BIN=$(abspath $(BIN)) PERIGEE_PG_KILLS=100 go test -count=1 -timeout 60m -run TestPostgresOnAVolume -v ./test

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (default 20s) each
	@scripts/fuzz.sh "$(or $(FUZZTIME),20s)"

.PHONY: bench
bench: build ## the figures, with peers side by side in the same run; ONLY=wake,loop for some
	@scripts/deps.sh bench
	@go -C cmd/perigee-sandbox build -o "$(abspath $(BIN))/runsc" gvisor.dev/gvisor/runsc
	@go build -o "$(BIN)/bench" ./bench
	$(BIN)/bench -bin $(BIN) $(if $(ONLY),-only $(ONLY))
	$(if $(ONLY),,go run ./bench/router -rounds 3)

.PHONY: lint
lint: ## formatting, vet, house rules
	@scripts/lint.sh

.PHONY: install
install: build ## put the three programs into /usr/local/bin
	install -m 0755 $(BIN)/perigee $(BIN)/perigeed $(BIN)/perigee-sandbox /usr/local/bin/

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN) dist
