# latent - build, test, install. `make help` says what there is.
#   make asan=1 ...   address and undefined-behaviour sanitizers, objects in build/asan
#   make WERROR=1     warnings are errors (CI)
#   make V=1          show whole commands
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VERSION := 0.1.0
CC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif
PREFIX ?= /usr/local
DESTDIR ?=
asan ?= 0
WERROR ?= 0
V ?= 0
Q := $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),@:,@printf '  %-5s %s\n' '$(1)' '$(2)')

ifeq ($(asan),1)
B := build/asan
OPT := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
LDFLAGS += -fsanitize=address,undefined
else
B := build
OPT := -O2 -g
endif
BIN := $(if $(filter 1,$(asan)),$(B)/bin,bin)

# -ffp-contract=off: the compiler never decides where a multiply and an add become one rounding; kernels say it themselves.
CFLAGS ?=
ALL_CFLAGS := -std=c11 -D_DEFAULT_SOURCE -D_POSIX_C_SOURCE=200809L -DLATENT_VERSION='"$(VERSION)"' \
  -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -ffp-contract=off -pthread \
  $(if $(filter 1,$(WERROR)),-Werror) $(OPT) -I. -Ilib -Itests -isystem $(B)/gen $(CFLAGS)
LIBS := -Wl,--as-needed -lzstd -lxxhash -ljansson -lpcre2-8 -lutf8proc -lflint-arb -lflint -lmpfr -lgmp -lcurl -lcrypto \
  -lmicrohttpd -lprotobuf-c -ldl -lm

# Libraries that travel with a tree of `make dist`; an old-style path, so that what they load themselves is found too.
RPATH := -Wl,--disable-new-dtags,-rpath,'$$ORIGIN/../lib/latent:$$ORIGIN/../../lib/latent:$$ORIGIN/../../../lib/latent'

