load lib

# A stage to run, without depending on which stages are built.
fake_tree() {
  mkdir -p inst/bin inst/libexec/latent
  cp "$BIN/latent" inst/bin/
  printf '#!/bin/sh\nif [ "$1" = --help ]; then printf "usage: collect [OPTION]...\\nsamples things\\n"; exit; fi\necho "collect:$#:$*"\nexit 3\n' \
    >inst/libexec/latent/collect
  printf '#!/bin/sh\nexit 0\n' >inst/libexec/latent/grade
  chmod +x inst/libexec/latent/*
  echo "not a program" >inst/libexec/latent/notes
}

@test "latent runs a stage with its arguments and its exit code" {
  fake_tree
  run inst/bin/latent collect --x 'a b' -- --help
  [ "$status" = 3 ]
  [ "$output" = "collect:4:--x a b -- --help" ]
}

@test "latent --exec-path: libexec where installed, the program's own folder in a checkout" {
  fake_tree
  [ "$(inst/bin/latent --exec-path)" = "$(realpath inst/libexec/latent)" ]
  [ "$(latent --exec-path)" = "$(realpath "$BIN")" ]
}

@test "latent works through a symbolic link and after the tree was moved" {
  fake_tree
  mv inst moved
  ln -s "$PWD/moved/bin/latent" link
  [ "$(./link --exec-path)" = "$(realpath moved/libexec/latent)" ]
}

@test "latent --help lists the stages with what they do" {
  fake_tree
  run inst/bin/latent --help
  [ "$status" = 0 ]
  grep -qE '^  collect +samples things$' <<<"$output"
  grep -qE '^  grade' <<<"$output"
  not grep -q notes <<<"$output"
}

@test "latent --help names every stage of this build" {
  run latent --help
  [ "$status" = 0 ]
  for s in $(stages); do grep -qE "^  $s +[^ ]" <<<"$output" || { echo "no $s"; return 1; }; done
}

@test "latent: an unknown stage is misuse, and the nearest name is given" {
  fake_tree
  fails 2 "no stage 'colelct'; the nearest is 'collect'" inst/bin/latent colelct
  fails 2 "no stage 'gradee'; the nearest is 'grade'" inst/bin/latent gradee
  fails 2 "no stage '../bin/latent'" inst/bin/latent ../bin/latent
  fails 2 "no stage 'latent'" inst/bin/latent latent
  fails 2 "unknown option --exec" inst/bin/latent --exec
  fails 2 "^usage:" inst/bin/latent
}

@test "latent --version, and a full disk is noticed" {
  [[ $(latent --version) =~ ^latent\ [0-9]+\.[0-9]+\.[0-9]+$ ]]
  run bash -c 'latent --version >/dev/full'
  [ "$status" = 1 ]
}
