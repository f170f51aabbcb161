load lib

rows() {
  printf '%s\n' '{"question": "a?", "answer": "x <<1+1=2>>\n#### 1,234"}' '{"question": "b?", "answer": "#### -5"}' \
    '{"question": "c?", "answer": "#### 7"}'
}

@test "dataset: gsm8k rows become questions, ids count rows" {
  rows >r.jsonl
  run dataset gsm8k --split test -f r.jsonl
  [ "$status" = 0 ]
  [ "${lines[0]}" = '{"benchmark": "gsm8k", "source_id": "gsm8k_test_0", "question": "a?", "gold_answer": "1,234"}' ]
  [ "${lines[2]}" = '{"benchmark": "gsm8k", "source_id": "gsm8k_test_2", "question": "c?", "gold_answer": "7"}' ]
}

@test "dataset: every published schema by its keys" {
  printf '%s\n' '{"problem": "p", "solution": "so \\boxed{1} then \\boxed{\\frac{1}{2}}", "subject": "Algebra", "level": 5, "unique_id": "u"}' \
    '{"problem": "p", "solution": "\\boxed{3}", "answer": "3", "type": "Geometry", "level": "Level 2"}' \
    '{"question": "q", "choices": ["w", "x", "y", "z"], "answer": 2, "subject": "physics"}' \
    '{"question": "q", "options": ["w", "x"], "answer": "B", "answer_index": 1}' \
    '{"query": "q", "response": "so.\nThe answer is: 4", "type": "GSM_Rephrased"}' >r.jsonl
  dataset -f r.jsonl >out
  jq -c '[.benchmark, .gold_answer, .subject, .level]' out >got
  diff got - <<'X'
["math","\\frac{1}{2}","Algebra",5]
["math","3","Geometry","Level 2"]
["mmlu","C","physics",null]
["mmlu_pro","B",null,null]
["metamathqa","4",null,null]
X
  jq -r .question out | sed -n 3,7p >got
  diff got <(printf '%s\n' q 'A. w' 'B. x' 'C. y' 'D. z')
}

@test "dataset: limit and shards; shards in order are the whole" {
  for i in $(seq 0 9); do echo "{\"question\": \"q$i\", \"answer\": \"#### $i\"}"; done >r.jsonl
  dataset gsm8k -f r.jsonl >all
  for k in 0 1 2; do dataset gsm8k -f r.jsonl --shard $k/3; done >parts
  same all parts
  dataset gsm8k -f r.jsonl -n 4 >four
  same four <(head -4 all)
  dataset gsm8k -f - <r.jsonl >piped
  same all piped
  zstd -q r.jsonl -o r.zst
  dataset gsm8k -f r.zst >z
  same all z
  dataset gsm8k -f r.jsonl -o o.jsonl.zst
  same all <(zstd -dcq o.jsonl.zst)
}

@test "dataset: published sets give the counts and golds of the specification" {
  shared data/datasets/gsm8k/test.jsonl
  d=$(dirname "$shared_path")
  dataset gsm8k --split test -f "$d/test.jsonl" >t
  [ "$(wc -l <t)" = 1319 ]
  [ "$(jq -r .gold_answer t | grep -c ,)" = 14 ]
  [ "$(jq -r .gold_answer t | grep -c ^-)" = 2 ]
  dataset gsm8k -f "$d/train.jsonl" >t
  [ "$(wc -l <t)" = 7473 ]
  [ "$(jq -r .gold_answer t | grep -c ,)" = 79 ]
  [ "$(jq -r .gold_answer t | grep -c ^-)" = 3 ]
  dataset math500 --split test -f "$d/../math500/test.jsonl" >t
  [ "$(jq -r .gold_answer t | sha256sum)" = "$(jq -r .answer "$d/../math500/test.jsonl" | sha256sum)" ]
}

@test "dataset: bad input is one sentence with its place" {
  rows >r.jsonl
  echo '{"question": "d?", "answer": "no mark"}' >>r.jsonl
  fails 1 '^dataset: r.jsonl:4: key "answer" has no "####"' dataset gsm8k -f r.jsonl -o o.jsonl
  [ ! -e o.jsonl ]
  [ -z "$(ls | grep -E 'part|journal')" ]
  fails 3 'r.jsonl:4: key "answer"' dataset gsm8k -f r.jsonl -o o.jsonl --keep-going
  [ "$(wc -l <o.jsonl)" = 3 ]
  echo '{"question": "d?"' >b.jsonl
  fails 1 '^dataset: b.jsonl:1: text ends' dataset gsm8k -f b.jsonl
  printf '{"question": "\xff"}\n' >b.jsonl
  fails 1 '^dataset: b.jsonl:1: not UTF-8' dataset gsm8k -f b.jsonl
  echo '{"x": 1}' >b.jsonl
  fails 1 '^dataset: b.jsonl:1: not a row of a known question set' dataset -f b.jsonl
  fails 2 'no such question set' dataset mathx -f r.jsonl
  fails 1 'none.jsonl: cannot open: No such file' dataset -f none.jsonl
  fails 2 '--shard 4/4' dataset -f r.jsonl --shard 4/4
  fails 2 '--limit x: expected a whole number' dataset -f r.jsonl --limit x
  : >empty.jsonl
  run dataset -f empty.jsonl
  [ "$status" = 0 ]
  [[ $output == *"no question"* ]]
  head -c 100 /dev/urandom | zstd -q >cut.zst
  truncate -s -8 cut.zst
  fails 1 'zstd' dataset -f cut.zst
}

@test "dataset: names, splits, and no network" {
  dataset --list >list
  grep -q '^gsm8k  *train 7473, test 1319 ' list
  export HF_HOME=$T/hf
  HF_HUB_OFFLINE=1 fails 1 'openai/gsm8k: not downloaded yet, and HF_HUB_OFFLINE is set' dataset gsm8k
  HF_DATASETS_SERVER=http://127.0.0.1:1 LATENT_HTTP_RETRIES=0 fails 1 'no network to this host' dataset math
  fails 2 'no split x .train, test' dataset gsm8k --split x
  shared data/datasets/gsm8k/test.jsonl
  mkdir -p hf/latent
  cp "$shared_path" hf/latent/gsm8k-main-test.jsonl
  HF_HUB_OFFLINE=1 dataset gsm8k --split test >a          # as fetched: count and content are the recipe's
  [ "$(wc -l <a)" = 1319 ]
  sed -i '5s/the/teh/' hf/latent/gsm8k-main-test.jsonl
  HF_HUB_OFFLINE=1 fails 1 'are not those of gsm8k test' dataset gsm8k --split test
  sed -i 5d hf/latent/gsm8k-main-test.jsonl
  HF_HUB_OFFLINE=1 fails 1 'has 1318 rows, 1319 are expected' dataset gsm8k --split test
}

@test "dataset: arith is made on the spot, the same for every shard and limit" {
  dataset arith -n 100 >a
  for k in 0 1 2; do dataset arith -n 100 --shard $k/3; done >b
  same a b
  dataset arith -n 40 | cmp - <(head -40 a)
  dataset arith -n 40 --seed 7 >c
  not cmp -s c <(head -40 a)
  fails 2 'arith: no split dev' dataset arith --split dev
}
