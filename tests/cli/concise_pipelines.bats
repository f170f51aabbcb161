load lib

# Self-training, direct and distilled, with a tiny model that has learnt a few answers by heart, and Make's part with
# stages that only note their call.

questions() {
  local i
  for ((i = 0; i < $1; i++)); do
    echo '{"question": "What is '$i' + 3?", "answer": "Count on.\n#### '$((i + 3))'"}'
  done
}

# memory: rows to learn by heart: the answers in the prompts of xml, paper, raw text and prompt.json.
memory() {
  local r=$ROOT/pipelines/embedded/reasoner
  jq -c -n --slurpfile q questions.json --slurpfile xml xml.json '
    def chat($s; $u): (if $s then "<|im_start|>system\n" + $s + "<|im_end|>\n" else "" end) + "<|im_start|>user\n" + $u + "<|im_end|>\n<|im_start|>assistant\n<think>\n";
    $q[] | .question as $u | (.answer | split("#### ")[1]) as $n
    | ($n + " it must be, I say") as $r
    | [chat($xml[0]; $u), $r + "\n</think>\n\n<answer>" + $n + "</answer><|im_end|>"],
      [chat("Your task is to answer the question below. Give step by step reasoning before you answer, and when you'"'"'re ready to answer, please use the format '"'"'The answer is'"'"'"; $u), $r + "\n</think>\n\nThe answer is " + $n + "<|im_end|>"],
      [$u, " " + $r + "\nThe answer is " + $n + "<|im_end|>"],
      [chat("S."; "1 + 1?") + "two\n</think>\n\\boxed{2}<|im_end|>\n<|im_start|>user\n" + $u + "<|im_end|>\n<|im_start|>assistant\n<think>\n", $r + "\n</think>\n\n\\boxed{" + $n + "}<|im_end|>"]
    | {text: .[0]}, {text: (.[0] + .[1])}' |
    tok encode --model "$r" 2>/dev/null | jq -c -n '[inputs.ids] | range(0; length; 2) as $i | (.[$i] | length) as $n
      | {ids: .[$i + 1], labels: (.[$i + 1] | to_entries | map(if .key < $n then -100 else .value end))}'
}

setup_file() {
  cd "$BATS_FILE_TMPDIR"
  export BATS_FILE_TMPDIR
  local r=$ROOT/pipelines/embedded/reasoner
  mkdir shape
  jq '.hidden_size = 48 | .intermediate_size = 96 | .num_hidden_layers = 2 | .num_attention_heads = 2 | .num_key_value_heads = 2 | .head_dim = 24' \
    "$r/config.json" >shape/config.json
  questions 3 >questions.json
  echo '{"benchmark": "gsm8k", "source_id": "x", "question": "x", "gold_answer": "1"}' | prepare -q --method direct 2>/dev/null | jq '.messages[0].content' >xml.json
  memory >memory.jsonl
  train -q --init shape --tokenizer "$r" --max-steps 400 --batch-rows 12 --lr 5e-3 --scheduler constant --warmup 0 -o model memory.jsonl
  printf 'method full\nmax-length 512\nlr 1e-4\nepochs 1\nbatch-rows 2\n' >preset
  echo '{"name": "tiny", "layout": "multiturn", "system": "S.", "exemplars": [{"question": "1 + 1?", "answer": "<think>\ntwo\n</think>\n\\boxed{2}"}]}' >prompt.json
}

pipeline() {
  local name=$1 f=$BATS_FILE_TMPDIR
  shift
  make -f "$ROOT/pipelines/$name.mk" BIN="$BIN" MODEL="$f/model" TRAIN_FILE="$f/questions.json" TEST_FILE="$f/questions.json" \
    PRESET="$f/preset" MAX_TOKENS=40 $([ "$name" = direct ] || echo NUM_SAMPLES=2) "$@"
}

# twice NAME ARGS...: runs; a second run makes nothing; a third, killed where it samples and where it trains, ends with
# the same bytes.
twice() {
  pipeline "$@" >first.log 2>first.err || { cat first.err; return 1; }
  touch mark
  pipeline "$@" >second.log 2>second.err
  same first.log second.log
  find out -name '*.run.json' -newer mark | not grep .
  local files=$(cd out && find data results -type f ! -name '*.run.json' ! -name run.json ! -name metrics.jsonl | sort)
  local before=$(cd out && sha256sum $files)
  for stage in collect train; do
    rm -rf out
    setsid bash -c "$(declare -f pipeline); pipeline \"\$@\"" sh "$@" >killed.log 2>&1 &
    local p=$!
    # whatever runs when the first sample or step is there dies with everything else
    while kill -0 $p 2>/dev/null; do
      case $stage in
      collect) compgen -G 'out/data/sft/*/*.journal' >/dev/null && break ;;
      train) compgen -G 'out/results/sft/*/*.checkpoint' >/dev/null && break ;;
      esac
      sleep 0.02
    done
    kill -9 -- -$p 2>/dev/null || :
    wait $p 2>/dev/null || :
    until flock -n out/lock true; do sleep 0.05; done # its steps have ended
    pipeline "$@" >third.log 2>third.err || { cat third.err; return 1; }
    same first.log third.log
    [ "$(cd out && sha256sum $files)" = "$before" ] || { diff <(echo "$before") <(cd out && sha256sum $files); return 1; }
  done
}

@test "self-training: xml, both rounds, to the table; killed and run again the same bytes" {
  need jq
  twice self_training NUM_EXEMPLARS=3 NUM_FEW_SHOT=2 NUM_SHARDS=2
  d=out/data/sft
  [ "$(wc -l <$d/cot_samples/gsm8k_cot_zero-shot_merged.jsonl)" = 6 ]
  [ "$(wc -l <$d/cot_samples/gsm8k_cot_few-shot_merged.jsonl)" = 6 ]
  [ "$(wc -l <$d/cot_samples/gsm8k_exemplars.jsonl)" = 3 ]
  [ "$(jq -r .source_id $d/cot_samples/gsm8k_concise_xml.jsonl | sort -u | wc -l)" = 3 ]
  [ "$(jq -r '.messages[-1].content' $d/gsm8k_concise_xml.jsonl | head -4 | tr '\n' '|')" = '<think>|3 it must be, I say|</think>|<answer>3</answer>|' ]
  r=out/results/sft/gsm8k/model-self-training-concise
  grep -q '^base .*100.0' first.log
  grep -q '^self-training-concise ' first.log
  [ -s $r/eval/report.png ]
  [ -s $r/eval/report.svg ]
  LATENT_RUNS=out/runs verify --trace $r/eval/report.txt >trace
  for s in dataset eval model-self-training-concise; do grep -q "$s" trace || { cat trace; return 1; }; done
}

@test "self-training: paper, raw text" {
  need jq
  pipeline self_training FORMAT=paper NUM_FEW_SHOT=0 TRAIN_OPTIONS=--raw-text >log 2>err || { cat err; return 1; }
  grep -q '^self-training-concise-rawtext ' log
  [ "$(jq -r '.messages[-1].content' out/data/sft/gsm8k_concise_paper_augmented.jsonl | head -2 | tr '\n' '|')" = '3 it must be, I say|The answer is 3|' ]
}

@test "direct: answers alone, where the template opens the thinking" {
  need jq
  twice direct
  [ "$(jq -r '.messages[-1].content' out/data/sft/gsm8k_direct.jsonl | tail -1)" = '<answer>5</answer>' ]
  grep -q '^direct ' first.log
}

@test "distill: shown how, then without being shown" {
  need jq
  twice distill PROMPT_DATA="$BATS_FILE_TMPDIR/prompt.json" EVAL_TOKENS=40 TOP_K=1
  r=out/data/sft/prompt-distill
  [ "$(jq -c '[.messages[0].content, .metadata.method]' $r/gsm8k_rows.jsonl | sort -u)" = '["S.","tiny_distill"]' ]
  [ "$(jq -r '.messages[-1].content' $r/gsm8k_rows.jsonl | head -4 | tr '\n' '|')" = '<think>|3 it must be, I say|</think>|\boxed{3}|' ]
  grep -q '^prompt-distill ' first.log
}

@test "self-training, direct, distill: what cannot work is said first" {
  m="make -f $ROOT/pipelines"
  fails 2 'FORMAT=chat: must be xml or paper or tokenskip' $m/self_training.mk FORMAT=chat
  fails 2 'BENCHMARK=x: must be gsm8k or math' $m/direct.mk BENCHMARK=x
  fails 2 'TRAIN_NPROC=4: train runs on one device' $m/direct.mk TRAIN_NPROC=4
  fails 2 'MODEL is unset: the embedded reasoner follows no instructions' $m/distill.mk
  fails 2 'no/such: there is no such file' $m/distill.mk MODEL=x PROMPT_DATA=no/such
  [ ! -e out ]
}
