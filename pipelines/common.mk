# common.mk - what every pipeline shares. A pipeline is a short .mk file: it includes this one, names its variables with
# `var`, its steps with `step`, and its table in REPORT. latent-pipeline(7) is the manual.
#
# Make gives order and parallelism; whether there is work, the stage itself decides by its key, not by clocks. So every
# recipe is always called, and ends at once when the file that is there is the one wanted or the store has it.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory


PIPELINE := $(firstword $(MAKEFILE_LIST))
NAME := $(basename $(notdir $(PIPELINE)))
ROOT := $(patsubst %/pipelines/common.mk,%,$(realpath $(lastword $(MAKEFILE_LIST))))
comma := ,
space := $(subst ,, )
.DEFAULT_GOAL := all
# $(call one_word,WHAT,NAME): make takes a name with a blank for two
one_word = $(if $(filter-out 1,$(words $(2))),$(error $(1)$(2): make cannot work with a blank in the name))
$(call one_word,,$(ROOT))

# ---- variables: from the command line or the environment, else the default; an empty one counts as unset ----
# $(call var,NAME,DEFAULT,what it is)
VARS :=
define var
$(if $(strip $($(1))),,$(eval override $(1) := $(2)))$(if $(filter $(1),$(VARS)),,$(eval VARS += $(1))$(eval HELP_$(1) := $(3)))
endef
# Without a model of the user's (embedded:NAME is none), the embedded ones and questions made on the spot. $(call real_or,A,B): A with models of
# the user's, else B.
EMBEDDED := $(if $(strip $(filter-out embedded:%,$(MODEL) $(DUAL_MODEL) $(LLMLINGUA_PATH))),,1)
real_or = $(if $(EMBEDDED),$(2),$(1))
# $(call skipped,X): 1 only if SKIP_X is 1
skipped = $(filter 1,$(strip $(SKIP_$(1))))

$(call var,OUT,out,folder of everything this pipeline makes)
$(call one_word,OUT=,$(OUT))
$(call var,BIN,$(ROOT)/bin,folder of the programs; those of this checkout are built first)
$(call var,LATENT_STORE,$(OUT)/store,results by key: equal work is never done twice)
$(call var,LATENT_RUNS,$(OUT)/runs,run log: how what went through pipes was made)
$(call var,GPUS,,ids of GPUs: the shards take them in turn; unset: --device auto)
gpu_list := $(subst $(comma), ,$(GPUS))
$(call var,NUM_SHARDS,$(or $(filter-out 0,$(words $(gpu_list))),1),blocks of questions sampled side by side with -jN)
ifneq ($(shell [[ "$(NUM_SHARDS)" =~ ^[1-9][0-9]?$$ ]] && echo good),good)
$(error NUM_SHARDS=$(NUM_SHARDS): must be a whole number from 1 to 99)
endif
$(call var,THREADS,$(shell t=$$(( $$(nproc) / $(NUM_SHARDS) )); echo $$(( t > 0 ? t : 1 ))),threads of each shard)
$(call var,SEED,42,seed of everything random)
export LATENT_STORE LATENT_RUNS