LIB_SRC := $(sort $(wildcard lib/*/*.c) $(wildcard kernels/*.c) $(wildcard kernels/cpu/*.c))
LIB_OBJ := $(LIB_SRC:%.c=$(B)/%.o) $(B)/gen/io/wandb.pb-c.o
# tools/tool.c is the harness that every program links; the other files there are one program each
TOOLS := $(filter-out tool,$(patsubst tools/%.c,%,$(sort $(wildcard tools/*.c))))
PROGRAMS := $(TOOLS:%=$(BIN)/%)
UNIT_SRC := $(sort $(wildcard tests/unit/*_test.c tests/kernels/*_test.c))
CUDA_TEST_SRC := $(sort $(wildcard tests/cuda/*_test.c))
UNITS := $(UNIT_SRC:tests/%.c=$(B)/tests/%) $(CUDA_TEST_SRC:tests/%.c=$(B)/tests/%)
FUZZ_SRC := $(sort $(wildcard tests/fuzz/*_fuzz.c))
REPLAYS := $(FUZZ_SRC:tests/fuzz/%.c=$(B)/fuzz/%)
BENCH_SRC := $(sort $(wildcard tests/bench/*_bench.c))
BENCHES := $(BENCH_SRC:tests/bench/%.c=$(B)/bench/%)

.PHONY: all
all: $(PROGRAMS)

.PHONY: help
help:
	@printf '%s\n' 'make              build the programs into bin/' \
	  'make test         every test; ends with N passed, N failed, N skipped' \
	  'make unit|cli     only the C tests | only the command-line tests' \
	  'make asan=1 test  the same under the address and undefined-behaviour sanitizers' \
	  'make cuda         the CUDA plugin, build/cuda/latent_cuda.so (needs nvcc; also part of make test)' \
  'make bench        timings, as shares of the machine'"'"'s limit or of a peer' \
	  'make fuzz         ten minutes of libFuzzer per target (FUZZ_SECONDS=600, needs clang)' \
	  'make lint         clang-format, headers alone, cppcheck, clang-tidy' \
	  'make install      to $$PREFIX (/usr/local), DESTDIR honoured; the CUDA plugin too, where nvcc is' \
  'make dist         build/dist/latent-$(VERSION).tar.xz: programs, plugin, libraries and device tests for a bare machine' \
	  'make clean        remove build/ and bin/' '' \
	  'Experiments: make -f pipelines/tokenskip_math.mk help'

# ---- objects ----
# Files named *_avx2.c, *_avx512.c hold code that is only called after asking the CPU.
$(B)/%_avx2.o: EXTRA := -mavx2 -mfma -mf16c
$(B)/%_avx512.o: EXTRA := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c
# vectors wider than the machine's, all inlined: gcc need not warn of their calling convention
$(B)/%_base.o: EXTRA := -Wno-psabi
$(B)/kernels/cpu/%.o: OPT_KERNEL := $(if $(filter 1,$(asan)),,-O3)

# Changed flags rebuild the objects, a changed set of sources rebuilds the library: headers are covered by -MMD.
remember = $(shell mkdir -p $(B); printf '%s\n' '$(subst ','\'',$(2))' | cmp -s - $(B)/$(1) || printf '%s\n' '$(subst ','\'',$(2))' >$(B)/$(1))
ifeq ($(filter clean help lint,$(MAKECMDGOALS)),)
$(call remember,flags,$(CC) $(filter-out -Werror,$(ALL_CFLAGS)))
$(call remember,members,$(LIB_OBJ))
endif
$(B)/flags $(B)/members:

$(B)/%.o: %.c $(B)/flags
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(OPT_KERNEL) $(EXTRA) -MMD -MP -c $< -o $@

# Messages of W&B's run files, out of their .proto. Only wandb.c sees the header.
WANDB_PB := $(B)/gen/io/wandb.pb-c.c $(B)/gen/io/wandb.pb-c.h
$(WANDB_PB) &: lib/io/wandb.proto
	@mkdir -p $(@D)
	$(call say,PROTO,$@)
	$(Q)protoc-c --proto_path=lib --c_out=$(B)/gen $<
$(B)/gen/%.o: $(B)/gen/%.c $(B)/flags
	$(call say,CC,$@)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@
$(B)/lib/io/wandb.o: $(B)/gen/io/wandb.pb-c.h

$(B)/liblatent.a: $(LIB_OBJ) $(B)/members
	@rm -f $@
	$(call say,AR,$@)
	$(Q)ar rcs $@ $(LIB_OBJ)

$(BIN)/%: $(B)/tools/%.o $(B)/tools/tool.o $(B)/liblatent.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $(RPATH) -pthread $^ $(LIBS) -o $@

# ---- CUDA ----
# The kernels twice: as host C++ over the emulation, for the tests, and by nvcc, where there is one, into the plugin. Both
# see the checksum of what program and plugin share.
CXX ?= g++
NVCC ?= $(firstword $(wildcard /usr/local/cuda/bin/nvcc) $(shell command -v nvcc))
HAVE_CXX := $(if $(shell command -v $(CXX)),1)
BUILD_ID := $(VERSION)-$(firstword $(shell cat kernels/kernels.h kernels/plugin.h lib/base/err.h | cksum))
CUDA_NAMES := rows attend attend_mma attend_varlen ends sample train device device_train
EMU_OBJ := $(CUDA_NAMES:%=$(B)/emu/%.o) $(B)/emu/emu.o $(B)/emu/shadow.o $(B)/emu/rt_emu.o
PLUGIN := $(if $(filter-out 1,$(asan)),$(if $(NVCC),$(B)/cuda/latent_cuda.so))
CXX_FLAGS := -std=c++17 -D_DEFAULT_SOURCE -DLATENT_BUILD_ID='"$(BUILD_ID)"' -Wall -Wextra -Wshadow -ffp-contract=off -fno-exceptions \
  -fno-rtti -fno-threadsafe-statics $(if $(filter 1,$(WERROR)),-Werror) $(OPT) -I. -Ilib
NVCC_FLAGS := -std=c++17 -O3 -lineinfo -fmad=false -DLATENT_BUILD_ID='"$(BUILD_ID)"' -I. -Ilib -gencode arch=compute_80,code=[sm_80,compute_80] \
  -gencode arch=compute_90a,code=sm_90a -Xcompiler -Wall,-Wextra,-fPIC,-fvisibility=hidden $(if $(filter 1,$(WERROR)),-Xcompiler -Werror)
$(B)/kernels/plugin.o $(CUDA_TEST_SRC:%.c=$(B)/%.o): EXTRA := -DLATENT_BUILD_ID='"$(BUILD_ID)"' $(if $(HAVE_CXX),,-DNO_EMULATION)
$(B)/emu/%.o: kernels/cuda/%.cu $(B)/flags
	@mkdir -p $(@D)
	$(call say,CXX,$@)
	$(Q)$(CXX) $(CXX_FLAGS) $(if $(filter 1,$(asan)),,-fsanitize=thread) -MMD -MP -x c++ -c $< -o $@
$(B)/emu/%.o: kernels/cuda/emu/%.cpp $(B)/flags
	@mkdir -p $(@D)
	$(call say,CXX,$@)
	$(Q)$(CXX) $(CXX_FLAGS) -MMD -MP -c $< -o $@
$(B)/tests/cuda/feed_test: LDFLAGS += $(if $(HAVE_CXX),-Xlinker --wrap=device_open)
$(CUDA_TEST_SRC:%.c=$(B)/%): $(B)/tests/cuda/%: $(B)/tests/cuda/%.o $(if $(HAVE_CXX),$(EMU_OBJ)) $(B)/liblatent.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $(RPATH) -pthread $^ -lcmocka $(LIBS) -o $@
$(B)/cuda/%.o: kernels/cuda/%.cu $(B)/flags
	@mkdir -p $(@D)
	$(call say,NVCC,$@)
	$(Q)$(NVCC) $(NVCC_FLAGS) -MMD -MP -c $< -o $@
$(B)/cuda/err.o: lib/base/err.c $(B)/flags
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(ALL_CFLAGS) -fPIC -fvisibility=hidden -MMD -MP -c $< -o $@
# cuBLASLt is found where nvcc found it, or where the system keeps its libraries
$(B)/cuda/latent_cuda.so: $(CUDA_NAMES:%=$(B)/cuda/%.o) $(B)/cuda/rt_cuda.o $(B)/cuda/err.o
	$(call say,LINK,$@)
	$(Q)$(NVCC) -shared -cudart static $^ -lcublasLt -Xlinker '-rpath,$$ORIGIN:$(dir $(NVCC))../lib64:/usr/local/cuda/lib64' -o $@
.PHONY: cuda
cuda: $(PLUGIN)

# ---- tests ----
$(B)/tests/%: $(B)/tests/%.o $(B)/liblatent.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $(RPATH) -pthread $^ -lcmocka $(LIBS) -o $@

.PHONY: test unit cli everything
everything: $(PROGRAMS) $(UNITS) $(REPLAYS) $(BENCHES) $(PLUGIN)
test: $(PROGRAMS) $(UNITS) $(REPLAYS) $(PLUGIN)
	@BIN=$(BIN) BUILD=$(B) tests/run $(UNITS) $(sort $(wildcard tests/cli/*.bats tests/fault/*.bats tests/fuzz/*.bats))
unit: $(UNITS) $(PLUGIN)
	@BIN=$(BIN) BUILD=$(B) tests/run $(UNITS)
cli: $(PROGRAMS)
	@BIN=$(BIN) BUILD=$(B) tests/run $(sort $(wildcard tests/cli/*.bats tests/fault/*.bats))

# The same fuzz target with a plain main that replays a corpus, for `make test`.
$(B)/fuzz/%: $(B)/tests/fuzz/%.o $(B)/tests/fuzz/replay.o $(B)/liblatent.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $(RPATH) -pthread $^ $(LIBS) -o $@

FUZZ_SECONDS ?= 600
LF := build/libfuzzer
LF_FLAGS := -std=c11 -D_DEFAULT_SOURCE -D_POSIX_C_SOURCE=200809L -DLATENT_VERSION='"$(VERSION)"' -O1 -g -ffp-contract=off -I. -Ilib \
  -isystem $(B)/gen -fsanitize=address,undefined -fno-sanitize-recover=undefined
FUZZERS := $(FUZZ_SRC:tests/fuzz/%.c=$(LF)/%)
# An archive, so that a target links what it needs and no more.
LF_OBJ := $(patsubst %.c,$(LF)/%.o,$(sort $(wildcard lib/base/*.c lib/io/*.c lib/text/*.c lib/task/*.c)))
$(LF)/%.o: %.c
	@mkdir -p $(@D)
	clang $(LF_FLAGS) -fsanitize=fuzzer-no-link -MMD -MP -c $< -o $@
$(LF)/lib/io/wandb.o: $(B)/gen/io/wandb.pb-c.h
$(LF)/liblatent.a: $(LF_OBJ)
	@rm -f $@
	ar rcs $@ $^
$(LF)/%_fuzz: tests/fuzz/%_fuzz.c $(LF)/liblatent.a
	clang $(LF_FLAGS) -fsanitize=fuzzer $< $(LF)/liblatent.a -pthread $(LIBS) -o $@
.PHONY: fuzz
fuzz: $(FUZZERS)
	@for f in $(FUZZERS); do n=$$(basename $$f _fuzz); mkdir -p build/corpus/$$n; \
	  $$f -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 build/corpus/$$n tests/fuzz/corpus/$$n; done

# ---- benchmarks ----
$(B)/bench/%: $(B)/tests/bench/%.o $(B)/liblatent.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) $(RPATH) -pthread $^ $(LIBS) -o $@
.PHONY: bench
bench: $(PROGRAMS) $(BENCHES)
	@for b in $(BENCHES); do $$b; done
	@for s in $(sort $(wildcard tests/bench/*_bench.sh)); do BIN=$(BIN) $$s; done

# ---- lint ----
C_ALL := $(sort $(wildcard lib/*/*.[ch] kernels/*.[ch] kernels/cpu/*.[ch] tools/*.[ch] tests/unit/*.[ch] tests/kernels/*.[ch] tests/cuda/*.[ch] tests/fuzz/*.[ch] tests/bench/*.[ch]))
C_CHECKED := $(filter %.c,$(filter lib/% kernels/% tools/%,$(C_ALL)))
.PHONY: lint lint-format lint-headers lint-cppcheck lint-tidy
lint: lint-format lint-headers lint-cppcheck lint-tidy
lint-format:
	$(call say,LINT,clang-format)
	$(Q)clang-format --dry-run -Werror $(C_ALL) $(wildcard kernels/cuda/*.* kernels/cuda/emu/*.*)
lint-headers: # every header compiles alone, but for the templates *_impl.h
	$(call say,LINT,headers)
	$(Q)for h in $(filter-out %_impl.h,$(filter lib/%.h kernels/%.h tools/%.h,$(C_ALL))); do $(CC) $(ALL_CFLAGS) -Wno-psabi -fsyntax-only -x c $$h; done
lint-cppcheck: $(WANDB_PB)
	$(call say,LINT,cppcheck)
	$(Q)cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
	  --suppress=missingIncludeSystem -I. -Ilib -DLATENT_VERSION='"$(VERSION)"' -j2 $(C_CHECKED)
lint-tidy: $(WANDB_PB)
	$(call say,LINT,clang-tidy)
	$(Q)$(call tidy,$(filter-out %_avx2.c %_avx512.c,$(C_CHECKED)),)
	$(Q)$(call tidy,$(filter %_avx2.c,$(C_CHECKED)),-mavx2 -mfma -mf16c)
	$(Q)$(call tidy,$(filter %_avx512.c,$(C_CHECKED)),-mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c)
tidy = $(if $(1),printf '%s\n' $(1) | xargs -P2 -n4 sh -c 'clang-tidy --quiet "$$@" -- $(subst ','\'',$(ALL_CFLAGS)) -Wno-psabi $(2) 2>/dev/null' sh,:)

# ---- install ----
# Programs find their data beside themselves, so the tree can be moved. Stages lie in libexec, away from the PATH:
# `latent STAGE` runs them, and PATH=$$(latent --exec-path):$$PATH gives the bare names.
TO := $(DESTDIR)$(PREFIX)
.PHONY: install
install: $(PROGRAMS) $(PLUGIN)
	$(call say,INST,$(TO))
	$(Q)install -d '$(TO)/bin' '$(TO)/libexec/latent' '$(TO)/share/latent'
	$(Q)install -m 755 $(BIN)/latent '$(TO)/bin/latent'
	$(Q)$(if $(filter-out $(BIN)/latent,$(PROGRAMS)),install -m 755 $(filter-out $(BIN)/latent,$(PROGRAMS)) '$(TO)/libexec/latent')
	$(Q)$(if $(PLUGIN),install -d '$(TO)/lib/latent' && install -m 755 $(PLUGIN) '$(TO)/lib/latent/')
	$(Q)if [ -d data ]; then cp -r data/. '$(TO)/share/latent/'; fi
	$(Q)install -d '$(TO)/share/latent/presets' && install -m 644 pipelines/presets/* '$(TO)/share/latent/presets'
	$(Q)for p in man/*.[157]; do [ -e "$$p" ] || continue; d='$(TO)/share/man/man'$${p##*.}; install -d "$$d"; install -m 644 "$$p" "$$d"; done

# A tree for a machine with nothing but a C library; the plugin is in it where there is nvcc.
DIST := $(B)/dist/latent-$(VERSION)
.PHONY: dist
dist: everything
	$(Q)rm -rf $(B)/dist
	$(Q)$(MAKE) --no-print-directory install DESTDIR=$(CURDIR)/$(B)/dist/installed PREFIX=
	$(call say,DIST,$(DIST))
	$(Q)./mkdist $(B)/dist/installed $(DIST) $(B)

.PHONY: clean
clean:
	rm -rf build bin

-include $(shell find build -name '*.d' 2>/dev/null)
.SECONDARY:
