load lib

# A page as plain text, without overstrikes.
rendered() {
  mandoc -T utf8 "$1" | sed 's/.\x08//g'
}

pages() {
  (cd "$ROOT" && ls man/*.[157])
}

# Names of the options that a page defines: in a list, at the start of a line.
defined() {
  rendered "$1" | grep -E '^ +(-[a-zA-Z0-9]([, ]|$)|--[a-z])' | sed -E 's/^ +//; s/([^,])  +.*/\1/' |
    grep -oE -- '--[a-z][a-z0-9-]*' | sed 's/^--//; s/^no-//' | sort -u
}

@test "man: mandoc has nothing to complain about" {
  need mandoc
  cd "$ROOT"
  run mandoc -T lint -W warning $(pages)
  [ -z "$output" ] || { echo "$output"; return 1; }
}

@test "man: every program has a page, every page of section 1 a program" {
  for p in $(pages); do
    case $p in
    man/latent.1 | *.[57]) ;;
    man/latent-*.1) n=${p#man/latent-}; [ -x "$BIN/${n%.1}" ] || { echo "$p: no such program"; return 1; } ;;
    *) echo "$p: the name should be latent-PROGRAM.1"; return 1 ;;
    esac
  done
  missing=
  for s in $(stages); do [ -e "$ROOT/man/latent-$s.1" ] || missing+=" $s"; done
  [ -z "$missing" ] || { echo "no page:$missing"; return 1; }
}

@test "man: every option stands in the page, and every option in the page exists" {
  need mandoc jq
  cd "$ROOT"
  bad=0
  common=$(defined man/latent.1)
  for s in $(stages); do
    page=man/latent-$s.1
    [ -e "$page" ] || continue
    table=$("$BIN/$s" --dump-options)
    must=$(jq -r 'select(.type != "alias") | .name' <<<"$table" | sort -u)
    may=$(jq -r '.name' <<<"$table" | sort -u)
    own=$(defined "$page")
    for o in $(comm -23 <(echo "$must") <(sort -u <<<"$own"$'\n'"$common")); do
      echo "$page does not say what --$o does"
      bad=1
    done
    for o in $(comm -13 <(echo "$may") <(echo "$own")); do
      echo "$page: --$o is no option of $s"
      bad=1
    done
    # --help is the table too
    help=$("$BIN/$s" --help)
    for o in $must; do grep -qE -- "--$o( |\$)" <<<"$help" || { echo "$s --help lacks --$o"; bad=1; }; done
  done
  [ "$bad" = 0 ]
}

@test "man: the common options of latent(1) are those of every program" {
  need mandoc jq
  cd "$ROOT"
  for s in $(stages); do
    missing=$(comm -23 <(defined man/latent.1) <("$BIN/$s" --dump-options | jq -r .name | cat - <(printf 'exec-path\n') | sort -u))
    [ -z "$missing" ] || { echo "latent.1 promises of $s:" $missing; return 1; }
  done
}

# Examples between the comment lines .\" TEST and .\" END are sessions: "$ COMMAND" (goes on in lines with "> "), then
# what it prints on stdout. A block runs in one bash -euo pipefail in an empty folder, where tests, data and
# pipelines are links into the checkout, with the programs first on the PATH.
session() {
  awk '/^\.\\" TEST/ { on = 1; n++; next } /^\.\\" END/ { on = 0; next }
    on && !/^\./ { gsub(/\\e/, "\\"); gsub(/\\-/, "-"); gsub(/\\&/, ""); gsub(/\\\(aq/, "'"'"'"); gsub(/\\\(dq/, "\""); print > (out "/block" n) }' \
    out="$2" "$1"
}

@test "man: every example marked as tested prints what the page says" {
  bad=0
  for p in $(pages); do
    d=$T/$(basename "$p")
    mkdir "$d"
    session "$ROOT/$p" "$d"
    for b in "$d"/block*; do
      [ -e "$b" ] || continue
      mkdir "$b.dir"
      ln -s "$ROOT/tests" "$ROOT/data" "$ROOT/pipelines" "$b.dir/"
      # each command is echoed before it runs, so that the output is the session again
      awk '
        function flush() {
          if (cmd != "") { print "cat <<\"END_OF_SHOWN\"\n" shown "\nEND_OF_SHOWN\n" cmd }
          cmd = ""
        }
        /^\$ / { flush(); shown = $0; cmd = substr($0, 3); next }
        /^> / && cmd != "" { shown = shown "\n" $0; cmd = cmd "\n" substr($0, 3); next }
        END { flush() }
        { next }' "$b" >"$b.sh"
      if ! (cd "$b.dir" && bash -euo pipefail "$b.sh" </dev/null >"$b.got" 2>"$b.err") || ! diff -u "$b" "$b.got"; then
        echo "$p: this example does not do what it shows; stderr:"
        cat "$b.err"
        bad=1
      fi
    done
  done
  [ "$bad" = 0 ]
}

@test "README: the pipe runs, and what it says of it is true" {
  need dataset collect compress verify jq
  awk '/^## /{on = /A pipe/} on && /^    / {print substr($0, 5)}' "$ROOT/README.md" | grep -vE '^(make|PATH=.*)$' >pipe.sh
  [ "$(wc -l <pipe.sh)" -ge 4 ]
  run bash -euo pipefail pipe.sh
  [ "$status" = 0 ] || { echo "$output"; return 1; }
  [[ $output == *"compressor embedded:compressor"*"collect "*"model embedded:reasoner"*"dataset "* ]]
  [ "$(grep -c '^\["arith_test_' <<<"$output")" -ge 6 ]
  for c in 'make -f pipelines/tokenskip_math.mk' 'make test'; do grep -qF "./bootstrap $c" "$ROOT/README.md"; done
}

@test "README: the other experiments can be planned as they stand there" {
  need dataset collect train jq
  sed -n '/^## The other experiments/,/^## [^T]/s/^    \(make -f [^#]*\).*/\1/p' "$ROOT/README.md" >lines
  [ "$(wc -l <lines)" = 5 ]
  while read -r line; do
    # a model of the hub is not here: a tiny one stands for it
    (cd "$ROOT" && eval "${line/MODEL=Qwen*/MODEL=$GOLDEN/models/qwen3} OUT=$T/out plan") </dev/null >"$T/log" 2>&1 || { cat "$T/log"; return 1; }
    grep -q ' unknown$' "$T/log" || { cat "$T/log"; return 1; }
  done <lines
  [ ! -d out/results ]
}
