#!/bin/bash
# Measurements of a GPU in one call: parity with the CPU, step times, input pipeline, then trainings.
#
#     benchmarks/gpu/run.sh --data /path/to/cifar10 --out /path/to/results [--minutes 9] [--device cuda] [--tiny]
#
# A second call with the same --out continues: finished parts are passed over, trainings resume from their last
# checkpoint. --minutes is the time of one call. --tiny: two steps of everything on the embedded digits, for a CPU.
set -u
minutes=9 device=cuda data="" out="" tiny=""
while [ $# -gt 0 ]; do
  case $1 in
    --data) data=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --minutes) minutes=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    --tiny) tiny=yes; shift ;;
    *) echo "unknown option '$1'; allowed: --data, --out, --minutes, --device, --tiny" >&2; exit 2 ;;
  esac
done
[ -n "$out" ] || { echo "--out is not given; allowed: a folder for the results" >&2; exit 2; }
[ -n "$data$tiny" ] || { echo "--data is not given; allowed: a folder with train.zip and val.zip" >&2; exit 2; }
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
[ -z "$data" ] || data=$(cd "$data" && pwd) || exit 2
cd "$(dirname "$0")/../.." || exit 2
python=${PYTHON:-python}
end=$(($(date +%s) + minutes * 60))
failed=0

left() { echo $((end - $(date +%s))); }

part() { # NAME COMMAND...: a finished part leaves NAME.done; the next call starts a part again that ran out of time
  local name=$1 status seconds; shift
  [ -e "$out/$name.done" ] && { echo "$name: done before"; return; }
  seconds=$(left)
  [ "$seconds" -gt 0 ] || { echo "$name: no time left, call again"; return; }
  timeout -k 5 "$seconds" "$@" >> "$out/$name.log" 2>&1; status=$?
  tail -n 12 "$out/$name.log"
  if [ $status = 0 ]; then touch "$out/$name.done"
  elif [ "$(left)" -le 0 ]; then echo "$name: out of time, call again"
  else echo "$name: exit status $status"; failed=1; fi
}

epochs_that_fit() { # of the supernet, the same in a second call: two minutes of the measured steps, without the optimiser's
  [ -e "$out/steps.done" ] || { echo "supernet: waits for the part steps" >&2; return 1; }
  [ -s "$out/epochs" ] || "$python" - "$out/steps.json" "$fewest" > "$out/epochs" <<'EOF'
import json
import sys

steps, fewest = json.load(open(sys.argv[1])), int(sys.argv[2])
seconds = min(steps["seconds"][name] for name in ("fp32", "fp32 bf16"))
print(max(fewest, min(60, int(120 / (45_000 / steps["arguments"]["batch_size"] * seconds)))))
EOF
  [ -s "$out/epochs" ] && cat "$out/epochs"
}

training() { # NAME OPTIONS...: fp32, then int8
  local name=$1 mode file again; shift
  for mode in checkpoint lsq; do
    [ $mode = lsq ] && [ ! -e "$out/$name.checkpoint.done" ] && return
    file=$(find "$out/$name" -name "$mode.pth" 2>/dev/null | head -n 1)
    again=(); [ -n "$file" ] && again=(--resume)
    part "$name.$mode" "$python" train_supernet.py "$@" "${settings[@]}" --models_save_dir "$out/$name" \
      --checkpoint_minutes 0.5 "${again[@]}" $([ $mode = lsq ] && echo --quant_mode)
  done
}

steps=(--device "$device" --forms "fp32 plain" fp32 "fp32 bf16" "LSQ+ plain" LSQ+ "LSQ+ bf16")
settings=(--optimizer muon --random_erasing 0.25)
if [ -n "$tiny" ]; then
  parity=(--superspaces cifarw --batch_size 2) input=(--dataset digits --batch_size 16 --batches 2 --rounds 1)
  small=(--supernet cifarw-666666 --resolution 24 --batch_size 4 --rounds 1 --steps 1) large=("${small[@]}") fewest=1
  settings+=(--dataset digits --resolutions 24 --valid_size 0 --quant_epochs 1 --debug_batches 2 --valid_batches 1
             --batch_size_per_gpu 16 --post_bn_calibration_batch_num 1)
else
  parity=() input=(--dataset_path "$data" --device "$device") fewest=8
  small=(--supernet cifarw-666666 --resolution 32 --batch_size 256)
  large=(--supernet onnxw-111111-000000 --resolution 224 --batch_size 64 --rounds 5)
  settings+=(--dataset_path "$data" --amp auto --eval_batch_size_per_gpu 1000 --batch_size_per_gpu 256
             --quant_max_batch_size_per_gpu 256 --warmup_epochs 1)
fi
recipes=supernet_training_configs

part parity "$python" benchmarks/gpu/parity.py --device "$device" --output "$out/parity.json" "${parity[@]}"
part steps "$python" benchmarks/bench_sandwich.py "${steps[@]}" "${small[@]}" --output "$out/steps.json"
part input "$python" benchmarks/bench_input.py "${input[@]}" --output "$out/input.json"
epochs=$(epochs_that_fit) && training supernet --superspace cifarw --supernet_choice 666666 \
  --config-file $recipes/cifar10_supernet.yaml --muon_turn 1.4 --epochs "$epochs" --label_epochs 1 \
  --quant_base_lr_factor 0.01
part steps_224 "$python" benchmarks/bench_sandwich.py "${steps[@]}" "${large[@]}" --output "$out/steps_224.json"
if [ -z "$tiny" ]; then
  part compiled "$python" benchmarks/bench_sandwich.py --device "$device" --forms "LSQ+" "LSQ+ compiled" \
    "LSQ+ bf16 compiled" "${small[@]}" --output "$out/compiled.json" # needs a C compiler
  for network in mbconv9_slim resnet8 resnet14 resnet20 mobilenet_v4_conv_s_cifar:0.5; do
    training "$network" --network "$network" --config-file $recipes/cifar10_net.yaml --muon_turn 1.5 --epochs 50 \
      --quant_base_lr_factor 0.02
  done
fi
exit $failed
