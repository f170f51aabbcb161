# finetune.mk - what self_training.mk, direct.mk and distill.mk share: their questions, and the way from rows to the table.
#
#   rows -> train -> eval of the model as it was and of the trained one, on the same questions -> report (paired)
#
# The including file sets before: METHOD (in the names of files), EMBEDDED_PRESET and EMBEDDED_QUESTIONS; behind its own
# variables it includes this file and then calls $(call finetuned,ROWS,EVAL OPTIONS OF THE BASE,OF THE TRAINED MODEL).
$(call var,MODEL,$(call real_or,$(or $(strip $(DUAL_MODEL)),$(DEFAULT_MODEL)),embedded:reasoner),checkpoint that is sampled and trained)
$(call var,BENCHMARK,gsm8k,gsm8k or math)
$(call var,TRAIN_FILE,,questions to train on: a file as $(BENCHMARK) is published; unset: from the hub)
$(call var,TEST_FILE,,questions to measure on: a file as $(BENCHMARK) is published; unset: from the hub)
$(call var,NUM_QUESTIONS,$(call real_or,-1,$(EMBEDDED_QUESTIONS)),questions to train on; -1: all)
$(call var,NUM_TEST,-1,questions to measure on; -1: all)
$(call var,PRESET,$(call real_or,$(DEFAULT_PRESET),$(EMBEDDED_PRESET)),options of train: a file in pipelines/presets)
$(call var,TRAIN_OPTIONS,,further options of train)
$(call var,TRAIN_GPUS,$(GPUS),the first of these trains and measures)
$(call var,TRAIN_NPROC,1,ranks of train: one)

# ---- what cannot work is said before anything runs ----
refuse = $(if $(filter help clean,$(MAKECMDGOALS)),,$(error $(1)))
ifneq ($(TRAIN_NPROC),1)
$(call refuse,TRAIN_NPROC=$(TRAIN_NPROC): train runs on one device; leave it at 1)
endif
ifeq ($(filter gsm8k math,$(BENCHMARK)),)
$(call refuse,BENCHMARK=$(BENCHMARK): must be gsm8k or math)
endif
PRESET_FILE := $(if $(findstring /,$(PRESET)),$(PRESET),$(ROOT)/pipelines/presets/$(PRESET))
$(call must_exist,$(PRESET_FILE) $(TRAIN_FILE) $(TEST_FILE),PRESET or TRAIN_FILE or TEST_FILE)
MUST_OPEN := $(call real_or,$(MODEL))

# ---- names, as in the Python stack ----
SET := $(call real_or,$(BENCHMARK),arith)
MODEL_NAME := $(call real_or,$(shell basename '$(MODEL)' | tr '[:upper:]' '[:lower:]' | sed 's/-instruct$$//'),embedded)
SFT := $(OUT)/data/sft
QUESTIONS := $(OUT)/data/questions/$(SET)
RESULTS := $(OUT)/results/sft/$(SET)
TRAINED := $(RESULTS)/$(MODEL_NAME)-$(METHOD)
BASE := $(RESULTS)/$(MODEL_NAME)/eval/$(SET)_$(METHOD)_eval.jsonl

limit = $(if $(filter-out -1,$(1)),--limit $(1))
dataset = dataset $(SET) --split $(1) $(if $(2),--file $(2)) $(call limit,$(3)) --seed $(SEED)
# $(call on,GPUS,KK): --device of shard KK
on = --device $(if $(1),cuda:$(word $(shell echo $$((10#$(2) % $(words $(1)) + 1))),$(1)),auto)
train_gpus := $(subst $(comma), ,$(TRAIN_GPUS))

LORA := $(shell sed -n 's/^method  *//p' '$(PRESET_FILE)' 2>&1 | grep -x lora)
define finetuned
$(call step,$(TRAINED),$(1),train --model $(MODEL) --preset $(PRESET_FILE) --seed $(SEED) $(TRAIN_OPTIONS) $(call on,$(train_gpus),0))
$(call step,$(QUESTIONS)_test.jsonl,,$(call dataset,test,$(TEST_FILE),$(NUM_TEST)))
$(call step,$(BASE),$(QUESTIONS)_test.jsonl,eval --model $(MODEL) $(2) --seed $(SEED) $(call on,$(train_gpus),0))
$(call step,$(TRAINED)/eval/$(SET)_eval.jsonl,$(QUESTIONS)_test.jsonl,eval --model $(TRAINED)$(if $(LORA),/merged) $(3) --seed $(SEED) $(call on,$(train_gpus),0),$(TRAINED))
$(eval MEASURED := $(BASE) $(TRAINED)/eval/$(SET)_eval.jsonl)
$(eval RUNS := base=$(word 1,$(MEASURED)) $(METHOD)=$(word 2,$(MEASURED)))
$(eval TABLE := $(TRAINED)/eval/report)
$(eval REPORT := $(TABLE).txt)
$(call step,$(TABLE).txt,,report --pair --plot $(TABLE).png $(RUNS),$(MEASURED))
$(call step,$(TABLE).md,,report --pair --format markdown --plot $(TABLE).svg $(RUNS),$(MEASURED))
$(call step,$(TABLE).jsonl,,report --pair --format jsonl $(RUNS),$(MEASURED))
$(eval ALL := $(TABLE).txt $(TABLE).md $(TABLE).jsonl)
endef
