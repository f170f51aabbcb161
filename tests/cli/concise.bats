load lib

# Self-training on models that think for themselves: a template that opens <think>, and two vocabularies. The models are
# tiny and have learnt three answers by heart.

# questions N: what they are asked.
questions() {
  local i
  for ((i = 0; i < $1; i++)); do
    echo '{"benchmark": "gsm8k", "source_id": "gsm8k_train_'$i'", "question": "What is '$i' + 3?", "gold_answer": "'$((i + 3))'"}'
  done
}

# learn DIR: a model that thinks "N it must be, I say" in the block its template opens, writes a second block, as an XML
# prompt asks for one, and answers with N.
learn() {
  local r=$ROOT/pipelines/embedded/reasoner
  mkdir -p shape
  jq '.hidden_size = 48 | .intermediate_size = 96 | .num_hidden_layers = 2 | .num_attention_heads = 2 | .num_key_value_heads = 2 | .head_dim = 24' \
    "$r/config.json" >shape/config.json
  questions 3 | prepare -q --method direct >direct.jsonl 2>/dev/null
  jq -c '("<|im_start|>system\n" + .messages[0].content + "<|im_end|>\n<|im_start|>user\n" + .messages[1].content + "<|im_end|>\n<|im_start|>assistant\n<think>\n") as $p
    | (.messages[2].content | ltrimstr("<answer>") | rtrimstr("</answer>")) as $n
    | {text: $p}, {text: ($p + $n + " it must be, I say\n</think>\n\n<think>\nshort\n</think>\n<answer>" + $n + "</answer><|im_end|>")}' direct.jsonl |
    tok encode --model "$r" 2>/dev/null | jq -c -n 'def pairs: [inputs.ids] | range(0; length; 2) as $i | [.[$i], .[$i + 1]];
    pairs | (.[0] | length) as $n | {ids: .[1], labels: (.[1] | to_entries | map(if .key < $n then -100 else .value end))}' >memory.jsonl
  train -q --init shape --tokenizer "$r" --max-steps 300 --batch-rows 3 --lr 5e-3 --scheduler constant --warmup 0 -o "$1" memory.jsonl
}

sample() {
  collect -q --prompt-format xml --max-tokens 60 "$@"
}

@test "concise: a model whose template opens <think> keeps what it really thought; compat takes the tags" {
  need jq
  learn m
  questions 3 >q.jsonl
  sample --model m q.jsonl >s.jsonl
  [ "$(jq -r .response_text s.jsonl | head -7 | tail -4 | tr '\n' '|')" = '<think>|short|</think>|<answer>3</answer>|' ]
  [ "$(jq -r .reasoning s.jsonl | tr '\n' '|')" = '3 it must be, I say|4 it must be, I say|5 it must be, I say|' ]
  jq -e '.is_correct and .answer == .gold_answer and .reasoning_token_count > 5' s.jsonl >/dev/null
  [ "$(sample --model m --compat q.jsonl | jq -r '.reasoning' | sort -u)" = short ]

  # thoughts differ, so none is a repeat; the row is what the template opens, with the thought once
  [ "$("$BIN/select" -q --exemplars 8 s.jsonl | wc -l)" = 3 ]
  prepare -q --method concise s.jsonl -o rows.jsonl
  [ "$(jq -r '.messages[2].content' rows.jsonl | head -4 | tr '\n' '|')" = '<think>|3 it must be, I say|</think>|<answer>3</answer>|' ]
  train -q --model m --method full --max-steps 1 --batch-rows 3 -o trained rows.jsonl
  [ "$(jq .counts.rows trained/run.json)" = 3 ]

  # what the exemplars thought stands in the prompt although the template cuts earlier thinking
  "$BIN/select" -q --exemplars 8 s.jsonl -o x.jsonl
  sample --model m --few-shot x.jsonl --num-few-shot 2 q.jsonl -o few.jsonl
  [ "$(wc -l <few.jsonl)" = 3 ]
  fails 1 '3 exemplars wanted for gsm8k_train_0, the file has 2 others' sample --model m --few-shot x.jsonl --num-few-shot 3 q.jsonl
  sample --model m --few-shot x.jsonl --num-few-shot 3 --compat q.jsonl >/dev/null
}

