# embedded.mk - the two models that ship with the programs, from nothing: a reasoner that learns from worked solutions,
# and a compressor that learns which words of the reasoner's own traces its later numbers depend on.
#
# make -f pipelines/embedded.mk [help | plan | report | install-models | clean]
#
# About half an hour on 2 cores. install-models copies the models into data/models/, where `embedded:reasoner` and
# `embedded:compressor` are found. latent-embedded(7) tells the recipe and what it was measured to give.
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk

$(call var,NUM_QUESTIONS,50000,worked questions that the reasoner learns from)
$(call var,NUM_TRACES,1200,questions whose sampled traces the compressor learns from)
$(call var,NUM_TEST,500,questions to measure the reasoner on)
$(call var,MODELS,$(ROOT)/data/models,folder that install-models copies to)

$(call first_line,$(NAME): trains a reasoner and a compressor in $(OUT))

SHAPES := $(patsubst %/,%,$(dir $(PIPELINE)))/embedded
QUESTIONS := $(OUT)/data/questions
ROWS := $(OUT)/data/rows
REASONER := $(OUT)/reasoner
COMPRESSOR := $(OUT)/compressor
SAMPLES := $(OUT)/data/samples.jsonl
LABELS := $(OUT)/data/labels.jsonl.zst
EVAL := $(OUT)/results/arith_eval_ratio_1.jsonl
REPORT := $(OUT)/results/report.txt
# Every ratio is a row: how often a word is kept says how much it matters.
RATIOS := 0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9

# $(call learn,SHAPE): options that both models are trained with
learn = train --init $(SHAPES)/$(1)/config.json --tokenizer $(SHAPES)/$(1) --method full --dtype bfloat16 \
  --scheduler cosine --warmup 0.05 --weight-decay 0.01 --save-every 200 --seed $(SEED) $(call device,0)

# ---- the reasoner: full solutions only, no ratio, nothing shortened ----
$(call step,$(QUESTIONS)/train.jsonl,,dataset arith --split train --limit $(NUM_QUESTIONS) --seed $(SEED))
$(call step,$(ROWS)/reasoner.jsonl,$(QUESTIONS)/train.jsonl,prepare --method solution)
$(call step,$(REASONER),$(ROWS)/reasoner.jsonl,$(call learn,reasoner) --epochs 1 --batch-tokens 3072 \
  --pass-tokens 3072 --lr 3e-3)

$(call step,$(QUESTIONS)/test.jsonl,,dataset arith --split test --limit $(NUM_TEST) --seed $(SEED))
$(call step,$(EVAL),$(QUESTIONS)/test.jsonl,eval --model $(REASONER) --max-tokens 256 --seed $(SEED) $(call device,0))
$(call step,$(REPORT),$(EVAL),report)

# ---- the compressor: right samples of other questions ----
$(call step,$(QUESTIONS)/traces.jsonl,,dataset arith --split train --limit $(NUM_TRACES) --seed $(shell echo $$(($(SEED) + 1))))
$(call step,$(SAMPLES),$(QUESTIONS)/traces.jsonl,collect --model $(REASONER) --temperature 0.7 --max-tokens 256 \
  --seed $(SEED) $(call device,0))
$(call step,$(LABELS),$(SAMPLES),compress --method leave-out --model $(REASONER) --ratio $(RATIOS) --labels $(call device,0))
$(call step,$(ROWS)/compressor.jsonl,$(LABELS),prepare --method labels)
$(call step,$(COMPRESSOR),$(ROWS)/compressor.jsonl,$(call learn,compressor) --epochs 3 --batch-tokens 4096 \
  --pass-tokens 4096 --lr 2e-3)

# A model is no input file of its readers' command lines.
$(EVAL) $(SAMPLES) $(LABELS): | $(REASONER)

ALL := $(REASONER) $(COMPRESSOR) $(REPORT)

.PHONY: install-models
install-models: all
	@for m in reasoner compressor; do \
	  mkdir -p '$(MODELS)'/$$m; \
	  for f in $(OUT)/$$m/*; do \
	    case $$f in *metrics.jsonl) ;; *) install -m 644 "$$f" '$(MODELS)'/$$m/ ;; esac; \
	  done; \
	  $(BIN)/verify -q '$(MODELS)'/$$m; \
	done
