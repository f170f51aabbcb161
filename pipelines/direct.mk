# direct.mk - answer-only fine-tuning: the gold answer without any reasoning, to know what reasoning is worth.
#
# make -f pipelines/direct.mk [help | plan | report | clean]
#
#   questions -> prepare -> train -> eval -> report
#
# Without MODEL it runs on the embedded reasoner, in the one prompt that knows, and on questions of dataset arith. Where the
# chat template opens the thinking, what is learnt is to close it at once.
DEFAULT_MODEL := Qwen/Qwen2.5-3B-Instruct
EMBEDDED_PRESET := embedded_tokenskip
SMALL_QUESTIONS := 2000
SMALL_TEST := -1
DEFAULT_PRESET := gsm8k_direct
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk

$(call var,MODEL,$(call real_or,$(or $(strip $(DUAL_MODEL)),$(DEFAULT_MODEL)),embedded:reasoner),checkpoint that is sampled and trained)
$(call var,BENCHMARK,gsm8k,gsm8k or math)
$(call var,FORMAT,$(call real_or,xml,tokenskip),xml or paper or tokenskip: how questions are put and answers written)
$(call var,MAX_TOKENS,$(call real_or,$(if $(filter math,$(BENCHMARK)),4096,512),300),tokens of an answer at most)
include $(ROOT)/pipelines/finetune.mk

ifeq ($(filter xml paper tokenskip,$(FORMAT)),)
$(call refuse,FORMAT=$(FORMAT): must be xml or paper or tokenskip)
endif
$(call first_line,$(NAME): MODEL=$(MODEL) FORMAT=$(FORMAT)$(if $(EMBEDDED), (the embedded reasoner on questions of dataset arith)))

ROWS := $(SFT)/$(SET)_direct.jsonl
$(foreach k,$(SHARDS),$(call questions,$(k)))
$(call step,$(ROWS),$(foreach k,$(SHARDS),$(call train_questions,$(k))),prepare --method direct --format $(FORMAT) --seed $(SEED))
$(call finetuned,direct,$(ROWS),--prompt-format $(FORMAT) --max-tokens $(MAX_TOKENS))
