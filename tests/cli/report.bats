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
    .accuracy_compat == null and .pass_at_k == null and .length_ratio == 1 and
    .difference == null and .difference_lo == null and .difference_hi == null' t.jsonl
  jq -se '.[1] | .accuracy == 0.7 and .baseline_ratio == 1 and .paired_questions == 10 and .baseline_only == 1 and
    .this_only == 0 and (.difference + 0.1 | fabs) < 1e-12 and .difference_lo < -0.1 and .difference_hi > -0.1 and
    .length_ratio == 0.6' t.jsonl
}

@test "report: text and Markdown have the columns that have values, in 110 characters" {
  rows
  report math_eval_ratio_*.jsonl >t.txt
  grep -qE '^math +ratio +n +acc % +95 % +think +p50 +p90 +len +right +spent +cut +none +change +95 %$' t.txt
  grep -qE '^math +1 +10 +80.0 +49.0-94.3 +45.0 +45 +81 +1.00 +45.0 +68.8 +10.0 +20.0 +- +-$' t.txt
  grep -qE '^math +0.5 +10 +70.0 .* 0.60 +50.0 +71.4 +0.0 +30.0 +-10.0 +-[0-9.]+\.\.\+[0-9.]+$' t.txt
  [ "$(wc -L <t.txt)" -le 110 ]
  not grep -q compat t.txt
  report --format markdown math_eval_ratio_*.jsonl >t.md
  [ "$(wc -l <t.md)" = 4 ]
  sed -n 2p t.md | grep -qE '^(\| :?-+:? )+\|$'
  row 0 1 true 1 1 ', "is_correct_compat": false' | report >c.txt
  grep -q 'compat %' c.txt
  row 0 1 true 1 1 ', "is_correct_compat": true' | report >c.txt
  not grep -q 'compat %' c.txt
  { row 0 1 true 1 1; row 0 1 true 1 1 | sed 's/"math"/"gsm8k"/'; } | report | grep -qE '^run +benchmark +ratio'
  { cat math_eval_ratio_1.jsonl; row 0 0.5 true 5 5; row 77 0.5 true 5 5; } | report | grep -qE ' 1$' # pairs, when fewer than n
}

