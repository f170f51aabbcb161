# tokenskip.mk - the steps of TokenSkip (arXiv 2502.12067), for the pipelines that include it:
#
#   questions -> collect -> grade -> compress (all ratios) [-> score -> select, the quality filter] -> prepare -> train
#   test questions -> eval of the model as it was, and of the trained one at every ratio -> report
#
# The including file sets BENCHMARK and the DEFAULT_... values of real models. File names are those of the Python stack.
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk

# The embedded model is small and forgets: many questions once rather than few often, few ratios and a row of each.
FEW := 0.7$(comma)0.5$(comma)0.3

$(call var,MODEL,$(call real_or,$(DEFAULT_MODEL),embedded:reasoner),checkpoint that is sampled and trained)
$(call var,LLMLINGUA_PATH,$(call real_or,,embedded:compressor),compressor: an LLMLingua-2 encoder)
$(call var,DUAL_MODEL,,checkpoint with two vocabularies that is trained and measured instead of MODEL)
$(call var,DUAL,,1: MODEL with a second vocabulary too and its results beside the standard ones)
$(call var,TRAIN_FILE,,questions to sample: a file as $(BENCHMARK) is published; unset: from the hub)
$(call var,TEST_FILE,,questions to measure on: a file as $(BENCHMARK) is published; unset: from the hub)
$(call var,NUM_QUESTIONS,$(if $(SMOKE),20,$(call real_or,-1,4000)),questions to sample; -1: all)
$(call var,NUM_TEST,$(if $(SMOKE),10,$(call real_or,-1,500)),questions to measure on; -1: all)
$(call var,NUM_SAMPLES,$(call real_or,$(DEFAULT_SAMPLES),1),samples of each question)
$(call var,SAMPLE_TEMP,$(call real_or,$(DEFAULT_TEMP),0.7),temperature of the samples)
$(call var,MAX_TOKENS,$(call real_or,$(DEFAULT_TOKENS),300),tokens of an answer at most)
$(call var,MAX_COT_TOKENS,$(DEFAULT_MAX_COT),longer reasoning is not compressed)
$(call var,COMPRESS_RATIOS,$(if $(SMOKE),$(DEFAULT_COMPRESS),$(call real_or,$(DEFAULT_COMPRESS),$(FEW))),ratios to compress to)
$(call var,TRAIN_RATIOS,1.0$(comma)$(COMPRESS_RATIOS),ratios of the rows to train on)
$(call var,EVAL_RATIOS,$(if $(SMOKE),$(DEFAULT_EVAL),$(call real_or,$(DEFAULT_EVAL),1.0$(comma)$(FEW))),ratios to measure at)
$(call var,QUALITY_FILTER_TOP,,keep only this share of the compressed samples: the best by score)
$(call var,QUALITY_SCORE_KEY,logprob_post_cot,the score: logprob_post_cot or logprob_answer or logprob_boxed)
$(call var,COMPRESS_OPTIONS,,further options of compress)
$(call var,PREPARE_OPTIONS,$(call real_or,,--all-ratios),further options of prepare)
$(call var,PRESET,$(call real_or,$(DEFAULT_PRESET),embedded_tokenskip),options of train: a file in pipelines/presets)
$(call var,TRAIN_OPTIONS,$(if $(SMOKE),--epochs 1 --max-steps 0),further options of train)
$(call var,TRAIN_NPROC,1,ranks of train: one)
$(call var,WANDB_PROJECT,,also writes offline W&B runs of this project)
$(call var,COLLECTED,,with SKIP_COLLECT=1: samples of your own; what they lack is filled in)
$(foreach s,COLLECT COMPRESS QUALITY PREPARE TRAIN,$(call var,SKIP_$(s),,1: this step does not run: what it made before is used))