SHARDS := $(shell for ((k = 0; k < $(NUM_SHARDS); k++)); do printf '%02d ' $$k; done)
NN := $(shell printf '%02d' $(NUM_SHARDS))
# $(call shard_file,BASE,KK): the file of shard KK, BASE.jsonl when there is only one; shard_files: of all
shard_file = $(1)$(if $(filter 1,$(NUM_SHARDS)),,_shard$(2)of$(NN)).jsonl
shard_files = $(foreach k,$(SHARDS),$(call shard_file,$(1),$(k)))
# --shard K/N of shard KK; nothing when there is only one
shard_option = $(if $(filter 1,$(NUM_SHARDS)),,--shard $(shell echo $$((10#$(1))))/$(NUM_SHARDS))
# $(call on,GPUS,KK): --device of shard KK, which takes these GPUs in turn; $(call device,KK): of all that there are
on = --device $(if $(1),cuda:$(word $(shell echo $$((10#$(2) % $(words $(1)) + 1))),$(1)),auto)
device = $(call on,$(gpu_list),$(1))
RUN_FLAGS = --require-provenance --threads $(THREADS)

# $(call refuse,SENTENCE), $(call must_exist,FILES,what they are): stop before anything runs
refuse = $(if $(filter help clean,$(MAKECMDGOALS)),,$(error $(1)))
must_exist = $(foreach f,$(1),$(if $(wildcard $(f)),,$(call refuse,$(f): there is no such file ($(2)))))
# $(call first_line,TEXT): said once, before anything runs
first_line = $(if $(LATENT_LOCKED)$(filter help plan clean,$(MAKECMDGOALS)),,$(shell echo "$(1)" >&2))

# ---- steps ----
# $(call step,OUTPUTS,INPUTS,PROGRAM ARGUMENTS,ALSO): makes OUTPUTS from the files INPUTS; with -o, unless the arguments
# have an --output-dir and say themselves which files one run makes. ALSO: what it reads that the arguments name already.
STEPS :=
define step
$(eval STEPS += $(words $(STEPS)))
$(eval STEP_OUT_$(lastword $(STEPS)) := $(1))
$(eval STEP_IN_$(lastword $(STEPS)) := $(2) $(4))
$(eval STEP_CMD_$(lastword $(STEPS)) := $(BIN)/$(3) $(RUN_FLAGS) $(if $(findstring --output-dir,$(3)),,-o $(1)) $(2))
$(eval $(call step_rule,$(lastword $(STEPS))))
endef
define step_rule
$$(STEP_OUT_$(1)) &: $$(STEP_IN_$(1)) FORCE
	@$$(STEP_CMD_$(1))
endef
.PHONY: FORCE
FORCE:

# A name on the command line that nothing here reads: with RATIOS=0.9 the default would run for hours. In front of make,
# or with these beginnings, it is for the environment of the programs. (Asked in recipes, when VARS is whole.)
given = $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(v)))),$(v)))
unknown = $(filter-out $(VARS) LATENT_% HF_% CUDA_%,$(given))
check_names = $(if $(unknown),$(error $(NAME): $(firstword $(unknown)) is no variable of this pipeline: \
  make -f $(PIPELINE) help lists them))

# ---- goals ----
.PHONY: all report help plan clean
help:
	@:$(info make -f $(PIPELINE) [-jN] [VARIABLE=VALUE]... [all | report | plan | clean | help]) \
	$(info $(space)) $(info all     runs the experiment and prints its table (the default)) \
	$(info report  the same; only the table on standard output) \
	$(info plan    what each step would do, running nothing) \
	$(info clean   removes what is in $(OUT), the store included) \
	$(info $(space)) $(info Variables, from the environment or the command line, as they stand now:)
	@printf '  %-20s %-28s %s\n' $(foreach v,$(VARS),'$(v)' '$(or $($(v)),-)' '$(HELP_$(v))')

# Asks the steps in order. Behind a step that would run, keys are not known yet.
# Lines: FILE KEY up-to-date | FILE KEY store | FILE KEY run | FILE unknown
plan:
	@$(check_names)declare -A later; \
	ask() { \
	  local outs=$$1 ins=$$2 f; shift 2; \
	  for f in $$ins; do \
	    if [ -n "$${later[$$f]-}" ]; then for f in $$outs; do later[$$f]=1; echo "$$f unknown"; done; return; fi; \
	  done; \
	  while read -r name key state; do \
	    echo "$$name $$key$${state:+ $$state}"; \
	    [ "$$state" = up-to-date ] || for f in $$outs; do later[$$f]=1; done; \
	  done < <("$$@" --plan || echo "$$outs failed"); \
	}; \
	$(foreach n,$(STEPS),ask '$(STEP_OUT_$(n))' '$(STEP_IN_$(n))' $(STEP_CMD_$(n));) :

# Everything else holds the lock on OUT, which names its holder. The lock is inherited by the steps: it is free only when
# the last of them has ended, even if make was killed. The tokenizers of MUST_OPEN are opened first: that a model cannot be
# had is known before any work.
ifdef LATENT_LOCKED

.PHONY: all report
.SECONDEXPANSION:
all report: $$(ALL) $$(REPORT)
	@cat $(REPORT)
clean:
	@rm -rf $(OUT)/data $(OUT)/results $(OUT)/store $(OUT)/runs

else

.PHONY: all report clean
all report clean:
	+@$(check_names)if ! why=$$({ mkdir -p '$(OUT)' && : >>'$(OUT)/lock'; } 2>&1); then \
	  echo "$(NAME): OUT=$(OUT): nothing can be written in this folder ($${why##*: })" >&2; exit 2; fi; \
	exec 9>>'$(OUT)/lock'; \
	if ! flock -n 9; then echo "$(NAME): $(OUT) is in use by $$(cat '$(OUT)/lock'); wait (the stage of a make that was killed runs on), or give another OUT" >&2; exit 2; fi; \
	echo "process $$PPID on $$(uname -n) (make -f $(PIPELINE) $@, since $$(date +%T))" >'$(OUT)/lock'; \
	$(if $(filter $(realpath $(ROOT)/bin),$(realpath $(BIN)))$(if $(realpath $(BIN)),,x), \
	  [ ! -e '$(ROOT)/Makefile' ] || MAKEFLAGS= $(MAKE) -s -C '$(ROOT)' -j$$(nproc) all >&2;) \
	$(if $(filter clean,$@),,$(foreach m,$(MUST_OPEN),$(BIN)/tok count -q --model '$(m)' /dev/null >/dev/null;)) \
	LATENT_LOCKED=1 $(MAKE) -f '$(PIPELINE)' $@

endif