@test "report: LABEL= names the files behind it; each run is paired with its own ratio 1" {
  rows
  for f in math_eval_ratio_*.jsonl; do sed 's/"think_tokens": 27/"think_tokens": 9/' $f >dual_${f#math_}; done
  report --format jsonl base=math_eval_ratio_1.jsonl standard= math_eval_ratio_*.jsonl dual= dual_*.jsonl >t.jsonl
  [ "$(jq -r '"\(.run) \(.compression_ratio) \(.baseline_run) \(.length_ratio)"' t.jsonl | paste -sd,)" = \
    "base 1 base 1,standard 1 standard 1,standard 0.5 standard 0.6,dual 1 dual 1,dual 0.5 dual 0.2" ]
  report --pair --format jsonl base=math_eval_ratio_1.jsonl dual= dual_*.jsonl |
    jq -se '.[1:] | map(.baseline_run) == ["base", "base"]'
}

@test "report: --keep-going leaves broken rows out, names them and exits 3" {
  rows
  { head -1 math_eval_ratio_1.jsonl; echo '{"broken'; sed -n '2p' math_eval_ratio_1.jsonl; echo '{"source_id": "a"}'; } >b.jsonl
  fails 1 '^report: b.jsonl:2: ' report -o t.jsonl --format jsonl b.jsonl
  fails 3 '^report: .*b.jsonl:4: ' report --keep-going -o t.jsonl --format jsonl b.jsonl
  grep -q 'b.jsonl:2: ' "$BATS_TEST_TMPDIR/.stderr"
  jq -e '.questions == 2' t.jsonl
  need gnuplot
  fails 3 'b.jsonl:2: ' report --keep-going --plot p.svg b.jsonl
  [ "$(grep -c 'b.jsonl:2: ' "$BATS_TEST_TMPDIR/.stderr")" = 1 ]
  [ -e p.svg ]
}

# A log of 4 steps as train writes it: 100 tokens at 50 a second, an evaluation every second step.
log() {
  local s
  for s in 1 2 3 4; do
    echo '{"step": '$s', "epoch": '$s'.5, "loss": '"$(awk "BEGIN { print 3.5 - $s * $1 }")"', "grad_norm": 1.5, "learning_rate": 0.001, "tokens": '$((100 * s))', "tokens_per_second": 50.0, "memory": '$((s < 3 ? s * 1000000 : 2000000))'}'
    [ $((s % 2)) = 1 ] || echo '{"step": '$s', "epoch": '$s'.5, "eval_loss": '$s'.25}'
  done
}

@test "report: training logs are known by their content; several are compared" {
  mkdir -p out/a out/b
  log 0.5 >out/a/metrics.jsonl
  log 0.25 >out/b/metrics.jsonl
  report out/a/metrics.jsonl out/b/metrics.jsonl >t.txt
  grep -qE '^log +steps +epochs +tokens +first loss +last +best +at +eval loss +best +at +tokens/s +memory +time$' t.txt
  grep -qE '^a +4 +4.50 +400 +3.0000 +1.5000 +1.5000 +4 +4.2500 +2.2500 +2 +50 +2 MB +8.0 s$' t.txt
  grep -qE '^b ' t.txt
  report --format markdown base=out/a/metrics.jsonl | grep -q '^| base |'
  report --format jsonl <out/a/metrics.jsonl | jq -e '.log == "-" and .steps == 4 and .epochs == 4.5 and .tokens == 400 and
    .loss_first == 3 and .loss_last == 1.5 and .loss_best_step == 4 and .eval_loss_first == 2.25 and
    .eval_loss_last == 4.25 and .eval_loss_best_step == 2 and .tokens_per_second == 50 and .memory == 2000000 and .seconds == 8'
  cat out/a/metrics.jsonl out/b/metrics.jsonl >two.jsonl
  fails 1 '^report: two.jsonl:7: step 1 behind step 4' report two.jsonl
  echo '{"step": 1, "loss": "x"}' >bad.jsonl
  fails 1 '^report: bad.jsonl:1: .*loss' report bad.jsonl
  rows
  report math_eval_ratio_1.jsonl out/a/metrics.jsonl >both.txt
  [ "$(grep -c '^$' both.txt)" = 1 ]
  need gnuplot
  report --plot l.svg out/?/metrics.jsonl >/dev/null
  grep -q 'b eval' l.svg
  fails 1 'both in the input' report --plot both.svg math_eval_ratio_1.jsonl out/a/metrics.jsonl
  [ ! -e both.svg ]
}

@test "report --wandb: a run for each ratio and each log, twice the same bytes" {
  rows
  mkdir out
  log 0.5 >out/metrics.jsonl
  for d in x y; do report --wandb $d --project p -q math_eval_ratio_*.jsonl out/metrics.jsonl >/dev/null; done
  [ "$(ls -d x/wandb/offline-run-19700101_000000-???????? | wc -l)" = 3 ]
  (cd x && find . -type f ! -name '*.run.json' | sort | xargs sha256sum) >x.sum
  (cd y && sha256sum -c ../x.sum)
  n=0
  for f in x/wandb/offline-run-*; do
    id=${f##*-}
    [ -s "$f/run-$id.wandb" ]
    [ -d "$f/files" ]
    jq -e '.program == "report" and (.inputs | length) == 1' "$f/run-$id.wandb.run.json" >/dev/null
    verify -q "$f/run-$id.wandb"
    for t in "$f"/files/media/table/eval/sample_cots_0_*.table.json; do
      [ ! -e "$t" ] || { jq -e '(.columns | length) == 9 and (.data | length) == 10' "$t"; n=$((n + 1)); }
    done
  done
  [ "$n" = 2 ]
  # what is there stays, what is missing comes back
  rm x/wandb/*/run-*.run.json
  touch -d 2001-01-01 x/wandb/*/run-*.wandb
  report --wandb x --project p -q math_eval_ratio_*.jsonl out/metrics.jsonl >/dev/null
  [ "$(ls x/wandb/*/run-*.run.json | wc -l)" = 3 ]
  [ "$(stat -c %Y x/wandb/*/run-*.wandb | sort -u)" = "$(date -d 2001-01-01 +%s)" ]
  # one file alone is the same run: other inputs of the command are not in it
  report --wandb z --project p -q math_eval_ratio_1.jsonl >/dev/null
  report --wandb z --project q -q math_eval_ratio_1.jsonl >/dev/null
  [ "$(ls z/wandb | wc -l)" = 2 ]
  [ "$(ls x/wandb z/wandb | grep -v : | grep -c offline)" = 5 ]
}

@test "report --wandb: times come from the manifests; what W&B would refuse is refused first" {
  rows
  "$BIN/select" -q -o math_eval_ratio_0.7.jsonl math_eval_ratio_1.jsonl
  report --wandb x -q math_eval_ratio_0.7.jsonl >/dev/null
  at=$(jq -r .started math_eval_ratio_0.7.jsonl.run.json | tr -d ':Z-' | tr T _)
  ls x/wandb | grep -q "^offline-run-$at-"
  grep -q 'latent 0' x/wandb/*/run-*.wandb
  fails 2 'project a/b: W&B wants' report --wandb x --project a/b math_eval_ratio_1.jsonl
  fails 2 'are of --wandb' report --project p math_eval_ratio_1.jsonl
  fails 2 'name the files' report --wandb x <math_eval_ratio_1.jsonl
  : >file
  fails 1 '^report: file' report --wandb file math_eval_ratio_1.jsonl
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