# ---- what cannot work is said before anything runs ----
LAZY := $(filter help clean,$(MAKECMDGOALS))
refuse = $(if $(LAZY),,$(error $(1)))
ifneq ($(TRAIN_NPROC),1)
$(call refuse,TRAIN_NPROC=$(TRAIN_NPROC): train runs on one device; leave it at 1)
endif
ifeq ($(strip $(LLMLINGUA_PATH))$(call skipped,COMPRESS),)
$(call refuse,LLMLINGUA_PATH is unset: a model of your own needs a compressor too. The usual one is \
  LLMLINGUA_PATH=microsoft/llmlingua-2-xlm-roberta-large-meetingbank; with SKIP_COMPRESS=1 none is needed)
endif
ifneq ($(and $(filter 1,$(DUAL)),$(strip $(DUAL_MODEL))),)
$(call refuse,DUAL=1 makes a model with two vocabularies out of MODEL; DUAL_MODEL=$(DUAL_MODEL) is one: give one of them)
endif
KEY_SHORT := $(patsubst logprob_%,%,$(patsubst %answer,%ans,$(patsubst %post_cot,%pc,$(QUALITY_SCORE_KEY))))
ifeq ($(filter logprob_post_cot logprob_answer logprob_boxed,$(QUALITY_SCORE_KEY)),)
$(call refuse,QUALITY_SCORE_KEY=$(QUALITY_SCORE_KEY): must be logprob_post_cot or logprob_answer or logprob_boxed)
endif
PRESET_FILE := $(if $(findstring /,$(PRESET)),$(PRESET),$(ROOT)/pipelines/presets/$(PRESET))
$(call must_exist,$(PRESET_FILE) $(TRAIN_FILE) $(TEST_FILE),PRESET or TRAIN_FILE or TEST_FILE)

$(call first_line,$(NAME): MODEL=$(MODEL) LLMLINGUA_PATH=$(or $(strip $(LLMLINGUA_PATH)),none)$(if \
  $(DUAL_MODEL), DUAL_MODEL=$(DUAL_MODEL))$(if $(EMBEDDED), (both come with the programs; questions: dataset arith)))

MUST_OPEN := $(call real_or,$(MODEL) $(DUAL_MODEL) $(if $(call skipped,COMPRESS),,$(LLMLINGUA_PATH)))

# ---- names ----
SET := $(call real_or,$(BENCHMARK),arith)
lower = $(shell printf '%s' '$(1)' | tr '[:upper:]' '[:lower:]')
MODEL_NAME := $(call real_or,$(if $(filter $(DEFAULT_MODEL),$(MODEL)),$(DEFAULT_NAME),$(call lower,$(notdir $(MODEL:%/=%)))),embedded)
QF := $(if $(strip $(QUALITY_FILTER_TOP)),$(shell printf '%g' '$(QUALITY_FILTER_TOP)'))
RATE := $(if $(filter 1,$(words $(subst $(comma), ,$(TRAIN_RATIOS)))),rawtext,multirate)
# $(call tag,dual or nothing)
tag = $(RATE)$(if $(1),-dual)$(if $(QF),-qf$(QF)-$(KEY_SHORT))
KIND := $(if $(DUAL_MODEL),dual,standard)
DATA := $(OUT)/data/sft/$(if $(SMOKE),tokenskip_smoke_$(KIND),tokenskip)
RESULTS := $(OUT)/results/$(if $(SMOKE),sft_smoke,sft/$(SET))
# $(call model_dir,dual or nothing)
model_dir = $(RESULTS)/$(if $(SMOKE),$(SET)_tokenskip,$(MODEL_NAME)-tokenskip)$(if $(SMOKE),_,-)$(call tag,$(1))

QUESTIONS := $(OUT)/data/questions/$(SET)
ORIGINAL := $(DATA)/original/$(SET)/$(SET)_raw_original
COMPRESSED := $(DATA)/compressed/$(SET)_raw
SCORES := $(DATA)/scores/$(SET)_raw
CHOSEN := $(COMPRESSED)$(if $(QF),_qf$(QF)_$(QUALITY_SCORE_KEY))/compressed.jsonl
ROWS := $(if $(SMOKE),$(DATA)/rows,$(OUT)/data/sft/$(SET)_tokenskip_rawtext$(if $(QF),_qf$(QF)-$(KEY_SHORT))).jsonl
BASE := $(RESULTS)/$(MODEL_NAME)/eval/$(SET)_eval_ratio_1.0.jsonl

