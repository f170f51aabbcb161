load lib

# row ID RATIO CORRECT TOKENS THINK [MORE]
row() {
  echo '{"benchmark": "math", "source_id": "math_test_'"$1"'", "sample_index": 0, "compression_ratio": '"$2"', "is_correct": '"$3"', "extracted": '"$([ "$3" = true ] && echo '"1"' || echo null)"', "num_tokens": '"$4"', "think_tokens": '"$5"', "finish_reason": "'"$([ "$4" -ge 100 ] && echo length || echo stop)"'"'"${6-}"'}'
}

# Ten questions at two ratios; the numbers below were computed by hand.
rows() {
  for i in 0 1 2 3 4 5 6 7 8 9; do
    row $i 1 "$([ $i -lt 8 ] && echo true || echo false)" $((10 * i + 10)) $((10 * i)) >>math_eval_ratio_1.jsonl
    row $i 0.5 "$([ $i -lt 7 ] && echo true || echo false)" 50 27 >>math_eval_ratio_0.5.jsonl
  done
}

@test "report: accuracy, intervals, lengths and shares against hand-computed numbers" {
  rows
  report --format jsonl math_eval_ratio_0.5.jsonl math_eval_ratio_1.jsonl >t.jsonl
  [ "$(jq -r .compression_ratio t.jsonl | xargs)" = "1 0.5" ] # ratios fall, whatever the order of the files
  jq -se '.[0] | .run == "math" and .questions == 10 and .samples == 10 and .accuracy == 0.8 and
    (.accuracy_lo - 0.4902 | fabs) < 5e-5 and (.accuracy_hi - 0.9433 | fabs) < 5e-5 and
    .think_mean == 45 and .think_p50 == 45 and .think_p90 == 81 and .tokens_mean == 55 and .tokens_p90 == 91 and
    .tokens_correct == 45 and .tokens_per_correct == 68.75 and .truncated == 0.1 and .unanswered == 0.2 and
    .accuracy_compat == null and .pass_at_k == null and .length_ratio == 1' t.jsonl
  jq -se '.[1] | .accuracy == 0.7 and .baseline_ratio == 1 and .paired_questions == 10 and .baseline_only == 1 and
    .this_only == 0 and (.difference + 0.1 | fabs) < 1e-12 and .difference_lo < -0.1 and .difference_hi > -0.1 and
    .length_ratio == 0.6' t.jsonl
}

@test "report: text and Markdown have the columns that have values" {
  rows
  report math_eval_ratio_*.jsonl >t.txt
  grep -qE '^run +benchmark +ratio +n +accuracy % +95 % +think' t.txt
  grep -qE '^math +math +1 +10 +80.0 +49.0-94.3 +45.0 +45.0 +81.0 +55.0' t.txt
  grep -qE '^math +math +0.5 +10 +70.0 .* 0.600 +-10.0 +-[0-9.]+ to \+[0-9.]+ +10$' t.txt
  not grep -q compat t.txt
  report --format markdown math_eval_ratio_*.jsonl >t.md
  [ "$(wc -l <t.md)" = 4 ]
  sed -n 2p t.md | grep -qE '^(\| :?-+:? )+\|$'
  row 0 1 true 1 1 ', "is_correct_compat": false' | report >c.txt
  grep -q 'compat %' c.txt
}

@test "report: --pair compares with the first file" {
  rows
  sed 's/"compression_ratio": 0.5/"compression_ratio": 1/' math_eval_ratio_0.5.jsonl >b.jsonl
  report --pair --format jsonl math_eval_ratio_1.jsonl new=b.jsonl | tail -1 >t.jsonl
  jq -e '.run == "new" and .baseline_run == "math" and .baseline_only == 1 and .paired_questions == 10' t.jsonl
  fails 2 'at least two' report --pair b.jsonl
}

@test "report: several samples give pass@k, and weigh each question once" {
  for s in 0 1; do
    row 0 1 true 10 5 | sed "s/\"sample_index\": 0/\"sample_index\": $s/"
    row 1 1 "$([ $s = 0 ] && echo true || echo false)" 10 5 | sed "s/\"sample_index\": 0/\"sample_index\": $s/"
  done >two.jsonl
  report --format jsonl two.jsonl >t.jsonl
  jq -e '.questions == 2 and .samples == 4 and .accuracy == 0.75 and .k == 2 and .pass_at_k == 1' t.jsonl
}

@test "report: the reference's files, ratio from their summary line" {
  echo '{"type": "summary", "compression_ratio": 0.7, "accuracy": 1.0}' >ref.jsonl
  echo '{"source_id": "gsm8k_test_0", "prediction": "", "thinking": "", "num_tokens": 9, "think_tokens": 4, "is_correct": true, "extracted": "3"}' >>ref.jsonl
  report --format jsonl ref.jsonl | jq -e '.benchmark == "gsm8k" and .compression_ratio == 0.7 and .truncated == null'
}

@test "report: bad input is one sentence with its place" {
  rows
  printf '' | fails 1 '^report: no result rows' report
  echo '{"source_id": 1' >broken.jsonl
  fails 1 '^report: broken.jsonl:1: ' report broken.jsonl
  echo '{"source_id": "a", "is_correct": true, "think_tokens": 1}' >short.jsonl
  fails 1 '^report: short.jsonl:1: .*num_tokens' report short.jsonl
  printf '{"source_id": "\xff"}\n' >bytes.jsonl
  fails 1 '^report: bytes.jsonl:1: .*UTF-8' report bytes.jsonl
  fails 1 'sample 0 of math_test_0 stands twice' report a=math_eval_ratio_1.jsonl a=math_eval_ratio_1.jsonl
  fails 1 'nowhere.jsonl' report nowhere.jsonl
  fails 2 'format' report --format csv math_eval_ratio_1.jsonl
}

@test "report: --plot draws PNG and SVG, and says so when gnuplot is missing" {
  need gnuplot
  rows
  report --plot p.svg -o t.txt math_eval_ratio_*.jsonl
  grep -q '<svg' p.svg
  [ -e p.svg.run.json ]
  report --plot p.png math_eval_ratio_*.jsonl >/dev/null
  head -c 4 p.png | grep -q PNG
  fails 2 '.png or .svg' report --plot p.gif math_eval_ratio_1.jsonl
  fails 2 'name the files' report --plot p.svg <math_eval_ratio_1.jsonl
  mkdir none
  PATH=$T/none fails_without_gnuplot
  [ ! -e q.svg ]
}
fails_without_gnuplot() {
  local got=0
  "$BIN/report" --plot q.svg math_eval_ratio_1.jsonl >/dev/null 2>"$BATS_TEST_TMPDIR/err" || got=$?
  [ "$got" = 1 ]
  PATH=/usr/bin:/bin grep -q 'gnuplot, which draws the plot, is not on the PATH' "$BATS_TEST_TMPDIR/err"
}

@test "report -o: up to date, and the labels are part of the key" {
  rows
  report -o t.txt math_eval_ratio_1.jsonl
  report -o t.txt math_eval_ratio_1.jsonl 2>&1 | grep -q 'up to date'
  report -o t.txt new=math_eval_ratio_1.jsonl
  grep -q '^new ' t.txt
}
