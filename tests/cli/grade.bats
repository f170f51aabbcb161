load lib

# row JSON...: one line each
rows() {
  printf '%s\n' "$@"
}

@test "grade: same object, five keys behind" {
  rows '{"gold": "\\frac{1}{2}", "pred": "0.50", "x": 1.0, "nested": {"a" : [1,  2]}}' '{"gold":"5","solution":"so \\boxed{6}"}' >in
  grade -q in >got
  diff got - <<'X'
{"gold": "\\frac{1}{2}", "pred": "0.50", "x": 1.0, "nested": {"a" : [1,  2]}, "equal": true, "extracted": "0.50", "reason": "rational", "gold_form": "1/2", "pred_form": "1/2"}
{"gold":"5","solution":"so \\boxed{6}", "equal": false, "extracted": "6", "reason": "rational", "gold_form": "5", "pred_form": "6"}
X
}

@test "grade: keys that are there keep their place" {
  rows '{"equal": null, "gold": "5", "pred": "5", "reason": "old", "z": 1}' | grade -q >got
  diff got - <<'X'
{"equal": true, "gold": "5", "pred": "5", "reason": "string", "z": 1, "extracted": "5", "gold_form": "5", "pred_form": "5"}
X
}

@test "grade: a sample gets is_correct, and a cut one is never correct" {
  rows '{"gold_answer": "5", "response_text": "\\boxed{5}", "is_correct": null, "finish_reason": "stop"}' \
    '{"gold_answer": "5", "response_text": "\\boxed{5}", "is_correct": true, "finish_reason": "length"}' \
    '{"gold_answer": "5", "response_text": "\\boxed{5}"}' \
    '{"gold_answer": "5", "response_text": "<think>it is 5</think>\nThe answer is 6"}' >in
  grade -q in | jq -c '[.is_correct, .equal, .reason]' >got
  diff got - <<'X'
[true,true,"string"]
[false,false,"truncated"]
[true,true,"string"]
[false,false,"rational"]
X
}

@test "grade: the task comes from the record, or from the option" {
  rows '{"benchmark": "mmlu", "gold": "C", "pred": "(C) 45"}' '{"benchmark": "gsm8k", "gold": "18", "solution": "<<9*2=18>>18"}' \
    '{"benchmark": "mmlu_pro", "gold": "J", "solution": "The answer is (J)."}' '{"gold": "1,000", "pred": "1000"}' >in
  [ "$(grade -q in | jq -c .equal | tr '\n' ' ')" = "true true true true " ]
  [ "$(grade -q --task exact in | jq -c .equal | tr '\n' ' ')" = "false true false false " ]
}

@test "grade: --compat shows the reference's verdict beside ours" {
  rows '{"gold": "\\frac{1}{2}", "solution": "$\\boxed{\\frac{1}{2}}$"}' '{"gold": "5", "pred": "-5"}' '{"gold": "Evelyn", "pred": "evelyn"}' >in
  [ "$(grade -q --compat in | jq -c '[.equal, .equal_compat]' | tr '\n' ' ')" = "[true,false] [false,true] [true,true] " ]
}

@test "grade: --compat on MATH-500: a perfect model gets 397 of 500, and 500 by our rules" {
  shared data/datasets/math500/test.jsonl
  jq -c '{gold: .answer, solution: ("The final answer is: $\\boxed{" + .answer + "}$")}' "$shared_path" >in
  grade -q --compat in >out
  [ "$(grep -c '"equal_compat": true' out)" = 397 ]
  [ "$(grep -c '"equal": true' out)" = 500 ]
}

@test "grade: undecided is told, in the record, on stderr and in the manifest" {
  rows '{"gold": "9^{9^{9}}", "pred": "9^{9^{8}}"}' >in
  grade in -o out 2>err
  [ "$(jq -r '"\(.equal) \(.reason)"' out)" = "false limit:bits" ]
  grep -q "1 record: 0 equal, 0 unequal, 1 undecided" err
  [ "$(jq .counts.undecided out.run.json)" = 1 ]
}