# $(call there,FILES,STEP): the files, which must be there because the step is skipped
there = $(call must_exist,$(1),SKIP_$(2)=1 takes what is there)$(1)

# ---- questions and samples ----
limit = $(if $(filter-out -1,$(1)),--limit $(1))
dataset = dataset $(SET) --split $(1) $(if $(2),--file $(2)) $(call limit,$(3)) --seed $(SEED)
ifneq ($(call skipped,COLLECT),1)
define collect_shard
$(call step,$(call shard_file,$(QUESTIONS)_train,$(1)),,$(call dataset,train,$(TRAIN_FILE),$(NUM_QUESTIONS)) $(call shard_option,$(1)))
$(call step,$(call shard_file,$(ORIGINAL),$(1)),$(call shard_file,$(QUESTIONS)_train,$(1)),collect \
  --model $(MODEL) --prompt-format tokenskip --num-samples $(NUM_SAMPLES) --temperature $(SAMPLE_TEMP) \
  --max-tokens $(MAX_TOKENS) --no-grade --seed $(SEED) $(call device,$(1)))
endef
$(foreach k,$(SHARDS),$(call collect_shard,$(k)))
COLLECTED_FILES := $(call shard_files,$(ORIGINAL))
else
COLLECTED_FILES := $(call there,$(or $(strip $(COLLECTED)),$(call shard_files,$(ORIGINAL))),COLLECT)
endif

# One stream of all shards, in order: the same bytes whatever their number. A better grader never samples again.
$(call step,$(ORIGINAL)_merged.jsonl,$(COLLECTED_FILES),grade \
  $(if $(call skipped,COLLECT),$(if $(strip $(COLLECTED)),--fill --benchmark $(BENCHMARK) --model $(MODEL))))

# ---- compression: one pass for all ratios ----
ifneq ($(call skipped,COMPRESS),1)
ratios := $(foreach r,$(subst $(comma), ,$(COMPRESS_RATIOS)),$(shell printf '%g' '$(r)'))
by_ratio := $(ratios:%=$(COMPRESSED)/compressed_ratio_%.jsonl)
$(call step,$(COMPRESSED)/compressed.jsonl $(by_ratio),$(ORIGINAL)_merged.jsonl,compress -o $(COMPRESSED)/compressed.jsonl \
  --output-dir $(COMPRESSED) --model $(LLMLINGUA_PATH) --target-model $(MODEL) --ratio $(COMPRESS_RATIOS) --max-cot-tokens $(MAX_COT_TOKENS) \
  --seed $(SEED) $(COMPRESS_OPTIONS) $(call device,0))
else
by_ratio := $(call there,$(wildcard $(COMPRESSED)/compressed_ratio_*.jsonl),COMPRESS)
$(if $(call there,$(COMPRESSED)/compressed.jsonl,COMPRESS),)
endif

# ---- the quality filter ----
ifneq ($(QF),)
ifneq ($(call skipped,QUALITY),1)
scores_of = $(patsubst $(COMPRESSED)/compressed_%,$(SCORES)/scores_%,$(1))
define score_ratio
$(call step,$(call scores_of,$(1)),$(1),score --model $(MODEL) --seed $(SEED) $(call device,$(words $(SCORED))))
$(eval SCORED += $(1))
endef
SCORED :=
$(foreach f,$(by_ratio),$(call score_ratio,$(f)))
$(call step,$(CHOSEN),$(COMPRESSED)/compressed.jsonl,select --top $(QUALITY_FILTER_TOP) --by $(QUALITY_SCORE_KEY) \
  $(foreach f,$(by_ratio),--scores $(call scores_of,$(f))) --seed $(SEED),$(call scores_of,$(by_ratio)))
