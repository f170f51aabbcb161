# tokenskip.mk - the steps of TokenSkip (arXiv 2502.12067), for the pipelines that include it:
#
#   questions -> collect -> grade -> compress (all ratios) [-> score -> select, the quality filter] -> prepare -> train
#   test questions -> eval of the model as it was, and of the trained one at every ratio -> report
#
# The including file sets BENCHMARK and the DEFAULT_... values of real models; finetune.mk has what other experiments
# share. File names are those of the Python stack.
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk

# The embedded model is small and forgets: many questions once rather than few often, few ratios and a row of each.
FEW := 0.7$(comma)0.5$(comma)0.3

$(call var,MODEL,$(call real_or,$(DEFAULT_MODEL),embedded:reasoner),checkpoint that is sampled and trained)
$(call var,LLMLINGUA_PATH,$(call real_or,,embedded:compressor),compressor: an LLMLingua-2 encoder)
$(call var,DUAL_MODEL,,checkpoint with two vocabularies that is trained and measured instead of MODEL)
$(call var,DUAL,,1: MODEL with a second vocabulary too and its results beside the standard ones)
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
$(call var,END_BIAS,$(call real_or,,0),two vocabularies: added to the logit of the think end while thinking; unset: what eval has)
$(call var,WANDB_PROJECT,,also writes offline W&B runs of this project)
$(call var,COLLECTED,,with SKIP_COLLECT=1: samples of your own; what they lack is filled in)
$(foreach s,COLLECT COMPRESS QUALITY PREPARE TRAIN,$(call var,SKIP_$(s),,1: this step does not run: what it made before is used))

EMBEDDED_PRESET := embedded_tokenskip
SMALL_QUESTIONS := 4000
SMALL_TEST := 500
ifdef SMOKE
$(call var,NUM_QUESTIONS,20,questions to train on)
$(call var,NUM_TEST,10,questions to measure on)
$(call var,TRAIN_OPTIONS,--epochs 1 --max-steps 0,further options of train)
endif
include $(ROOT)/pipelines/finetune.mk

# ---- what cannot work is said before anything runs ----
ifeq ($(strip $(LLMLINGUA_PATH))$(call skipped,COMPRESS),)
$(call refuse,LLMLINGUA_PATH is unset: a model of your own needs a compressor too. The usual one is \
  LLMLINGUA_PATH=microsoft/llmlingua-2-xlm-roberta-large-meetingbank; with SKIP_COMPRESS=1 none is needed)
endif
ifneq ($(and $(filter 1,$(DUAL)),$(strip $(DUAL_MODEL))),)
$(call refuse,DUAL=1 makes a model with two vocabularies out of MODEL; DUAL_MODEL=$(DUAL_MODEL) is one: give one of them)
endif
ifeq ($(filter logprob_post_cot logprob_answer logprob_boxed,$(QUALITY_SCORE_KEY)),)
$(call refuse,QUALITY_SCORE_KEY=$(QUALITY_SCORE_KEY): must be logprob_post_cot or logprob_answer or logprob_boxed)
endif
# $(call numbers,LIST): its ratios as file names have them, or nothing if one is no share above 0 and at most 1
numbers = $(strip $(shell awk -v list='$(1)' 'BEGIN { n = split(list, r, ","); for (i = 1; i <= n; i++) { \
  if (r[i] !~ /^[0-9]*[.]?[0-9]+$$/ || r[i] + 0 <= 0 || r[i] + 0 > 1) exit; out = out sprintf(" %g", r[i]) } print out }'))
shares = $(if $(call numbers,$($(1))),,$(call refuse,$(1)=$($(1)): must be $(2) above 0 and at most 1))
$(foreach v,COMPRESS_RATIOS TRAIN_RATIOS EVAL_RATIOS,$(call shares,$(v),ratios))
$(if $(strip $(QUALITY_FILTER_TOP)),$(call shares,QUALITY_FILTER_TOP,a share))
QF := $(call numbers,$(QUALITY_FILTER_TOP))
unmade := $(if $(call skipped,PREPARE),,$(firstword $(filter-out 1 $(call numbers,$(COMPRESS_RATIOS)),$(call numbers,$(TRAIN_RATIOS)))))
$(if $(unmade),$(call refuse,TRAIN_RATIOS=$(TRAIN_RATIOS): nothing is compressed to $(unmade); COMPRESS_RATIOS=$(COMPRESS_RATIOS)))

$(call first_line,$(NAME): MODEL=$(MODEL) LLMLINGUA_PATH=$(or $(strip $(LLMLINGUA_PATH)),none)$(if \
  $(DUAL_MODEL), DUAL_MODEL=$(DUAL_MODEL))$(if $(EMBEDDED), (both come with the programs; questions: dataset arith)))

