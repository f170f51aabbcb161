#!/bin/bash
# tokenskip.sh - does TokenSkip hold on the embedded models? The pipeline once for each seed (questions, samples, rows and
# training all depend on it), then once with the compressor's scores shuffled inside each trace: what the right words are
# worth. Prints a row for each run, the checks, and exits 1 if one fails.
#
#     tests/bench/tokenskip.sh [OUT]      OUT (out/tokenskip): keeps everything; a second call computes nothing again
#     SEEDS='1 2 3'                       at least 500 test questions each, paired over all seeds
set -eu -o pipefail
cd "$(dirname "$0")/../.."
out=${1:-out/tokenskip}
seeds=${SEEDS:-1 2 3}
read -ra list <<<"$seeds"
ratios='1.0 0.7 0.5 0.3'
pipeline() { make -s -f pipelines/tokenskip_math.mk EVAL_RATIOS="${ratios// /,}" "$@"; }
rows() { echo "$1/results/sft/arith/embedded-tokenskip-multirate/eval/arith_eval_ratio_$2.jsonl"; }

for s in "${list[@]}"; do pipeline SEED="$s" OUT="$out/$s" >/dev/null; done

# The first seed again with shuffled scores: the same multiset of scores, each at a random word of its trace.
s=${list[0]}
shuffled=$out/shuffled
mkdir -p "$shuffled"
samples=$out/$s/data/sft/tokenskip/original/arith/arith_raw_original_merged.jsonl
bin/compress -q --ratio 0.5 --seed "$s" --target-model embedded:reasoner --save-scores "$shuffled/scores.jsonl" \
  -o "$shuffled/unused.jsonl" "$samples"
jq -c --argjson seed "$s" '
  .p |= (. as $a | (length) as $n | reduce range($n - 1; 0; -1) as $i ({ a: $a, x: ($seed * 7919 + $n) };
    .x = ((.x * 1103515245 + 12345) % 2147483648) | (.x / 65536 | floor % ($i + 1)) as $j
    | .a[$i] as $t | .a[$i] = .a[$j] | .a[$j] = $t) | .a)' "$shuffled/scores.jsonl" >"$shuffled/mixed.jsonl"
pipeline SEED="$s" OUT="$shuffled/run" COMPRESS_OPTIONS="--scores $(realpath "$shuffled/mixed.jsonl")" >/dev/null

# All seeds as one run: the questions of a seed are its own.
mkdir -p "$out/all"
for r in $ratios; do
  for s in "${list[@]}"; do jq -c --arg s "$s" '.source_id |= "\($s)_\(.)"' "$(rows "$out/$s" "$r")"; done >"$out/all/arith_eval_ratio_$r.jsonl"
done
bin/report -q --format jsonl "$out"/all/arith_eval_ratio_*.jsonl >"$out/all.jsonl"
bin/report -q --format jsonl "shuffled=$(rows "$shuffled/run" 1.0)" "shuffled=$(rows "$shuffled/run" 0.5)" >"$out/shuffled.jsonl"
for s in "${list[@]}"; do
  # shellcheck disable=SC2046 # a word for each ratio
  bin/report -q --format jsonl $(for r in $ratios; do echo "seed-$s=$(rows "$out/$s" "$r")"; done)
done >"$out/each.jsonl"

printf 'run\tratio\tquestions\taccuracy %%\tthink\tlength\tchange\t95 %%\n'
jq -r 'def pct: . * 1000 | round / 10; [.run, .compression_ratio, .questions, (.accuracy | pct), (.think_mean * 10 | round / 10),
  (.length_ratio // 1 | . * 1000 | round / 1000)] +
  (if .difference then [(.difference | pct), "\(.difference_lo | pct)..\(.difference_hi | pct)"] else ["-", "-"] end) | @tsv' \
  "$out/each.jsonl" "$out/all.jsonl" "$out/shuffled.jsonl"

failed=0
check() { # WHAT JQ-CONDITION, over the rows of all seeds (.all) and of the shuffled run (.shuffled), by ratio
  if jq -e -n --slurpfile all "$out/all.jsonl" --slurpfile shuffled "$out/shuffled.jsonl" --slurpfile each "$out/each.jsonl" '
    def at($rows; $r): $rows[] | select(.compression_ratio == $r); '"$2" >/dev/null; then echo "holds: $1"; else echo "FAILS: $1"; failed=1; fi
}
first="[\$each[] | select(.run == \"seed-${list[0]}\")]"
check 'at least 500 questions' 'at($all; 1).questions >= 500'
check 'accuracy at 1.0 at least 80 %' 'at($all; 1).accuracy >= 0.8'
check 'length of reasoning falls from 1.0 to 0.3' '[at($all; 1, 0.7, 0.5, 0.3).think_mean] as $t | $t == ($t | unique | reverse)'
check 'to at most 60 % of it' 'at($all; 0.3).length_ratio <= 0.6'
check 'change at 0.5: lower end of its interval above -5 points' 'at($all; 0.5).difference_lo > -0.05'
check 'shuffled scores: at least 5 points worse at 0.5' "at($first; 0.5).accuracy - at(\$shuffled; 0.5).accuracy >= 0.05"
exit $failed
