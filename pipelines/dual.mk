# dual.mk - make a dual-vocabulary model out of a checkpoint and check it: the build and verify stages that stand in front
# of every experiment on such a model.
#
# make -f pipelines/dual.mk [help | plan | report | clean]
#
# Without MODEL it runs on a tiny random checkpoint of the tests. The folder it makes is DUAL_MODEL.
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk

TINY := $(if $(strip $(MODEL)),,1)

$(call var,MODEL,$(ROOT)/tests/golden/models/qwen3,checkpoint to start from)
$(call var,DUAL_MODEL,$(OUT)/data/models/dual,folder of the model that is made)
$(call var,MODE,full_copy,full_copy or subset or custom)
$(call var,THINK_MISSING,error,error or add or clone_eos: what to do without <think> or </think>)
$(call var,SUBSET_REGEX,,with MODE=subset: ids whose token it matches (no dollar signs: make reads them))
$(call var,SUBSET_IDS,,with MODE=subset: a JSON array of ids)
$(call var,CUSTOM_TOKENS,,with MODE=custom: new tokens one a line)
$(call var,CUSTOM_EMBEDDINGS,,with MODE=custom: their rows as .npy)

$(call first_line,$(NAME): model $(MODEL)$(if $(TINY), (tiny and random; give MODEL)) -> $(DUAL_MODEL))

REPORT := $(OUT)/results/dual/verify.txt

option = $(if $(strip $($(2))),--$(1) '$($(2))')
$(call step,$(DUAL_MODEL),,dualize --model $(MODEL) --mode $(MODE) --think-missing $(THINK_MISSING) --seed $(SEED) \
  $(call option,subset-regex,SUBSET_REGEX) $(call option,subset-ids,SUBSET_IDS) \
  $(call option,custom-tokens,CUSTOM_TOKENS) $(call option,custom-embeddings,CUSTOM_EMBEDDINGS))

# What verify says, whatever it says; its exit code counts.
$(REPORT): $(DUAL_MODEL) FORCE
	@mkdir -p $(@D)
	@$(BIN)/verify --check-latent $(DUAL_MODEL) >$@ 2>&1 || { cat $@ >&2; exit 1; }

ALL := $(DUAL_MODEL)
