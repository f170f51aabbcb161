# finetune.mk - what the experiments that train share: their questions, what they train with, names, and the table.
#
# The including file has set before: MODEL, BENCHMARK, SMALL_QUESTIONS and SMALL_TEST (numbers of questions for the embedded
# model), DEFAULT_PRESET, EMBEDDED_PRESET.
$(call var,TRAIN_FILE,,questions to train on: a file as $(BENCHMARK) is published; unset: from the hub)
$(call var,TEST_FILE,,questions to measure on: a file as $(BENCHMARK) is published; unset: from the hub)
$(call var,NUM_QUESTIONS,$(call real_or,-1,$(SMALL_QUESTIONS)),questions to train on; -1: all)
$(call var,NUM_TEST,$(call real_or,-1,$(SMALL_TEST)),questions to measure on; -1: all)
$(call var,PRESET,$(call real_or,$(DEFAULT_PRESET),$(EMBEDDED_PRESET)),options of train: a file or a name in pipelines/presets)
$(call var,TRAIN_OPTIONS,,further options of train)
$(call var,TRAIN_GPUS,$(GPUS),the first of these trains and measures)
$(call var,TRAIN_NPROC,1,ranks of train: one)

# ---- what cannot work is said before anything runs ----
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
MODEL_NAME := $(call real_or,$(shell basename '$(MODEL)' | tr '[:upper:]' '[:lower:]' | sed 's/-instruct$$//; s/-2507$$//'),embedded)
SFT := $(OUT)/data/sft
QUESTIONS := $(OUT)/data/questions/$(SET)
RESULTS := $(OUT)/results/sft/$(SET)

limit = $(if $(filter-out -1,$(1)),--limit $(1))
dataset = dataset $(SET) --split $(1) $(if $(2),--file $(2)) $(call limit,$(3)) --seed $(SEED)
# $(call questions,KK): those of a shard to train on; $(call step...) makes it
train_questions = $(call shard_file,$(QUESTIONS)_train,$(1))
define questions
$(call step,$(call train_questions,$(1)),,$(call dataset,train,$(TRAIN_FILE),$(NUM_QUESTIONS)) $(call shard_option,$(1)))
endef
TEST := $(QUESTIONS)_test.jsonl
$(call step,$(TEST),,$(call dataset,test,$(TEST_FILE),$(NUM_TEST)))

# ---- $(call trained,FOLDER,BASE MODEL,ROWS): a model; $(call weights,FOLDER): what of it is measured ----
first_gpu = $(call on,$(subst $(comma), ,$(TRAIN_GPUS)),0)
LORA := $(shell sed -n 's/^method  *//p' '$(PRESET_FILE)' 2>&1 | grep -x lora)
weights = $(1)$(if $(LORA),/merged)
define trained
$(call step,$(1),$(3),train --model $(2) --preset $(PRESET_FILE) --seed $(SEED) $(TRAIN_OPTIONS) $(first_gpu),$(filter $(OUT)/%,$(2)))
endef

# ---- $(call table,FOLDER,REPORT OPTIONS,LABEL=FILE...): text, Markdown and JSON lines, and the picture ----
define table
$(eval MEASURED := $(foreach r,$(3),$(lastword $(subst =, ,$(r)))))
$(eval REPORT := $(1)/report.txt)
$(call step,$(1)/report.txt,,report $(2) --plot $(1)/report.png $(3),$(MEASURED))
$(call step,$(1)/report.md,,report $(2) --format markdown --plot $(1)/report.svg $(3),$(MEASURED))
$(call step,$(1)/report.jsonl,,report $(2) --format jsonl $(3),$(MEASURED))
$(eval ALL := $(1)/report.txt $(1)/report.md $(1)/report.jsonl)
endef

# ---- $(call finetuned,METHOD,ROWS,EVAL OPTIONS): one trained model beside the one it was, on the same questions ----
define finetuned
$(eval base := $(RESULTS)/$(MODEL_NAME)/eval/$(SET)_$(1)_eval.jsonl)
$(eval folder := $(RESULTS)/$(MODEL_NAME)-$(1))
$(call trained,$(folder),$(MODEL),$(2))
$(call step,$(base),$(TEST),eval --model $(MODEL) $(3) --seed $(SEED) $(first_gpu))
$(call step,$(folder)/eval/$(SET)_eval.jsonl,$(TEST),eval --model $(call weights,$(folder)) $(3) --seed $(SEED) $(first_gpu),$(folder))
$(call table,$(folder)/eval,--pair,base=$(base) $(1)=$(folder)/eval/$(SET)_eval.jsonl)
endef