MUST_OPEN += $(call real_or,$(DUAL_MODEL) $(if $(call skipped,COMPRESS),,$(LLMLINGUA_PATH)))

# ---- names ----
KEY_SHORT := $(patsubst logprob_%,%,$(patsubst %answer,%ans,$(patsubst %post_cot,%pc,$(QUALITY_SCORE_KEY))))
RATE := $(if $(filter 1,$(words $(subst $(comma), ,$(TRAIN_RATIOS)))),rawtext,multirate)
# $(call tag,dual or nothing)
tag = $(RATE)$(if $(1),-dual)$(if $(QF),-qf$(QF)-$(KEY_SHORT))
KIND := $(if $(DUAL_MODEL),dual,standard)
DATA := $(SFT)/$(if $(SMOKE),tokenskip_smoke_$(KIND),tokenskip)
RESULTS := $(if $(SMOKE),$(OUT)/results/sft_smoke,$(RESULTS))
# $(call model_dir,dual or nothing)
model_dir = $(RESULTS)/$(if $(SMOKE),$(SET)_tokenskip_,$(MODEL_NAME)-tokenskip-)$(call tag,$(1))

ORIGINAL := $(DATA)/original/$(SET)/$(SET)_raw_original
COMPRESSED := $(DATA)/compressed/$(SET)_raw
SCORES := $(DATA)/scores/$(SET)_raw
CHOSEN := $(COMPRESSED)$(if $(QF),_qf$(QF)_$(QUALITY_SCORE_KEY))/compressed.jsonl
ROWS := $(if $(SMOKE),$(DATA)/rows,$(SFT)/$(SET)_tokenskip_rawtext$(if $(QF),_qf$(QF)-$(KEY_SHORT))).jsonl
BASE := $(RESULTS)/$(MODEL_NAME)/eval/$(SET)_eval_ratio_1.0.jsonl

# $(call there,FILES,STEP): the files, which must be there because the step is skipped
there = $(call must_exist,$(1),SKIP_$(2)=1 takes what is there)$(1)

# ---- samples ----
ifneq ($(call skipped,COLLECT),1)
define collect_shard
$(call questions,$(1))
$(call step,$(call shard_file,$(ORIGINAL),$(1)),$(call train_questions,$(1)),collect \
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
by_ratio := $(patsubst %,$(COMPRESSED)/compressed_ratio_%.jsonl,$(call numbers,$(COMPRESS_RATIOS)))
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

# ---- the model as it was ----
eval = eval --prompt-format tokenskip --max-tokens $(MAX_TOKENS) --seed $(SEED) --name $(SET) $(first_gpu)
$(call step,$(BASE),$(TEST),$(eval) --model $(MODEL) --ratio 1.0 --output-dir $(patsubst %/,%,$(dir $(BASE))))

# ---- trained, and measured at every ratio: $(call conditioned,BASE MODEL,dual or nothing) ----
ratio_files = $(foreach r,$(subst $(comma), ,$(EVAL_RATIOS)),$(1)/eval/$(SET)_eval_ratio_$(r).jsonl)
define conditioned
$(eval folder := $(call model_dir,$(2)))
$(if $(call skipped,TRAIN),$(if $(call there,$(folder),TRAIN),),$(call trained,$(folder),$(1),$(ROWS)))
$(call step,$(call ratio_files,$(folder)),$(TEST),$(eval) --ratio $(EVAL_RATIOS) $(if $(2),$(if $(END_BIAS),--end-bias $(END_BIAS))) \
  --model $(call weights,$(folder)) --output-dir $(folder)/eval,$(folder))
$(eval RUNS += $(foreach f,$(call ratio_files,$(folder)),$(if $(2),dual,tokenskip)=$(f)))
endef
RUNS := base=$(BASE)
ifeq ($(strip $(DUAL_MODEL)),)
$(call conditioned,$(MODEL))
else
$(call conditioned,$(DUAL_MODEL),dual)
endif
ifeq ($(strip $(DUAL)),1)
DUALIZED := $(OUT)/data/models/$(MODEL_NAME)-dual
$(call step,$(DUALIZED),,dualize --model $(MODEL) --mode full_copy --seed $(SEED))
$(call conditioned,$(DUALIZED),dual)
endif
$(call table,$(folder)/eval,,$(RUNS))

# The same bytes every time, so writing them again does no harm.
ifneq ($(strip $(WANDB_PROJECT)),)
.PHONY: wandb
wandb: $(MEASURED) FORCE
	@$(BIN)/report -q --wandb $(OUT) --project '$(WANDB_PROJECT)' --run-name $(notdir $(folder))-eval $(RUNS) >/dev/null
	@$(BIN)/report -q --wandb $(OUT) --project '$(WANDB_PROJECT)' --run-name $(notdir $(folder)) $(folder)/metrics.jsonl >/dev/null
ALL += wandb
endif
