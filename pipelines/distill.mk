# distill.mk - drafts: a model is shown how to reason in a sketch (Sketch-of-Thought) or in drafts of five words (Chain of
# Draft), and is trained on its shortest right ones until it writes them without being shown.
#
# make -f pipelines/distill.mk MODEL=... [help | plan | report | clean]
#
#   questions -> collect with system text and exemplars -> grade -> select (the K shortest) -> prepare -> train
#   -> eval with the system text alone, of both models -> report
#
# System text and exemplars are data, PROMPT_DATA=sot or cod or a file of your own (latent-record(5)). It needs a MODEL:
# the embedded reasoner has learnt one prompt and follows no instructions.
DEFAULT_MODEL := Qwen/Qwen3-4B-Thinking-2507
EMBEDDED_PRESET := embedded_tokenskip
SMALL_QUESTIONS := -1
SMALL_TEST := -1
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk

$(call var,MODEL,$(call real_or,$(or $(strip $(DUAL_MODEL)),$(DEFAULT_MODEL)),embedded:reasoner),checkpoint that is sampled and trained)
$(call var,BENCHMARK,gsm8k,gsm8k or math)
$(call var,PROMPT_DATA,sot,sot or cod or a file: how to reason)
METHOD := $(basename $(notdir $(PROMPT_DATA)))-distill
DEFAULT_PRESET := $(if $(strip $(DUAL_MODEL)),sot_latent,sot_vanilla)
$(call var,NUM_SAMPLES,16,samples of each question)
$(call var,SAMPLE_TEMP,0.7,temperature of the samples)
$(call var,TOP_P,0.95,smallest set of tokens with this probability)
$(call var,MAX_TOKENS,4096,tokens of a sample at most)
$(call var,PROMPT_LAYOUT,multiturn,multiturn or inlined: where the exemplars stand)
$(call var,TOP_K,4,right samples of a question that are trained on: the shortest)
$(call var,EVAL_TOKENS,16384,tokens of an answer at most when measuring)
include $(ROOT)/pipelines/finetune.mk

ifneq ($(EMBEDDED),)
$(call refuse,MODEL is unset: the embedded reasoner follows no instructions: there is nothing to distil from it)
endif
$(call first_line,$(NAME): MODEL=$(MODEL) PROMPT_DATA=$(PROMPT_DATA))

SAMPLES := $(SFT)/$(METHOD)/$(SET)_raw
ROWS := $(SFT)/$(METHOD)/$(SET)_rows.jsonl
data_file := $(if $(findstring /,$(PROMPT_DATA))$(wildcard $(PROMPT_DATA)),$(PROMPT_DATA))
$(call must_exist,$(data_file),PROMPT_DATA)

define collect_shard
$(call questions,$(1))
$(call step,$(call shard_file,$(SAMPLES),$(1)),$(call train_questions,$(1)),collect --model $(MODEL) \
  --prompt-data $(PROMPT_DATA) --prompt-layout $(PROMPT_LAYOUT) --num-samples $(NUM_SAMPLES) --temperature $(SAMPLE_TEMP) \
  --top-p $(TOP_P) --max-tokens $(MAX_TOKENS) --no-grade --seed $(SEED) $(call device,$(1)),$(data_file))
endef
$(foreach k,$(SHARDS),$(call collect_shard,$(k)))
$(call step,$(SAMPLES)_merged.jsonl,$(call shard_files,$(SAMPLES)),grade)
$(call step,$(SAMPLES)_short.jsonl,$(SAMPLES)_merged.jsonl,select --correct --dedup --shortest $(TOP_K) --seed $(SEED))
$(call step,$(ROWS),$(SAMPLES)_short.jsonl,prepare --method distill --prompt-data $(PROMPT_DATA) --seed $(SEED),$(data_file))
$(call finetuned,$(METHOD),$(ROWS),--prompt-data $(PROMPT_DATA) --prompt-layout system-only --max-tokens $(EVAL_TOKENS))
