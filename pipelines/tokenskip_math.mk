# tokenskip_math.mk - TokenSkip on MATH: teach a thinking model to reason in a share of its tokens, and measure it.
#
# make -f pipelines/tokenskip_math.mk [help | plan | report | clean]
#
# With MODEL, DUAL_MODEL and LLMLINGUA_PATH unset it runs on the embedded models and on word problems made on the spot, in
# minutes on a laptop. tokenskip.mk has the steps.
BENCHMARK := math
DEFAULT_MODEL := Qwen/Qwen3-4B-Thinking-2507
DEFAULT_PRESET := math_tokenskip
DEFAULT_SAMPLES := 8
DEFAULT_TEMP := 0.7
DEFAULT_TOKENS := 4096
DEFAULT_MAX_COT := 2000
DEFAULT_COMPRESS := 0.1,0.3,0.5,0.7
DEFAULT_EVAL := 1.0,0.7,0.5,0.3,0.1
include $(dir $(lastword $(MAKEFILE_LIST)))tokenskip.mk