else
$(if $(call there,$(CHOSEN),QUALITY),)
endif
endif

# ---- rows to train on ----
ifneq ($(call skipped,PREPARE),1)
$(call step,$(ROWS),$(CHOSEN),prepare --method tokenskip --ratio $(TRAIN_RATIOS) --seed $(SEED) $(PREPARE_OPTIONS))
else
$(if $(call there,$(ROWS),PREPARE),)
endif

# ---- questions to measure on, and the model as it was ----
$(call step,$(QUESTIONS)_test.jsonl,,$(call dataset,test,$(TEST_FILE),$(NUM_TEST)))
eval = eval --prompt-format tokenskip --max-tokens $(MAX_TOKENS) --seed $(SEED) --name $(SET) $(call device,0)
$(call step,$(BASE),$(QUESTIONS)_test.jsonl,$(eval) --model $(MODEL) --ratio 1.0 --output-dir $(patsubst %/,%,$(dir $(BASE))))

# ---- train and measure: $(call trained,BASE MODEL,dual or nothing) ----
LORA := $(shell sed -n 's/^method  *//p' '$(PRESET_FILE)' 2>&1 | grep -x lora)
ratio_files = $(foreach r,$(subst $(comma), ,$(EVAL_RATIOS)),$(1)/eval/$(SET)_eval_ratio_$(r).jsonl)
define trained
$(if $(call skipped,TRAIN),$(if $(call there,$(call model_dir,$(2)),TRAIN),),$(call step,$(call model_dir,$(2)),$(ROWS),train --model $(1) \
  --preset $(PRESET_FILE) --seed $(SEED) $(TRAIN_OPTIONS) $(call device,0),$(filter $(OUT)/%,$(1))))
$(call step,$(call ratio_files,$(call model_dir,$(2))),$(QUESTIONS)_test.jsonl,$(eval) --ratio $(EVAL_RATIOS) \
  --model $(call model_dir,$(2))$(if $(LORA),/merged) --output-dir $(call model_dir,$(2))/eval,$(call model_dir,$(2)))
$(eval RUNS += $(foreach f,$(call ratio_files,$(call model_dir,$(2))),$(if $(2),dual,tokenskip)=$(f)))
$(eval FINAL := $(call model_dir,$(2)))
endef
RUNS := base=$(BASE)
ifeq ($(strip $(DUAL_MODEL)),)
$(call trained,$(MODEL))
else
$(call trained,$(DUAL_MODEL),dual)
endif
ifeq ($(strip $(DUAL)),1)
DUALIZED := $(OUT)/data/models/$(MODEL_NAME)-dual
$(call step,$(DUALIZED),,dualize --model $(MODEL) --mode full_copy --seed $(SEED))
$(call trained,$(DUALIZED),dual)
endif

# ---- the table ----
TABLE := $(FINAL)/eval/report
measured := $(foreach r,$(RUNS),$(lastword $(subst =, ,$(r))))
REPORT := $(TABLE).txt
$(call step,$(TABLE).txt,,report --plot $(TABLE).png $(RUNS),$(measured))
$(call step,$(TABLE).md,,report --format markdown --plot $(TABLE).svg $(RUNS),$(measured))
$(call step,$(TABLE).jsonl,,report --format jsonl $(RUNS),$(measured))

ALL := $(TABLE).txt $(TABLE).md $(TABLE).jsonl

# The same bytes every time, so writing them again does no harm.
ifneq ($(strip $(WANDB_PROJECT)),)
.PHONY: wandb
wandb: $(measured) FORCE
	@$(BIN)/report -q --wandb $(OUT) --project '$(WANDB_PROJECT)' --run-name $(notdir $(FINAL))-eval $(RUNS) >/dev/null
	@$(BIN)/report -q --wandb $(OUT) --project '$(WANDB_PROJECT)' --run-name $(notdir $(FINAL)) $(FINAL)/metrics.jsonl >/dev/null
ALL += wandb
endif
