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
EMBEDDED_QUESTIONS := 2000
METHOD := direct
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk

DEFAULT_PRESET := gsm8k_direct
$(call var,FORMAT,$(call real_or,xml,tokenskip),xml or paper or tokenskip: how questions are put and answers written)
$(call var,MAX_TOKENS,$(call real_or,$(if $(filter math,$(BENCHMARK)),4096,512),300),tokens of an answer at most)
include $(ROOT)/pipelines/finetune.mk

ifeq ($(filter xml paper tokenskip,$(FORMAT)),)
$(call refuse,FORMAT=$(FORMAT): must be xml or paper or tokenskip)
endif
$(call first_line,$(NAME): MODEL=$(MODEL) FORMAT=$(FORMAT)$(if $(EMBEDDED), (the embedded reasoner on questions of dataset arith)))

ROWS := $(SFT)/$(SET)_direct.jsonl
$(call step,$(QUESTIONS)_train.jsonl,,$(call dataset,train,$(TRAIN_FILE),$(NUM_QUESTIONS)))
$(call step,$(ROWS),$(QUESTIONS)_train.jsonl,prepare --method direct --format $(FORMAT) --seed $(SEED))
measure := --prompt-format $(FORMAT) --max-tokens $(MAX_TOKENS)
$(call finetuned,$(ROWS),$(measure),$(measure))
