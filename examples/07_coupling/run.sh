#!/bin/sh
# Host or GPU bound, and from which batch on? usage: run.sh SIMRUN
set -e
simrun=$1
config=$(dirname "$0")/config.yaml
value() { sed -n "s/.*\"timeline\": {.*\"$1\": \([^,}]*\).*/\1/p"; }
table() {
  model=$1
  printf '%s, prompts of 512 tokens: latency of a step, and who bounds it\n' "$model"
  printf '%-20s' 'platform \ batch'
  for batch in 1 2 4 8 16 32 64; do printf '%15s' $batch; done
  printf '%17s\n' 'GPU bound from'
  for node in epyc7313-a100 xeon8468v-h100pcie gh200; do
    printf '%-20s' $node
    for batch in 1 2 4 8 16 32 64; do
      out=$("$simrun" explain-step "$config" --set model=$model --set hardware.node=$node --prefill 512 --prompts $batch --timeline --format json)
      ms=$(echo "$out" | value latency_s | awk '{printf "%.2f", $1 * 1e3}')
      if [ "$(echo "$out" | value host_bound)" = true ]; then who=host; else who=GPU; fi
      printf '%15s' "$ms ms $who"
    done
    printf '%17s\n' "$(echo "$out" | sed -n 's/^"gpu_bound_from": \([0-9]*\).*/\1/p')"
  done
}
table bert-base-uncased
echo
table llama-3.2-1b