@test "grade: --fill derives what a trace lacks, and nothing else" {
  rows '{"question": "q", "gold_answer": "5", "response_text": "<think>two and three</think>\nThe answer is \\boxed{5}."}' >in
  grade -q --fill --benchmark math --model "$GOLDEN/models/qwen3" in >out
  diff <(jq -c '[.benchmark, .reasoning, .answer, .is_correct, .equal]' out) - <<'X'
["math","two and three","5",true,true]
X
  [ "$(jq '.reasoning_token_count > 0 and .response_token_count > .reasoning_token_count' out)" = true ]
  grade -q --fill --benchmark gsm8k --model "$GOLDEN/models/qwen3" out >again
  same out again
  rows '{"gold_answer": "5", "response_text": "no thinking, no number", "reasoning": "kept"}' | grade -q --fill -m "$GOLDEN/models/qwen3" |
    jq -c '[.reasoning, .answer, .is_correct, .reason]' >got
  [ "$(cat got)" = '["kept",null,false,"no_answer"]' ]
}

@test "grade: threads and batches change no byte" {
  for i in $(seq 0 2999); do echo "{\"gold\": \"$i\", \"pred\": \"$((i * 7 % 100)).0\", \"solution\": null}"; done >in
  grade -q --threads 1 in >one
  for t in 2 3 8; do
    grade -q --threads $t in >many
    same one many
  done
  [ "$(wc -l <one)" = 3000 ]
}

@test "grade: a record that cannot be graded stops it, with place and reason" {
  rows '{"gold": "5", "pred": "5"}' '{"gold": "5"}' '{"pred": "5"}' '{"gold": 5, "pred": "5"}' >in
  fails 1 "in:2: no pred, solution or response_text to grade" grade in
  grade -q --keep-going in >out 2>err || code=$?
  [ "$code" = 3 ]
  [ "$(wc -l <out)" = 1 ]
  grep -q "in:3: no gold or gold_answer" err
  grep -q "in:4: " err
}

@test "grade: misuse" {
  fails 2 "expected one of|--task" grade --task algebra </dev/null
  fails 2 "benchmark goes with --fill" grade --benchmark math </dev/null
}

@test "grade: hostile answers end soon, in little memory" {
  many() { head -c "$2" /dev/zero | tr '\0' "$1"; }
  {
    echo '{"gold": "5", "pred": "9^{9^{9^{9^{9}}}}"}'
    echo '{"gold": "(1+\\pi+e)^{40}", "pred": "(e+\\pi+1)^{20}(\\pi+e+1)^{20}"}'
    echo "{\"gold\": \"5\", \"pred\": \"$(many '{' 2000)\"}"
    for i in 1 2 3; do printf '{"gold": "5", "solution": "\\\\boxed%s"}\n' "$(many '{' 1000000)"; done
  } >in
  (
    case $BIN in */asan/*) ;; *) ulimit -v 600000 ;; esac
    timeout 10 "$BIN/grade" -q --threads 1 in >out
  )
  [ "$(wc -l <out)" = 6 ]
  [ "$(grep -c '"equal": true' out)" = 1 ]
}

@test "grade: what collect --no-grade left null is filled in, and nothing else" {
  echo '{"benchmark": "gsm8k", "source_id": "q_s0", "gold_answer": "7", "response_text": "The answer is 8", "answer": null, "is_correct": null, "finish_reason": "stop"}' >s.jsonl
  [ "$(grade -q s.jsonl | jq -c '[.answer, .is_correct]')" = '["8",false]' ]
  [ "$(sed 's/"answer": null/"answer": "9"/' s.jsonl | grade -q | jq -c .answer)" = '"9"' ]
  [ "$(sed 's/The answer is 8/dunno/' s.jsonl | grade -q | jq -c .answer)" = null ]
}
