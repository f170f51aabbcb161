# tokenskip_math.mk - sample chains of thought on MATH, grade them, measure the model at every ratio.
#
# make -f pipelines/tokenskip_math.mk [help | plan | report | clean]
#
# Without MODEL it runs on a tiny random checkpoint and a handful of questions of the tests: that shows the machinery,
# and its table means nothing. Compression and training join when their programs do.
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk

TINY := $(if $(strip $(MODEL)),,1)
QUESTIONS := $(ROOT)/tests/golden/questions

$(call var,MODEL,$(ROOT)/tests/golden/models/qwen3,checkpoint that is sampled and measured)
$(call var,TRAIN_FILE,$(if $(TINY),$(QUESTIONS)/math_train.jsonl),questions to sample: a file in the form MATH is published in)
$(call var,TEST_FILE,$(if $(TINY),$(QUESTIONS)/math_test.jsonl),questions to measure on)
$(call var,NUM_QUESTIONS,-1,how many questions to sample; -1: all)
$(call var,NUM_TEST,-1,how many questions to measure on; -1: all)
$(call var,NUM_SAMPLES,$(if $(TINY),2,8),samples of each question)
$(call var,SAMPLE_TEMP,0.7,temperature of the samples)
$(call var,MAX_TOKENS,$(if $(TINY),48,4096),tokens of an answer at most)
$(call var,EVAL_RATIOS,$(if $(TINY),$(strip 1.0,0.5),$(strip 1.0,0.7,0.5,0.3,0.1)),ratios to measure at)
$(call var,SKIP_COLLECT,,1: do not sample; COLLECTED or the samples that are there are used)
$(call var,COLLECTED,,with SKIP_COLLECT=1: a file of samples of your own)

$(call first_line,$(NAME): model $(MODEL)$(if $(TINY), (tiny and random: the table means nothing; give MODEL)))

$(call must_exist,$(TRAIN_FILE),TRAIN_FILE)
$(call must_exist,$(TEST_FILE),TEST_FILE)

# Names as the scripts that people come from have them.
ORIGINAL := $(OUT)/data/sft/tokenskip/original/math/math_raw_original
EVAL := $(OUT)/results/sft/math/base/eval
REPORT := $(EVAL)/report.txt

limit = $(if $(filter-out -1,$(1)),--limit $(1))
dataset = dataset math --split $(1) $(if $(2),--file $(2)) $(call limit,$(3))

# ---- samples ----
ifneq ($(call skipped,COLLECT),1)
define collect_shard
$(call step,$(call shard_file,$(OUT)/data/questions/math_train,$(1)),,$(call dataset,train,$(TRAIN_FILE),$(NUM_QUESTIONS)) $(call shard_option,$(1)))
$(call step,$(call shard_file,$(ORIGINAL),$(1)),$(call shard_file,$(OUT)/data/questions/math_train,$(1)),collect \
  --model $(MODEL) --prompt-format tokenskip --num-samples $(NUM_SAMPLES) --temperature $(SAMPLE_TEMP) \
  --max-tokens $(MAX_TOKENS) --no-grade --seed $(SEED) $(call device,$(1)))
endef
$(foreach k,$(SHARDS),$(call collect_shard,$(k)))
COLLECTED_FILES := $(call shard_files,$(ORIGINAL))
else
COLLECTED_FILES := $(if $(strip $(COLLECTED)),$(COLLECTED),$(call shard_files,$(ORIGINAL)))
$(call must_exist,$(COLLECTED_FILES),SKIP_COLLECT=1 takes the samples that are there; COLLECTED=FILE names others)
endif

# One stream of all shards, in order: the same bytes whatever their number. A better grader never samples again.
$(call step,$(ORIGINAL)_merged.jsonl,$(COLLECTED_FILES),grade --task math \
  $(if $(call skipped,COLLECT),$(if $(strip $(COLLECTED)),--fill --benchmark math)))

# ---- measure ----
$(call step,$(OUT)/data/questions/math_test.jsonl,,$(call dataset,test,$(TEST_FILE),$(NUM_TEST)))
EVAL_FILES := $(foreach r,$(subst $(comma), ,$(EVAL_RATIOS)),$(EVAL)/math_eval_ratio_$(r).jsonl)
$(call step,$(EVAL_FILES),$(OUT)/data/questions/math_test.jsonl,eval --model $(MODEL) --prompt-format tokenskip \
  --ratio $(EVAL_RATIOS) --max-tokens $(MAX_TOKENS) --seed $(SEED) --output-dir $(EVAL) $(call device,0))
$(call step,$(REPORT),$(EVAL_FILES),report)

ALL := $(ORIGINAL)_merged.jsonl $(REPORT)
