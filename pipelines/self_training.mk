# self_training.mk - self-training on concise samples (arXiv 2502.20122): a model samples, its shortest right answers
# become examples to sample again with, and it is trained on the shortest right answer to each question.
#
# make -f pipelines/self_training.mk [help | plan | report | clean]
#
#   questions -> collect -> grade -> select (exemplars) -> collect with them -> grade -> select (shortest of both rounds)
#   -> prepare -> train -> eval -> report
#
# FORMAT=xml asks for <think> and <answer> tags through the chat template; FORMAT=paper for 'The answer is', trains on raw
# text and measures on the bare question, as the paper does. The embedded reasoner has learnt one prompt and follows no
# exemplars: without MODEL the format is that prompt (tokenskip), and there is one round, without few-shot.
DEFAULT_MODEL := Qwen/Qwen2.5-3B-Instruct
EMBEDDED_PRESET := embedded_concise
SMALL_QUESTIONS := 600
SMALL_TEST := -1
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk

$(call var,MODEL,$(call real_or,$(or $(strip $(DUAL_MODEL)),$(DEFAULT_MODEL)),embedded:reasoner),checkpoint that is sampled and trained)
$(call var,BENCHMARK,gsm8k,gsm8k or math)
$(call var,FORMAT,$(call real_or,xml,tokenskip),xml or paper or tokenskip: how questions are put and answers written)
METHOD := self-training-concise$(if $(filter paper,$(FORMAT)),-rawtext)
MATH := $(filter math,$(BENCHMARK))
DEFAULT_PRESET := $(if $(MATH),math_concise,gsm8k_concise_$(if $(filter paper,$(FORMAT)),rawtext,xml))
$(call var,NUM_SAMPLES,$(call real_or,16,3),samples of each question in each round)
$(call var,SAMPLE_TEMP,$(call real_or,0.7,1.0),temperature of the samples)
$(call var,TOP_P,$(call real_or,0.95,1),smallest set of tokens with this probability)
$(call var,TOP_K,$(call real_or,40,0),the likeliest tokens; 0: all)
$(call var,MAX_TOKENS,$(call real_or,$(if $(MATH),1024,512),300),tokens of an answer at most)
$(call var,MAX_THINK_TOKENS,$(call real_or,$(if $(MATH),1022,510),-1),longer samples are no exemplars and not trained on; -1: any length)
$(call var,SELECT_OPTIONS,$(if $(filter paper,$(FORMAT)),--whole),further options of select; --whole: lengths and repeats of whole answers)
$(call var,NUM_EXEMPLARS,128,exemplars: the shortest right samples)
$(call var,NUM_FEW_SHOT,$(call real_or,8,0),of which so many are drawn for each question; 0: no second round)
$(call var,ZERO_GPUS,$(GPUS),GPUs of the first round; the shards take them in turn)
$(call var,FEW_GPUS,$(GPUS),GPUs of the second round)
include $(ROOT)/pipelines/finetune.mk

ifeq ($(filter xml paper tokenskip,$(FORMAT)),)
$(call refuse,FORMAT=$(FORMAT): must be xml or paper or tokenskip)
endif
$(call first_line,$(NAME): MODEL=$(MODEL) FORMAT=$(FORMAT)$(if $(EMBEDDED), (the embedded reasoner on questions of dataset arith$(comma) \
  in the one prompt it knows; $(if $(filter 0,$(NUM_FEW_SHOT)),no few-shot round: it follows no exemplars,it follows no exemplars))))

COT := $(SFT)/cot_samples/$(SET)_cot
EXEMPLARS := $(SFT)/cot_samples/$(SET)_exemplars.jsonl
CHOSEN := $(SFT)/cot_samples/$(SET)_concise_$(FORMAT).jsonl
ROWS := $(SFT)/$(SET)_concise_$(FORMAT)$(if $(filter paper,$(FORMAT)),_augmented).jsonl

# ---- samples: $(call round,ROUND,GPUS,COLLECT OPTIONS,FILE) ----
define collect_shard
$(call step,$(call shard_file,$(COT)_$(1),$(5)),$(call train_questions,$(5)),collect --model $(MODEL) \
  --prompt-format $(FORMAT) --num-samples $(NUM_SAMPLES) --temperature $(SAMPLE_TEMP) --top-p $(TOP_P) --top-k $(TOP_K) \
  --max-tokens $(MAX_TOKENS) --no-grade --seed $(SEED) $(3) $(call on,$(2),$(5)),$(4))
endef
# One stream of all shards, in order: the same bytes whatever their number. A better grader never samples again.
define round
$(foreach k,$(SHARDS),$(call collect_shard,$(1),$(subst $(comma), ,$(2)),$(3),$(4),$(k)))
$(call step,$(COT)_$(1)_merged.jsonl,$(call shard_files,$(COT)_$(1)),grade)
endef
$(foreach k,$(SHARDS),$(call questions,$(k)))
$(call round,zero-shot,$(ZERO_GPUS))

choose = select --correct $(SELECT_OPTIONS) --max-cot-tokens $(MAX_THINK_TOKENS) --seed $(SEED)
ifneq ($(NUM_FEW_SHOT),0)
$(call step,$(EXEMPLARS),$(COT)_zero-shot_merged.jsonl,$(choose) --exemplars $(NUM_EXEMPLARS))
$(call round,few-shot,$(FEW_GPUS),--few-shot $(EXEMPLARS) --num-few-shot $(NUM_FEW_SHOT),$(EXEMPLARS))
endif

# ---- the shortest right sample of each question, over both rounds ----
both := $(COT)_zero-shot_merged.jsonl $(if $(filter-out 0,$(NUM_FEW_SHOT)),$(COT)_few-shot_merged.jsonl)
$(call step,$(CHOSEN),$(both),$(choose) --dedup --shortest 1)
$(call step,$(ROWS),$(CHOSEN),prepare --method concise --format $(FORMAT) --seed $(SEED))

$(call finetuned,$(METHOD),$(ROWS),--prompt-format $(if $(filter paper,$(FORMAT)),raw,$(FORMAT)) --max-tokens $(MAX_TOKENS))
