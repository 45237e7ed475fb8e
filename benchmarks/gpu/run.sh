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
  local name=$1 status; shift
  [ -e "$out/$name.done" ] && { echo "$name: done before"; return; }
  [ "$(left)" -gt 0 ] || { echo "$name: no time left, call again"; return; }
  timeout -k 5 "$(left)" "$@" >> "$out/$name.log" 2>&1; status=$?
  tail -n 12 "$out/$name.log"
  if [ $status = 0 ]; then touch "$out/$name.done"
  elif [ $status = 124 ] || [ $status = 137 ]; then echo "$name: out of time, call again"
  else echo "$name: exit status $status"; failed=1; fi
}

training() { # NAME OPTIONS...: fp32, then int8
  local name=$1 mode file again; shift
  for mode in checkpoint lsq; do
    [ $mode = lsq ] && [ ! -e "$out/$name.checkpoint.done" ] && return
    file=$(find "$out/trained/$name" -name "$mode.pth" 2>/dev/null | head -n 1)
    again=(); [ -n "$file" ] && again=(--resume)
    part "$name.$mode" "$python" train_supernet.py "$@" "${settings[@]}" --models_save_dir "$out/trained/$name" \
      --checkpoint_minutes 0.5 "${again[@]}" $([ $mode = lsq ] && echo --quant_mode)
  done
}

steps=(--device "$device" --forms "fp32 plain" fp32 "fp32 bf16" "LSQ+ plain" LSQ+ "LSQ+ bf16")
if [ -n "$tiny" ]; then
  parity=(--superspaces cifarw --batch_size 2) input=(--dataset digits --batch_size 16 --batches 2 --rounds 1)
  small=(--supernet cifarw-666666 --resolution 24 --batch_size 4 --rounds 1 --steps 1) large=("${small[@]}")
  settings=(--config-file supernet_training_configs/cifar10_net.yaml --dataset digits --resolutions 24 --valid_size 0
            --epochs 1 --quant_epochs 1 --debug_batches 2 --valid_batches 1 --batch_size_per_gpu 16
            --post_bn_calibration_batch_num 1)
else
  parity=() input=(--dataset_path "$data" --device "$device")
  small=(--supernet cifarw-666666 --resolution 32 --batch_size 512)
  large=(--supernet onnxw-111111-000000 --resolution 224 --batch_size 64 --rounds 5)
  steps+=("LSQ+ compiled" "LSQ+ bf16 compiled")
  settings=(--config-file supernet_training_configs/cifar10_net.yaml --dataset_path "$data" --amp auto
            --eval_batch_size_per_gpu 1000)
fi

part parity "$python" benchmarks/gpu/parity.py --device "$device" --output "$out/parity.json" "${parity[@]}"
part steps "$python" benchmarks/bench_sandwich.py "${steps[@]}" "${small[@]}" --output "$out/steps.json"
part input "$python" benchmarks/bench_input.py "${input[@]}" --output "$out/input.json"
if [ -n "$tiny" ]; then
  training supernet --superspace cifarw --supernet_choice 666666
else
  training supernet --superspace cifarw --supernet_choice 666666 --epochs 40 --batch_size_per_gpu 512 --resolutions 24 28 32
  training slim --network resnet10_slim --epochs 60 --batch_size_per_gpu 512
  training resnet8 --network resnet8 --epochs 60 --batch_size_per_gpu 512
fi
part steps_224 "$python" benchmarks/bench_sandwich.py "${steps[@]}" "${large[@]}" --output "$out/steps_224.json"
exit $failed