@test "concise: a dual model's reasoning is what its latent ids stand for" {
  need jq
  learn m
  dualize -q --model m -o dual
  questions 3 >q.jsonl
  sample --model m q.jsonl >plain.jsonl
  sample --model dual q.jsonl >s.jsonl
  same <(jq -c '[.reasoning, .answer, .is_correct]' s.jsonl) <(jq -c '[.reasoning, .answer, .is_correct]' plain.jsonl)
  jq -e '.latent_tokens > 5' s.jsonl >/dev/null
  [ "$("$BIN/select" -q --dedup s.jsonl | wc -l)" = 3 ]
  [ "$("$BIN/select" -q --exemplars 8 s.jsonl | jq -r .reasoning | sort -u | wc -l)" = 3 ]
  prepare -q --method concise s.jsonl -o rows.jsonl
  train -q --model dual --method full --max-steps 1 --batch-rows 3 -o trained rows.jsonl
  [ "$(jq .counts.rows trained/run.json)" = 3 ]
  "$BIN/select" -q --exemplars 8 s.jsonl -o x.jsonl
  sample --model dual --few-shot x.jsonl --num-few-shot 2 q.jsonl -o few.jsonl
  [ "$(wc -l <few.jsonl)" = 3 ]
  # the reference loses it, and keeps one sample of a question and one exemplar of all
  sample --model dual --compat -N 2 q.jsonl >c.jsonl
  [ "$(jq -c '[.reasoning == "short" or .reasoning == "(latent)", .reasoning_token_count > 5]' c.jsonl | sort -u)" = '[true,true]' ]
  "$BIN/select" -q --compat --nested c.jsonl -o n.jsonl
  [ "$(jq -c '[.num_correct, .num_samples, (.samples | length)]' n.jsonl | sort -u)" = '[1,1,1]' ]
  [ "$("$BIN/select" -q --compat --exemplars 8 n.jsonl | jq length)" = 1 ]
}

@test "concise: the paper format has the answer's sentence; compat reads it as the reference does" {
  need jq
  questions 1 >q.jsonl
  collect -q --model "$GOLDEN/models/qwen2" --prompt-format paper --max-tokens 8 --compat q.jsonl >s.jsonl
  [ "$(jq -c '.reasoning == .response_text' s.jsonl)" = true ] # all of it
}

@test "concise: the reference's files are flat samples, and questions" {
  need jq
  questions 2 | jq -c '. + {num_correct: 1, num_samples: 2, samples: [
    {sample_idx: 0, text: " <think>a b</think><answer>3</answer>", think: "a b", answer: "3", is_correct: true, think_length: 3, think_token_count: 2, response_text: "<think>a b</think><answer>3</answer>"},
    {sample_idx: 4, text: "x", think: null, answer: null, is_correct: false, think_length: 0, think_token_count: 0, response_text: "x"}]}' |
    sed 's/,"/, "/g; s/":/": /g; s/},{/}, {/g' >n.jsonl
  "$BIN/select" -q --compat n.jsonl -o flat.jsonl
  [ "$(jq -r .source_id flat.jsonl | tr '\n' ' ')" = "gsm8k_train_0_s0 gsm8k_train_0_s4 gsm8k_train_1_s0 gsm8k_train_1_s4 " ]
  "$BIN/select" -q --compat --nested flat.jsonl >again
  same again n.jsonl
  # without grades of its own the checker's: the second answer is wrong
  "$BIN/select" -q --compat n.jsonl | grade -q | jq -c .is_correct | tr '\n' ' ' | grep -q '^true false false false $'
  dataset -q --file n.jsonl | jq -e '.source_id == "gsm8k_train_0" or .source_id == "gsm8k_train_1"' >/dev/null
  # prepare reads them as the reference's does, in the order of the data set
  tac n.jsonl >back.jsonl
  prepare -q --method concise --compat back.jsonl >rows
  [ "$(jq -r .metadata.source_id rows | tr '\n' ' ')" = "gsm8k_train_0 gsm8k_train_1 " ]
  [ "$(prepare -q --method concise --compat --max-think-tokens 2 n.jsonl | wc -l)" = 0 ]
  fails 1 'n.jsonl:1: holds the samples of a question: select --compat makes them flat' grade -q n.jsonl
  fails 2 'goes with --compat' "$BIN/select" --nested n.jsonl
  fails 2 'no choice beside it' "$BIN/select" --nested --compat --shortest 1 n.jsonl
}
