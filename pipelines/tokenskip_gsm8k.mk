# tokenskip_gsm8k.mk - TokenSkip on GSM8K as its paper has it: one greedy trace a question, ratios 0.9 to 0.5.
#
# make -f pipelines/tokenskip_gsm8k.mk [help | plan | report | clean]
#
# With MODEL, DUAL_MODEL and LLMLINGUA_PATH unset it runs on the embedded models and on word problems made on the spot, with
# what suits them instead of the paper's values: the same run as that of tokenskip_math.mk.
# tokenskip.mk has the steps.
BENCHMARK := gsm8k
DEFAULT_MODEL := Qwen/Qwen2.5-3B-Instruct
DEFAULT_PRESET := gsm8k_tokenskip
DEFAULT_SAMPLES := 1
DEFAULT_TEMP := 0
DEFAULT_TOKENS := 512
DEFAULT_MAX_COT := 500
DEFAULT_COMPRESS := 0.9,0.8,0.7,0.6,0.5
DEFAULT_EVAL := 1.0,0.9,0.8,0.7,0.6,0.5
include $(dir $(lastword $(MAKEFILE_LIST)))tokenskip.mk
