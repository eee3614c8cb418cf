# make            builds drover in build/
# make deps       installs the packages of lab/packages.txt that are missing (as root)
# make demo       shows a running VM moving between two nodes and back; KEEP=1 leaves it up
# make check      builds and runs every test, JOBS=3 at a time
# make bench      measures moves against QEMU's own: CASE=idle CONFIG=drover,default RUNS=5
#                 RATE=1000 (Mbit/s; 0: no limit); bench/migrate.py --help explains
# make model      checks the model of the handover (docs/handover.pml and what it includes) with spin
# make check-faults  tries every fault at every step of a move (docs/reliability.md); FAULTS=REGEX
#                 HYPERVISOR=bhyve: with bhyve, over a stand-in for it (docs/bhyve.md)
# make check-bhyve  moves VMs by the bhyve driver, over a stand-in for bhyve (docs/bhyve.md), with
#                 every process killed at every step
# make check-storage  creates VMs and moves them with the pool on file systems that nodes share
#                 (docs/storage.md; installs the packages of tests/storage/packages.txt, as root)
# make race       lets nodes race for claims and VMs as often as EPOCHS=2000 says
# make soak       moves VMs around for MINUTES=10 while faults are injected at random, from SEED=N or
#                 a new seed; docs/reliability.md says what is checked
# make fuzz       runs the fuzzers longer than check does: SECONDS=600 TARGET=frame
# make format     formats the C sources; needs the package clang-format
# make install    installs under the prefix given to meson, DESTDIR= before it
# make clean      removes what was built; downloads stay in build/cache

PYTHON = /usr/bin/python3
BUILD = build
KEEP =
CASE = all
CONFIG = all
RUNS = 5
RATE = 1000
SECONDS = 600
JOBS = 3
FAULTS =
HYPERVISOR = qemu
EPOCHS = 2000
TARGET =
STORAGE =
MINUTES = 10
SEED =

.NOTPARALLEL:
.PHONY: all deps qemu tiny demo check check-bhyve check-faults check-storage bench race soak model fuzz format install clean

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet

$(BUILD)/build.ninja:
	@meson setup $(BUILD) >/dev/null

deps:
	@lab/deps

qemu:
	@lab/qemu

tiny:
	@lab/qemu 10.0
	@lab/lab guest tiny >/dev/null

demo: deps all tiny
	@lab/demo $(if $(KEEP),--keep)

check: deps all qemu tiny
	@$(PYTHON) -m pytest -q -p no:cacheprovider -n $(JOBS) --dist loadgroup \
		--ignore=tests/integration/test_storage.py \
		--ignore=tests/integration/test_bhyve_boot.py \
		--ignore=tests/integration/test_bhyve_suspend.py \
		--ignore=tests/integration/test_bhyve_faults.py \
		--ignore=tests/integration/test_bhyve_warm_faults.py tests

check-bhyve: deps all qemu tiny
	@$(PYTHON) -m pytest -q -p no:cacheprovider tests/integration/test_bhyve.py \
		tests/integration/test_bhyve_boot.py tests/integration/test_bhyve_suspend.py \
		tests/integration/test_bhyve_faults.py tests/integration/test_bhyve_warm.py \
		tests/integration/test_bhyve_warm_faults.py

check-faults: deps all tiny
	@tests/faults/run.py --hypervisor $(HYPERVISOR) --jobs $(JOBS) --only '$(FAULTS)'

check-storage: deps all tiny
	@lab/deps tests/storage/packages.txt
	@$(PYTHON) -m pytest -v -rs -p no:cacheprovider -k '$(STORAGE)' tests/integration/test_storage.py

bench: deps all tiny
	@lab/deps bench/packages.txt
	@bench/migrate.py --case $(CASE) --config $(CONFIG) --runs $(RUNS) --rate $(RATE)

model: deps
	@tests/model/handover.py

race: deps all tiny
	@DROVER_RACE_EPOCHS=$(EPOCHS) DROVER_RACE_ROUNDS=$(EPOCHS) $(PYTHON) -m pytest -q \
		-p no:cacheprovider tests/integration/test_claims.py tests/integration/test_races.py

soak: deps all tiny
	@tests/soak/soak.py --minutes $(MINUTES) $(addprefix --seed ,$(SEED))

fuzz: deps
	@tests/fuzz/fuzz.py --seconds $(SECONDS) $(addprefix --target ,$(TARGET))

format:
	@git ls-files '*.c' '*.h' | xargs clang-format -i

install: all
	@meson install -C $(BUILD) --no-rebuild

clean:
	@lab/lab down
	@find $(BUILD) -mindepth 1 -maxdepth 1 ! -name cache -exec rm -rf {} +
