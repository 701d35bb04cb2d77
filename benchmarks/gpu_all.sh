#!/usr/bin/env bash
# Every GPU measurement in one call, under 9 minutes; prints one report and writes it to OUT.
#
#     benchmarks/gpu_all.sh                # published sizes on the first GPU
#     SIZE=tiny benchmarks/gpu_all.sh      # small sizes on a CPU: checks that everything runs, measures nothing
#
# Environment: SIZE (gpu or tiny), OUT (report file, default runs/gpu_all.md), PYTHON, REPEAT (timings of each version).
# A part that fails or takes longer than its share says so and the others go on; the exit code is then 1.
set -uo pipefail
cd "$(dirname "$0")/.."
SIZE="${SIZE:-gpu}"
OUT="${OUT:-runs/gpu_all.md}"
REPEAT="${REPEAT:-3}"
PYTHON="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
mkdir -p "$(dirname "$OUT")"
: > "$OUT"
failed=0

# part SECONDS TITLE COMMAND...: run with a time limit, append its output (or its last lines, if it failed) to the report.
part() {
    local limit="$1" title="$2" started=$SECONDS code log
    shift 2
    log="$(mktemp)"
    echo "== $title"
    if timeout --kill-after=5 "$limit" "$@" > "$log" 2>&1; then
        { echo "## $title"; echo; cat "$log"; echo; } >> "$OUT"
    else
        code=$?
        failed=1
        { echo "## $title"; echo; echo "Failed (exit code $code, limit $limit s):"; echo; tail -n 15 "$log"; echo; } >> "$OUT"
    fi
    echo "   $((SECONDS - started)) s"
    rm -f "$log"
}

part 50  "training step, CAMs, targets"       "$PYTHON" -m benchmarks.l2g_speed --size "$SIZE" --only step,cam,target --repeat "$REPEAT"
part 30  "the same without bf16"              "$PYTHON" -m benchmarks.l2g_speed --size "$SIZE" --only step,cam --repeat "$REPEAT" --precision fp32
part 40  "samples, sweep, labels (files)"     "$PYTHON" -m benchmarks.l2g_speed --size "$SIZE" --only sample,sweep,gen_gt --repeat 1
part 45  "segmentation stage"                 "$PYTHON" -m benchmarks.deeplab_speed --size "$SIZE" --repeat "$REPEAT"
if [ "$SIZE" = gpu ]; then crf=(--device cuda --batch 8); else crf=(--size 64x48 --classes 3); fi
part 35  "dense CRF against pydensecrf"        "$PYTHON" -m benchmarks.crf_speed --no-plain --repeat "$REPEAT" "${crf[@]}"
part 190 "VOC as a user runs it"              "$PYTHON" -m benchmarks.user_speed --size "$SIZE"
part 50  "COCO as a user runs it"             "$PYTHON" -m benchmarks.user_speed --size "$SIZE" --set coco --stages train,infer
if [ "$SIZE" = gpu ]; then
    numbers=(--pictures 96 --classify 2 --transfer 9)
else
    numbers=(--device cpu --variants bf16 --pictures 16 --classify 1 --transfer 1)
fi
part 95  "bf16 and compiled against float32"  "$PYTHON" -m benchmarks.numerics "${numbers[@]}"

cat "$OUT"
exit "$failed"
