# smoke.mk - every step of TokenSkip on a handful of questions, to see that models, compressor and machine work together
# before the real run. Its numbers mean nothing.
#
# make -f pipelines/smoke.mk [help | plan | report | clean]
BENCHMARK := math
DEFAULT_MODEL := Qwen/Qwen3-4B-Thinking-2507
DEFAULT_PRESET := math_tokenskip
DEFAULT_SAMPLES := 1
DEFAULT_TEMP := 0
DEFAULT_TOKENS := 4096
DEFAULT_MAX_COT := 2000
DEFAULT_COMPRESS := 0.5
DEFAULT_EVAL := 0.5
SMOKE := 1
include $(dir $(lastword $(MAKEFILE_LIST)))tokenskip.mk
